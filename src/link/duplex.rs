//! [`Duplex`]: the two threads of one connection.
//!
//! The read thread blocks on the socket, hands messages to the handler and lets the outbox know of pings, pongs and
//! Close; the write thread blocks on the outbox and is the only one that writes. INVARIANT: only the write thread
//! writes to the socket. Neither polls. Whichever ends first makes the other end: an error shuts the socket down
//! at once, a Close within [`LINGER`]. The first cause is the connection's.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{error, fmt};

use crossbeam_channel::{Receiver, Sender, bounded};
use tungstenite::Message;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::{CloseFrame, Role, WebSocket};

use super::Text;
use super::connection::{Connection, write_half};
use super::outbox::{Next, Outbox, close_frame};
use super::tls::{ReadHalf, WriteHalf};

/// How long the end of a closed connection may take: for the peer to read our Close and to close on its side.
pub const LINGER: Duration = Duration::from_secs(2);

/// A message that is longer is not worth keeping memory for.
const LARGE: usize = 64 << 10;

/// What the peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    Text(Text),
    /// So many bytes, which are not kept: this protocol has no binary messages.
    Binary(usize),
}

/// Why a connection has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The peer sent a Close; 1005 stands for one without a code (RFC 6455 section 7.4.1).
    Closed { code: u16, reason: String },
    /// [`Outbox::close`] was asked for, and the Close was written.
    ClosedByUs,
    /// Nothing came from the peer for the time of [`super::Limits::silence`].
    Silent,
    /// A message was longer than [`super::Limits::max_message`].
    TooBig,
    /// The peer broke the WebSocket or TLS protocol.
    Protocol(String),
    /// The socket failed; `UnexpectedEof` when the peer closed it without a Close.
    Reset(io::ErrorKind),
    /// The peer took or acknowledged nothing for the time of [`super::Limits::stall`].
    WriteStalled,
    /// [`Duplex::kill`] was called.
    Killed,
    /// One of the two threads panicked.
    Panicked,
}

/// One of the two threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    Read,
    Write,
}

/// One of the two threads has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub generation: u64,
    pub half: Half,
    /// The connection's cause: the same from both threads.
    pub cause: Cause,
}

/// The names of the two threads, at most 15 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    pub read: &'static str,
    pub write: &'static str,
}

impl Default for Names {
    fn default() -> Names {
        Names { read: "panel-read", write: "panel-write" }
    }
}

/// Threads that did not end in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck(pub Vec<&'static str>);

/// The handle of a connection's two threads. Dropping it kills the connection and joins them.
pub struct Duplex {
    shared: Arc<Shared>,
    threads: Vec<Running>,
}

struct Running {
    name: &'static str,
    /// Closed when the thread ends.
    done_rx: Receiver<()>,
    thread: JoinHandle<()>,
}

/// What both threads and the handle know.
struct Shared {
    generation: u64,
    socket: TcpStream,
    cause: OnceLock<Cause>,
    /// What a write failed with, while the reader still looks for a better cause.
    write_fault: OnceLock<io::ErrorKind>,
    /// Ends the connection in the outbox, whose type the handle does not know.
    end_outbox: Box<dyn Fn() + Send + Sync>,
}

impl Shared {
    /// The first one counts. Whether this was it.
    fn ended(&self, cause: Cause) -> bool {
        self.cause.set(cause).is_ok()
    }

    /// Wakes whoever is blocked in a read, in a write, or waiting for something to write.
    fn shut(&self) {
        // On a socket that is already gone it fails, which is as good.
        let _ = self.socket.shutdown(Shutdown::Both);
        (self.end_outbox)();
    }
}

impl Duplex {
    /// Starts both threads. [`Outbox::begin`] has been called with this generation before. `on_end` is called
    /// exactly once by each thread, as the last thing it does. `handler` may block, but then nothing is read, and
    /// it must end when the one who asked for the connection does.
    pub fn start<T: Clone + Send + 'static>(
        connection: Connection,
        generation: u64,
        outbox: Arc<Outbox<T>>,
        names: Names,
        handler: impl FnMut(Inbound) + Send + 'static,
        on_end: impl Fn(Ended) + Send + Sync + 'static,
    ) -> io::Result<Duplex> {
        let Connection { read, write, socket, role, .. } = connection;
        let end_outbox = {
            let outbox = outbox.clone();
            Box::new(move || outbox.end(generation))
        };
        let shared = Arc::new(Shared {
            generation,
            socket,
            cause: OnceLock::new(),
            write_fault: OnceLock::new(),
            end_outbox,
        });
        let on_end: Arc<dyn Fn(Ended) + Send + Sync> = Arc::new(on_end);
        let (read_done_tx, read_done_rx) = bounded(0);
        let (write_done_tx, write_done_rx) = bounded(0);
        let guard = |half, done_tx| EndGuard {
            half,
            shared: shared.clone(),
            on_end: on_end.clone(),
            _done_tx: done_tx,
        };
        let (read_guard, write_guard) = (guard(Half::Read, read_done_tx), guard(Half::Write, write_done_tx));

        let writer = Writer {
            half: write,
            role,
            outbox: outbox.clone(),
            shared: shared.clone(),
            reader_done_rx: read_done_rx.clone(),
        };
        let mut duplex = Duplex { shared: shared.clone(), threads: Vec::new() };
        let thread = thread::Builder::new().name(names.write.into()).spawn(move || {
            let _guard = write_guard;
            writer.run();
        })?;
        duplex.threads.push(Running { name: names.write, done_rx: write_done_rx, thread });

        let reader = Reader { half: read, outbox, shared, handler };
        // Without its reader the writer is killed by the handle's drop.
        let thread = thread::Builder::new().name(names.read.into()).spawn(move || {
            let _guard = read_guard;
            reader.run();
        })?;
        duplex.threads.push(Running { name: names.read, done_rx: read_done_rx, thread });
        Ok(duplex)
    }

    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// Why the connection has ended, once it has.
    pub fn cause(&self) -> Option<Cause> {
        self.shared.cause.get().cloned()
    }

    /// Ends the connection at once, whatever its threads are blocked on.
    pub fn kill(&self) {
        self.shared.ended(Cause::Killed);
        self.shared.shut();
    }

    /// Waits for both threads to end by themselves, until the deadline; then names those that have not. It may be
    /// called again.
    pub fn join(&mut self, deadline: Instant) -> Result<Cause, Stuck> {
        for running in std::mem::take(&mut self.threads) {
            // Nothing is ever sent: this waits for the channel to close.
            let _ = running.done_rx.recv_deadline(deadline);
            match running.done_rx.try_recv() {
                Err(crossbeam_channel::TryRecvError::Disconnected) => {
                    // A panic is already told as the cause.
                    let _ = running.thread.join();
                }
                _ => self.threads.push(running),
            }
        }
        match self.threads.is_empty() {
            true => Ok(self.cause().unwrap_or(Cause::Killed)),
            false => Err(Stuck(self.threads.iter().map(|running| running.name).collect())),
        }
    }
}

impl Drop for Duplex {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.kill();
            if let Err(stuck) = self.join(Instant::now() + LINGER) {
                log::error!("{stuck}");
            }
        }
    }
}

/// Tells the end of a thread, even of one that panics.
struct EndGuard {
    half: Half,
    shared: Arc<Shared>,
    on_end: Arc<dyn Fn(Ended) + Send + Sync>,
    _done_tx: Sender<()>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.ended(Cause::Panicked);
            self.shared.shut();
        }
        let cause = self.shared.cause.get().cloned().unwrap_or(Cause::Killed);
        (self.on_end)(Ended { generation: self.shared.generation, half: self.half, cause });
    }
}

struct Reader<T: Clone, H> {
    half: WebSocket<ReadHalf>,
    outbox: Arc<Outbox<T>>,
    shared: Arc<Shared>,
    handler: H,
}

impl<T: Clone, H: FnMut(Inbound)> Reader<T, H> {
    fn run(mut self) {
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
            let message = match self.half.read() {
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

struct Writer<T: Clone> {
    half: WebSocket<WriteHalf>,
    role: Role,
    outbox: Arc<Outbox<T>>,
    shared: Arc<Shared>,
    reader_done_rx: Receiver<()>,
}

/// What one step of the write thread came to.
enum Wrote {
    /// A message of this length, or a control frame.
    Message(usize),
    /// Everything: it is on its way, and there is nothing left to write.
    All,
    /// The last thing. `ours` when it was asked for here.
    Close { ours: bool },
    /// Nothing more: the connection is not the current one any more.
    Nothing,
}

impl<T: Clone> Writer<T> {
    fn run(mut self) {
        let wake_rx = self.outbox.wakes(self.shared.generation);
        let mut large = false;
        let end = loop {
            match self.write_next() {
                Ok(Wrote::Message(bytes)) => large |= bytes > LARGE,
                Ok(Wrote::All) => {
                    if std::mem::take(&mut large) {
                        // tungstenite keeps its buffer at the largest size it ever had; a new one begins small.
                        self.half = write_half(self.half.into_inner(), self.role);
                    }
                    // Closed when the connection ends, which the next step finds.
                    let _ = wake_rx.as_ref().map(Receiver::recv);
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
            Next::Idle => {
                self.half.flush()?;
                return Ok(Wrote::All);
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

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Closed { code, reason } if reason.is_empty() => {
                write!(f, "closed by the peer with {code}")
            }
            Cause::Closed { code, reason } => {
                write!(f, "closed by the peer with {code}: {}", super::head::printable(reason))
            }
            Cause::ClosedByUs => f.write_str("closed by us"),
            Cause::Silent => f.write_str("nothing came from the peer"),
            Cause::TooBig => f.write_str("a message of the peer was too big"),
            Cause::Protocol(cause) => write!(f, "protocol: {cause}"),
            Cause::Reset(kind) => write!(f, "connection: {kind}"),
            Cause::WriteStalled => f.write_str("the peer takes nothing"),
            Cause::Killed => f.write_str("killed"),
            Cause::Panicked => f.write_str("a thread of the link panicked"),
        }
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "did not end in time: {}", self.0.join(", "))
    }
}

impl error::Error for Stuck {}
