//! Everything that can make the Agent act, in one closed list.

use super::engine::EngineEvent;
use super::system::Sample;
use crate::link;
use crate::protocol::{Incoming, Rejected, ServerId};
use crate::server::JobResult;
use crate::server::lifecycle::PullProgress;

/// One thing that happened. The agent loop takes them one at a time.
pub enum Event {
    /// The Panel said something on the connection `generation`.
    Panel {
        generation: u64,
        message: Box<Result<Incoming, Rejected>>,
    },
    /// A dial ended.
    Dialed(Box<Result<link::Connection, link::DialError>>),
    /// A half of a connection ended.
    LinkEnded(link::Ended),
    Engine(EngineEvent),
    JobDone {
        server: ServerId,
        result: JobResult,
    },
    Progress {
        server: ServerId,
        progress: PullProgress,
    },
    /// The output of a server's run that began at `started_ns` shows that it is up.
    Ready {
        server: ServerId,
        started_ns: u64,
    },
    /// A server's run that began at `started_ns` has been over its disk limit for the whole grace.
    DiskLimit {
        server: ServerId,
        started_ns: u64,
    },
    /// The heartbeat's time has come, with a fresh measurement of the node.
    Beat(Box<Sample>),
    /// A long-lived thread ended. Unasked, that is a fault.
    ThreadEnded {
        name: String,
    },
    /// A signal asks the Agent to end.
    Shutdown {
        signal: i32,
    },
}
