//! The `stats` thread: measures every running server in turn and keeps the newest figures for whoever asks. It sleeps
//! without a timer while no server runs.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::cgroup::{Counters, Group, Mounts};
use super::net::{self, Traffic};
use crate::docker::ContainerId;
use crate::protocol::ServerId;

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
    targets: Mutex<BTreeMap<ServerId, Arc<Target>>>,
    usages: Mutex<BTreeMap<ServerId, Latest>>,
    wake_tx: Sender<()>,
}

/// The newest figures of a server, and whether they were told.
#[derive(Clone, Copy, Debug)]
struct Latest {
    usage: Usage,
    told: bool,
}

/// The thread's side; [`Sampler::run`] is the thread.
pub struct Sampler {
    stats: Stats,
    wake_rx: Receiver<()>,
    interval: Duration,
    mounts: Mounts,
    known: HashMap<ServerId, Known>,
    buffer: Vec<u8>,
}

/// What is kept of a server between two measurements.
struct Known {
    target: Arc<Target>,
    group: Group,
    before: Option<(Instant, u64)>,
}

impl Stats {
    /// Both sides. `interval` is the time between two measurements of a server.
    pub fn new(interval: Duration) -> (Stats, Sampler) {
        let (wake_tx, wake_rx) = bounded(1);
        let stats = Stats(Arc::new(Shared { targets: Mutex::default(), usages: Mutex::default(), wake_tx }));
        let sampler = Sampler {
            stats: stats.clone(),
            wake_rx,
            interval,
            mounts: Mounts::find(Path::new("/")),
            known: HashMap::new(),
            buffer: Vec::with_capacity(4096),
        };
        (stats, sampler)
    }

    /// Says that a server runs, as which process, or that it does not.
    pub fn set(&self, server: &ServerId, target: Option<Target>) {
        let mut targets = lock(&self.0.targets);
        match target {
            Some(target) => {
                let first = targets.is_empty();
                targets.insert(server.clone(), Arc::new(target));
                drop(targets);
                if first {
                    self.wake();
                }
            }
            None => {
                targets.remove(server);
                drop(targets);
                lock(&self.0.usages).remove(server);
            }
        }
    }

    /// The newest figures; none until it was measured once, and none when it does not run.
    pub fn usage(&self, server: &ServerId) -> Option<Usage> {
        lock(&self.0.usages).get(server).map(|latest| latest.usage)
    }

    /// Figures that were not told yet, of the next such server; they count as told from then on. Older ones that were
    /// never asked for are gone: the latest wins.
    pub fn take_fresh(&self) -> Option<(ServerId, Usage)> {
        let mut usages = lock(&self.0.usages);
        let (server, latest) = usages.iter_mut().find(|(_, latest)| !latest.told)?;
        latest.told = true;
        Some((server.clone(), latest.usage))
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
    /// Measures until `stop_rx` is disconnected; `measured` is called after each sweep.
    pub fn run(mut self, stop_rx: &Receiver<()>, measured: impl Fn()) {
        let mut next = Instant::now();
        loop {
            if lock(&self.stats.0.targets).is_empty() {
                self.known.clear();
                crossbeam_channel::select! {
                    recv(self.wake_rx) -> _ => next = Instant::now(),
                    recv(stop_rx) -> _ => return,
                }
            }
            match stop_rx.recv_deadline(next) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
            self.sweep();
            measured();
            // A sweep that took longer than the interval is followed by a whole one all the same.
            next = (next + self.interval).max(Instant::now());
        }
    }

    fn sweep(&mut self) {
        // Cloned, so that the loop never waits for a sweep.
        let targets = lock(&self.stats.0.targets).clone();
        self.known.retain(|server, _| targets.contains_key(server));
        for (server, target) in targets {
            if let Some(usage) = self.measure(&server, &target)
                // It may have stopped meanwhile.
                && lock(&self.stats.0.targets).get(&server) == Some(&target)
            {
                lock(&self.stats.0.usages).insert(server, Latest { usage, told: false });
            }
        }
    }

    fn measure(&mut self, server: &ServerId, target: &Arc<Target>) -> Option<Usage> {
        if self.known.get(server).is_none_or(|known| known.target != *target) {
            let group = self.mounts.group(target.pid, &target.container)?;
            self.known.insert(server.clone(), Known { target: target.clone(), group, before: None });
        }
        let known = self.known.get_mut(server)?;
        let counters = known.group.read(&mut self.buffer).ok()?;
        let traffic = net::read(Path::new("/proc"), known.target.pid, &mut self.buffer).unwrap_or_default();
        let now = Instant::now();
        let cpu = known.before.replace((now, counters.cpu_ns)).map_or(0.0, |(then, cpu_ns)| {
            let wall = now.saturating_duration_since(then).as_nanos().max(1) as f64;
            counters.cpu_ns.saturating_sub(cpu_ns) as f64 / wall * 100.0
        });
        Some(Usage { cpu, counters, traffic })
    }
}
