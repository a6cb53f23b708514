//! The Agent: one loop that owns all state, and the threads that block for it.
//!
//! ```text
//! panel-read --> Event::Panel -----------.
//! docker-events -> Event::Engine --------+--> core (one select!) --> orders --> worker-N, slow-N
//! http-N ------> Event::Http ------------|      |                                   |
//! signals, stats, dials,     link ends --'      |    ^                              |
//!                                               |    '------- Event::JobDone -------'
//!                                               '--> voice --> outbox --> panel-write
//! ```
//!
//! | thread | blocks on | ends when |
//! |---|---|---|
//! | main | the `select!` of [`core`] | a signal, or a thread ended unasked |
//! | `signals` | signal-hook | its handle is closed |
//! | `panel-dial` | one dial, 30 s in all | the result is sent |
//! | `panel-read`, `panel-write` | the socket, the outbox | see [`crate::link`] |
//! | `worker-N`, `slow-N` | their queue, the Engine | the queue's sender is dropped |
//! | `file-N` | their queue, the disk; there are some while there is work | 20 s without work, or the queue's sender is dropped |
//! | `job-N` | one archive or mod: files, or a server on the Internet | the job is done or ended |
//! | `sweep` | the disk, once at the start | what a killed Agent's jobs have left is removed |
//! | `journal` | its wake-up, the disk | it is asked to end, and everything is written |
//! | `stats` | the heartbeat's timer, and its own while a server runs | its stop channel is dropped |
//! | `disk` | its timer, or nothing while no directory is to be walked | its stop channel is dropped |
//! | `docker-events` | the Engine's event stream | [`engine::Engine::stop`] |
//! | `gate`, `http`, `http-N` | see [`crate::gate`] | its shutdown |
//!
//! What is absent: no async runtime, no lock around the state, no polling, no restart policy of Docker's.

pub mod cli;
pub mod config;
pub mod settings;

pub mod event;

pub mod core;

pub mod caller;
pub mod ledger;

pub mod journal;

pub mod voice;

pub mod tongues;

pub mod streams;

pub mod figures;

pub mod output;

pub mod panel_link;

pub mod epoch;
pub mod policy;

pub mod engine;

pub mod file_queue;
pub mod file_threads;
pub mod room;

pub mod workers;

pub mod long_jobs;

pub mod heartbeat;

pub mod system;

pub mod api;

pub mod access;
pub mod guesses;

pub mod health;
pub mod join;

pub mod metrics;

pub mod signals;

pub mod notify;

pub mod pid_file;

pub mod status;

pub mod doctor;

pub mod confine;
pub mod crew;
pub mod logging;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Sender, bounded};

use self::config::Config;
use self::core::{Core, Server};
use self::event::Event;
use crate::docker::{Client, Endpoint};
use crate::gate::Gate;
use crate::link::resolve::Resolver;
use crate::link::url::Host;
use crate::link::{Dialer, Outbox, Source, outbox};
use crate::protocol::Decoder;
use crate::protocol::spec::Rules;
use crate::server::abort::Abort;
use crate::server::archive::staging::Run;
use crate::server::console::{self, Receipt};
use crate::server::download::Internet;
use crate::server::files;
use crate::server::holding::Holding;
use crate::server::mods::ModRecords;
use crate::server::stats::{Disks, Stats};
use crate::server::{Consoles, Helper, Inputs, JobResult, Lifecycle, Machine, Moment, Records, Workshop};

/// How long the threads have to end after the last word was written.
const JOIN: Duration = Duration::from_secs(3);
/// A Panel that takes nothing for this long is dropped. Longer than the silence that ends a dead link, so that it only
/// concerns one that still talks.
const STALL: Duration = Duration::from_secs(60);
/// Signals and ends of threads that may wait for the loop: more than there are threads.
const URGENT: usize = 128;
/// The Panel is dialled once the Engine was asked, so that it hears what is true and commands find every server that
/// there is. An Engine that is away says so at once; one that hangs is waited for no longer than this.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Open files that the Agent asks to be allowed.
const DESCRIPTORS: u64 = 32_768;
/// Events from the Agent's own threads that may wait for the loop. They are small, and their senders block.
const EVENTS: usize = 256;

/// Why the Agent ended other than by a signal. Exit code 1.
#[derive(Debug)]
pub struct Failed(String);

impl Failed {
    fn new(what: &str, cause: impl fmt::Display) -> Failed {
        Failed(format!("{what}: {cause}"))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// Runs the Agent until a signal ends it.
///
/// # Errors
/// What could not be set up, or which thread ended unasked or did not end when asked.
pub fn run(config: Config) -> Result<(), Failed> {
    keep_secrets_out_of_core_dumps();
    allow_many_descriptors();
    let _lock = make_data_dir(&config.data_dir)?;
    let records =
        Records::open(config.data_dir.join("state")).map_err(|e| Failed::new("DATA_DIR/state", e))?;
    let client = client(&config)?;
    let (events_tx, events_rx) = bounded(EVENTS);
    let (journal, scribe, left) = journal::Journal::open(&config.data_dir.join("journal"), events_tx.clone())
        .map_err(|e| Failed::new("DATA_DIR/journal", e))?;
    let boot_id = boot_id().map_err(|e| Failed::new("random numbers", e))?;
    let listener = TcpListener::bind(config.health_addr)
        .map_err(|e| Failed::new(&format!("HEALTH_ADDR {}", config.health_addr), e))?;

    // From here on there are threads; they inherit it.
    let confinement = confine::confine(&config);
    let (urgent_tx, urgent_rx) = bounded(URGENT);
    // One message in the reader's hand, one here, one in the loop's: the rest of a flood waits in the kernel.
    let (panel_tx, panel_rx) = bounded(1);
    let mut crew = crew::Crew::new(urgent_tx.clone());

    let tongues = tongues::Tongues::default();
    let (stats, stats_sampler) = Stats::new(config.stats_interval, Path::new("/"), client.clone());
    let servers_dir = config.data_dir.join("servers");
    let (disks, walker) = Disks::new(servers_dir.clone());
    let node_figures = figures::NodeFigures::default();
    let consoles = consoles(&config, &boot_id, &client, &events_tx)?;
    let inputs = inputs(client.clone(), events_tx.clone());
    let figures = figures::Figures::new(stats.clone(), disks.clone(), node_figures.clone(), tongues.clone());
    let output = output::Output::new(consoles.clone(), tongues.clone());
    let room_wanted = room::Wanted::default();
    let room = room::Room::new(room_wanted.clone(), events_tx.clone());
    let sources: Vec<Box<dyn Source>> = vec![Box::new(output), Box::new(figures), Box::new(room)];
    let outbox = Arc::new(Outbox::new(streams::Streams::new(sources), outbox::Bounds::default()));
    consoles.set_wake({
        let outbox = outbox.clone();
        move || outbox.wake()
    });

    let board = Arc::new(health::Board::new(config.node_id.as_str(), confinement.to_string()));
    let counters = metrics::Counters::default();
    let decoder = Decoder::new(config.node_id.clone(), Rules::default());
    let api = api::Api {
        access: access::Access::new(config.secret.clone(), config.health_addr),
        board: board.clone(),
        metrics: metrics::Metrics {
            node: config.node_id.to_string(),
            started: Instant::now(),
            counters: counters.clone(),
            outbox: outbox.clone(),
            journal: journal.clone(),
            stats: stats.clone(),
            disks: disks.clone(),
            consoles: consoles.clone(),
        },
        counters: counters.clone(),
        decoder: decoder.clone(),
        events_tx: events_tx.clone(),
        in_work: AtomicUsize::new(0),
    };
    let gate = Gate::start(listener, api::Api::gate(config.data_dir.clone()), api)
        .map_err(|e| Failed::new("HTTP listener", e))?;
    if !config::is_loopback(gate.address()) {
        log::warn!(
            "HEALTH_ADDR {}: commands and the secret travel in clear; put a proxy with TLS in front",
            gate.address()
        );
    }
    log::info!(
        "longshore-agent {} as node {}, health at http://{}/health",
        crate::version::VERSION,
        config.node_id,
        gate.address()
    );

    let notify = notify::Notify::from_environment(|name| std::env::var_os(name));
    let dialer = dialer(&config)?;
    let stop_files = Abort::default();
    let mod_records =
        ModRecords::open(config.data_dir.join("mods")).map_err(|e| Failed::new("DATA_DIR/mods", e))?;
    let files = files::Files::open(&servers_dir, config.server_user, disks.clone())
        .map_err(|e| Failed::new("DATA_DIR/servers", e))?;
    let files = Arc::new(files);
    let helper = (!rustix::process::geteuid().is_root()).then(|| {
        Arc::new(Helper {
            client: client.clone(),
            node: config.node_id.clone(),
            servers: servers_dir.clone(),
            image: Mutex::default(),
        })
    });
    let holding = helper.is_some().then(|| Holding::open(config.data_dir.join("downloads"))).transpose();
    let holding = holding.map_err(|e| Failed::new("DATA_DIR/downloads", e))?;
    let lifecycle = Arc::new(Lifecycle {
        client: client.clone(),
        node: config.node_id.clone(),
        servers_dir,
        server_user: config.server_user,
        log_disk: config.log_disk,
        registry_auth_file: config.registry_auth_file.clone(),
        records: records.clone(),
        consoles: consoles.clone(),
        inputs: inputs.clone(),
        desk: files::Desk { files: files.clone(), helper: helper.clone(), abort: stop_files.clone() },
        mod_records: mod_records.clone(),
    });
    let spawn = |e| Failed::new("starting a thread", e);
    let signals =
        signals::start(urgent_tx, events_tx.clone(), config.policy_file.clone(), &mut crew).map_err(spawn)?;
    crew.spawn("journal", 128 << 10, move || scribe.run()).map_err(spawn)?;
    let workers =
        workers::Workers::start(config.workers, lifecycle.clone(), &events_tx, &mut crew).map_err(spawn)?;
    let mut sampler = system::Sampler::new(&config.data_dir);
    let sample = sampler.sample();
    let (heartbeat, rhythm) = heartbeat::Heartbeat::new(sampler, events_tx.clone());
    // Disconnected by its drop, which ends the thread.
    let (stop_stats_tx, stop_stats_rx) = bounded(0);
    let measured = {
        let outbox = outbox.clone();
        move || outbox.wake()
    };
    crew.spawn("stats", 128 << 10, move || stats_sampler.run(&stop_stats_rx, measured, rhythm))
        .map_err(spawn)?;
    let (stop_disk_tx, stop_disk_rx) = bounded(0);
    let over = {
        let events_tx = events_tx.clone();
        // A loop that has ended needs to be told nothing.
        move |server, started_ns| drop(events_tx.send(event::Event::DiskLimit { server, started_ns }))
    };
    crew.spawn("disk", 128 << 10, move || walker.run(&stop_disk_rx, over)).map_err(spawn)?;
    let engine =
        engine::Engine::start(client, config.node_id.clone(), events_tx.clone(), &mut crew).map_err(spawn)?;

    let servers = restore(&records, config.ready_timeout)?;
    let workshop = Arc::new(Workshop {
        files,
        run: Run::new(&boot_id),
        records: mod_records,
        internet: internet(&config),
        helper: helper.zip(holding),
    });
    sweep(workshop.clone(), servers.keys().cloned().collect(), stop_files.clone()).map_err(spawn)?;

    let mut core = Core {
        node: config.node_id.clone(),
        ready_timeout: config.ready_timeout,
        urgent_rx,
        events_rx,
        panel_rx,
        gate_ended_rx: gate.ended(),
        link: panel_link::PanelLink::new(
            dialer,
            config.secret.clone(),
            decoder,
            outbox.clone(),
            panel_tx,
            events_tx.clone(),
            Instant::now() + FIRST_LOOK,
        ),
        voice: voice::Voice::new(
            config.node_id.clone(),
            boot_id,
            config.unasked,
            outbox,
            journal.clone(),
            tongues,
        ),
        workers,
        engine,
        heartbeat,
        board,
        notify,
        counters,
        stats,
        disks,
        node_figures,
        epoch: epoch::Epoch::open(config.data_dir.join("epoch"))
            .map_err(|e| Failed::new("DATA_DIR/epoch", e))?,
        policy: config.policy.clone(),
        rate: policy::Rate::default(),
        host: system::Host::measure(),
        sample,
        servers,
        timers: BTreeSet::new(),
        waiting: HashMap::new(),
        next_ticket: 0,
        ledger: ledger::Ledger::default(),
        journal,
        held: VecDeque::new(),
        unsettled: Vec::new(),
        jobs_in_flight: 0,
        starts: core::Starts::new(config.start_parallel),
        questions: 0,
        consoles,
        inputs,
        files: file_queue::FileQueue::default(),
        room_wanted,
        file_threads: file_threads::FileThreads::new(lifecycle.clone(), events_tx.clone()),
        stop_files,
        long_jobs: long_jobs::LongJobs::new(workshop, events_tx.clone()),
        draining: false,
    };
    let write = |path: &std::path::PathBuf| {
        pid_file::PidFile::write(path).map_err(|e| Failed::new(&format!("PID_FILE {}", path.display()), e))
    };
    let _pid_file = config.pid_file.as_ref().map(write).transpose()?;
    core.notify.ready();
    if let Some(descriptor) = config.ready_fd
        && let Err(e) = notify::tell_ready(descriptor)
    {
        log::warn!("READY_FD {descriptor}: the readiness could not be told: {e}");
    }
    core.recover(&left);
    drop(left);
    let ended = core.run();

    let deadline = Instant::now() + JOIN;
    let Core {
        link,
        mut engine,
        workers,
        heartbeat,
        consoles,
        inputs,
        file_threads,
        long_jobs,
        journal,
        events_rx,
        panel_rx,
        ..
    } = core;
    signals.close();
    engine.stop();
    // Whoever blocks on the loop is woken by its going.
    drop((stop_stats_tx, stop_disk_tx, workers, heartbeat, events_rx, panel_rx));
    let mut late = link.finish(deadline);
    // After the link: what was delivered last needs to be kept no longer.
    journal.finish();
    late.extend(gate.shutdown(deadline).err().map(|unfinished| unfinished.0).unwrap_or_default());
    late.extend((!consoles.finish(deadline)).then(|| "con-*".to_owned()));
    late.extend((!inputs.finish(deadline)).then(|| "in-*".to_owned()));
    late.extend((!file_threads.finish(deadline)).then(|| "file-*".to_owned()));
    late.extend((long_jobs.finish(deadline) > 0).then(|| "job-*".to_owned()));
    late.extend(crew.join(deadline));
    ended.map_err(|name| Failed::new("thread ended unasked", name))?;
    if late.is_empty() {
        log::info!("stopped");
        return Ok(());
    }
    Err(Failed::new("threads did not end in time", late.join(", ")))
}

/// Nothing of the process is ever written to a core file, and no other process of the same user may trace it.
fn keep_secrets_out_of_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if setrlimit(Resource::Core, none).is_err()
        || set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err()
    {
        log::warn!("core dumps could not be switched off");
    }
}

/// What starts a process often allows it 1024 descriptors and lets it have more for the asking: 500 servers take some 4000
/// for their output and their figures.
fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        log::warn!("the limit of open files cannot be raised to {wanted}: {error}");
    }
}

/// Makes the data directory and takes its lock: two Agents on one would undo each other's work.
fn make_data_dir(dir: &Path) -> Result<fs::File, Failed> {
    let bad = |e: std::io::Error| Failed::new(&format!("DATA_DIR {}", dir.display()), e);
    // Servers' directories are entered by their own users, so the way to them is open and listing it is not.
    fs::DirBuilder::new().recursive(true).mode(0o711).create(dir.join("servers")).map_err(bad)?;
    let lock = fs::File::create(dir.join("lock")).map_err(bad)?;
    lock.try_lock()
        .map_err(|_| Failed::new(&format!("DATA_DIR {}", dir.display()), "another agent uses it"))?;
    Ok(lock)
}

fn client(config: &Config) -> Result<Client, Failed> {
    let endpoint = config.docker.clone().unwrap_or_else(probe_engine);
    log::info!("engine at {endpoint}");
    Client::new(endpoint, config.docker_api_version).map_err(|e| Failed::new("Engine client", e))
}

/// Where an Engine is when no setting says so.
fn probe_engine() -> Endpoint {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(std::path::PathBuf::from);
    Endpoint::probe(runtime_dir.as_deref())
}

fn dialer(config: &Config) -> Result<Dialer, Failed> {
    let tls = match config.panel_url.secure() {
        true => Some(tls(config).map_err(|e| Failed::new("TLS", e))?),
        false => None,
    };
    if !config.panel_url.secure() && !config.panel_url.host().is_loopback() {
        log::warn!("PANEL_URL {}: the secret and everything else travels in clear", config.panel_url);
    }
    let node = config.node_id.as_str();
    // Panels exist that read the id only from the query.
    let url = config.panel_url.clone().with_query("nodeId", node);
    let mut dialer = Dialer::new(url, tls);
    dialer.headers = [
        ("X-Node-Id", node.to_owned()),
        ("X-Agent-Id", node.to_owned()),
        ("User-Agent", format!("longshore-agent/{}", crate::version::VERSION)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    dialer.proxy = config.proxy.clone();
    dialer.limits.stall = STALL;
    Ok(dialer)
}

/// The way that mods come in by.
fn internet(config: &Config) -> Internet {
    let resolver = Resolver::default();
    Internet {
        lookup: Arc::new(move |name, port, wait| {
            let host = Host::parse(name).ok_or(std::io::ErrorKind::InvalidInput)?;
            resolver.resolve(&host, port, wait).map_err(std::io::Error::other)
        }),
        // The system's roots: `CA_FILE` is about the Panel alone.
        tls: Arc::new(|| crate::link::tls::client_config(None).map_err(|error| error.to_string())),
        allow_private: config.allow_private_downloads,
        allow_insecure: config.allow_insecure_downloads,
    }
}

/// Removes what a killed Agent has left. On a thread of its own, since that may be much; nobody waits for it, and it has
/// the lowest priority, as the walks for the use of the disk.
fn sweep(
    workshop: Arc<Workshop>,
    servers: Vec<crate::protocol::ServerId>,
    abort: Abort,
) -> std::io::Result<()> {
    let before = SystemTime::now();
    let work = move || {
        // Refused only where a sandbox forbids it.
        let _ = rustix::process::setpriority_process(None, 19);
        workshop.sweep(&servers, before, &abort);
    };
    std::thread::Builder::new().name("sweep".into()).stack_size(128 << 10).spawn(work).map(drop)
}

/// Whom to trust as the Panel: its one certificate where the node has joined by it, else the authorities.
fn tls(config: &Config) -> Result<Arc<rustls::ClientConfig>, crate::link::tls::TlsError> {
    match &config.panel_pin {
        Some(pin) => crate::link::tls::pinned_config(pin),
        None => crate::link::tls::client_config(config.ca_file.as_deref()),
    }
}

/// The servers' output: what it finds is told to the loop.
fn consoles(
    config: &Config,
    boot_id: &str,
    client: &Client,
    events_tx: &Sender<Event>,
) -> Result<Consoles, Failed> {
    let saved = console::Saved::open(config.data_dir.join("console"))
        .map_err(|e| Failed::new("DATA_DIR/console", e))?;
    let settings = console::Settings {
        memory: config.log_memory,
        rate: config.log_rate,
        always: config.console_always,
        boot_id: boot_id.to_owned(),
    };
    let (ready_tx, gap_tx) = (events_tx.clone(), events_tx.clone());
    let hooks = console::Hooks {
        // A loop that has gone needs to be told nothing.
        ready: Box::new(move |server, started_ns| {
            drop(ready_tx.send(Event::Ready { server: server.clone(), started_ns }));
        }),
        gap: Box::new(move || gap_tx.try_send(Event::Gaps).is_ok()),
    };
    Ok(Consoles::new(settings, hooks, client.clone(), saved))
}

/// The servers' input: how each went is told to the loop.
fn inputs(client: Client, events_tx: Sender<Event>) -> Inputs {
    Inputs::new(client, move |server, receipt, result| {
        let event = match receipt {
            Receipt::Command(ticket) => Event::Written { ticket, result },
            Receipt::Job => {
                let result = result.map_or_else(JobResult::from, |()| JobResult::Ok(None));
                Event::JobDone { server: server.clone(), result }
            }
        };
        // A loop that has gone needs to be told nothing.
        drop(events_tx.send(event));
    })
}

/// A random name for this run of the Agent, 32 hex digits.
fn boot_id() -> Result<String, ring::error::Unspecified> {
    let bytes = ring::rand::generate::<[u8; 16]>(&ring::rand::SystemRandom::new())?.expose();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The servers known from disk; what they are is not known before the Engine is asked.
fn restore(
    records: &Records,
    ready_timeout: Duration,
) -> Result<BTreeMap<crate::protocol::ServerId, Server>, Failed> {
    let (found, damaged) = records.load().map_err(|e| Failed::new("DATA_DIR/state", e))?;
    let moment = Moment::now();
    for line in damaged {
        log::error!("record: {line}");
    }
    Ok(found
        .into_iter()
        .map(|record| {
            let machine = Machine::restore(record.spec, record.desired, record.suspended)
                .supervised(record.supervision, moment);
            (record.server_id, Server::new(machine, ready_timeout))
        })
        .collect())
}
