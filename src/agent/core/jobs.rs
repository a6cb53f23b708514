//! Archives and mods, as the loop sees them: who may begin, how far they are, and what a delete does to them.

use super::*;
use crate::server::abort::Abort;
use crate::server::progress::Step;
use crate::server::{LongJob, Wants};

impl Core {
    /// Has a long job done on a server's files. `key` is known to the ledger.
    pub(super) fn long_job(
        &mut self,
        origin: Origin,
        key: Option<CommandKey>,
        id: ServerId,
        name: &'static str,
        wants: Wants,
    ) {
        let exclusive = wants.is_exclusive();
        let server = self.servers.get(&id).filter(|server| server.machine.is_created());
        let Some(server) = server else { return self.refuse(&origin, key, name, server_not_found()) };
        let fault = match server.machine.status() {
            Status::Deleting => Some(Fault::new(Code::Conflict, "The server is being deleted.")),
            Status::Installing if exclusive => {
                Some(Fault::new(Code::Conflict, "The server is being installed. Try again when it is done."))
            }
            _ if exclusive && self.long_jobs.is_taken(&id) => Some(Fault::new(
                Code::Busy,
                "An archive or mod of this server is in work already. Try again when that is done.",
            )),
            _ if self.waiting.len() >= MAX_WAITING => Some(busy()),
            _ => None,
        };
        if let Some(fault) = fault {
            return self.refuse(&origin, key, name, fault);
        }
        let spec = server.machine.spec().clone();
        let (label, number) = (origin.label().to_owned(), self.next_ticket);
        let job = LongJob { server: id.clone(), spec, wants, number, abort: Abort::default(), label };
        let ticket = self.admit_waiting(origin, key, name, &id);
        let mark = self.mark(ticket);
        match self.long_jobs.push(ticket, job, mark) {
            Ok(()) => self.publish(),
            Err(_) => self.answered(ticket, Err(busy())),
        }
    }

    /// A command was answered. When it was a long job, what waited for its end goes on.
    pub(super) fn long_job_ended(&mut self, ticket: Ticket) {
        let Some(id) = self.long_jobs.ended(ticket) else { return };
        self.publish();
        if self.long_jobs.is_running(&id) {
            return;
        }
        let held = self.servers.get_mut(&id).and_then(|server| server.held.take_if(|job| *job != Job::Start));
        if let Some(job) = held
            && let Some(result) = self.submit(&id, job)
        {
            self.step(&id, Input::Done(result));
        }
    }

    /// A delete overtakes what is done to the server's files. Its own work begins once nobody writes there any more.
    pub(super) fn supersede_long_jobs(&mut self, id: &ServerId) {
        for ticket in self.long_jobs.abort(id) {
            let text = "The server was deleted while this was under way.";
            self.answered(ticket, Err(Fault::new(Code::Superseded, text)));
        }
    }

    pub(super) fn stepped(&mut self, ticket: Ticket, step: Step) {
        let Some(waiting) = self.waiting.get(&ticket) else { return };
        self.voice.emit(&Told::CommandProgress(Progress {
            command_id: self.command_id(ticket),
            server_id: waiting.server.clone(),
            stage: step.stage.name(),
            current: Some(step.current),
            total: step.total,
            message: None,
        }));
    }
}
