//! What flows on the data lane: figures of servers and of the node. They have no `seq`, and the latest wins.

use std::time::SystemTime;

use serde::Serialize;

use super::legacy;
use super::outcome::{Disk, InOut, Memory, Network, Resources, SystemMetrics, two_places};
use super::wire::{Timestamp, text};
use super::{ServerId, Status};

/// What one server uses, and whether it is over its disk limit.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceUpdate {
    pub server_id: ServerId,
    pub status: Status,
    pub resources: Resources,
    pub over_limit: Option<bool>,
}

#[derive(Serialize)]
struct Message<'a, T> {
    r#type: &'static str,
    timestamp: Timestamp,
    event: &'static str,
    data: &'a T,
}

fn unified<T: Serialize>(event: &'static str, data: &T, now: SystemTime) -> String {
    text(&Message { r#type: "event", timestamp: Timestamp(now), event, data })
}

/// The unified `resource_update`.
pub fn encode_resource_update(update: &ResourceUpdate, now: SystemTime) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Data<'a> {
        server_id: &'a ServerId,
        #[serde(serialize_with = "two_places")]
        cpu: f64,
        memory: &'a Memory,
        network: &'a Network,
        disk: &'a Disk,
        pids: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        over_limit: Option<bool>,
    }
    let Resources { cpu, memory, network, disk, pids } = &update.resources;
    let data = Data {
        server_id: &update.server_id,
        cpu: *cpu,
        memory,
        network,
        disk,
        pids: *pids,
        over_limit: update.over_limit,
    };
    unified("resource_update", &data, now)
}

/// The unified `system_metrics`.
pub fn encode_system_metrics(metrics: &SystemMetrics, now: SystemTime) -> String {
    unified("system_metrics", metrics, now)
}

/// The legacy `server_status` with `stats`. The players of a game are not known here and are left out.
pub fn encode_legacy_stats(update: &ResourceUpdate, now: SystemTime) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Data<'a> {
        server_id: &'a ServerId,
        status: Status,
        stats: Stats,
    }
    #[derive(Serialize)]
    struct Stats {
        #[serde(serialize_with = "two_places")]
        cpu: f64,
        memory: u64,
        disk: u64,
        network: InOut,
        timestamp: Timestamp,
    }
    let Resources { cpu, memory, network, disk, .. } = &update.resources;
    let stats = Stats {
        cpu: *cpu,
        memory: memory.used,
        disk: disk.used,
        network: InOut { r#in: network.rx, out: network.tx },
        timestamp: Timestamp(now),
    };
    legacy::encode(
        "server_status",
        Data { server_id: &update.server_id, status: update.status, stats },
        None,
        now,
    )
}
