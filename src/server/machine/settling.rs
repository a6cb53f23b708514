//! What an Agent before this one had begun and not answered: judged by how the server is, never done again.

use super::*;

impl Machine {
    /// Answers what was left, now that the server is known and at rest.
    pub(super) fn settle_begun(&mut self) {
        for (ticket, begun) in std::mem::take(&mut self.unsettled) {
            self.cause = Some(ticket);
            match self.came_of(begun) {
                Ok(message) => {
                    let killed = matches!(begun, Begun::Stop).then_some(self.killed);
                    self.answer_done(ticket, message, killed);
                }
                Err(fault) => self.answer(ticket, Err(fault)),
            }
        }
    }

    fn came_of(&self, begun: Begun) -> Result<&'static str, Fault> {
        let running = self.is_running();
        let started = self.container.as_ref().map_or(0, |container| container.started_ns);
        let rests = !running && self.desired == Desired::Stopped;
        match begun {
            // There would be no machine without it.
            Begun::Create => Ok("Server created"),
            Begun::Start if running => Ok("Server started successfully"),
            Begun::Restart { run } if running && started > run => Ok("Server started successfully"),
            Begun::Stop if rests => Ok("Server stopped"),
            Begun::Kill if rests => Ok("Server killed"),
            Begun::Suspend if rests && self.suspended => Ok("Server suspended"),
            Begun::Unsuspend if !self.suspended => Ok("Server unsuspended"),
            Begun::Start | Begun::Restart { .. } if self.settled == Status::Crashed => {
                Err(ended_at_once(self.exit_code().unwrap_or_default()))
            }
            _ => Err(interrupted()),
        }
    }
}

/// Whatever came of it, nobody can tell.
pub(super) fn interrupted() -> Fault {
    Fault::new(
        Code::Interrupted,
        "The Agent was stopped while this was under way. Look at the server's state when it is back.",
    )
}
