//! Consoles, as the loop sees them: which runs are followed, and what a command asks of a server's output and input.
//! What would block goes to a worker or to the server's input thread; the rest is answered at once.

use std::sync::Arc;
use std::time::SystemTime;

use super::*;
use crate::agent::workers::{MAX_QUESTIONS, Task};
use crate::protocol::{ConsoleAction, ConsoleReply, MAX_OUT};
use crate::server::console::input::not_running;
use crate::server::console::{Patterns, Question, Refused, Run, Target, Wants};

/// Largest log that is downloaded over HTTP, in bytes.
const MAX_DOWNLOAD: usize = 16 << 20;

impl Core {
    /// Has the output of a run followed to its end.
    pub(super) fn watch(&mut self, id: &ServerId, gone: bool) {
        let Some(server) = self.servers.get_mut(id) else { return };
        if gone {
            self.inputs.end(id);
            return self.consoles.forget(id);
        }
        let machine = &server.machine;
        let running = machine.container().filter(|container| container.running);
        let awaited = machine.status() == Status::Starting;
        let now = running.map(|container| (container.started_ns, awaited));
        if server.watched == now {
            return;
        }
        let restarted =
            server.watched.map(|(started_ns, _)| started_ns) != now.map(|(started_ns, _)| started_ns);
        server.watched = now;
        if restarted {
            self.inputs.end(id);
        }
        let patterns = || Arc::new(Patterns::new(&machine.spec().done));
        let run = running.map(|container| Run {
            container: container.id.clone(),
            started_ns: container.started_ns,
            done: awaited.then(patterns),
        });
        self.consoles.set_run(id, run);
    }

    /// Carries out what a command asks of a console. `key` is known to the ledger.
    pub(super) fn console(
        &mut self,
        origin: Origin,
        key: Option<CommandKey>,
        id: ServerId,
        action: ConsoleAction,
    ) {
        let name = action.name();
        let Some(server) = self.servers.get(&id).filter(|server| server.machine.is_created()) else {
            return self.refuse(&origin, key, name, server_not_found());
        };
        let container = server.machine.container();
        let question = |wants| Question {
            server: id.clone(),
            container: container.map(|container| container.id.clone()),
            wants,
        };
        let running = container.filter(|container| container.running).map(|container| Target {
            server: id.clone(),
            container: container.id.clone(),
            started_ns: container.started_ns,
        });
        let limit = if matches!(origin.envelope, Envelope::Http { .. }) { MAX_DOWNLOAD } else { MAX_OUT };
        let outcome = match action {
            ConsoleAction::Logs { lines } => {
                return self.ask(origin, name, question(Wants::Logs { lines }));
            }
            ConsoleAction::History { lines } => {
                return self.ask(origin, name, question(Wants::History { lines }));
            }
            ConsoleAction::Download { format } => {
                return self.ask(origin, name, question(Wants::Download { format, limit }));
            }
            ConsoleAction::Command(line) => {
                return self.input(origin, key, &id, name, running, line + "\n");
            }
            ConsoleAction::Input(text) => return self.input(origin, key, &id, name, running, text),
            // On a TTY the terminal makes SIGINT of it for whoever is in front.
            ConsoleAction::Interrupt if server.machine.spec().tty => {
                return self.input(origin, key, &id, name, running, "\u{3}".into());
            }
            ConsoleAction::Interrupt => return self.interrupt(origin, key, id, name, running),
            ConsoleAction::Connect { since, boot_id } => {
                self.consoles.connect(&id, since, boot_id.as_deref());
                ConsoleReply::Connected(true)
            }
            ConsoleAction::Disconnect => {
                self.consoles.disconnect(&id);
                ConsoleReply::Connected(false)
            }
            ConsoleAction::Clear => {
                self.consoles.clear(&id);
                ConsoleReply::Cleared
            }
            ConsoleAction::Status => {
                let standing = self.consoles.standing(&id);
                ConsoleReply::Status {
                    connected: standing.connected,
                    last_activity_ns: standing.last_activity_ns,
                    buffer_size: standing.buffer_size,
                }
            }
        };
        self.answer_now(&origin, key, name, Ok(Reply::Console(Box::new(outcome))));
    }

    /// Lines that are in memory are told at once, others are looked for by a worker.
    fn ask(&mut self, origin: Origin, name: &'static str, question: Question) {
        if let Some(outcome) = self.consoles.answer_at_once(&question) {
            self.counters.command(name, None, Duration::ZERO);
            return self.answer(&origin, None, outcome, SystemTime::now());
        }
        if self.questions >= MAX_QUESTIONS || self.waiting.len() >= MAX_WAITING {
            return self.refuse(&origin, None, name, busy());
        }
        let ticket = self.admit_waiting(origin, None, name, &question.server);
        self.questions += 1;
        if self.workers.ask(Task::History(ticket, question)).is_err() {
            self.answered(ticket, Err(busy()));
        }
    }

    fn input(
        &mut self,
        origin: Origin,
        key: Option<CommandKey>,
        id: &ServerId,
        name: &'static str,
        running: Option<Target>,
        text: String,
    ) {
        let Some(target) = running else { return self.refuse(&origin, key, name, not_running()) };
        if self.waiting.len() >= MAX_WAITING {
            return self.refuse(&origin, key, name, busy());
        }
        let ticket = self.admit_waiting(origin, key, name, id);
        self.hold_input(ticket, target, text.into_bytes());
    }

    fn interrupt(
        &mut self,
        origin: Origin,
        key: Option<CommandKey>,
        id: ServerId,
        name: &'static str,
        running: Option<Target>,
    ) {
        let Some(target) = running else { return self.refuse(&origin, key, name, not_running()) };
        let ticket = self.admit_waiting(origin, key, name, &id);
        let mark = self.mark(ticket);
        if self.workers.ask(Task::Interrupt(ticket, id, target.container, mark)).is_err() {
            self.answered(ticket, Err(busy()));
        }
    }

    /// An input was written, or not.
    pub(super) fn input_done(&mut self, ticket: Ticket, result: Result<(), Refused>) {
        let Some(waiting) = self.waiting.get(&ticket) else { return };
        self.consoles.touch(&waiting.server);
        let outcome = match result {
            Ok(()) if waiting.action == "send_server_command" => {
                Ok(ConsoleReply::Sent { server: Some(waiting.server.clone()), message: "Command sent" })
            }
            Ok(()) => Ok(ConsoleReply::Sent { server: None, message: "Input sent" }),
            Err(refused) => Err(refused.fault()),
        };
        self.answered(ticket, outcome.map(|reply| Reply::Console(Box::new(reply))));
    }

    /// Tells what was dropped, ahead of what follows it.
    pub(super) fn tell_gaps(&mut self) {
        let Core { consoles, voice, .. } = self;
        consoles.tell_gaps(|gap| {
            log::info!("{}: {} lines of {} bytes were dropped", gap.server, gap.lines, gap.bytes);
            voice.tell_gap(gap);
        });
    }
}
