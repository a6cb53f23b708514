//! What to do about a crash: the rule of a server's `restart` and `restartPolicy`. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::protocol::Spec;
use crate::protocol::spec::Restart;

/// The crashes inside the policy's window.
#[derive(Debug, Default)]
pub struct CrashLog(VecDeque<Instant>);

/// What of a server's supervision has to outlive the Agent. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Supervision {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crashes: Vec<u64>,
    /// When it is started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopUnderWay>,
}

/// A stop that has not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopUnderWay {
    /// The run that is to end, by its start in nanoseconds since the Unix epoch: a later one is none of its business.
    pub run: u64,
    /// When it is killed.
    pub until: u64,
    /// The signal that asks it to end, until it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// The same moment on both clocks, for times that are kept.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    now: Instant,
    wall: u64,
}

impl Moment {
    pub fn now() -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { now: Instant::now(), wall: wall.as_millis() as u64 }
    }

    pub fn to_wall(self, at: Instant) -> u64 {
        let ahead = at.saturating_duration_since(self.now).as_millis() as u64;
        let behind = self.now.saturating_duration_since(at).as_millis() as u64;
        (self.wall + ahead).saturating_sub(behind)
    }

    /// A time to come, at most `most` away: a clock that was set meanwhile must not make it for ever.
    pub fn ahead(self, wall: u64, most: Duration) -> Instant {
        self.now + Duration::from_millis(wall.saturating_sub(self.wall)).min(most)
    }

    /// A time that has passed; the present one when the machine was not up then.
    pub fn behind(self, wall: u64) -> Instant {
        let since = Duration::from_millis(self.wall.saturating_sub(wall));
        self.now.checked_sub(since).unwrap_or(self.now)
    }
}

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

    /// Forgets what was, for instance when a person starts the server. Whether there was anything.
    pub fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }

    /// The crashes that count, the oldest first.
    pub fn times(&self) -> impl Iterator<Item = Instant> {
        self.0.iter().copied()
    }
}

impl FromIterator<Instant> for CrashLog {
    fn from_iter<I: IntoIterator<Item = Instant>>(crashes: I) -> CrashLog {
        CrashLog(crashes.into_iter().collect())
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
