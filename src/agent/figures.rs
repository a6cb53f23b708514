//! Figures on the data lane: `resource_update` of each server as it is measured, `system_metrics` with each heartbeat.
//! The latest wins: what the Panel is too slow for is replaced, never queued. Asked by the write thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::tongues::Tongues;
use crate::link::Source;
use crate::protocol::data::{self, ResourceUpdate};
use crate::protocol::outcome::{Disk, Memory, Network, Resources, SystemMetrics};
use crate::protocol::{ServerId, Status};
use crate::server::stats::{DiskUse, Disks, Stats, Usage};

/// The node's own figures that wait to be told. A clone is the same. Behind a lock since the loop writes and the write
/// thread takes.
#[derive(Clone, Debug, Default)]
pub struct NodeFigures(Arc<Mutex<Option<SystemMetrics>>>);

impl NodeFigures {
    pub fn set(&self, metrics: SystemMetrics) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(metrics);
    }

    fn take(&self) -> Option<SystemMetrics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// See the module's description.
pub struct Figures {
    stats: Stats,
    disks: Disks,
    node: NodeFigures,
    tongues: Tongues,
    /// The same figures in the other dialect, next.
    second: VecDeque<String>,
}

impl Figures {
    pub fn new(stats: Stats, disks: Disks, node: NodeFigures, tongues: Tongues) -> Figures {
        Figures { stats, disks, node, tongues, second: VecDeque::new() }
    }
}

impl Source for Figures {
    fn next(&mut self, _max_bytes: usize) -> Option<String> {
        if let Some(message) = self.second.pop_front() {
            return Some(message);
        }
        let now = SystemTime::now();
        if let Some(metrics) = self.node.take()
            && self.tongues.unified()
        {
            return Some(data::encode_system_metrics(&metrics, now));
        }
        let (server, usage) = self.stats.take_fresh()?;
        let disk = self.disks.disk_use(&server);
        let update = ResourceUpdate {
            server_id: server,
            // Only what runs is measured.
            status: Status::Running,
            resources: resources(Some(&usage), disk),
            over_limit: disk.over_limit.then_some(true),
        };
        if self.tongues.unified() {
            self.second.push_back(data::encode_resource_update(&update, now));
        }
        if self.tongues.legacy() {
            self.second.push_back(data::encode_legacy_stats(&update, now));
        }
        self.second.pop_front()
    }
}

/// A server's figures as the Panel is told; zeros for one that does not run, but for its disk.
pub fn resources(usage: Option<&Usage>, disk: DiskUse) -> Resources {
    let disk = Disk { used: disk.used };
    let Some(Usage { cpu, counters, traffic }) = usage else {
        return Resources { disk, ..Resources::default() };
    };
    let limit = counters.memory_limit.unwrap_or(0);
    let percentage = if limit == 0 { 0.0 } else { counters.memory as f64 / limit as f64 * 100.0 };
    Resources {
        cpu: *cpu,
        memory: Memory { used: counters.memory, limit, percentage },
        network: Network { rx: traffic.rx, tx: traffic.tx },
        disk,
        pids: counters.pids,
    }
}

/// [`resources`] of a server that may not run: its memory limit is told all the same.
pub fn resources_of(stats: &Stats, disks: &Disks, server: &ServerId, memory_limit: Option<u64>) -> Resources {
    let mut resources = resources(stats.usage(server).as_ref(), disks.disk_use(server));
    if resources.memory.limit == 0 {
        resources.memory.limit = memory_limit.unwrap_or(0);
    }
    resources
}
