//! The `file-N` threads, which do what is asked of servers' files: started when there is work, ended when there has been
//! none for a while, so that an Agent whose files nobody looks at has none. Their number is held by the queue before
//! them. A panic ends its task with an error, not its thread.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::event::Event;
use super::file_queue::THREADS;
use super::journal::{Mark, crash};
use super::workers::{answered, begin};
use crate::protocol::{FileAction, ServerId, Spec};
use crate::server::{Lifecycle, Ticket};

/// How long a thread waits for more.
const IDLE: Duration = Duration::from_secs(20);
const STACK: usize = 256 << 10;

/// What is asked of a server's files.
#[derive(Clone, Debug)]
pub struct FileTask {
    /// Names the command in log lines.
    pub label: String,
    pub server: ServerId,
    pub spec: Arc<Spec>,
    pub action: Box<FileAction>,
    /// Bytes of a file that one answer carries.
    pub most: u64,
    /// What it has to wait for on disk.
    pub mark: Option<Mark>,
}

type Given = (Ticket, Box<FileTask>);

/// The handle, owned by the agent loop.
pub struct FileThreads {
    tasks_tx: Sender<Given>,
    ended_rx: Receiver<Infallible>,
    worker: Worker,
    /// Names the next thread.
    count: usize,
}

/// What each thread has.
#[derive(Clone)]
struct Worker {
    tasks_rx: Receiver<Given>,
    lifecycle: Arc<Lifecycle>,
    done_tx: Sender<Event>,
    /// Threads that take tasks.
    alive: Arc<AtomicUsize>,
    /// Disconnected once all have ended.
    _ended_tx: Sender<Infallible>,
}

impl FileThreads {
    /// None yet. How work went goes to `done_tx`.
    pub fn new(lifecycle: Arc<Lifecycle>, done_tx: Sender<Event>) -> FileThreads {
        let (tasks_tx, tasks_rx) = bounded(THREADS);
        let (ended_tx, ended_rx) = bounded(0);
        let worker = Worker { tasks_rx, lifecycle, done_tx, alive: Arc::default(), _ended_tx: ended_tx };
        FileThreads { tasks_tx, ended_rx, worker, count: 0 }
    }

    /// Has a task done, which is one of `running`, at most [`THREADS`].
    ///
    /// # Errors
    /// When the system gives no thread and there is none. The task is done by the next one that there is.
    pub fn give(&mut self, ticket: Ticket, task: Box<FileTask>, running: usize) -> io::Result<()> {
        // There is room for all that run, and the receiver is held here.
        let _ = self.tasks_tx.try_send((ticket, task));
        if self.worker.alive.load(Ordering::SeqCst) >= running {
            return Ok(());
        }
        self.count = self.count % THREADS + 1;
        let worker = self.worker.clone();
        self.worker.alive.fetch_add(1, Ordering::SeqCst);
        let name = format!("file-{}", self.count);
        let started = thread::Builder::new().name(name).stack_size(STACK).spawn(move || worker.work());
        match started {
            Ok(_) => Ok(()),
            Err(error) => match self.worker.alive.fetch_sub(1, Ordering::SeqCst) {
                1 => Err(error),
                // Another one takes it.
                _ => Ok(()),
            },
        }
    }

    /// Ends them and waits. False when some did not end in time.
    pub fn finish(self, deadline: Instant) -> bool {
        drop((self.tasks_tx, self.worker));
        self.ended_rx.recv_deadline(deadline) != Err(RecvTimeoutError::Timeout)
    }
}

impl Worker {
    fn work(self) {
        loop {
            let given = match self.tasks_rx.recv_timeout(IDLE) {
                Ok(given) => given,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    // Whoever gives a task looks after it how many there are: it sees one less, or this sees the task.
                    self.alive.fetch_sub(1, Ordering::SeqCst);
                    let Ok(given) = self.tasks_rx.try_recv() else { return };
                    self.alive.fetch_add(1, Ordering::SeqCst);
                    given
                }
            };
            let (ticket, task) = given;
            let FileTask { label, server, spec, action, most, mark } = *task;
            let desk = &self.lifecycle.desk;
            let event = answered(ticket, &server, || {
                begin(mark.as_ref())?;
                desk.perform(&label, &server, &spec, &action, most)
            });
            if mark.is_some() {
                crash::here("worked");
            }
            if self.done_tx.send(event).is_err() {
                return;
            }
        }
    }
}
