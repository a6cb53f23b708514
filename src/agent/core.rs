//! The agent loop: the one thread that owns all state. It takes one [`Event`] at a time, gives it to the machine of
//! the server it concerns, and carries out what comes of it. It never blocks except in its `select!`, never does
//! I/O, and never asks the Engine: that is the workers'.

mod console;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, after, never, select};

use super::engine::{Engine, EngineEvent, Seen};
use super::epoch::Epoch;
use super::event::Event;
use super::figures::{self, NodeFigures};
use super::health::Board;
use super::heartbeat::Heartbeat;
use super::ledger::{Asker, Ledger, Receipt};
use super::metrics::{self, Counters};
use super::panel_link::PanelLink;
use super::system::{Host, Sample};
use super::voice::Voice;
use super::workers::{Claim, MAX_SERVERS, Workers};
use crate::docker::Closer;
use crate::protocol::command::LegacyRequest;
use crate::protocol::event::{KnownServer, Progress, StatusChange};
use crate::protocol::outcome::{InOut, Resources, ServerCount, ServerMetrics, ServerReply, ServerReport};
use crate::protocol::{
    self, Action, Code, Command, CommandKey, Dialect, Envelope, Event as Told, Fault, Incoming, NodeId,
    Outcome, Rejected, Reply, ServerAction, ServerId, Status,
};
use crate::server::lifecycle::{Order, PullProgress};
use crate::server::stats::{Disks, Stats, Target, Watch};
use crate::server::{
    Consoles, Done, Effect, Facts, Input, Inputs, Job, JobResult, Machine, Record, Request, Ticket,
};

/// Commands that may wait behind the one in work, for one server and for all.
const MAX_QUEUE: usize = 64;
const MAX_WAITING: usize = 8192;
/// How long jobs in flight may take to end once the Agent is asked to, and the outbox to be written after that.
const DRAIN: Duration = Duration::from_secs(5);
const FLUSH: Duration = Duration::from_secs(3);

/// Nothing answers over HTTP yet, so nobody can wait there.
#[derive(Clone, Debug)]
pub enum NoHttp {}

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
    pub(super) counters: Counters,
    pub(super) stats: Stats,
    pub(super) disks: Disks,
    pub(super) node_figures: NodeFigures,
    pub(super) epoch: Epoch,
    pub(super) host: Host,
    pub(super) sample: Sample,
    pub(super) servers: BTreeMap<ServerId, Server>,
    pub(super) timers: BTreeSet<(Instant, ServerId)>,
    pub(super) waiting: HashMap<Ticket, Waiting>,
    pub(super) next_ticket: u64,
    pub(super) ledger: Ledger<NoHttp>,
    pub(super) jobs_in_flight: usize,
    /// Commands that wait for lines.
    pub(super) questions: usize,
    pub(super) consoles: Consoles,
    pub(super) inputs: Inputs,
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
    /// The command that the job in flight serves, for progress and log lines.
    serves: Option<Ticket>,
}

/// A command that waits for its outcome.
pub struct Waiting {
    envelope: Envelope,
    key: Option<CommandKey>,
    action: &'static str,
    server: ServerId,
    since: Instant,
}

impl Server {
    pub fn new(machine: Machine, ready_timeout: Duration) -> Server {
        let machine = machine.with_ready_timeout(ready_timeout);
        let (closer, claim) = (Closer::new(), Claim::default());
        Server { machine, deadline: None, measured: None, watched: None, closer, claim, serves: None }
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
                && (self.jobs_in_flight == 0 || now >= at)
            {
                self.end();
                return Ok(());
            }
            self.link.dial(now);
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
                    self.draining = true;
                    self.cancel_pulls();
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
        }
    }

    fn next_timer(&self, stop_at: Option<Instant>) -> Option<Instant> {
        let server = self.timers.first().map(|&(at, _)| at);
        [server, self.link.deadline(), stop_at].into_iter().flatten().min()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Panel { generation, message } => self.panel_said(generation, *message),
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
                self.step(&server, Input::Done(result));
            }
            Event::Progress { server, progress } => self.pulled(&server, &progress),
            Event::Gaps => self.tell_gaps(),
            Event::Answered { ticket, outcome } => self.answered(ticket, *outcome),
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
            // Taken by the loop itself.
            Event::Shutdown { .. } | Event::ThreadEnded { .. } => {}
        }
    }

    // ---- the link ------------------------------------------------------------------------------------------

    fn dialed(&mut self, result: Result<crate::link::Connection, crate::link::DialError>) {
        let now = Instant::now();
        if let Some((generation, connection)) = self.link.dialed(result, now) {
            self.epoch.connected();
            let info = self.host.info(
                self.node.as_str(),
                &self.sample,
                self.engine.version(),
                protocol::capabilities(),
            );
            self.consoles.link_begins();
            let resent = self.voice.begin(generation, &info, self.known_servers());
            self.ledger.connected(resent);
            self.link.start(connection, now);
            self.counters.lock().connections += 1;
            self.heartbeat.now();
        }
        self.counters.lock().setbacks.clone_from(self.link.setbacks());
        self.publish();
    }

    fn panel_said(&mut self, generation: u64, message: Result<Incoming, Rejected>) {
        if generation == self.link.generation()
            && let Some(dialect) = spoken(&message)
        {
            let servers = &self.servers;
            self.voice.heard(dialect, || known(servers));
        }
        match message {
            Ok(Incoming::Command(command)) => self.command(command, generation),
            Ok(Incoming::Hello { epoch }) => self.epoch.hello(epoch),
            Ok(Incoming::Pong) => {}
            Ok(Incoming::Ping { id }) => {
                let metrics = self.sample.metrics(self.count());
                self.voice.pong(id.as_deref(), self.engine.is_known(), &metrics);
            }
            Err(Rejected { envelope, fault }) => {
                log::info!("{}: refused: {fault}", label(&envelope));
                self.counters.command("none", Some(fault.code), Duration::ZERO);
                self.voice.answer(&envelope, None, &Err(fault), SystemTime::now());
            }
        }
    }

    // ---- commands ------------------------------------------------------------------------------------------

    fn command(&mut self, command: Command, generation: u64) {
        let Command { envelope, action, key } = command;
        log::debug!("{}: {}", label(&envelope), action.name());
        if let Err(fault) = self.admit() {
            self.counters.command(action.name(), Some(fault.code), Duration::ZERO);
            return self.voice.answer(&envelope, None, &Err(fault), SystemTime::now());
        }
        let action = match action {
            Action::Server(server, ServerAction::Console(action)) if action.is_read() => {
                return self.console(envelope, None, server, action);
            }
            action => action,
        };
        if action.is_read() {
            let begun = Instant::now();
            let outcome = self.read(&action);
            self.counters.command(action.name(), outcome.as_ref().err().map(|f| f.code), begun.elapsed());
            return self.voice.answer(&envelope, None, &outcome, SystemTime::now());
        }
        if let Some(key) = &key {
            match self.ledger.receive(key, Asker::Link { generation }, Instant::now()) {
                Receipt::New => {}
                Receipt::Joined | Receipt::AlreadySent => return,
                Receipt::Answered(outcome, at) => {
                    return self.voice.answer(&envelope, Some(key.clone()), &outcome, at);
                }
            }
        }
        let action_name = action.name();
        let (server, action) = match action {
            Action::Server(server, action) => (server, action),
            Action::Container(name, action) => match self.find_container(&name) {
                Some(server) => (server, action),
                None => return self.refuse(&envelope, key, action_name, container_not_found()),
            },
            // Reads, answered above.
            Action::ListServers | Action::SystemMetrics | Action::SystemPing | Action::SystemInfo => return,
        };
        let action = match action {
            ServerAction::Console(action) => return self.console(envelope, key, server, action),
            action => action,
        };
        let known = self.servers.get(&server);
        let fault = match (&action, known) {
            _ if self.waiting.len() >= MAX_WAITING => Some(busy()),
            (_, Some(known)) if known.machine.queued() >= MAX_QUEUE => Some(busy()),
            (ServerAction::Create(_), Some(_)) => Some(Fault::new(
                Code::ServerExists,
                "There is a server with this id on this node already. Choose another id or delete it first.",
            )),
            (ServerAction::Create(_), None) if self.servers.len() >= MAX_SERVERS => Some(Fault::new(
                Code::InsufficientResources,
                "This node has as many servers as one Agent looks after.",
            )),
            (ServerAction::Create(_), None) | (_, Some(_)) => None,
            (_, None) => Some(server_not_found()),
        };
        if let Some(fault) = fault {
            return self.refuse(&envelope, key, action_name, fault);
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let since = Instant::now();
        let waiting = Waiting { envelope, key, action: action_name, server: server.clone(), since };
        self.waiting.insert(ticket, waiting);
        match action {
            ServerAction::Create(create) => {
                let (machine, effects) = Machine::create(Arc::new(create.spec), ticket, create.keep_data);
                self.servers.insert(server.clone(), Server::new(machine, self.ready_timeout));
                self.apply(&server, effects);
            }
            action => {
                if let Some(request) = request(action) {
                    self.step(&server, Input::Request(ticket, request));
                }
            }
        }
    }

    fn admit(&self) -> Result<(), Fault> {
        if self.draining {
            return Err(Fault::new(Code::ShuttingDown, "The Agent is stopping. Try again when it is back."));
        }
        self.epoch.admit()
    }

    /// Refuses a command before anything was touched. `BUSY` passes, so it is not remembered: the same message may
    /// be tried again.
    fn refuse(&mut self, envelope: &Envelope, key: Option<CommandKey>, action: &'static str, fault: Fault) {
        log::info!("{}: refused: {fault}", label(envelope));
        self.counters.command(action, Some(fault.code), Duration::ZERO);
        let (at, outcome) = (SystemTime::now(), Err(fault));
        match &key {
            Some(key) if matches!(&outcome, Err(fault) if fault.code == Code::Busy) => {
                self.ledger.forget(key)
            }
            Some(key) => {
                self.ledger.answered(key, &outcome, at, Instant::now(), self.link.generation());
            }
            None => {}
        }
        self.voice.answer(envelope, key, &outcome, at);
    }

    fn find_container(&self, name: &str) -> Option<ServerId> {
        let by_name = |id: &ServerId| crate::server::blueprint::container_name(&self.node, id) == name;
        if let Some((id, _)) = self.servers.iter().find(|(id, _)| by_name(id)) {
            return Some(id.clone());
        }
        if name.len() < 12 {
            return None;
        }
        let mut found = self.servers.iter().filter(|(_, server)| {
            server.machine.container().is_some_and(|container| container.id.as_str().starts_with(name))
        });
        match (found.next(), found.next()) {
            (Some((id, _)), None) => Some(id.clone()),
            _ => None,
        }
    }

    fn read(&self, action: &Action) -> Outcome {
        match action {
            Action::Server(id, action) => {
                let server = self.servers.get(id).ok_or_else(server_not_found)?;
                Ok(self.tell_about(id, server, action))
            }
            Action::Container(name, action) => {
                let id = self.find_container(name).ok_or_else(container_not_found)?;
                let server = self.servers.get(&id).ok_or_else(container_not_found)?;
                Ok(self.tell_about(&id, server, action))
            }
            Action::ListServers => {
                let created = self.servers.iter().filter(|(_, server)| server.machine.is_created());
                Ok(Reply::Servers(created.map(|(id, server)| self.report(id, server)).collect()))
            }
            Action::SystemMetrics => Ok(Reply::SystemMetrics(Box::new(self.sample.metrics(self.count())))),
            Action::SystemPing => Ok(Reply::Pong),
            Action::SystemInfo => Ok(Reply::SystemInfo(Box::new(self.host.info(
                self.node.as_str(),
                &self.sample,
                self.engine.version(),
                protocol::capabilities(),
            )))),
        }
    }

    fn tell_about(&self, id: &ServerId, server: &Server, action: &ServerAction) -> Reply {
        let report = self.report(id, server);
        if *action != ServerAction::Metrics {
            return Reply::Status(Box::new(report));
        }
        let ServerReport { uptime, resources: Resources { cpu, memory, network, disk, pids }, .. } = report;
        Reply::Metrics(Box::new(ServerMetrics {
            cpu,
            memory: memory.used,
            disk: disk.used,
            network: InOut { r#in: network.rx, out: network.tx },
            pids,
            uptime,
        }))
    }

    /// A server as it is told, from the loop's own state and the newest figures.
    fn report(&self, id: &ServerId, server: &Server) -> ServerReport {
        let machine = &server.machine;
        let container = machine.container();
        let running = container.filter(|c| c.running);
        let spec = machine.spec();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since = running.map(|c| Duration::from_nanos(c.started_ns));
        ServerReport {
            server_id: id.clone(),
            status: machine.status(),
            container_id: container.map(|c| c.id.to_string()),
            uptime: since.map_or(0, |since| now.saturating_sub(since).as_secs()),
            exit_code: machine.exit_code(),
            resources: figures::resources_of(&self.stats, &self.disks, id, spec.limits.memory),
            name: spec.name.clone(),
            image: spec.image.clone(),
            ports: spec.ports.clone(),
        }
    }

    // ---- servers -------------------------------------------------------------------------------------------

    fn step(&mut self, id: &ServerId, input: Input) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let effects = server.machine.step(input, Instant::now());
        self.apply(id, effects);
    }

    fn apply(&mut self, id: &ServerId, effects: Vec<Effect>) {
        let (mut gone, mut lost) = (false, None);
        let replied: Vec<Status> = effects.iter().filter_map(|effect| self.legacy_reply(effect)).collect();
        for effect in effects {
            match effect {
                Effect::Run(job) => lost = self.submit(id, job).or(lost),
                Effect::Cancel => lost = self.cancel(id).or(lost),
                Effect::Answer(ticket, result) => self.complete(id, ticket, result),
                Effect::Status(change) => {
                    let in_reply = replied.contains(&change.current);
                    self.tell_change(id, change, in_reply);
                }
                Effect::Doubt => self.engine.doubt(),
                Effect::Forget => gone = true,
            }
        }
        if let Some(server) = self.servers.get_mut(id) {
            let deadline = if gone { None } else { server.machine.deadline() };
            if deadline != server.deadline {
                if let Some(old) = server.deadline.take() {
                    self.timers.remove(&(old, id.clone()));
                }
                if let Some(at) = deadline {
                    self.timers.insert((at, id.clone()));
                }
                server.deadline = deadline;
            }
        }
        self.measure(id, gone);
        self.watch(id, gone);
        if gone {
            self.servers.remove(id);
        }
        self.publish();
        if let Some(result) = lost {
            self.step(id, Input::Done(result));
        }
    }

    /// Ends the job in flight: as soon as it lets itself be ended or, while no worker has begun it, at once. Behind two
    /// pulls that hang it would else wait as long as they do.
    fn cancel(&mut self, id: &ServerId) -> Option<JobResult> {
        let server = self.servers.get(id)?;
        server.closer.close();
        self.inputs.end(id);
        if !server.claim.take() {
            return None;
        }
        self.jobs_in_flight -= 1;
        Some(JobResult::Failed { fault: interrupted(), facts: server.machine.container().cloned() })
    }

    /// Has a run measured from its start to its end, and the server's directory watched.
    fn measure(&mut self, id: &ServerId, gone: bool) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let running = server.machine.container().filter(|c| c.running && !gone);
        let same = match (&server.measured, running) {
            (Some(target), Some(facts)) => target.started_ns == facts.started_ns && target.pid == facts.pid,
            (None, None) => true,
            _ => false,
        };
        if !same {
            server.measured = running.map(|facts| Target {
                container: facts.id.clone(),
                pid: facts.pid,
                started_ns: facts.started_ns,
            });
            self.stats.set(id, server.measured.clone());
        }
        if gone {
            self.disks.forget(id);
        } else if server.machine.is_created() && server.machine.status() != Status::Unknown {
            let spec = server.machine.spec();
            self.disks.set(
                id,
                Watch {
                    run: server.measured.as_ref().map(|target| target.started_ns),
                    limit: spec.limits.disk,
                    grace: Duration::from_secs(spec.disk_grace.into()),
                },
            );
        }
    }

    /// Hands a job to the workers, or gives the result of one that they cannot take.
    fn submit(&mut self, id: &ServerId, job: Job) -> Option<JobResult> {
        let server = self.servers.get_mut(id)?;
        server.closer = Closer::new();
        let machine = &mut server.machine;
        let dirty = machine.take_dirty();
        let spec = match &job {
            Job::Apply(spec) | Job::Store(spec) => spec.clone(),
            _ => machine.spec().clone(),
        };
        let stores = dirty || matches!(job, Job::Create { .. } | Job::Apply(_) | Job::Store(_) | Job::Save);
        let record = stores.then(|| Record {
            server_id: id.clone(),
            desired: machine.desired(),
            suspended: machine.suspended(),
            spec: spec.clone(),
        });
        let serves = machine.serves();
        let label = serves
            .and_then(|ticket| self.waiting.get(&ticket))
            .map_or_else(|| "agent".to_owned(), |waiting| label(&waiting.envelope).to_owned());
        server.serves = serves;
        let order = Order {
            server: id.clone(),
            job,
            spec,
            container: machine.container().cloned(),
            record,
            closer: server.closer.clone(),
            label,
        };
        match self.workers.submit(order) {
            Ok(claim) => {
                self.jobs_in_flight += 1;
                server.claim = claim;
                None
            }
            Err(order) => {
                log::error!("{}: {}: no worker can take a {} job", order.label, id, order.job.name());
                Some(JobResult::Failed { fault: busy(), facts: order.container })
            }
        }
    }

    fn complete(&mut self, id: &ServerId, ticket: Ticket, result: Result<Done, Fault>) {
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        let at = SystemTime::now();
        let took = waiting.since.elapsed();
        self.counters.command(waiting.action, result.as_ref().err().map(|fault| fault.code), took);
        match &result {
            Ok(done) => log::info!(
                "{}: {id}: {}: {} in {:.3} s",
                label(&waiting.envelope),
                waiting.action,
                done.message,
                took.as_secs_f64()
            ),
            Err(fault) => {
                log::warn!("{}: {id}: {}: {fault}", label(&waiting.envelope), waiting.action);
            }
        }
        let outcome = result.map(|done| Reply::Server(Box::new(reply(id, done, waiting.action))));
        self.answer_waiting(waiting, &outcome, at);
    }

    fn answer_waiting(&mut self, waiting: Waiting, outcome: &Outcome, at: SystemTime) {
        let Some(key) = waiting.key else {
            return self.voice.answer(&waiting.envelope, None, outcome, at);
        };
        for _ in self.ledger.answered(&key, outcome, at, Instant::now(), self.link.generation()) {
            self.voice.answer(&waiting.envelope, Some(key.clone()), outcome, at);
        }
    }

    /// The status that an answer tells as a legacy status message.
    fn legacy_reply(&self, effect: &Effect) -> Option<Status> {
        let Effect::Answer(ticket, Ok(done)) = effect else { return None };
        match self.waiting.get(ticket)?.envelope {
            Envelope::Legacy { request: LegacyRequest::Status, .. } => Some(done.status),
            _ => None,
        }
    }

    /// `in_reply`: a legacy reply that follows tells the same.
    fn tell_change(&mut self, id: &ServerId, change: crate::server::Change, in_reply: bool) {
        log::info!("{id}: {:?} -> {:?}{}", change.previous, change.current, because(&change));
        let command_id = change.ticket.and_then(|ticket| self.command_id(ticket));
        let event = Told::ServerStatusChanged(StatusChange {
            server_id: id.clone(),
            previous_status: change.previous,
            current_status: change.current,
            reason: change.reason,
            exit_code: change.exit_code,
            oom_killed: change.oom_killed,
            pid: change.pid,
            command_id,
        });
        match in_reply {
            false => self.voice.emit(&event),
            true => self.voice.emit_beside_legacy_reply(&event),
        }
    }

    fn command_id(&self, ticket: Ticket) -> Option<String> {
        self.waiting.get(&ticket)?.envelope.id().map(str::to_owned)
    }

    fn pulled(&mut self, id: &ServerId, progress: &PullProgress) {
        let Some(server) = self.servers.get(id) else { return };
        let command_id = server.serves.and_then(|ticket| self.command_id(ticket));
        self.voice.emit(&Told::CommandProgress(Progress {
            command_id,
            server_id: id.clone(),
            stage: "pulling",
            current: Some(progress.current),
            total: Some(progress.total),
            message: None,
        }));
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            let Some((_, id)) = self.timers.pop_first() else { return };
            if let Some(server) = self.servers.get_mut(&id) {
                server.deadline = None;
            }
            self.step(&id, Input::Deadline);
        }
    }

    // ---- the Engine ----------------------------------------------------------------------------------------

    fn engine_said(&mut self, event: EngineEvent) {
        self.link.release(Instant::now());
        match event {
            EngineEvent::Lost { cause } => {
                log::warn!("engine: lost: {cause}");
                self.counters.engine_error("lost");
                self.engine.lost();
                for id in self.servers.keys().cloned().collect::<Vec<_>>() {
                    self.step(&id, Input::EngineLost);
                }
            }
            EngineEvent::Missed { cause } => {
                log::info!("engine: following its events anew: {cause}");
                for id in self.servers.keys().cloned().collect::<Vec<_>>() {
                    self.step(&id, Input::EventsMissed);
                }
            }
            EngineEvent::Found { version, api_version, containers } => {
                log::info!(
                    "engine: version {version}, API {api_version}, {} containers of ours",
                    containers.len()
                );
                self.engine.found(version, api_version);
                self.reconcile(containers);
            }
            EngineEvent::Container { server, input } => self.step(&server, input),
        }
        self.publish();
    }

    /// Makes every machine agree with what was found; a container of ours that nobody knows is taken up again.
    fn reconcile(&mut self, containers: Vec<Seen>) {
        let mut found: HashMap<ServerId, Seen> =
            containers.into_iter().map(|seen| (seen.server.clone(), seen)).collect();
        for id in self.servers.keys().cloned().collect::<Vec<_>>() {
            let facts: Option<Facts> = found.remove(&id).map(|seen| seen.facts);
            self.step(&id, Input::Inspected(facts));
        }
        for (id, seen) in found {
            let Some(spec) = seen.spec else {
                log::warn!("{id}: its container does not tell its spec; left alone");
                continue;
            };
            log::warn!("{id}: its record is lost; taken up again from its container");
            let desired = if seen.facts.running {
                crate::server::Desired::Running
            } else {
                crate::server::Desired::Stopped
            };
            self.servers
                .insert(id.clone(), Server::new(Machine::adopt(Arc::new(spec), desired), self.ready_timeout));
            self.step(&id, Input::Inspected(Some(seen.facts)));
        }
    }

    // ---- what is told --------------------------------------------------------------------------------------

    fn count(&self) -> ServerCount {
        let created = self.servers.values().filter(|server| server.machine.is_created());
        let running = |server: &&Server| server.machine.status() == Status::Running;
        ServerCount { total: created.clone().count(), running: created.filter(running).count() }
    }

    fn known_servers(&self) -> Vec<KnownServer> {
        known(&self.servers)
    }

    fn publish(&self) {
        let count = self.count();
        let mut tally = self.counters.lock();
        tally.link_up = self.link.is_up();
        (tally.servers, tally.servers_running) = (count.total, count.running);
        (tally.commands_waiting, tally.jobs_running) = (self.waiting.len(), self.jobs_in_flight);
        drop(tally);
        self.board.publish(
            self.link.is_up(),
            self.link.trouble(),
            self.engine.known_version(),
            &self.sample,
            count,
        );
    }

    // ---- the end -------------------------------------------------------------------------------------------

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

fn known(servers: &BTreeMap<ServerId, Server>) -> Vec<KnownServer> {
    let created = servers.iter().filter(|(_, server)| server.machine.is_created());
    created
        .map(|(id, server)| KnownServer {
            server_id: id.clone(),
            status: server.machine.status(),
            exit_code: server.machine.exit_code(),
        })
        .collect()
}

/// The dialect a message shows, a refused one too.
fn spoken(message: &Result<Incoming, Rejected>) -> Option<Dialect> {
    let envelope = match message {
        Ok(Incoming::Command(command)) => &command.envelope,
        Ok(Incoming::Ping { .. }) => return Some(Dialect::Unified),
        Ok(Incoming::Hello { .. } | Incoming::Pong) => return None,
        Err(Rejected { envelope, .. }) => envelope,
    };
    envelope.shows_dialect().then(|| envelope.dialect())
}

/// The command's id in log lines.
fn label(envelope: &Envelope) -> &str {
    envelope.id().filter(|id| !id.is_empty()).unwrap_or("no-id")
}

fn because(change: &crate::server::Change) -> String {
    let reason = change.reason.map(|reason| format!(", {reason:?}")).unwrap_or_default();
    let exit = change.exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
    reason + &exit
}

fn request(action: ServerAction) -> Option<Request> {
    Some(match action {
        ServerAction::Start => Request::Start,
        ServerAction::Stop(options) => Request::Stop(options),
        ServerAction::Restart(options) => Request::Restart(options),
        ServerAction::Kill => Request::Kill,
        ServerAction::Delete { remove_data } => Request::Delete { remove_data },
        ServerAction::Suspend => Request::Suspend,
        ServerAction::Unsuspend => Request::Unsuspend,
        ServerAction::Update(patch) => Request::Update(patch),
        ServerAction::Create(_) | ServerAction::Status | ServerAction::Metrics | ServerAction::Console(_) => {
            return None;
        }
    })
}

fn reply(id: &ServerId, done: Done, action: &str) -> ServerReply {
    // Each action promises its own fields (section 5 of the contract).
    let stops = matches!(action, "stop_server" | "kill_server" | "docker.stop");
    let starts = matches!(action, "start_server" | "docker.start");
    ServerReply {
        container_id: (starts || action == "create_server")
            .then(|| done.container.map(|id| id.to_string()))
            .flatten(),
        pid: done.pid.filter(|_| starts),
        exit_code: done.exit_code.filter(|_| stops),
        killed: done.killed.filter(|_| matches!(action, "stop_server" | "docker.stop")),
        applied: done.applied,
        needs_restart: done.needs_restart,
        ..ServerReply::new(id.clone(), done.status, done.message)
    }
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

fn busy() -> Fault {
    Fault::new(Code::Busy, "Too many commands wait already. Try again when some are done.")
}
