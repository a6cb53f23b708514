//! The words for a server's state and for why it changed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A server's state as the Panel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Installing,
    Created,
    Starting,
    Running,
    Stopping,
    Stopped,
    Restarting,
    Crashed,
    Suspended,
    Deleting,
    Deleted,
    /// Docker cannot be asked. Never turned into `Stopped` or `Crashed` by itself.
    Unknown,
}

/// Why a status changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Command,
    Crash,
    Oom,
    EngineRestart,
    Operator,
    GaveUp,
    DiskLimit,
    ReadyTimeout,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}
