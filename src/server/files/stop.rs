//! Ends work on files that takes long: the Agent stops, and nobody waits for the answer any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Trouble;
use crate::protocol::Code;

/// Shared by whoever ends the work and whoever does it, who asks between two entries.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// `INTERRUPTED` once it was set.
    pub fn check(&self) -> Result<(), Trouble> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Trouble::told(
                Code::Interrupted,
                "The Agent was stopped while this was under way. Look at the files when it is back.",
            )),
            false => Ok(()),
        }
    }
}
