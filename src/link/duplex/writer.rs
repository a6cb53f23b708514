//! The write thread: blocks on the outbox's channel or in a write, and is the only one that writes to the socket.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use tungstenite::Message;
use tungstenite::error::Error;
use tungstenite::protocol::{Role, WebSocket};

use super::{Cause, LARGE, LINGER, Shared};
use crate::link::Pulse;
use crate::link::connection::write_half;
use crate::link::halves::WriteHalf;
use crate::link::outbox::{Next, Outbox, Tag};

/// What the write thread owns.
pub(super) struct Writer<T: Tag> {
    pub half: WebSocket<WriteHalf>,
    pub role: Role,
    pub outbox: Arc<Outbox<T>>,
    pub shared: Arc<Shared>,
    /// Closed when the read thread has ended.
    pub reader_done_rx: Receiver<()>,
    pub pulse: Pulse,
}

/// What one step of the write thread came to.
enum Wrote {
    /// A message of this length, or a control frame.
    Message(usize),
    /// Everything: it is on its way, and there is nothing left to write before then.
    All { until: Option<Instant> },
    /// The last thing. `ours` when it was asked for here.
    Close { ours: bool },
    /// Nothing more: the connection is not the current one any more.
    Nothing,
}

impl<T: Tag> Writer<T> {
    pub fn run(mut self) {
        let wake_rx = self.outbox.wakes(self.shared.generation);
        let mut large = false;
        let end = loop {
            self.pulse.beat();
            match self.write_next() {
                Ok(Wrote::Message(bytes)) => large |= bytes > LARGE,
                Ok(Wrote::All { until }) => {
                    if std::mem::take(&mut large) {
                        // tungstenite keeps its buffer at the largest size it ever had; a new one begins small.
                        self.half = write_half(self.half.into_inner(), self.role);
                    }
                    self.pulse.rest();
                    // Closed when the connection ends, which the next step finds.
                    let _ = wake_rx.as_ref().map(|wake_rx| match until {
                        None => wake_rx.recv().ok(),
                        Some(until) => wake_rx.recv_deadline(until).ok(),
                    });
                }
                end => break end,
            }
        };
        match end {
            Ok(Wrote::Close { ours: true }) => {
                self.shared.ended(Cause::ClosedByUs);
                // The reader ends with the peer's answer.
                let _ = self.reader_done_rx.recv_timeout(LINGER);
                self.shared.shut();
            }
            // The peer gets our FIN behind our Close; the reader lingers for its own.
            Ok(Wrote::Close { ours: false }) => {
                let _ = self.half.get_mut().finish();
            }
            Ok(_) => {
                // The reader has told its cause before it ended the connection; otherwise its owner did.
                self.shared.ended(Cause::Killed);
                self.shared.shut();
            }
            Err(fault) => self.fail(stall_or_reset(fault)),
        }
    }

    /// A peer that says why it closes and then closes makes our writes fail before its Close was read, and the reason
    /// (4003: revoked) matters more. So the reader, woken by the shutdown, comes first: what it had received it
    /// can still read.
    fn fail(&self, cause: Cause) {
        if let Cause::Reset(kind) = cause {
            let _ = self.shared.write_fault.set(kind);
            let _ = self.shared.socket.shutdown(Shutdown::Both);
            let _ = self.reader_done_rx.recv_timeout(LINGER);
        }
        self.shared.ended(cause);
        self.shared.shut();
    }

    fn write_next(&mut self) -> Result<Wrote, Error> {
        let (message, bytes) = match self.outbox.next(self.shared.generation) {
            Next::Text(text) => {
                let bytes = text.len();
                (Message::Text(text), bytes)
            }
            Next::Ping(number) => (Message::Ping(number.to_vec().into()), number.len()),
            Next::Pong(payload) => (Message::Pong(payload), 0),
            Next::Close { frame, ours } => {
                self.half.close(frame)?;
                return Ok(Wrote::Close { ours });
            }
            Next::Idle { until } => {
                self.half.flush()?;
                return Ok(Wrote::All { until });
            }
            Next::Ended => return Ok(Wrote::Nothing),
        };
        self.half.write(message)?;
        Ok(Wrote::Message(bytes))
    }
}

fn stall_or_reset(fault: Error) -> Cause {
    match fault {
        // An expired SO_SNDTIMEO, or TCP_USER_TIMEOUT.
        Error::Io(cause) if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Cause::WriteStalled
        }
        Error::Io(cause) => Cause::Reset(cause.kind()),
        fault => Cause::Protocol(fault.to_string()),
    }
}
