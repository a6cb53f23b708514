//! Standard input of servers: one thread `in-<id11>` and one attach for a server that is written to, opened with the
//! first input and closed after a quiet time or with the container.
//!
//! A container that does not read its input holds up nobody but those who write to it: what cannot be written in time
//! is answered `TIMEOUT`, what waits behind it `BUSY`. INVARIANT: an input reaches the container whole or not at all,
//! and in order: the rest of one that was written in part goes before anything else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use crate::docker::{Client, Closer, ContainerId, Error, Stdin};
use crate::protocol::{Code, Fault, ServerId};
use crate::server::faults;
use crate::server::{JobResult, Ticket};

/// How long a write may take.
const LIMIT: Duration = Duration::from_secs(5);
/// An attach that nobody has used for this long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Inputs of one server that may wait, of at most 4 KiB and a line end each.
const QUEUE: usize = 16;
/// Only what is touched takes memory.
const STACK: usize = 128 << 10;

/// Who is told of the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// A command of the Panel's.
    Command(Ticket),
    /// The server's job in flight: a stop by a line of input.
    Job,
}

/// Which run of which container is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub server: ServerId,
    pub container: ContainerId,
    pub started_ns: u64,
}

/// Why an input did not get through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Others wait already.
    Busy,
    /// The container did not take it in time.
    Timeout,
    NotRunning,
    Engine(Error),
    /// It was given up, with the container's end or with the Agent's.
    Cancelled,
}

type Done = Box<dyn Fn(&ServerId, Receipt, Result<(), Refused>) + Send + Sync>;

/// See the module's description. A clone is the same.
#[derive(Clone)]
pub struct Inputs(Arc<Shared>);

struct Shared {
    client: Client,
    done: Done,
    state: Mutex<State>,
    /// Disconnected once all threads have ended.
    ended_rx: Receiver<Infallible>,
}

/// Behind a lock because inputs come from the loop and from workers, and a thread that has nothing to do must not miss
/// one while it leaves.
struct State {
    doors: BTreeMap<ServerId, Door>,
    /// Of the newest door.
    id: u64,
    /// Cloned into each thread; `None` once the end has begun.
    alive_tx: Option<Sender<Infallible>>,
}

/// The way to one server's thread.
struct Door {
    id: u64,
    target: Target,
    items_tx: Sender<Item>,
    closer: Closer,
}

struct Item {
    bytes: Vec<u8>,
    receipt: Receipt,
}

impl Inputs {
    /// `done` is called once for each input that was taken, on the thread that wrote it.
    pub fn new(
        client: Client,
        done: impl Fn(&ServerId, Receipt, Result<(), Refused>) + Send + Sync + 'static,
    ) -> Inputs {
        let (alive_tx, ended_rx) = bounded(0);
        let state = State { doors: BTreeMap::new(), id: 0, alive_tx: Some(alive_tx) };
        Inputs(Arc::new(Shared { client, done: Box::new(done), state: Mutex::new(state), ended_rx }))
    }

    /// Has `bytes` written; never blocks.
    ///
    /// # Errors
    /// It was not taken, and `done` will not be called.
    pub fn send(&self, target: &Target, bytes: Vec<u8>, receipt: Receipt) -> Result<(), Refused> {
        let mut state = self.0.lock();
        let Some(alive_tx) = state.alive_tx.clone() else { return Err(Refused::Cancelled) };
        let mut item = Item { bytes, receipt };
        if let Some(door) = state.doors.get(&target.server) {
            if door.target == *target {
                match door.items_tx.try_send(item) {
                    Ok(()) => return Ok(()),
                    Err(TrySendError::Full(_)) => return Err(Refused::Busy),
                    Err(TrySendError::Disconnected(back)) => item = back,
                }
            } else {
                // An attach outlives its container's run, and swallows what is written after it.
                door.closer.close();
            }
        }
        state.id += 1;
        let (items_tx, items_rx) = bounded(QUEUE);
        // It is empty and there is a receiver.
        let _ = items_tx.try_send(item);
        let (id, closer) = (state.id, Closer::new());
        let writer = Writer {
            shared: self.0.clone(),
            target: target.clone(),
            id,
            items_rx,
            closer: closer.clone(),
            stdin: None,
            rest: Vec::new(),
        };
        writer.start(alive_tx).map_err(|error| {
            log::error!("{}: no thread for its input: {error}", target.server);
            Refused::Busy
        })?;
        let door = Door { id, target: target.clone(), items_tx, closer };
        state.doors.insert(target.server.clone(), door);
        Ok(())
    }

    /// The server's container does not run any more: whatever is written to it is given up.
    pub fn end(&self, server: &ServerId) {
        let door = self.0.lock().doors.remove(server);
        if let Some(door) = door {
            door.closer.close();
        }
    }

    /// Ends all threads and waits for them. False when some did not end in time.
    pub fn finish(&self, deadline: Instant) -> bool {
        let doors = {
            let mut state = self.0.lock();
            state.alive_tx = None;
            std::mem::take(&mut state.doors)
        };
        doors.values().for_each(|door| door.closer.close());
        drop(doors);
        self.0.ended_rx.recv_deadline(deadline) != Err(RecvTimeoutError::Timeout)
    }
}

impl Shared {
    /// Nothing under this lock can panic halfway through a change, so a poisoned state is still a whole one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's side.
struct Writer {
    shared: Arc<Shared>,
    target: Target,
    id: u64,
    items_rx: Receiver<Item>,
    closer: Closer,
    stdin: Option<Stdin>,
    /// Of an input that was written in part.
    rest: Vec<u8>,
}

impl Writer {
    fn start(mut self, alive_tx: Sender<Infallible>) -> io::Result<()> {
        let name = format!("in-{}", self.target.container.short());
        thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
            let _alive = alive_tx;
            self.run();
        })?;
        Ok(())
    }

    fn run(&mut self) {
        while let Some(item) = self.next() {
            let result = self.write(&item.bytes);
            let stuck = matches!(result, Err(Refused::Timeout | Refused::Busy));
            self.tell(item.receipt, result);
            if stuck {
                // Each of them would take as long to fail.
                while let Ok(item) = self.items_rx.try_recv() {
                    self.tell(item.receipt, Err(Refused::Busy));
                }
            }
        }
    }

    fn tell(&self, receipt: Receipt, result: Result<(), Refused>) {
        if let Err(refused) = &result {
            log::info!("{}: input: {refused:?}", self.target.server);
        }
        (self.shared.done)(&self.target.server, receipt, result);
    }

    /// The next input; `None` after a quiet time, or when the door is gone.
    fn next(&self) -> Option<Item> {
        match self.items_rx.recv_timeout(IDLE) {
            Ok(item) => return Some(item),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let mut state = self.shared.lock();
        // One may have come just now; after this nobody can send here any more.
        let late = self.items_rx.try_recv().ok();
        if late.is_none() && state.doors.get(&self.target.server).is_some_and(|door| door.id == self.id) {
            state.doors.remove(&self.target.server);
        }
        late
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if self.stdin.as_ref().is_some_and(|stdin| !stdin.is_open()) {
            self.stdin = None;
        }
        let stdin = match &mut self.stdin {
            Some(stdin) => stdin,
            None => {
                self.rest.clear();
                let attached = self.shared.client.attach_stdin(&self.target.container, &self.closer);
                self.stdin.insert(attached.map_err(refused)?)
            }
        };
        let deadline = Instant::now() + LIMIT;
        let written = write_part(stdin, &mut self.rest, deadline).and_then(|()| {
            if !self.rest.is_empty() {
                return Ok(None);
            }
            stdin.write_part(bytes, deadline.saturating_duration_since(Instant::now())).map(Some)
        });
        match written {
            Ok(None) => Err(Refused::Busy),
            Ok(Some(count)) if count == bytes.len() => Ok(()),
            Ok(Some(count)) => {
                if count > 0 {
                    self.rest.extend_from_slice(&bytes[count..]);
                }
                Err(Refused::Timeout)
            }
            Err(error) => {
                self.stdin = None;
                Err(refused(error))
            }
        }
    }
}

/// Writes what is left of an earlier input.
fn write_part(stdin: &mut Stdin, rest: &mut Vec<u8>, deadline: Instant) -> Result<(), Error> {
    if !rest.is_empty() {
        let count = stdin.write_part(rest, deadline.saturating_duration_since(Instant::now()))?;
        rest.drain(..count);
    }
    Ok(())
}

fn refused(error: Error) -> Refused {
    match error {
        Error::Cancelled => Refused::Cancelled,
        Error::Status { status: 404 | 409, .. } => Refused::NotRunning,
        error => Refused::Engine(error),
    }
}

impl Refused {
    /// As the Panel is told.
    pub fn fault(&self) -> Fault {
        match self {
            Refused::Busy => Fault::new(
                Code::Busy,
                "The server does not read its console: earlier input still waits. Try again later.",
            ),
            Refused::Timeout => Fault::new(Code::Timeout, "The server did not read its console in time."),
            Refused::NotRunning => not_running(),
            Refused::Engine(error) => faults::of_engine(error),
            Refused::Cancelled => {
                Fault::new(Code::ServerNotRunning, "The server ended before it could read this.")
            }
        }
    }
}

/// How a stop by a line of input went.
impl From<Refused> for JobResult {
    fn from(refused: Refused) -> JobResult {
        match refused {
            Refused::NotRunning => JobResult::NotRunning,
            refused => JobResult::Failed { fault: refused.fault(), facts: None },
        }
    }
}

/// For input to a server that does not run.
pub fn not_running() -> Fault {
    Fault::new(Code::ServerNotRunning, "The server is not running. Start it first.")
}
