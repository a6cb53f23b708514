//! A proxy is asked for a tunnel, for `ws://` as for `wss://`, and its refusals are told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use longshore::link::accept::accept;
use longshore::link::dial::Phase;
use longshore::link::proxy::{Proxy, ProxySettings};
use longshore::link::tls::client_config;
use longshore::link::{Dialer, Entry, WsUrl};

use crate::rig::*;

/// A proxy that leads every tunnel to this port, and tells the requests it saw.
fn proxy(to: u16) -> (u16, Receiver<String>) {
    let (head_tx, head_rx) = unbounded();
    let (address, _) = server(move |mut client| {
        let head = read_head(&mut client).unwrap();
        head_tx.send(head).unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
        client.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n").unwrap();
        let (mut from, mut back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut back);
        });
        let _ = std::io::copy(&mut server, &mut client);
    });
    (address.port(), head_rx)
}

#[test]
fn a_tunnel_is_asked_for_and_used() {
    // The name is the proxy's to resolve: here it does not exist.
    for (wire, url, target) in [
        (Wire::Plain, "ws://panel.test:8080/agent", "panel.test:8080"),
        (Wire::Plain, "ws://panel.test/agent", "panel.test:80"),
        (Wire::Tls, "wss://panel.test/agent", "panel.test:443"),
    ] {
        let (listener, port) = listener();
        let panel = thread::spawn(move || {
            let transport = serve(wire, listener.accept().unwrap().0);
            Side::alone(accept(transport, vec![], Default::default(), SOON, |_| Ok(())).unwrap())
        });
        let (proxy, heads) = proxy(port);
        let settings = ProxySettings {
            https: Some(format!("http://user:p%40ss@127.0.0.1:{proxy}")),
            http: Some(format!("127.0.0.1:{proxy}")),
            no_proxy: Some("other.test".into()),
        };
        let url = WsUrl::parse(url).unwrap();
        let tls = Some(client_config(Some(&pem("ca.pem"))).unwrap());
        let dialer = Dialer { proxy: settings.choose(&url).unwrap(), ..Dialer::new(url, tls) };
        let agent = Side::alone(dialer.dial(&secret()).unwrap());
        agent.outbox.push(Entry::now("through")).unwrap();
        assert_eq!(panel.join().unwrap().text(), "through");
        let head = heads.recv_timeout(SOON).unwrap();
        assert!(head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n")), "{head}");
        let authorized = head.contains("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n");
        assert_eq!(authorized, wire == Wire::Tls, "{head}");
        assert!(!head.contains("s3cret"), "the secret is the Panel's alone");
    }
}

#[test]
fn what_a_proxy_refuses_is_told_without_its_password() {
    for (answer, told) in [
        ("HTTP/1.1 407 Auth\r\nContent-Length: 4\r\n\r\nwho?", "answered 407: who?"),
        ("HTTP/1.1 502 Bad\r\n\r\n", "answered 502"),
        ("HTTP/1.1 200 OK\r\n\r\nearly", "before the tunnel was in use"),
        ("SSH-2.0-x\r\n\r\n", "invalid"),
        ("", "unexpected end of file"),
    ] {
        let (address, _) = server(move |mut socket| {
            read_head(&mut socket).unwrap();
            socket.write_all(answer.as_bytes()).unwrap();
        });
        let proxy = Proxy::parse(&format!("http://user:hunter2@127.0.0.1:{}", address.port())).unwrap();
        let url = WsUrl::parse("ws://panel.test").unwrap();
        let error = Dialer { proxy: Some(proxy), ..Dialer::new(url, None) }.dial(&secret()).err().unwrap();
        assert_eq!(error.phase(), Phase::Proxy);
        assert!(error.to_string().contains(told), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

#[test]
fn a_proxy_that_hangs_or_floods_is_left_in_time() {
    type Treat = fn(TcpStream);
    let hang: Treat = |mut socket| drop(socket.read_to_end(&mut Vec::new()));
    let flood: Treat = |mut socket| while socket.write_all(&[b'a'; 1024]).is_ok() {};
    for (treat, told) in [(hang, "timed out"), (flood, "head over 16384 bytes")] {
        let (address, _) = server(treat);
        let proxy = Proxy::parse(&format!("127.0.0.1:{}", address.port())).unwrap();
        let mut dialer =
            Dialer { proxy: Some(proxy), ..Dialer::new(WsUrl::parse("ws://panel.test").unwrap(), None) };
        dialer.budget.proxy = Duration::from_millis(300);
        let error = dialer.dial(&secret()).err().unwrap();
        assert_eq!(error.phase(), Phase::Proxy);
        assert!(error.to_string().contains(told), "{error}");
    }
}
