//! What the workers report, and what follows from it.

use std::time::Instant;

use super::settling::interrupted;
use super::*;

impl Machine {
    pub(super) fn run(&mut self, job: Job) {
        debug_assert!(self.job.is_none(), "one job at a time");
        if job == Job::Start {
            // Of what went before a start nothing is asked; what goes unheard from now on may be of its run.
            self.engine_gap = false;
        }
        self.job = Some(job.clone());
        self.effects.push(Effect::Run(job));
    }

    pub(super) fn job_done(&mut self, result: JobResult, now: Instant) {
        let Some(job) = self.job.take() else { return };
        match (&mut self.phase, job) {
            (Phase::Creating { .. }, _) => self.create_done(result),
            (Phase::Starting(_), Job::Start | Job::Pull) => self.start_done(result, now),
            (Phase::Stopping(_), job) => self.stop_done(&job, result, now),
            (Phase::Probing { .. }, Job::Probe) => self.probe_done(result),
            (Phase::Updating { .. }, Job::Apply(_) | Job::Store(_)) => self.update_done(result),
            (Phase::Deleting { .. }, Job::Remove { .. }) => self.remove_done(result),
            (_, Job::Inspect) => match result {
                JobResult::Ok(facts) => self.inspected(facts, now),
                JobResult::NotRunning => self.inspected(None, now),
                // What is true is not known, and the next look comes with the Engine's answer.
                _ => self.doubt(),
            },
            _ => {}
        }
    }

    pub(super) fn create_done(&mut self, result: JobResult) {
        let Phase::Creating { ticket, keep_data, pulled, superseded } = &mut self.phase else { return };
        let (ticket, keep_data) = (*ticket, *keep_data);
        match result {
            JobResult::Ok(Some(facts)) => {
                let answered = *superseded;
                self.container = Some(facts);
                self.phase = Phase::Idle;
                self.settled = Status::Created;
                self.cause = Some(ticket);
                self.reason = Some(Reason::Command);
                if !answered {
                    self.answer_done(ticket, "Server created", None);
                }
            }
            // A pull that ended: now the container.
            JobResult::Ok(None) if !*superseded => self.run(Job::Create { keep_data }),
            JobResult::ImageMissing if !*pulled && !*superseded => {
                *pulled = true;
                self.run(Job::Pull);
            }
            result => {
                let answered = *superseded;
                if !answered {
                    self.answer(ticket, Err(fault_of(result)));
                }
                self.forget();
            }
        }
    }

    pub(super) fn start_done(&mut self, result: JobResult, now: Instant) {
        let Phase::Starting(starting) = &mut self.phase else { return };
        if starting.superseded {
            self.phase = Phase::Idle;
            match result {
                JobResult::Ok(Some(facts)) | JobResult::Failed { facts: Some(facts), .. } => {
                    self.container = Some(facts);
                    self.settle_from_container();
                }
                // It may have been started all the same.
                JobResult::Failed { .. } => self.run(Job::Inspect),
                JobResult::Ok(None) | JobResult::ImageMissing | JobResult::NotRunning => {
                    self.settle_from_container();
                }
            }
            return;
        }
        match result {
            JobResult::Ok(Some(facts)) => {
                let died = starting.died.take().filter(|d| d.at_ns >= facts.started_ns);
                let (ticket, reason) = (starting.ticket, starting.reason);
                self.cause = ticket;
                let ended = died.or_else(|| facts.died());
                self.container = Some(Facts { running: ended.is_none(), ..facts });
                match ended {
                    None => self.running(ticket, reason, now),
                    Some(died) => {
                        self.phase = Phase::Idle;
                        if let Some(ticket) = ticket {
                            self.answer(ticket, Err(ended_at_once(died.exit_code)));
                        }
                        self.ended(died, now);
                    }
                }
            }
            // A pull that ended: now the start.
            JobResult::Ok(None) => self.run(Job::Start),
            JobResult::ImageMissing if !starting.pulled => {
                starting.pulled = true;
                self.run(Job::Pull);
            }
            result => {
                let ticket = starting.ticket;
                self.phase = Phase::Idle;
                match &result {
                    JobResult::Failed { facts: Some(facts), .. } => self.container = Some(facts.clone()),
                    // It may have been started all the same.
                    JobResult::Failed { .. } if ticket.is_some() => self.run(Job::Inspect),
                    _ => {}
                }
                match ticket {
                    Some(ticket) => {
                        self.cause = Some(ticket);
                        self.settle_from_container();
                        if !self.is_running() {
                            self.set_desired(Desired::Stopped);
                        }
                        self.answer(ticket, Err(fault_of(result)));
                    }
                    // The node's owner does not let it be started, and trying again would not change his mind.
                    None if matches!(&result, JobResult::Failed { fault, .. } if fault.code == Code::PermissionDenied) =>
                    {
                        self.settle_from_container();
                        self.reason = Some(Reason::GaveUp);
                        self.set_desired(Desired::Stopped);
                    }
                    // The look that follows the Engine's return starts it again.
                    None if matches!(
                        fault_of(result),
                        Fault { code: Code::DockerUnavailable | Code::Timeout, .. }
                    ) =>
                    {
                        self.engine_gap = true;
                        self.effects.push(Effect::Doubt);
                    }
                    // The Agent's own start: as a crash, so that it is tried again with backoff and an end.
                    None => self.crashed(Reason::Crash, now),
                }
            }
        }
    }

    pub(super) fn probe_done(&mut self, result: JobResult) {
        let Phase::Probing { died } = &self.phase else { return };
        let died = *died;
        self.phase = Phase::Idle;
        match result {
            JobResult::Ok(_) => {
                self.settled = Status::Stopped;
                self.set_desired(Desired::Stopped);
                self.reason = Some(Reason::Operator);
                self.mark_exited(died);
            }
            // The Engine itself is going down: it is started again when the Engine is back.
            _ => self.doubt(),
        }
    }

    pub(super) fn update_done(&mut self, result: JobResult) {
        let Phase::Updating { .. } = &self.phase else { return };
        let Phase::Updating { ticket, spec, applied, needs_restart } =
            std::mem::replace(&mut self.phase, Phase::Idle)
        else {
            return;
        };
        match result {
            JobResult::Ok(_) => {
                self.spec = spec;
                let mut done = self.done("Server updated", None);
                done.applied = Some(applied);
                done.needs_restart = Some(needs_restart);
                self.answer(ticket, Ok(done));
            }
            result => self.answer(ticket, Err(fault_of(result))),
        }
    }

    pub(super) fn remove_done(&mut self, result: JobResult) {
        let Phase::Deleting { ticket } = self.phase else { return };
        match result {
            JobResult::Ok(_) => {
                self.cause = Some(ticket);
                self.reason = Some(Reason::Command);
                let done = Done { status: Status::Deleted, ..self.done("Server deleted", None) };
                self.answer(ticket, Ok(done));
                self.forget();
            }
            result => {
                self.phase = Phase::Idle;
                self.settle_from_container();
                self.answer(ticket, Err(fault_of(result)));
                self.run(Job::Inspect);
            }
        }
    }

    pub(super) fn forget(&mut self) {
        self.phase = Phase::Gone;
        for (ticket, request) in std::mem::take(&mut self.queue) {
            match request {
                Request::Delete { .. } => self.answer_done(ticket, "Server deleted", None),
                _ => {
                    let text = "There is no such server on this node.";
                    self.answer(ticket, Err(Fault::new(Code::ServerNotFound, text)));
                }
            }
        }
        for (ticket, _) in std::mem::take(&mut self.unsettled) {
            self.answer(ticket, Err(interrupted()));
        }
        self.effects.push(Effect::Forget);
    }
}
