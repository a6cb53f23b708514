//! The way through tiny_http: what the gate hands in, and the threads that answer it.
//!
//! The thread `http` blocks in tiny_http's `recv` and starts one thread `http-N` per request. A request passes through tiny_http
//! as its method, its target and a random ticket, which leads to the request that the gate has parsed, with its body and
//! the peer's address. So nothing else that a client wrote can be read differently there. A request with any other
//! header is a stranger's; it is neither answered nor freed, since tiny_http would first read its body to the end.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::door::{Door, random};
use super::message::{Body, Request, Response};
use super::render;
use super::thread::Thread;
use super::{Config, GateError, Handler};

/// The header that carries the ticket; nothing a client sends gets into the inner request's headers.
const TICKET: &str = "X-Gate-Ticket";

/// Names one request between gate and worker. 128 random bits, so that no stranger can guess one.
pub(super) type Ticket = u128;

/// What the gate keeps of a request that it has handed in.
pub(super) struct Exchange {
    pub ticket: Ticket,
    /// Nonblocking; the response comes out of it.
    pub socket: UnixStream,
    /// Dropped to end a streaming response.
    pub present: Sender<Infallible>,
}

/// Why a request could not be handed in.
#[derive(Debug)]
pub(super) enum Refused {
    /// As many in work as are allowed.
    Busy,
    /// No descriptor, no random bytes, or tiny_http is being started anew.
    Unavailable(io::Error),
}

/// A request between the gate, which wrote it down, and the worker that takes it up.
struct Pending {
    request: Request,
    client: Receiver<Infallible>,
    place: Place,
}

/// One of a bounded number of places, given back when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(places: &Arc<AtomicUsize>) -> Option<Place> {
        let taken = places.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        taken.is_ok().then(|| Place(Arc::clone(places)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// tiny_http, the requests in it and the places for them.
pub(super) struct Backend {
    handler: Arc<dyn Handler>,
    directory: Option<PathBuf>,
    /// Locks, because the gate writes down what the workers take up; both hold them for a few instructions.
    door: Mutex<Door>,
    pending: Mutex<HashMap<Ticket, Pending>>,
    requests: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
    stopping: AtomicBool,
}

impl Backend {
    pub fn open(config: &Config, handler: Arc<dyn Handler>) -> Result<Arc<Backend>, GateError> {
        Ok(Arc::new(Backend {
            handler,
            door: Mutex::new(Door::open(config.directory.as_deref())?),
            directory: config.directory.clone(),
            pending: Mutex::new(HashMap::new()),
            requests: Arc::new(AtomicUsize::new(config.requests)),
            streams: Arc::new(AtomicUsize::new(config.streams)),
            stopping: AtomicBool::new(false),
        }))
    }

    pub fn handler(&self) -> &dyn Handler {
        &*self.handler
    }

    /// Hands a request in. Called by the gate thread; never blocks.
    pub fn submit(&self, request: Request) -> Result<Exchange, Refused> {
        let place = Place::take(&self.requests).ok_or(Refused::Busy)?;
        let ticket = random().map(u128::from_ne_bytes).map_err(Refused::Unavailable)?;
        let line = format!(
            "{} {} HTTP/1.{}\r\n{TICKET}: {ticket:032x}\r\nConnection: close\r\n\r\n",
            request.head.method, request.head.target, request.head.minor
        );
        let mut socket = self.connect().map_err(Refused::Unavailable)?;
        let (present, client) = bounded(0);
        lock(&self.pending).insert(ticket, Pending { request, client, place });
        // A fresh socket's buffer is many times the largest head, so this is one write and never a part of one.
        match socket.write(line.as_bytes()) {
            Ok(written) if written == line.len() => Ok(Exchange { ticket, socket, present }),
            outcome => {
                self.withdraw(ticket);
                Err(Refused::Unavailable(outcome.err().unwrap_or(io::ErrorKind::WriteZero.into())))
            }
        }
    }

    /// Takes back a request that no worker has taken up; `false` when one has.
    pub fn withdraw(&self, ticket: Ticket) -> bool {
        lock(&self.pending).remove(&ticket).is_some()
    }

    /// Body of the thread `http`. Returns the threads that are still at work when it has been stopped.
    pub fn run(self: &Arc<Backend>) -> Vec<Thread<()>> {
        let mut workers: Vec<Thread<()>> = Vec::new();
        let mut number = 0_u64;
        loop {
            let server = lock(&self.door).server();
            match server.recv() {
                Ok(inner) => {
                    workers.retain(|worker| !worker.is_finished());
                    number = (number + 1) % 1_000_000;
                    workers.extend(self.start_worker(inner, number));
                }
                Err(_) if self.stopping.load(Ordering::Acquire) => return workers,
                // Its accept thread met an error, or it was suspected to have.
                Err(cause) => self.mend(&cause),
            }
        }
    }

    /// Ends tiny_http and, with it, the thread `http`.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let door = lock(&self.door);
        door.close();
        door.server().unblock();
    }

    #[cfg(test)]
    pub fn deafen(&self) {
        lock(&self.door).deafen();
    }

    /// A request that was handed in came back without a response or was never taken up: tiny_http's accept thread has
    /// ended, as it does for good when it meets an error.
    pub fn suspect(&self) {
        let mut door = lock(&self.door);
        door.broken = true;
        door.server().unblock();
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let door = lock(&self.door);
        if door.broken {
            // The thread `http` is mending it, or could not when it last tried: then it tries again.
            door.server().unblock();
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        door.connect()
    }

    /// Starts another tiny_http in place of one that no longer accepts. When that fails too, the next request makes it try
    /// again, so nothing has to be tried on a timer.
    fn mend(&self, cause: &io::Error) {
        let fresh = Door::open(self.directory.as_deref());
        let mut door = lock(&self.door);
        door.close();
        match fresh {
            Ok(fresh) => {
                log::warn!("tiny_http stopped accepting ({cause}); another one is started");
                *door = fresh;
            }
            Err(failure) => {
                if !door.broken {
                    log::error!(
                        "tiny_http stopped accepting ({cause}), and another cannot be started yet: {failure}"
                    );
                }
                door.broken = true;
            }
        }
    }

    fn start_worker(self: &Arc<Backend>, inner: tiny_http::Request, number: u64) -> Option<Thread<()>> {
        if !inner
            .headers()
            .iter()
            .all(|header| header.field.equiv(TICKET) || header.field.equiv("Connection"))
        {
            std::mem::forget(inner);
            return None;
        }
        let ticket = inner.headers().iter().find(|header| header.field.equiv(TICKET))?;
        let ticket = Ticket::from_str_radix(ticket.value.as_str(), 16).ok()?;
        // None when the gate has withdrawn it; tiny_http then answers 500 into a closed socket.
        let pending = lock(&self.pending).remove(&ticket)?;
        let backend = Arc::clone(self);
        match Thread::spawn(format!("http-{number}"), move || backend.work(inner, pending)) {
            Ok(worker) => Some(worker),
            Err(cause) => {
                // The request went down with the closure, which tiny_http answers with 500.
                log::error!("http-{number}: no thread: {cause}");
                None
            }
        }
    }

    /// Body of a thread `http-N`.
    fn work(&self, inner: tiny_http::Request, pending: Pending) {
        let Pending { request, client, place } = pending;
        let response = catch_unwind(AssertUnwindSafe(|| self.handler.handle(request)));
        let response = response.unwrap_or_else(|_| {
            log::error!("{}: the handler panicked", std::thread::current().name().unwrap_or("http"));
            self.handler.fault(Response::text(500, "internal error\n"))
        });
        // The gate ends a connection whose client does not read, so writing here is bounded in time; it fails only when
        // the client has left, which is no event.
        let _ = match response.body {
            Body::Stream(_) => match Place::take(&self.streams) {
                Some(_streaming) => {
                    drop(place);
                    stream(inner, response, &client)
                }
                None => inner.respond(render::whole(self.handler.fault(render::busy()))),
            },
            Body::Bytes(_) => inner.respond(render::whole(response)),
        };
    }
}

/// Sends the pieces of a response as they come. `Request::respond` cannot: it flushes at the end only.
fn stream(inner: tiny_http::Request, response: Response, client: &Receiver<Infallible>) -> io::Result<()> {
    let head_only = *inner.method() == tiny_http::Method::Head;
    let (head, pieces) = render::streaming(response);
    let mut writer = inner.into_writer();
    writer.write_all(&head)?;
    writer.flush()?;
    if head_only {
        return Ok(());
    }
    loop {
        select! {
            recv(pieces) -> piece => match piece {
                Ok(piece) => writer.write_all(&piece)?,
                Err(_) => return Ok(()),
            },
            recv(client) -> _ => return Ok(()),
        }
        while let Ok(piece) = pieces.try_recv() {
            writer.write_all(&piece)?;
        }
        writer.flush()?;
    }
}

/// What the lock protects is whole at every moment, so a panic elsewhere takes nothing from it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::{Duration, Instant};

    use super::super::body::{Budget, Share};
    use super::super::head;
    use super::*;

    fn request() -> Request {
        let (head, _) = head::parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let peer = "127.0.0.1:1".parse().unwrap();
        Request { head, body: Vec::new(), peer, _share: Share::none(&Budget::new(0)) }
    }

    /// Hands a request in until tiny_http takes it.
    fn answer(backend: &Backend) -> String {
        let begin = Instant::now();
        loop {
            match backend.submit(request()) {
                Ok(mut exchange) => {
                    exchange.socket.set_nonblocking(false).unwrap();
                    let mut response = String::new();
                    exchange.socket.read_to_string(&mut response).unwrap();
                    return response;
                }
                Err(Refused::Unavailable(_)) if begin.elapsed() < Duration::from_secs(20) => {
                    std::thread::yield_now();
                }
                Err(refused) => panic!("{refused:?}"),
            }
        }
    }

    #[test]
    fn a_tiny_http_that_stopped_accepting_is_replaced() {
        let handler = |_: Request| Response::text(200, "here");
        let backend = Backend::open(&Config::default(), Arc::new(handler)).unwrap();
        let http = Thread::spawn("http".to_owned(), {
            let backend = Arc::clone(&backend);
            move || backend.run()
        });
        let http = http.unwrap();
        for _ in 0..3 {
            assert!(answer(&backend).ends_with("here"));
            lock(&backend.door).close();
        }
        assert!(answer(&backend).ends_with("here"));
        backend.stop();
        assert!(http.join(Instant::now() + Duration::from_secs(20)).is_ok());
    }

    #[test]
    fn a_withdrawn_request_gives_its_place_back() {
        let config = Config { requests: 1, ..Config::default() };
        let backend = Backend::open(&config, Arc::new(|_: Request| Response::empty(200))).unwrap();
        // Nobody takes requests up here.
        let exchange = backend.submit(request()).ok().unwrap();
        assert!(matches!(backend.submit(request()), Err(Refused::Busy)));
        assert!(backend.withdraw(exchange.ticket));
        assert!(!backend.withdraw(exchange.ticket));
        assert!(backend.submit(request()).is_ok());
        backend.stop();
    }
}
