//! A stop from the first kind word to the end: it holds no worker while it waits, Docker's `die` ends it, the deadline
//! turns it into a SIGKILL.

use std::time::{Duration, Instant};

use super::*;

/// How long a container may take to end after SIGKILL before it is killed again, and how often that is done.
const KILL_CONFIRM: Duration = Duration::from_secs(10);
const KILL_CONFIRM_ROUNDS: u8 = 3;

impl Machine {
    pub(super) fn stop(
        &mut self,
        options: StopOptions,
        waiters: Vec<(Ticket, Waiter)>,
        then: Then,
        now: Instant,
    ) {
        if !matches!(then, Then::Start(_)) {
            self.set_desired(Desired::Stopped);
        }
        self.reason = Some(Reason::Command);
        // Its deadline has to outlive the Agent.
        self.dirty = true;
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
            next: None,
            killed: false,
            rounds: 0,
            exited: None,
            reason: Reason::Command,
        });
        self.run(first);
    }

    /// Goes on with a stop that an Agent before this one had begun, when it is still that run: without the kind word a
    /// second time, and with the same deadline. False when there is none.
    pub(super) fn resume_stop(&mut self, now: Instant) -> bool {
        let Some((deadline, stop)) = self.left_stop.take() else { return false };
        if !self.container.as_ref().is_some_and(|c| c.running && c.started_ns == stop.run) {
            return false;
        }
        let next = match (stop.signal, &self.spec.stop.method) {
            (Some(signal), _) => Some(Job::Signal(signal)),
            // Whether the line was read is not known, and a server that stops takes no notice of it.
            (None, StopMethod::Command(line)) => Some(Job::Console(line.clone())),
            (None, StopMethod::Signal(_)) => None,
        };
        self.dirty |= next.is_some();
        self.phase = Phase::Stopping(Stopping {
            waiters: Vec::new(),
            then: Then::Nothing,
            deadline,
            next,
            killed: false,
            rounds: 0,
            exited: None,
            reason: Reason::Command,
        });
        self.push_stop(now);
        true
    }

    /// Ends a run that has been over its disk limit for long enough: in the server's own way, as a stop that nobody
    /// waits for. It counts as stopped, or it would fill the disk again.
    pub(super) fn enforce_disk_limit(&mut self, now: Instant) {
        let Some(run) = self.over_disk else { return };
        if !self.container.as_ref().is_some_and(|c| c.running && c.started_ns == run) {
            self.over_disk = None;
            return;
        }
        if !self.known || self.job.is_some() || !matches!(self.phase, Phase::Idle | Phase::Readying(_)) {
            return;
        }
        self.over_disk = None;
        self.not_ready(over_disk_limit());
        self.stop(StopOptions::default(), Vec::new(), Then::Nothing, now);
        self.reason = Some(Reason::DiskLimit);
        if let Phase::Stopping(stopping) = &mut self.phase {
            stopping.reason = Reason::DiskLimit;
        }
    }

    pub(super) fn kill(&mut self, ticket: Ticket, now: Instant) {
        self.set_desired(Desired::Stopped);
        self.reason = Some(Reason::Command);
        self.phase = Phase::Stopping(Stopping {
            waiters: vec![(ticket, Waiter::Kill)],
            then: Then::Nothing,
            deadline: now + KILL_CONFIRM,
            next: Some(Job::Kill),
            killed: false,
            rounds: 0,
            exited: None,
            reason: Reason::Command,
        });
        self.push_stop(now);
    }

    /// Joins a stop that is under way.
    pub(super) fn join_stop(&mut self, ticket: Ticket, request: &Request, now: Instant) -> bool {
        let spec_timeout = self.spec.stop.timeout();
        let Phase::Stopping(stopping) = &mut self.phase else { return false };
        let joins = match request {
            Request::Stop(_) | Request::Kill | Request::Suspend => true,
            Request::Delete { .. } => stopping.then == Then::Nothing,
            _ => false,
        };
        if !joins {
            return false;
        }
        self.effects.push(Effect::Begin(ticket));
        match request {
            Request::Stop(options) => {
                let asked = now + options.timeout.unwrap_or(spec_timeout);
                if !stopping.killed {
                    stopping.deadline = stopping.deadline.min(asked);
                }
                stopping.waiters.push((ticket, Waiter::Stop));
            }
            Request::Kill => {
                stopping.next = Some(Job::Kill);
                stopping.waiters.push((ticket, Waiter::Kill));
                self.give_up_kind_word();
                self.push_stop(now);
            }
            Request::Suspend => {
                stopping.waiters.push((ticket, Waiter::Suspend));
                self.set_suspended(true);
            }
            Request::Delete { remove_data } => stopping.then = Then::Delete(ticket, *remove_data),
            _ => {}
        }
        true
    }

    pub(super) fn stop_done(&mut self, job: &Job, result: JobResult, now: Instant) {
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
            JobResult::Failed { .. }
                if matches!(job, Job::Console(_)) && stopping.exited.is_none() && stopping.next.is_none() =>
            {
                return self.run(Job::Signal("SIGTERM".into()));
            }
            // It may not have arrived. It is sent again once Docker has been asked, or the deadline does its work.
            JobResult::Failed { .. } if stopping.exited.is_none() && stopping.next.is_none() => {
                stopping.next = Some(job.clone()).filter(|job| matches!(job, Job::Signal(_) | Job::Kill));
                return;
            }
            _ => {}
        }
        self.push_stop(now);
    }

    /// Moves a stop on as far as it goes without a job in flight.
    pub(super) fn push_stop(&mut self, now: Instant) {
        let Phase::Stopping(stopping) = &mut self.phase else { return };
        if self.job.is_some() {
            return;
        }
        if let Some(died) = stopping.exited {
            return self.stopped(died);
        }
        if let Some(job) = stopping.next.take() {
            if job == Job::Kill {
                stopping.killed = true;
                stopping.deadline = now + KILL_CONFIRM;
            }
            self.run(job);
        }
    }

    pub(super) fn stopped(&mut self, died: Died) {
        let Phase::Stopping(stopping) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        if let Some(container) = &mut self.container {
            container.running = false;
            container.exit_code = died.exit_code;
        }
        self.foreign_kill = None;
        self.killed = stopping.killed;
        self.settled = if self.suspended { Status::Suspended } else { Status::Stopped };
        // What follows a stop is a command's doing, whatever it was begun for.
        self.reason = Some(if stopping.then == Then::Nothing { stopping.reason } else { Reason::Command });
        for (ticket, waiter) in stopping.waiters {
            self.cause = Some(ticket);
            match waiter {
                Waiter::Stop => self.answer_done(ticket, "Server stopped", Some(stopping.killed)),
                Waiter::Kill => self.answer_done(ticket, "Server killed", None),
                Waiter::Suspend => self.answer_done(ticket, "Server suspended", None),
            }
        }
        match stopping.then {
            // The first half of a restart that an Agent before this one had begun.
            Then::Nothing if self.desired == Desired::Running && !self.suspended => {
                self.start(None, Reason::Command);
            }
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
    pub(super) fn stop_failed(&mut self, fault: &Fault) {
        let Phase::Stopping(stopping) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        self.settled = Status::Running;
        for (ticket, _) in stopping.waiters {
            self.answer(ticket, Err(fault.clone()));
        }
        if let Then::Start(ticket) | Then::Delete(ticket, _) = stopping.then {
            self.answer(ticket, Err(fault.clone()));
        }
    }

    /// A kind word that waits, for a worker or for a server that does not read its input, must not hold up the end.
    fn give_up_kind_word(&mut self) {
        if matches!(self.job, Some(Job::Console(_) | Job::Signal(_))) {
            self.effects.push(Effect::Cancel);
        }
    }

    pub(super) fn stop_overdue(&mut self, now: Instant) {
        let Phase::Stopping(stopping) = &mut self.phase else { return };
        if now < stopping.deadline {
            return;
        }
        if !self.known {
            return self.stop_failed(&engine_unavailable());
        }
        stopping.rounds += u8::from(stopping.killed);
        if stopping.rounds > KILL_CONFIRM_ROUNDS {
            let text = "The server did not end even after SIGKILL. Look at the node.";
            return self.stop_failed(&Fault::new(Code::Timeout, text));
        }
        stopping.next = Some(Job::Kill);
        stopping.deadline = now + KILL_CONFIRM;
        self.give_up_kind_word();
        self.push_stop(now);
    }
}
