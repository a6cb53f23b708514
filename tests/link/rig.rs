//! The peers of the link's tests: a [`Side`] is our own link with everything to be seen of it, a [`RawPeer`] is a
//! Panel that writes and reads frames by hand and does only what the test says.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use longshore::link::accept::{HANDSHAKE, accept};
use longshore::link::outbox::{Bounds, NoSource};
use longshore::link::tls::{Transport, client_config};
use longshore::link::{
    Cause, Connection, Dialer, Duplex, Ended, Half, Inbound, Limits, Outbox, Secret, Source, Threads, WsUrl,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tungstenite::handshake::derive_accept_key;

/// How long a test waits for what should happen at once.
pub const SOON: Duration = Duration::from_secs(15);

/// How a link travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Plain,
    Tls,
}

/// One end of a link.
pub struct Side {
    pub outbox: Arc<Outbox<u32>>,
    pub duplex: Duplex,
    pub inbound: Receiver<Inbound>,
    pub ended: Receiver<Ended>,
}

impl Side {
    /// Starts the threads on a connection of an outbox that has begun this generation.
    pub fn start(connection: Connection, generation: u64, outbox: &Arc<Outbox<u32>>) -> Side {
        Side::named(connection, generation, outbox, Threads::default())
    }

    pub fn named(connection: Connection, generation: u64, outbox: &Arc<Outbox<u32>>, names: Threads) -> Side {
        let (inbound_tx, inbound) = unbounded();
        let (ended_tx, ended) = unbounded();
        let handler = move |message| drop(inbound_tx.send(message));
        let on_end = move |end| drop(ended_tx.send(end));
        let duplex = Duplex::start(connection, generation, outbox.clone(), names, handler, on_end).unwrap();
        Side { outbox: outbox.clone(), duplex, inbound, ended }
    }

    /// With an outbox of its own.
    pub fn alone(connection: Connection) -> Side {
        let outbox = outbox(NoSource);
        outbox.begin(1, vec![]);
        Side::start(connection, 1, &outbox)
    }

    pub fn text(&self) -> String {
        match self.inbound.recv_timeout(SOON).expect("a message was expected") {
            Inbound::Text(text) => text.to_string(),
            other => panic!("a text was expected instead of {other:?}"),
        }
    }

    /// Both threads have to end, each with one word and the same cause.
    pub fn cause(&mut self) -> Cause {
        let first = self.ended.recv_timeout(SOON).expect("the connection should have ended");
        let second = self.ended.recv_timeout(SOON).expect("both threads should have ended");
        assert_ne!(first.half, second.half);
        assert_eq!((first.generation, &first.cause), (second.generation, &second.cause));
        assert_eq!(self.duplex.join(Instant::now() + SOON).as_ref(), Ok(&first.cause));
        assert!(self.ended.try_recv().is_err(), "an end is told once");
        first.cause
    }

    pub fn first_end(&self) -> Half {
        self.ended.recv_timeout(SOON).expect("the connection should have ended").half
    }
}

pub fn outbox(source: impl Source + 'static) -> Arc<Outbox<u32>> {
    Arc::new(Outbox::new(source, Bounds::default()))
}

pub fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

pub fn secret() -> Secret {
    Secret::new("s3cret").unwrap()
}

pub fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(name)
}

/// A dialer for this port of the machine.
pub fn dialer(wire: Wire, port: u16) -> Dialer {
    match wire {
        Wire::Plain => Dialer::new(WsUrl::parse(&format!("ws://127.0.0.1:{port}/agent")).unwrap(), None),
        Wire::Tls => {
            let url = WsUrl::parse(&format!("wss://127.0.0.1:{port}/agent")).unwrap();
            Dialer::new(url, Some(client_config(Some(&pem("ca.pem"))).unwrap()))
        }
    }
}

pub fn server_config(versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<rustls::ServerConfig> {
    let chain = CertificateDer::pem_file_iter(pem("server.pem")).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(pem("server.key")).unwrap();
    let builder =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

/// The serving end's transport on an accepted socket.
pub fn serve(wire: Wire, socket: TcpStream) -> Transport {
    match wire {
        Wire::Plain => Transport::plain(socket),
        Wire::Tls => {
            let tls = rustls::ServerConnection::new(server_config(rustls::ALL_VERSIONS)).unwrap();
            let mut transport = Transport::tls(socket, tls);
            transport.handshake(Instant::now() + SOON).unwrap();
            transport
        }
    }
}

/// Two connections that are connected to each other: the dialed one and the accepted one.
pub fn connections(wire: Wire, dialed: Limits, accepted: Limits) -> (Connection, Connection) {
    let (listener, port) = listener();
    let accepting = thread::spawn(move || {
        let transport = serve(wire, listener.accept().unwrap().0);
        accept(transport, Vec::new(), accepted, HANDSHAKE, |_| Ok(())).unwrap()
    });
    let connection = Dialer { limits: dialed, ..dialer(wire, port) }.dial(&secret()).unwrap();
    (connection, accepting.join().unwrap())
}

/// Both ends of a link.
pub fn pair(wire: Wire) -> (Side, Side) {
    let (dialed, accepted) = connections(wire, Limits::default(), Limits::default());
    (Side::alone(dialed), Side::alone(accepted))
}

/// Waits for a condition that another thread brings about, without a way to be told of it.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "waited in vain for: {what}");
        thread::yield_now();
    }
}

/// A Panel by hand: no pong, no Close, nothing that the test does not do.
pub struct RawPeer {
    pub socket: TcpStream,
    /// The request's head.
    pub head: String,
}

impl RawPeer {
    /// Accepts one upgrade.
    pub fn accept(listener: &TcpListener) -> RawPeer {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_nodelay(true).unwrap();
        let head = read_head(&mut socket).unwrap();
        socket.write_all(switching(&head).as_bytes()).unwrap();
        RawPeer { socket, head }
    }

    /// Writes a frame as a server does, without a mask. The length is said, whatever the payload is.
    pub fn frame_header(&mut self, first: u8, length: u64) {
        let mut header = vec![first];
        match length {
            0..=125 => header.push(length as u8),
            126..=65535 => {
                header.push(126);
                header.extend((length as u16).to_be_bytes());
            }
            _ => {
                header.push(127);
                header.extend(length.to_be_bytes());
            }
        }
        self.socket.write_all(&header).unwrap();
    }

    pub fn frame(&mut self, first: u8, payload: &[u8]) {
        self.frame_header(first, payload.len() as u64);
        // The other side may have had enough.
        let _ = self.socket.write_all(payload);
    }

    pub fn pong(&mut self, payload: &[u8]) {
        self.frame(0x8a, payload);
    }

    /// The next frame: opcode and payload; `None` at the end of the stream.
    pub fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut start = [0; 2];
        self.socket.read_exact(&mut start).ok()?;
        let length = match start[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(self.array())),
            127 => u64::from_be_bytes(self.array()),
            short => u64::from(short),
        };
        assert!(start[1] & 0x80 != 0, "a client has to mask its frames");
        let mask: [u8; 4] = self.array();
        let mut payload = vec![0; length as usize];
        self.socket.read_exact(&mut payload).ok()?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Some((start[0] & 0x0f, payload))
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.socket.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The next text; pings on the way are given to `ping`.
    pub fn text(&mut self, mut ping: impl FnMut(&mut RawPeer, Vec<u8>)) -> String {
        loop {
            match self.read().expect("a text was expected instead of the end") {
                (1, text) => return String::from_utf8(text).unwrap(),
                (9, payload) => ping(self, payload),
                other => panic!("a text was expected instead of {other:?}"),
            }
        }
    }

    /// The code of the Close that has to be the next frame but pings and pongs, and then the end of the stream.
    pub fn close_code(&mut self) -> u16 {
        loop {
            match self.read().expect("a Close was expected instead of the end") {
                (8, payload) => {
                    assert_eq!(self.read(), None, "nothing follows a Close");
                    return u16::from_be_bytes([payload[0], payload[1]]);
                }
                (9 | 10, _) => {}
                other => panic!("a Close was expected instead of {other:?}"),
            }
        }
    }

    pub fn shut(&self) {
        self.socket.shutdown(Shutdown::Both).unwrap();
    }
}

/// A raw peer and our side of its link.
pub fn raw(limits: Limits) -> (RawPeer, Side) {
    let (peer, connection) = raw_connection(limits);
    (peer, Side::alone(connection))
}

pub fn raw_connection(limits: Limits) -> (RawPeer, Connection) {
    let (listener, port) = listener();
    let accepting = thread::spawn(move || RawPeer::accept(&listener));
    let connection = Dialer { limits, ..dialer(Wire::Plain, port) }.dial(&secret()).unwrap();
    (accepting.join().unwrap(), connection)
}

/// Reads up to and with the empty line, byte by byte so that nothing behind it is taken.
pub fn read_head(socket: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// The answer that lets this upgrade in.
pub fn switching(head: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nDate: Fri, 15 May 2015 15:34:21 GMT\r\n\r\n",
        derive_accept_key(key.as_bytes())
    )
}

/// A server that treats each of its connections with `treat`, until the test ends.
pub fn server(treat: impl Fn(TcpStream) + Send + Sync + 'static) -> (SocketAddr, Receiver<()>) {
    let (listener, port) = listener();
    let (accepted_tx, accepted_rx) = unbounded();
    let treat = Arc::new(treat);
    thread::spawn(move || {
        for socket in listener.incoming() {
            let treat = treat.clone();
            let _ = accepted_tx.send(());
            thread::spawn(move || treat(socket.unwrap()));
        }
    });
    (([127, 0, 0, 1], port).into(), accepted_rx)
}

/// A source of `line-0`, `line-1`, … without an end, padded to a size.
pub struct Endless {
    pub next: Arc<Mutex<usize>>,
    pub size: usize,
}

impl Source for Endless {
    fn next(&mut self, _max_bytes: usize) -> Option<String> {
        let mut next = self.next.lock().unwrap();
        let line = format!("line-{next}");
        *next += 1;
        Some(format!("{line:<size$}", size = self.size))
    }
}
