//! A dial ends in time, whatever the other side does, and says in which phase.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use longshore::link::dial::{Budget, Phase};
use longshore::link::{DialError, Dialer, Entry, Setback, WsUrl};

use crate::rig::*;

/// Short bounds, so that a test of a bound is short too.
fn hasty(wire: Wire, port: u16) -> Dialer {
    let short = Duration::from_millis(300);
    let budget = Budget {
        dns: short,
        connect: short,
        proxy: short,
        tls: short,
        upgrade: short,
        total: Duration::from_secs(5),
    };
    Dialer { budget, ..dialer(wire, port) }
}

fn refused_with(answer: &'static str) -> DialError {
    let (address, _) = server(move |mut socket| {
        read_head(&mut socket).unwrap();
        socket.write_all(answer.as_bytes()).unwrap();
    });
    dialer(Wire::Plain, address.port()).dial(&secret()).err().expect("the dial should have failed")
}

#[test]
fn the_request_carries_what_panels_read() {
    let (listener, port) = listener();
    let url =
        WsUrl::parse(&format!("ws://127.0.0.1:{port}/ws?nodeId=x&a=b")).unwrap().with_query("nodeId", "n-1");
    let mut dialer = Dialer::new(url, None);
    dialer.headers =
        vec![("X-Node-Id".into(), "n-1".into()), ("User-Agent".into(), "longshore-agent/0.1.0".into())];
    let peer = std::thread::spawn(move || RawPeer::accept(&listener));
    let connection = dialer.dial(&secret()).unwrap();
    let head = peer.join().unwrap().head;
    assert!(head.starts_with("GET /ws?a=b&nodeId=n-1 HTTP/1.1\r\n"), "{head}");
    for line in [
        &format!("Host: 127.0.0.1:{port}"),
        "Authorization: Bearer s3cret",
        "X-Node-Id: n-1",
        "User-Agent: longshore-agent/0.1.0",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
    ] {
        assert_eq!(head.lines().filter(|l| l == &line).count(), 1, "{line} in {head}");
    }
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_431_704_061);
    assert_eq!(connection.server_date(), Some(date));
    assert_eq!(connection.peer().port(), port);

    dialer.headers.push(("X-Bad".into(), "a\r\nX-Injected: b".into()));
    assert!(matches!(dialer.dial(&secret()), Err(DialError::Header { name }) if name == "X-Bad"));
}

#[test]
fn refusals_are_told_with_what_the_server_said() {
    let failed =
        |retry_after: Option<u64>| Setback::Failed { retry_after: retry_after.map(Duration::from_secs) };
    for (answer, status, body, setback) in [
        ("HTTP/1.1 401 No\r\nContent-Length: 9\r\n\r\nbad\tkey\x07!", 401, "bad key.!", Setback::Unwelcome),
        ("HTTP/1.1 403 No\r\n\r\nrevoked", 403, "revoked", Setback::Unwelcome),
        ("HTTP/1.1 429 Slow\r\nRetry-After: 17\r\n\r\n", 429, "", failed(Some(17))),
        (
            "HTTP/1.1 503 X\r\nDate: Fri, 15 May 2015 15:34:21 GMT\r\nRetry-After: Fri, 15 May 2015 15:35:21 GMT\r\n\r\n",
            503,
            "",
            failed(Some(60)),
        ),
        ("HTTP/1.1 503 X\r\n\r\n", 503, "", failed(None)),
        ("HTTP/1.1 404 X\r\nRetry-After: 9\r\n\r\n", 404, "", failed(None)),
        ("HTTP/1.1 200 OK\r\n\r\n<html>", 200, "<html>", failed(None)),
    ] {
        let error = refused_with(answer);
        let refusal = error.refusal().expect("a refusal");
        assert_eq!((refusal.status, refusal.body.as_str()), (status, body));
        assert_eq!(error.setback(), setback, "{answer}");
        assert!(error.to_string().starts_with(&format!("upgrade: refused with {status}")), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }
    let error = refused_with("HTTP/1.1 503 X\r\nDate: Fri, 15 May 2015 15:34:21 GMT\r\n\r\n");
    assert!(error.refusal().unwrap().date.is_some());
}

#[test]
fn answers_that_are_no_websocket_fail_the_upgrade() {
    for (answer, fault) in [
        ("", "unexpected end of file"),
        ("\x16\x03\x01 not http\r\n\r\n", "invalid"),
        ("HTTP/1.1 101 X\r\n\r\n", "no upgrade: websocket"),
        ("HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n", "no connection: upgrade"),
        (
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
            "key",
        ),
    ] {
        let error = refused_with(answer);
        assert_eq!(error.phase(), Phase::Upgrade);
        assert!(error.to_string().contains(fault), "{answer:?}: {error}");
    }
}

#[test]
fn an_answer_without_an_end_is_cut_off() {
    let (address, _) = server(|mut socket| {
        let _ = socket.write_all(b"HTTP/1.1 101 X\r\n");
        while socket.write_all(&[b'a'; 1024]).is_ok() {}
    });
    let error = dialer(Wire::Plain, address.port()).dial(&secret()).err().unwrap();
    assert!(error.to_string().contains("head over 16384 bytes"), "{error}");

    // A body without an end neither.
    let (address, _) = server(|mut socket| {
        let _ = socket.write_all(b"HTTP/1.1 500 X\r\n\r\n");
        while socket.write_all(&[b'a'; 1024]).is_ok() {}
    });
    let error = dialer(Wire::Plain, address.port()).dial(&secret()).err().unwrap();
    assert_eq!(error.refusal().unwrap().body.len(), 200);
}

/// Accepts and never answers.
fn hold(mut socket: TcpStream) {
    let _ = socket.read_to_end(&mut Vec::new());
}

/// One byte of a head in a while: each read succeeds, the phase must end all the same.
fn drip(mut socket: TcpStream) {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut scratch = [0; 4096];
    loop {
        if socket.write_all(b"H").is_err() {
            return;
        }
        // The pause between two bytes.
        if matches!(socket.read(&mut scratch), Ok(0)) {
            return;
        }
    }
}

#[test]
fn each_phase_ends_in_time_and_is_named() {
    let (held, _) = server(hold);
    let (dripped, _) = server(drip);
    for (wire, port, phase) in [
        (Wire::Plain, held.port(), Phase::Upgrade),
        (Wire::Plain, dripped.port(), Phase::Upgrade),
        (Wire::Tls, held.port(), Phase::Tls),
    ] {
        let begun = Instant::now();
        let error = hasty(wire, port).dial(&secret()).err().unwrap();
        let took = begun.elapsed();
        assert_eq!(error.phase(), phase, "{error}");
        assert!(error.to_string().contains("timed out"), "{error}");
        assert!((Duration::from_millis(300)..Duration::from_secs(2)).contains(&took), "{phase}: {took:?}");
    }
}

#[test]
fn connecting_ends_in_time() {
    // A listener that accepts nothing and whose queue is full answers no SYN.
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let _queued: Vec<_> = (0..3)
        .filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok())
        .collect();
    let begun = Instant::now();
    let error = hasty(Wire::Plain, address.port()).dial(&secret()).err().unwrap();
    assert_eq!(error.phase(), Phase::Connect, "{error}");
    assert!(error.to_string().contains("timed out"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn the_whole_has_a_bound_too() {
    let (held, _) = server(hold);
    let mut dialer = dialer(Wire::Plain, held.port());
    dialer.budget.total = Duration::from_millis(300);
    let begun = Instant::now();
    let error = dialer.dial(&secret()).err().unwrap();
    assert_eq!(error.phase(), Phase::Upgrade);
    assert!(begun.elapsed() < Duration::from_secs(2));
    dialer.budget.total = Duration::ZERO;
    assert!(matches!(dialer.dial(&secret()), Err(DialError::TimedOut(Phase::Dns))));
}

#[test]
fn the_other_family_is_tried_when_one_does_not_answer() {
    // localhost is ::1 and then 127.0.0.1; each has its turn to be the only one that listens.
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let local = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || RawPeer::accept(&listener));
        let url = WsUrl::parse(&format!("ws://localhost:{}", local.port())).unwrap();
        let side = Side::alone(Dialer::new(url, None).dial(&secret()).unwrap());
        side.outbox.push(Entry::now("here")).unwrap();
        assert_eq!(peer.join().unwrap().text(|_, _| {}), "here");
    }
    let (listener, port) = listener();
    drop(listener);
    let url = WsUrl::parse(&format!("ws://localhost:{port}")).unwrap();
    let error = Dialer::new(url, None).dial(&secret()).err().unwrap();
    let told = error.to_string();
    assert!(told.starts_with("connect: ") && told.contains("[::1]") && told.contains("127.0.0.1"), "{told}");
}

#[test]
fn an_unknown_name_fails_in_dns() {
    // RFC 6761: `.invalid` never exists. With no resolver at hand it fails all the same, or runs out of time.
    let url = WsUrl::parse("ws://panel.invalid").unwrap();
    let mut dialer = Dialer::new(url, None);
    dialer.budget.dns = Duration::from_secs(2);
    let begun = Instant::now();
    let error = dialer.dial(&secret()).err().unwrap();
    assert_eq!(error.phase(), Phase::Dns);
    assert!(error.to_string().starts_with("dns: panel.invalid: "), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}
