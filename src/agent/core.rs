//! The agent loop: the one thread that owns all state. It takes one [`Event`] at a time, gives it to the machine of
//! the server it concerns, and carries out what comes of it. It never blocks except in its `select!`, never does
//! I/O, and never asks the Engine: that is the workers'.
//!
//! | file | holds |
//! |---|---|
//! | here | the state, the one `select!`, the end |
//! | `panel` | a connection that begins, what is said on it |
//! | `commands` | a command from its receipt to its answer |
//! | `reads` | what is answered from the loop's own state |
//! | `policy` | what the node's owner says to a command |
//! | `console` | what a command asks of a server's output and input |
//! | `jobs` | archives and mods: who may begin, how far they are |
//! | `journal` | what waits for the disk, and what an Agent before this one has left |
//! | `servers` | inputs of the machines, and what comes of them |
//! | `starts` | how many servers the Agent starts at once by itself |
//! | `engine` | what the Engine's events change |

mod commands;
mod console;
mod engine;
mod files;
mod jobs;
mod journal;
mod panel;
mod policy;
mod reads;
mod servers;
mod starts;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, after, never, select};

use super::caller::Caller;
use super::engine::{Engine, EngineEvent, Seen};
use super::epoch::Epoch;
use super::event::Event;
use super::figures::{self, NodeFigures};
use super::file_queue::FileQueue;
use super::file_threads::{FileTask, FileThreads};
use super::health::Board;
use super::heartbeat::Heartbeat;
use super::journal::{Journal, Mark};
use super::ledger::{Asker, Ledger, Receipt};
use super::long_jobs::LongJobs;
use super::metrics::{self, Counters};
use super::notify::Notify;
use super::panel_link::PanelLink;
use super::policy::{BadPolicy, Policy, Rate};
use super::room::Wanted;
use super::system::{Host, Sample};
use super::voice::Voice;
use super::workers::{Claim, MAX_SERVERS, Workers};
use crate::docker::Closer;
use crate::protocol::command::LegacyRequest;
use crate::protocol::event::{KnownServer, Progress, StatusChange};
use crate::protocol::outcome::{InOut, Resources, ServerCount, ServerMetrics, ServerReply, ServerReport};
use crate::protocol::{
    self, Action, Code, Command, CommandKey, Dialect, Envelope, Event as Told, Fault, Incoming, NodeId,
    Outcome, Rejected, Reply, ServerAction, ServerId, Spec, Status,
};
use crate::server::abort::Abort;
use crate::server::lifecycle::{Order, PullProgress};
use crate::server::stats::{Disks, Stats, Target, Watch};
use crate::server::{
    Begun, Consoles, Done, Effect, Facts, Input, Inputs, Job, JobResult, Machine, Record, Request, Ticket,
};

/// Commands that may wait behind the one in work, for one server and for all.
const MAX_QUEUE: usize = 64;
const MAX_WAITING: usize = 8192;
/// How long jobs in flight may take to end once the Agent is asked to, and the outbox to be written after that.
const DRAIN: Duration = Duration::from_secs(5);
const FLUSH: Duration = Duration::from_secs(3);
/// What the service manager is asked to wait: both of these, the threads after them, and a busy machine.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// All state of the Agent. Fields are public to `agent` only so that it can be put together in one place.
pub struct Core {
    pub(super) node: NodeId,
    pub(super) ready_timeout: Duration,
    /// Signals and the ends of threads: never behind anything else.
    pub(super) urgent_rx: Receiver<Event>,
    pub(super) events_rx: Receiver<Event>,
    pub(super) panel_rx: Receiver<Event>,
    /// The name of a thread of the gate that ended.
    pub(super) gate_ended_rx: Receiver<&'static str>,
    pub(super) link: PanelLink,
    pub(super) voice: Voice,
    pub(super) workers: Workers,
    pub(super) engine: Engine,
    pub(super) heartbeat: Heartbeat,
    pub(super) board: Arc<Board>,
    pub(super) notify: Notify,
    pub(super) counters: Counters,
    pub(super) stats: Stats,
    pub(super) disks: Disks,
    pub(super) node_figures: NodeFigures,
    pub(super) epoch: Epoch,
    pub(super) policy: Arc<Policy>,
    pub(super) rate: Rate,
    pub(super) host: Host,
    pub(super) sample: Sample,
    pub(super) servers: BTreeMap<ServerId, Server>,
    pub(super) timers: BTreeSet<(Instant, ServerId)>,
    pub(super) waiting: HashMap<Ticket, Waiting>,
    pub(super) next_ticket: u64,
    pub(super) ledger: Ledger,
    pub(super) journal: Journal,
    /// What waits for the journal, in its order.
    pub(super) held: VecDeque<Held>,
    /// What an Agent before this one had begun, until the Engine has told what there is.
    pub(super) unsettled: Vec<(Ticket, Begun)>,
    pub(super) jobs_in_flight: usize,
    pub(super) starts: Starts,
    /// Commands that wait for lines.
    pub(super) questions: usize,
    pub(super) consoles: Consoles,
    pub(super) inputs: Inputs,
    pub(super) files: FileQueue<Box<FileTask>>,
    pub(super) file_threads: FileThreads,
    /// Whether files wait for room on the link.
    pub(super) room_wanted: Wanted,
    /// Ends long work on files.
    pub(super) stop_files: Abort,
    pub(super) long_jobs: LongJobs,
    pub(super) draining: bool,
}

/// A server and what the loop keeps beside its machine.
pub struct Server {
    pub(super) machine: Machine,
    /// The entry in `timers`.
    deadline: Option<Instant>,
    /// The run that is measured.
    measured: Option<Target>,
    /// The run whose output is followed, and whether a start waits for it to show something.
    watched: Option<(u64, bool)>,
    /// Ends the job in flight early.
    closer: Closer,
    /// Takes the job in flight back while it waits for a worker.
    claim: Claim,
    /// What the next job has to wait for on disk.
    mark: Option<Mark>,
    /// The job in flight stores the server's record on its way.
    stores: bool,
    /// The command that the job in flight serves, for progress and log lines.
    serves: Option<Ticket>,
    /// A job that waits for the end of the long jobs on the server's files, or a start for its turn.
    held: Option<Job>,
}

/// Where a command came from: how it is answered, and whom, unless that is the Panel on the link.
#[derive(Debug)]
pub struct Origin {
    envelope: Envelope,
    caller: Option<Caller>,
}

impl Origin {
    /// The command's id in log lines.
    fn label(&self) -> &str {
        label(&self.envelope)
    }
}

pub use self::journal::Held;
pub use self::starts::Starts;

/// A command that waits for its outcome.
pub struct Waiting {
    origin: Origin,
    key: Option<CommandKey>,
    action: &'static str,
    server: ServerId,
    since: Instant,
}

impl Server {
    pub fn new(machine: Machine, ready_timeout: Duration) -> Server {
        let machine = machine.with_ready_timeout(ready_timeout);
        let (closer, claim) = (Closer::new(), Claim::default());
        Server {
            machine,
            deadline: None,
            measured: None,
            watched: None,
            closer,
            claim,
            mark: None,
            stores: false,
            serves: None,
            held: None,
        }
    }
}

impl Core {
    /// Runs until a signal asks for the end, and then until the last words are written or too late.
    ///
    /// # Errors
    /// The name of a thread that ended unasked.
    pub fn run(&mut self) -> Result<(), String> {
        let mut stop_at: Option<Instant> = None;
        self.publish();
        loop {
            let now = Instant::now();
            if let Some(at) = stop_at
                && (self.jobs_in_flight + self.files.running() + self.long_jobs.running() == 0 || now >= at)
            {
                self.end();
                return Ok(());
            }
            self.link.dial(now);
            self.notify.feed(now, || self.link.stuck().or_else(|| self.workers.stuck()));
            let timer =
                self.next_timer(stop_at).map_or_else(never, |at| after(at.saturating_duration_since(now)));
            let event = select! {
                recv(self.urgent_rx) -> event => event.ok(),
                recv(self.events_rx) -> event => event.ok(),
                recv(self.panel_rx) -> event => event.ok(),
                recv(self.gate_ended_rx) -> name => name.ok().map(|name| Event::ThreadEnded { name: name.into() }),
                recv(timer) -> _ => None,
            };
            match event {
                Some(Event::Shutdown { signal }) => {
                    log::info!("signal {signal}: stopping; game servers keep running");
                    self.notify.stopping(STOP_LIMIT);
                    self.draining = true;
                    self.cancel_pulls();
                    self.stop_files.ask();
                    self.long_jobs.abort_all();
                    stop_at = Some(Instant::now() + DRAIN);
                }
                Some(Event::ThreadEnded { name }) => {
                    self.end();
                    return Err(name);
                }
                Some(event) => self.take(event),
                None => {}
            }
            self.fire_timers();
            self.give_up_files();
        }
    }

    fn next_timer(&self, stop_at: Option<Instant>) -> Option<Instant> {
        let server = self.timers.first().map(|&(at, _)| at);
        [server, self.link.deadline(), self.notify.deadline(), self.files.deadline(), stop_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Panel { generation, message } => self.panel_said(generation, *message),
            Event::Http { command, caller } => self.command(*command, Asker::Http(caller)),
            Event::Dialed(result) => self.dialed(*result),
            Event::LinkEnded(ended) => {
                if self.link.ended(&ended, Instant::now()) {
                    self.counters.lock().setbacks.clone_from(self.link.setbacks());
                    self.publish();
                }
            }
            Event::Engine(event) => self.engine_said(event),
            Event::JobDone { server, result } => {
                self.jobs_in_flight -= 1;
                if let JobResult::Failed { fault, .. } = &result {
                    self.counters.engine_error(metrics::word(fault.code));
                    if matches!(fault.code, Code::DockerUnavailable | Code::Timeout) {
                        self.engine.doubt();
                    }
                }
                self.start_ended(&server);
                self.step(&server, Input::Done(result));
            }
            Event::Progress { server, progress } => self.pulled(&server, &progress),
            Event::Gaps => self.tell_gaps(),
            Event::Journaled => self.journaled(),
            Event::Answered { ticket, outcome } => {
                self.answered(ticket, *outcome);
                self.file_ended(ticket);
                self.long_job_ended(ticket);
            }
            Event::Room => self.begin_files(),
            Event::Step { ticket, step } => self.stepped(ticket, step),
            Event::Written { ticket, result } => self.input_done(ticket, result),
            Event::Ready { server, started_ns } => self.step(&server, Input::Ready { started_ns }),
            Event::DiskLimit { server, started_ns } => {
                log::warn!("{server}: over its disk limit for the whole grace");
                self.step(&server, Input::DiskLimit { started_ns });
            }
            Event::Beat(sample) => {
                self.sample = *sample;
                if self.link.is_up() {
                    self.node_figures.set(self.sample.metrics(self.count()));
                    self.voice.heartbeat();
                }
                self.publish();
            }
            Event::Policy(result) => self.policy_read(*result),
            // Taken by the loop itself.
            Event::Shutdown { .. } | Event::ThreadEnded { .. } => {}
        }
    }

    fn count(&self) -> ServerCount {
        let created = self.servers.values().filter(|server| server.machine.is_created());
        let running = |server: &&Server| server.machine.status() == Status::Running;
        ServerCount { total: created.clone().count(), running: created.filter(running).count() }
    }

    fn publish(&mut self) {
        let count = self.count();
        if !self.draining {
            let Core { notify, link, engine, .. } = self;
            notify.status(|| {
                let trouble = link.trouble().map_or("not linked yet", |_| "no link to the Panel");
                let link = if link.is_up() { "linked to the Panel" } else { trouble };
                let engine = engine.known_version().map_or("no", |_| "with an");
                let ServerCount { total, running } = count;
                format!("{link}, {engine} Engine, {running} of {total} servers run")
            });
        }
        let mut tally = self.counters.lock();
        tally.link_up = self.link.is_up();
        (tally.servers, tally.servers_running) = (count.total, count.running);
        (tally.commands_waiting, tally.jobs_running) = (self.waiting.len(), self.jobs_in_flight);
        drop(tally);
        self.board.publish(
            self.link.is_up(),
            self.link.trouble(),
            self.engine.known_version(),
            self.journal.trouble(),
            &self.sample,
            count,
        );
    }

    fn cancel_pulls(&self) {
        for server in self.servers.values() {
            server.closer.close();
        }
    }

    /// Every command gets its answer, then the last words go out, for as long as that may take.
    fn end(&mut self) {
        // What no worker has begun is not begun any more: its answer says that it was interrupted.
        for server in self.servers.values() {
            server.claim.take();
        }
        let mut tickets: Vec<Ticket> = self.waiting.keys().copied().collect();
        tickets.sort_unstable();
        for ticket in tickets {
            let Some(server) = self.waiting.get(&ticket).map(|w| w.server.clone()) else { continue };
            self.complete(&server, ticket, Err(interrupted()));
        }
        self.flush_journal(Instant::now() + FLUSH);
        self.voice.end(FLUSH);
        let until = Instant::now() + FLUSH;
        while self.link.is_connected() {
            let left = until.saturating_duration_since(Instant::now());
            select! {
                recv(self.events_rx) -> event => match event {
                    Ok(Event::LinkEnded(ended)) => { self.link.ended(&ended, Instant::now()); }
                    Ok(_) => {}
                    Err(_) => return,
                },
                recv(self.panel_rx) -> _ => {}
                recv(after(left)) -> _ => return,
            }
        }
    }
}

/// The command's id in log lines.
fn label(envelope: &Envelope) -> &str {
    envelope.id().filter(|id| !id.is_empty()).unwrap_or("no-id")
}

fn server_not_found() -> Fault {
    Fault::new(Code::ServerNotFound, "There is no such server on this node.")
}

fn container_not_found() -> Fault {
    Fault::new(Code::ContainerNotFound, "There is no such container among this Agent's servers.")
}

fn interrupted() -> Fault {
    Fault::new(
        Code::Interrupted,
        "The Agent was stopped while this was under way. Look at the server's state when it is back.",
    )
}

/// Also the answer to whom the loop has left unanswered.
pub(super) fn stopping() -> Fault {
    Fault::new(Code::ShuttingDown, "The Agent is stopping. Try again when it is back.")
}

pub(super) fn busy() -> Fault {
    Fault::new(Code::Busy, "Too many commands wait already. Try again when some are done.")
}
