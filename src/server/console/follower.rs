//! The thread `con-<id11>`: reads the output of one server's container into its console for as long as it runs.
//!
//! It blocks on the Engine's log stream, which ends with the container. A stream that breaks is opened again where it
//! broke; a line is then known by its time, stream and ordinal. It never decides whether a server runs: a stream's end
//! that the container survived is only a reason to open another.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::consoles::{Run, Shared, now_ns};
use super::cursor::{Cursor, Resume};
use super::patterns::Patterns;
use super::ring::Chunk;
use crate::docker::{Closer, ContainerId, Error, LogQuery, Output, State};
use crate::protocol::ServerId;
use crate::protocol::console::Stream;

/// Only what is touched takes memory.
const STACK: usize = 128 << 10;
/// Wait before a stream that broke is opened again: doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);
/// How old the file with the cursor may be while lines come.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How many of the last lines to ask for where a stream is taken up again: the Engine finds those from the end of its log,
/// while it searches for a time from the beginning on. What was read before must be among them, else more are asked for,
/// and at last all.
const TAILS: [Option<u32>; 3] = [Some(1000), Some(50_000), None];
/// A run begins before the Engine says that it did, since it says so afterwards.
const START_SLACK: u64 = 1_000_000_000;

/// What to read.
pub(super) struct Order {
    pub run: Run,
    /// Ends the stream.
    pub closer: Closer,
    /// What was read of it.
    pub cursor: Cursor,
}

/// From where on a stream is taken up, and what to look for in it.
struct From {
    tty: bool,
    /// What was read before.
    cursor: Cursor,
    /// The first time that is wanted; `None` is all there is.
    since_ns: Option<u64>,
    /// The run began after this time, and by the Engine's word at the second.
    begun: u64,
    started_ns: u64,
    done: Option<Arc<Patterns>>,
}

/// The follower is not wanted any more, or has another run to look at.
pub(super) struct Ended;

/// How a stream came to its end.
enum End {
    /// The container does not run, and all of it was read.
    Over,
    /// The container ended meanwhile. The Engine may end a stream before its last lines.
    Died,
    /// The container runs all the same.
    Broken,
}

/// Starts the thread.
///
/// # Errors
/// When the system gives none.
pub(super) fn start(
    shared: Arc<Shared>,
    server: ServerId,
    id: u64,
    container: &ContainerId,
    poke_rx: Receiver<()>,
    alive_tx: Sender<Infallible>,
) -> io::Result<()> {
    let name = format!("con-{}", container.short());
    thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
        let _alive = alive_tx;
        let saved_at = Instant::now();
        Follower { shared, server, id, poke_rx, chunk: Chunk::default(), saved_at, heard: false }.run();
    })?;
    Ok(())
}

struct Follower {
    shared: Arc<Shared>,
    server: ServerId,
    id: u64,
    poke_rx: Receiver<()>,
    chunk: Chunk,
    saved_at: Instant,
    /// Lines came since the last try.
    heard: bool,
}

impl Follower {
    fn run(mut self) {
        let saved = self.shared.saved.load(&self.server);
        let mut wait = RETRY_FIRST;
        while let Some(order) = self.shared.order(&self.server, self.id, saved.clone()) {
            let end = self.read(&order);
            self.save();
            match end {
                Ok(End::Over) if self.shared.leave(&self.server, self.id, &order.run) => return,
                // There is another run, or whoever closed the stream wants it looked at anew.
                Ok(End::Over | End::Died) | Err(Error::Cancelled) => continue,
                Ok(End::Broken) => log::debug!("{}: its output ended while it runs", self.server),
                Err(error) if is_final(&error) => {
                    log::warn!("{}: its output cannot be read: {error}", self.server);
                    if self.shared.leave(&self.server, self.id, &order.run) {
                        return;
                    }
                    continue;
                }
                Err(error) => log::debug!("{}: its output: {error}", self.server),
            }
            if std::mem::take(&mut self.heard) {
                wait = RETRY_FIRST;
            }
            match self.poke_rx.recv_timeout(wait) {
                Ok(()) => wait = RETRY_FIRST,
                Err(RecvTimeoutError::Timeout) => wait = (wait * 2).min(RETRY_CAP),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn read(&mut self, order: &Order) -> Result<End, Error> {
        let (state, tty) = self.inspect(order)?;
        // While it runs, the last end is that of the run before.
        let begun = match (state.running, state.started_ns) {
            (true, _) => state.finished_ns.unwrap_or(0),
            (false, started) => started.unwrap_or(0).saturating_sub(START_SLACK),
        };
        let started_ns = state.started_ns.unwrap_or(order.run.started_ns);
        let cursor = order.cursor.before(now_ns());
        let since_ns = cursor.since_ns().or((begun > 0).then_some(begun));
        let mut done = order.run.done.clone();
        if done.as_ref().is_some_and(|done| self.shared.shows(&self.server, begun, done)) {
            done = None;
            (self.shared.hooks.ready)(&self.server, started_ns);
        }
        let mut from = From { tty, cursor, since_ns, begun, started_ns, done };
        for tail in TAILS {
            if (since_ns.is_some() || tail.is_none()) && self.follow(order, &mut from, tail)? {
                break;
            }
        }
        if !state.running {
            return Ok(End::Over);
        }
        let (state, _) = self.inspect(order)?;
        Ok(if state.running { End::Broken } else { End::Died })
    }

    /// Reads the last lines, or all, and what follows, to the stream's end. False when the last lines did not reach back
    /// to what was read before: then none of them was taken.
    fn follow(&mut self, order: &Order, from: &mut From, tail: Option<u32>) -> Result<bool, Error> {
        // A time beside it would hide whether the lines before it are there.
        let query = LogQuery { follow: true, since_ns: from.since_ns.filter(|_| tail.is_none()), tail };
        let (client, container, tty) = (&self.shared.client, &order.run.container, from.tty);
        let mut log = aside(&self.shared, || client.logs(container, tty, &query, &order.closer))?;
        let mut resume = Resume::after(from.cursor);
        let since_ns = from.since_ns.unwrap_or(0);
        // Not known before the first line.
        let mut reaches_back = tail.is_none().then_some(true);
        loop {
            let (chunk, mut ready) = (&mut self.chunk, false);
            let read = log.read(|line| {
                let reaches_back = *reaches_back.get_or_insert(line.time_ns < since_ns);
                let stream = match line.output {
                    Output::Stdout => Stream::Stdout,
                    Output::Stderr => Stream::Stderr,
                };
                if reaches_back && line.time_ns >= since_ns && resume.is_new(stream, line.time_ns) {
                    chunk.add(stream, line.time_ns, &line.text, line.partial);
                    let fits = |done: &Arc<Patterns>| line.time_ns > from.begun && done.fit(&line.text);
                    ready = ready || from.done.as_ref().is_some_and(fits);
                }
            });
            if reaches_back == Some(false) {
                return Ok(false);
            }
            // What came before an error came all the same.
            if !self.chunk.is_empty() {
                self.heard = true;
                let added = self.shared.add(&self.server, self.id, &order.closer, &self.chunk);
                self.chunk.clear();
                added.map_err(|Ended| Error::Cancelled)?;
            }
            if ready {
                from.done = None;
                (self.shared.hooks.ready)(&self.server, from.started_ns);
            }
            if !read? {
                return Ok(true);
            }
            if self.saved_at.elapsed() >= SAVE_EVERY {
                self.save();
            }
        }
    }

    /// How the container is, and whether it has a terminal. All else that is known of it would stay in memory for as
    /// long as its output is read.
    fn inspect(&self, order: &Order) -> Result<(State, bool), Error> {
        aside(&self.shared, || {
            let found = self.shared.client.inspect(&order.run.container)?;
            Ok((found.state, found.config.tty))
        })
    }

    fn save(&mut self) {
        self.saved_at = Instant::now();
        let Some((container, cursor)) = self.shared.settled(&self.server) else { return };
        if let Err(error) = self.shared.saved.store(&self.server, &container, &cursor) {
            log::warn!("{}: where its output was read to cannot be stored: {error}", self.server);
        }
    }
}

/// Calls the Engine on a thread that lives as long as the call: it takes some 20 KiB of stack, which would stay in memory
/// for as long as a follower only reads, for 500 of them.
fn aside<T: Send>(shared: &Shared, call: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let _turn = shared.turn();
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("con-call".into()).stack_size(STACK);
        let called = builder.spawn_scoped(scope, call).map(|thread| thread.join());
        match called {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(Error::Unavailable(format!("no thread to call it with: {error}"))),
        }
    })
}

/// The container is gone, or its log driver lets nobody read.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Status { status: 404, .. } => true,
        Error::Status { status: 500..=501, message } => message.contains("does not support reading"),
        _ => false,
    }
}
