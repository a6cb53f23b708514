//! Ends a long job on a server's files from another thread: the loop keeps a clone, the job looks at it between two
//! pieces of work, and what blocks on a socket is woken by the end of that socket. No thread, no polling.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Asking for the end is final. It serves one job.
#[derive(Clone, Debug, Default)]
pub struct Abort(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    asked: AtomicBool,
    /// Behind a lock since the two sides are two threads; it is held for a few instructions only.
    socket: Mutex<Weak<TcpStream>>,
}

/// The end was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

impl Abort {
    /// Asks for the end; a job that blocks on its socket returns at once.
    pub fn ask(&self) {
        let socket = {
            let socket = self.socket();
            self.0.asked.store(true, Ordering::Release);
            socket.upgrade()
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

    /// Takes over the socket that the job is about to block on.
    ///
    /// INVARIANT: a socket is known here before anything blocks on it, so that no end is missed.
    pub fn watch(&self, socket: &Arc<TcpStream>) -> Result<(), Aborted> {
        let mut known = self.socket();
        if self.is_asked() {
            return Err(Aborted);
        }
        *known = Arc::downgrade(socket);
        Ok(())
    }

    fn socket(&self) -> MutexGuard<'_, Weak<TcpStream>> {
        // Nothing that can panic runs under the lock, and a pointer is whole at any time.
        self.0.socket.lock().unwrap_or_else(PoisonError::into_inner)
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
    }
}
