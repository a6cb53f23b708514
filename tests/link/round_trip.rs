//! What goes in on one side comes out on the other, both ways at once, plain and through TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use longshore::link::accept::{AcceptError, HANDSHAKE, Refuse, accept};
use longshore::link::tls::{Transport, client_config};
use longshore::link::{DialError, Dialer, Entry, Inbound, Limits, Setback, WsUrl};

use crate::rig::*;

#[test]
fn texts_of_every_size_go_both_ways_at_once() {
    for wire in [Wire::Plain, Wire::Tls] {
        let (agent, panel) = pair(wire);
        let sizes = [0, 1, 125, 126, 4096, 16 << 10, 65_535, 65_536, 300_000, 2 << 20, 7];
        let text = |n: usize, size: usize| char::from(b'a' + n as u8).to_string().repeat(size);
        for (n, size) in sizes.into_iter().enumerate() {
            for side in [&agent, &panel] {
                side.outbox.push(Entry::now(text(n, size))).unwrap();
            }
        }
        for (n, size) in sizes.into_iter().enumerate() {
            for side in [&agent, &panel] {
                assert!(
                    side.text() == text(n, size),
                    "{wire:?}: message {n} of {size} bytes came differently"
                );
            }
        }
    }
}

#[test]
fn binary_is_told_by_its_size_and_the_link_goes_on() {
    let (mut peer, side) = raw(Limits::default());
    peer.frame(0x82, &[1, 2, 3]);
    peer.frame(0x81, b"{}");
    assert_eq!(side.inbound.recv_timeout(SOON), Ok(Inbound::Binary(3)));
    assert_eq!(side.text(), "{}");
}

#[test]
fn bytes_behind_the_handshake_are_not_lost() {
    let (address, _) = server(|mut socket| {
        let head = read_head(&mut socket).unwrap();
        let mut answer = switching(&head).into_bytes();
        answer.extend(b"\x81\x05hello");
        socket.write_all(&answer).unwrap();
        // Holds the connection until the other side closes it.
        let _ = socket.read(&mut [0]);
    });
    let side = Side::alone(dialer(Wire::Plain, address.port()).dial(&secret()).unwrap());
    assert_eq!(side.text(), "hello");

    // The same on the accepting side, where the head was read by somebody else.
    let (listener, port) = listener();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut head = b"GET /agent?nodeId=n-1&x HTTP/1.1\r\nHost: panel\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer abc\r\n\r\n"
        .to_vec();
    // "hi", masked with zeros.
    head.extend(b"\x81\x82\0\0\0\0hi");
    client.write_all(&head[100..]).unwrap();
    let transport = Transport::plain(listener.accept().unwrap().0);
    let connection = accept(transport, head[..100].to_vec(), Limits::default(), HANDSHAKE, |request| {
        assert_eq!((request.path.as_str(), request.query_value("nodeId")), ("/agent", Some("n-1")));
        assert_eq!(request.headers.get("authorization"), Some("Bearer abc"));
        Ok(())
    });
    let answer = read_head(&mut client).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert_eq!(Side::alone(connection.unwrap()).text(), "hi");
}

#[test]
fn what_is_no_upgrade_is_answered_with_its_fault() {
    for (request, status) in [
        ("POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "405"),
        ("GET / HTTP/1.1\r\n\r\n", "426"),
        (
            "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n\r\n",
            "426",
        ),
        (
            "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n",
            "400",
        ),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let (listener, port) = listener();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let transport = Transport::plain(listener.accept().unwrap().0);
        let result =
            accept(transport, Vec::new(), Limits::default(), HANDSHAKE, |_| panic!("not to be asked"));
        assert!(result.is_err());
        let answer = read_head(&mut client).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
}

#[test]
fn a_client_that_asks_for_nothing_or_without_an_end_is_left_in_time() {
    for (sent, kind) in
        [(&b"GET / HTTP/1.1\r\n"[..], ErrorKind::TimedOut), (&[b'a'; 20_000], ErrorKind::InvalidData)]
    {
        let (listener, port) = listener();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(sent).unwrap();
        let transport = Transport::plain(listener.accept().unwrap().0);
        let begun = Instant::now();
        let result = accept(transport, vec![], Limits::default(), Duration::from_millis(300), |_| {
            panic!("not to be asked")
        });
        assert!(matches!(result, Err(AcceptError::Io(cause)) if cause.kind() == kind));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_refusal_of_ours_reaches_the_dialer_whole() {
    let (address, _) = server(|socket| {
        let refuse = Refuse { status: 503, text: "later".into(), retry_after: Some(Duration::from_secs(7)) };
        let refused = accept(Transport::plain(socket), vec![], Limits::default(), HANDSHAKE, |_| Err(refuse));
        assert!(refused.is_err());
    });
    let refused = dialer(Wire::Plain, address.port()).dial(&secret()).err().unwrap();
    let refusal = refused.refusal().unwrap();
    assert_eq!((refusal.status, refusal.body.as_str()), (503, "later"));
    assert!(refusal.date.is_some());
    assert_eq!(refused.setback(), Setback::Failed { retry_after: Some(Duration::from_secs(7)) });
}

#[test]
fn key_updates_and_both_tls_versions() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (listener, port) = listener();
        let peer = thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let tls = rustls::ServerConnection::new(server_config(&[version])).unwrap();
            let mut peer = tungstenite::accept(rustls::StreamOwned::new(tls, socket)).unwrap();
            for n in 0..20 {
                if version == &rustls::version::TLS13 {
                    // Asks for an update of the other direction too.
                    peer.get_mut().conn.refresh_traffic_keys().unwrap();
                }
                peer.send(format!("from panel {n}").into()).unwrap();
                assert_eq!(peer.read().unwrap().into_text().unwrap().as_str(), format!("from agent {n}"));
            }
        });
        let side = Side::alone(dialer(Wire::Tls, port).dial(&secret()).unwrap());
        for n in 0..20 {
            assert_eq!(side.text(), format!("from panel {n}"));
            side.outbox.push(Entry::now(format!("from agent {n}"))).unwrap();
        }
        peer.join().unwrap();
    }
}

#[test]
fn only_the_right_certificate_for_the_right_name_is_taken() {
    let (address, _) = server(|socket| {
        let tls = rustls::ServerConnection::new(server_config(rustls::ALL_VERSIONS)).unwrap();
        let _ = Transport::tls(socket, tls).handshake(Instant::now() + SOON);
    });
    let port = address.port();
    let ours = client_config(Some(&pem("ca.pem"))).unwrap();
    let public = client_config(None).unwrap();
    for (host, config, fault) in
        [("localhost", &public, "UnknownIssuer"), ("x.localhost", &ours, "not valid for name")]
    {
        let url = WsUrl::parse(&format!("wss://{host}:{port}")).unwrap();
        let failed = Dialer::new(url, Some(config.clone())).dial(&secret()).err().unwrap();
        let told = failed.to_string();
        assert!(
            matches!(failed, DialError::Tls(_)) && told.starts_with("tls: ") && told.contains(fault),
            "{told}"
        );
    }
    let plain = Dialer::new(WsUrl::parse("wss://localhost").unwrap(), None);
    assert!(matches!(plain.dial(&secret()), Err(DialError::NoTls)));
    let missing = client_config(Some(&pem("none.pem"))).unwrap_err().to_string();
    assert!(missing.contains("none.pem"), "{missing}");
    let empty = client_config(Some(&pem("server.key"))).unwrap_err().to_string();
    assert!(empty.contains("holds no certificate"), "{empty}");
}
