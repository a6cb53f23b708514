//! Tells the loop when the link has room again for what files hold, while it waits for that. Runs on the read thread, since a
//! pong of the Panel's is what makes room; never blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Sender;

use super::event::Event;
use crate::link::Source;

/// Whether the loop waits for room. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Wanted(Arc<AtomicBool>);

impl Wanted {
    pub fn set(&self, wanted: bool) {
        self.0.store(wanted, Ordering::SeqCst);
    }
}

/// A source of nothing, which hears of pongs.
pub struct Room {
    wanted: Wanted,
    events_tx: Sender<Event>,
}

impl Room {
    pub fn new(wanted: Wanted, events_tx: Sender<Event>) -> Room {
        Room { wanted, events_tx }
    }
}

impl Source for Room {
    fn next(&mut self, _max_bytes: usize) -> Option<String> {
        None
    }

    fn ponged(&mut self, _number: u64) {
        // A loop that is too busy to hear it looks again itself when it has answered something of a file's.
        if self.wanted.0.load(Ordering::SeqCst) && self.events_tx.try_send(Event::Room).is_ok() {
            self.wanted.set(false);
        }
    }
}
