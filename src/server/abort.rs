//! Ends a long job on a server's files from another thread: the loop keeps a clone, the job looks at it between two
//! pieces of work, and what blocks on a socket is woken by the end of that socket. No thread, no polling.

use std::convert::Infallible;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crossbeam_channel::{Receiver, Sender, bounded};

/// Asking for the end is final. It serves one job.
#[derive(Clone, Debug)]
pub struct Abort(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    asked: AtomicBool,
    /// Disconnected once the end was asked for: what a job can wait on beside something else.
    asked_rx: Receiver<Infallible>,
    /// Behind a lock since the two sides are two threads; it is held for a few instructions only.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    asked_tx: Option<Sender<Infallible>>,
    socket: Weak<TcpStream>,
}

/// The end was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

impl Default for Abort {
    fn default() -> Abort {
        let (asked_tx, asked_rx) = bounded(0);
        let state = Mutex::new(State { asked_tx: Some(asked_tx), socket: Weak::new() });
        Abort(Arc::new(Shared { asked: AtomicBool::new(false), asked_rx, state }))
    }
}

impl Abort {
    /// Asks for the end; a job that blocks on its socket returns at once.
    pub fn ask(&self) {
        let socket = {
            let mut state = self.state();
            self.0.asked.store(true, Ordering::Release);
            state.asked_tx = None;
            state.socket.upgrade()
        };
        if let Some(socket) = socket {
            // One that is not connected any more blocks nobody.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// What a job calls between two pieces of work.
    ///
    /// # Errors
    /// When the end was asked for.
    pub fn check(&self) -> Result<(), Aborted> {
        if self.is_asked() { Err(Aborted) } else { Ok(()) }
    }

    /// Disconnected once the end was asked for.
    pub fn asked(&self) -> &Receiver<Infallible> {
        &self.0.asked_rx
    }

    /// Takes over the socket that the job is about to block on.
    ///
    /// INVARIANT: a socket is known here before anything blocks on it, so that no end is missed.
    pub fn watch(&self, socket: &Arc<TcpStream>) -> Result<(), Aborted> {
        let mut state = self.state();
        if self.is_asked() {
            return Err(Aborted);
        }
        state.socket = Arc::downgrade(socket);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock, and its parts are whole at any time.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn wakes_a_read_and_is_final() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let _peer = listener.accept().unwrap();
        let abort = Abort::default();
        abort.watch(&socket).unwrap();
        assert_eq!(abort.check(), Ok(()));
        let reader = socket.clone();
        let reader = std::thread::spawn(move || (&*reader).read(&mut [0]));
        abort.ask();
        assert_eq!(reader.join().unwrap().unwrap(), 0);
        assert_eq!((abort.check(), abort.watch(&socket)), (Err(Aborted), Err(Aborted)));
        assert!(abort.asked().recv().is_err());
    }
}
