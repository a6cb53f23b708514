//! What waits for the disk, and what an Agent before this one has left. A command's work waits for its mark where it is
//! done; what the loop itself does then stands here.

use super::*;
use crate::agent::journal::live::{Done as Answered, Live, Open};
use crate::agent::journal::record::Said;
use crate::agent::journal::{Place, crash, millis};
use crate::protocol::kept;
use crate::server::console::{Receipt as Told, Target};

/// What the loop does once the journal has come to `place`.
pub struct Held {
    place: Place,
    what: What,
}

enum What {
    Answer { key: CommandKey, number: u64, outcome: Outcome, at: SystemTime },
    Input { ticket: Ticket, target: Target, bytes: Vec<u8> },
}

/// What is not delivered yet of an Agent before this one, by its number in the journal.
enum Undelivered {
    Event(Said),
    Answer(CommandKey, Outcome, SystemTime),
}

impl Core {
    /// Whether a command may be taken on that must not be run twice. What ends a server or makes room goes on without a
    /// disk: it is what ends the trouble.
    pub(super) fn admit_to_journal(&self, action: &str) -> Result<(), Fault> {
        match self.journal.admit() {
            Err(fault) if fault.code != Code::Busy && !must_be_durable(action) => Ok(()),
            admitted => admitted,
        }
    }

    /// The work of a command begins with the next job of its server.
    pub(super) fn begin(&mut self, id: &ServerId, ticket: Ticket) {
        let mark = self.mark(ticket);
        if let (Some(server), Some(mark)) = (self.servers.get_mut(id), mark) {
            server.mark = Some(mark);
        }
    }

    /// The work of a command begins, once what this gives is on disk. Nothing for one without a memory.
    pub(super) fn mark(&mut self, ticket: Ticket) -> Option<Mark> {
        let waiting = self.waiting.get(&ticket)?;
        let container = self.servers.get(&waiting.server).and_then(|server| server.machine.container());
        let run = container.filter(|container| container.running).map_or(0, |c| c.started_ns);
        Some(self.journal.started(waiting.key.as_ref()?, run, must_be_durable(waiting.action)))
    }

    /// Has a server's input written once that is on disk.
    pub(super) fn hold_input(&mut self, ticket: Ticket, target: Target, bytes: Vec<u8>) {
        let key = self.waiting.get(&ticket).and_then(|waiting| waiting.key.as_ref());
        match key.map(|key| self.journal.starting(key)) {
            Some(place) => self.held.push_back(Held { place, what: What::Input { ticket, target, bytes } }),
            None => self.write_input(ticket, &target, bytes),
        }
    }

    fn write_input(&mut self, ticket: Ticket, target: &Target, bytes: Vec<u8>) {
        // How it went comes as an event, thus after it is known who waits for it.
        if let Err(refused) = self.inputs.send(target, bytes, Told::Command(ticket)) {
            self.answered(ticket, Err(refused.fault()));
        }
    }

    /// A command has its outcome: it is answered once that is on disk.
    pub(super) fn conclude(&mut self, key: CommandKey, outcome: Outcome, at: SystemTime) {
        let owed = self.ledger.is_asked_on_link(&key);
        let (place, number) = self.journal.done(&key, &outcome, at, owed);
        self.held.push_back(Held { place, what: What::Answer { key, number, outcome, at } });
    }

    /// The journal has come further, or its disk takes something again, or nothing any more.
    pub(super) fn journaled(&mut self) {
        while let Some(held) = self.held.pop_front_if(|held| self.journal.has_tried(held.place)) {
            match held.what {
                What::Answer { key, number, outcome, at } => self.tell_askers(key, number, &outcome, at),
                What::Input { ticket, .. } if let Err(fault) = self.journal.admit() => {
                    self.answered(ticket, Err(fault));
                }
                What::Input { ticket, target, bytes } => self.write_input(ticket, &target, bytes),
            }
        }
        self.publish();
    }

    /// Answers everybody who waits for a command, each in the dialect that it was asked in.
    fn tell_askers(&mut self, key: CommandKey, number: u64, outcome: &Outcome, at: SystemTime) {
        crash::here("answered");
        let mut number = Some(number);
        for asker in self.ledger.answered(&key, outcome, at, Instant::now(), self.link.generation()) {
            match asker {
                Asker::Http(caller) => caller.answer(outcome.clone(), at),
                // The only dialect of the link that remembers commands.
                Asker::Link { .. } => {
                    let envelope = Envelope::Unified { id: Some(key.id.clone()) };
                    self.voice.answer(&envelope, Some(key.clone()), outcome, at, number.take());
                }
            }
        }
        // Nobody on the link waits for it.
        self.journal.forget(number.into_iter().collect());
        crash::here("told");
    }

    /// Waits until everything is answered that waits for the disk, at most until then.
    pub(super) fn flush_journal(&mut self, until: Instant) {
        self.journaled();
        while !self.held.is_empty() {
            match self.events_rx.recv_deadline(until) {
                Ok(Event::Journaled) => self.journaled(),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Takes up what an Agent before this one has left.
    pub fn recover(&mut self, live: &Live) {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut undelivered: BTreeMap<u64, Undelivered> =
            live.said().map(|said| (said.number, Undelivered::Event(said.clone()))).collect();
        for (Answered { key, number, at, answer }, owed) in live.done() {
            let Some(outcome) = kept::restore(answer) else { continue };
            let age = Duration::from_millis(millis(wall).saturating_sub(*at));
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(*at);
            if owed {
                undelivered.insert(*number, Undelivered::Answer(key.clone(), outcome.clone(), at));
            }
            self.ledger.restore_answered(key.clone(), outcome, at, age, now);
        }
        for (number, message) in undelivered {
            match message {
                Undelivered::Event(said) => self.voice.restore(said),
                Undelivered::Answer(key, outcome, at) => {
                    let envelope = Envelope::Unified { id: Some(key.id.clone()) };
                    self.voice.answer(&envelope, Some(key), &outcome, at, Some(number));
                }
            }
        }
        self.voice.lose(live.lost);
        for open in live.open() {
            self.take_up(open, now);
        }
    }

    /// A command that was not answered: what was not begun never will be, and what was is judged by how its server is.
    fn take_up(&mut self, open: &Open, now: Instant) {
        let Open { key, action, server, link, started } = open;
        log::info!("{}: {server}: {action}: not answered by the Agent before this one", key.id);
        self.ledger.restore_running(key.clone(), link.then_some(Asker::Link { generation: 0 }));
        let Some(run) = *started else {
            return self.conclude(key.clone(), Err(not_begun()), SystemTime::now());
        };
        let action = protocol::capabilities().into_iter().find(|name| name == action).unwrap_or("unknown");
        let Ok(server) = server.parse::<ServerId>() else { return };
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let origin = Origin { envelope: Envelope::Unified { id: Some(key.id.clone()) }, caller: None };
        let known = self.servers.contains_key(&server);
        let waiting = Waiting { origin, key: Some(key.clone()), action, server: server.clone(), since: now };
        self.waiting.insert(ticket, waiting);
        let begun = begun(action, run);
        match known {
            true => self.step(&server, Input::Settle(ticket, begun)),
            false => self.unsettled.push((ticket, begun)),
        }
    }

    /// Docker has told what there is: judges the commands to servers that were not known before.
    pub(super) fn settle_unknown(&mut self) {
        for (ticket, begun) in std::mem::take(&mut self.unsettled) {
            let Some(Waiting { server, action, .. }) = self.waiting.get(&ticket) else { continue };
            let (server, action) = (server.clone(), *action);
            if self.servers.contains_key(&server) {
                self.step(&server, Input::Settle(ticket, begun));
                continue;
            }
            let outcome = match action {
                // The record goes last.
                "delete_server" | "docker.remove" => {
                    Ok(Reply::Server(Box::new(ServerReply::new(server, Status::Deleted, "Server deleted"))))
                }
                _ => Err(interrupted()),
            };
            self.answered(ticket, outcome);
        }
    }
}

/// What a stop, or what makes room, does is not worse when it is done twice, and worse when it is not done at all.
fn must_be_durable(action: &str) -> bool {
    let frees = [
        "stop_server",
        "kill_server",
        "suspend_server",
        "delete_server",
        "delete_file",
        "docker.stop",
        "docker.remove",
    ];
    !frees.contains(&action)
}

fn begun(action: &str, run: u64) -> Begun {
    match action {
        "create_server" => Begun::Create,
        "start_server" | "docker.start" => Begun::Start,
        "stop_server" | "docker.stop" => Begun::Stop,
        "restart_server" => Begun::Restart { run },
        "kill_server" => Begun::Kill,
        "suspend_server" => Begun::Suspend,
        "unsuspend_server" => Begun::Unsuspend,
        _ => Begun::Other,
    }
}

fn not_begun() -> Fault {
    Fault::new(
        Code::Interrupted,
        "The Agent was stopped before this was begun. Nothing was done: ask for it again.",
    )
}
