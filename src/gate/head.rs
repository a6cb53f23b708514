//! The head of a request: request line and headers, read strictly once and owned.
//!
//! Pure: bytes in, [`Head`] or the status that refuses them out. Whatever two readers could understand differently is
//! refused here (RFC 9112 sections 3 and 6, RFC 9110 section 5), so that neither tiny_http nor a proxy in front
//! can be made to see another request than the one that was checked.

use std::fmt;
use std::net::IpAddr;

/// Most header lines a head may have.
const MAX_HEADERS: usize = 100;

/// Where the body of a request ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`, or 0 when there is neither header.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why a head was refused. The text goes to the client: it names the rule and quotes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Answered with 400.
    Malformed(&'static str),
    /// More bytes or lines than allowed, answered with 431.
    TooLarge,
    /// An `Expect` other than `100-continue`, answered with 417.
    Expectation,
}

impl HeadError {
    /// The HTTP status that answers it.
    pub fn status(self) -> u16 {
        match self {
            HeadError::Malformed(_) => 400,
            HeadError::TooLarge => 431,
            HeadError::Expectation => 417,
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadError::Malformed(rule) => write!(f, "bad request: {rule}"),
            HeadError::TooLarge => f.write_str("request head too large"),
            HeadError::Expectation => f.write_str("expectation failed: only 100-continue is known"),
        }
    }
}

impl std::error::Error for HeadError {}

/// A request line and its headers. Everything in it is ASCII without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub(super) method: String,
    pub(super) target: String,
    /// The minor version: 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub(super) minor: u8,
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    /// As it came: methods are case sensitive.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Path and query as they came, still percent-encoded. Starts with `/`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The path, still percent-encoded.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }

    /// What follows the first `?`, still percent-encoded.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Names and values in the order they came; a name may come more than once.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether a proxy has handled the request and said so (`Forwarded`, `X-Forwarded-*`, `Via`): the peer is
    /// then the proxy and not the one who asks.
    pub fn was_forwarded(&self) -> bool {
        self.headers().any(|(name, _)| {
            let name = name.to_ascii_lowercase();
            name == "forwarded" || name == "via" || name.starts_with("x-forwarded-")
        })
    }

    /// Whether it is asked by a name that nobody else can make point here: an address, `localhost` and what is under it
    /// (RFC 6761 section 6.3), or none at all. A page in a browser on this machine is let in by any other name that its
    /// owner has resolve to loopback (DNS rebinding).
    pub fn has_own_host(&self) -> bool {
        let Some(value) = self.header("host") else { return true };
        let name = match value.strip_prefix('[') {
            Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
            None => value.split(':').next().unwrap_or_default(),
        };
        let name = name.to_ascii_lowercase();
        name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
    }

    /// Whether this asks for a WebSocket (RFC 6455 section 4.2.1, items 1, 3 and 4).
    pub(super) fn asks_websocket(&self) -> bool {
        self.method == "GET"
            && self.minor == 1
            && self.has_token("upgrade", "websocket")
            && self.has_token("connection", "upgrade")
    }

    pub(super) fn expects_continue(&self) -> bool {
        self.minor == 1 && self.header("expect").is_some()
    }

    fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
    }
}

/// Finds the end of a head as its bytes come in, each byte looked at once, so that a client that sends single
/// bytes costs no more than one that sends all at once.
#[derive(Debug, Default)]
pub(super) struct HeadEnd {
    seen: usize,
}

impl HeadEnd {
    /// `buffer` holds all bytes so far; returns how many of them are the head, once it is complete.
    pub fn find(&mut self, buffer: &[u8], most: usize) -> Result<Option<usize>, HeadError> {
        for at in self.seen..buffer.len().min(most) {
            if buffer[at] != b'\n' {
                continue;
            }
            // RFC 9112 section 2.2 lets a server take a bare LF as the end of a line; a proxy in front may not, and
            // the two would then see different heads.
            if at == 0 || buffer[at - 1] != b'\r' {
                return Err(HeadError::Malformed("a line ends without CR LF"));
            }
            if at >= 3 && buffer[at - 3..at - 1] == *b"\r\n" {
                return Ok(Some(at + 1));
            }
        }
        self.seen = buffer.len();
        if buffer.len() >= most { Err(HeadError::TooLarge) } else { Ok(None) }
    }
}

/// Parses a complete head, up to and with its empty line.
pub(super) fn parse(bytes: &[u8]) -> Result<(Head, Framing), HeadError> {
    let mut storage = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut storage);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(HeadError::Malformed("no complete head")),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(httparse::Error::HeaderName) => return Err(HeadError::Malformed("header name or folded line")),
        Err(httparse::Error::HeaderValue) => return Err(HeadError::Malformed("header value")),
        Err(httparse::Error::Version) => return Err(HeadError::Malformed("HTTP version")),
        Err(_) => return Err(HeadError::Malformed("request line")),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(HeadError::Malformed("request line"));
    };
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(HeadError::Malformed("request target"));
    }
    let mut headers = Vec::with_capacity(request.headers.len());
    for header in request.headers.iter() {
        let value = std::str::from_utf8(header.value).ok().filter(|value| value.is_ascii());
        let value = value.ok_or(HeadError::Malformed("header value is not ASCII"))?;
        headers.push((header.name.to_owned(), value.to_owned()));
    }
    let head = Head { method: method.to_owned(), target: target.to_owned(), minor, headers };
    match head.all("host").count() {
        1 => {}
        0 if minor == 0 => {}
        _ => return Err(HeadError::Malformed("exactly one Host header is required")),
    }
    let mut expect = head.all("expect");
    if expect.next().is_some_and(|value| !value.eq_ignore_ascii_case("100-continue"))
        || expect.next().is_some()
    {
        return Err(HeadError::Expectation);
    }
    drop(expect);
    let framing = framing(&head)?;
    Ok((head, framing))
}

/// RFC 9112 section 6.3, without its leniencies: every ambiguity is the material of request smuggling.
fn framing(head: &Head) -> Result<Framing, HeadError> {
    let lengths: Vec<&str> = head.all("content-length").collect();
    let codings: Vec<&str> = head.all("transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => {
            // `parse` alone would take a leading `+`.
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let length = digits.then(|| length.parse().ok()).flatten();
            length
                .map(Framing::Length)
                .ok_or(HeadError::Malformed("Content-Length is not one decimal number"))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") && head.minor == 1 => Ok(Framing::Chunked),
        ([], [_]) => Err(HeadError::Malformed("Transfer-Encoding is not exactly chunked on HTTP/1.1")),
        ([_, _, ..], []) => Err(HeadError::Malformed("more than one Content-Length")),
        ([], _) => Err(HeadError::Malformed("more than one Transfer-Encoding")),
        _ => Err(HeadError::Malformed("both Content-Length and Transfer-Encoding")),
    }
}
