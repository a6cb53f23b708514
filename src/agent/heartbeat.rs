//! The heartbeat's rhythm: every 30 s, and whenever it is asked, the node is measured and the agent loop is told, which
//! sends the heartbeat. Beats on the `stats` thread: measuring may hang with a file system, and must not hang the loop.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::event::Event;
use super::system;
use crate::server::stats::Rhythm;

/// Section 1 of the contract.
pub const INTERVAL: Duration = Duration::from_secs(30);

/// The loop's handle.
#[derive(Debug)]
pub struct Heartbeat {
    now_tx: Sender<()>,
}

impl Heartbeat {
    /// The handle, and what the thread has to do: each beat is a [`Event::Beat`] on `beats_tx`.
    pub fn new(mut sampler: system::Sampler, beats_tx: Sender<Event>) -> (Heartbeat, Rhythm) {
        let (now_tx, asked_rx): (_, Receiver<()>) = bounded(1);
        let beat = move || {
            // A loop that has ended needs to be told nothing.
            let _ = beats_tx.send(Event::Beat(Box::new(sampler.sample())));
        };
        (Heartbeat { now_tx }, Rhythm { every: INTERVAL, asked_rx, beat: Box::new(beat) })
    }

    /// One beat now, the next a whole interval later.
    pub fn now(&self) {
        // Full means that one is asked for already.
        let _ = self.now_tx.try_send(());
    }
}
