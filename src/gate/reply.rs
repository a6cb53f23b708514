//! A response on its way to the client: the gate's own, or tiny_http's as it comes out of its socket. Runs on the gate thread
//! and never blocks.

use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crossbeam_channel::Sender;
use rustix::event::PollFlags;

use super::backend::{Backend, Exchange, Ticket};
use super::message::Response;
use super::render;
use super::stream::Stream;

/// Bytes moved at a time, and the unit in which clients are timed.
pub(super) const BLOCK: usize = 16 * 1024;

/// Blocks moved for one connection before the others get their turn.
pub(super) const TURN: usize = 8;

/// What a socket gave.
pub(super) enum Received {
    Bytes(usize),
    Later,
    End,
}

/// One read. An error is the end as well: what comes after it is of no use to anybody.
pub(super) fn receive(from: &mut impl Read, buffer: &mut [u8]) -> Received {
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

/// A response and how far it has come.
pub(super) struct Reply {
    /// Where more of it comes from: tiny_http, unless it is the gate's own.
    source: Option<UnixStream>,
    /// What has been read of it, and how much of that is sent.
    buffer: Vec<u8>,
    sent: usize,
    /// The status line is there, and `Connection: close` behind it. INVARIANT: nothing is sent before.
    marked: bool,
    /// As long as no byte has come from tiny_http.
    ticket: Option<Ticket>,
    /// Dropped when the client leaves, which ends a streaming response.
    present: Option<Sender<Infallible>>,
    /// It answers a HEAD request.
    head_only: bool,
}

/// Where a reply stands.
pub(super) enum Progress {
    /// Somebody has to be waited for, as [`Reply::interest`] says.
    Waiting,
    /// All of it is with the kernel.
    Sent,
    /// tiny_http ended it before it began; the request is withdrawn.
    Lost,
    /// The client is gone.
    Gone,
}

impl Reply {
    /// An answer in the gate's own name.
    pub fn own(response: Response, head_only: bool) -> Reply {
        let buffer = render::bytes(response, head_only);
        Reply { source: None, buffer, sent: 0, marked: true, ticket: None, present: None, head_only }
    }

    /// The answer to a request that has been handed in.
    pub fn to(exchange: Exchange, head_only: bool) -> Reply {
        let Exchange { ticket, socket, present } = exchange;
        Reply {
            source: Some(socket),
            buffer: Vec::new(),
            sent: 0,
            marked: false,
            ticket: Some(ticket),
            present: Some(present),
            head_only,
        }
    }

    pub fn head_only(&self) -> bool {
        self.head_only
    }

    /// Whether the client has something to take.
    pub fn is_pending(&self) -> bool {
        self.marked && self.sent < self.buffer.len()
    }

    /// Which readiness of the client's socket to wait for, and tiny_http's socket when it is its turn.
    pub fn interest(&self) -> (PollFlags, Option<BorrowedFd<'_>>) {
        if self.is_pending() {
            (PollFlags::OUT, None)
        } else {
            (PollFlags::empty(), self.source.as_ref().map(AsFd::as_fd))
        }
    }

    /// Ends a streaming response; any other goes on.
    pub fn leave(&mut self) {
        self.present = None;
    }

    /// Takes the request back, unless a worker has it: then `false`.
    pub fn withdraw(&mut self, backend: &Backend) -> bool {
        self.ticket.take().is_some_and(|ticket| backend.withdraw(ticket))
    }

    /// Sends what is there, then fetches more, until one of them would block. Each block that is fetched has to be taken by
    /// `block_by`, which goes into `deadline`; nothing is due while tiny_http is waited for.
    pub fn relay(
        &mut self,
        stream: &mut Stream,
        backend: &Backend,
        scratch: &mut [u8],
        deadline: &mut Option<Instant>,
        block_by: Instant,
    ) -> Progress {
        for _ in 0..TURN {
            while self.is_pending() {
                match stream.write(&self.buffer[self.sent..]) {
                    Ok(0) => return Progress::Gone,
                    Ok(written) => self.sent += written,
                    Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                    Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Progress::Waiting,
                    Err(_) => return Progress::Gone,
                }
            }
            if self.marked {
                self.buffer.clear();
                self.sent = 0;
                *deadline = None;
            }
            let Some(source) = &mut self.source else { return Progress::Sent };
            match receive(source, scratch) {
                Received::Bytes(length) => {
                    // An answer to a request that nobody took up is tiny_http's own, given as it let go of it.
                    if self.withdraw(backend) {
                        return Progress::Lost;
                    }
                    self.buffer.extend_from_slice(&scratch[..length]);
                    self.marked = self.marked || render::mark_closing(&mut self.buffer);
                    *deadline = Some(block_by);
                }
                Received::Later => return Progress::Waiting,
                Received::End if self.marked => return Progress::Sent,
                Received::End => {
                    self.withdraw(backend);
                    return Progress::Lost;
                }
            }
        }
        Progress::Waiting
    }
}
