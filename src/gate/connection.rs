//! One client connection, from accept to close, as a state machine that never blocks. Runs on the gate thread.
//!
//! ```text
//! Head --complete--> Body --complete--> Reply --sent--> Linger --> closed
//!   |                  |                  ^
//!   '--- refused, or no body -------------'     Head --upgrade--> handed out
//! ```

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};
use rustix::event::PollFlags;

use super::accept::Front;
use super::backend::{Exchange, Refused, Ticket};
use super::body::{BodyError, Collector, Share};
use super::bump;
use super::head::{self, Framing, Head, HeadEnd};
use super::message::{Request, Response, Upgrade};
use super::render;
use super::stream::Stream;

/// Bytes moved at a time, and the unit in which clients are timed.
pub(super) const BLOCK: usize = 16 * 1024;

/// Blocks moved for one connection before the others get their turn.
const TURN: usize = 8;

/// How long a client may take to close after the response. Closing with its bytes unread would make the kernel send a
/// reset, which can destroy the response before the client has read it.
const LINGER: Duration = Duration::from_secs(1);

/// A connection and what is known of it.
pub(super) struct Connection {
    stream: Stream,
    peer: SocketAddr,
    accepted: Instant,
    deadline: Option<Instant>,
    /// The client has sent its last byte. It may still want the response.
    half_closed: bool,
    phase: Phase,
}

enum Phase {
    Head { buffer: Vec<u8>, end: HeadEnd },
    Body { head: Head, body: Collector },
    Reply(Reply),
    Linger,
}

/// A response on its way to the client.
struct Reply {
    /// Where more of it comes from: tiny_http, unless it is the gate's own.
    source: Option<UnixStream>,
    /// What has been read of it, and how much of that is sent.
    buffer: Vec<u8>,
    sent: usize,
    /// The status line is there and `Connection: close` behind it. INVARIANT: nothing is sent before.
    marked: bool,
    /// As long as no byte has come from tiny_http.
    ticket: Option<Ticket>,
    /// Dropped when the client leaves, which ends a streaming response.
    present: Option<Sender<Infallible>>,
    head_only: bool,
}

impl Reply {
    fn pending(&self) -> bool {
        self.marked && self.sent < self.buffer.len()
    }
}

/// What the socket gave.
enum Received {
    Bytes(usize),
    Later,
    End,
}

fn receive(from: &mut impl Read, buffer: &mut [u8]) -> Received {
    loop {
        match from.read(buffer) {
            Ok(0) => return Received::End,
            Ok(length) => return Received::Bytes(length),
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Received::Later,
            Err(_) => return Received::End,
        }
    }
}

impl Connection {
    /// `stream` is nonblocking.
    pub fn new(stream: Stream, peer: SocketAddr, now: Instant, head_time: Duration) -> Connection {
        Connection {
            stream,
            peer,
            accepted: now,
            deadline: Some(now + head_time),
            half_closed: false,
            phase: Phase::Head { buffer: Vec::new(), end: HeadEnd::default() },
        }
    }

    /// When [`expire`](Connection::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether it may be closed to make room for another, and since when it has been waited for; those that have had their
    /// response go first.
    pub fn idle_since(&self) -> Option<(bool, Instant)> {
        match self.phase {
            Phase::Linger => Some((false, self.accepted)),
            Phase::Head { .. } => Some((true, self.accepted)),
            Phase::Body { .. } | Phase::Reply(_) => None,
        }
    }

    /// Whether a response is owed, which shutdown waits for.
    pub fn is_replying(&self) -> bool {
        matches!(self.phase, Phase::Reply(_))
    }

    /// Ends a streaming response; any other goes on.
    pub fn leave(&mut self) {
        if let Phase::Reply(reply) = &mut self.phase {
            reply.present = None;
        }
    }

    /// What to wait for: readiness of the client's socket, and of tiny_http's when there is one.
    pub fn interest(&self) -> [(BorrowedFd<'_>, PollFlags); 2] {
        let hangup = if self.half_closed { PollFlags::empty() } else { PollFlags::RDHUP };
        let client = self.stream.as_fd();
        match &self.phase {
            Phase::Reply(reply) if reply.pending() => {
                [(client, PollFlags::OUT | hangup), (client, PollFlags::empty())]
            }
            Phase::Reply(Reply { source: Some(source), .. }) => {
                [(client, hangup), (source.as_fd(), PollFlags::IN)]
            }
            _ => [(client, PollFlags::IN), (client, PollFlags::empty())],
        }
    }

    /// Does what the readiness `client` allows, until something would block; `None` when the connection is at its end.
    pub fn advance(mut self, client: PollFlags, front: &mut Front, now: Instant) -> Option<Connection> {
        if self.is_replying() {
            if client.intersects(PollFlags::ERR | PollFlags::HUP) {
                self.withdraw(front);
                return None;
            }
            if client.intersects(PollFlags::RDHUP) {
                self.half_closed = true;
                self.leave();
            }
        }
        match self.phase {
            Phase::Head { .. } => self.read_head(front, now),
            Phase::Body { .. } => self.read_body(front, now),
            Phase::Reply(_) => self.reply(front, now),
            Phase::Linger => self.linger(front),
        }
    }

    /// The deadline has passed; `None` when the connection is at its end.
    pub fn expire(mut self, front: &mut Front, now: Instant) -> Option<Connection> {
        match &mut self.phase {
            Phase::Head { buffer, .. } => {
                bump(&front.counts.late);
                if !buffer.is_empty() {
                    self.send_last(Response::text(408, "the request took too long\n"));
                }
                None
            }
            Phase::Body { .. } => {
                bump(&front.counts.late);
                self.send_last(Response::text(408, "the request took too long\n"));
                None
            }
            Phase::Reply(reply) if !reply.pending() => {
                // Nothing to send, so the client is not to blame: either a worker has it and takes its time, or
                // tiny_http broke and has lost it.
                let head_only = reply.head_only;
                self.deadline = None;
                if self.withdraw(front) { self.lost(head_only, front, now) } else { Some(self) }
            }
            Phase::Reply(_) => {
                bump(&front.counts.late);
                None
            }
            Phase::Linger => None,
        }
    }

    fn read_head(mut self, front: &mut Front, now: Instant) -> Option<Connection> {
        let Phase::Head { buffer, end } = &mut self.phase else { return Some(self) };
        loop {
            match receive(&mut self.stream, &mut front.scratch[..]) {
                Received::Bytes(length) => buffer.extend_from_slice(&front.scratch[..length]),
                Received::Later => return Some(self),
                Received::End => return None,
            }
            match end.find(buffer, front.config.head_bytes) {
                Ok(None) => {}
                Ok(Some(length)) => {
                    let mut bytes = std::mem::take(buffer);
                    let early = bytes.split_off(length);
                    return match head::parse(&bytes) {
                        Ok((head, framing)) => self.take_head(head, framing, early, front, now),
                        Err(cause) => self.refuse_head(cause, front, now),
                    };
                }
                Err(cause) => return self.refuse_head(cause, front, now),
            }
        }
    }

    fn refuse_head(self, cause: head::HeadError, front: &mut Front, now: Instant) -> Option<Connection> {
        bump(&front.counts.malformed);
        self.refuse(Response::text(cause.status(), format!("{cause}\n")), false, front, now)
    }

    fn take_head(
        mut self,
        head: Head,
        framing: Framing,
        early: Vec<u8>,
        front: &mut Front,
        now: Instant,
    ) -> Option<Connection> {
        if framing == Framing::Length(0) {
            return match &front.config.upgrades {
                Some(upgrades) if head.asks_websocket() => {
                    let upgrades = upgrades.clone();
                    self.hand_out(head, early, &upgrades, front, now)
                }
                _ => self.submit(head, Vec::new(), Share::none(&front.budget), front, now),
            };
        }
        let head_only = head.method == "HEAD";
        let handler = front.backend.handler();
        // A panic in a handler must cost one request and not the gate.
        let limit = catch_unwind(AssertUnwindSafe(|| handler.body_limit(&head, self.peer)));
        let limit = match limit {
            Ok(Ok(limit)) => limit,
            Ok(Err(refusal)) => return self.refuse(refusal, head_only, front, now),
            Err(_) => return self.refuse(Response::text(500, "internal error\n"), head_only, front, now),
        };
        let mut body = match Collector::new(framing, limit, Share::none(&front.budget)) {
            Ok(body) => body,
            Err(cause) => return self.refuse_body(cause, head_only, front, now),
        };
        if head.expects_continue() && early.is_empty() {
            // Into the empty buffer of a fresh connection; if it does not fit, the client is not one.
            let line = b"HTTP/1.1 100 Continue\r\n\r\n";
            if !matches!(self.stream.write(line), Ok(written) if written == line.len()) {
                return None;
            }
        }
        let pushed = body.push(&early);
        self.deadline = Some(now + front.config.body_time);
        self.phase = Phase::Body { head, body };
        match pushed {
            Ok(()) => self.read_body(front, now),
            Err(cause) => self.refuse_body(cause, head_only, front, now),
        }
    }

    fn read_body(mut self, front: &mut Front, now: Instant) -> Option<Connection> {
        let Phase::Body { head, body } = &mut self.phase else { return Some(self) };
        for _ in 0..TURN {
            // Before it is looked for more: none comes after the last byte, and nothing would wake the gate again.
            if body.is_complete() {
                break;
            }
            let before = body.len();
            match receive(&mut self.stream, &mut front.scratch[..]) {
                Received::Bytes(length) => {
                    if let Err(cause) = body.push(&front.scratch[..length]) {
                        let head_only = head.method == "HEAD";
                        return self.refuse_body(cause, head_only, front, now);
                    }
                }
                Received::Later => return Some(self),
                Received::End => return None,
            }
            if body.len() / BLOCK > before / BLOCK {
                self.deadline = Some(now + front.config.body_time);
            }
        }
        match self.phase {
            Phase::Body { head, body } if body.is_complete() => {
                let (data, share) = body.into_parts();
                self.phase = Phase::Linger;
                self.submit(head, data, share, front, now)
            }
            phase => Some(Connection { phase, ..self }),
        }
    }

    fn refuse_body(
        self,
        cause: BodyError,
        head_only: bool,
        front: &mut Front,
        now: Instant,
    ) -> Option<Connection> {
        let response = match cause {
            BodyError::TooLarge => Response::text(413, "the body is larger than allowed here\n"),
            BodyError::NoRoom => {
                bump(&front.counts.busy);
                render::busy()
            }
            BodyError::Malformed => {
                bump(&front.counts.malformed);
                Response::text(400, "bad request: chunked body\n")
            }
        };
        self.refuse(response, head_only, front, now)
    }

    fn hand_out(
        mut self,
        head: Head,
        early: Vec<u8>,
        upgrades: &Sender<Upgrade>,
        front: &mut Front,
        now: Instant,
    ) -> Option<Connection> {
        if self.stream.socket().set_nonblocking(false).is_err() {
            return None;
        }
        let upgrade = Upgrade { head, peer: self.peer, stream: self.stream, early };
        let refused = match upgrades.try_send(upgrade) {
            Ok(()) => return None,
            Err(TrySendError::Full(upgrade) | TrySendError::Disconnected(upgrade)) => upgrade,
        };
        bump(&front.counts.busy);
        self.stream = refused.stream;
        if self.stream.socket().set_nonblocking(true).is_err() {
            return None;
        }
        self.refuse(render::busy(), false, front, now)
    }

    fn submit(
        mut self,
        head: Head,
        body: Vec<u8>,
        share: Share,
        front: &mut Front,
        now: Instant,
    ) -> Option<Connection> {
        let head_only = head.method == "HEAD";
        let request = Request { head, body, peer: self.peer, _share: share };
        match front.backend.submit(request) {
            Ok(Exchange { ticket, socket, present }) => {
                self.deadline = Some(now + front.config.head_time);
                self.phase = Phase::Reply(Reply {
                    source: Some(socket),
                    buffer: Vec::new(),
                    sent: 0,
                    marked: false,
                    ticket: Some(ticket),
                    present: Some(present),
                    head_only,
                });
                Some(self)
            }
            Err(refused) => {
                bump(&front.counts.busy);
                if let Refused::Unavailable(cause) = refused {
                    front.complain(format_args!("a request was refused: {cause}"), now);
                }
                self.refuse(render::busy(), head_only, front, now)
            }
        }
    }

    /// Answers in the gate's own name.
    fn refuse(
        mut self,
        response: Response,
        head_only: bool,
        front: &mut Front,
        now: Instant,
    ) -> Option<Connection> {
        self.deadline = Some(now + front.config.write_time);
        self.phase = Phase::Reply(Reply {
            source: None,
            buffer: render::bytes(response, head_only),
            sent: 0,
            marked: true,
            ticket: None,
            present: None,
            head_only,
        });
        self.reply(front, now)
    }

    /// Sends what is there, then fetches more, until one of them would block.
    fn reply(mut self, front: &mut Front, now: Instant) -> Option<Connection> {
        for _ in 0..TURN {
            let Phase::Reply(reply) = &mut self.phase else { return Some(self) };
            while reply.pending() {
                match self.stream.write(&reply.buffer[reply.sent..]) {
                    Ok(written) => reply.sent += written,
                    Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                    Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Some(self),
                    Err(_) => return None,
                }
            }
            if reply.marked {
                reply.buffer.clear();
                reply.sent = 0;
                // From here on the handler is waited for, who bounds himself.
                self.deadline = None;
            }
            let Some(source) = &mut reply.source else { return self.finish(now) };
            match receive(source, &mut front.scratch[..]) {
                Received::Bytes(length) => {
                    reply.ticket = None;
                    reply.buffer.extend_from_slice(&front.scratch[..length]);
                    reply.marked = reply.marked || render::mark_closing(&mut reply.buffer);
                    self.deadline = Some(now + front.config.write_time);
                }
                Received::Later => return Some(self),
                Received::End if reply.marked => return self.finish(now),
                Received::End => {
                    let head_only = reply.head_only;
                    self.withdraw(front);
                    return self.lost(head_only, front, now);
                }
            }
        }
        Some(self)
    }

    fn finish(mut self, now: Instant) -> Option<Connection> {
        if self.stream.finish().is_err() || self.half_closed {
            return None;
        }
        self.deadline = Some(now + LINGER);
        self.phase = Phase::Linger;
        Some(self)
    }

    fn linger(mut self, front: &mut Front) -> Option<Connection> {
        for _ in 0..TURN {
            match receive(&mut self.stream, &mut front.scratch[..]) {
                Received::Bytes(_) => {}
                Received::Later => break,
                Received::End => return None,
            }
        }
        Some(self)
    }

    /// Takes the request back, unless a worker has it.
    fn withdraw(&mut self, front: &Front) -> bool {
        match &mut self.phase {
            Phase::Reply(Reply { ticket, .. }) => {
                ticket.take().is_some_and(|ticket| front.backend.withdraw(ticket))
            }
            _ => false,
        }
    }

    /// tiny_http has dropped the request or never looked at it, which it does when it is broken.
    fn lost(self, head_only: bool, front: &mut Front, now: Instant) -> Option<Connection> {
        bump(&front.counts.busy);
        front.backend.suspect();
        self.refuse(render::busy(), head_only, front, now)
    }

    /// A last word before the connection is cut; whether it arrives is not waited for.
    fn send_last(&mut self, response: Response) {
        let _: io::Result<usize> = self.stream.write(&render::bytes(response, false));
    }
}
