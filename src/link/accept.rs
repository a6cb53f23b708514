//! The serving side of the handshake (RFC 6455 section 4.2): from an accepted stream to the same [`Connection`] that
//! a dial gives.
//!
//! Runs on the thread that calls it and ends within the bound it is given. Whoever accepted the stream may have
//! read the head already and hands over the bytes.

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime};
use std::{error, fmt};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;

use super::connection::{Connection, Limits};
pub use super::head::Headers;
use super::head::{RequestHead, read_head};
use super::transport::Transport;

/// How long the handshake may take.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// An upgrade request that is a valid one, for the decision whether to let it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    /// Without the question mark.
    pub query: Option<String>,
    pub headers: Headers,
}

/// The answer to a request that is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refuse {
    /// From 400 to 599.
    pub status: u16,
    /// The body: plain text without secrets.
    pub text: String,
    pub retry_after: Option<Duration>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum AcceptError {
    /// The request is no WebSocket upgrade; it was answered with this status.
    BadRequest {
        status: u16,
        cause: &'static str,
    },
    /// The decision was no; it was answered.
    Refused(Refuse),
    Io(io::Error),
}

impl Request {
    /// The value of a query parameter, percent-decoding left to the caller.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        let pairs = self.query.as_deref()?.split('&');
        pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// Does the handshake within `wait`. `read` holds the bytes that were already read from the stream. `decide` sees the
/// request before the answer is given.
pub fn accept(
    mut transport: Transport,
    read: Vec<u8>,
    limits: Limits,
    wait: Duration,
    decide: impl FnOnce(&Request) -> Result<(), Refuse>,
) -> Result<Connection, AcceptError> {
    let deadline = Instant::now() + wait;
    let mut stream = transport.until(deadline);
    let (head, leftover) = read_head(&mut stream, read).map_err(AcceptError::Io)?;
    let answered = match check(&head) {
        Ok((request, key)) => decide(&request).map(|()| key).map_err(AcceptError::Refused),
        Err((status, cause)) => Err(AcceptError::BadRequest { status, cause }),
    };
    let answer = match &answered {
        Ok(key) => format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\nDate: {}\r\n\r\n",
            derive_accept_key(key.as_bytes()),
            httpdate::fmt_http_date(SystemTime::now())
        ),
        Err(AcceptError::Refused(Refuse { status, text, retry_after })) => {
            refusal(*status, text, *retry_after)
        }
        Err(AcceptError::BadRequest { status, cause }) => refusal(*status, cause, None),
        Err(AcceptError::Io(_)) => String::new(),
    };
    stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).map_err(AcceptError::Io)?;
    drop(stream);
    answered?;
    Connection::new(transport, Role::Server, limits, leftover, None).map_err(AcceptError::Io)
}

/// Checks the request and gives it with its key.
fn check(head: &[u8]) -> Result<(Request, String), (u16, &'static str)> {
    let head = RequestHead::parse(head).map_err(|_| (400, "the request cannot be read"))?;
    let headers = head.headers;
    let fault = if head.method != "GET" {
        (405, "a websocket upgrade is a GET")
    } else if !headers.has_token("upgrade", "websocket") || !headers.has_token("connection", "upgrade") {
        (426, "only websocket upgrades are served here")
    } else if headers.get("sec-websocket-version") != Some("13") {
        (426, "only websocket version 13 is spoken here")
    } else {
        let (path, query) = match head.target.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (head.target, None),
        };
        match headers.get("sec-websocket-key").map(str::to_owned) {
            Some(key) if is_key(&key) => return Ok((Request { path, query, headers }, key)),
            _ => (400, "sec-websocket-key is not valid"),
        }
    };
    Err(fault)
}

/// Sixteen bytes in base64.
fn is_key(text: &str) -> bool {
    text.len() == 24 && BASE64_STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 16)
}

fn refusal(status: u16, text: &str, retry_after: Option<Duration>) -> String {
    let reason = match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Refused",
    };
    let mut extra =
        retry_after.map_or(String::new(), |wait| format!("Retry-After: {}\r\n", wait.as_secs().max(1)));
    match status {
        401 => extra.push_str("WWW-Authenticate: Bearer\r\n"),
        405 => extra.push_str("Allow: GET\r\n"),
        426 => extra.push_str("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
        _ => {}
    }
    format!(
        "HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nDate: {}\r\n{extra}\r\n{text}",
        text.len(),
        httpdate::fmt_http_date(SystemTime::now())
    )
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AcceptError::BadRequest { status, cause } => write!(f, "upgrade: answered {status}: {cause}"),
            AcceptError::Refused(Refuse { status, text, .. }) => {
                write!(f, "upgrade: refused with {status}: {text}")
            }
            AcceptError::Io(cause) => write!(f, "upgrade: {cause}"),
        }
    }
}

impl error::Error for AcceptError {}
