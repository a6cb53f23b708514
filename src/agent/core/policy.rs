//! The owner's policy, as the loop asks it: when a command comes in, so that what is refused changes nothing, and once more
//! before a job goes to the workers, so that no spec gets to the Engine by another way: a stored one that is started
//! after the policy became stricter, a crashed one that is started again.

use super::*;
use crate::agent::policy::Refusal;

impl Core {
    /// Whether the owner lets a command be done.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` with the rule. Nothing was changed but the count of commands.
    pub(super) fn permit(&mut self, action: &Action) -> Result<(), Fault> {
        if let Some(per_minute) = self.policy.commands_per_minute() {
            self.rate.take(per_minute, Instant::now()).map_err(|wait| Refusal::too_many(per_minute, wait))?;
        }
        self.policy.admit(action)?;
        match action {
            Action::Server(server, action) => self.permit_spec(server, action)?,
            Action::Container(name, action) => {
                if let Some(server) = self.find_container(name) {
                    self.permit_spec(&server, action)?;
                }
            }
            Action::ListServers | Action::SystemMetrics | Action::SystemPing | Action::SystemInfo => {}
        }
        Ok(())
    }

    /// The same of the spec that an action brings in or starts.
    fn permit_spec(&self, server: &ServerId, action: &ServerAction) -> Result<(), Refusal> {
        let known = self.servers.get(server).map(|server| server.machine.spec());
        match (action, known) {
            (ServerAction::Create(create), _) => self.policy.allows(&create.spec),
            (ServerAction::Start | ServerAction::Restart(_), Some(spec)) => self.policy.allows(spec),
            // What is wrong with it by itself is told by whoever carries it out.
            (ServerAction::Update(patch), Some(spec)) => spec
                .patched(patch)
                .map_or(Ok(()), |patched| self.policy.allows_change(&patched.spec, &patched.changed())),
            _ => Ok(()),
        }
    }

    /// The same of a job with the spec that it would bring to the Engine or to the disk.
    pub(super) fn permit_job(&self, stored: &Spec, job: &Job) -> Result<(), Refusal> {
        match job {
            Job::Create { .. } | Job::Pull | Job::Start => self.policy.allows(stored),
            Job::Apply(spec) | Job::Store(spec) => {
                let changes = stored.changes(spec);
                let changed: Vec<&str> = changes.iter().map(|change| change.field).collect();
                self.policy.allows_change(spec, &changed)
            }
            _ => Ok(()),
        }
    }

    /// The policy was read again. One that cannot be taken leaves the one that holds as it is.
    pub(super) fn policy_read(&mut self, result: Result<Policy, BadPolicy>) {
        match result {
            Ok(policy) => {
                log::info!(
                    "the policy was read again: {}",
                    if policy == *self.policy { "it is the same" } else { "it has changed" }
                );
                self.policy = Arc::new(policy);
                self.board.set_policy_fault(None);
            }
            Err(bad) => {
                log::error!("the policy could not be taken, so the one before holds on: {bad}");
                self.board.set_policy_fault(Some(bad.to_string()));
            }
        }
    }
}
