//! [`Backoff`]: how long to wait before the next dial.
//!
//! Pure: the clock and the seed are given in, so that every rule can be tested without waiting. Exponential with
//! full jitter (a random time between nothing and the bound), so that a thousand Agents that lost one Panel
//! together do not come back together.

use std::time::{Duration, Instant};

/// The bound of the first wait.
pub const BASE: Duration = Duration::from_secs(1);
/// The bound that is never passed without a `Retry-After`.
pub const CAP: Duration = Duration::from_secs(60);
/// No wait is shorter: full jitter alone would allow an immediate dial.
pub const FLOOR: Duration = Duration::from_millis(250);
/// A connection that held this long has proven itself: the next wait starts from [`BASE`].
pub const PROVEN: Duration = Duration::from_secs(60);
/// For this long after a loss the bound is [`EARLY_CAP`]: most losses are a Panel that restarts.
pub const EARLY: Duration = Duration::from_secs(20);
pub const EARLY_CAP: Duration = Duration::from_secs(4);
/// The longest `Retry-After` that is believed.
pub const RETRY_AFTER_CAP: Duration = Duration::from_secs(600);

/// What makes a new dial necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setback {
    /// A connection that had held for so long has ended.
    Lost { held: Duration },
    /// A dial came to nothing. `retry_after` is the header of a 429 or 503.
    Failed { retry_after: Option<Duration> },
    /// 401 or 403, or a close with 4001 (replaced by a newer connection) or 4003 (revoked): trying soon is
    /// useless, and two Agents with one name would push each other out for ever.
    Unwelcome,
}

/// The state between two dials.
#[derive(Debug, Clone)]
pub struct Backoff {
    random: u64,
    /// How many waits were given since the last proven connection.
    attempt: u32,
    /// When the last early window was opened.
    window: Option<Instant>,
}

impl Backoff {
    /// `seed` should differ between nodes and starts.
    pub fn new(seed: u64) -> Backoff {
        Backoff { random: seed, attempt: 0, window: None }
    }

    /// How long to wait after `setback`, which happened at `now`: from [`FLOOR`] to [`CAP`], longer only for a
    /// `Retry-After`, up to [`RETRY_AFTER_CAP`].
    pub fn wait_after(&mut self, setback: Setback, now: Instant) -> Duration {
        match setback {
            Setback::Unwelcome => {
                self.attempt = u32::MAX;
                // Half of it is certain: full jitter could come back at once.
                CAP / 2 + self.jitter(CAP / 2)
            }
            Setback::Lost { held } => {
                if held >= PROVEN {
                    self.attempt = 0;
                }
                // A Panel that accepts and closes again and again must not keep the early bound open for ever.
                if self.window.is_none_or(|opened| now.saturating_duration_since(opened) >= PROVEN) {
                    self.window = Some(now);
                }
                self.spread(now)
            }
            Setback::Failed { retry_after: None } => self.spread(now),
            Setback::Failed { retry_after: Some(asked) } => {
                // The jitter comes on top: all who were refused together were told the same time.
                (asked + self.spread(now)).min(RETRY_AFTER_CAP)
            }
        }
    }

    fn spread(&mut self, now: Instant) -> Duration {
        let early = self.window.is_some_and(|opened| now.saturating_duration_since(opened) < EARLY);
        let cap = if early && self.attempt != u32::MAX { EARLY_CAP } else { CAP };
        let bound = BASE.saturating_mul(2u32.saturating_pow(self.attempt.min(16))).min(cap);
        self.attempt = self.attempt.saturating_add(1);
        self.jitter(bound).max(FLOOR)
    }

    /// Uniform from zero to `bound`, by SplitMix64: sixteen bytes of state and no crate for a dozen numbers an hour.
    fn jitter(&mut self, bound: Duration) -> Duration {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        bound.mul_f64((z >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAILED: Setback = Setback::Failed { retry_after: None };

    fn lost(held: u64) -> Setback {
        Setback::Lost { held: Duration::from_secs(held) }
    }

    /// The longest of many waits of backoffs that went through the same, which is close to the bound.
    fn bound(setbacks: &[(u64, Setback)]) -> f64 {
        let start = Instant::now();
        let wait = |seed| {
            let mut backoff = Backoff::new(seed);
            let waits = setbacks
                .iter()
                .map(|(at, setback)| backoff.wait_after(*setback, start + Duration::from_secs(*at)));
            waits.last().unwrap().as_secs_f64()
        };
        (0..500).map(wait).fold(0.0, f64::max)
    }

    #[test]
    fn the_bound_follows_the_rules() {
        let failed = |n: usize| vec![(100, FAILED); n];
        let then = |mut list: Vec<(u64, Setback)>, last| {
            list.push(last);
            list
        };
        for (name, setbacks, expected) in [
            ("first", failed(1), 1.0),
            ("second", failed(2), 2.0),
            ("sixth", failed(6), 32.0),
            ("seventh", failed(7), 60.0),
            ("hundredth", failed(100), 60.0),
            ("early after a loss", then(then(failed(9), (100, lost(1))), (119, FAILED)), 4.0),
            ("late after a loss", then(then(failed(9), (100, lost(1))), (120, FAILED)), 60.0),
            ("a proven connection", then(failed(9), (100, lost(60))), 1.0),
            ("an unproven connection", then(failed(2), (100, lost(59))), 4.0),
            (
                "a second loss soon opens no new window",
                then(then(failed(9), (100, lost(1))), (125, lost(1))),
                60.0,
            ),
            ("a later one does", then(then(failed(9), (100, lost(1))), (160, lost(1))), 4.0),
            ("unwelcome", vec![(0, lost(60)), (1, Setback::Unwelcome)], 60.0),
            ("after unwelcome", vec![(0, lost(60)), (1, Setback::Unwelcome), (2, FAILED)], 60.0),
            ("unwelcome, then proven", vec![(0, Setback::Unwelcome), (99, lost(60))], 1.0),
        ] {
            let found = bound(&setbacks);
            assert!((expected * 0.97..=expected).contains(&found), "{name}: {found} instead of {expected}");
        }
    }

    #[test]
    fn retry_after_is_waited_for_up_to_its_cap() {
        for (asked, at_least, at_most) in
            [(0, 0.25, 1.0), (7, 7.25, 8.0), (600, 600.0, 600.0), (90_000, 600.0, 600.0)]
        {
            let mut backoff = Backoff::new(7);
            let setback = Setback::Failed { retry_after: Some(Duration::from_secs(asked)) };
            let wait = backoff.wait_after(setback, Instant::now()).as_secs_f64();
            assert!((at_least..=at_most).contains(&wait), "{asked}: {wait}");
        }
    }

    fn setback() -> impl Strategy<Value = Setback> {
        prop_oneof![
            (0..200u64).prop_map(lost),
            prop::option::of(0..2000u64)
                .prop_map(|s| Setback::Failed { retry_after: s.map(Duration::from_secs) }),
            Just(Setback::Unwelcome),
        ]
    }

    proptest! {
        #[test]
        fn every_wait_is_in_bounds(seed: u64, steps in prop::collection::vec((0..100u64, setback()), 1..60)) {
            let mut backoff = Backoff::new(seed);
            let mut now = Instant::now();
            for (pause, setback) in steps {
                now += Duration::from_secs(pause);
                let wait = backoff.wait_after(setback, now);
                let (least, most) = match setback {
                    Setback::Failed { retry_after: Some(asked) } => (asked.min(RETRY_AFTER_CAP), RETRY_AFTER_CAP),
                    Setback::Unwelcome => (CAP / 2, CAP),
                    Setback::Lost { held } if held >= PROVEN => (FLOOR, BASE),
                    _ => (FLOOR, CAP),
                };
                prop_assert!(least <= wait && wait <= most, "{setback:?}: {wait:?}");
            }
        }

        #[test]
        fn one_seed_one_sequence(seed: u64) {
            let waits = |mut backoff: Backoff| (0..8).map(|_| backoff.wait_after(FAILED, Instant::now())).collect::<Vec<_>>();
            prop_assert_eq!(waits(Backoff::new(seed)), waits(Backoff::new(seed)));
        }
    }
}
