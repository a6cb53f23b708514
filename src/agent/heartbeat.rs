//! The `heartbeat` thread: every 30 s, and whenever it is asked, it measures the node and tells the agent loop,
//! which sends the heartbeat. Measuring is done here because `statvfs` on a file system that hangs must not hold
//! up the loop.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::crew::Crew;
use super::event::Event;
use super::system::Sampler;

/// Section 1 of the contract.
pub const INTERVAL: Duration = Duration::from_secs(30);

/// The handle; dropping it ends the thread at its next wait.
#[derive(Debug)]
pub struct Heartbeat {
    now_tx: Sender<()>,
}

impl Heartbeat {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(sampler: Sampler, beats_tx: Sender<Event>, crew: &mut Crew) -> std::io::Result<Heartbeat> {
        let (now_tx, now_rx) = bounded(1);
        crew.spawn("heartbeat", 128 << 10, move || run(sampler, &now_rx, &beats_tx))?;
        Ok(Heartbeat { now_tx })
    }

    /// One beat now, the next a whole interval later.
    pub fn now(&self) {
        // Full means that one is asked for already.
        let _ = self.now_tx.try_send(());
    }
}

fn run(mut sampler: Sampler, now_rx: &Receiver<()>, beats_tx: &Sender<Event>) {
    loop {
        match now_rx.recv_timeout(INTERVAL) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {
                if beats_tx.send(Event::Beat(Box::new(sampler.sample()))).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
