//! Ends, from another thread, whatever blocks on the Engine: a stream, a pull, an attach.
//!
//! Holds only a weak reference to the socket in use. No thread, no polling.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use super::error::Error;
use super::stream::Handle;

/// The caller makes one, keeps a clone, and gives it to the call. Closing is final: a call that blocks returns
/// `Cancelled` at once, and so does every later call with it. It serves one call or stream at a time.
#[derive(Clone, Debug, Default)]
pub struct Closer(Arc<Mutex<State>>);

/// Behind a lock since the two sides are two threads; it is held for a few instructions only.
#[derive(Debug, Default)]
struct State {
    closed: bool,
    socket: Weak<Handle>,
}

impl Closer {
    pub fn new() -> Closer {
        Closer::default()
    }

    pub fn close(&self) {
        let socket = {
            let mut state = self.state();
            state.closed = true;
            state.socket.upgrade()
        };
        if let Some(socket) = socket {
            socket.shutdown();
        }
    }

    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Takes over the socket that is about to be used.
    ///
    /// INVARIANT: a socket is known here before anything but its connect can block on it, so no close is missed.
    pub(super) fn watch(&self, socket: &Arc<Handle>) -> io::Result<()> {
        let mut state = self.state();
        if state.closed {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "closed by the caller"));
        }
        state.socket = Arc::downgrade(socket);
        Ok(())
    }

    /// Bounds each further read of a stream that has no deadline: for what should not pause, or is an error
    /// and no stream after all.
    pub(super) fn limit_reads(&self, limit: Duration) {
        if let Some(socket) = self.state().socket.upgrade() {
            socket.set_idle_limit(limit);
        }
    }

    /// What a failure means once it is known whether the caller wanted it.
    pub(super) fn explain(&self, error: Error) -> Error {
        if self.is_closed() { Error::Cancelled } else { error }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock, and a flag and a pointer are whole at any time.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
