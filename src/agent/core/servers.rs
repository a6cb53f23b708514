//! The servers' machines: each input is given to its machine here, and what comes of it is carried out.

use super::*;
use crate::server::Moment;

impl Core {
    pub(super) fn step(&mut self, id: &ServerId, input: Input) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let effects = server.machine.step(input, Instant::now());
        self.apply(id, effects);
    }

    pub(super) fn apply(&mut self, id: &ServerId, effects: Vec<Effect>) {
        let (mut gone, mut lost) = (false, None);
        let replied: Vec<Status> = effects.iter().filter_map(|effect| self.legacy_reply(effect)).collect();
        for effect in effects {
            match effect {
                Effect::Run(job) => lost = self.submit(id, job).or(lost),
                Effect::Begin(ticket) => self.begin(id, ticket),
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
            self.start_ended(id);
            self.step(id, Input::Done(result));
        }
    }

    /// Ends the job in flight: as soon as it lets itself be ended or, while no worker has begun it, at once. Behind two
    /// pulls that hang it would else wait as long as they do.
    fn cancel(&mut self, id: &ServerId) -> Option<JobResult> {
        let server = self.servers.get_mut(id)?;
        server.closer.close();
        self.inputs.end(id);
        if server.held.take_if(|job| *job == Job::Start).is_some() {
            return Some(JobResult::Failed {
                fault: interrupted(),
                facts: server.machine.container().cloned(),
            });
        }
        if !server.claim.take() {
            return None;
        }
        self.jobs_in_flight -= 1;
        if server.stores {
            server.machine.make_dirty();
        }
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
    pub(super) fn submit(&mut self, id: &ServerId, job: Job) -> Option<JobResult> {
        let server = self.servers.get_mut(id)?;
        if matches!(job, Job::Remove { .. }) && self.long_jobs.is_running(id) {
            server.held = Some(job);
            return None;
        }
        let (stored, facts) = (server.machine.spec().clone(), server.machine.container().cloned());
        if let Err(refusal) = self.permit_job(&stored, &job) {
            log::warn!("{id}: {}: {refusal}", job.name());
            return Some(JobResult::Failed { fault: refusal.into(), facts });
        }
        if self.waits_its_turn(id, &job) {
            if let Some(server) = self.servers.get_mut(id) {
                server.held = Some(job);
            }
            return None;
        }
        let server = self.servers.get_mut(id)?;
        server.closer = Closer::new();
        let machine = &mut server.machine;
        let dirty = machine.take_dirty();
        let spec = match &job {
            Job::Apply(spec) | Job::Store(spec) => spec.clone(),
            _ => machine.spec().clone(),
        };
        let stores = dirty || matches!(job, Job::Create { .. } | Job::Apply(_) | Job::Store(_) | Job::Save);
        server.stores = stores;
        let record = stores.then(|| Record {
            server_id: id.clone(),
            desired: machine.desired(),
            suspended: machine.suspended(),
            supervision: machine.supervision(Moment::now()),
            spec: spec.clone(),
        });
        let serves = machine.serves();
        let label = serves
            .and_then(|ticket| self.waiting.get(&ticket))
            .map_or_else(|| "agent".to_owned(), |waiting| waiting.origin.label().to_owned());
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
        match self.workers.submit(order, server.mark.take()) {
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

    /// The status that an answer tells as a legacy status message.
    fn legacy_reply(&self, effect: &Effect) -> Option<Status> {
        let Effect::Answer(ticket, Ok(done)) = effect else { return None };
        match self.waiting.get(ticket)?.origin.envelope {
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

    pub(super) fn command_id(&self, ticket: Ticket) -> Option<String> {
        self.waiting.get(&ticket)?.origin.envelope.id().map(str::to_owned)
    }

    pub(super) fn pulled(&mut self, id: &ServerId, progress: &PullProgress) {
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

    pub(super) fn fire_timers(&mut self) {
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
}

fn because(change: &crate::server::Change) -> String {
    let reason = change.reason.map(|reason| format!(", {reason:?}")).unwrap_or_default();
    let exit = change.exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
    reason + &exit
}
