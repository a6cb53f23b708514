//! What Docker says, by events and by inspection, and how what is and what should be are made to agree.

use std::time::{Duration, Instant};

use super::*;
use crate::protocol::spec::Restart;
use crate::server::signal;
use crate::server::supervision::Verdict;

/// A `kill` event that was not ours explains a `die` for the stop timeout and this much more.
const OPERATOR_SLACK: Duration = Duration::from_secs(5);

/// What a process exits with that SIGKILL has ended.
const KILLED: i64 = 137;

impl Machine {
    pub(super) fn died(&mut self, died: Died, now: Instant) {
        if self.container.as_ref().is_some_and(|c| died.at_ns < c.started_ns) {
            // From before the start we know of: a replayed event, or a look that came later.
            return;
        }
        let running = self.is_running();
        self.not_ready(ended_at_once(died.exit_code));
        match &mut self.phase {
            Phase::Stopping(stopping) => {
                stopping.exited = Some(died);
                self.mark_exited(died);
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

    pub(super) fn explained_by_operator(&self, now: Instant) -> bool {
        let Some((signal, at)) = self.foreign_kill else { return false };
        let stop_signal = match &self.spec.stop.method {
            StopMethod::Signal(name) => signal::number(name),
            StopMethod::Command(_) => None,
        };
        let stopping = matches!(signal, 2 | 3 | 9 | 15) || Some(signal) == stop_signal;
        stopping && now.saturating_duration_since(at) <= self.spec.stop.timeout() + OPERATOR_SLACK
    }

    pub(super) fn mark_exited(&mut self, died: Died) {
        if let Some(container) = &mut self.container {
            container.running = false;
            container.exit_code = died.exit_code;
            container.oom_killed |= self.oom;
        }
    }

    /// It ended by itself while it should run.
    pub(super) fn ended(&mut self, died: Died, now: Instant) {
        self.mark_exited(died);
        self.oom |= self.container.as_ref().is_some_and(|c| c.oom_killed);
        // The kernel may have taken another process of the container, which the server has outlived.
        self.oom &= died.exit_code == KILLED;
        let reason = if self.oom { Reason::Oom } else { Reason::Crash };
        if died.exit_code == 0 {
            match self.spec.restart {
                Restart::Always => self.crashed(reason, now),
                _ => {
                    self.settled = Status::Stopped;
                    self.set_desired(Desired::Stopped);
                }
            }
        } else {
            self.crashed(reason, now);
        }
    }

    pub(super) fn crashed(&mut self, reason: Reason, now: Instant) {
        self.settled = Status::Crashed;
        self.reason = Some(reason);
        if self.desired == Desired::Stopped || self.suspended {
            return;
        }
        match self.crashes.crash(&self.spec, now) {
            Verdict::Retry(backoff) => {
                self.retry_at = Some(now + backoff);
                self.dirty = true;
            }
            Verdict::GiveUp => {
                self.reason = Some(Reason::GaveUp);
                self.set_desired(Desired::Stopped);
            }
            Verdict::Leave => self.set_desired(Desired::Stopped),
        }
    }

    /// A `start` that we did not ask for, or our own seen again.
    pub(super) fn started(&mut self, at_ns: u64) {
        let known = self.container.as_ref().is_some_and(|c| c.running && c.started_ns <= at_ns);
        if !known {
            self.look();
        }
    }

    /// Has the container looked at, now or once nothing is in flight. Not while a container is being made or
    /// started: that ends with a look of its own.
    pub(super) fn look(&mut self) {
        if !matches!(self.phase, Phase::Creating { .. } | Phase::Starting(_) | Phase::Deleting { .. }) {
            self.look_again = true;
        }
    }

    /// Docker gave no answer where it should have: nothing is known until it has been asked again.
    pub(super) fn doubt(&mut self) {
        self.engine_lost();
        self.effects.push(Effect::Doubt);
    }

    pub(super) fn engine_lost(&mut self) {
        self.known = false;
        self.engine_gap = true;
        if let Phase::Probing { .. } = self.phase {
            self.phase = Phase::Idle;
            self.settled = Status::Running;
        }
    }

    /// What is true now, by Docker's own word. It wins over everything that was believed.
    pub(super) fn inspected(&mut self, facts: Option<Facts>, now: Instant) {
        self.known = true;
        if self.job.is_some() {
            // The job may have changed what was seen, so that only a look after it tells the truth.
            self.look_again = true;
            return;
        }
        let gap = std::mem::take(&mut self.engine_gap);
        let was_running = self.is_running();
        self.container = facts;
        if !self.is_running() {
            let exit_code = self.container.as_ref().map_or(0, |c| c.exit_code);
            self.not_ready(if gap { engine_unavailable() } else { ended_at_once(exit_code) });
        }
        match &mut self.phase {
            Phase::Stopping(stopping) => match &self.container {
                Some(container) if container.running => self.push_stop(now),
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
    pub(super) fn settle(&mut self, was_running: bool, gap: bool, now: Instant) {
        self.phase = Phase::Idle;
        if self.is_running() {
            self.settled = Status::Running;
            self.retry_at = None;
            if self.resume_stop(now) {
                return;
            }
            if self.suspended {
                // The Agent ended before its suspension was done, or somebody else started it.
                return self.stop(StopOptions::default(), Vec::new(), Then::Nothing, now);
            }
            if self.desired == Desired::Stopped {
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

    pub(super) fn settle_from_container(&mut self) {
        let ever_started = self.container.as_ref().is_some_and(Facts::ever_started);
        self.settled = match (self.is_running(), self.suspended) {
            (true, _) => Status::Running,
            (false, true) => Status::Suspended,
            (false, false) if self.settled == Status::Crashed => Status::Crashed,
            (false, false) if ever_started || self.container.is_none() => Status::Stopped,
            (false, false) => Status::Created,
        };
    }
}
