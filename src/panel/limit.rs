//! Two limits against a peer that says too much: of log lines, and of messages.
//!
//! Owned by whichever thread uses them; neither has a thread or a timer.

use std::time::{Duration, Instant};

/// Lets one log line of a kind through in each interval, and counts the others.
pub struct LogLimit {
    every: Duration,
    open_at: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    pub fn every(every: Duration) -> LogLimit {
        LogLimit { every, open_at: None, suppressed: 0 }
    }

    /// `Some` when a line may be written, with the number of those that were not since the last one.
    pub fn pass(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.open_at.is_some_and(|open_at| now < open_at) {
            self.suppressed += 1;
            return None;
        }
        self.open_at = Some(now + self.every);
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// One line in ten seconds.
impl Default for LogLimit {
    fn default() -> LogLimit {
        LogLimit::every(Duration::from_secs(10))
    }
}

/// A token bucket: so many at once, and so many a second after that.
pub struct Pace {
    burst: f64,
    rate: f64,
    tokens: f64,
    at: Instant,
}

impl Pace {
    pub fn new(burst: u32, rate: u32, now: Instant) -> Pace {
        Pace { burst: burst.into(), rate: rate.into(), tokens: burst.into(), at: now }
    }

    /// Takes one token, and says how long to wait first.
    pub fn take(&mut self, now: Instant) -> Option<Duration> {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + earned).min(self.burst) - 1.0;
        self.at = now;
        (self.tokens < 0.0).then(|| Duration::from_secs_f64(-self.tokens / self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_allows_a_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(3, 10, start);
        assert!((0..3).all(|_| pace.take(start).is_none()));
        assert_eq!(pace.take(start), Some(Duration::from_millis(100)));
        assert_eq!(pace.take(start + Duration::from_millis(200)), None);
        assert!((0..3).all(|_| pace.take(start + Duration::from_secs(60)).is_none()));
        assert!(pace.take(start + Duration::from_secs(60)).is_some());
    }

    #[test]
    fn lines_between_are_counted() {
        let mut limit = LogLimit::every(Duration::from_secs(3600));
        assert_eq!((limit.pass(), limit.pass(), limit.pass()), (Some(0), None, None));
        limit.open_at = None;
        assert_eq!(limit.pass(), Some(2));
    }
}
