//! Archives and mods: which of them run. Each has a thread of its own while it runs, `job-N`, so that neither a pull nor
//! a command ever waits for one, and a node where nobody packs anything has no thread for it. Owned by the agent loop.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::event::Event;
use super::journal::Mark;
use super::workers::begin;
use crate::protocol::{Code, Fault, ServerId};
use crate::server::abort::Abort;
use crate::server::{LongJob, Ticket, Workshop};

/// Jobs that run at once, and that may wait behind them.
const MAX_RUNNING: usize = 4;
const MAX_WAITING: usize = 64;
/// A TLS handshake takes most of it.
const STACK: usize = 512 << 10;

/// There are too many already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// See the module's description.
pub struct LongJobs {
    workshop: Arc<Workshop>,
    events_tx: Sender<Event>,
    running: Vec<Running>,
    waiting: VecDeque<(Ticket, LongJob, Option<Mark>)>,
}

struct Running {
    ticket: Ticket,
    server: ServerId,
    exclusive: bool,
    abort: Abort,
    /// Disconnected once the thread has ended.
    ended_rx: Receiver<Infallible>,
}

impl LongJobs {
    /// Outcomes and progress go to `events_tx`.
    pub fn new(workshop: Arc<Workshop>, events_tx: Sender<Event>) -> LongJobs {
        LongJobs { workshop, events_tx, running: Vec::new(), waiting: VecDeque::new() }
    }

    /// Whether an exclusive job of the server runs or waits.
    pub fn is_taken(&self, server: &ServerId) -> bool {
        self.running.iter().any(|job| job.exclusive && job.server == *server)
            || self.waiting.iter().any(|(_, job, _)| job.wants.is_exclusive() && job.server == *server)
    }

    /// Whether any job of the server runs.
    pub fn is_running(&self, server: &ServerId) -> bool {
        self.running.iter().any(|job| job.server == *server)
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Runs a job once `mark` is on disk, or has it wait its turn. Its outcome comes as [`Event::Answered`].
    ///
    /// # Errors
    /// When too many wait already.
    pub fn push(&mut self, ticket: Ticket, job: LongJob, mark: Option<Mark>) -> Result<(), Full> {
        if self.running.len() < MAX_RUNNING {
            self.run(ticket, job, mark);
            return Ok(());
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err(Full);
        }
        self.waiting.push_back((ticket, job, mark));
        Ok(())
    }

    fn run(&mut self, ticket: Ticket, job: LongJob, mark: Option<Mark>) {
        let (ended_tx, ended_rx) = bounded(0);
        let running = Running {
            ticket,
            server: job.server.clone(),
            exclusive: job.wants.is_exclusive(),
            abort: job.abort.clone(),
            ended_rx,
        };
        let (workshop, events_tx) = (self.workshop.clone(), self.events_tx.clone());
        let label = format!("{}: {}", job.label, job.server);
        let work = move || {
            let _ended_tx: Sender<Infallible> = ended_tx;
            // Latest wins: a step that finds the loop busy is not worth waiting for.
            let tell = |step| drop(events_tx.try_send(Event::Step { ticket, step }));
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                begin(mark.as_ref())?;
                workshop.perform(&job, &tell)
            }));
            let outcome = outcome.unwrap_or_else(|_| {
                log::error!("{}: {}: a job panicked; this is a bug", job.label, job.server);
                Err(Fault::new(Code::Internal, "The Agent could not finish this. Its log says why."))
            });
            // A loop that has gone answers nobody any more.
            let _ = events_tx.send(Event::Answered { ticket, outcome: Box::new(outcome) });
        };
        let name = format!("job-{}", self.running.len() + 1);
        self.running.push(running);
        if let Err(error) = thread::Builder::new().name(name).stack_size(STACK).spawn(work) {
            log::error!("{label}: no thread for a job: {error}");
            let text = "The node has no room for one more thread. Try again later.";
            let outcome = Box::new(Err(Fault::new(Code::InsufficientResources, text)));
            // To itself: there is room, or the command is answered when the Agent ends.
            let _ = self.events_tx.try_send(Event::Answered { ticket, outcome });
        }
    }

    /// A command was answered; when it was one of these, the next job begins. Gives whose it was.
    pub fn ended(&mut self, ticket: Ticket) -> Option<ServerId> {
        let at = self.running.iter().position(|job| job.ticket == ticket)?;
        let ended = self.running.swap_remove(at);
        if let Some((ticket, job, mark)) = self.waiting.pop_front() {
            self.run(ticket, job, mark);
        }
        Some(ended.server)
    }

    /// Ends the jobs of a server: those that run as soon as they notice, the others at once. Gives their tickets.
    pub fn abort(&mut self, server: &ServerId) -> Vec<Ticket> {
        let (gone, left): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, job, _)| job.server == *server);
        self.waiting = left;
        let running = self.running.iter().filter(|job| job.server == *server);
        let asked = running.map(|job| {
            job.abort.ask();
            job.ticket
        });
        asked.chain(gone.into_iter().map(|(ticket, ..)| ticket)).collect()
    }

    /// The Agent ends: no job begins any more, and those that run end as soon as they notice.
    pub fn abort_all(&mut self) {
        self.waiting.clear();
        self.running.iter().for_each(|job| job.abort.ask());
    }

    /// Waits until all have ended or the deadline has passed; gives how many have not.
    pub fn finish(self, deadline: Instant) -> usize {
        let late = |job: &&Running| job.ended_rx.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout);
        self.running.iter().filter(late).count()
    }
}
