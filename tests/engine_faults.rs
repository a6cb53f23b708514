//! The Engine client against Engines that misbehave: what is sent again and what never is, what each fault is called,
//! and that nothing waits for ever. The Engines are scripted ones in this process.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use longshore::docker::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

/// How long a test waits for what should happen at once.
const SOON: Duration = Duration::from_secs(15);
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What the script does about a request.
enum Answer {
    Send(String),
    /// Ends the connection, after these bytes.
    End(String),
    /// Leaves the request unanswered.
    Hang,
}

use Answer::{End, Hang, Send};

/// One request as the script sees it.
struct Request<'a> {
    /// Method and target.
    line: &'a str,
    head: &'a str,
    /// The how many-th connection it came on, from 0.
    connection: usize,
}

/// A scripted Engine on a Unix socket. Its threads end when its sockets do, on drop.
struct FakeEngine {
    dir: TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<dyn Fn(&Request<'_>) -> Answer + std::marker::Send + Sync>,
    /// Connection and request line, in the order of arrival.
    seen: Mutex<Vec<(usize, String)>>,
    open: Mutex<HashMap<usize, UnixStream>>,
    listener: UnixListener,
}

impl FakeEngine {
    fn start(script: impl Fn(&Request<'_>) -> Answer + std::marker::Send + Sync + 'static) -> FakeEngine {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("sock")).unwrap();
        let script = Box::new(script);
        let shared = Arc::new(Shared { script, seen: Mutex::default(), open: Mutex::default(), listener });
        let acceptor = shared.clone();
        thread::spawn(move || {
            for connection in 0.. {
                let Ok((stream, _)) = acceptor.listener.accept() else { break };
                acceptor.open.lock().unwrap().insert(connection, stream.try_clone().unwrap());
                let shared = acceptor.clone();
                thread::spawn(move || shared.serve(stream, connection));
            }
        });
        FakeEngine { dir, shared }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.dir.path().join("sock"))
    }

    fn client(&self) -> Client {
        Client::new(self.endpoint(), None).unwrap()
    }

    /// The request lines that came, without pings.
    fn requests(&self) -> Vec<String> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().map(|(_, line)| line.clone()).filter(|line| line != "GET /_ping").collect()
    }

    fn pings(&self) -> usize {
        self.shared.seen.lock().unwrap().iter().filter(|(_, line)| line == "GET /_ping").count()
    }

    /// Closes every connection there is, as an Engine that restarts does.
    fn cut(&self) {
        for (_, stream) in self.shared.open.lock().unwrap().drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        // A listening socket that is shut down fails its accept.
        let _ = rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both);
        self.cut();
    }
}

impl Shared {
    fn serve(&self, mut stream: UnixStream, connection: usize) {
        while let Some(head) = read_request(&mut stream) {
            let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
            self.seen.lock().unwrap().push((connection, line.clone()));
            match (self.script)(&Request { line: &line, head: &head, connection }) {
                Send(text) if stream.write_all(text.as_bytes()).is_ok() => continue,
                Send(_) => return,
                End(text) => {
                    let _ = stream.write_all(text.as_bytes());
                    let _ = stream.shutdown(Shutdown::Both);
                    return;
                }
                Hang => {
                    // Ends when either side closes.
                    let _ = stream.read(&mut [0; 1]);
                    return;
                }
            }
        }
    }
}

/// Reads a head and the body whose length it names.
fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        (stream.read(&mut byte).ok()? == 1).then(|| bytes.push(byte[0]))?;
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).ok()?;
    Some(head)
}

fn answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn ping(version: &str) -> Answer {
    Send(format!("HTTP/1.1 200 OK\r\nApi-Version: {version}\r\nOstype: linux\r\nContent-Length: 2\r\n\r\nOK"))
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn container() -> String {
    answer(
        200,
        &format!(r#"{{"Id":"{ID}","Name":"/a","Image":"i","State":{{}},"Config":{{}},"HostConfig":{{}}}}"#),
    )
}

/// Answers pings with 1.41 and leaves the rest to `script`.
fn engine(script: impl Fn(&Request<'_>) -> Answer + std::marker::Send + Sync + 'static) -> FakeEngine {
    FakeEngine::start(move |request| match request.line {
        "GET /_ping" => ping("1.41"),
        _ => script(request),
    })
}

/// The Engine went away between two calls, and its socket says so: a new connection serves whatever comes.
#[test]
fn a_closed_connection_in_the_pool_is_not_used() {
    let engine = engine(|request| match request.line {
        "POST /v1.41/containers/a/start" => Send(answer(204, "")),
        _ => Send(container()),
    });
    let client = engine.client();
    client.inspect("a").unwrap();
    engine.cut();
    client.start("a").unwrap();
    engine.cut();
    client.inspect("a").unwrap();
    let expected =
        ["GET /v1.41/containers/a/json", "POST /v1.41/containers/a/start", "GET /v1.41/containers/a/json"];
    assert_eq!(engine.requests(), expected);
}

/// The Engine went away with the request already received: whether it was carried out cannot be known.
#[test]
fn only_what_may_be_done_twice_is_sent_twice() {
    let check = |call: &dyn Fn(&Client) -> Result<(), Error>, line: &str, sent: usize| {
        let engine = engine(|request| match request.connection {
            0 => End(String::new()),
            _ if request.line.contains("/json?") => Send(answer(200, "[]")),
            _ if request.line.starts_with("POST /v1.41/containers/create") => {
                Send(answer(201, &format!(r#"{{"Id":"{ID}"}}"#)))
            }
            _ if request.line.ends_with("/update") => Send(answer(200, "{}")),
            _ if request.line.starts_with("GET") => Send(container()),
            _ => Send(answer(204, "")),
        });
        let client = engine.client();
        let result = call(&client);
        assert_eq!(engine.requests(), vec![line; sent]);
        match sent {
            1 => assert!(matches!(result, Err(Error::Unavailable(_))), "{line}: {result:?}"),
            _ => assert_eq!(result, Ok(()), "{line}"),
        }
        // The version is agreed on again, and the next call works.
        client.inspect("a").unwrap();
        assert_eq!(engine.pings(), 2, "{line}");
    };
    let config = ContainerConfig::default();
    check(&|c| c.create("a", &config).map(drop), "POST /v1.41/containers/create?name=a", 1);
    check(&|c| c.start("a"), "POST /v1.41/containers/a/start", 1);
    check(&|c| c.kill("a", "SIGTERM"), "POST /v1.41/containers/a/kill?signal=SIGTERM", 1);
    check(&|c| c.inspect("a").map(drop), "GET /v1.41/containers/a/json", 2);
    check(&|c| c.list(&[]).map(drop), "GET /v1.41/containers/json?all=1&filters=%7B%22label%22:%5B%5D%7D", 2);
    check(&|c| c.remove("a", true), "DELETE /v1.41/containers/a?force=true", 2);
    check(&|c| c.update("a", &Resources::default()).map(drop), "POST /v1.41/containers/a/update", 2);
}

#[test]
fn an_answer_that_breaks_off_is_no_answer() {
    let engine = engine(|request| match request.line {
        "GET /v1.41/containers/a/json" => {
            End("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"Id\":".into())
        }
        _ => End(CHUNKED.to_owned() + "5\r\n{\"Id"),
    });
    let client = engine.client();
    assert!(matches!(client.inspect("a"), Err(Error::Unavailable(_))));
    assert!(matches!(client.create("b", &ContainerConfig::default()), Err(Error::Unavailable(_))));
    // A second time for the inspect, and no third.
    assert_eq!(engine.requests().len(), 3);
}

#[test]
fn the_version_is_the_lower_of_both_and_agreed_on_anew_when_refused() {
    let check = |offered: &'static str, used: &str| {
        let engine = FakeEngine::start(move |request| match request.line {
            "GET /_ping" => ping(offered),
            _ => Send(container()),
        });
        let client = engine.client();
        client.inspect("a").unwrap();
        client.inspect("a").unwrap();
        assert_eq!(engine.requests(), vec![format!("GET /v{used}/containers/a/json"); 2]);
        assert_eq!(engine.pings(), 1);
    };
    check("1.40", "1.40");
    check("1.52", "1.52");
    check("1.99", "1.52");

    let old = FakeEngine::start(|_| ping("1.39"));
    assert!(matches!(old.client().inspect("a"), Err(Error::Unsupported(_))));
    let silent = FakeEngine::start(|_| Send(answer(200, "OK")));
    assert!(matches!(silent.client().inspect("a"), Err(Error::Malformed(_))));

    // The Engine was upgraded while the connection lived; a refused version never reached the call itself.
    let upgraded = FakeEngine::start(|request| match request.line {
        "GET /_ping" if request.connection == 0 => ping("1.41"),
        "GET /_ping" => ping("1.44"),
        line if line.contains("/v1.41/") => End(answer(
            400,
            r#"{"message":"client version 1.41 is too old. Minimum supported API version is 1.44"}"#,
        )),
        _ => Send(answer(204, "")),
    });
    upgraded.client().start("a").unwrap();
    assert_eq!(upgraded.requests(), ["POST /v1.41/containers/a/start", "POST /v1.44/containers/a/start"]);

    let pinned = engine(|_| Send(container()));
    let client = Client::new(pinned.endpoint(), Some("1.50".parse().unwrap())).unwrap();
    client.inspect("a").unwrap();
    assert_eq!((pinned.requests(), pinned.pings()), (vec!["GET /v1.50/containers/a/json".into()], 0));
}

#[test]
fn nonsense_is_told_apart_from_absence() {
    let check = |sent: &str, expected: fn(&Error) -> bool| {
        let text = sent.to_owned();
        let engine = engine(move |_| End(text.clone()));
        let error = engine.client().inspect("a").unwrap_err();
        assert!(expected(&error), "{sent:.80?} gives {error:?}");
    };
    let malformed: fn(&Error) -> bool = |error| matches!(error, Error::Malformed(_));
    check(&answer(200, "not json"), malformed);
    check(&answer(200, "[]"), malformed);
    check(&answer(200, ""), malformed);
    check("SSH-2.0-OpenSSH_9\r\n\r\n", malformed);
    check(&format!("{CHUNKED}zz\r\n"), malformed);
    check(&format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(20_000)), malformed);
    check(&answer(200, &"[".repeat(100_000)), malformed);
    check(&answer(404, "404 page not found"), |e| {
        e.is_not_found() && e.to_string().contains("page not found")
    });
    check(&answer(301, ""), |e| e.status() == Some(301));
    check("", |e| matches!(e, Error::Unavailable(_)));
    check("HTTP/1.0 200 OK\r\n\r\n{\"Id\":", |e| matches!(e, Error::Unavailable(_)));
}

#[test]
fn nothing_waits_for_ever() {
    let is_timeout = |result: Result<Ping, Error>, begun: Instant| {
        assert!(matches!(result, Err(Error::Timeout(_))), "{result:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    };
    let limit = Duration::from_millis(300);
    let silent = FakeEngine::start(|_| Hang);
    is_timeout(silent.client().ping_fresh(limit), Instant::now());
    let half = FakeEngine::start(|_| {
        Send("HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nO".into())
    });
    is_timeout(half.client().ping_fresh(limit), Instant::now());

    // Not even accepted: the listener's queue is full.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _queued = UnixStream::connect(&path).unwrap();
    let client = Client::new(Endpoint::Unix(path), None).unwrap();
    is_timeout(client.ping_fresh(limit), Instant::now());
}

fn pull(
    engine: &FakeEngine,
    reference: &str,
    auth: Option<&RegistryAuth>,
) -> (Result<Image, Error>, Vec<String>) {
    let mut steps = Vec::new();
    let mut keep = |step: &PullProgress<'_>| {
        steps.push(format!("{} {} {:?}/{:?}", step.layer, step.status, step.current, step.total));
    };
    let result = engine.client().image_pull(&reference.parse().unwrap(), auth, &mut keep, &Closer::new());
    (result, steps)
}

#[test]
fn a_pull_tells_its_progress_and_ends_with_an_inspect() {
    let engine = engine(|request| match request.line {
        "GET /v1.41/images/a/b:latest/json" => Send(answer(200, r#"{"Id":"sha256:1"}"#)),
        _ => {
            assert!(request.head.to_lowercase().contains("x-registry-auth: eyj1c2vyb"), "{}", request.head);
            let objects = [
                r#"{"status":"Pulling from a/b","id":"latest"}"#,
                "\r\n",
                r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"l1"}{"status":"Pull "#,
                "complete\",\"progressDetail\":{},\"id\":\"l1\"}\r\n",
                r#"{"status":"Status: Downloaded"}"#,
            ];
            let chunks: String = objects.iter().map(|object| chunk(object)).collect();
            Send(format!("{CHUNKED}{chunks}0\r\n\r\n"))
        }
    });
    let auth = RegistryAuth::password("docker.io", "user", Secret::new("password"));
    let (result, steps) = pull(&engine, "a/b", Some(&auth));
    assert_eq!(result.unwrap().id, "sha256:1");
    let expected = [
        "latest Pulling from a/b None/None",
        "l1 Downloading Some(1)/Some(2)",
        "l1 Pull complete None/None",
        " Status: Downloaded None/None",
    ];
    assert_eq!(steps, expected);
    let expected =
        ["POST /v1.41/images/create?fromImage=a/b&tag=latest", "GET /v1.41/images/a/b:latest/json"];
    assert_eq!(engine.requests(), expected);
}

#[test]
fn a_pull_that_failed_never_counts_as_done() {
    let check = |stream: &str, expected: fn(&Error) -> bool| {
        let stream = stream.to_owned();
        let engine = engine(move |request| match request.line.starts_with("POST") {
            true => End(stream.clone()),
            false => Send(answer(404, r#"{"message":"No such image"}"#)),
        });
        let error = pull(&engine, "a", None).0.unwrap_err();
        assert!(expected(&error), "{stream:?} gives {error:?}", stream = engine.requests());
    };
    let line = |text: &str| format!("{CHUNKED}{}0\r\n\r\n", chunk(text));
    check(&line(r#"{"errorDetail":{"message":"toomanyrequests: slow down"},"error":"x"}"#), |e| {
        e == &Error::Status { status: 500, message: "toomanyrequests: slow down".into() }
    });
    check(&line(r#"{"errorDetail":{"code":401,"message":"no"}}"#), |e| e.status() == Some(401));
    check(&line(r#"{"error":"only the old field"}"#), |e| e.to_string().ends_with("only the old field"));
    check(&line(r#"{"status":"Downloaded"}"#), Error::is_not_found);
    check(&format!("{CHUNKED}{}", chunk("{\"status\":\"Downloading\"}\n")), |e| {
        matches!(e, Error::Unavailable(_))
    });
    check(&line("not json\n"), |e| matches!(e, Error::Malformed(_)));
    check(&answer(404, r#"{"message":"manifest unknown"}"#), Error::is_not_found);
}

#[test]
fn a_pull_is_given_up_at_once() {
    let (begun_tx, begun) = mpsc::channel();
    // Before the first byte, and in the middle.
    for head in [String::new(), CHUNKED.to_owned() + &chunk("{\"status\":\"Downloading\"}\n")] {
        let begun_tx = begun_tx.clone();
        let engine = engine(move |_| {
            begun_tx.send(()).unwrap();
            Send(head.clone())
        });
        let client = engine.client();
        let closer = Closer::new();
        let puller = {
            let closer = closer.clone();
            thread::spawn(move || client.image_pull(&"a".parse().unwrap(), None, &mut |_| {}, &closer))
        };
        begun.recv_timeout(SOON).unwrap();
        let closed = Instant::now();
        closer.close();
        assert_eq!(puller.join().unwrap(), Err(Error::Cancelled));
        assert!(closed.elapsed() < Duration::from_secs(1), "{:?}", closed.elapsed());
    }
}

#[test]
fn an_event_stream_that_breaks_says_so() {
    let event = |action: &str| {
        format!(r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"{ID}"}},"timeNano":1}}"#) + "\n"
    };
    let check = |stream: String, expected: fn(&Error) -> bool| {
        let engine = engine(move |_| End(stream.clone()));
        let mut events = engine.client().events(&EventQuery::default(), &Closer::new()).unwrap();
        assert_eq!(events.next().unwrap().action, Action::Start);
        let error = events.next().unwrap_err();
        assert!(expected(&error), "{error:?}");
    };
    let start = format!("{CHUNKED}{}", chunk(&event("start")));
    check(format!("{start}0\r\n\r\n"), |e| matches!(e, Error::Unavailable(_)));
    check(start.clone(), |e| matches!(e, Error::Unavailable(_)));
    // A line that breaks off is not read as one.
    check(format!("{start}{}", chunk(&event("die")[..40])), |e| matches!(e, Error::Unavailable(_)));
    check(format!("{start}{}", chunk("nonsense\n")), |e| matches!(e, Error::Malformed(_)));

    let refusing = engine(|_| Send(answer(500, r#"{"message":"no"}"#)));
    let refused = refusing.client().events(&EventQuery::default(), &Closer::new());
    assert_eq!(refused.err(), Some(Error::Status { status: 500, message: "no".into() }));
}

#[test]
fn a_log_that_breaks_loses_no_line_to_its_beginning() {
    let frame =
        |kind: u8, text: &str| format!("{}\0\0\0\0\0\0{}{text}", kind as char, char::from(text.len() as u8));
    let log = |stream: String| {
        let engine = engine(move |_| End(format!("{CHUNKED}{}", chunk(&stream))));
        let mut log = engine.client().logs("a", false, &LogQuery::default(), &Closer::new()).unwrap();
        let mut lines = Vec::new();
        loop {
            match log.read(|line| lines.push(line.text.into_owned())) {
                Ok(true) => continue,
                Ok(false) => panic!("it did not end in good order"),
                Err(error) => return (lines, error),
            }
        }
    };
    let whole = frame(1, "1970-01-01T00:00:00Z one\n");
    let begun = frame(1, "1970-01-01T00:00:01Z half a li");
    let (lines, error) = log(whole.clone() + &begun);
    assert_eq!(lines, ["one"]);
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    let (lines, error) = log(whole.clone() + &frame(3, "rotation lost the file"));
    assert_eq!(lines, ["one"]);
    assert_eq!(error, Error::Status { status: 500, message: "rotation lost the file".into() });
    let (_, error) = log(whole + "2024 not a frame");
    assert!(matches!(error, Error::Malformed(_)), "{error:?}");
}

#[test]
fn an_attach_reads_its_head_however_it_comes() {
    let attach = |head: &str| {
        let head = head.to_owned();
        let engine = engine(move |request| {
            assert!(request.head.contains("Upgrade: tcp\r\n"), "{}", request.head);
            End(head.clone())
        });
        let attached = engine.client().attach_stdin("a", &Closer::new());
        attached.map(|stdin| String::from_utf8(stdin.leftover().to_vec()).unwrap())
    };
    let upgraded = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    assert_eq!(attach(upgraded), Ok(String::new()));
    assert_eq!(attach(&format!("{upgraded}early")), Ok("early".into()));
    let paused = attach(&answer(409, r#"{"message":"container a is paused"}"#)).unwrap_err();
    assert_eq!(paused, Error::Status { status: 409, message: "container a is paused".into() });
    assert!(matches!(attach("HTTP/1.1 101"), Err(Error::Unavailable(_))));
    assert!(matches!(attach("SSH-2.0\r\n\r\n"), Err(Error::Malformed(_))));
    assert!(matches!(
        attach(&format!("HTTP/1.1 101 x\r\nX: {}", "x".repeat(9000))),
        Err(Error::Malformed(_))
    ));
}

/// However far it has come: in the ping for a version, or waiting for the answer's head.
#[test]
fn a_stream_that_does_not_open_is_given_up_at_once() {
    let check = |silent_from: &'static str, open: fn(&Client, &Closer) -> Option<Error>| {
        let (begun_tx, begun) = mpsc::channel();
        let hanging = FakeEngine::start(move |request| {
            if request.line == "GET /_ping" && silent_from != request.line {
                return ping("1.41");
            }
            begun_tx.send(()).unwrap();
            Hang
        });
        let (client, closer) = (hanging.client(), Closer::new());
        let opener = {
            let closer = closer.clone();
            thread::spawn(move || open(&client, &closer))
        };
        begun.recv_timeout(SOON).unwrap();
        let closed = Instant::now();
        closer.close();
        assert_eq!(opener.join().unwrap(), Some(Error::Cancelled));
        assert!(closed.elapsed() < Duration::from_secs(1), "{:?}", closed.elapsed());
    };
    for silent_from in ["GET /_ping", ""] {
        check(silent_from, |client, closer| client.attach_stdin("a", closer).err());
        check(silent_from, |client, closer| client.events(&EventQuery::default(), closer).err());
        check(silent_from, |client, closer| client.logs("a", false, &LogQuery::default(), closer).err());
    }
}

/// A TLS server that asks for a client's certificate, answers pings, and echoes what follows an attach.
fn tls_engine() -> (u16, mpsc::Receiver<String>) {
    let certs = certs();
    let read = |name: &str| CertificateDer::from_pem_file(certs.join(name)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(read("ca.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(
            vec![read("server.pem")],
            PrivateKeyDer::from_pem_file(certs.join("server-key.pem")).unwrap(),
        );
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen_tx, seen) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (config, seen_tx) = (config.clone(), seen_tx.clone());
            thread::spawn(move || serve_tls(stream, config, seen_tx));
        }
    });
    (port, seen)
}

fn serve_tls(stream: TcpStream, config: Arc<rustls::ServerConfig>, seen_tx: mpsc::Sender<String>) {
    let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), stream);
    while let Some(head) = read_request(&mut stream) {
        if head.starts_with("GET /_ping") {
            let Send(ping) = ping("1.41") else { unreachable!() };
            stream.write_all(ping.as_bytes()).unwrap();
            continue;
        }
        stream.write_all(b"HTTP/1.1 101 UPGRADED\r\n\r\n").unwrap();
        let mut line = vec![0; 6];
        stream.read_exact(&mut line).unwrap();
        seen_tx.send(String::from_utf8(line).unwrap()).unwrap();
        return;
    }
}

fn certs() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/engine-certs"))
}

#[test]
fn tls_verifies_both_sides_and_carries_calls_and_an_attach() {
    let (port, seen) = tls_engine();
    let client = |host: &str, dir: &Path| {
        let host = format!("tcp://{host}:{port}");
        Client::new(Endpoint::parse(&host, dir.to_str(), Some("1")).unwrap(), None)
    };
    for host in ["localhost", "127.0.0.1"] {
        let client = client(host, certs()).unwrap();
        assert_eq!(client.ping().unwrap().api_version.minor, 41);
        assert_eq!(client.ping_fresh(SOON).unwrap().os, "linux");
    }
    let mut stdin = client("localhost", certs()).unwrap().attach_stdin("a", &Closer::new()).unwrap();
    stdin.write(b"hello\n", SOON).unwrap();
    assert_eq!(seen.recv_timeout(SOON).unwrap(), "hello\n");

    // Another authority, a name that is not in the certificate, no certificate of our own.
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| std::fs::copy(certs().join(from), dir.path().join(to)).unwrap();
    copy("other-ca.pem", "ca.pem");
    let refused = client("localhost", dir.path()).unwrap().ping().unwrap_err();
    assert!(matches!(&refused, Error::Unavailable(why) if why.contains("certificate")), "{refused}");
    copy("ca.pem", "ca.pem");
    let refused = client("127.0.0.2", certs()).unwrap().ping().unwrap_err();
    assert!(matches!(&refused, Error::Unavailable(_)), "{refused}");
    let refused = client("localhost", dir.path()).unwrap().ping().unwrap_err();
    assert!(matches!(&refused, Error::Unavailable(_)), "{refused}");

    // Files that cannot be used are told by name, when the client is made.
    let fault = |dir: &Path| client("localhost", dir).unwrap_err().to_string();
    copy("cert.pem", "cert.pem");
    assert!(fault(dir.path()).starts_with("DOCKER_CERT_PATH: key.pem: "), "{}", fault(dir.path()));
    std::fs::write(dir.path().join("ca.pem"), "nothing").unwrap();
    assert!(fault(dir.path()).starts_with("DOCKER_CERT_PATH: ca.pem: "), "{}", fault(dir.path()));
    std::fs::remove_file(dir.path().join("ca.pem")).unwrap();
    assert!(fault(dir.path()).starts_with("DOCKER_CERT_PATH: ca.pem: "), "{}", fault(dir.path()));
}
