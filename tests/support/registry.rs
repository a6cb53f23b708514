//! An image registry for tests, on loopback, where Docker speaks plain HTTP: the few routes of the OCI distribution
//! API that a pull takes, with an image of one layer, and everything that can go wrong with them.
//!
//! One thread accepts and each connection has one of its own, for one request.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::{Watched, unique_name};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What the registry does with a pull of an image of this name (`host/<name>:latest`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Image {
    /// The demo server, sent slowly enough to be told of on the way.
    Good,
    /// Its layer comes byte by byte and takes hours. Not at all would not do: Docker leaves a silent one only when it
    /// says something again.
    Hangs,
    /// The manifest is there and its layer is not.
    WithoutLayer,
    /// The layer's bytes are others than the manifest says.
    Damaged,
    /// As `Good`, for who knows the password.
    Private,
}

impl Image {
    pub const NAMES: [(&'static str, Image); 5] = [
        ("good", Image::Good),
        ("hangs", Image::Hangs),
        ("torn", Image::WithoutLayer),
        ("damaged", Image::Damaged),
        ("private", Image::Private),
    ];
}

/// A listening registry. Dropping it closes what hangs and ends its threads.
pub struct Registry {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// `user:password` of `Private`.
    login: String,
    mute: bool,
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
    /// Every request line that came in, with `(login)` after it when a right one came along.
    requests: Watched<Vec<String>>,
    /// Requests that get no answer: begun, and ended by the other side since.
    hanging: Watched<(usize, usize)>,
    open: Watched<Vec<TcpStream>>,
}

impl Registry {
    pub fn start(login: &str) -> Registry {
        Registry::serve(login, false)
    }

    /// One that accepts connections and never says anything.
    pub fn mute() -> Registry {
        Registry::serve("", true)
    }

    fn serve(login: &str, mute: bool) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let layer = if mute { Vec::new() } else { layer() };
        let config = json!({"architecture": "amd64", "os": "linux",
            "config": {"Cmd": ["/demo-server"], "WorkingDir": "/home/container"},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}});
        let config = config.to_string().into_bytes();
        let part = |kind: &str, bytes: &[u8]| {
            json!({"size": bytes.len(), "digest": digest(bytes),
            "mediaType": format!("application/vnd.docker.{kind}")})
        };
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": part("container.image.v1+json", &config),
            "layers": [part("image.rootfs.diff.tar.gzip", &layer)]});
        let shared = Arc::new(Shared {
            login: login.to_owned(),
            mute,
            manifest: manifest.to_string().into_bytes(),
            config,
            layer,
            requests: Watched::new(Vec::new()),
            hanging: Watched::new((0, 0)),
            open: Watched::new(Vec::new()),
        });
        let (accepting, accepted) =
            (listener.try_clone().expect("a descriptor is free"), Arc::clone(&shared));
        let thread = thread::spawn(move || {
            let mut threads = Vec::new();
            while let Ok((stream, _)) = accepting.accept() {
                let shared = Arc::clone(&accepted);
                shared.open.update(|open| open.extend(stream.try_clone()));
                threads.push(thread::spawn(move || {
                    let _ = answer(&shared, &stream);
                    let _ = stream.shutdown(Shutdown::Both);
                }));
            }
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        let address = listener.local_addr().expect("it is bound");
        Registry { address, listener, shared, thread: Some(thread) }
    }

    /// `127.0.0.1:port`, as it stands in an image's name and in a file of logins.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The name of an image here. What stands after the name makes it another for Docker and the same for us.
    pub fn image(&self, image: Image, tag: &str) -> String {
        let name = Image::NAMES.iter().find(|(_, known)| *known == image).expect("all have names").0;
        format!("{}/{name}:{tag}", self.host())
    }

    /// Waits until so many requests hang, in all.
    pub fn wait_hanging(&self, count: usize, within: Duration) -> bool {
        self.shared.hanging.wait(within, |(begun, _)| (*begun >= count).then_some(())).is_some()
    }

    /// Waits until the other side has given up so many of them.
    pub fn wait_given_up(&self, count: usize, within: Duration) -> bool {
        self.shared.hanging.wait(within, |(_, ended)| (*ended >= count).then_some(())).is_some()
    }

    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.shared.open.lock().iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(shared: &Shared, mut stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    if shared.mute {
        return hang(shared, stream);
    }
    // Docker tries TLS first. What is no TLS makes it go on with plain HTTP.
    if reader.fill_buf()?.first() == Some(&0x16) {
        return stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
    }
    let (mut request, mut line, mut login) = (String::new(), String::new(), false);
    reader.read_line(&mut request)?;
    while reader.read_line(&mut line)? > 2 {
        let basic = line.split_once(": Basic ").map(|(_, text)| BASE64_STANDARD.decode(text.trim()));
        login |= matches!(basic, Some(Ok(text)) if text == shared.login.as_bytes());
        line.clear();
    }
    let noted = format!("{}{}", request.trim(), if login { " (login)" } else { "" });
    shared.requests.update(|requests| requests.push(noted));
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut parts = path.trim_start_matches("/v2/").splitn(3, '/');
    let (name, kind, which) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    if path == "/v2/" {
        // A registry that knows logins asks for one at its door.
        return if login || shared.login.is_empty() {
            respond(stream, 200, "", b"{}")
        } else {
            demand(stream)
        };
    }
    let image = Image::NAMES.iter().find(|(known, _)| *known == name).map(|(_, image)| *image);
    let sent = |kind: &str, bytes: &[u8]| {
        let kind = format!("Content-Type: {kind}\r\nDocker-Content-Digest: {}\r\n", digest(bytes));
        let bytes = if method == "HEAD" { &[] } else { bytes };
        respond(stream, 200, &kind, bytes)
    };
    match (image, kind) {
        (Some(Image::Private), _) if !login => demand(stream),
        (Some(_), "manifests") => sent(MANIFEST, &shared.manifest),
        (Some(_), "blobs") if which == digest(&shared.config) => {
            sent("application/octet-stream", &shared.config)
        }
        (Some(Image::Hangs), "blobs") => {
            slowly(stream, shared.layer.len(), &shared.layer[..shared.layer.len() / 10])?;
            shared.hanging.update(|(begun, _)| *begun += 1);
            while stream.write_all(&[0]).is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
            shared.hanging.update(|(_, ended)| *ended += 1);
            Ok(())
        }
        (Some(Image::Good | Image::Private), "blobs") => slowly(stream, shared.layer.len(), &shared.layer),
        (Some(Image::Damaged), "blobs") => slowly(stream, shared.layer.len(), &vec![7; shared.layer.len()]),
        _ => {
            let code = if kind == "blobs" { "BLOB_UNKNOWN" } else { "MANIFEST_UNKNOWN" };
            let body = json!({"errors": [{"code": code, "message": "not here"}]}).to_string();
            respond(stream, 404, "Content-Type: application/json\r\n", body.as_bytes())
        }
    }
}

/// Says nothing until the other side has had enough.
fn hang(shared: &Shared, mut stream: &TcpStream) -> io::Result<()> {
    shared.hanging.update(|(begun, _)| *begun += 1);
    let _ = io::copy(&mut stream, &mut io::sink());
    shared.hanging.update(|(_, ended)| *ended += 1);
    Ok(())
}

fn demand(stream: &TcpStream) -> io::Result<()> {
    let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    let headers = "WWW-Authenticate: Basic realm=\"test\"\r\nContent-Type: application/json\r\n";
    respond(stream, 401, headers, body)
}

fn respond(mut stream: &TcpStream, status: u16, headers: &str, body: &[u8]) -> io::Result<()> {
    let version = "Docker-Distribution-Api-Version: registry/2.0\r\nConnection: close\r\n";
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} X\r\n{version}{headers}Content-Length: {length}\r\n\r\n")?;
    stream.write_all(body)
}

/// Announces a layer of this length and sends `bytes` of it in pieces over about a second, as a real network would.
fn slowly(mut stream: &TcpStream, length: usize, bytes: &[u8]) -> io::Result<()> {
    write!(stream, "HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")?;
    for piece in bytes.chunks(length / 10 + 1) {
        thread::sleep(Duration::from_millis(100));
        stream.write_all(piece)?;
    }
    Ok(())
}

/// A tar archive with the demo server in it, and bytes that no other has: Docker does not fetch a layer that it knows.
fn layer() -> Vec<u8> {
    let program = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/target/demo/demo-server"));
    let program = program.expect("the demo server is built with the Engine's image");
    let mut header = [0; 512];
    let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, "demo-server");
    field(100, "0000755\0");
    field(108, "0000000\0");
    field(116, "0000000\0");
    field(124, &format!("{:011o}\0", program.len()));
    // The time makes it another layer for each registry: what Docker has already it does not pull.
    field(136, &format!("{:011o}\0", unique_number()));
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    field(265, &unique_name());
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(&program);
    // The file is filled up to a block, and two blocks of zeros end the archive.
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

/// Nanoseconds of the second and the process, which no two registries share.
fn unique_number() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (u64::from(std::process::id() & 7) << 30) | u64::from(now.subsec_nanos())
}

fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
