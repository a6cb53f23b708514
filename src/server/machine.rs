//! The state machine of one game server: what is asked, what Docker says and what the workers report go in,
//! and what to do comes out. Pure: no I/O, no clock, no thread; the agent loop owns each [`Machine`] and carries
//! out its [`Effect`]s.
//!
//! INVARIANT: at most one job of a server is in flight. INVARIANT: every ticket is answered exactly once.
//! An error of the Engine never becomes `stopped`: only an exit that Docker reported does.

//!
//! | file | holds |
//! |---|---|
//! | here | the state, the status it amounts to, one step |
//! | `inputs` | what goes in and comes out |
//! | `requests` | what is asked |
//! | `stopping` | a stop, from the first word to SIGKILL |
//! | `settling` | what an Agent before this one has left |
//! | `readiness` | from a container that runs to a server that is up |
//! | `jobs` | what the workers report |
//! | `truth` | what Docker says |

mod inputs;
mod jobs;
mod readiness;
mod requests;
mod settling;
mod stopping;
mod truth;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use inputs::{Begun, Change, Desired, Done, Effect, Input, Job, JobResult, Request, Ticket};

use self::readiness::Readying;
use super::facts::{Died, Facts};
use super::supervision::{CrashLog, Moment, StopUnderWay, Supervision};
use crate::protocol::spec::{SpecPatch, StopMethod};
use crate::protocol::{Code, Fault, Reason, Spec, Status, StopOptions};

/// How long a server with `done` patterns may take to show one, where the node's owner has not said otherwise.
const READY_TIMEOUT: Duration = Duration::from_secs(300);

/// What is going on.
#[derive(Debug)]
enum Phase {
    /// Nothing: the server is settled, running or not.
    Idle,
    Creating {
        ticket: Ticket,
        keep_data: bool,
        pulled: bool,
        superseded: bool,
    },
    Starting(Starting),
    Readying(Readying),
    Stopping(Stopping),
    /// It ended in a way that an operator or the Engine's own shutdown would explain.
    Probing {
        died: Died,
    },
    Updating {
        ticket: Ticket,
        spec: Arc<Spec>,
        applied: Vec<&'static str>,
        needs_restart: bool,
    },
    Deleting {
        ticket: Ticket,
    },
    /// The server is no more; nothing follows.
    Gone,
}

#[derive(Debug)]
struct Starting {
    /// `None` when the Agent itself wants it.
    ticket: Option<Ticket>,
    reason: Reason,
    pulled: bool,
    superseded: bool,
    /// A `die` that came before the job's result.
    died: Option<Died>,
}

#[derive(Debug)]
struct Stopping {
    waiters: Vec<(Ticket, Waiter)>,
    then: Then,
    deadline: Instant,
    /// The signal to send once nothing is in flight.
    next: Option<Job>,
    killed: bool,
    /// How often SIGKILL was sent in vain.
    rounds: u8,
    exited: Option<Died>,
    /// Why it was begun, told at its end.
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Waiter {
    Stop,
    Kill,
    Suspend,
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Nothing,
    Start(Ticket),
    Delete(Ticket, bool),
}

/// One server.
#[derive(Debug)]
pub struct Machine {
    spec: Arc<Spec>,
    /// How long a server may take to say that it is up.
    ready_timeout: Duration,
    phase: Phase,
    job: Option<Job>,
    /// The status while `Idle`.
    settled: Status,
    /// False until Docker was asked, and again whenever it cannot be.
    known: bool,
    container: Option<Facts>,
    desired: Desired,
    suspended: bool,
    /// Desired state, suspension or spec changed since they were last saved.
    dirty: bool,
    queue: VecDeque<(Ticket, Request)>,
    /// Commands of an Agent before this one, judged once the server is at rest and before anything else is begun.
    unsettled: Vec<(Ticket, Begun)>,
    /// A stop that an Agent before this one had begun, with its deadline.
    left_stop: Option<(Instant, StopUnderWay)>,
    /// Whether the last stop ended with SIGKILL.
    killed: bool,
    crashes: CrashLog,
    /// When a crashed server is started again.
    retry_at: Option<Instant>,
    oom: bool,
    /// The run that has to end for its disk use, once nothing is in flight.
    over_disk: Option<u64>,
    /// A `die` that waits for the job in flight to end.
    died: Option<Died>,
    /// The container is to be looked at once nothing is in flight.
    look_again: bool,
    /// The last `kill` event that was not ours.
    foreign_kill: Option<(i32, Instant)>,
    /// The Engine went away since the container was last known to run.
    engine_gap: bool,
    reason: Option<Reason>,
    cause: Option<Ticket>,
    effects: Vec<Effect>,
}

impl Machine {
    /// A server that is being created; its job is in the returned effects.
    pub fn create(spec: Arc<Spec>, ticket: Ticket, keep_data: bool) -> (Machine, Vec<Effect>) {
        let mut machine = Machine::new(spec, Desired::Stopped, false);
        machine.known = true;
        machine.phase = Phase::Creating { ticket, keep_data, pulled: false, superseded: false };
        machine.effects.push(Effect::Begin(ticket));
        machine.run(Job::Create { keep_data });
        let effects = std::mem::take(&mut machine.effects);
        (machine, effects)
    }

    /// A server known from disk or from a container's labels; nothing is true until it is inspected.
    pub fn restore(spec: Arc<Spec>, desired: Desired, suspended: bool) -> Machine {
        let mut machine = Machine::new(spec, desired, suspended);
        machine.engine_gap = true;
        machine
    }

    /// The same with what an Agent before this one has left to be seen to.
    pub fn supervised(mut self, kept: Supervision, moment: Moment) -> Machine {
        self.crashes = kept.crashes.into_iter().map(|at| moment.behind(at)).collect();
        let cap = Duration::from_secs(self.spec.restart_policy.backoff_cap.into());
        self.retry_at = kept.retry_at.map(|at| moment.ahead(at, cap));
        if self.retry_at.is_some() {
            self.settled = Status::Crashed;
        }
        let most = Duration::from_secs(3600);
        self.left_stop = kept.stop.map(|stop| (moment.ahead(stop.until, most), stop));
        self
    }

    /// What has to outlive this Agent.
    pub fn supervision(&self, moment: Moment) -> Supervision {
        let stop = match &self.phase {
            Phase::Stopping(stopping) => self.container.as_ref().map(|container| StopUnderWay {
                run: container.started_ns,
                until: moment.to_wall(stopping.deadline),
                signal: match &self.job {
                    Some(Job::Signal(signal)) => Some(signal.clone()),
                    _ => None,
                },
            }),
            _ => None,
        };
        let crashes = self.crashes.times().map(|at| moment.to_wall(at)).collect();
        Supervision { crashes, retry_at: self.retry_at.map(|at| moment.to_wall(at)), stop }
    }

    /// A server whose record was lost, known from its container's labels only.
    pub fn adopt(spec: Arc<Spec>, desired: Desired) -> Machine {
        let mut machine = Machine::new(spec, desired, false);
        machine.dirty = true;
        machine
    }

    fn new(spec: Arc<Spec>, desired: Desired, suspended: bool) -> Machine {
        Machine {
            spec,
            ready_timeout: READY_TIMEOUT,
            phase: Phase::Idle,
            job: None,
            settled: Status::Created,
            known: false,
            container: None,
            desired,
            suspended,
            dirty: false,
            queue: VecDeque::new(),
            unsettled: Vec::new(),
            left_stop: None,
            killed: false,
            crashes: CrashLog::default(),
            retry_at: None,
            oom: false,
            over_disk: None,
            died: None,
            look_again: false,
            foreign_kill: None,
            engine_gap: false,
            reason: None,
            cause: None,
            effects: Vec::new(),
        }
    }

    /// The same with another time for a server to say that it is up.
    pub fn with_ready_timeout(mut self, timeout: Duration) -> Machine {
        self.ready_timeout = timeout;
        self
    }

    pub fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    pub fn desired(&self) -> Desired {
        self.desired
    }

    pub fn suspended(&self) -> bool {
        self.suspended
    }

    /// What is known of the container, running or not.
    pub fn container(&self) -> Option<&Facts> {
        self.container.as_ref()
    }

    /// The command that what is going on serves, if it is one's.
    pub fn serves(&self) -> Option<Ticket> {
        match &self.phase {
            Phase::Creating { ticket, .. } | Phase::Updating { ticket, .. } | Phase::Deleting { ticket } => {
                Some(*ticket)
            }
            Phase::Starting(starting) => starting.ticket,
            Phase::Readying(readying) => readying.ticket,
            Phase::Stopping(stopping) => match (stopping.waiters.first(), stopping.then) {
                (Some((ticket, _)), _) => Some(*ticket),
                (None, Then::Start(ticket) | Then::Delete(ticket, _)) => Some(ticket),
                (None, Then::Nothing) => None,
            },
            Phase::Idle | Phase::Probing { .. } | Phase::Gone => None,
        }
    }

    /// Whether it exists for the Panel: a server that is still being created does not yet.
    pub fn is_created(&self) -> bool {
        !matches!(self.phase, Phase::Creating { .. })
    }

    /// Commands that wait behind the one in work.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether desired state has to be saved; asked by whoever runs the next job, which then saves it.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// What [`Machine::take_dirty`] gave out was not saved after all.
    pub fn make_dirty(&mut self) {
        self.dirty = true;
    }

    /// When [`Input::Deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Stopping(stopping) => Some(stopping.deadline),
            Phase::Readying(readying) => Some(readying.until),
            Phase::Idle if self.job.is_none() && self.known => self.retry_at,
            _ => None,
        }
    }

    /// The last exit code, while it does not run.
    pub fn exit_code(&self) -> Option<i64> {
        self.container.as_ref().filter(|c| !c.running && c.ever_started()).map(|c| c.exit_code)
    }

    /// The status as the Panel is told.
    pub fn status(&self) -> Status {
        if !self.known {
            return Status::Unknown;
        }
        match &self.phase {
            Phase::Idle | Phase::Updating { .. } => self.settled,
            Phase::Creating { .. } => Status::Installing,
            Phase::Starting(_) | Phase::Readying(_) => Status::Starting,
            Phase::Stopping(Stopping { then: Then::Start(_), .. }) => Status::Restarting,
            Phase::Stopping(_) => Status::Stopping,
            Phase::Probing { .. } => Status::Running,
            Phase::Deleting { .. } => Status::Deleting,
            Phase::Gone => Status::Deleted,
        }
    }

    /// Takes one input and says what to do about it.
    pub fn step(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        let before = self.status();
        match input {
            Input::Request(ticket, request) => self.request(ticket, request, now),
            Input::Settle(ticket, begun) => self.unsettled.push((ticket, begun)),
            Input::Done(result) => self.job_done(result, now),
            Input::Died(died) => self.died(died, now),
            Input::Signalled { signal } => {
                if !matches!(self.phase, Phase::Stopping(_)) {
                    self.foreign_kill = Some((signal, now));
                }
            }
            Input::Started { at_ns } => self.started(at_ns),
            Input::Ready { started_ns } => self.ready(started_ns),
            Input::DiskLimit { started_ns } => self.over_disk = Some(started_ns),
            Input::OutOfMemory => self.oom = true,
            Input::Destroyed { container } => {
                if self.container.as_ref().is_some_and(|c| c.id == container) {
                    self.look();
                }
            }
            Input::Inspected(facts) => self.inspected(facts, now),
            Input::EventsMissed => self.engine_gap = true,
            Input::EngineLost => self.engine_lost(),
            Input::Deadline => {
                self.stop_overdue(now);
                self.ready_overdue(now);
            }
        }
        self.tell_change(before, 0);
        // What comes next is told after it: a queued start must not swallow the word that answers a create.
        let (before, done) = (self.status(), self.effects.len());
        self.next(now);
        self.tell_change(before, done);
        std::mem::take(&mut self.effects)
    }

    /// Tells of a change since `before`, to which the effects from `first` on belong.
    fn tell_change(&mut self, before: Status, first: usize) {
        let current = self.status();
        let (reason, ticket) = (self.reason.take(), self.cause.take());
        // A create that failed leaves nothing to tell of: nobody knew the server yet.
        if before == current || (before == Status::Installing && current == Status::Deleted) {
            return;
        }
        let running = current == Status::Running;
        let ended = matches!(current, Status::Stopped | Status::Crashed | Status::Suspended);
        let change = Change {
            previous: before,
            current,
            reason,
            exit_code: if ended { self.exit_code() } else { None },
            oom_killed: if ended && self.oom { Some(true) } else { None },
            pid: self.container.as_ref().filter(|_| running).map(|c| c.pid),
            ticket,
        };
        // Before the answers: a command's events precede its response.
        let answer = self.effects[first..].iter().position(|e| matches!(e, Effect::Answer(..)));
        let at = answer.map_or(self.effects.len(), |at| first + at);
        self.effects.insert(at, Effect::Status(change));
    }

    fn is_running(&self) -> bool {
        self.container.as_ref().is_some_and(|c| c.running)
    }

    fn set_suspended(&mut self, suspended: bool) {
        self.dirty |= self.suspended != suspended;
        self.suspended = suspended;
    }

    fn set_desired(&mut self, desired: Desired) {
        self.dirty |= self.desired != desired;
        self.desired = desired;
    }

    fn answer(&mut self, ticket: Ticket, result: Result<Done, Fault>) {
        self.effects.push(Effect::Answer(ticket, result));
    }

    fn answer_done(&mut self, ticket: Ticket, message: &'static str, killed: Option<bool>) {
        let done = self.done(message, killed);
        self.answer(ticket, Ok(done));
    }

    fn answer_already_stopped(&mut self, ticket: Ticket) {
        self.answer_done(ticket, "Server is already stopped", Some(false));
    }

    fn done(&self, message: &'static str, killed: Option<bool>) -> Done {
        let container = self.container.as_ref();
        Done {
            message,
            status: self.status(),
            container: container.map(|c| c.id.clone()),
            pid: container.filter(|c| c.running).map(|c| c.pid),
            exit_code: self.exit_code(),
            killed,
            applied: None,
            needs_restart: None,
        }
    }
}

fn superseded() -> Fault {
    Fault::new(Code::Superseded, "A later stop, kill or delete took its place.")
}

fn over_disk_limit() -> Fault {
    Fault::new(
        Code::QuotaExceeded,
        "The server uses more disk than its limit allows and was stopped. Remove files or raise the limit.",
    )
}

fn engine_unavailable() -> Fault {
    Fault::new(Code::DockerUnavailable, "Docker on this node does not answer. Try again when it is back.")
}

fn ended_at_once(exit_code: i64) -> Fault {
    let text =
        format!("The server ended right after it started, with exit code {exit_code}. Its log says why.");
    Fault::new(Code::DockerError, text)
}

fn fault_of(result: JobResult) -> Fault {
    match result {
        JobResult::Failed { fault, .. } => fault,
        JobResult::ImageMissing => Fault::new(
            Code::ImageNotFound,
            "The image is not on this node and could not be found. Check its name.",
        ),
        JobResult::NotRunning => Fault::new(
            Code::ContainerNotFound,
            "The server's container is gone. Start the server to make it again.",
        ),
        JobResult::Ok(_) => Fault::new(Code::Internal, "The Agent could not finish this. Its log says why."),
    }
}
