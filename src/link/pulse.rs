//! [`Pulse`]: since when a thread has been at one piece of work, for a watchdog that must tell work from being stuck.
//!
//! The thread marks it, anyone reads it. Waiting for something to do is no work, however long it lasts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Copies share one mark.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// A new piece of work begins, or the one in hand got on.
    pub fn beat(&self) {
        self.0.store(now(), Ordering::Relaxed);
    }

    /// The thread waits for something to do.
    pub fn rest(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// How long the thread has been at one piece of work; zero while it waits for one.
    pub fn busy(&self) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(now().saturating_sub(since)),
        }
    }
}

/// Milliseconds since the process first asked, and never 0.
fn now() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_takes_time() {
        let pulse = Pulse::default();
        assert_eq!(pulse.busy(), Duration::ZERO, "nothing was begun");
        pulse.beat();
        let begun = Instant::now();
        while pulse.busy() < Duration::from_millis(3) {
            assert!(begun.elapsed() < Duration::from_secs(5), "work takes no time");
        }
        pulse.clone().rest();
        assert_eq!(pulse.busy(), Duration::ZERO, "it waits again");
    }
}
