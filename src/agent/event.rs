//! Everything that can make the Agent act, in one closed list.

use super::caller::Caller;
use super::engine::EngineEvent;
use super::policy::{BadPolicy, Policy};
use super::system::Sample;
use crate::link;
use crate::protocol::{Command, Incoming, Outcome, Rejected, ServerId};
use crate::server::console::Refused;
use crate::server::lifecycle::PullProgress;
use crate::server::progress::Step;
use crate::server::{JobResult, Ticket};

/// One thing that happened. The agent loop takes them one at a time.
pub enum Event {
    /// The Panel said something on the connection `generation`.
    Panel {
        generation: u64,
        message: Box<Result<Incoming, Rejected>>,
    },
    /// A command came over HTTP; `caller` waits for its answer.
    Http {
        command: Box<Command>,
        caller: Caller,
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
    /// There is room for more of files' contents on the link.
    Room,
    /// How far a long job is.
    Step {
        ticket: Ticket,
        step: Step,
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
    /// Output was dropped and the Panel is to be told.
    Gaps,
    /// A command that no machine has a part in has its outcome.
    Answered {
        ticket: Ticket,
        outcome: Box<Outcome>,
    },
    /// An input of a command was written to its server, or not.
    Written {
        ticket: Ticket,
        result: Result<(), Refused>,
    },
    /// What the loop waits for in the journal is on disk, or whether the disk takes anything has changed.
    Journaled,
    /// The heartbeat's time has come, with a fresh measurement of the node.
    Beat(Box<Sample>),
    /// The owner's policy was read again.
    Policy(Box<Result<Policy, BadPolicy>>),
    /// A long-lived thread ended. Unasked, that is a fault.
    ThreadEnded {
        name: String,
    },
    /// A signal asks the Agent to end.
    Shutdown {
        signal: i32,
    },
}
