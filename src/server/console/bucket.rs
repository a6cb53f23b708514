//! How much of a server's output may go out in a time: a token bucket. Pure.

use std::time::{Duration, Instant};

/// What may go out at once after a rest, in seconds of the rate.
const BURST: Duration = Duration::from_secs(1);
/// Once empty, it fills for this long before anything goes out: gaps are told rarely, and lines come in larger pieces.
const REST: Duration = Duration::from_millis(250);

/// See the module's description.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Bytes a second.
    rate: u64,
    /// Bytes; below nothing by at most one batch.
    tokens: i64,
    filled: Instant,
}

impl Bucket {
    pub fn new(rate: u64, now: Instant) -> Bucket {
        Bucket { rate, tokens: rate as i64, filled: now }
    }

    /// Takes what goes out now. An error is the time until which nothing may follow.
    pub fn take(&mut self, bytes: usize, now: Instant) -> Result<(), Instant> {
        // Past the burst a long rest brings nothing more, so nothing overflows either.
        let gone = now.saturating_duration_since(self.filled).min(2 * BURST);
        let filled = (u128::from(self.rate) * gone.as_nanos() / 1_000_000_000) as i64;
        if filled > 0 {
            self.tokens = (self.tokens + filled).min(self.rate as i64);
            self.filled = now;
        }
        self.tokens -= bytes as i64;
        if self.tokens > 0 {
            return Ok(());
        }
        let owed =
            Duration::from_nanos((self.tokens.unsigned_abs()).saturating_mul(1_000_000_000) / self.rate);
        Err(now + owed + REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_to_the_rate_and_a_burst_is_not() {
        const RATE: u64 = 2 << 20;
        let start = Instant::now();
        let mut bucket = Bucket::new(RATE, start);
        let (mut now, mut sent, mut rests) = (start, 0u64, 0);
        while now < start + Duration::from_secs(10) {
            sent += 32 << 10;
            match bucket.take(32 << 10, now) {
                // As a link of 100 MiB/s would take it.
                Ok(()) => now += Duration::from_micros(312),
                Err(until) => (now, rests) = (until, rests + 1),
            }
        }
        assert!((10 * RATE..=12 * RATE).contains(&sent), "{sent}");
        assert!(rests <= 40, "{rests}");
    }

    #[test]
    fn an_ordinary_server_never_waits() {
        let mut now = Instant::now();
        let mut bucket = Bucket::new(2 << 20, now);
        for _ in 0..1000 {
            assert_eq!(bucket.take(100 << 10, now), Ok(()));
            now += Duration::from_millis(60);
        }
    }
}
