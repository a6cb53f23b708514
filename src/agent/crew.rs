//! The Agent's long-lived threads: started with a name and a small stack, noticed when one ends unasked, joined with
//! a deadline.

use std::convert::Infallible;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::event::Event;

/// See the module's description.
#[derive(Debug)]
pub struct Crew {
    urgent_tx: Sender<Event>,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    thread: JoinHandle<()>,
    /// Disconnected once the thread has ended: `JoinHandle` has no join with a deadline.
    ended_rx: Receiver<Infallible>,
}

/// Dropped as the last act of a thread, also when it panics.
struct Guard {
    name: String,
    urgent_tx: Sender<Event>,
    _ended_tx: Sender<Infallible>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Waiting for a loop that ends too would be a deadlock; there is room for the end of every thread.
        let _ = self.urgent_tx.try_send(Event::ThreadEnded { name: std::mem::take(&mut self.name) });
    }
}

impl Crew {
    /// The loop is told of each thread's end through `urgent_tx`.
    pub fn new(urgent_tx: Sender<Event>) -> Crew {
        Crew { urgent_tx, members: Vec::new() }
    }

    /// Starts a thread. `stack` is in bytes: only what is touched takes memory, but a bound shows what is expected.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(
        &mut self,
        name: impl Into<String>,
        stack: usize,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let name = name.into();
        let (ended_tx, ended_rx) = bounded(0);
        let guard = Guard { name: name.clone(), urgent_tx: self.urgent_tx.clone(), _ended_tx: ended_tx };
        let thread = thread::Builder::new().name(name).stack_size(stack).spawn(move || {
            let _guard = guard;
            work();
        })?;
        self.members.push(Member { thread, ended_rx });
        Ok(())
    }

    /// Waits until all have ended or the deadline has passed; gives the names of those that have not.
    pub fn join(self, deadline: Instant) -> Vec<String> {
        let mut late = Vec::new();
        for member in self.members {
            match member.ended_rx.recv_deadline(deadline) {
                Err(RecvTimeoutError::Timeout) => {
                    late.push(member.thread.thread().name().unwrap_or("unnamed").to_owned());
                }
                // A panic was logged when it happened.
                _ => drop(member.thread.join()),
            }
        }
        late
    }
}
