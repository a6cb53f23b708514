//! The HTTP gate as its clients and handlers meet it, on real sockets.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use longshore::gate::{Config, Gate, Handler, Head, Request, Response, Upgrade, is_local};

/// Longer than anything here takes on a loaded machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers what the tests ask for; `/hold` waits until its channel is closed.
struct House {
    entered: Sender<()>,
    hold: Receiver<()>,
    streams: Sender<Sender<Arc<[u8]>>>,
}

impl Handler for House {
    fn body_limit(&self, head: &Head, peer: SocketAddr) -> Result<usize, Response> {
        match head.path() {
            "/echo" => Ok(64 * 1024),
            "/large" => Ok(16 << 20),
            "/panic" => panic!("a handler's fault"),
            "/secret" if head.header("authorization").is_none() && is_local(head, peer) => {
                Err(Response::text(401, "who are you\n"))
            }
            _ => Ok(0),
        }
    }

    fn handle(&self, request: Request) -> Response {
        match (request.method(), request.path()) {
            ("GET" | "HEAD", "/health") => Response::json(200, "{}"),
            ("POST", "/echo" | "/large") => {
                Response::bytes(200, "application/octet-stream", request.into_body())
            }
            ("GET", "/who") => {
                let asked = request.header("x-asked").unwrap_or("nothing");
                Response::text(200, format!("{} {} {asked}", request.peer(), request.is_local()))
            }
            ("GET", "/query") => Response::text(200, request.query().unwrap_or("none").to_owned()),
            ("GET", "/huge") => Response::bytes(200, "application/octet-stream", vec![b'x'; 8 << 20]),
            ("GET", "/panic") => panic!("a handler's fault"),
            ("GET", "/stream") => {
                let (pieces_tx, pieces) = bounded(0);
                self.streams.send(pieces_tx).unwrap();
                Response::stream("text/event-stream", pieces)
            }
            ("GET", "/hold") => {
                self.entered.send(()).unwrap();
                let _ = self.hold.recv();
                Response::text(200, "held")
            }
            (_, "/health") => Response::method_not_allowed("GET, HEAD"),
            _ => Response::not_found(),
        }
    }
}

/// A gate on loopback and the other ends of its handler's channels.
struct Fixture {
    gate: Option<Gate>,
    address: SocketAddr,
    /// One for each request that waits in `/hold`.
    entered: Receiver<()>,
    hold: Option<Sender<()>>,
    /// The sending ends of streams, as they are opened.
    streams: Receiver<Sender<Arc<[u8]>>>,
    upgrades: Receiver<Upgrade>,
}

impl Fixture {
    fn new(change: impl FnOnce(&mut Config)) -> Fixture {
        let (entered_tx, entered) = bounded(64);
        let (hold, hold_rx) = bounded(0);
        let (streams_tx, streams) = bounded(64);
        let (upgrades_tx, upgrades) = bounded(1);
        let mut config = Config { streams: 2, upgrades: Some(upgrades_tx), ..Config::default() };
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let house = House { entered: entered_tx, hold: hold_rx, streams: streams_tx };
        let gate = Gate::start(listener, config, house).unwrap();
        let address = gate.address();
        Fixture { gate: Some(gate), address, entered, hold: Some(hold), streams, upgrades }
    }

    fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Sends `bytes` and reads until the gate closes.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        read_all(&mut stream)
    }

    fn get(&self, path: &str) -> String {
        self.exchange(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
    }

    fn count(&self, of: impl Fn(&longshore::gate::Counters) -> u64) -> u64 {
        of(self.gate.as_ref().unwrap().counters())
    }

    fn shutdown(&mut self, patience: Duration) -> Result<(), longshore::gate::Unfinished> {
        self.gate.take().unwrap().shutdown(Instant::now() + patience)
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Until the end; a reset counts as one, running out of patience does not.
fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(cause) if cause.kind() == ErrorKind::ConnectionReset => {}
        Err(cause) => panic!("{cause}, after {:?}", String::from_utf8_lossy(&bytes)),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status(response: &str) -> u16 {
    let status = response.strip_prefix("HTTP/1.1 ").or_else(|| response.strip_prefix("HTTP/1.0 "));
    status.and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn ordinary_requests_are_answered() {
    let house = Fixture::new(|_| {});
    let check = |request: &str, code: u16, expected: &str| {
        let response = house.exchange(request.as_bytes());
        assert_eq!((status(&response), body(&response)), (code, expected), "{request:?} gave {response:?}");
        assert!(response.contains("\r\nConnection: close\r\n"), "{request:?} gave {response:?}");
        assert!(
            response.contains("\r\nX-Content-Type-Options: nosniff\r\n"),
            "{request:?} gave {response:?}"
        );
        response
    };
    check("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", 200, "{}");
    check("GET /health HTTP/1.0\r\n\r\n", 200, "{}");
    let head = check("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n", 200, "");
    assert!(head.contains("Content-Length: 2\r\n"), "{head}");
    check("GET /query?a=1&b=%20?c HTTP/1.1\r\nHost: a\r\n\r\n", 200, "a=1&b=%20?c");
    check("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404, "not found\n");
    let refused = check("DELETE /health HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method not allowed\n");
    assert!(refused.contains("\r\nAllow: GET, HEAD\r\n"), "{refused}");
    check("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 200, "hello");
    check(
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
        200,
        "hello",
    );
    check("POST /secret HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 401, "who are you\n");
    check("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n", 500, "internal error\n");
    check("POST /panic HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 500, "internal error\n");
    check("GET /health HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 200, "{}");
}

#[test]
fn large_messages_come_whole_both_ways() {
    let house = Fixture::new(|_| {});
    let payload: Vec<u8> = (0..3_000_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
    let mut stream = house.connect();
    write!(
        stream,
        "POST /large HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        payload.len()
    )
    .unwrap();
    let mut go = [0; 25];
    stream.read_exact(&mut go).unwrap();
    assert_eq!(&go, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&payload).unwrap();
    let response = read_all(&mut stream);
    assert_eq!(status(&response), 200);
    assert!(body(&response).as_bytes() == payload, "the echo differs");
    assert_eq!(body(&house.get("/huge")).len(), 8 << 20);
}

#[test]
fn a_half_closed_client_gets_its_response() {
    let house = Fixture::new(|_| {});
    let mut stream = house.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(status(&read_all(&mut stream)), 200);
}

#[test]
fn a_second_request_on_a_connection_is_never_read() {
    let house = Fixture::new(|_| {});
    let second = "GET /who HTTP/1.1\r\nHost: a\r\n\r\n";
    for first in [
        "GET /health HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        "POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ] {
        let response = house.exchange(format!("{first}{second}").as_bytes());
        assert_eq!(response.matches("HTTP/1.1").count(), 1, "{first:?} gave {response:?}");
        assert!(!response.contains("127.0.0.1"), "{first:?} gave {response:?}");
    }
}

#[test]
fn whatever_two_readers_could_understand_differently_is_refused() {
    let house = Fixture::new(|config| config.head_bytes = 4096);
    let check = |request: &[u8], code: u16| {
        let response = house.exchange(request);
        assert_eq!(status(&response), code, "{:?} gave {response:?}", String::from_utf8_lossy(request));
    };
    let post =
        |headers: &str| format!("POST /echo HTTP/1.1\r\nHost: a\r\n{headers}\r\n5\r\nhello\r\n0\r\n\r\n");
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length : 5\r\n",
        " Content-Length: 5\r\n",
        "Content-Length: 5\r\n folded\r\n",
        "Content-Length:\r\n 5\r\n",
        "Content-Length: 5\n",
        "Content-Length: 5\rX: y\r\n",
        "Content-Length: 5\0\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding\r\n: chunked\r\n",
        "Transfer_Encoding: chunked\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
        "Host: b\r\n",
        ": nameless\r\n",
        "No colon\r\n",
        "X: caf\u{e9}\r\n",
    ] {
        check(post(headers).as_bytes(), 400);
    }
    for line in [
        "GET  /health HTTP/1.1",
        "GET /health  HTTP/1.1",
        "GET /health HTTP/1.1 ",
        " GET /health HTTP/1.1",
        "GET\t/health HTTP/1.1",
        "GET /health",
        "GET /health HTTP/0.9",
        "GET /health HTTP/1.2",
        "GET /health HTTP/2.0",
        "GET /health http/1.1",
        "GET health HTTP/1.1",
        "GET http://a/health HTTP/1.1",
        "GET /he#alth HTTP/1.1",
        "GET /h\u{e9} HTTP/1.1",
        "GET * HTTP/1.1",
        "G(T /health HTTP/1.1",
        "/health HTTP/1.1",
    ] {
        check(format!("{line}\r\nHost: a\r\n\r\n").as_bytes(), 400);
    }
    check(b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
    check(b"GET /health HTTP/1.1\r\n\r\n", 400);
    check(b"GET /health HTTP/1.1\nHost: a\n\n", 400);
    check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400);
    for chunks in [
        "5\nhello\r\n0\r\n\r\n",
        "+5\r\nhello",
        "5\r\nhello0\r\n\r\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\n",
    ] {
        let request = format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        check(request.as_bytes(), 400);
    }
    check(b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\nx", 417);
    check(format!("GET /health HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(5000)).as_bytes(), 431);
    check(format!("GET /health HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(101)).as_bytes(), 431);
    assert_eq!(status(&house.get("/health")), 200);
}

#[test]
fn nobody_can_pose_as_another_peer() {
    let house = Fixture::new(|_| {});
    let mut stream = house.connect();
    let own = stream.local_addr().unwrap();
    let forged = "X-Gate-Ticket: 00000000000000000000000000000001\r\nX-Asked: kept\r\n";
    write!(stream, "GET /who HTTP/1.1\r\nHost: a\r\n{forged}\r\n").unwrap();
    assert_eq!(body(&read_all(&mut stream)), format!("{own} true kept"));
    for proxy in
        ["Forwarded: for=127.0.0.1", "X-Forwarded-For: 127.0.0.1", "x-forwarded-proto: http", "Via: 1.1 a"]
    {
        let response = house.exchange(format!("GET /who HTTP/1.1\r\nHost: a\r\n{proxy}\r\n\r\n").as_bytes());
        assert!(body(&response).ends_with(" false nothing"), "{proxy} gave {response:?}");
    }
}

#[test]
fn nobody_else_reaches_tiny_http() {
    let before = unix_listeners();
    let house = Fixture::new(|_| {});
    // Sockets of other tests in this process may come and go; an unlinked path is what all of them must have.
    for name in unix_listeners().iter().filter(|name| !before.contains(name)) {
        assert!(!name.starts_with('@'), "{name} can be connected to");
        assert!(!std::path::Path::new(name).exists(), "{name} can be connected to");
    }
    assert_eq!(status(&house.get("/health")), 200);
}

/// The names of the listening Unix sockets that this process holds.
fn unix_listeners() -> Vec<String> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let own: Vec<String> = links
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    let listening = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let accepts = u32::from_str_radix(fields[3], 16).unwrap() & 0x1_0000 != 0;
        let name = fields.get(7).copied().unwrap_or("");
        (accepts && own.iter().any(|inode| inode == fields[6])).then(|| name.to_owned())
    });
    listening.collect()
}

#[test]
fn slow_clients_are_cut() {
    let limit = Duration::from_millis(300);
    let house = Fixture::new(|config| config.head_time = limit);
    let check = |send: &dyn Fn(&mut TcpStream) -> std::io::Result<()>| {
        let begin = Instant::now();
        let mut stream = house.connect();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut bytes = [0; 1024];
        // The read is the pace, and ends with the connection.
        while begin.elapsed() < PATIENCE {
            let _ = send(&mut stream);
            match stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(length) => assert_eq!(status(&String::from_utf8_lossy(&bytes[..length])), 408),
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        assert!(begin.elapsed() >= limit, "cut after {:?}", begin.elapsed());
        assert!(begin.elapsed() < PATIENCE / 2, "cut after {:?}", begin.elapsed());
    };
    check(&|_| Ok(()));
    check(&|stream| stream.write_all(b"G"));
    let begun = std::cell::Cell::new(false);
    check(&|stream| {
        let line: &[u8] = if begun.replace(true) { b"X: y\r\n" } else { b"GET / HTTP/1.1\r\n" };
        stream.write_all(line)
    });
    assert_eq!(house.count(|counters| counters.late.load(Ordering::Relaxed)), 3);
}

#[test]
fn when_full_the_longest_without_a_head_is_closed() {
    let mut house = Fixture::new(|config| config.connections = 3);
    let mut first = house.connect();
    let mut second = house.connect();
    let mut third = house.connect();
    third.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    house.entered.recv_timeout(PATIENCE).unwrap();
    assert_eq!(status(&house.get("/health")), 200);
    assert_eq!(read_all(&mut first), "", "the oldest has to go");
    second.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    house.entered.recv_timeout(PATIENCE).unwrap();
    let mut fourth = house.connect();
    fourth.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    house.entered.recv_timeout(PATIENCE).unwrap();
    // All are owed a response now, so none is closed for the newcomer.
    assert_eq!(house.get("/health"), "");
    assert_eq!(house.count(|counters| counters.refused.load(Ordering::Relaxed)), 1);
    assert_eq!(house.count(|counters| counters.evicted.load(Ordering::Relaxed)), 1);
    house.hold = None;
    for mut held in [second, third, fourth] {
        assert_eq!(body(&read_all(&mut held)), "held");
    }
}

#[test]
fn more_requests_than_places_are_told_to_come_again() {
    let mut house = Fixture::new(|config| config.requests = 2);
    let mut held = [house.connect(), house.connect()];
    for stream in &mut held {
        stream.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        house.entered.recv_timeout(PATIENCE).unwrap();
    }
    let response = house.get("/health");
    assert_eq!(status(&response), 503);
    assert!(response.contains("\r\nRetry-After: 1\r\n"), "{response}");
    house.hold = None;
    for stream in &mut held {
        assert_eq!(body(&read_all(stream)), "held");
    }
    until(|| status(&house.get("/health")) == 200);
}

#[test]
fn bodies_are_bounded() {
    let house = Fixture::new(|config| config.body_bytes = 48 * 1024);
    let check = |request: &str, code: u16| {
        let response = house.exchange(request.as_bytes());
        assert_eq!(status(&response), code, "{:?} gave {response:?}", request.get(..100));
    };
    let post = |path: &str, rest: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\n{rest}");
    check(&post("/echo", "Content-Length: 65537\r\n\r\n"), 413);
    check(&post("/echo", &format!("Content-Length: 65537\r\n\r\n{}", "x".repeat(65537))), 413);
    check(&post("/echo", "Content-Length: 18446744073709551615\r\n\r\n"), 413);
    check(&post("/echo", "Transfer-Encoding: chunked\r\n\r\n10001\r\n"), 413);
    check(&post("/echo", "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n10000\r\n"), 413);
    check(&post("/health", "Content-Length: 1\r\n\r\nx"), 413);
    let two_thirds = post("/echo", &format!("Content-Length: 40000\r\n\r\n{}", "x".repeat(32 * 1024)));
    let mut first = house.connect();
    first.write_all(two_thirds.as_bytes()).unwrap();
    // Until those bytes are counted, another has room.
    until(|| status(&house.exchange(two_thirds.replace("40000", "32768").as_bytes())) == 503);
    first.write_all(&[b'x'; 40000 - 32 * 1024]).unwrap();
    assert_eq!(body(&read_all(&mut first)).len(), 40000);
    until(|| status(&house.exchange(two_thirds.replace("40000", "32768").as_bytes())) == 200);
}

#[test]
fn a_slow_body_is_cut_and_holds_no_worker() {
    let house = Fixture::new(|config| {
        config.body_time = Duration::from_millis(300);
        config.requests = 1;
    });
    let begin = Instant::now();
    let mut slow = house.connect();
    slow.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n").unwrap();
    assert_eq!(status(&house.get("/health")), 200);
    slow.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut bytes = [0; 1024];
    let answer = loop {
        let _ = slow.write_all(b"x");
        match slow.read(&mut bytes) {
            Ok(length) => break status(&String::from_utf8_lossy(&bytes[..length])),
            Err(cause) => assert_eq!(cause.kind(), ErrorKind::WouldBlock, "after {:?}", begin.elapsed()),
        }
    };
    assert_eq!(answer, 408);
    assert!(begin.elapsed() >= Duration::from_millis(300), "cut after {:?}", begin.elapsed());
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let house = Fixture::new(|config| config.write_time = Duration::from_millis(300));
    let mut stream = house.connect();
    stream.write_all(b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until(|| house.count(|counters| counters.late.load(Ordering::Relaxed)) == 1);
    assert!(read_all(&mut stream).len() < 8 << 20);
}

#[test]
fn a_client_that_does_not_stop_sending_is_cut() {
    let house = Fixture::new(|_| {});
    let begin = Instant::now();
    let mut stream = house.connect();
    stream.write_all(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n").unwrap();
    while stream.write_all(&[b'x'; 64 * 1024]).is_ok() {
        assert!(begin.elapsed() < PATIENCE, "still taken after {:?}", begin.elapsed());
    }
}

#[test]
fn upgrades_are_handed_out_with_what_came_early() {
    let house = Fixture::new(|_| {});
    let request = "GET /agent?nodeId=n HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    let mut stream = house.connect();
    stream.write_all(format!("{request}early\0bytes").as_bytes()).unwrap();
    let mut upgrade = house.upgrades.recv_timeout(PATIENCE).unwrap();
    assert_eq!((upgrade.head.path(), upgrade.head.query()), ("/agent", Some("nodeId=n")));
    assert_eq!(upgrade.head.header("upgrade"), Some("WebSocket"));
    assert_eq!(upgrade.peer, stream.local_addr().unwrap());
    let mut got = upgrade.early.clone();
    // Handed out without time limits.
    assert_eq!(upgrade.stream.socket().read_timeout().unwrap(), None);
    upgrade.stream.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b", more").unwrap();
    let mut rest = vec![0; "early\0bytes, more".len() - got.len()];
    upgrade.stream.read_exact(&mut rest).unwrap();
    got.extend(rest);
    assert_eq!(got, b"early\0bytes, more");
    upgrade.stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap();
    drop(upgrade);
    assert_eq!(status(&read_all(&mut stream)), 101);

    // One waits in the channel; there is no room for another.
    let mut waiting = house.connect();
    waiting.write_all(request.as_bytes()).unwrap();
    until(|| house.upgrades.len() == 1);
    assert_eq!(status(&house.exchange(request.as_bytes())), 503);

    let plain = Fixture::new(|config| config.upgrades = None);
    assert_eq!(status(&plain.exchange(request.replace("/agent?nodeId=n", "/health").as_bytes())), 200);
}

#[test]
fn streams_flow_and_end_with_their_client() {
    let house = Fixture::new(|config| {
        config.streams = 1;
        config.requests = 1;
        // A stream that has nothing to say for longer than this is not cut.
        config.write_time = Duration::from_millis(500);
        config.head_time = Duration::from_millis(500);
    });
    let mut stream = house.connect();
    stream.write_all(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let pieces = house.streams.recv_timeout(PATIENCE).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("\r\nContent-Type: text/event-stream\r\n"), "{head}");
    stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        pieces.send_timeout(event.as_bytes().into(), PATIENCE).unwrap();
        let mut got = vec![0; event.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, event.as_bytes(), "each piece is sent at once");
    }
    // It takes no place among the requests, but the only one among the streams.
    assert_eq!(status(&house.get("/health")), 200);
    until(|| {
        assert_eq!(status(&house.get("/stream")), 503);
        // The handler was asked, so it was not for want of a place among the requests.
        house.streams.try_recv().is_ok()
    });
    // The client's leaving ends it, without anything being sent, and so does the end of its sender.
    drop(stream);
    until(|| {
        let mut stream = house.connect();
        stream.write_all(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        // Until the one before has left its places, the gate or the worker answers 503.
        stream.peek(&mut [0]).unwrap();
        if let Ok(pieces) = house.streams.try_recv() {
            let _ = pieces.send_timeout(b"data: 4\n\n"[..].into(), PATIENCE);
        }
        body(&read_all(&mut stream)) == "data: 4\n\n"
    });
    assert!(pieces.send_timeout(b"data: 3\n\n"[..].into(), PATIENCE).is_err());
}

#[test]
fn shutdown_ends_streams_and_waits_for_work() {
    let mut house = Fixture::new(|_| {});
    let mut stream = house.connect();
    stream.write_all(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let pieces = house.streams.recv_timeout(PATIENCE).unwrap();
    let _silent = house.connect();
    let mut held = house.connect();
    held.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    house.entered.recv_timeout(PATIENCE).unwrap();
    let ended = house.gate.as_ref().unwrap().ended();
    let gate = house.gate.take().unwrap();
    let (address, hold) = (house.address, house.hold.take());
    std::thread::scope(|scope| {
        let shutdown = scope.spawn(|| gate.shutdown(Instant::now() + PATIENCE));
        // The stream ends while the request is still in work.
        assert_eq!(status(&read_all(&mut stream)), 200);
        assert!(pieces.send_timeout(Arc::default(), PATIENCE).is_err());
        assert!(TcpStream::connect(address).is_err(), "the port is free");
        drop(hold);
        assert_eq!(body(&read_all(&mut held)), "held");
        assert_eq!(shutdown.join().unwrap(), Ok(()));
    });
    let mut names: Vec<_> = ended.try_iter().collect();
    names.sort_unstable();
    assert_eq!(names, ["gate", "http"]);
}

#[test]
fn shutdown_names_the_thread_that_does_not_come() {
    let mut house = Fixture::new(|_| {});
    let mut held = house.connect();
    held.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    house.entered.recv_timeout(PATIENCE).unwrap();
    let unfinished = house.shutdown(Duration::from_millis(100)).unwrap_err();
    assert_eq!(unfinished.to_string(), "threads did not end in time: http-1");
    assert_eq!(read_all(&mut held), "");
}

#[test]
fn a_thousand_slow_clients_cost_little_and_stop_nobody() {
    in_child("a_thousand_slow_clients_cost_little_and_stop_nobody", || {
        raise_descriptor_limit();
        let house = Fixture::new(|config| config.head_time = Duration::from_millis(800));
        assert_eq!(status(&house.get("/health")), 200);
        let address = house.address;
        let (threads, memory) = (status_field("Threads:"), status_field("VmRSS:"));
        let (stop, stopped) = bounded::<()>(0);
        let (full_tx, full) = bounded(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut clients: Vec<TcpStream> = (0..1000).map(|_| connect(address)).collect();
                full_tx.send(()).unwrap();
                // A thousand writes a second, so each client has its turn once a second, and comes again when cut.
                for turn in (0..1000).cycle() {
                    let bytes: &[u8] = match turn % 3 {
                        0 => b"",
                        1 => b"G",
                        _ => b"GET / HTTP/1.1\r\nX: y\r\n",
                    };
                    if clients[turn].write_all(bytes).is_err() || turn % 3 == 0 {
                        clients[turn] = connect(address);
                    }
                    if stopped.recv_timeout(Duration::from_millis(1))
                        != Err(crossbeam_channel::RecvTimeoutError::Timeout)
                    {
                        return;
                    }
                }
            });
            full.recv_timeout(PATIENCE).unwrap();
            let mut slowest = Duration::ZERO;
            for _ in 0..100 {
                let begin = Instant::now();
                assert_eq!(status(&house.get("/health")), 200);
                slowest = slowest.max(begin.elapsed());
                let more = status_field("Threads:") - threads;
                assert!(more <= 8, "{more} threads more");
            }
            assert!(slowest < Duration::from_secs(1), "/health took {slowest:?}");
            let grown = status_field("VmRSS:").saturating_sub(memory);
            assert!(grown <= 4096, "{grown} KiB more");
            let cut = |counters: &longshore::gate::Counters| {
                counters.evicted.load(Ordering::Relaxed) + counters.late.load(Ordering::Relaxed)
            };
            until(|| house.count(cut) >= 900);
            println!("slowest /health {slowest:?}, {grown} KiB more");
            drop(stop);
        });
    });
}

#[test]
fn want_of_descriptors_does_not_end_the_gate() {
    in_child("want_of_descriptors_does_not_end_the_gate", || {
        let house = Fixture::new(|config| config.head_time = Duration::from_secs(1));
        let limit = rustix::process::Rlimit { current: Some(200), maximum: Some(200) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        let take_all = || std::iter::from_fn(|| std::fs::File::open("/dev/null").ok());
        let quiet = descriptors();
        let failed_accepts = || house.count(|counters| counters.accept_errors.load(Ordering::Relaxed));
        let mut refused = 0;
        // How many are free cannot be told exactly from here: a thread that blocks in accept has a number set aside.
        until(|| {
            let mut files: Vec<_> = take_all().collect();
            let (begin, before) = (Instant::now(), failed_accepts());
            // One for the client, which leaves none to accept it with, then one by one for the gate: first enough to
            // accept it, but too few to hand its request in.
            files.pop();
            let mut stream = house.connect();
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut bytes = [0; 1024];
            let length = loop {
                match stream.read(&mut bytes) {
                    Ok(length) => break length,
                    Err(cause) => assert_eq!(cause.kind(), ErrorKind::WouldBlock),
                }
                assert!(files.pop().is_some(), "it is never answered");
            };
            let answer = status(&String::from_utf8_lossy(&bytes[..length]));
            assert!([200, 503].contains(&answer), "answered {answer}");
            refused += usize::from(answer == 503);
            let tried = failed_accepts() - before;
            assert!(tried < 50, "{tried} attempts in {:?}, without a rest", begin.elapsed());
            drop((stream, files));
            until(|| status(&house.get("/health")) == 200);
            until(|| descriptors() == quiet);
            failed_accepts() >= 3 && refused >= 3
        });
        // Somebody who takes and frees all of them at any moment, also in the middle of tiny_http's accept.
        let (stop, stopped) = bounded::<()>(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while stopped.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {
                    drop(take_all().collect::<Vec<_>>());
                }
            });
            for _ in 0..200 {
                if let Ok(mut stream) = TcpStream::connect(house.address) {
                    let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
                    let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
                    let _ = stream.read(&mut [0]);
                }
            }
            drop(stop);
        });
        until(|| status(&house.get("/health")) == 200);
    });
}

/// How many this process has open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn an_idle_gate_does_not_wake() {
    in_child("an_idle_gate_does_not_wake", || {
        let house = Fixture::new(|_| {});
        assert_eq!(status(&house.get("/health")), 200);
        let _silent = house.connect();
        let (_never_tx, never) = bounded::<()>(0);
        // The first second may still see the end of that request.
        let mut woken = Vec::new();
        for _ in 0..3 {
            let before = switches();
            let _ = never.recv_timeout(Duration::from_secs(1));
            woken.push(switches() == before);
        }
        assert!(woken.contains(&true), "context switches in each of three seconds: {:?}", switches());
    });
}

/// Waits for what another thread is about to bring about.
#[track_caller]
fn until(mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "it does not come true");
        std::thread::yield_now();
    }
}

/// Runs `body` in a process of its own, where limits and measurements concern nobody else.
fn in_child(test: &str, body: impl FnOnce()) {
    if std::env::var_os("GATE_TEST_CHILD").is_some() {
        return body();
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("GATE_TEST_CHILD", "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && out.contains("1 passed"), "{out}\n{err}");
    println!("{out}");
}

/// A number from /proc/self/status, in its own unit.
fn status_field(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Context switches so far of each thread but this one.
fn switches() -> BTreeMap<String, Vec<String>> {
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap());
    let others = tasks.map(|task| (task.file_name().into_string().unwrap(), task.path().join("status")));
    let statuses = others.filter(|(id, _)| *id != own).map(|(id, path)| (id, std::fs::read_to_string(path)));
    let lines = |status: String| {
        status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned).collect()
    };
    statuses.filter_map(|(id, status)| Some((id, lines(status.ok()?)))).collect()
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}
