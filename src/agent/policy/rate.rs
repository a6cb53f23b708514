//! Commands per minute, as a bucket that fills evenly and holds one minute's worth. Pure; owned by the agent loop.

use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// What was taken of the allowance.
#[derive(Debug, Default)]
pub struct Rate {
    /// When all that was taken is made up for.
    even_at: Option<Instant>,
}

impl Rate {
    /// Takes one of `per_minute` (at least 1).
    ///
    /// # Errors
    /// How long it takes until there is one again; nothing is taken.
    pub fn take(&mut self, per_minute: u32, now: Instant) -> Result<(), Duration> {
        let each = MINUTE / per_minute.max(1);
        let even_at = self.even_at.map_or(now, |at| at.max(now)) + each;
        match even_at.saturating_duration_since(now).checked_sub(MINUTE) {
            Some(early) if !early.is_zero() => Err(early),
            _ => {
                self.even_at = Some(even_at);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_worth_at_once_and_then_evenly() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rate = Rate::default();
        for _ in 0..60 {
            assert_eq!(rate.take(60, start), Ok(()));
        }
        assert_eq!(rate.take(60, start), Err(Duration::from_secs(1)));
        assert_eq!(rate.take(60, at(1)), Ok(()));
        assert!(rate.take(60, at(1)).is_err());
        let taken = (0..100).take_while(|_| rate.take(60, at(31)).is_ok()).count();
        assert_eq!(taken, 30);
        let taken = (0..100).take_while(|_| rate.take(60, at(10_000)).is_ok()).count();
        assert_eq!(taken, 60, "no more than a minute's worth is saved up");
        assert_eq!(rate.take(u32::MAX, at(20_000)), Ok(()));
    }
}
