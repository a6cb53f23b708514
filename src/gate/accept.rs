//! The gate thread: accepts clients and carries all of them at once, blocked in one poll(2) without a timer unless a client is
//! being timed. It never blocks anywhere else, so no client can hold up another.
//!
//! One thread with nonblocking sockets, where the rest of the house has a thread per stream: here the other side is unknown
//! and unlimited, and a thread is the one thing it must not be able to take.

use std::io::{self, ErrorKind, PipeReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::backend::Backend;
use super::body::Budget;
use super::connection::Connection;
use super::message::Response;
use super::reply::BLOCK;
use super::stream::Stream;
use super::{Config, Counters, bump};

/// How long accept rests when it fails for want of descriptors or memory and no client can be closed for it. Nothing
/// tells when another part of the process frees one.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Between two lines in the log that clients can cause.
const QUIET: Duration = Duration::from_secs(10);

/// What every connection works with.
pub(super) struct Front {
    pub config: Config,
    pub backend: Arc<Backend>,
    pub budget: Arc<Budget>,
    pub counts: Arc<Counters>,
    /// Where bytes are read into before they are known to be wanted.
    pub scratch: Box<[u8; BLOCK]>,
    last_complaint: Option<Instant>,
    unsaid: u64,
}

impl Front {
    pub fn new(config: Config, backend: Arc<Backend>, counts: Arc<Counters>) -> Front {
        let budget = Budget::new(config.body_bytes);
        let scratch = Box::new([0; BLOCK]);
        Front { config, backend, budget, counts, scratch, last_complaint: None, unsaid: 0 }
    }

    /// An answer in the gate's own name, as the handler wants it said.
    pub fn fault(&self, response: Response) -> Response {
        self.backend.handler().fault(response)
    }

    /// Logs what a client can cause, at most once in [`QUIET`], and then how often it was not logged.
    pub fn complain(&mut self, what: std::fmt::Arguments<'_>, now: Instant) {
        if self.last_complaint.is_some_and(|last| now.duration_since(last) < QUIET) {
            self.unsaid += 1;
            return;
        }
        log::warn!("http gate: {what} ({} more not logged)", self.unsaid);
        self.last_complaint = Some(now);
        self.unsaid = 0;
    }
}

/// The thread's own state: the listener and the clients.
pub(super) struct Acceptor {
    front: Front,
    /// Closed as soon as the gate is to stop, which frees the port. INVARIANT: none if and only if `closing`.
    listener: Option<TcpListener>,
    clients: Vec<Connection>,
    /// Accept rests until then.
    resting: Option<Instant>,
    /// The gate is to stop: until then the responses still owed may be sent.
    closing: Option<Instant>,
}

impl Acceptor {
    pub fn new(listener: TcpListener, front: Front) -> io::Result<Acceptor> {
        listener.set_nonblocking(true)?;
        Ok(Acceptor { front, listener: Some(listener), clients: Vec::new(), resting: None, closing: None })
    }

    /// Body of the thread `gate`. Stops when the writing end of `wake` is dropped; `stop` then holds the deadline.
    pub fn run(mut self, wake: &PipeReader, stop: &Receiver<Instant>) {
        loop {
            let [stopping, accepting] = self.wait(wake);
            if stopping {
                self.closing = Some(stop.try_recv().unwrap_or_else(|_| Instant::now()));
                self.listener = None;
                self.clients.iter_mut().for_each(Connection::leave);
            }
            let now = Instant::now();
            if let Some(until) = self.closing {
                self.clients.retain(Connection::is_replying);
                if self.clients.is_empty() || until <= now {
                    return;
                }
            } else if accepting {
                self.accept(now);
            } else if self.resting.is_some_and(|until| until <= now) {
                self.resting = None;
            }
        }
    }

    /// Blocks until somebody is ready or a deadline has passed, then serves the clients concerned. Returns whether the
    /// gate is to stop, and whether a new client is there.
    fn wait(&mut self, wake: &PipeReader) -> [bool; 2] {
        let mut fds = Vec::with_capacity(2 + 2 * self.clients.len());
        for client in &self.clients {
            let [own, inner] = client.interest();
            fds.push(PollFd::from_borrowed_fd(own.0, own.1));
            fds.push(PollFd::from_borrowed_fd(inner.0, inner.1));
        }
        let clients = fds.len();
        if let Some(listener) = &self.listener {
            fds.push(PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN));
            if self.resting.is_none() {
                fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
            }
        }
        let deadlines = self.clients.iter().filter_map(Connection::deadline);
        let until = deadlines.chain(self.resting).chain(self.closing).min();
        if let Err(cause) = poll(&mut fds, until.map(left).as_ref())
            && cause != rustix::io::Errno::INTR
        {
            // ENOMEM is the only other error poll(2) has for these arguments. Without the rest it would spin.
            log::error!("http gate: poll: {cause}");
            std::thread::sleep(ACCEPT_REST);
        }
        let signalled = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let signals = [signalled(clients), signalled(clients + 1)];
        let ready: Vec<_> =
            fds[..clients].chunks(2).map(|pair| (pair[0].revents(), pair[1].revents())).collect();
        self.serve(&ready);
        signals
    }

    /// Lets every client that is ready, or out of time, go on.
    fn serve(&mut self, ready: &[(PollFlags, PollFlags)]) {
        let now = Instant::now();
        let front = &mut self.front;
        let serve = |(client, &(own, inner)): (Connection, &(PollFlags, PollFlags))| {
            // Time first: a client that never stops sending is always ready.
            if client.deadline().is_some_and(|deadline| deadline <= now) {
                client.expire(front, now)
            } else if !(own | inner).is_empty() {
                client.advance(own, front, now)
            } else {
                Some(client)
            }
        };
        self.clients = std::mem::take(&mut self.clients).into_iter().zip(ready).filter_map(serve).collect();
    }

    /// Takes the one client that poll has told of. Never more: for want of descriptors accept fails the same way when
    /// nobody is there, and somebody would be closed for nobody. So all the others are served in between, too.
    fn accept(&mut self, now: Instant) {
        match self.listener.as_ref().map(TcpListener::accept) {
            None => {}
            Some(Ok((socket, peer))) => self.admit(socket, peer, now),
            // accept(2): this client left before it was accepted.
            Some(Err(cause))
                if matches!(
                    cause.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) => {}
            Some(Err(cause)) => {
                bump(&self.front.counts.accept_errors);
                self.front.complain(format_args!("accept: {cause}"), now);
                // Any other error may stay, and the listener stays readable, so it is not tried again at once.
                if !(out_of_descriptors(&cause) && self.make_room()) {
                    self.resting = Some(now + ACCEPT_REST);
                }
            }
        }
    }

    fn admit(&mut self, socket: TcpStream, peer: SocketAddr, now: Instant) {
        bump(&self.front.counts.accepted);
        if self.clients.len() >= self.front.config.connections && !self.make_room() {
            bump(&self.front.counts.refused);
            return;
        }
        // Nodelay, because responses are written in blocks already.
        if socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true)).is_err() {
            return;
        }
        let stream = match &self.front.config.tls {
            None => Stream::Plain(socket),
            Some(tls) => match rustls::ServerConnection::new(tls.current()) {
                Ok(connection) => Stream::Tls(socket, Box::new(connection)),
                Err(cause) => {
                    self.front.complain(format_args!("TLS: {cause}"), now);
                    return;
                }
            },
        };
        let client = Connection::new(stream, peer, now, self.front.config.head_time);
        // Its head is often there already.
        self.clients.extend(client.advance(PollFlags::empty(), &mut self.front, now));
    }

    /// Closes a client that is owed nothing: one that has had its response, else the one longest without a complete head.
    fn make_room(&mut self) -> bool {
        let waiting = self.clients.iter().enumerate();
        let waiting = waiting.filter_map(|(at, client)| client.idle_since().map(|since| (since, at)));
        let Some(((headless, _), at)) = waiting.min() else {
            return false;
        };
        if headless {
            bump(&self.front.counts.evicted);
        }
        self.clients.swap_remove(at);
        true
    }
}

fn out_of_descriptors(cause: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(cause), Some(Errno::MFILE | Errno::NFILE))
}

/// From now until then, as poll takes it.
fn left(until: Instant) -> Timespec {
    // Only a span of more than 292 billion years does not fit.
    let longest = Timespec { tv_sec: i64::MAX, tv_nsec: 0 };
    until.saturating_duration_since(Instant::now()).try_into().unwrap_or(longest)
}
