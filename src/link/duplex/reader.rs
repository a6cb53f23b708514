//! The read thread: blocks on the socket, never writes to it, never waits for the outbox.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use tungstenite::Message;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::{CloseFrame, WebSocket};

use super::{Cause, Inbound, LARGE, LINGER, Shared};
use crate::link::halves::ReadHalf;
use crate::link::outbox::{Outbox, Tag, close_frame};
use crate::link::{Pulse, Text};

/// What the read thread owns.
pub(super) struct Reader<T: Tag, H> {
    pub half: WebSocket<ReadHalf>,
    pub outbox: Arc<Outbox<T>>,
    pub shared: Arc<Shared>,
    pub handler: H,
    pub pulse: Pulse,
}

impl<T: Tag, H: FnMut(Inbound)> Reader<T, H> {
    pub fn run(mut self) {
        let (cause, answer) = self.read();
        let first = self.shared.ended(cause);
        if first && let Some(frame) = answer {
            self.outbox.answer_close(self.shared.generation, frame);
            self.linger();
        }
        self.shared.shut();
    }

    /// Reads until the end; gives the cause, and the Close to send for it if one is due.
    fn read(&mut self) -> (Cause, Option<Option<CloseFrame>>) {
        let generation = self.shared.generation;
        // tungstenite's buffer would take the memory of a large message back and hold it; while someone else
        // still has a share in it, its next read has to begin a small one.
        let mut _held: Option<Text>;
        loop {
            self.pulse.rest();
            let read = self.half.read();
            self.pulse.beat();
            let message = match read {
                Ok(message) => message,
                Err(fault) => return self.end_of(fault),
            };
            _held = None;
            match message {
                Message::Text(text) => {
                    _held = (text.len() > LARGE).then(|| text.clone());
                    (self.handler)(Inbound::Text(text));
                }
                Message::Binary(bytes) => (self.handler)(Inbound::Binary(bytes.len())),
                Message::Ping(payload) => self.outbox.answer_ping(generation, payload),
                Message::Pong(payload) => self.outbox.ponged(generation, &payload),
                Message::Close(frame) => {
                    let (code, reason) = match &frame {
                        Some(frame) => (frame.code.into(), frame.reason.as_str().to_owned()),
                        None => (1005, String::new()),
                    };
                    return (Cause::Closed { code, reason }, Some(frame));
                }
                // tungstenite gives raw frames to whoever writes them and to nobody else.
                Message::Frame(_) => {}
            }
        }
    }

    /// What an error of a read means, and the Close it deserves. After a capacity error nothing is ever read again:
    /// tungstenite would take the rest of the message for frames.
    fn end_of(&self, fault: Error) -> (Cause, Option<Option<CloseFrame>>) {
        let with = |code, reason| Some(Some(close_frame(code, reason)));
        match fault {
            Error::Capacity(_) => (Cause::TooBig, with(1009, "message too big")),
            Error::Utf8(_) => (Cause::Protocol("text is not UTF-8".into()), with(1007, "not UTF-8")),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                let kind = self.shared.write_fault.get().copied();
                (Cause::Reset(kind.unwrap_or(io::ErrorKind::UnexpectedEof)), None)
            }
            Error::Io(cause) => match cause.kind() {
                // An expired SO_RCVTIMEO.
                io::ErrorKind::WouldBlock => (Cause::Silent, None),
                // TCP_USER_TIMEOUT, which the kernel tells to one of the two threads.
                io::ErrorKind::TimedOut => (Cause::WriteStalled, None),
                io::ErrorKind::InvalidData => (Cause::Protocol(cause.to_string()), None),
                kind => (Cause::Reset(kind), None),
            },
            fault => (Cause::Protocol(fault.to_string()), with(1002, "protocol error")),
        }
    }

    /// Gives the writer the time to send the Close and the peer the time to take it: closing a socket with unread
    /// bytes would reset the connection and the Close with it. What still comes is thrown away.
    fn linger(&mut self) {
        let deadline = Instant::now() + LINGER;
        let mut scratch = [0; 4096];
        let mut socket = &self.shared.socket;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.shared.socket.set_read_timeout(Some(left)).is_err() {
                return;
            }
            match socket.read(&mut scratch) {
                Ok(0) => return,
                Err(cause) if cause.kind() != io::ErrorKind::Interrupted => return,
                _ => {}
            }
        }
    }
}
