//! Turns our [`Response`] into tiny_http's, which writes status line, `Date`, `Content-Length` and body. No I/O.

use std::borrow::Cow;
use std::io::{Cursor, empty};
use std::sync::Arc;

use crossbeam_channel::Receiver;
use tiny_http::{HTTPVersion, Header, StatusCode};

use super::message::{Body, Response};

/// Set on every response whose handler has not set them: no guessing of types, nothing kept by caches, no address told to
/// other sites, no framing by them (clickjacking).
const SAFE: [(&str, &str); 4] = [
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
];

/// tiny_http keeps this header for itself and never writes it, so it is put in behind the status line. One request per
/// connection is the gate's rule, and a client that is not told would try to use the connection again.
const CLOSE: &[u8] = b"Connection: close\r\n";

/// What answers a request that finds all places taken.
pub(super) fn busy() -> Response {
    Response::text(503, "busy, try again shortly\n").with("Retry-After", "1")
}

/// A response whose body is there. Not for streams: they have none yet.
pub(super) fn whole(response: Response) -> tiny_http::Response<Cursor<Cow<'static, [u8]>>> {
    let headers = headers(&response);
    let body = match response.body {
        Body::Bytes(bytes) => bytes,
        Body::Stream(_) => Cow::Borrowed(&[][..]),
    };
    let length = body.len();
    tiny_http::Response::new(StatusCode(response.status), headers, Cursor::new(body), Some(length), None)
        // A known length is told as one, however large: a client can then see that a body was cut.
        .with_chunked_threshold(usize::MAX)
}

/// The head of a streaming response, and its pieces. The body is what comes until the connection closes (RFC 9112 section
/// 6.3, item 8): it needs no framing, and HTTP/1.0 proxies understand it.
pub(super) fn streaming(response: Response) -> (Vec<u8>, Receiver<Arc<[u8]>>) {
    let headers = headers(&response);
    let mut head = Vec::new();
    // Writing to memory cannot fail.
    let _ = tiny_http::Response::new(StatusCode(response.status), headers, empty(), None, None).raw_print(
        &mut head,
        HTTPVersion(1, 1),
        &[],
        true,
        None,
    );
    let framing = b"Transfer-Encoding: chunked\r\n";
    if let Some(at) = head.windows(framing.len()).position(|window| window == framing) {
        head.drain(at..at + framing.len());
    }
    if let Some(length) = response.length
        && let Some(end) = head.len().checked_sub(2)
    {
        // Before the empty line that ends the head.
        head.splice(end..end, format!("Content-Length: {length}\r\n").into_bytes());
    }
    let pieces = match response.body {
        Body::Stream(pieces) => pieces,
        // Its sender is gone, so the stream ends at once.
        Body::Bytes(_) => crossbeam_channel::bounded(0).1,
    };
    (head, pieces)
}

/// A response as the gate itself sends it, complete with its `Connection: close`.
pub(super) fn bytes(response: Response, head_only: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = whole(response).raw_print(&mut bytes, HTTPVersion(1, 1), &[], head_only, None);
    mark_closing(&mut bytes);
    bytes
}

/// Puts `Connection: close` behind the status line; `false` while that line is not complete.
pub(super) fn mark_closing(response: &mut Vec<u8>) -> bool {
    let Some(end) = response.iter().position(|&byte| byte == b'\n') else {
        return false;
    };
    response.splice(end + 1..end + 1, CLOSE.iter().copied());
    true
}

fn headers(response: &Response) -> Vec<Header> {
    let given = |name: &str| response.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    let safe = SAFE.iter().filter(|(name, _)| !given(name)).copied();
    let own = response.headers.iter().map(|(name, value)| (*name, value.as_str()));
    let server = Some(("Server", "longshore")).filter(|_| !given("Server"));
    server.into_iter().chain(safe).chain(own).filter_map(|(name, value)| header(name, value)).collect()
}

fn header(name: &str, value: &str) -> Option<Header> {
    let clean = value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
    let token = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let header = (clean && token).then(|| Header::from_bytes(name, value).ok()).flatten();
    if header.is_none() {
        log::error!("response header {name:?} left out: not a field name and value");
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_add_a_header() {
        let response = Response::text(200, "x").with("X-Name", "a\r\nSet-Cookie: b").with("X-Good", "c");
        let text = String::from_utf8(bytes(response, false)).unwrap();
        assert!(!text.contains("Set-Cookie") && text.contains("X-Good: c\r\n"), "{text}");
    }

    #[test]
    fn every_response_closes_and_is_safe_by_default() {
        let text = String::from_utf8(bytes(Response::json(200, "{}"), false)).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n"), "{text}");
        for line in
            ["X-Content-Type-Options: nosniff", "Cache-Control: no-store", "Content-Length: 2", "Date: "]
        {
            assert!(text.contains(&format!("\r\n{line}")), "{line} in {text}");
        }
        assert!(text.ends_with("\r\n\r\n{}"));
        let kept = Response::empty(200).with("Cache-Control", "max-age=60");
        let text = String::from_utf8(bytes(kept, false)).unwrap();
        assert!(text.contains("max-age=60") && !text.contains("no-store"), "{text}");
    }

    #[test]
    fn a_stream_is_delimited_by_its_end() {
        let (_pieces, receiver) = crossbeam_channel::bounded(0);
        let (head, _) = streaming(Response::stream("text/event-stream", receiver));
        let text = String::from_utf8(head).unwrap();
        assert!(!text.contains("Transfer-Encoding") && !text.contains("Content-Length"), "{text}");
        assert!(
            text.contains("\r\nContent-Type: text/event-stream\r\n") && text.ends_with("\r\n\r\n"),
            "{text}"
        );
    }
}
