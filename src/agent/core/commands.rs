//! A command from its receipt to its answer: what is refused at once, what is remembered, who waits for which outcome.
//! Each accepted command is answered exactly once, by [`Core::complete`] or [`Core::answered`].

use super::*;
use crate::agent::journal::crash;
use crate::server::Wants;

impl Core {
    pub(super) fn command(&mut self, command: Command, asker: Asker) {
        let Command { envelope, action, key } = command;
        let caller = if let Asker::Http(caller) = &asker { Some(caller.clone()) } else { None };
        let origin = Origin { envelope, caller };
        log::debug!("{}: {}", origin.label(), action.name());
        if let Err(fault) = self.admit(&asker) {
            self.counters.command(action.name(), Some(fault.code), Duration::ZERO);
            return self.answer(&origin, None, Err(fault), SystemTime::now());
        }
        if action.is_read()
            && let Err(fault) = self.permit(&action)
        {
            return self.refuse(&origin, None, action.name(), fault);
        }
        let action = match action {
            Action::Server(server, ServerAction::Console(action)) if action.is_read() => {
                return self.console(origin, None, server, action);
            }
            Action::Server(server, ServerAction::File(action)) if action.is_read() => {
                return self.file(origin, None, server, action);
            }
            Action::Server(server, ServerAction::Mod(action)) if action.is_read() => {
                let name = action.name();
                return self.long_job(origin, None, server, name, Wants::Mod(action));
            }
            action => action,
        };
        if action.is_read() {
            let begun = Instant::now();
            let outcome = self.read(&action);
            self.counters.command(action.name(), outcome.as_ref().err().map(|f| f.code), begun.elapsed());
            return self.answer(&origin, None, outcome, SystemTime::now());
        }
        if let Some(key) = &key {
            match self.ledger.receive(key, asker, Instant::now()) {
                Receipt::New => {}
                Receipt::Joined | Receipt::AlreadySent => return,
                Receipt::Answered(outcome, at) => {
                    return self.answer(&origin, Some(key.clone()), outcome, at);
                }
            }
            if let Err(fault) = self.admit_to_journal(action.name()) {
                return self.refuse(&origin, Some(key.clone()), action.name(), fault);
            }
        }
        let action_name = action.name();
        if let Err(fault) = self.permit(&action) {
            return self.refuse(&origin, key, action_name, fault);
        }
        let (server, action) = match action {
            Action::Server(server, action) => (server, action),
            Action::Container(name, action) => match self.find_container(&name) {
                Some(server) => (server, action),
                None => return self.refuse(&origin, key, action_name, container_not_found()),
            },
            // Reads, answered above.
            Action::ListServers | Action::SystemMetrics | Action::SystemPing | Action::SystemInfo => return,
        };
        let action = match action {
            ServerAction::Console(action) => return self.console(origin, key, server, action),
            ServerAction::File(action) => return self.file(origin, key, server, action),
            ServerAction::Archive(action) => {
                return self.long_job(origin, key, server, action_name, Wants::Archive(action));
            }
            ServerAction::Mod(action) => {
                return self.long_job(origin, key, server, action_name, Wants::Mod(action));
            }
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
            return self.refuse(&origin, key, action_name, fault);
        }
        let ticket = self.admit_waiting(origin, key, action_name, &server);
        match action {
            ServerAction::Create(create) => {
                let (machine, effects) = Machine::create(Arc::new(create.spec), ticket, create.keep_data);
                self.servers.insert(server.clone(), Server::new(machine, self.ready_timeout));
                self.apply(&server, effects);
            }
            action => {
                if matches!(action, ServerAction::Delete { .. }) {
                    self.supersede_long_jobs(&server);
                }
                if let Some(request) = request(action) {
                    self.step(&server, Input::Request(ticket, request));
                }
            }
        }
    }

    /// The epoch fences connections off from each other; who calls over HTTP has none.
    fn admit(&mut self, asker: &Asker) -> Result<(), Fault> {
        if self.draining {
            return Err(stopping());
        }
        if matches!(asker, Asker::Http(_)) { Ok(()) } else { self.epoch.admit(Instant::now()) }
    }

    /// Answers one receipt of a command, where it came from. `at` is when its outcome was known.
    pub(super) fn answer(
        &mut self,
        origin: &Origin,
        key: Option<CommandKey>,
        outcome: Outcome,
        at: SystemTime,
    ) {
        match &origin.caller {
            Some(caller) => caller.answer(outcome, at),
            None => self.voice.answer(&origin.envelope, key, &outcome, at, None),
        }
    }

    /// Refuses a command before anything was touched. What passes is not remembered, and neither is what the node's owner may
    /// allow another day: the same message may be tried again.
    pub(super) fn refuse(
        &mut self,
        origin: &Origin,
        key: Option<CommandKey>,
        action: &'static str,
        fault: Fault,
    ) {
        log::info!("{}: refused: {fault}", origin.label());
        self.counters.command(action, Some(fault.code), Duration::ZERO);
        let passes = matches!(fault.code, Code::Busy | Code::InsufficientResources | Code::PermissionDenied);
        let (at, outcome) = (SystemTime::now(), Err(fault));
        match key {
            Some(key) if !passes => self.conclude(key, outcome, at),
            key => {
                key.iter().for_each(|key| self.ledger.forget(key));
                self.answer(origin, key, outcome, at);
            }
        }
    }

    pub(super) fn admit_waiting(
        &mut self,
        origin: Origin,
        key: Option<CommandKey>,
        action: &'static str,
        server: &ServerId,
    ) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        if let Some(key) = &key {
            self.journal.received(key, action, server.as_str(), origin.caller.is_none());
            crash::here("received");
        }
        let waiting = Waiting { origin, key, action, server: server.clone(), since: Instant::now() };
        self.waiting.insert(ticket, waiting);
        ticket
    }

    /// Answers a command whose outcome is known as it comes in. Its effect ends with the Agent, so no journal holds it.
    pub(super) fn answer_now(
        &mut self,
        origin: &Origin,
        key: Option<CommandKey>,
        name: &'static str,
        outcome: Outcome,
    ) {
        let (now, at) = (Instant::now(), SystemTime::now());
        self.counters.command(name, None, Duration::ZERO);
        if let Some(key) = &key {
            self.ledger.answered(key, &outcome, at, now, self.link.generation());
        }
        self.answer(origin, key, outcome, at);
    }

    /// A command that no machine has a part in has its outcome.
    pub(super) fn answered(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        let code = outcome.as_ref().err().map(|fault| fault.code);
        self.counters.command(waiting.action, code, waiting.since.elapsed());
        if let Err(fault) = &outcome {
            log::info!("{}: {}: {}: {fault}", waiting.origin.label(), waiting.server, waiting.action);
        }
        if matches!(waiting.action, "get_server_logs" | "console:history" | "console:download") {
            self.questions -= 1;
        }
        self.answer_waiting(waiting, outcome, SystemTime::now());
    }

    pub(super) fn complete(&mut self, id: &ServerId, ticket: Ticket, result: Result<Done, Fault>) {
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        let at = SystemTime::now();
        let took = waiting.since.elapsed();
        self.counters.command(waiting.action, result.as_ref().err().map(|fault| fault.code), took);
        match &result {
            Ok(done) => log::info!(
                "{}: {id}: {}: {} in {:.3} s",
                waiting.origin.label(),
                waiting.action,
                done.message,
                took.as_secs_f64()
            ),
            Err(fault) => {
                log::warn!("{}: {id}: {}: {fault}", waiting.origin.label(), waiting.action);
            }
        }
        let outcome = result.map(|done| Reply::Server(Box::new(reply(id, done, waiting.action))));
        self.answer_waiting(waiting, outcome, at);
    }

    /// Answers everybody who waits for a command, each in the dialect that it was asked in.
    fn answer_waiting(&mut self, waiting: Waiting, outcome: Outcome, at: SystemTime) {
        match waiting.key {
            Some(key) => self.conclude(key, outcome, at),
            None => self.answer(&waiting.origin, None, outcome, at),
        }
    }
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
        ServerAction::Create(_)
        | ServerAction::Status
        | ServerAction::Metrics
        | ServerAction::Console(_)
        | ServerAction::File(_)
        | ServerAction::Archive(_)
        | ServerAction::Mod(_) => return None,
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
