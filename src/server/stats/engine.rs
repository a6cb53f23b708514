//! The way out where the kernel's files cannot be read (no control groups mounted, an Agent in a container of its own, an
//! Engine on another machine): the Engine's own one-shot stats. Slow, a second a call on old Engines, so four at once on
//! threads that live for one round, `stats-1` to `stats-4`, and a round that takes no new call after 10 s.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded};

use super::cgroup::Counters;
use super::net::Traffic;
use super::sampler::{Target, Usage};
use crate::docker::{Client, ContainerStats};
use crate::protocol::ServerId;

/// Engines up to 24 have been seen to answer one-shot calls one after another; more would only queue there.
const AT_ONCE: usize = 4;
/// No call begins later than this in a round; whoever was left out is first in the next.
const ROUND: Duration = Duration::from_secs(10);

/// See the module's description.
pub(super) struct EngineStats {
    client: Client,
    /// The sample before of each run, since a one-shot answer has none.
    before: HashMap<ServerId, (Arc<Target>, ContainerStats)>,
    /// Who is first in the next round.
    turn: Option<ServerId>,
}

impl EngineStats {
    pub fn new(client: Client) -> EngineStats {
        EngineStats { client, before: HashMap::new(), turn: None }
    }

    /// Asks for each of `targets` at most once and gives what came, and how often the Engine was asked. A container that
    /// cannot be asked for has no figures until the next round: its state is the events' to tell.
    pub fn round(
        &mut self,
        mut targets: Vec<(ServerId, Arc<Target>)>,
        stop_rx: &Receiver<()>,
    ) -> (Vec<(ServerId, Arc<Target>, Usage)>, usize) {
        let first = targets.iter().position(|(server, _)| Some(server) >= self.turn.as_ref()).unwrap_or(0);
        targets.rotate_left(first);
        let (end, next) = (Instant::now() + ROUND, AtomicUsize::new(0));
        let (samples_tx, samples_rx) = bounded(targets.len());
        let is_over =
            || Instant::now() >= end || matches!(stop_rx.try_recv(), Err(TryRecvError::Disconnected));
        let ask = || {
            while !is_over() {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((_, target)) = targets.get(at) else { return };
                if let Ok(Some(sample)) = self.client.stats(&target.container) {
                    // There is room for one of each target.
                    let _ = samples_tx.send((at, sample));
                }
            }
        };
        thread::scope(|scope| {
            for n in 1..=AT_ONCE.min(targets.len()) {
                let builder = thread::Builder::new().name(format!("stats-{n}")).stack_size(256 << 10);
                // Without a thread there are no figures, and the next round tries again.
                if let Err(error) = builder.spawn_scoped(scope, ask) {
                    log::warn!("stats: no thread to ask the Engine with: {error}");
                }
            }
        });
        let asked = next.into_inner().min(targets.len());
        self.turn = targets.get(asked).map(|(server, _)| server.clone());
        let known: HashSet<&ServerId> = targets.iter().map(|(server, _)| server).collect();
        self.before.retain(|server, _| known.contains(server));
        let samples = samples_rx.try_iter();
        let usages = samples.map(|(at, sample): (usize, ContainerStats)| {
            let (server, target) = targets[at].clone();
            let before = self.before.insert(server.clone(), (target.clone(), sample));
            let before = before.filter(|(run, _)| *run == target);
            let cpu = before.map_or(0.0, |(_, before)| sample.cpu_percent(&before));
            (server, target, usage(cpu, &sample))
        });
        (usages.collect(), asked)
    }
}

fn usage(cpu: f64, sample: &ContainerStats) -> Usage {
    Usage {
        cpu,
        counters: Counters {
            cpu_ns: sample.cpu_ns,
            memory: sample.memory,
            memory_limit: Some(sample.memory_limit).filter(|&limit| limit > 0),
            pids: sample.pids,
            read: sample.read,
            written: sample.written,
        },
        traffic: Traffic { rx: sample.rx, tx: sample.tx },
    }
}
