//! What goes into a [`Machine`](super::Machine) and what comes out of it.

use std::sync::Arc;

use crate::docker::ContainerId;
use crate::protocol::spec::SpecPatch;
use crate::protocol::{Fault, Reason, Spec, Status, StopOptions};
use crate::server::facts::{Died, Facts};

/// Names one command that waits for its answer. Given by the agent loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What should be true of a server, kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    Running,
    Stopped,
}

/// What is asked of a machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Start,
    Stop(StopOptions),
    Restart(StopOptions),
    Kill,
    Delete { remove_data: bool },
    Suspend,
    Unsuspend,
    Update(Box<SpecPatch>),
}

/// What an Agent before this one had begun and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    Create,
    Start,
    Stop,
    /// Of the run that began at `run`, nanoseconds since the Unix epoch; 0 for none.
    Restart {
        run: u64,
    },
    Kill,
    Suspend,
    Unsuspend,
    /// What cannot be told from how the server is.
    Other,
}

/// Everything that can happen to a server.
#[derive(Clone, Debug)]
pub enum Input {
    Request(Ticket, Request),
    /// A command that an Agent before this one had begun is to be answered with what came of it.
    Settle(Ticket, Begun),
    /// The one job in flight ended.
    Done(JobResult),
    /// A `die` event.
    Died(Died),
    /// A `kill` event.
    Signalled {
        signal: i32,
    },
    /// A `start` event that may not be ours.
    Started {
        at_ns: u64,
    },
    /// The output of the run that began at `started_ns` shows that the server is up.
    Ready {
        started_ns: u64,
    },
    /// The run that began at `started_ns` has been over its disk limit for the whole grace.
    DiskLimit {
        started_ns: u64,
    },
    /// An `oom` event.
    OutOfMemory,
    /// A `destroy` event.
    Destroyed {
        container: ContainerId,
    },
    /// What a look at Docker found; `None` when there is no container.
    Inspected(Option<Facts>),
    /// The Engine answers, but may have been another process for a moment: how a container ended that did so unseen
    /// is not known.
    EventsMissed,
    EngineLost,
    /// The time given by [`Machine::deadline`](super::Machine::deadline) has come.
    Deadline,
}

/// What the agent loop has to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Hand this to a worker; its result comes back as [`Input::Done`].
    Run(Job),
    /// End the job in flight early if it can be (a pull can).
    Cancel,
    /// The work of a command begins with what follows.
    Begin(Ticket),
    Answer(Ticket, Result<Done, Fault>),
    Status(Change),
    /// The Engine may be going down: look at all servers again as soon as it answers.
    Doubt,
    /// The server is gone; drop the machine after the other effects.
    Forget,
}

/// A change of the status, for an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub previous: Status,
    pub current: Status,
    pub reason: Option<Reason>,
    pub exit_code: Option<i64>,
    pub oom_killed: Option<bool>,
    pub pid: Option<u32>,
    pub ticket: Option<Ticket>,
}

/// The happy answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    pub message: &'static str,
    pub status: Status,
    pub container: Option<ContainerId>,
    pub pid: Option<u32>,
    pub exit_code: Option<i64>,
    pub killed: Option<bool>,
    pub applied: Option<Vec<&'static str>>,
    pub needs_restart: Option<bool>,
}

/// Work for a worker thread, short unless it says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// Make the directory and the container.
    Create {
        keep_data: bool,
    },
    /// Long: for the slow workers.
    Pull,
    /// Make or replace the container where needed, start it, look at it.
    Start,
    Signal(String),
    /// Write a line to the server's standard input.
    Console(String),
    Kill,
    Inspect,
    /// Give a running container its new limits, then store the spec.
    Apply(Arc<Spec>),
    /// Store the spec only.
    Store(Arc<Spec>),
    /// Store desired state only.
    Save,
    Remove {
        data: bool,
    },
    /// Ask the Engine for a sign of life on a new connection.
    Probe,
}

impl Job {
    /// For log lines, which must not show a spec or a console line.
    pub fn name(&self) -> &'static str {
        match self {
            Job::Create { .. } => "create",
            Job::Pull => "pull",
            Job::Start => "start",
            Job::Signal(_) => "signal",
            Job::Console(_) => "console",
            Job::Kill => "kill",
            Job::Inspect => "inspect",
            Job::Apply(_) => "apply limits",
            Job::Store(_) | Job::Save => "store",
            Job::Remove { .. } => "remove",
            Job::Probe => "probe",
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug)]
pub enum JobResult {
    /// Create, Start, Inspect, Signal, Console, Kill: what was found afterwards, where it was looked at.
    Ok(Option<Facts>),
    /// The image is not there; pull it and try again.
    ImageMissing,
    /// The container was not running (or not there) when it was to be signalled.
    NotRunning,
    /// `facts` is what was found after the failure, when Docker could be asked.
    Failed { fault: Fault, facts: Option<Facts> },
}
