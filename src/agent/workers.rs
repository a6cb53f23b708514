//! The threads that do jobs: `worker-N` for short ones and `slow-N` for pulls and whatever walks a disk, so that no pull
//! ever holds up a kill. Among the short ones signals and looks go first: they take milliseconds, and a kill must not
//! wait for a hundred starts. A panic ends its job with an error, not its thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select_biased};

use super::crew::Crew;
use super::event::Event;
use super::journal::{Mark, crash};
use crate::docker::ContainerId;
use crate::link::Pulse;
use crate::protocol::{Code, Fault, Outcome, ServerId};
use crate::server::console::Question;
use crate::server::lifecycle::Order;
use crate::server::{Job, JobResult, Lifecycle, Ticket};

/// The most servers on one node, thus the most jobs that can wait: each server has at most one.
pub const MAX_SERVERS: usize = 4096;
const SLOW_WORKERS: usize = 2;
/// The longest that a job may take without a sign of progress: more than the sum of its calls' own bounds, of which a
/// slow one has many.
const STUCK: Duration = Duration::from_secs(600);
const SLOW_STUCK: Duration = Duration::from_secs(6 * 3600);

/// A task was not taken.
#[derive(Clone, Copy, Debug)]
pub struct Refused;

/// What a worker is given.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a task is boxed as it is queued")]
pub enum Task {
    /// With what it has to wait for on disk.
    Job(Order, Claim, Option<Mark>),
    /// Lines of a server's output that are not in memory.
    History(Ticket, Question),
    /// SIGINT for a container.
    Interrupt(Ticket, ServerId, ContainerId, Option<Mark>),
}

/// Lines that are asked for at once: each holds a slow worker for a while.
pub const MAX_QUESTIONS: usize = 64;
/// Interrupts that may wait beside the jobs.
const MAX_INTERRUPTS: usize = 64;

/// The handle; dropping the senders ends the threads once the queues are empty.
#[derive(Debug)]
pub struct Workers {
    quick_tx: Sender<Box<Task>>,
    short_tx: Sender<Box<Task>>,
    slow_tx: Sender<Box<Task>>,
    pulses: Vec<(String, Duration, Pulse)>,
}

/// Who carries an order on: the worker that begins it or the loop that takes it back, whoever is first.
#[derive(Clone, Debug, Default)]
pub struct Claim(Arc<AtomicBool>);

impl Claim {
    /// True once, for the first who asks.
    pub fn take(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

impl Workers {
    /// Starts the threads; their results go to `done_tx`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        short: usize,
        lifecycle: Arc<Lifecycle>,
        done_tx: &Sender<Event>,
        crew: &mut Crew,
    ) -> std::io::Result<Workers> {
        // A bounded channel allocates all its slots at once and writes to each. Boxed tasks make a slot small,
        // which saves an idle Agent more than a megabyte.
        let (quick_tx, quick_rx) = bounded(MAX_SERVERS + MAX_INTERRUPTS);
        let (short_tx, short_rx) = bounded(MAX_SERVERS);
        let (slow_tx, slow_rx) = bounded(MAX_SERVERS + MAX_QUESTIONS);
        // Nothing goes first there, and nothing ever will.
        let (_, none_rx) = bounded(0);
        let pools = [
            ("worker", short, quick_rx, short_rx, STUCK),
            ("slow", SLOW_WORKERS, none_rx, slow_rx, SLOW_STUCK),
        ];
        let mut pulses = Vec::new();
        for (name, count, first_rx, then_rx, limit) in pools {
            for n in 1..=count {
                let (name, pulse) = (format!("{name}-{n}"), Pulse::default());
                pulses.push((name.clone(), limit, pulse.clone()));
                let queues = Queues { first_rx: first_rx.clone(), then_rx: then_rx.clone() };
                let (lifecycle, done_tx) = (lifecycle.clone(), done_tx.clone());
                crew.spawn(name, 256 << 10, move || work(&queues, &lifecycle, &done_tx, &pulse))?;
            }
        }
        Ok(Workers { quick_tx, short_tx, slow_tx, pulses })
    }

    /// Queues a job. Whoever takes its claim before a worker does has it back: no result will come of it.
    ///
    /// # Errors
    /// Gives it back when the queue is full. The limit on servers leaves room for a job of each, but orders that were
    /// taken back keep their places until a worker comes by.
    pub fn submit(&self, order: Order, mark: Option<Mark>) -> Result<Claim, Box<Order>> {
        let lane = match &order.job {
            Job::Pull | Job::Remove { data: true } => &self.slow_tx,
            Job::Create { .. } | Job::Start | Job::Remove { data: false } => &self.short_tx,
            _ => &self.quick_tx,
        };
        let claim = Claim::default();
        let sent = lane.try_send(Box::new(Task::Job(order, claim.clone(), mark)));
        match sent.map_err(|refused| *refused.into_inner()) {
            Err(Task::Job(order, ..)) => Err(Box::new(order)),
            _ => Ok(claim),
        }
    }

    /// The name of a worker whose job shows no progress any more.
    pub fn stuck(&self) -> Option<String> {
        let stuck = self.pulses.iter().find(|(_, limit, pulse)| pulse.busy() > *limit);
        stuck.map(|(name, ..)| name.clone())
    }

    /// Queues what belongs to no job.
    ///
    /// # Errors
    /// When the queue is full or the threads have ended.
    pub fn ask(&self, task: Task) -> Result<(), Refused> {
        let lane = if matches!(task, Task::History(..)) { &self.slow_tx } else { &self.quick_tx };
        lane.try_send(Box::new(task)).map_err(|_| Refused)
    }
}

/// What a worker takes tasks from.
struct Queues {
    first_rx: Receiver<Box<Task>>,
    then_rx: Receiver<Box<Task>>,
}

impl Queues {
    /// The next task; `None` once there are no more and never will be.
    fn next(&self) -> Option<Box<Task>> {
        select_biased! {
            recv(self.first_rx) -> task => task.or_else(|_| self.then_rx.recv()).ok(),
            recv(self.then_rx) -> task => task.or_else(|_| self.first_rx.recv()).ok(),
        }
    }
}

fn work(queues: &Queues, lifecycle: &Lifecycle, done_tx: &Sender<Event>, pulse: &Pulse) {
    while let Some(task) = queues.next() {
        pulse.beat();
        let event = match *task {
            Task::Job(_, claim, _) if !claim.take() => None,
            Task::Job(order, _, mark) => job(&order, mark.as_ref(), lifecycle, done_tx, pulse),
            Task::History(ticket, question) => {
                Some(answered(ticket, &question.server, || lifecycle.consoles.answer(&question)))
            }
            Task::Interrupt(ticket, server, container, mark) => Some(answered(ticket, &server, || {
                begin(mark.as_ref())?;
                lifecycle.interrupt(&server, &container)
            })),
        };
        if event.is_some_and(|event| done_tx.send(event).is_err()) {
            return;
        }
        pulse.rest();
    }
}

/// Does a job; `None` when its result comes from another thread.
fn job(
    order: &Order,
    mark: Option<&Mark>,
    lifecycle: &Lifecycle,
    done_tx: &Sender<Event>,
    pulse: &Pulse,
) -> Option<Event> {
    let server = &order.server;
    if let Err(fault) = begin(mark) {
        let result = JobResult::Failed { fault, facts: order.container.clone() };
        return Some(Event::JobDone { server: server.clone(), result });
    }
    let tell = |progress| {
        pulse.beat();
        // Latest wins: a progress that finds the loop busy is not worth waiting for.
        let _ = done_tx.try_send(Event::Progress { server: server.clone(), progress });
    };
    let result = catch_unwind(AssertUnwindSafe(|| lifecycle.perform(order, &tell)));
    let result = result.unwrap_or_else(|_| {
        log::error!("{}: {server}: a job panicked; this is a bug", order.label);
        Some(JobResult::Failed { fault: unfinished(), facts: None })
    });
    if mark.is_some() {
        crash::here("worked");
    }
    result.map(|result| Event::JobDone { server: server.clone(), result })
}

/// Waits until it is on disk that a command's work begins.
pub(super) fn begin(mark: Option<&Mark>) -> Result<(), Fault> {
    let Some(mark) = mark else { return Ok(()) };
    mark.wait()?;
    crash::here("begun");
    Ok(())
}

/// Does what a command asks; how it went, also when it panics.
pub(super) fn answered(ticket: Ticket, server: &ServerId, work: impl FnOnce() -> Outcome) -> Event {
    let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        log::error!("{server}: a task panicked; this is a bug");
        Err(unfinished())
    });
    Event::Answered { ticket, outcome: Box::new(outcome) }
}

fn unfinished() -> Fault {
    Fault::new(Code::Internal, "The Agent could not finish this. Its log says why.")
}
