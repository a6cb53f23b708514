//! A request over HTTP that waits for the loop: the two ends of its one answer. The loop holds the [`Caller`], which never
//! blocks it; the gate's thread holds the [`Answers`] and waits for as long as it likes, or leaves.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use crate::protocol::Outcome;

/// An outcome, and when it was known.
pub type Answer = (Outcome, SystemTime);

/// Whom to answer. A clone is the same.
#[derive(Clone, Debug)]
pub struct Caller {
    answer_tx: Sender<Answer>,
    waits: Weak<()>,
}

/// Where the answer comes. Dropping it tells that nobody waits any more.
#[derive(Debug)]
pub struct Answers {
    answer_rx: Receiver<Answer>,
    _waits: Arc<()>,
}

/// The two ends.
pub fn pair() -> (Caller, Answers) {
    let (answer_tx, answer_rx) = bounded(1);
    let waits = Arc::new(());
    (Caller { answer_tx, waits: Arc::downgrade(&waits) }, Answers { answer_rx, _waits: waits })
}

impl Caller {
    /// The first answer counts; one that nobody waits for is dropped.
    pub fn answer(&self, outcome: Outcome, at: SystemTime) {
        let _ = self.answer_tx.try_send((outcome, at));
    }

    pub fn is_gone(&self) -> bool {
        self.waits.strong_count() == 0
    }
}

impl Answers {
    /// # Errors
    /// `Timeout` when it has not come yet, `Disconnected` when it never will.
    pub fn wait(&self, patience: Duration) -> Result<Answer, RecvTimeoutError> {
        self.answer_rx.recv_timeout(patience)
    }

    /// # Errors
    /// As of [`Answers::wait`], at once.
    pub fn now(&self) -> Result<Answer, TryRecvError> {
        self.answer_rx.try_recv()
    }
}
