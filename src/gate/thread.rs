//! Threads that are joined with a deadline and known by name when they do not come.

use std::convert::Infallible;
use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

/// Stack of the gate's threads. Only touched pages count; handlers parse JSON and format pages, which is far from it.
const STACK: usize = 512 * 1024;

/// One thread and the end of a channel that disconnects when it has ended.
#[derive(Debug)]
pub(super) struct Thread<T> {
    name: String,
    ended: Receiver<Infallible>,
    handle: JoinHandle<T>,
}

impl<T: Send + 'static> Thread<T> {
    /// `name` is at most 15 bytes, the kernel's limit.
    pub fn spawn(name: String, body: impl FnOnce() -> T + Send + 'static) -> io::Result<Thread<T>> {
        let (alive, ended) = bounded(0);
        let handle = Builder::new().name(name.clone()).stack_size(STACK).spawn(move || {
            // Dropped last, by return and by panic alike.
            let _alive: crossbeam_channel::Sender<Infallible> = alive;
            body()
        })?;
        Ok(Thread { name, ended, handle })
    }

    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits until the thread has ended; its name when it has not by the deadline, or has panicked.
    pub fn join(self, deadline: Instant) -> Result<T, String> {
        match self.ended.recv_deadline(deadline) {
            Err(RecvTimeoutError::Timeout) => Err(self.name),
            Err(RecvTimeoutError::Disconnected) => self.handle.join().map_err(|_| self.name),
            Ok(never) => match never {},
        }
    }
}
