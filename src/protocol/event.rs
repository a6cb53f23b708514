//! What the Agent says unasked.

use serde::{Deserialize, Serialize};

use super::{Reason, ServerId, Status};

/// A control event. `seq` is given when it is made and kept by whoever queues it, not here.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    AgentConnected {
        version: String,
        boot_id: String,
        capabilities: Vec<&'static str>,
        servers: Vec<KnownServer>,
    },
    AgentStopping,
    ServerStatusChanged(StatusChange),
    CommandProgress(Progress),
    /// What was dropped from a full queue. `stream` names the queue.
    StreamGap {
        server_id: Option<ServerId>,
        stream: &'static str,
        lines: u64,
        bytes: u64,
        /// The numbers of the first and the last line, where lines have numbers.
        seqs: Option<(u64, u64)>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownServer {
    pub server_id: ServerId,
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusChange {
    pub server_id: ServerId,
    pub previous_status: Status,
    pub current_status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_killed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_id: Option<String>,
    pub server_id: ServerId,
    /// What is being done, such as `pulling`.
    pub stage: &'static str,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
