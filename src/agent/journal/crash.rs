//! Ends the Agent with SIGKILL at a step of a test's choice: `LONGSHORE_CRASH=started` for the first time it comes there,
//! `started:3` for the third. Nothing of it is in a release build.

/// The Agent has come to `step`.
#[cfg(not(debug_assertions))]
pub fn here(_step: &str) {}

/// The Agent has come to `step`.
#[cfg(debug_assertions)]
pub fn here(step: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static PLAN: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();
    let read = || {
        let plan = std::env::var("LONGSHORE_CRASH").ok()?;
        let (step, count) = plan.split_once(':').unwrap_or((&plan, "1"));
        Some((step.to_owned(), AtomicU32::new(count.parse().ok()?)))
    };
    if let Some((planned, left)) = PLAN.get_or_init(read)
        && planned == step
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal may take a moment, in which nothing more is to be done.
        std::thread::park();
    }
}
