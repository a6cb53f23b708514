//! What came of a command. One outcome, encoded by each dialect in its own shape.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use super::{ArchiveReply, ConsoleReply, Fault, FileReply, KeptReply, ModReply, ServerId, Status};

pub type Outcome = Result<Reply, Fault>;

/// A success, with the data its action promises (section 5 of the contract).
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// create, update, start, stop, restart, kill, delete, suspend, unsuspend.
    Server(Box<ServerReply>),
    Status(Box<ServerReport>),
    Servers(Vec<ServerReport>),
    Metrics(Box<ServerMetrics>),
    SystemMetrics(Box<SystemMetrics>),
    /// Answer to `system.ping`; it carries the time at which it is encoded.
    Pong,
    SystemInfo(Box<SystemInfo>),
    Console(Box<ConsoleReply>),
    File(Box<FileReply>),
    Archive(ArchiveReply),
    Mod(Box<ModReply>),
    /// One that was read back from disk.
    Kept(Box<KeptReply>),
}

/// The outcome of an action on one server. Fields that the action does not promise are `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerReply {
    /// A sentence for a person, such as `Server started successfully`. Encoded beside the data, not in it.
    #[serde(skip)]
    pub message: Cow<'static, str>,
    pub server_id: ServerId,
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed: Option<bool>,
    /// Spec fields that were applied at once, a limit as `limits.memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs_restart: Option<bool>,
    /// HTTP only: the command goes on after the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<bool>,
}

impl ServerReply {
    /// A reply that promises nothing beyond the status.
    pub fn new(server_id: ServerId, status: Status, message: impl Into<Cow<'static, str>>) -> ServerReply {
        ServerReply {
            message: message.into(),
            server_id,
            status,
            container_id: None,
            pid: None,
            exit_code: None,
            killed: None,
            applied: None,
            needs_restart: None,
            pending: None,
        }
    }
}

/// A server as `get_status` and `list_servers` tell it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerReport {
    pub server_id: ServerId,
    pub status: Status,
    pub container_id: Option<String>,
    /// Seconds since the container started; 0 when it is not running.
    pub uptime: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    pub resources: Resources,
    pub name: Option<String>,
    pub image: String,
    pub ports: Vec<super::spec::Port>,
}

/// Use of resources. CPU in percent of one core, memory, disk and network in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Resources {
    #[serde(serialize_with = "two_places")]
    pub cpu: f64,
    pub memory: Memory,
    pub network: Network,
    pub disk: Disk,
    pub pids: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    pub used: u64,
    pub limit: u64,
    #[serde(serialize_with = "two_places")]
    pub percentage: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Network {
    pub rx: u64,
    pub tx: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Disk {
    pub used: u64,
}

/// The node as a whole, measured. CPU in percent of all cores.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SystemMetrics {
    #[serde(serialize_with = "two_places")]
    pub cpu: f64,
    pub memory: Share,
    pub disk: Share,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    pub network: Network,
    /// Seconds since boot.
    pub uptime: u64,
    pub servers: ServerCount,
}

/// What one server uses, each figure a number by itself: memory and disk in bytes, uptime in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServerMetrics {
    #[serde(serialize_with = "two_places")]
    pub cpu: f64,
    pub memory: u64,
    pub disk: u64,
    pub network: InOut,
    pub pids: u64,
    pub uptime: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct InOut {
    pub r#in: u64,
    pub out: u64,
}

/// A part of a whole in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Share {
    pub total: u64,
    pub used: u64,
    #[serde(serialize_with = "two_places")]
    pub percentage: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServerCount {
    pub total: usize,
    pub running: usize,
}

/// Legacy `system_info`: measured, never invented; what cannot be measured is left out. Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SystemInfo {
    pub node_id: String,
    pub os: String,
    pub arch: String,
    /// Total memory in bytes.
    pub memory: u64,
    /// The processor's name.
    pub cpu: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_version: Option<String>,
    pub capabilities: Vec<&'static str>,
    /// Addresses by interface, such as `eth0`.
    pub networks: Vec<String>,
    pub cpu_count: u32,
    pub total_memory: u64,
    pub free_memory: u64,
    pub total_disk: u64,
    pub free_disk: u64,
    /// Seconds since boot.
    pub uptime: u64,
    pub platform: String,
}

/// Percentages are told to a hundredth: more digits are noise from the division and bytes on the wire. What is no
/// number (a share of nothing) is 0, since JSON has no NaN.
pub(super) fn two_places<S: Serializer>(value: &f64, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(if value.is_finite() { (value * 100.0).round() / 100.0 } else { 0.0 })
}
