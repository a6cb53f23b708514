//! The `stats` thread: measures every running server in turn and keeps the newest figures for whoever asks. It sleeps
//! without a timer of its own while no server runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, at, bounded, never, select};

use super::cgroup::{Counters, FILES, Group, Mounts};
use super::engine::EngineStats;
use super::kernel_file::KernelFile;
use super::net::{self, Traffic};
use crate::docker::{Client, ContainerId};
use crate::protocol::ServerId;

/// After so many sweeps in a row in which a run's files could not be read, the Engine is asked. Once may be a container
/// that has just ended.
const MISSES: u8 = 2;
/// Of the descriptors that the process may have, so many are left for everything else, and so many for each server: its
/// output, its input and, for a moment, a file that is not kept open.
const RESERVE: usize = 256;
const RESERVE_EACH: usize = 3;

/// A running server: one of its processes, and the container that it must belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub container: ContainerId,
    pub pid: u32,
    pub started_ns: u64,
}

/// What one server uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Percent of one core, over the time since the measurement before.
    pub cpu: f64,
    pub counters: Counters,
    pub traffic: Traffic,
}

/// The shared side: the agent loop says who runs, the thread says what they use. A clone is the same.
#[derive(Clone, Debug)]
pub struct Stats(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    targets: Mutex<Targets>,
    /// Locked after `targets`, where both are.
    usages: Mutex<Usages>,
    wake_tx: Sender<()>,
    /// How often the Engine was asked instead of the kernel.
    engine_calls: AtomicU64,
}

/// Who is to be measured.
#[derive(Debug, Default)]
struct Targets {
    by_server: BTreeMap<ServerId, Arc<Target>>,
    /// Grows with each change, so that the thread copies only what is new to it.
    version: u64,
}

/// The newest figures of each server, and whose were not told yet.
#[derive(Debug, Default)]
struct Usages {
    latest: BTreeMap<ServerId, Usage>,
    untold: BTreeSet<ServerId>,
}

/// Something else that the thread does, every so often and when it is asked: it is not worth a thread of its own.
pub struct Rhythm {
    pub every: Duration,
    pub asked_rx: Receiver<()>,
    pub beat: Box<dyn FnMut() + Send>,
}

impl Rhythm {
    /// Nothing, ever.
    pub fn none() -> Rhythm {
        Rhythm { every: Duration::from_secs(3600), asked_rx: never(), beat: Box::new(|| {}) }
    }
}

/// The thread's side; [`Sampler::run`] is the thread.
pub struct Sampler {
    stats: Stats,
    wake_rx: Receiver<()>,
    interval: Duration,
    mounts: Mounts,
    proc: Arc<Path>,
    engine: EngineStats,
    /// In the order of ids, as of this version of the targets.
    known: Vec<Known>,
    version: u64,
    /// What a sweep has found; kept for its memory.
    found: Vec<(ServerId, Arc<Target>, Usage)>,
    /// Descriptors that the process may have.
    descriptors: usize,
    buffer: Vec<u8>,
}

/// What is kept of a server between two measurements.
struct Known {
    server: ServerId,
    target: Arc<Target>,
    /// `None` until it was found.
    group: Option<Group>,
    traffic: KernelFile,
    /// Sweeps in a row without figures.
    misses: u8,
    before: Option<(Instant, u64)>,
}

impl Stats {
    /// Both sides. `interval` is the time between two measurements of a server; `root` is where `/proc` and the control
    /// groups are looked for, `/` but in tests. `engine` is asked only where they cannot be read.
    pub fn new(interval: Duration, root: &Path, engine: Client) -> (Stats, Sampler) {
        let (wake_tx, wake_rx) = bounded(1);
        let stats = Stats(Arc::new(Shared {
            targets: Mutex::default(),
            usages: Mutex::default(),
            wake_tx,
            engine_calls: AtomicU64::new(0),
        }));
        let sampler = Sampler {
            stats: stats.clone(),
            wake_rx,
            interval,
            mounts: Mounts::find(root),
            proc: root.join("proc").into(),
            engine: EngineStats::new(engine),
            known: Vec::new(),
            version: 0,
            found: Vec::new(),
            descriptors: descriptors(),
            buffer: Vec::new(),
        };
        (stats, sampler)
    }

    /// Says that a server runs, as which process, or that it does not.
    pub fn set(&self, server: &ServerId, target: Option<Target>) {
        let mut targets = lock(&self.0.targets);
        targets.version += 1;
        match target {
            Some(target) => {
                let first = targets.by_server.is_empty();
                targets.by_server.insert(server.clone(), Arc::new(target));
                drop(targets);
                if first {
                    self.wake();
                }
            }
            None => {
                let known = targets.by_server.remove(server).is_some();
                let mut usages = lock(&self.0.usages);
                usages.latest.remove(server);
                usages.untold.remove(server);
                drop((targets, usages));
                if known {
                    // What is kept open of it goes at once.
                    self.wake();
                }
            }
        }
    }

    /// The newest figures; none until it was measured once, and none when it does not run.
    pub fn usage(&self, server: &ServerId) -> Option<Usage> {
        lock(&self.0.usages).latest.get(server).copied()
    }

    /// The newest figures of every server that was measured, by id.
    pub fn all(&self) -> Vec<(ServerId, Usage)> {
        lock(&self.0.usages).latest.iter().map(|(server, usage)| (server.clone(), *usage)).collect()
    }

    /// How often the Engine was asked since the kernel's files could not be read.
    pub fn engine_calls(&self) -> u64 {
        self.0.engine_calls.load(Ordering::Relaxed)
    }

    /// Figures that were not told yet, of the next such server; they count as told from then on. Older ones that were
    /// never asked for are gone: the latest wins.
    pub fn take_fresh(&self) -> Option<(ServerId, Usage)> {
        let mut usages = lock(&self.0.usages);
        let server = usages.untold.pop_first()?;
        let usage = *usages.latest.get(&server)?;
        Some((server, usage))
    }

    /// Takes what was measured of those that still run.
    fn keep(&self, found: impl IntoIterator<Item = (ServerId, Arc<Target>, Usage)>) {
        let targets = lock(&self.0.targets);
        let mut usages = lock(&self.0.usages);
        for (server, target, usage) in found {
            if targets.by_server.get(&server) == Some(&target) {
                usages.latest.insert(server.clone(), usage);
                usages.untold.insert(server);
            }
        }
    }

    fn wake(&self) {
        match self.0.wake_tx.try_send(()) {
            // Full: it is woken already. Disconnected: there is no thread any more.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }
}

/// Nothing that can panic runs under these locks, and a map is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sampler {
    /// Measures until `stop_rx` is disconnected; `measured` is called after each sweep. Keeps the `rhythm` beside.
    pub fn run(mut self, stop_rx: &Receiver<()>, measured: impl Fn(), mut rhythm: Rhythm) {
        let mut next = Instant::now();
        let mut next_beat = Instant::now() + rhythm.every;
        loop {
            self.look();
            let idle = self.known.is_empty();
            let sweep_timer = if idle { never() } else { at(next) };
            select! {
                recv(stop_rx) -> _ => return,
                recv(self.wake_rx) -> _ => {
                    // The first one to measure, which may have been seen already, or one less.
                    if idle {
                        next = Instant::now();
                    }
                    continue;
                }
                recv(rhythm.asked_rx) -> asked => {
                    if asked.is_err() {
                        return;
                    }
                    (rhythm.beat)();
                    next_beat = Instant::now() + rhythm.every;
                    continue;
                }
                recv(at(next_beat)) -> _ => {
                    (rhythm.beat)();
                    next_beat = (next_beat + rhythm.every).max(Instant::now());
                    continue;
                }
                recv(sweep_timer) -> _ => {}
            }
            let unread = self.sweep();
            measured();
            if !unread.is_empty() {
                self.ask_engine(unread, stop_rx);
                measured();
            }
            // A sweep that took longer than the interval is followed by a whole one all the same.
            next = (next + self.interval).max(Instant::now());
        }
    }

    /// Takes up who runs now, and lets go of what is open of those that do not any more.
    fn look(&mut self) {
        let targets = lock(&self.stats.0.targets);
        if targets.version == self.version {
            return;
        }
        self.version = targets.version;
        let mut before: HashMap<ServerId, Known> =
            self.known.drain(..).map(|known| (known.server.clone(), known)).collect();
        let misses = if self.mounts.is_empty() { MISSES } else { 0 };
        self.known.extend(targets.by_server.iter().map(|(server, target)| {
            let same = before.remove(server).filter(|known| known.target == *target);
            same.unwrap_or_else(|| Known {
                server: server.clone(),
                target: target.clone(),
                group: None,
                traffic: net::file(&self.proc, target.pid),
                misses,
                before: None,
            })
        }));
    }

    /// Measures what it can read, and gives whose files it could not.
    fn sweep(&mut self) -> Vec<(ServerId, Arc<Target>)> {
        self.look();
        let spare = self.descriptors.saturating_sub(RESERVE + RESERVE_EACH * self.known.len());
        let mut unread = Vec::new();
        for (at, known) in self.known.iter_mut().enumerate() {
            // With too many servers the files of the last ones are opened each time.
            let keep = (at + 1) * (FILES + 1) <= spare;
            let (server, target) = (known.server.clone(), known.target.clone());
            match known.measure(&self.mounts, &mut self.buffer, keep) {
                Ok(usage) => self.found.push((server, target, usage)),
                Err(Unread { for_good: true }) => unread.push((server, target)),
                Err(Unread { for_good: false }) => {}
            }
        }
        self.stats.keep(self.found.drain(..));
        unread
    }

    fn ask_engine(&mut self, unread: Vec<(ServerId, Arc<Target>)>, stop_rx: &Receiver<()>) {
        let (usages, asked) = self.engine.round(unread, stop_rx);
        self.stats.0.engine_calls.fetch_add(asked as u64, Ordering::Relaxed);
        self.stats.keep(usages);
    }
}

impl Known {
    fn measure(&mut self, mounts: &Mounts, buffer: &mut Vec<u8>, keep: bool) -> Result<Usage, Unread> {
        if self.misses >= MISSES {
            return Err(Unread { for_good: true });
        }
        if self.group.is_none() {
            self.group = mounts.group(self.target.pid, &self.target.container);
        }
        let Some(counters) = self.group.as_mut().and_then(|group| group.read(buffer, keep).ok()) else {
            self.misses += 1;
            return Err(Unread { for_good: self.misses >= MISSES });
        };
        self.misses = 0;
        let now = Instant::now();
        let traffic = net::read(&mut self.traffic, buffer, keep).unwrap_or_default();
        let cpu = self.before.replace((now, counters.cpu_ns)).map_or(0.0, |(then, cpu_ns)| {
            let wall = now.saturating_duration_since(then).as_nanos().max(1) as f64;
            counters.cpu_ns.saturating_sub(cpu_ns) as f64 / wall * 100.0
        });
        Ok(Usage { cpu, counters, traffic })
    }
}

/// How many descriptors the process may have. What starts it has set that; it does not change.
fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX >> 1, |limit| usize::try_from(limit).unwrap_or(usize::MAX >> 1))
}

/// A run's files could not be read; for good once that has been so often enough.
struct Unread {
    for_good: bool,
}
