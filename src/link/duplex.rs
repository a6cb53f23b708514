//! [`Duplex`]: the two threads of one connection.
//!
//! The read thread blocks on the socket, hands messages to the handler and lets the outbox know of pings, pongs and
//! Close; the write thread blocks on the outbox and is the only one that writes. INVARIANT: only the write thread
//! writes to the socket. Neither polls. Whichever ends first makes the other end: an error shuts the socket down
//! at once, a Close within [`LINGER`]. The first cause is the connection's.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{error, fmt};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::connection::Connection;
use super::outbox::{Outbox, Tag};
use super::{Pulse, Text};
use reader::Reader;
use writer::Writer;

mod reader;
mod writer;

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

/// How the two threads are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads {
    /// Names, at most 15 bytes each.
    pub read: &'static str,
    pub write: &'static str,
    /// Bytes of stack for each; `None` is the standard library's 2 MiB. The handler runs on the read thread's.
    pub stack: Option<usize>,
}

impl Default for Threads {
    fn default() -> Threads {
        Threads { read: "panel-read", write: "panel-write", stack: None }
    }
}

impl Threads {
    fn builder(&self, name: &str) -> thread::Builder {
        let builder = thread::Builder::new().name(name.into());
        match self.stack {
            Some(bytes) => builder.stack_size(bytes),
            None => builder,
        }
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
    pulse: Pulse,
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
    pub fn start<T: Tag + Send + 'static>(
        connection: Connection,
        generation: u64,
        outbox: Arc<Outbox<T>>,
        threads: Threads,
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
        let (reading, writing) = (Pulse::default(), Pulse::default());
        let (read_guard, write_guard) = (guard(Half::Read, read_done_tx), guard(Half::Write, write_done_tx));

        let writer = Writer {
            half: write,
            role,
            outbox: outbox.clone(),
            shared: shared.clone(),
            reader_done_rx: read_done_rx.clone(),
            pulse: writing.clone(),
        };
        let mut duplex = Duplex { shared: shared.clone(), threads: Vec::new() };
        let thread = threads.builder(threads.write).spawn(move || {
            let _guard = write_guard;
            writer.run();
        })?;
        let (name, done_rx) = (threads.write, write_done_rx);
        duplex.threads.push(Running { name, pulse: writing, done_rx, thread });

        let reader = Reader { half: read, outbox, shared, handler, pulse: reading.clone() };
        // Without its reader the writer is killed by the handle's drop.
        let thread = threads.builder(threads.read).spawn(move || {
            let _guard = read_guard;
            reader.run();
        })?;
        let (name, done_rx) = (threads.read, read_done_rx);
        duplex.threads.push(Running { name, pulse: reading, done_rx, thread });
        Ok(duplex)
    }

    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// For how long each thread has been at its message, by the thread's name.
    pub fn busy(&self) -> Vec<(&'static str, Duration)> {
        self.threads.iter().map(|running| (running.name, running.pulse.busy())).collect()
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
