//! The HTTP front door before tiny_http: it accepts, bounds and times every connection, so that tiny_http only ever sees
//! complete, well-formed requests and never a client.
//!
//! ```text
//! client --tcp--> gate (head, body, limits) --unix--> tiny_http --recv--> http --spawns--> http-N (handler)
//! client <--tcp-- gate (relays) <-------------unix-- tiny_http <--------------------------- response
//! WebSocket upgrades leave the gate as `Upgrade` and never reach tiny_http
//! ```

mod accept;
mod backend;
mod body;
mod connection;
mod door;
mod head;
mod message;
mod render;
mod reply;
mod stream;
mod thread;

use std::fmt;
use std::io::{self, PipeWriter};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use accept::{Acceptor, Front};
use backend::Backend;
use thread::Thread;

pub use head::{Framing, Head, HeadError};
pub use message::{Body, Request, Response, Upgrade, is_local};
pub use stream::Stream;

/// Limits of a gate, and where upgrades go.
#[derive(Clone, Debug)]
pub struct Config {
    /// Client connections at one time. When one more comes, the one longest without a complete head is closed.
    pub connections: usize,
    /// Most bytes of a head; more is answered 431.
    pub head_bytes: usize,
    /// From accept to the end of the head, in all; then the connection is cut (408).
    pub head_time: Duration,
    /// For each 16 KiB of body, and for its last piece; then 408. So a body of `n` bytes takes at most
    /// `body_time * (n / 16 KiB + 1)`.
    pub body_time: Duration,
    /// Bytes of body held for all connections together; more is answered 503 with `Retry-After`.
    pub body_bytes: usize,
    /// For each 16 KiB of response that the client has to take; then the connection is cut.
    pub write_time: Duration,
    /// Requests in work at one time; one more is answered 503 with `Retry-After`.
    pub requests: usize,
    /// Streaming responses at one time, counted apart from `requests`; one more is answered 503.
    pub streams: usize,
    /// Where WebSocket upgrades go; when the channel is full they are answered 503. Without it they are
    /// ordinary requests, as RFC 9110 section 7.8 allows.
    pub upgrades: Option<Sender<Upgrade>>,
    /// The one path where a WebSocket is expected; elsewhere its request is an ordinary one. `None` is any path.
    pub upgrade_path: Option<&'static str>,
    /// A directory that this process may write, for the socket to tiny_http, which stands in it for an instant. Without one
    /// the usual places for temporary files are tried.
    pub directory: Option<PathBuf>,
    /// Clients speak TLS, each connection with what this gives at its begin. Time and size limits count as without.
    pub tls: Option<Tls>,
}

/// Where the TLS configuration of new connections comes from: asked for each, so that a new certificate needs no restart.
/// Called on the gate thread; it must not block for long.
#[derive(Clone)]
pub struct Tls(Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>);

impl Tls {
    pub fn new(current: impl Fn() -> Arc<rustls::ServerConfig> + Send + Sync + 'static) -> Tls {
        Tls(Arc::new(current))
    }

    fn current(&self) -> Arc<rustls::ServerConfig> {
        (self.0)()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            connections: 64,
            head_bytes: 16 * 1024,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(10),
            body_bytes: 32 * 1024 * 1024,
            write_time: Duration::from_secs(10),
            requests: 16,
            streams: 0,
            upgrades: None,
            upgrade_path: None,
            directory: None,
            tls: None,
        }
    }
}

/// What answers requests. A closure `Fn(Request) -> Response` is one that takes no bodies.
pub trait Handler: Send + Sync + 'static {
    /// Asked for a request that announces a body, before any of it is read: the most bytes it may have (413 above), or
    /// the answer that refuses it, such as 401 or 404. Runs on the gate thread and must not block. The refusal's
    /// body is [`Body::Bytes`].
    fn body_limit(&self, head: &Head, peer: SocketAddr) -> Result<usize, Response> {
        let _ = (head, peer);
        Ok(0)
    }

    /// Asked for each answer that the gate gives in its own name (plain text; 400, 408, 413, 417, 431, 500, 503): what is sent
    /// in its place, which is where a service has one form for all its errors. Runs on the gate thread; the body is
    /// [`Body::Bytes`].
    fn fault(&self, response: Response) -> Response {
        response
    }

    /// Answers on a thread of its own (`http-N`) and may block for as long as it bounds itself. A panic is answered 500.
    fn handle(&self, request: Request) -> Response;
}

impl<F: Fn(Request) -> Response + Send + Sync + 'static> Handler for F {
    fn handle(&self, request: Request) -> Response {
        self(request)
    }
}

/// Why a gate could not be opened.
#[derive(Debug)]
pub enum GateError {
    /// The listener, the inner socket or the wake-up pipe.
    Io(io::Error),
    /// tiny_http did not start.
    Server(String),
}

impl fmt::Display for GateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GateError::Io(cause) => write!(f, "http gate: {cause}"),
            GateError::Server(cause) => write!(f, "tiny_http: {cause}"),
        }
    }
}

impl std::error::Error for GateError {}

impl From<io::Error> for GateError {
    fn from(cause: io::Error) -> GateError {
        GateError::Io(cause)
    }
}

/// The threads that had not ended at the deadline of [`Gate::shutdown`], by name.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfinished(pub Vec<String>);

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "threads did not end in time: {}", self.0.join(", "))
    }
}

impl std::error::Error for Unfinished {}

/// What has happened at a gate since it was opened.
#[derive(Debug, Default)]
pub struct Counters {
    pub accepted: AtomicU64,
    /// Closed without a complete head, to make room for another.
    pub evicted: AtomicU64,
    /// Closed at once, because all others were owed a response.
    pub refused: AtomicU64,
    /// Cut for taking too long with head, body or response.
    pub late: AtomicU64,
    /// Answered 400, 417 or 431.
    pub malformed: AtomicU64,
    /// Answered 503.
    pub busy: AtomicU64,
    pub accept_errors: AtomicU64,
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How long after the deadline of a shutdown threads may take to unwind.
const UNWIND: Duration = Duration::from_millis(200);

/// A running gate. Dropping it shuts it down, with one second for requests in work.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    counters: Arc<Counters>,
    ended: Receiver<&'static str>,
    running: Option<Running>,
}

struct Running {
    /// Sent before `wake` is dropped, which wakes the thread `gate`.
    deadline: Sender<Instant>,
    wake: PipeWriter,
    gate: Thread<()>,
    backend: Arc<Backend>,
    http: Thread<Vec<Thread<()>>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Running")
    }
}

impl Gate {
    /// Serves `listener` until [`shutdown`](Gate::shutdown).
    pub fn start(listener: TcpListener, config: Config, handler: impl Handler) -> Result<Gate, GateError> {
        let address = listener.local_addr()?;
        let counters = Arc::new(Counters::default());
        let backend = Backend::open(&config, Arc::new(handler))?;
        let acceptor =
            Acceptor::new(listener, Front::new(config, Arc::clone(&backend), Arc::clone(&counters)))?;
        let (reader, wake) = io::pipe()?;
        let (deadline, stop) = bounded(1);
        let (ended_tx, ended) = bounded(2);
        let end = Ended("http", ended_tx.clone());
        let http = Thread::spawn("http".to_owned(), {
            let backend = Arc::clone(&backend);
            move || {
                let _end = end;
                backend.run()
            }
        })?;
        let end = Ended("gate", ended_tx);
        let gate = Thread::spawn("gate".to_owned(), move || {
            let _end = end;
            acceptor.run(&reader, &stop);
        });
        let gate = gate.inspect_err(|_| backend.stop())?;
        let running = Some(Running { deadline, wake, gate, backend, http });
        Ok(Gate { address, counters, ended, running })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Receives the name of a thread of the gate when it has ended, by shutdown or by a fault.
    pub fn ended(&self) -> Receiver<&'static str> {
        self.ended.clone()
    }

    /// Stops accepting and ends streams at once, lets requests in work finish until `deadline`, joins all threads.
    pub fn shutdown(mut self, deadline: Instant) -> Result<(), Unfinished> {
        self.stop(deadline)
    }

    fn stop(&mut self, deadline: Instant) -> Result<(), Unfinished> {
        let Some(Running { deadline: deadline_tx, wake, gate, backend, http }) = self.running.take() else {
            return Ok(());
        };
        // Fails only when the thread has ended already, which its join tells.
        let _ = deadline_tx.send(deadline);
        drop(wake);
        let latest = deadline + UNWIND;
        let mut late = Vec::new();
        // The gate first: until it has ended it may hand in requests.
        late.extend(gate.join(latest).err());
        backend.stop();
        match http.join(latest) {
            Ok(workers) => late.extend(workers.into_iter().filter_map(|worker| worker.join(latest).err())),
            Err(name) => late.push(name),
        }
        if late.is_empty() { Ok(()) } else { Err(Unfinished(late)) }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Err(unfinished) = self.stop(Instant::now() + Duration::from_secs(1)) {
            log::error!("http gate: {unfinished}");
        }
    }
}

/// Tells that a thread has ended, however it ended.
struct Ended(&'static str, Sender<&'static str>);

impl Drop for Ended {
    fn drop(&mut self) {
        // There is room for each thread's one message; nobody may be listening any more.
        let _ = self.1.try_send(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_tiny_http_that_does_not_take_requests_up_is_replaced() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = Config { head_time: Duration::from_secs(1), ..Config::default() };
        let gate = Gate::start(listener, config, |_: Request| Response::text(200, "here")).unwrap();
        let get = || {
            let mut stream = TcpStream::connect(gate.address()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).unwrap();
            response
        };
        assert!(get().ends_with("here"));
        gate.running.as_ref().unwrap().backend.deafen();
        let begin = Instant::now();
        let first = get();
        assert!(first.starts_with("HTTP/1.1 503 ") && first.contains("\r\nRetry-After: "), "{first}");
        while !get().ends_with("here") {
            assert!(begin.elapsed() < Duration::from_secs(20), "it is not replaced");
        }
    }
}
