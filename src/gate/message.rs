//! What a handler sees: the request, and the response it returns. No I/O.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::body::Share;
use super::head::Head;
use super::stream::Stream;

/// A complete request: the gate has read all of it, so that no handler ever waits for a client.
#[derive(Debug)]
pub struct Request {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    pub(super) peer: SocketAddr,
    pub(super) _share: Share,
}

impl Request {
    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn method(&self) -> &str {
        self.head.method()
    }

    /// Still percent-encoded.
    pub fn path(&self) -> &str {
        self.head.path()
    }

    /// Still percent-encoded.
    pub fn query(&self) -> Option<&str> {
        self.head.query()
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body, decoded from chunks if it came so, at most what [`Handler::body_limit`](super::Handler::body_limit) allowed.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body, which from now on is empty here. It stays counted against [`Config::body_bytes`](super::Config::body_bytes)
    /// until the request is dropped, so that what is made of it can be bounded too.
    pub fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    /// The body, no longer counted against [`Config::body_bytes`](super::Config::body_bytes).
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// The other end of the TCP connection: a proxy's address when there is one in between.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the asker is on this machine: the peer is loopback and no proxy has said that it stands in between.
    pub fn is_local(&self) -> bool {
        is_local(&self.head, self.peer)
    }
}

/// [`Request::is_local`] for those who have the head alone.
pub fn is_local(head: &Head, peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback() && !head.was_forwarded()
}

/// A request to become a WebSocket, handed out instead of being answered. The receiver writes the 101 or a refusal.
#[derive(Debug)]
pub struct Upgrade {
    pub head: Head,
    pub peer: SocketAddr,
    /// In blocking mode, without time limits.
    pub stream: Stream,
    /// What the client sent right after its head; to be read before the stream.
    pub early: Vec<u8>,
}

/// A body, sent whole or piece by piece.
#[derive(Debug)]
pub enum Body {
    Bytes(Cow<'static, [u8]>),
    /// Each piece is sent at once (server-sent events). The response ends when the sender is dropped; the receiver is
    /// dropped, and so the next send fails, when the client has left or the gate shuts down. The channel is the
    /// producer's to bound. Streams that are sent the same share its bytes.
    Stream(Receiver<Arc<[u8]>>),
}

/// What a handler answers. The gate adds `Connection: close`, `Content-Length` and `Date`, and, where the handler has
/// not set them, `X-Content-Type-Options: nosniff`, `Cache-Control: no-store`, `Referrer-Policy: no-referrer` and
/// `X-Frame-Options: DENY`. A body is not sent in answer to HEAD.
#[derive(Debug)]
pub struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
    /// Of a body that comes piece by piece, where it is known.
    pub(super) length: Option<u64>,
}

impl Response {
    /// Without a body.
    pub fn empty(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Body::Bytes(Cow::Borrowed(&[])), length: None }
    }

    pub fn bytes(status: u16, content_type: &str, body: impl Into<Cow<'static, [u8]>>) -> Response {
        Response { body: Body::Bytes(body.into()), ..Response::empty(status) }
            .with("Content-Type", content_type)
    }

    /// `text/plain`.
    pub fn text(status: u16, text: impl Into<String>) -> Response {
        Response::bytes(status, "text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// `application/json`; `body` is JSON already.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Response {
        Response::bytes(status, "application/json", body.into())
    }

    /// 200 with a body that comes piece by piece; at most [`Config::streams`](super::Config::streams) at a time, more
    /// are answered 503. `text/event-stream` for server-sent events.
    pub fn stream(content_type: &str, pieces: Receiver<Arc<[u8]>>) -> Response {
        Response { body: Body::Stream(pieces), ..Response::empty(200) }.with("Content-Type", content_type)
    }

    pub fn not_found() -> Response {
        Response::text(404, "not found\n")
    }

    /// 405 with the methods this path does know, for example `"GET, HEAD"`.
    pub fn method_not_allowed(allow: &str) -> Response {
        Response::text(405, "method not allowed\n").with("Allow", allow)
    }

    /// Sets a header, in place of one of the same name. A value that is no field value (RFC 9110 section 5.5: a control
    /// character, not ASCII) is left out when the response is sent, so that no value can add a header of its own.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name, value.into()));
        self
    }

    /// Adds a header that may stand more than once, as `Set-Cookie`.
    pub fn and(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// Tells how long a body that comes piece by piece is, so that a client sees when one was cut. The pieces have to
    /// add up to it.
    pub fn with_length(self, length: u64) -> Response {
        Response { length: Some(length), ..self }
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    /// The body, unless it comes piece by piece.
    pub fn body_bytes(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Bytes(bytes) => Some(bytes),
            Body::Stream(_) => None,
        }
    }
}
