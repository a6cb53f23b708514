//! One client connection, from accept to close, as a state machine that never blocks. Runs on the gate thread.
//!
//! ```text
//! Head --complete--> Body --complete--> Reply --sent--> Linger --> closed
//!   |                  |                  ^
//!   '--- refused, or no body -------------'     Head --upgrade--> handed out
//! ```

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};
use rustix::event::PollFlags;

use super::accept::Front;
use super::backend::Refused;
use super::body::{BodyError, Collector, Share};
use super::bump;
use super::head::{self, Framing, Head, HeadEnd};
use super::message::{Request, Response, Upgrade};
use super::render;
use super::reply::{BLOCK, Progress, Received, Reply, TURN, receive};
use super::stream::Stream;

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
            reply.leave();
        }
    }

    /// What to wait for: readiness of the client's socket, and of tiny_http's when there is one.
    pub fn interest(&self) -> [(BorrowedFd<'_>, PollFlags); 2] {
        let client = self.stream.as_fd();
        // What TLS still has to send is independent of the phase.
        let sending = if self.stream.is_sending() { PollFlags::OUT } else { PollFlags::empty() };
        let Phase::Reply(reply) = &self.phase else {
            return [(client, PollFlags::IN | sending), (client, PollFlags::empty())];
        };
        let (own, source) = reply.interest();
        let own = own | sending;
        // Once seen, the end of the client's bytes would be reported again and again.
        let hangup = if self.half_closed { PollFlags::empty() } else { PollFlags::RDHUP };
        let source = source.map_or((client, PollFlags::empty()), |source| (source, PollFlags::IN));
        [(client, own | hangup), source]
    }

    /// Does what the readiness `client` allows, until something would block; `None` when the connection is at its end.
    pub fn advance(mut self, client: PollFlags, front: &mut Front, now: Instant) -> Option<Connection> {
        if let Phase::Reply(reply) = &mut self.phase {
            if client.intersects(PollFlags::ERR | PollFlags::HUP) {
                reply.withdraw(&front.backend);
                return None;
            }
            if client.intersects(PollFlags::RDHUP) {
                self.half_closed = true;
                reply.leave();
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
                    self.send_last(front.fault(Response::text(408, "the request took too long\n")));
                }
                None
            }
            Phase::Body { .. } => {
                bump(&front.counts.late);
                self.send_last(front.fault(Response::text(408, "the request took too long\n")));
                None
            }
            Phase::Reply(reply) if !reply.is_pending() && !self.stream.is_sending() => {
                // Nothing to send, so the client is not to blame: either a worker has it and takes its time, or
                // tiny_http broke and has lost it.
                self.deadline = None;
                if reply.withdraw(&front.backend) { self.lost(front, now) } else { Some(self) }
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
        let response = front.fault(Response::text(cause.status(), format!("{cause}\n")));
        self.refuse(response, false, front, now)
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
                Some(upgrades)
                    if head.asks_websocket()
                        && front.config.upgrade_path.is_none_or(|path| head.path() == path) =>
                {
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
            Err(_) => {
                let response = front.fault(Response::text(500, "internal error\n"));
                return self.refuse(response, head_only, front, now);
            }
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
        self.refuse(front.fault(response), head_only, front, now)
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
        self.refuse(front.fault(render::busy()), false, front, now)
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
            Ok(exchange) => {
                // Until then a worker has to take it up.
                self.deadline = Some(now + front.config.head_time);
                self.phase = Phase::Reply(Reply::to(exchange, head_only));
                Some(self)
            }
            Err(refused) => {
                bump(&front.counts.busy);
                if let Refused::Unavailable(cause) = refused {
                    front.complain(format_args!("a request was refused: {cause}"), now);
                }
                self.refuse(front.fault(render::busy()), head_only, front, now)
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
        self.phase = Phase::Reply(Reply::own(response, head_only));
        self.reply(front, now)
    }

    fn reply(mut self, front: &mut Front, now: Instant) -> Option<Connection> {
        let Phase::Reply(reply) = &mut self.phase else { return Some(self) };
        let block_by = now + front.config.write_time;
        match self.stream.flush() {
            Ok(()) => {}
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                self.deadline.get_or_insert(block_by);
                return Some(self);
            }
            Err(_) => return None,
        }
        let scratch = &mut front.scratch[..];
        match reply.relay(&mut self.stream, &front.backend, scratch, &mut self.deadline, block_by) {
            Progress::Waiting => {
                if self.stream.is_sending() {
                    self.deadline.get_or_insert(block_by);
                }
                Some(self)
            }
            Progress::Sent if self.stream.is_sending() => {
                self.deadline.get_or_insert(block_by);
                Some(self)
            }
            Progress::Sent => self.finish(now),
            Progress::Lost => self.lost(front, now),
            Progress::Gone => None,
        }
    }

    /// tiny_http has dropped the request or never looked at it, as it does when it is broken.
    fn lost(self, front: &mut Front, now: Instant) -> Option<Connection> {
        let head_only = matches!(&self.phase, Phase::Reply(reply) if reply.head_only());
        bump(&front.counts.busy);
        front.backend.suspect();
        self.refuse(front.fault(render::busy()), head_only, front, now)
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

    /// A last word before the connection is cut; whether it arrives is not waited for.
    fn send_last(&mut self, response: Response) {
        let _: io::Result<usize> = self.stream.write(&render::bytes(response, false));
    }
}
