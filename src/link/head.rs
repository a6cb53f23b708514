//! HTTP heads as the handshakes need them: read within bounds, taken apart with httparse, looked up.
//!
//! Written for ourselves instead of tungstenite's handshake because that one logs the request with its
//! `Authorization` at trace level, bounds neither time nor the size of a head, and hides the answer's `Date`.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

/// The longest head in bytes, request or response.
pub const MAX_HEAD: usize = 16 << 10;
/// The most header lines in a head.
const MAX_HEADERS: usize = 64;
/// How much of a refusal's body is read, in bytes, and shown, in characters.
const MAX_BODY: usize = 4 << 10;
const SHOWN_BODY: usize = 200;

/// The header lines of a head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Vec<u8>)>);

/// A response head.
pub struct ResponseHead {
    pub status: u16,
    pub headers: Headers,
}

/// A request head.
pub struct RequestHead {
    pub method: String,
    pub target: String,
    pub headers: Headers,
}

impl Headers {
    fn new(lines: &[httparse::Header<'_>]) -> Headers {
        Headers(lines.iter().map(|line| (line.name.to_ascii_lowercase(), line.value.to_vec())).collect())
    }

    /// The value of the first header of this name, if it is text. The name's case does not matter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The values of every header of this name that are text.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let of_name = self.0.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name));
        of_name.filter_map(|(_, value)| std::str::from_utf8(value).ok().map(str::trim))
    }

    /// Whether a comma-separated list header (RFC 9110 section 5.6.1) has this token.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// The `Date` header.
    pub fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.get("date")?).ok()
    }

    /// The `Retry-After` header (RFC 9110 section 10.2.3): seconds, or a date, which is taken against the same
    /// answer's `Date` if there is one, because this machine's clock may be wrong.
    pub fn retry_after(&self) -> Option<Duration> {
        let value = self.get("retry-after")?;
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = httpdate::parse_http_date(value).ok()?;
        Some(at.duration_since(self.date().unwrap_or_else(SystemTime::now)).unwrap_or_default())
    }
}

impl ResponseHead {
    pub fn parse(head: &[u8]) -> io::Result<ResponseHead> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut lines);
        match (response.parse(head).map_err(invalid)?, response.code) {
            (httparse::Status::Complete(_), Some(status)) => {
                Ok(ResponseHead { status, headers: Headers::new(response.headers) })
            }
            _ => Err(invalid("incomplete head")),
        }
    }
}

impl RequestHead {
    pub fn parse(head: &[u8]) -> io::Result<RequestHead> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut lines);
        match (request.parse(head).map_err(invalid)?, request.method, request.path) {
            (httparse::Status::Complete(_), Some(method), Some(target)) => Ok(RequestHead {
                method: method.to_owned(),
                target: target.to_owned(),
                headers: Headers::new(request.headers),
            }),
            _ => Err(invalid("incomplete head")),
        }
    }
}

/// Reads a head; `read` is what is already there. Gives the head and what was read behind it. Fails with
/// `InvalidData` over [`MAX_HEAD`] and with `UnexpectedEof` when the peer closes before the end.
pub fn read_head(stream: &mut impl Read, mut read: Vec<u8>) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut searched = 0;
    loop {
        if let Some(at) = read[searched..].windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = read.split_off(searched + at + 4);
            return Ok((read, rest));
        }
        if read.len() >= MAX_HEAD {
            return Err(invalid("head over 16384 bytes"));
        }
        searched = read.len().saturating_sub(3);
        let mut piece = [0; 2048];
        let room = piece.len().min(MAX_HEAD - read.len());
        match stream.read(&mut piece[..room]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => read.extend_from_slice(&piece[..n]),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}

/// The first 200 characters of a refusal's body, made printable. `read` is what came with the head. Whatever goes
/// wrong on the way only makes it shorter.
pub fn read_body(stream: &mut impl Read, headers: &Headers, mut read: Vec<u8>) -> String {
    let length = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(MAX_BODY);
    let wanted = length.min(MAX_BODY);
    if read.len() < wanted {
        let missing = (wanted - read.len()) as u64;
        let _ = stream.take(missing).read_to_end(&mut read);
    }
    read.truncate(wanted);
    let body = String::from_utf8_lossy(&read);
    let body = match headers.has_token("transfer-encoding", "chunked") {
        // The size of the first chunk is no part of the text, and the first chunk is enough.
        true => body.split_once("\r\n").map_or("", |(_, chunk)| chunk.split("\r\n").next().unwrap_or("")),
        false => &body,
    };
    printable(body)
}

/// Runs of whitespace become one space, what does not print becomes a dot, and the rest is cut at 200 characters.
pub fn printable(text: &str) -> String {
    let shown = |c: char| if c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric() { c } else { '.' };
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().map(shown).take(SHOWN_BODY).collect()
}

fn invalid(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &str) -> Headers {
        ResponseHead::parse(format!("HTTP/1.1 503 X\r\n{lines}\r\n\r\n").as_bytes()).unwrap().headers
    }

    #[test]
    fn retry_after_in_seconds_and_as_a_date() {
        for (lines, expected) in [
            ("Retry-After: 7", Some(7)),
            ("retry-after:  120 ", Some(120)),
            ("Date: Fri, 15 May 2015 15:34:21 GMT\r\nRetry-After: Fri, 15 May 2015 15:35:21 GMT", Some(60)),
            ("Date: Fri, 15 May 2015 15:34:21 GMT\r\nRetry-After: Fri, 15 May 2015 15:30:00 GMT", Some(0)),
            ("Retry-After: soon", None),
            ("X: y", None),
        ] {
            assert_eq!(headers(lines).retry_after(), expected.map(Duration::from_secs), "{lines}");
        }
    }

    #[test]
    fn tokens_in_lists() {
        let headers = headers("Connection: keep-alive, Upgrade\r\nConnection: x");
        assert!(headers.has_token("connection", "upgrade") && headers.has_token("Connection", "X"));
        assert!(!headers.has_token("connection", "keep"));
    }

    #[test]
    fn a_head_is_found_wherever_the_pieces_break() {
        let text = b"HTTP/1.1 101 X\r\nA: b\r\n\r\nrest";
        for cut in 0..text.len() {
            let (prefix, mut stream) = (text[..cut].to_vec(), &text[cut..]);
            let (head, mut rest) = read_head(&mut stream, prefix).unwrap();
            rest.extend_from_slice(stream);
            assert_eq!((&head[..], &rest[..]), text.split_at(24));
        }
        assert_eq!(
            read_head(&mut &b"HTTP/1.1 101"[..], vec![]).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        let endless = vec![b'a'; MAX_HEAD + 1];
        assert_eq!(read_head(&mut &endless[..], vec![]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn bodies_become_one_printable_line() {
        for (lines, body, expected) in [
            ("Content-Length: 5", "hello there", "hello"),
            ("X: y", "a\r\n\tb\x1b[31m\u{202e}c", "a b.[31m.c"),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        ] {
            assert_eq!(read_body(&mut body.as_bytes(), &headers(lines), vec![]), expected);
        }
        assert_eq!(read_body(&mut io::repeat(b'x'), &headers("X: y"), vec![]).len(), SHOWN_BODY);
    }
}
