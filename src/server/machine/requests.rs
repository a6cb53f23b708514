//! What is asked of a server: overtaking, queueing, beginning.

use std::sync::Arc;
use std::time::Instant;

use super::*;

impl Machine {
    pub(super) fn request(&mut self, ticket: Ticket, request: Request, now: Instant) {
        if matches!(request, Request::Stop(_) | Request::Kill | Request::Delete { .. } | Request::Suspend) {
            self.supersede_queued_starts();
            if self.overtake(ticket, &request, now) {
                return;
            }
        }
        self.queue.push_back((ticket, request));
    }

    /// A stop, kill, delete or suspend against what is going on. True when it needs no place in the queue.
    pub(super) fn overtake(&mut self, ticket: Ticket, request: &Request, now: Instant) -> bool {
        match &mut self.phase {
            Phase::Starting(starting) if !starting.superseded => {
                starting.superseded = true;
                let overtaken = starting.ticket.take();
                // At once: a look that comes before the queued request must not start it again.
                self.set_desired(Desired::Stopped);
                if let Some(overtaken) = overtaken {
                    self.answer(overtaken, Err(superseded()));
                }
                self.effects.push(Effect::Cancel);
                false
            }
            Phase::Readying(_) => {
                self.not_ready(superseded());
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

    pub(super) fn supersede_queued_starts(&mut self) {
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
    pub(super) fn next(&mut self, now: Instant) {
        let looks = self.look_again && self.known && self.job.is_none();
        if looks && matches!(self.phase, Phase::Idle | Phase::Readying(_)) {
            self.look_again = false;
            return self.run(Job::Inspect);
        }
        while self.is_free() {
            if let Some(died) = self.died.take() {
                self.died(died, now);
                continue;
            }
            if self.known {
                self.settle_begun();
            }
            let Some((ticket, request)) = self.queue.pop_front() else { break };
            if !self.known {
                self.answer(ticket, Err(engine_unavailable()));
                continue;
            }
            self.cause = Some(ticket);
            self.begin(ticket, request, now);
        }
        self.enforce_disk_limit(now);
        if self.is_free() && self.known && self.retry_at.is_some_and(|at| now >= at) {
            self.start(None, Reason::Crash);
        }
        if self.is_free() && self.dirty {
            self.run(Job::Save);
        }
    }

    pub(super) fn is_free(&self) -> bool {
        self.job.is_none() && matches!(self.phase, Phase::Idle)
    }

    pub(super) fn begin(&mut self, ticket: Ticket, request: Request, now: Instant) {
        self.effects.push(Effect::Begin(ticket));
        let running = self.is_running();
        match request {
            Request::Start | Request::Restart(_) if self.suspended => {
                let fault = Fault::new(Code::ServerSuspended, "The server is suspended. Unsuspend it first.");
                self.answer(ticket, Err(fault));
            }
            Request::Start if running => self.answer_done(ticket, "Server is already running", None),
            Request::Start => {
                self.dirty |= self.crashes.clear();
                self.start(Some(ticket), Reason::Command);
            }
            Request::Restart(options) if running => self.stop(options, Vec::new(), Then::Start(ticket), now),
            Request::Restart(_) => {
                self.dirty |= self.crashes.clear();
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
                    if !running {
                        self.settled = Status::Stopped;
                    }
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

    /// Not running and not meant to: ends a wait for a restart too.
    pub(super) fn settle_at_rest(&mut self) {
        self.retry_at = None;
        self.set_desired(Desired::Stopped);
        self.settled = match self.settled {
            _ if self.suspended => Status::Suspended,
            Status::Created => Status::Created,
            _ => Status::Stopped,
        };
    }

    pub(super) fn start(&mut self, ticket: Option<Ticket>, reason: Reason) {
        self.set_desired(Desired::Running);
        self.retry_at = None;
        self.oom = false;
        self.foreign_kill = None;
        self.reason = Some(reason);
        self.phase =
            Phase::Starting(Starting { ticket, reason, pulled: false, superseded: false, died: None });
        self.run(Job::Start);
    }

    pub(super) fn delete(&mut self, ticket: Ticket, remove_data: bool) {
        self.phase = Phase::Deleting { ticket };
        self.run(Job::Remove { data: remove_data });
    }

    pub(super) fn update(&mut self, ticket: Ticket, patch: &SpecPatch) {
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
}
