//! In which dialects unasked messages go out now. Written by the agent loop, read by the write thread when it asks a
//! source for its next message: a lock would hold up one for the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const UNIFIED: u8 = 1;
const LEGACY: u8 = 2;

/// A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Tongues(Arc<AtomicU8>);

impl Tongues {
    pub fn set(&self, unified: bool, legacy: bool) {
        let bits = if unified { UNIFIED } else { 0 } | if legacy { LEGACY } else { 0 };
        self.0.store(bits, Ordering::Relaxed);
    }

    pub fn unified(&self) -> bool {
        self.0.load(Ordering::Relaxed) & UNIFIED != 0
    }

    pub fn legacy(&self) -> bool {
        self.0.load(Ordering::Relaxed) & LEGACY != 0
    }
}
