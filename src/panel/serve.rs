//! The running Panel: opens everything in order, waits for a signal, closes everything in reverse.
//!
//! Runs on the main thread and owns all handles. It exits 0 after a signal, and 1 when a thread that has to be there
//! has ended or did not come to its end in time.

use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};
use log::{error, info};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::accounts::Accounts;
use super::agents::Agents;
use super::api::{self, Api};
use super::config::Config;
use super::events::MAX_STREAMS;
use super::guard::Guard;
use super::hub::Hub;
use super::journal::Journal;
use super::metrics::{Metrics, Recorder};
use super::secret::Secret;
use super::store::{Store, StoreError};
use super::templates::Templates;
use super::tls::Certificate;
use crate::gate::{self, Gate, GateError};

/// From the signal to the end of the process.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted; the system has a bound of its own, which is lower on old kernels.
const WAITING: i32 = 4_096;
/// Downloads at one time that are longer than one piece.
const DOWNLOADS: usize = 32;

#[derive(Debug)]
pub enum ServeError {
    Store(StoreError),
    Bind {
        key: &'static str,
        address: SocketAddr,
        cause: io::Error,
    },
    Gate(GateError),
    Start(io::Error),
    Tls(super::tls::TlsError),
    /// The way in for the first admin could not be made.
    Setup(String),
    /// This thread has ended although nobody asked it to.
    Lost(&'static str),
    /// These did not end in time.
    Stuck(Vec<&'static str>),
}

/// Serves until a signal comes.
pub fn run(config: Config) -> Result<(), ServeError> {
    allow_descriptors();
    // Both ports before anything else: a Panel that cannot be reached must not begin a new epoch.
    let http_listener = bind("HTTP_ADDR", config.http_addr)?;
    let agent_listener = bind("AGENT_ADDR", config.agent_addr)?;
    let store = Store::open_to_serve(&config.data_dir).map_err(ServeError::Store)?;
    let epoch = store.epoch();
    let accounts = Arc::new(Accounts::open(&config.data_dir).map_err(ServeError::Store)?);
    let journal = Arc::new(Journal::open(&config.data_dir).map_err(ServeError::Store)?);
    let metrics = Metrics::open(&config.data_dir).map_err(ServeError::Store)?;
    let templates = Templates::open(&config.data_dir).map_err(ServeError::Store)?;
    let certificate = Certificate::open(&config).map_err(ServeError::Tls)?.map(Arc::new);
    let tls = certificate.clone().map(|certificate| gate::Tls::new(move || certificate.current()));
    let signals = SignalThread::start().map_err(ServeError::Start)?;
    let hub = Hub::start(store).map_err(ServeError::Start)?;
    let recorder =
        Recorder::start(&config.data_dir, hub.handle(), journal.clone()).map_err(ServeError::Store)?;
    let agents = Agents::start(agent_listener, hub.handle(), tls.clone()).map_err(ServeError::Gate)?;
    let setup = accounts.offer_setup().map_err(|problem| ServeError::Setup(problem.message))?;
    let api = Api::new(api::Parts {
        hub: hub.handle(),
        guard: Guard::new(config.http_hosts.clone(), config.http_addr.ip()),
        accounts,
        journal,
        metrics,
        templates,
        proxies: config.proxies.clone(),
        tls: config.tls.is_some(),
        certificate: certificate.map(|certificate| {
            let pin: Arc<dyn Fn() -> Option<String> + Send + Sync> =
                Arc::new(move || Some(certificate.fingerprint()));
            pin
        }),
    });
    let limits = gate::Config {
        connections: MAX_STREAMS + 4 * api::MAX_CALLS,
        requests: api::MAX_CALLS,
        streams: MAX_STREAMS + DOWNLOADS,
        upgrades: Some(agents.upgrades()),
        upgrade_path: Some("/agent"),
        tls,
        ..gate::Config::default()
    };
    let http = Gate::start(http_listener, limits, api).map_err(ServeError::Gate)?;
    announce(&config, http.address(), agents.address());
    if let Some(token) = setup {
        offer(&config, http.address(), &token);
    }
    info!("longshore-panel {}: ready, epoch {epoch}", crate::version::VERSION);

    let http_ended = http.ended();
    let cause = select! {
        recv(signals.received) -> signal => signal.map(Cause::Signal).unwrap_or(Cause::Lost("signals")),
        recv(hub.ended()) -> _ => Cause::Lost("hub"),
        recv(agents.ended()) -> _ => Cause::Lost("agents"),
        recv(recorder.ended()) -> _ => Cause::Lost("metrics"),
        recv(http_ended) -> _ => Cause::Lost("http"),
    };
    match cause {
        Cause::Signal(name) => info!("{name}: stopping"),
        Cause::Lost(thread) => error!("thread {thread} has ended, which it must not: stopping"),
    }

    let deadline = Instant::now() + SHUTDOWN;
    // The hub first: it ends the streams and tells every node, so that the others have less to wait for.
    let ended = [
        ("metrics", recorder.shutdown(deadline)),
        ("hub", hub.shutdown(deadline)),
        ("agents", agents.shutdown(deadline)),
        ("http", http.shutdown(deadline).inspect_err(|stuck| error!("{stuck}")).is_ok()),
        ("signals", signals.shutdown()),
    ];
    let stuck: Vec<_> = ended.into_iter().filter(|(_, ended)| !ended).map(|(name, _)| name).collect();
    match cause {
        Cause::Lost(thread) => Err(ServeError::Lost(thread)),
        Cause::Signal(_) if stuck.is_empty() => Ok(()),
        Cause::Signal(_) => Err(ServeError::Stuck(stuck)),
    }
}

enum Cause {
    Signal(&'static str),
    Lost(&'static str),
}

/// Each link takes three descriptors, and the usual bound of 1,024 is for programs that use select(2).
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_err() {
        info!("the bound on open files stays at {:?}", limit.current);
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        // Listening again only changes how many may wait. The standard library's 128 are too few after a restart, when
        // everybody comes at once: who finds no place tries again after one second, three, seven.
        rustix::net::listen(&listener, WAITING)?;
        Ok(listener)
    });
    bound.map_err(|cause| ServeError::Bind { key, address, cause })
}

/// One line on standard output for people and for whoever started the Panel with port 0. It may be closed.
fn announce(config: &Config, http: SocketAddr, agents: SocketAddr) {
    let tls = if config.tls.is_some() { "s" } else { "" };
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "longshore-panel: page http{tls}://{http}/ agents ws{tls}://{agents}/")
        .and_then(|()| out.flush());
}

/// The way in for the first admin: to the terminal and never to the log, which others may read.
fn offer(config: &Config, http: SocketAddr, token: &Secret) {
    let config = Config { http_addr: http, ..config.clone() };
    let mut out = io::stdout().lock();
    let _ = writeln!(
        out,
        "longshore-panel: there is no user yet; open this to make the first admin, once:\n  {}/setup#{}",
        config.url(),
        token.expose()
    )
    .and_then(|()| out.flush());
}

/// Turns signals into messages.
struct SignalThread {
    received: Receiver<&'static str>,
    handle: Handle,
    thread: JoinHandle<()>,
}

impl SignalThread {
    fn start() -> io::Result<SignalThread> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let handle = signals.handle();
        let (to_main, received) = bounded(1);
        let thread = Builder::new().name("signals".into()).spawn(move || {
            let mut stopping = false;
            for signal in signals.forever() {
                match (signal, stopping) {
                    // A closed terminal is no reason to stop, and there is nothing to read again.
                    (SIGHUP, _) => {}
                    (_, false) => {
                        stopping = true;
                        let _ = to_main.send(if signal == SIGINT { "SIGINT" } else { "SIGTERM" });
                    }
                    // Whoever asks twice does not want to wait. What was accepted is on the disk.
                    (_, true) => std::process::exit(1),
                }
            }
        })?;
        Ok(SignalThread { received, handle, thread })
    }

    fn shutdown(self) -> bool {
        self.handle.close();
        self.thread.join().is_ok()
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Store(cause) => cause.fmt(f),
            ServeError::Bind { key, address, cause } => write!(f, "{key}={address}: {cause}"),
            ServeError::Gate(cause) => cause.fmt(f),
            ServeError::Start(cause) => write!(f, "start: {cause}"),
            ServeError::Tls(cause) => write!(f, "TLS: {cause}"),
            ServeError::Setup(cause) => f.write_str(cause),
            ServeError::Lost(thread) => write!(f, "thread {thread} has ended"),
            ServeError::Stuck(threads) => write!(f, "threads did not end in time: {}", threads.join(", ")),
        }
    }
}

impl std::error::Error for ServeError {}
