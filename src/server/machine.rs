//! The state machine of one game server: what is asked, what Docker says and what the workers report go in,
//! and what to do comes out. Pure: no I/O, no clock, no thread; the agent loop owns each [`Machine`] and carries
//! out its [`Effect`]s.
//!
//! INVARIANT: at most one job of a server is in flight. INVARIANT: every ticket is answered exactly once.
//! An error of the Engine never becomes `stopped`: only an exit that Docker reported does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::facts::{Died, Facts};
use super::supervision::{CrashLog, Verdict};
use crate::docker::ContainerId;
use crate::protocol::spec::{SpecPatch, StopMethod};
use crate::protocol::{Code, Fault, Reason, Spec, Status, StopOptions};

/// How long a container may take to end after SIGKILL before it is looked at, and how often that is repeated.
const KILL_CONFIRM: Duration = Duration::from_secs(10);
const KILL_CONFIRM_ROUNDS: u8 = 3;
/// A `kill` event that was not ours explains a `die` for the stop timeout and this much more.
const OPERATOR_SLACK: Duration = Duration::from_secs(5);

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

/// Everything that can happen to a server.
#[derive(Clone, Debug)]
pub enum Input {
    Request(Ticket, Request),
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
    /// An `oom` event.
    OutOfMemory,
    /// A `destroy` event.
    Destroyed {
        container: ContainerId,
    },
    /// What a look at Docker found; `None` when there is no container.
    Inspected(Option<Facts>),
    EngineLost,
    /// The time given by [`Machine::deadline`] has come.
    Deadline,
}

/// What the agent loop has to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Hand this to a worker; its result comes back as [`Input::Done`].
    Run(Job),
    /// End the job in flight early if it can be (a pull can).
    Cancel,
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
    /// The first kind word was said, and when it failed the deadline decides.
    kill_wanted: bool,
    killed: bool,
    /// After a SIGKILL: how often it was looked at since.
    rounds: u8,
    exited: Option<Died>,
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
    crashes: CrashLog,
    /// When a crashed server is started again.
    retry_at: Option<Instant>,
    oom: bool,
    /// A `die` that waits for the job in flight to end.
    died: Option<Died>,
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

    /// A server whose record was lost, known from its container's labels only.
    pub fn adopt(spec: Arc<Spec>, desired: Desired) -> Machine {
        let mut machine = Machine::new(spec, desired, false);
        machine.dirty = true;
        machine
    }

    fn new(spec: Arc<Spec>, desired: Desired, suspended: bool) -> Machine {
        Machine {
            spec,
            phase: Phase::Idle,
            job: None,
            settled: Status::Created,
            known: false,
            container: None,
            desired,
            suspended,
            dirty: false,
            queue: VecDeque::new(),
            crashes: CrashLog::default(),
            retry_at: None,
            oom: false,
            died: None,
            foreign_kill: None,
            engine_gap: false,
            reason: None,
            cause: None,
            effects: Vec::new(),
        }
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
            Phase::Stopping(stopping) => match (stopping.waiters.first(), stopping.then) {
                (Some((ticket, _)), _) => Some(*ticket),
                (None, Then::Start(ticket) | Then::Delete(ticket, _)) => Some(ticket),
                (None, Then::Nothing) => None,
            },
            Phase::Idle | Phase::Probing { .. } => None,
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

    /// When [`Input::Deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Stopping(stopping) => Some(stopping.deadline),
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
            Phase::Starting(_) => Status::Starting,
            Phase::Stopping(Stopping { then: Then::Start(_), .. }) => Status::Restarting,
            Phase::Stopping(_) => Status::Stopping,
            Phase::Probing { .. } => Status::Running,
            Phase::Deleting { .. } => Status::Deleting,
        }
    }

    /// Takes one input and says what to do about it.
    pub fn step(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        let before = self.status();
        match input {
            Input::Request(ticket, request) => self.request(ticket, request, now),
            Input::Done(result) => self.job_done(result, now),
            Input::Died(died) => self.died(died, now),
            Input::Signalled { signal } => {
                if !matches!(self.phase, Phase::Stopping(_)) {
                    self.foreign_kill = Some((signal, now));
                }
            }
            Input::Started { at_ns } => self.started(at_ns),
            Input::OutOfMemory => self.oom = true,
            Input::Destroyed { container } => {
                if self.job.is_none() && self.container.as_ref().is_some_and(|c| c.id == container) {
                    self.run(Job::Inspect);
                }
            }
            Input::Inspected(facts) => self.inspected(facts, now),
            Input::EngineLost => self.engine_lost(),
            Input::Deadline => self.deadline_passed(now),
        }
        self.next(now);
        self.tell_change(before);
        std::mem::take(&mut self.effects)
    }

    fn tell_change(&mut self, before: Status) {
        let current = self.status();
        let (reason, ticket) = (self.reason.take(), self.cause.take());
        if before == current || matches!(self.effects.last(), Some(Effect::Forget)) {
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
        let at =
            self.effects.iter().position(|e| matches!(e, Effect::Answer(..))).unwrap_or(self.effects.len());
        self.effects.insert(at, Effect::Status(change));
    }

    // ---- what is asked -------------------------------------------------------------------------------------

    fn request(&mut self, ticket: Ticket, request: Request, now: Instant) {
        if matches!(request, Request::Stop(_) | Request::Kill | Request::Delete { .. } | Request::Suspend) {
            self.supersede_queued_starts();
            if self.overtake(ticket, &request, now) {
                return;
            }
        }
        self.queue.push_back((ticket, request));
    }

    /// A stop, kill, delete or suspend against what is going on. True when it needs no place in the queue.
    fn overtake(&mut self, ticket: Ticket, request: &Request, now: Instant) -> bool {
        match &mut self.phase {
            Phase::Starting(starting) if !starting.superseded => {
                starting.superseded = true;
                if let Some(overtaken) = starting.ticket.take() {
                    self.answer(overtaken, Err(superseded()));
                }
                self.effects.push(Effect::Cancel);
                false
            }
            Phase::Creating { ticket: creating, superseded: gone, .. } => match request {
                Request::Delete { .. } if !*gone => {
                    *gone = true;
                    let creating = *creating;
                    self.answer(creating, Err(superseded()));
                    self.effects.push(Effect::Cancel);
                    false
                }
                Request::Stop(_) | Request::Kill => {
                    self.answer_already_stopped(ticket);
                    true
                }
                _ => false,
            },
            Phase::Stopping(stopping) => {
                if let Then::Start(restart) = stopping.then {
                    stopping.then = Then::Nothing;
                    self.answer(restart, Err(superseded()));
                    self.set_desired(Desired::Stopped);
                }
                self.join_stop(ticket, request, now)
            }
            _ => false,
        }
    }

    /// Joins a stop that is under way.
    fn join_stop(&mut self, ticket: Ticket, request: &Request, now: Instant) -> bool {
        let spec_timeout = self.spec.stop.timeout();
        let Phase::Stopping(stopping) = &mut self.phase else { return false };
        match request {
            Request::Stop(options) => {
                let asked = now + options.timeout.unwrap_or(spec_timeout);
                if !stopping.killed {
                    stopping.deadline = stopping.deadline.min(asked);
                }
                stopping.waiters.push((ticket, Waiter::Stop));
            }
            Request::Kill => {
                stopping.kill_wanted = true;
                stopping.waiters.push((ticket, Waiter::Kill));
                self.push_stop(now);
            }
            Request::Suspend => {
                stopping.waiters.push((ticket, Waiter::Suspend));
                self.set_suspended(true);
            }
            Request::Delete { remove_data } if stopping.then == Then::Nothing => {
                stopping.then = Then::Delete(ticket, *remove_data);
            }
            _ => return false,
        }
        true
    }

    fn supersede_queued_starts(&mut self) {
        let (overtaken, kept) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|(_, r)| matches!(r, Request::Start | Request::Restart(_)));
        self.queue = kept;
        let overtaken: VecDeque<(Ticket, Request)> = overtaken;
        for (ticket, _) in overtaken {
            self.answer(ticket, Err(superseded()));
        }
    }

    /// Takes the next command from the queue while nothing is going on.
    fn next(&mut self, now: Instant) {
        while self.is_free() {
            if let Some(died) = self.died.take() {
                self.died(died, now);
                continue;
            }
            let Some((ticket, request)) = self.queue.pop_front() else { break };
            if !self.known {
                self.answer(ticket, Err(engine_unavailable()));
                continue;
            }
            self.cause = Some(ticket);
            self.begin(ticket, request, now);
        }
        if self.is_free() && self.known && self.retry_at.is_some_and(|at| now >= at) {
            self.start(None, Reason::Crash);
        }
        if self.is_free() && self.dirty {
            self.run(Job::Save);
        }
    }

    fn is_free(&self) -> bool {
        self.job.is_none() && matches!(self.phase, Phase::Idle)
    }

    fn begin(&mut self, ticket: Ticket, request: Request, now: Instant) {
        let running = self.is_running();
        match request {
            Request::Start | Request::Restart(_) if self.suspended => {
                let fault = Fault::new(Code::ServerSuspended, "The server is suspended. Unsuspend it first.");
                self.answer(ticket, Err(fault));
            }
            Request::Start if running => self.answer_done(ticket, "Server is already running", None),
            Request::Start => {
                self.crashes.clear();
                self.start(Some(ticket), Reason::Command);
            }
            Request::Restart(options) if running => self.stop(options, Vec::new(), Then::Start(ticket), now),
            Request::Restart(_) => {
                self.crashes.clear();
                self.start(Some(ticket), Reason::Command);
            }
            Request::Stop(options) if running => {
                self.stop(options, vec![(ticket, Waiter::Stop)], Then::Nothing, now);
            }
            Request::Kill if running => self.kill(ticket, now),
            Request::Stop(_) | Request::Kill => {
                self.settle_at_rest();
                self.answer_already_stopped(ticket);
            }
            Request::Suspend if running => {
                self.set_suspended(true);
                self.stop(StopOptions::default(), vec![(ticket, Waiter::Suspend)], Then::Nothing, now);
            }
            Request::Suspend => {
                self.set_suspended(true);
                self.settle_at_rest();
                self.answer_done(ticket, "Server suspended", None);
            }
            Request::Unsuspend => {
                let message = if self.suspended { "Server unsuspended" } else { "Server is not suspended" };
                if self.suspended {
                    self.set_suspended(false);
                    self.settled = Status::Stopped;
                }
                self.answer_done(ticket, message, None);
            }
            Request::Delete { remove_data } if running => {
                self.stop(StopOptions::default(), Vec::new(), Then::Delete(ticket, remove_data), now);
            }
            Request::Delete { remove_data } => self.delete(ticket, remove_data),
            Request::Update(patch) => self.update(ticket, &patch),
        }
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

    /// Not running and not meant to: ends a wait for a restart too.
    fn settle_at_rest(&mut self) {
        self.retry_at = None;
        self.set_desired(Desired::Stopped);
        self.settled = match self.settled {
            _ if self.suspended => Status::Suspended,
            Status::Created => Status::Created,
            _ => Status::Stopped,
        };
    }

    fn start(&mut self, ticket: Option<Ticket>, reason: Reason) {
        self.set_desired(Desired::Running);
        self.retry_at = None;
        self.oom = false;
        self.foreign_kill = None;
        self.reason = Some(reason);
        self.phase =
            Phase::Starting(Starting { ticket, reason, pulled: false, superseded: false, died: None });
        self.run(Job::Start);
    }

    fn stop(&mut self, options: StopOptions, waiters: Vec<(Ticket, Waiter)>, then: Then, now: Instant) {
        if !matches!(then, Then::Start(_)) {
            self.set_desired(Desired::Stopped);
        }
        self.reason = Some(Reason::Command);
        let timeout = options.timeout.unwrap_or(self.spec.stop.timeout());
        let first = match (options.signal, &self.spec.stop.method) {
            (Some(signal), _) => Job::Signal(signal),
            (None, StopMethod::Signal(signal)) => Job::Signal(signal.clone()),
            (None, StopMethod::Command(line)) => Job::Console(line.clone()),
        };
        self.phase = Phase::Stopping(Stopping {
            waiters,
            then,
            deadline: now + timeout,
            kill_wanted: false,
            killed: false,
            rounds: 0,
            exited: None,
        });
        self.run(first);
    }

    fn kill(&mut self, ticket: Ticket, now: Instant) {
        self.set_desired(Desired::Stopped);
        self.reason = Some(Reason::Command);
        self.phase = Phase::Stopping(Stopping {
            waiters: vec![(ticket, Waiter::Kill)],
            then: Then::Nothing,
            deadline: now + KILL_CONFIRM,
            kill_wanted: true,
            killed: false,
            rounds: 0,
            exited: None,
        });
        self.push_stop(now);
    }

    fn delete(&mut self, ticket: Ticket, remove_data: bool) {
        self.phase = Phase::Deleting { ticket };
        self.run(Job::Remove { data: remove_data });
    }

    fn update(&mut self, ticket: Ticket, patch: &SpecPatch) {
        match self.spec.patched(patch) {
            Err(fault) => self.answer(ticket, Err(fault)),
            Ok(patched) => {
                let running = self.is_running();
                let apply = running && patched.updates_container();
                let needs_restart = running && patched.needs_restart();
                let applied = patched.applied();
                let spec = Arc::new(patched.spec);
                let job = if apply { Job::Apply(spec.clone()) } else { Job::Store(spec.clone()) };
                self.phase = Phase::Updating { ticket, spec, applied, needs_restart };
                self.run(job);
            }
        }
    }

    // ---- what the workers report ---------------------------------------------------------------------------

    fn run(&mut self, job: Job) {
        debug_assert!(self.job.is_none(), "one job at a time");
        self.job = Some(job.clone());
        self.effects.push(Effect::Run(job));
    }

    fn job_done(&mut self, result: JobResult, now: Instant) {
        let Some(job) = self.job.take() else { return };
        match (&mut self.phase, job) {
            (Phase::Creating { .. }, _) => self.create_done(result),
            (Phase::Starting(_), Job::Start | Job::Pull) => self.start_done(result, now),
            (Phase::Stopping(_), job) => self.stop_done(&job, result, now),
            (Phase::Probing { .. }, Job::Probe) => self.probe_done(result),
            (Phase::Updating { .. }, Job::Apply(_) | Job::Store(_)) => self.update_done(result),
            (Phase::Deleting { .. }, Job::Remove { .. }) => self.remove_done(result),
            (_, Job::Inspect) => match result {
                JobResult::Ok(facts) => self.inspected(facts, now),
                JobResult::NotRunning => self.inspected(None, now),
                _ => {}
            },
            _ => {}
        }
    }

    fn create_done(&mut self, result: JobResult) {
        let Phase::Creating { ticket, keep_data, pulled, superseded } = &mut self.phase else { return };
        let (ticket, keep_data) = (*ticket, *keep_data);
        match result {
            JobResult::Ok(Some(facts)) => {
                let answered = *superseded;
                self.container = Some(facts);
                self.phase = Phase::Idle;
                self.settled = Status::Created;
                self.cause = Some(ticket);
                self.reason = Some(Reason::Command);
                if !answered {
                    self.answer_done(ticket, "Server created", None);
                }
            }
            // A pull that ended: now the container.
            JobResult::Ok(None) if !*superseded => self.run(Job::Create { keep_data }),
            JobResult::ImageMissing if !*pulled && !*superseded => {
                *pulled = true;
                self.run(Job::Pull);
            }
            result => {
                let answered = *superseded;
                if !answered {
                    self.answer(ticket, Err(fault_of(result)));
                }
                self.forget();
            }
        }
    }

    fn start_done(&mut self, result: JobResult, now: Instant) {
        let Phase::Starting(starting) = &mut self.phase else { return };
        if starting.superseded {
            match result {
                JobResult::Ok(Some(facts)) | JobResult::Failed { facts: Some(facts), .. } => {
                    self.container = Some(facts);
                }
                _ => {}
            }
            self.phase = Phase::Idle;
            self.settle_from_container();
            return;
        }
        match result {
            JobResult::Ok(Some(facts)) => {
                let died = starting.died.take().filter(|d| d.at_ns >= facts.started_ns);
                let (ticket, reason) = (starting.ticket, starting.reason);
                self.reason = Some(reason);
                self.cause = ticket;
                self.phase = Phase::Idle;
                self.settled = Status::Running;
                self.engine_gap = false;
                let ended = died.or_else(|| facts.died());
                let mut facts = facts;
                facts.running = ended.is_none();
                self.container = Some(facts);
                match ended {
                    None => {
                        if let Some(ticket) = ticket {
                            self.answer_done(ticket, "Server started successfully", None);
                        }
                    }
                    Some(died) => {
                        if let Some(ticket) = ticket {
                            self.answer(ticket, Err(ended_at_once(died.exit_code)));
                        }
                        self.ended(died, now);
                    }
                }
            }
            // A pull that ended: now the start.
            JobResult::Ok(None) => self.run(Job::Start),
            JobResult::ImageMissing if !starting.pulled => {
                starting.pulled = true;
                self.run(Job::Pull);
            }
            result => {
                let ticket = starting.ticket;
                self.phase = Phase::Idle;
                match &result {
                    JobResult::Failed { facts: Some(facts), .. } => self.container = Some(facts.clone()),
                    // It may have been started all the same.
                    JobResult::Failed { .. } if ticket.is_some() => self.run(Job::Inspect),
                    _ => {}
                }
                match ticket {
                    Some(ticket) => {
                        self.cause = Some(ticket);
                        self.settle_from_container();
                        if !self.is_running() {
                            self.set_desired(Desired::Stopped);
                        }
                        self.answer(ticket, Err(fault_of(result)));
                    }
                    // The look that follows the Engine's return starts it again.
                    None if matches!(
                        fault_of(result),
                        Fault { code: Code::DockerUnavailable | Code::Timeout, .. }
                    ) =>
                    {
                        self.engine_gap = true;
                        self.effects.push(Effect::Doubt);
                    }
                    // The Agent's own start: as a crash, so that it is tried again with backoff and an end.
                    None => self.crashed(Reason::Crash, now),
                }
            }
        }
    }

    fn stop_done(&mut self, job: &Job, result: JobResult, now: Instant) {
        let Phase::Stopping(stopping) = &mut self.phase else { return };
        match result {
            JobResult::Ok(Some(facts)) => {
                if !facts.running {
                    stopping.exited.get_or_insert(facts.exit());
                }
                self.container = Some(facts);
            }
            JobResult::NotRunning if *job == Job::Inspect => {
                // The container is gone altogether.
                stopping.exited.get_or_insert(Died {
                    exit_code: self.container.as_ref().map_or(0, |c| c.exit_code),
                    at_ns: 0,
                });
                self.container = None;
            }
            JobResult::NotRunning if stopping.exited.is_none() => return self.run(Job::Inspect),
            // Standard input could not be written: the signal is the next kindest word.
            JobResult::Failed { .. } if matches!(job, Job::Console(_)) && stopping.exited.is_none() => {
                return self.run(Job::Signal("SIGTERM".into()));
            }
            _ => {}
        }
        self.push_stop(now);
    }

    /// Moves a stop on as far as it goes without a job in flight.
    fn push_stop(&mut self, now: Instant) {
        let Phase::Stopping(stopping) = &mut self.phase else { return };
        if self.job.is_some() {
            return;
        }
        if let Some(died) = stopping.exited {
            return self.stopped(died);
        }
        if stopping.kill_wanted && !stopping.killed {
            stopping.killed = true;
            stopping.deadline = now + KILL_CONFIRM;
            self.run(Job::Kill);
        }
    }

    fn stopped(&mut self, died: Died) {
        let Phase::Stopping(stopping) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        if let Some(container) = &mut self.container {
            container.running = false;
            container.exit_code = died.exit_code;
        }
        self.foreign_kill = None;
        self.settled = if self.suspended { Status::Suspended } else { Status::Stopped };
        self.reason = Some(Reason::Command);
        for (ticket, waiter) in stopping.waiters {
            self.cause = Some(ticket);
            match waiter {
                Waiter::Stop => self.answer_done(ticket, "Server stopped", Some(stopping.killed)),
                Waiter::Kill => self.answer_done(ticket, "Server killed", None),
                Waiter::Suspend => self.answer_done(ticket, "Server suspended", None),
            }
        }
        match stopping.then {
            Then::Nothing => {}
            Then::Start(ticket) if self.suspended => self.answer(ticket, Err(superseded())),
            Then::Start(ticket) => {
                self.cause = Some(ticket);
                self.start(Some(ticket), Reason::Command);
            }
            Then::Delete(ticket, remove_data) => {
                self.cause = Some(ticket);
                self.delete(ticket, remove_data);
            }
        }
    }

    /// A stop that cannot be brought to its end.
    fn stop_failed(&mut self, fault: &Fault) {
        let Phase::Stopping(stopping) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        self.settled = Status::Running;
        for (ticket, _) in stopping.waiters {
            self.answer(ticket, Err(fault.clone()));
        }
        if let Then::Start(ticket) | Then::Delete(ticket, _) = stopping.then {
            self.answer(ticket, Err(fault.clone()));
        }
    }

    fn probe_done(&mut self, result: JobResult) {
        let Phase::Probing { died } = &self.phase else { return };
        let died = *died;
        self.phase = Phase::Idle;
        match result {
            JobResult::Ok(_) => {
                self.settled = Status::Stopped;
                self.set_desired(Desired::Stopped);
                self.reason = Some(Reason::Operator);
                self.mark_exited(died);
            }
            // The Engine itself is going down: it is started again when the Engine is back.
            _ => {
                self.engine_lost();
                self.effects.push(Effect::Doubt);
            }
        }
    }

    fn update_done(&mut self, result: JobResult) {
        let Phase::Updating { .. } = &self.phase else { return };
        let Phase::Updating { ticket, spec, applied, needs_restart } =
            std::mem::replace(&mut self.phase, Phase::Idle)
        else {
            return;
        };
        match result {
            JobResult::Ok(_) => {
                self.spec = spec;
                let mut done = self.done("Server updated", None);
                done.applied = Some(applied);
                done.needs_restart = Some(needs_restart);
                self.answer(ticket, Ok(done));
            }
            result => self.answer(ticket, Err(fault_of(result))),
        }
    }

    fn remove_done(&mut self, result: JobResult) {
        let Phase::Deleting { ticket } = self.phase else { return };
        match result {
            JobResult::Ok(_) => {
                let before = Status::Deleting;
                self.effects.push(Effect::Status(Change {
                    previous: before,
                    current: Status::Deleted,
                    reason: Some(Reason::Command),
                    exit_code: None,
                    oom_killed: None,
                    pid: None,
                    ticket: Some(ticket),
                }));
                let done = Done { status: Status::Deleted, ..self.done("Server deleted", None) };
                self.answer(ticket, Ok(done));
                self.forget();
            }
            result => {
                self.phase = Phase::Idle;
                self.settle_from_container();
                self.answer(ticket, Err(fault_of(result)));
                self.run(Job::Inspect);
            }
        }
    }

    fn forget(&mut self) {
        for (ticket, _) in std::mem::take(&mut self.queue) {
            self.answer(
                ticket,
                Err(Fault::new(Code::ServerNotFound, "There is no such server on this node.")),
            );
        }
        self.phase = Phase::Idle;
        self.dirty = false;
        self.effects.push(Effect::Forget);
    }

    // ---- what Docker says ----------------------------------------------------------------------------------

    fn died(&mut self, died: Died, now: Instant) {
        if self.container.as_ref().is_some_and(|c| died.at_ns < c.started_ns) {
            // From before the start we know of: a replayed event, or a look that came later.
            return;
        }
        let running = self.is_running();
        match &mut self.phase {
            Phase::Stopping(stopping) => {
                stopping.exited = Some(died);
                self.push_stop(now);
            }
            Phase::Starting(starting) => starting.died = Some(died),
            Phase::Idle | Phase::Updating { .. } if running => {
                if !self.is_free() {
                    self.died = Some(died);
                } else if self.explained_by_operator(now) {
                    self.mark_exited(died);
                    self.phase = Phase::Probing { died };
                    self.run(Job::Probe);
                } else {
                    self.ended(died, now);
                }
            }
            _ => {}
        }
    }

    fn explained_by_operator(&self, now: Instant) -> bool {
        let Some((signal, at)) = self.foreign_kill else { return false };
        let stop_signal = match &self.spec.stop.method {
            StopMethod::Signal(name) => super::signal::number(name),
            StopMethod::Command(_) => None,
        };
        let stopping = matches!(signal, 2 | 3 | 9 | 15) || Some(signal) == stop_signal;
        stopping && now.saturating_duration_since(at) <= self.spec.stop.timeout() + OPERATOR_SLACK
    }

    fn mark_exited(&mut self, died: Died) {
        if let Some(container) = &mut self.container {
            container.running = false;
            container.exit_code = died.exit_code;
            container.oom_killed |= self.oom;
        }
    }

    /// It ended by itself while it should run.
    fn ended(&mut self, died: Died, now: Instant) {
        self.mark_exited(died);
        self.oom |= self.container.as_ref().is_some_and(|c| c.oom_killed);
        let reason = if self.oom { Reason::Oom } else { Reason::Crash };
        if died.exit_code == 0 {
            match self.spec.restart {
                crate::protocol::spec::Restart::Always => self.crashed(reason, now),
                _ => {
                    self.settled = Status::Stopped;
                    self.set_desired(Desired::Stopped);
                }
            }
        } else {
            self.crashed(reason, now);
        }
    }

    fn crashed(&mut self, reason: Reason, now: Instant) {
        self.settled = Status::Crashed;
        self.reason = Some(reason);
        if self.desired == Desired::Stopped || self.suspended {
            return;
        }
        match self.crashes.crash(&self.spec, now) {
            Verdict::Retry(backoff) => self.retry_at = Some(now + backoff),
            Verdict::GiveUp => {
                self.reason = Some(Reason::GaveUp);
                self.set_desired(Desired::Stopped);
            }
            Verdict::Leave => self.set_desired(Desired::Stopped),
        }
    }

    /// A `start` that we did not ask for, or our own seen again.
    fn started(&mut self, at_ns: u64) {
        let known = self.container.as_ref().is_some_and(|c| c.running && c.started_ns <= at_ns);
        if !known && self.is_free() {
            self.run(Job::Inspect);
        }
    }

    fn engine_lost(&mut self) {
        self.known = false;
        self.engine_gap = true;
        if let Phase::Probing { .. } = self.phase {
            self.phase = Phase::Idle;
            self.settled = Status::Running;
        }
    }

    /// What is true now, by Docker's own word. It wins over everything that was believed.
    fn inspected(&mut self, facts: Option<Facts>, now: Instant) {
        self.known = true;
        let gap = std::mem::take(&mut self.engine_gap);
        if self.job.is_some() {
            // Its result is newer than this look, and decides.
            self.engine_gap = gap && self.is_running();
            return;
        }
        let was_running = self.is_running();
        self.container = facts;
        match &mut self.phase {
            Phase::Stopping(stopping) => match &self.container {
                Some(container) if container.running => {}
                Some(container) => {
                    stopping.exited = Some(container.exit());
                    self.push_stop(now);
                }
                None => {
                    stopping.exited = Some(Died { exit_code: 0, at_ns: 0 });
                    self.push_stop(now);
                }
            },
            Phase::Idle | Phase::Probing { .. } => self.settle(was_running, gap, now),
            _ => {}
        }
    }

    /// After a look at the settled server: makes what is and what should be agree.
    fn settle(&mut self, was_running: bool, gap: bool, now: Instant) {
        self.phase = Phase::Idle;
        if self.is_running() {
            self.settled = Status::Running;
            self.retry_at = None;
            if self.desired == Desired::Stopped && !self.suspended {
                // Somebody else started it; that is a wish like any other.
                self.set_desired(Desired::Running);
                self.reason = Some(Reason::Operator);
            }
            return;
        }
        if self.retry_at.is_some() {
            return;
        }
        if self.desired == Desired::Running && !self.suspended {
            match (&self.container, gap, was_running) {
                (Some(container), false, true) => {
                    let died = container.exit();
                    self.ended(died, now);
                }
                _ => self.start(None, Reason::EngineRestart),
            }
            return;
        }
        self.settle_from_container();
    }

    fn settle_from_container(&mut self) {
        let ever_started = self.container.as_ref().is_some_and(Facts::ever_started);
        self.settled = match (self.is_running(), self.suspended) {
            (true, _) => Status::Running,
            (false, true) => Status::Suspended,
            (false, false) if self.settled == Status::Crashed => Status::Crashed,
            (false, false) if ever_started || self.container.is_none() => Status::Stopped,
            (false, false) => Status::Created,
        };
    }

    fn deadline_passed(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Stopping(stopping) if now >= stopping.deadline => {
                if !self.known {
                    return self.stop_failed(&engine_unavailable());
                }
                if !stopping.killed {
                    stopping.kill_wanted = true;
                    stopping.deadline = now + KILL_CONFIRM;
                    return self.push_stop(now);
                }
                stopping.rounds += 1;
                stopping.deadline = now + KILL_CONFIRM;
                if stopping.rounds > KILL_CONFIRM_ROUNDS {
                    let text = "The server did not end even after SIGKILL. Look at the node.";
                    return self.stop_failed(&Fault::new(Code::Timeout, text));
                }
                if self.job.is_none() {
                    self.run(Job::Inspect);
                }
            }
            // A retry that is due is taken up by `next`.
            _ => {}
        }
    }

    // ---- answers -------------------------------------------------------------------------------------------

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
