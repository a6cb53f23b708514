//! What to do about a crash: the rule of a server's `restart` and `restartPolicy`. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::protocol::Spec;
use crate::protocol::spec::Restart;

/// The crashes inside the policy's window.
#[derive(Debug, Default)]
pub struct CrashLog(VecDeque<Instant>);

/// What follows a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start again after this wait.
    Retry(Duration),
    /// Too many in the window.
    GiveUp,
    /// The server is not to be restarted.
    Leave,
}

impl CrashLog {
    /// Counts a crash and says what to do: a wait of 1 s doubling to the policy's cap, and an end at its maximum.
    pub fn crash(&mut self, spec: &Spec, now: Instant) -> Verdict {
        if spec.restart == Restart::Never {
            return Verdict::Leave;
        }
        let policy = spec.restart_policy;
        let window = Duration::from_secs(policy.window.into());
        while self.0.front().is_some_and(|&at| now.saturating_duration_since(at) > window) {
            self.0.pop_front();
        }
        self.0.push_back(now);
        if self.0.len() >= policy.max as usize {
            self.0.clear();
            return Verdict::GiveUp;
        }
        let doublings = (self.0.len() as u32 - 1).min(16);
        let wait = Duration::from_secs(1 << doublings);
        Verdict::Retry(wait.min(Duration::from_secs(policy.backoff_cap.into())))
    }

    /// Forgets what was, for instance when a person starts the server.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_then_gives_up_and_forgets_old_crashes() {
        let (spec, start) = (Spec::default(), Instant::now());
        let mut log = CrashLog::default();
        let at = |s| start + Duration::from_secs(s);
        let waits: Vec<_> = (0..4).map(|s| log.crash(&spec, at(s))).collect();
        assert_eq!(waits, [1, 2, 4, 8].map(|s| Verdict::Retry(Duration::from_secs(s))));
        assert_eq!(log.crash(&spec, at(5)), Verdict::GiveUp);
        assert_eq!(log.crash(&spec, at(6)), Verdict::Retry(Duration::from_secs(1)));
        assert_eq!(log.crash(&spec, at(607)), Verdict::Retry(Duration::from_secs(1)), "outside the window");
    }

    #[test]
    fn never_leaves_it() {
        let spec = Spec { restart: Restart::Never, ..Spec::default() };
        assert_eq!(CrashLog::default().crash(&spec, Instant::now()), Verdict::Leave);
    }
}
