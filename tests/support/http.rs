//! The smallest HTTP client that assertions need: one connection per request, nothing shared with the code under test.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::SOON;

/// `GET` with more headers; the status and the body as JSON (null when it is none).
pub fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    request(address, "GET", path, headers).unwrap_or_else(|error| panic!("GET {path} at {address}: {error}"))
}

/// The same with any method, for tests that expect a failure too.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> io::Result<(u16, Value)> {
    let answer = exchange(address, method, path, headers, None, SOON)?;
    Ok((answer.status, answer.json()))
}

/// What a server said.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON, null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One request, with a body or without, and all of its answer.
pub fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
    within: Duration,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(within))?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.map(|body| format!("Content-Length: {}\r\n", body.len())).unwrap_or_default();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\n{headers}{length}\r\n")?;
    // One that is refused may be answered before all of it is taken.
    let sent = stream.write_all(body.unwrap_or_default());
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer).and(sent)
        && answer.is_empty()
    {
        return Err(error);
    }
    let end =
        answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.ok_or(io::ErrorKind::InvalidData)?, body: answer.split_off(end + 4), head })
}
