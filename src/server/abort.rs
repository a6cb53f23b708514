//! Ends work on a server's files from another thread: the loop keeps a clone, the work looks at it between two pieces, and
//! what it blocks on is woken by the end of just that. No thread, no polling.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::docker::InputEnd;

/// Asking for the end is final. One serves a job, another all that is short.
#[derive(Clone, Debug, Default)]
pub struct Abort(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    asked: AtomicBool,
    /// Behind a lock since the sides are several threads; it is held for a few instructions only. As many as there are
    /// threads, and those that are gone until the next comes.
    blocking: Mutex<Vec<Weak<dyn Blocks>>>,
}

/// What somebody may block on.
pub trait Blocks: Send + Sync {
    /// Has whoever blocks return, now or soon. It fails only where nobody does any more.
    fn end(&self);
}

impl Blocks for TcpStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// The container notices and ends by itself, which is what its reader waits for.
impl Blocks for InputEnd {
    fn end(&self) {
        self.end_input();
    }
}

/// The end was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

impl Abort {
    /// Asks for the end; work that blocks on what it told of returns at once.
    pub fn ask(&self) {
        let blocking = {
            let mut blocking = self.blocking();
            self.0.asked.store(true, Ordering::Release);
            std::mem::take(&mut *blocking)
        };
        blocking.iter().filter_map(Weak::upgrade).for_each(|blocks| blocks.end());
    }

    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// What the work calls between two pieces.
    ///
    /// # Errors
    /// When the end was asked for.
    pub fn check(&self) -> Result<(), Aborted> {
        if self.is_asked() { Err(Aborted) } else { Ok(()) }
    }

    /// Takes over what the work is about to block on, for as long as it holds it.
    ///
    /// INVARIANT: it is known here before anything blocks on it, so that no end is missed.
    ///
    /// # Errors
    /// When the end was asked for.
    pub fn watch<B: Blocks + 'static>(&self, blocks: &Arc<B>) -> Result<(), Aborted> {
        let mut blocking = self.blocking();
        self.check()?;
        blocking.retain(|known| known.strong_count() > 0);
        let blocks: Weak<B> = Arc::downgrade(blocks);
        blocking.push(blocks);
        Ok(())
    }

    fn blocking(&self) -> MutexGuard<'_, Vec<Weak<dyn Blocks>>> {
        // Nothing that can panic runs under the lock, and the list is whole at any time.
        self.0.blocking.lock().unwrap_or_else(PoisonError::into_inner)
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
