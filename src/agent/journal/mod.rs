//! The journal: what was asked, begun and answered, and what the Panel has not heard yet, kept over a crash of the Agent.
//!
//! The agent loop owns the [`Journal`] and appends to it in memory, without ever waiting; the thread `journal` writes what
//! has gathered since its last write with one fsync for all of it. Who does a command's work waits for its [`Mark`]; who
//! answers it waits for [`Event::Journaled`]. Reads are in no journal.
//!
//! | file | holds |
//! |---|---|
//! | here | the handle, the thread, what they share |
//! | `record` | the format |
//! | `live` | what the records amount to |
//! | `log` | the file |
//! | `crash` | the tests' way to end the Agent at a step |

pub mod crash;
pub mod live;
mod log;
pub mod record;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};

use self::live::Live;
use self::log::Log;
use self::record::{Record, Said};
use super::event::Event;
use crate::protocol::{Code, CommandKey, Fault, Outcome, kept};

/// Bytes that may wait to be written. Over it commands are answered `BUSY`, and while the disk takes nothing, what would
/// have been written is left out.
const MAX_WAITING: usize = 4 << 20;
/// How long a worker waits for a disk that hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// While the disk takes nothing it is tried again this often.
const RETRY: Duration = Duration::from_secs(2);

/// A place in the journal: how many records stand before it, and it.
pub type Place = u64;

/// The end of those who have something to keep. A clone is the same. See the module's description.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

/// The place of a [`Record::Started`]. Whoever has it may do the work once [`Mark::wait`] says so.
#[derive(Clone)]
pub struct Mark {
    place: Place,
    /// Without it on disk the work is not done.
    must: bool,
    shared: Arc<Shared>,
}

/// What it did and holds, for /metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub commits: u64,
    pub bytes: u64,
    /// Bytes that are not written yet.
    pub waiting: usize,
}

/// What is to happen once a record is written.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Urgency {
    Some,
    /// It is made durable.
    Durable,
    /// And the loop is told.
    Answer,
}

/// Behind a lock, since the loop and the thread meet here, for memory work only.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    moved: Condvar,
    wake_tx: Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Records that the thread has not taken yet.
    waiting: Vec<u8>,
    /// Whether somebody waits for them, and whether that is the loop.
    urgent: bool,
    answers: bool,
    appended: Place,
    /// Up to here everything was tried, and up to there everything is durable.
    tried: Place,
    durable: Place,
    /// Bytes that the thread could not write.
    unwritten: usize,
    trouble: Option<&'static str>,
    ending: bool,
    next_number: u64,
    figures: Figures,
}

/// The thread's end.
pub struct Scribe {
    shared: Arc<Shared>,
    wake_rx: Receiver<()>,
    events_tx: Sender<Event>,
    log: Log,
    unwritten: Vec<u8>,
}

impl Journal {
    /// Opens the journal in `dir` and gives what it holds. Whoever spawns the thread has it do [`Scribe::run`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(dir: &Path, events_tx: Sender<Event>) -> io::Result<(Journal, Scribe, Live)> {
        let (log, live) = Log::open(dir)?;
        let (wake_tx, wake_rx) = bounded(1);
        let state = State { next_number: live.next_number, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), moved: Condvar::new(), wake_tx });
        let scribe = Scribe { shared: shared.clone(), wake_rx, events_tx, log, unwritten: Vec::new() };
        Ok((Journal(shared), scribe, live))
    }

    /// Whether a command may be taken on that must not be run twice.
    ///
    /// # Errors
    /// `INSUFFICIENT_RESOURCES` while the disk takes nothing, `BUSY` while it is behind.
    pub fn admit(&self) -> Result<(), Fault> {
        let state = self.0.lock();
        match state.trouble {
            Some(_) => Err(unwritable()),
            None if state.waiting.len() > MAX_WAITING => Err(super::core::busy()),
            None => Ok(()),
        }
    }

    /// Why nothing can be written, in a few words; `None` while it can.
    pub fn trouble(&self) -> Option<&'static str> {
        self.0.lock().trouble
    }

    /// A command is taken on.
    pub fn received(&self, key: &CommandKey, action: &str, server: &str, link: bool) {
        let (key, action, server) = (key.clone(), action.to_owned(), server.to_owned());
        self.0.append(&Record::Received { key, action, server, link }, Urgency::Durable);
    }

    /// Its work is about to begin. Without `must` it is done on a full disk too.
    pub fn started(&self, key: &CommandKey, run: u64, must: bool) -> Mark {
        let place = self.0.append(&Record::Started { key: key.clone(), run }, Urgency::Durable);
        Mark { place, must, shared: self.0.clone() }
    }

    /// The same for work that the loop itself begins, once [`Journal::has_tried`] says so of the place.
    pub fn starting(&self, key: &CommandKey) -> Place {
        self.0.append(&Record::Started { key: key.clone(), run: 0 }, Urgency::Answer)
    }

    /// It is answered, once [`Journal::has_tried`] says so of the place. Gives the number of the answer too, for
    /// [`Journal::forget`].
    pub fn done(&self, key: &CommandKey, outcome: &Outcome, at: SystemTime, owed: bool) -> (Place, u64) {
        let (number, answer) = (self.number(), kept::keep(outcome, at));
        let record = Record::Done { key: key.clone(), number, at: millis(at), owed, answer };
        (self.0.append(&record, Urgency::Answer), number)
    }

    /// An event was said. Gives its number.
    pub fn said(&self, boot: &str, seq: u64, server: Option<&str>, text: &str) -> u64 {
        let (number, at) = (self.number(), millis(SystemTime::now()));
        let (boot, server, text) = (boot.to_owned(), server.map(str::to_owned), text.to_owned());
        self.0.append(&Record::Said(Said { number, at, boot, seq, server, text }), Urgency::Durable);
        number
    }

    /// These messages were delivered, or dropped and told as such.
    pub fn forget(&self, numbers: Vec<u64>) {
        if numbers.is_empty() {
            return;
        }
        // What is not written of it makes a message go out twice, on two connections.
        self.0.append(&Record::Gone { numbers }, Urgency::Some);
    }

    fn number(&self) -> u64 {
        let mut state = self.0.lock();
        state.next_number += 1;
        state.next_number - 1
    }

    /// Whether what stands at `place` is on disk, or cannot be brought there now: then it is as durable as it gets.
    pub fn has_tried(&self, place: Place) -> bool {
        self.0.lock().tried >= place
    }

    pub fn figures(&self) -> Figures {
        let state = self.0.lock();
        Figures { waiting: state.waiting.len() + state.unwritten, ..state.figures }
    }

    /// Asks the thread to write what there is and to end.
    pub fn finish(&self) {
        self.0.lock().ending = true;
        self.0.wake();
    }
}

impl Mark {
    /// Waits until it is on disk.
    ///
    /// # Errors
    /// `INSUFFICIENT_RESOURCES` when it cannot be brought there, or not in time.
    pub fn wait(&self) -> Result<(), Fault> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.shared.lock();
        while state.durable < self.place {
            let left = until.saturating_duration_since(Instant::now());
            let failed = state.trouble.is_some() && state.tried >= self.place;
            if failed || left.is_zero() {
                return if self.must { Err(unwritable()) } else { Ok(()) };
            }
            let waited = self.shared.moved.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mark({})", self.place)
    }
}

impl Shared {
    /// Nothing under this lock can panic halfway through a change, so a poisoned state is still a whole one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A full channel already holds the wake-up that is wanted.
    fn wake(&self) {
        let _ = self.wake_tx.try_send(());
    }

    fn append(&self, record: &Record, urgency: Urgency) -> Place {
        let mut state = self.lock();
        let most = if state.trouble.is_some() { MAX_WAITING } else { 2 * MAX_WAITING };
        if state.waiting.len() + state.unwritten > most {
            // Nobody may wait for what will never be written.
            return state.tried;
        }
        record.write(&mut state.waiting);
        state.urgent |= urgency >= Urgency::Durable;
        state.answers |= urgency == Urgency::Answer;
        state.appended += 1;
        let place = state.appended;
        drop(state);
        self.wake();
        place
    }
}

impl Scribe {
    /// Writes until [`Journal::finish`].
    pub fn run(mut self) {
        loop {
            let troubled = self.shared.lock().trouble.is_some();
            // The other end is held here too, so that it never is disconnected.
            if troubled {
                let _ = self.wake_rx.recv_timeout(RETRY);
            } else {
                let _ = self.wake_rx.recv();
            }
            if self.write() {
                return;
            }
        }
    }

    /// Writes what has gathered; true when that was the last.
    fn write(&mut self) -> bool {
        let mut state = self.shared.lock();
        let before = self.unwritten.len();
        // The buffer that was written is the next to be filled.
        if before == 0 {
            std::mem::swap(&mut self.unwritten, &mut state.waiting);
        } else {
            self.unwritten.append(&mut state.waiting);
        }
        let (urgent, answers) = (std::mem::take(&mut state.urgent), std::mem::take(&mut state.answers));
        let (upto, ending, troubled) = (state.appended, state.ending, state.trouble.is_some());
        state.unwritten = self.unwritten.len();
        drop(state);

        let sync = urgent || troubled || ending;
        let written = match self.unwritten.is_empty() && !troubled {
            true => Ok(()),
            false => self.log.append(&self.unwritten, sync),
        };
        let trouble = written.as_ref().err().map(in_words);
        let mut state = self.shared.lock();
        match &written {
            Ok(()) => {
                state.figures.commits += u64::from(sync && !self.unwritten.is_empty());
                state.durable = upto;
                state.unwritten = 0;
                self.unwritten.clear();
                self.unwritten.shrink_to(64 << 10);
            }
            Err(error) if !troubled => {
                ::log::error!("journal: {error}; tried again every {} s", RETRY.as_secs())
            }
            Err(_) => {}
        }
        if troubled && trouble.is_none() {
            ::log::warn!("journal: it can be written again");
        }
        state.tried = upto;
        state.figures.bytes = self.log.length();
        let changed = state.trouble != trouble;
        state.trouble = trouble;
        drop(state);
        if sync {
            crash::here("durable");
        }
        self.shared.moved.notify_all();
        if (answers || changed) && !ending {
            // A loop that has ended needs to be told nothing.
            let _ = self.events_tx.send(Event::Journaled);
        }
        ending
    }
}

fn in_words(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "disk full"
        }
        io::ErrorKind::ReadOnlyFilesystem => "disk read-only",
        _ => "disk failing",
    }
}

fn unwritable() -> Fault {
    Fault::new(
        Code::InsufficientResources,
        "The node's disk takes nothing, so that this could not be kept from being run twice. Make room there and try again.",
    )
}

/// Milliseconds since the Unix epoch.
pub fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
