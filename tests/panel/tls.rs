//! The Panel's own certificate: what is served follows the files, without a restart and without losing a connection.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use longshore::link::tls::pinned_config;
use ring::digest;
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use super::process::{Panel, SOON};

const SUPPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support");
const ONE: [&str; 2] = ["tls/server.pem", "tls/server.key"];
const OTHER: [&str; 2] = ["engine-certs/server.pem", "engine-certs/server-key.pem"];

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// SHA-256 of a certificate, as it is pinned.
fn pin(file: &str) -> String {
    let certificate = CertificateDer::from_pem_file(Path::new(SUPPORT).join(file)).unwrap();
    let hash = digest::digest(&digest::SHA256, &certificate);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asks over TLS, trusting this certificate alone; nothing when another one is served.
fn ask(address: &str, pin: &str, request: &str) -> Option<Tls> {
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(pinned_config(pin).unwrap(), name).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut stream = StreamOwned::new(client, socket);
    stream.write_all(request.as_bytes()).is_ok().then_some(stream)
}

fn serves(address: &str, pin: &str) -> bool {
    let request = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let Some(mut stream) = ask(address, pin, request) else { return false };
    let mut head = [0; 15];
    stream.read_exact(&mut head).is_ok() && head.starts_with(b"HTTP/1.1 ")
}

/// Asks again and again, which is what makes the Panel look at its files.
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "{what}");
    }
}

#[test]
fn a_changed_certificate_is_served_without_a_restart() {
    let mut panel = Panel::start(&["n1"]);
    panel.kill();
    let dir = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
    let copy = |from: &str, to: &Path| assert!(fs::copy(Path::new(SUPPORT).join(from), to).is_ok());
    copy(ONE[0], &cert);
    copy(ONE[1], &key);
    panel.start_again(&[("TLS_CERT", cert.to_str().unwrap()), ("TLS_KEY", key.to_str().unwrap())]);
    let (one, other) = (pin(ONE[0]), pin(OTHER[0]));
    assert!(serves(&panel.http, &one) && serves(&panel.agents, &one) && !serves(&panel.http, &other));
    let request = format!(
        "GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        panel.token
    );
    let mut stream = BufReader::new(ask(&panel.http, &one, &request).unwrap());
    let mut line = String::new();
    while !line.starts_with("event: snapshot") {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0);
    }

    // Half of the change, as one sees it between two writes: the pair of before is served on, and it is told.
    copy(OTHER[0], &cert);
    until("that the pair cannot be used is told", || {
        assert!(serves(&panel.http, &one));
        panel.log().contains("the changed certificate cannot be used")
    });
    copy(OTHER[1], &key);
    until("the new certificate is served", || serves(&panel.http, &other));
    until("to Agents as well", || serves(&panel.agents, &other));
    assert!(!serves(&panel.http, &one));

    // Who was connected still is, and hears what happens.
    let request = format!(
        "PATCH /api/v1/nodes/n1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{{\"maintenance\":true}}",
        panel.token
    );
    let mut changed = ask(&panel.http, &other, &request).unwrap();
    let mut head = [0; 12];
    changed.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    while !line.contains("\"maintenance\":true") {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream has ended");
    }
}
