//! The threads that do jobs: `worker-N` for short ones and `slow-N` for pulls and whatever walks a disk, so that
//! no pull ever holds up a kill. A panic ends its job with an error, not its thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::crew::Crew;
use super::event::Event;
use crate::protocol::{Code, Fault};
use crate::server::lifecycle::Order;
use crate::server::{Job, JobResult, Lifecycle};

/// The most servers on one node, thus the most jobs that can wait: each server has at most one.
pub const MAX_SERVERS: usize = 4096;
const SLOW_WORKERS: usize = 2;

/// The handle; dropping the senders ends the threads once the queues are empty.
#[derive(Debug)]
pub struct Workers {
    short_tx: Sender<Queued>,
    slow_tx: Sender<Queued>,
}

/// Boxed: a bounded channel allocates all its slots at once and writes to each, and small ones save an idle Agent more
/// than a megabyte.
type Queued = Box<(Order, Claim)>;

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
        let (short_tx, short_rx) = bounded(MAX_SERVERS);
        let (slow_tx, slow_rx) = bounded(MAX_SERVERS);
        let pools = [("worker", short, short_rx), ("slow", SLOW_WORKERS, slow_rx)];
        for (name, count, orders_rx) in pools {
            for n in 1..=count {
                let (orders_rx, lifecycle, done_tx) = (orders_rx.clone(), lifecycle.clone(), done_tx.clone());
                crew.spawn(format!("{name}-{n}"), 256 << 10, move || work(&orders_rx, &lifecycle, &done_tx))?;
            }
        }
        Ok(Workers { short_tx, slow_tx })
    }

    /// Queues a job. Whoever takes its claim before a worker does has it back: no result will come of it.
    ///
    /// # Errors
    /// Gives it back when the queue is full. The limit on servers leaves room for a job of each, but orders that were
    /// taken back keep their places until a worker comes by.
    pub fn submit(&self, order: Order) -> Result<Claim, Box<Order>> {
        let lane = if is_slow(&order.job) { &self.slow_tx } else { &self.short_tx };
        let claim = Claim::default();
        match lane.try_send(Box::new((order, claim.clone()))) {
            Ok(()) => Ok(claim),
            Err(TrySendError::Full(queued) | TrySendError::Disconnected(queued)) => Err(Box::new(queued.0)),
        }
    }
}

fn is_slow(job: &Job) -> bool {
    matches!(job, Job::Pull | Job::Remove { data: true })
}

fn work(orders_rx: &Receiver<Queued>, lifecycle: &Lifecycle, done_tx: &Sender<Event>) {
    for queued in orders_rx {
        let (order, claim) = *queued;
        if !claim.take() {
            continue;
        }
        let server = order.server.clone();
        let tell = |progress| {
            // Latest wins: a progress that finds the loop busy is not worth waiting for.
            let _ = done_tx.try_send(Event::Progress { server: server.clone(), progress });
        };
        let result = catch_unwind(AssertUnwindSafe(|| lifecycle.perform(&order, &tell)));
        let result = result.unwrap_or_else(|_| {
            log::error!("{}: {}: a job panicked; this is a bug", order.label, order.server);
            let text = "The Agent could not finish this. Its log says why.";
            JobResult::Failed { fault: Fault::new(Code::Internal, text), facts: None }
        });
        if done_tx.send(Event::JobDone { server: order.server, result }).is_err() {
            return;
        }
    }
}
