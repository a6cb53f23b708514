//! Between "the container runs" and "the server is up": a server whose spec has `done` patterns is `starting` until
//! its output shows one of them, or until it has had long enough.

use std::time::Instant;

use super::*;

/// A start that waits for the server to say that it is up.
#[derive(Debug)]
pub(super) struct Readying {
    /// `None` when the Agent itself started it.
    pub ticket: Option<Ticket>,
    pub reason: Reason,
    pub until: Instant,
}

impl Machine {
    /// The container runs; so does the server, unless it has something to say first.
    pub(super) fn running(&mut self, ticket: Option<Ticket>, reason: Reason, now: Instant) {
        if !self.spec.done.is_empty() {
            let until = now + self.ready_timeout;
            self.phase = Phase::Readying(Readying { ticket, reason, until });
            return;
        }
        self.up(ticket, reason);
    }

    fn up(&mut self, ticket: Option<Ticket>, reason: Reason) {
        self.phase = Phase::Idle;
        self.settled = Status::Running;
        self.reason = Some(reason);
        self.cause = ticket;
        if let Some(ticket) = ticket {
            self.answer_done(ticket, "Server started successfully", None);
        }
    }

    /// One of the patterns was seen in the output of the run that began at `started_ns`.
    pub(super) fn ready(&mut self, started_ns: u64) {
        let this_run = self.container.as_ref().is_some_and(|c| c.started_ns == started_ns);
        if let Phase::Readying(Readying { ticket, reason, .. }) = self.phase
            && this_run
        {
            self.up(ticket, reason);
        }
    }

    /// It has not said so in time. It runs, so it counts as running, with a note.
    pub(super) fn ready_overdue(&mut self, now: Instant) {
        if let Phase::Readying(Readying { ticket, until, .. }) = self.phase
            && now >= until
        {
            self.up(ticket, Reason::ReadyTimeout);
        }
    }

    /// It ended, or has to end, before it was up: the start is answered and what follows finds a server that runs.
    pub(super) fn not_ready(&mut self, fault: Fault) {
        if let Phase::Readying(Readying { ticket, .. }) = self.phase {
            self.phase = Phase::Idle;
            self.settled = Status::Running;
            if let Some(ticket) = ticket {
                self.answer(ticket, Err(fault));
            }
        }
    }
}
