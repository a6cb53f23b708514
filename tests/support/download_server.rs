//! A web server to download from: http or https, each answer as a test says, and every request counted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Watched;

/// What a path is answered with.
#[derive(Clone, Default)]
pub struct Served {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes that are promised beyond the body; the connection ends without them.
    pub missing: usize,
    /// The connection stays open after the body, and nothing more comes.
    pub hangs: bool,
}

impl Served {
    pub fn ok(body: impl Into<Vec<u8>>) -> Served {
        Served { status: 200, body: body.into(), ..Served::default() }
    }

    pub fn redirect(to: &str) -> Served {
        Served { status: 302, ..Served::default() }.with("Location", to)
    }

    pub fn with(mut self, name: &str, value: &str) -> Served {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Ends with the test process; its threads hold nothing.
pub struct DownloadServer {
    address: SocketAddr,
    secure: bool,
    requests: Arc<Watched<Vec<String>>>,
}

impl DownloadServer {
    /// `answer` is given the path of each request.
    pub fn start(
        listener: TcpListener,
        secure: bool,
        answer: impl Fn(&str) -> Served + Send + Sync + 'static,
    ) -> DownloadServer {
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Watched::new(Vec::new()));
        let (seen, answer, tls) = (requests.clone(), Arc::new(answer), secure.then(tls_config));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, answer, tls) = (seen.clone(), answer.clone(), tls.clone());
                thread::spawn(move || match tls {
                    None => serve(stream, &seen, &*answer),
                    Some(config) => {
                        let connection = rustls::ServerConnection::new(config).unwrap();
                        serve(rustls::StreamOwned::new(connection, stream), &seen, &*answer);
                    }
                });
            }
        });
        DownloadServer { address, secure, requests }
    }

    /// On this machine, by the name that its certificate is for.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The paths that were asked for.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }

    pub fn wait_request(&self, path: &str) {
        let found =
            self.requests.wait(super::SOON, |seen| seen.iter().any(|seen| seen == path).then_some(()));
        assert!(found.is_some(), "nobody asked for {path}");
    }
}

fn serve(stream: impl Read + Write, seen: &Watched<Vec<String>>, answer: &dyn Fn(&str) -> Served) {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line == "\r\n" => break,
            Ok(_) => head.push(line),
        }
    }
    let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    seen.update(|seen| seen.push(path.clone()));
    let Served { status, headers, body, missing, hangs } = answer(&path);
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len() + missing;
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
    let stream = stream.get_mut();
    if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_ok() {
        let _ = stream.flush();
        if hangs {
            let _ = stream.read(&mut [0; 16]);
        }
    }
}

fn tls_config() -> Arc<rustls::ServerConfig> {
    let file = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(name);
    let chain = CertificateDer::pem_file_iter(file("server.pem")).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}
