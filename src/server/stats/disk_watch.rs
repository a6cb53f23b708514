//! The `disk` thread: walks servers' directories one after another in small pieces, remembers what they take, and
//! tells when one has been over its limit for its whole grace. It sleeps without a timer while nothing is to be walked.
//!
//! The kernel is asked to run this thread alone only when nothing else wants to (SCHED_IDLE), from which the I/O
//! schedulers take the idle class too (`task_nice_ioclass` in linux/ioprio.h), so that no game and no command waits for
//! a walk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, never};
use thread_priority::ThreadPriority;
use thread_priority::unix::{
    NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

use super::disk::Walk;
use crate::protocol::ServerId;

/// Names that are looked at in one piece: about a millisecond while the kernel has them in memory.
const PIECE: usize = 512;
/// After a piece it waits for this many times as long as the piece took: a fifth of a core at most.
const REST: u32 = 4;
/// A running server is walked again after this long, or after so many times as long as the last walk took.
const AGAIN: Duration = Duration::from_secs(60);
const AGAIN_TIMES: u32 = 20;
/// Regular walks begin at multiples of this, so that many servers cost few wake-ups.
const TOGETHER: Duration = Duration::from_secs(5);

/// What is to be watched of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// When the run began; `None` for a server that does not run.
    pub run: Option<u64>,
    /// Bytes it may take; `None` is unlimited.
    pub limit: Option<u64>,
    /// How long it may take more.
    pub grace: Duration,
}

/// What a server's directory takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes; 0 until it was walked once.
    pub used: u64,
    pub over_limit: bool,
}

/// The shared side: the agent loop says what to watch, the thread says what it found. A clone is the same.
#[derive(Clone, Debug)]
pub struct Disks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Mutex<BTreeMap<ServerId, Place>>,
    wake_tx: Sender<()>,
}

#[derive(Debug)]
struct Place {
    watch: Watch,
    used: Option<u64>,
    /// Bytes that the Agent itself wrote and removed since the walk that found `used` began.
    change: i64,
    /// When it is walked next; `None` once a stopped server was walked.
    due: Option<Instant>,
    /// Since when it was found over its limit in this run.
    over_since: Option<Instant>,
}

/// The thread's side; [`Walker::run`] is the thread.
pub struct Walker {
    disks: Disks,
    wake_rx: Receiver<()>,
    directories: PathBuf,
    began: Instant,
}

impl Disks {
    /// Both sides. `directories` holds one for each server, named by its id.
    pub fn new(directories: PathBuf) -> (Disks, Walker) {
        let (wake_tx, wake_rx) = bounded(1);
        let disks = Disks(Arc::new(Shared { places: Mutex::default(), wake_tx }));
        (disks.clone(), Walker { disks, wake_rx, directories, began: Instant::now() })
    }

    /// Says what to watch. A start, an end and a change of what is allowed have the directory walked at once.
    pub fn set(&self, server: &ServerId, watch: Watch) {
        let due = Some(Instant::now());
        let mut places = self.places();
        match places.get_mut(server) {
            Some(place) if place.watch == watch => return,
            Some(place) => {
                if place.watch.run != watch.run {
                    place.over_since = None;
                }
                (place.watch, place.due) = (watch, due);
            }
            None => {
                places.insert(server.clone(), Place { watch, used: None, change: 0, due, over_since: None });
            }
        }
        drop(places);
        self.wake();
    }

    /// The server is no more.
    pub fn forget(&self, server: &ServerId) {
        self.places().remove(server);
    }

    /// What was found last.
    pub fn disk_use(&self, server: &ServerId) -> DiskUse {
        self.places().get(server).map(Place::disk_use).unwrap_or_default()
    }

    /// What was found last and what was written since; `None` before the first walk.
    pub fn known(&self, server: &ServerId) -> Option<u64> {
        self.places().get(server).and_then(|place| place.used.map(|_| place.disk_use().used))
    }

    /// A walk that somebody else made for a server which is not known yet.
    pub fn measured(&self, server: &ServerId, used: u64) {
        self.with_place(server, |place| {
            place.used.get_or_insert(used);
        });
    }

    /// Counts bytes that are about to be written, unless that would pass `limit`. Says whether it did.
    pub fn take(&self, server: &ServerId, bytes: u64, limit: Option<u64>) -> bool {
        self.with_place(server, |place| {
            let fits = match (place.disk_use().used.checked_add(bytes), limit) {
                (None, _) => false,
                (Some(sum), Some(limit)) => sum <= limit,
                (Some(_), None) => true,
            };
            if fits {
                place.change = place.change.saturating_add_unsigned(bytes);
            }
            fits
        })
    }

    /// Counts bytes that were removed.
    pub fn give_back(&self, server: &ServerId, bytes: u64) {
        self.with_place(server, |place| place.change = place.change.saturating_sub_unsigned(bytes));
    }

    /// What changes is walked again, though not at once: a stopped server has no other reason to be.
    fn with_place<T>(&self, server: &ServerId, work: impl FnOnce(&mut Place) -> T) -> T {
        let mut places = self.places();
        let place = places.entry(server.clone()).or_insert_with(|| {
            let watch = Watch { run: None, limit: None, grace: Duration::ZERO };
            Place { watch, used: None, change: 0, due: None, over_since: None }
        });
        let result = work(place);
        let asleep = place.due.is_none();
        place.due.get_or_insert_with(|| Instant::now() + AGAIN);
        drop(places);
        if asleep {
            self.wake();
        }
        result
    }

    fn wake(&self) {
        match self.0.wake_tx.try_send(()) {
            // Full: it is woken already. Disconnected: there is no thread any more.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }

    /// The same of every server that was walked, by id.
    pub fn all(&self) -> Vec<(ServerId, DiskUse)> {
        let places = self.places();
        let walked = places.iter().filter(|(_, place)| place.used.is_some());
        walked.map(|(server, place)| (server.clone(), place.disk_use())).collect()
    }

    /// Nothing that can panic runs under the lock, and the map is whole at any time.
    fn places(&self) -> MutexGuard<'_, BTreeMap<ServerId, Place>> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn disk_use(&self) -> DiskUse {
        let used = self.used.unwrap_or(0).saturating_add_signed(self.change);
        DiskUse { used, over_limit: self.watch.limit.is_some_and(|limit| used > limit) }
    }

    /// Takes what a walk found that began when `change` was `before`, and says when the next is due. `Some` with the run
    /// when its grace is over.
    fn found(&mut self, used: Option<u64>, before: i64, now: Instant, regular: Instant) -> Option<u64> {
        if let Some(used) = used {
            // What was written meanwhile may have been seen or not: until the next walk it counts in full.
            (self.used, self.change) = (Some(used), self.change.saturating_sub(before));
        }
        let run = self.watch.run;
        self.due = (run.is_some() || self.change != 0).then_some(regular);
        if !self.disk_use().over_limit || run.is_none() {
            self.over_since = None;
            return None;
        }
        let end = *self.over_since.get_or_insert(now) + self.watch.grace;
        if now >= end {
            return run;
        }
        // Looked at again right when it matters: what was removed meanwhile must not stop a server.
        self.due = Some(regular.min(end));
        None
    }
}

/// The thread was asked to end.
struct Stopped;

impl Walker {
    /// Walks until `stop_rx` is disconnected. `over` is told a server and its run whenever a walk finds it over the
    /// limit after its grace, thus again until the run has ended.
    pub fn run(self, stop_rx: &Receiver<()>, over: impl Fn(ServerId, u64)) {
        // Refused only where a sandbox forbids it: then it walks at the usual priority.
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
        let mut warn = true;
        while let Ok(due) = self.wait(stop_rx) {
            for (server, watch, before) in due {
                let Ok((found, took)) = self.walk(&server, stop_rx) else { return };
                if found.is_some_and(|found| found.incomplete) && std::mem::take(&mut warn) {
                    log::warn!(
                        "{server}: its directory is too deep; what lies deeper than 64 is not counted"
                    );
                }
                let now = Instant::now();
                let regular = self.round_up(now + AGAIN.max(took * AGAIN_TIMES));
                let mut places = self.disks.places();
                // What changed during the walk is due already.
                let place = places.get_mut(&server).filter(|place| place.watch == watch);
                let ended = place.and_then(|place| place.found(found.map(|f| f.bytes), before, now, regular));
                drop(places);
                if let Some(run) = ended {
                    over(server, run);
                }
            }
        }
    }

    /// Waits until something is due and gives all that is.
    fn wait(&self, stop_rx: &Receiver<()>) -> Result<Vec<(ServerId, Watch, i64)>, Stopped> {
        loop {
            let (now, places) = (Instant::now(), self.disks.places());
            let is_due = |place: &Place| place.due.is_some_and(|due| due <= now);
            let due: Vec<_> = places
                .iter()
                .filter(|(_, place)| is_due(place))
                .map(|(server, place)| (server.clone(), place.watch, place.change))
                .collect();
            if !due.is_empty() {
                return Ok(due);
            }
            let next = places.values().filter_map(|place| place.due).min();
            drop(places);
            let timer = next.map_or_else(never, crossbeam_channel::at);
            crossbeam_channel::select! {
                recv(self.wake_rx) -> _ => {}
                recv(timer) -> _ => {}
                recv(stop_rx) -> _ => return Err(Stopped),
            }
        }
    }

    /// Walks one directory; `None` when it is not there. Gives how long it took without its rests.
    fn walk(
        &self,
        server: &ServerId,
        stop_rx: &Receiver<()>,
    ) -> Result<(Option<super::disk::Found>, Duration), Stopped> {
        let begun = Instant::now();
        let Ok(mut walk) = Walk::begin(&self.directories.join(server.as_str())) else {
            return Ok((None, begun.elapsed()));
        };
        let mut took = Duration::ZERO;
        loop {
            let begun = Instant::now();
            let found = walk.advance(PIECE);
            let piece = begun.elapsed();
            took += piece;
            let rest = if found.is_some() { Duration::ZERO } else { piece * REST };
            match stop_rx.recv_timeout(rest) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return Err(Stopped),
            }
            if found.is_some() {
                return Ok((found, took));
            }
        }
    }

    fn round_up(&self, at: Instant) -> Instant {
        let since = at.saturating_duration_since(self.began).as_millis() as u64;
        self.began + Duration::from_millis(since.next_multiple_of(TOGETHER.as_millis() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(run: Option<u64>, limit: u64, grace: u64) -> Place {
        let watch = Watch { run, limit: Some(limit), grace: Duration::from_secs(grace) };
        Place { watch, used: None, change: 0, due: None, over_since: None }
    }

    #[test]
    fn a_grace_runs_from_the_first_find_and_ends_with_the_excess() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut place = place(Some(7), 100, 30);
        assert_eq!(place.found(Some(100), 0, at(0), at(60)), None);
        assert_eq!((place.disk_use().over_limit, place.due), (false, Some(at(60))));
        assert_eq!(place.found(Some(101), 0, at(60), at(120)), None);
        assert_eq!((place.disk_use().over_limit, place.due), (true, Some(at(90))));
        assert_eq!(place.found(Some(100), 0, at(90), at(150)), None);
        assert_eq!((place.over_since, place.due), (None, Some(at(150))));
        assert_eq!(place.found(Some(500), 0, at(150), at(210)), None);
        // A directory that could not be opened is no proof of the contrary.
        assert_eq!(place.found(None, 0, at(180), at(240)), Some(7));
        assert_eq!(place.due, Some(at(240)));
    }

    #[test]
    fn a_stopped_server_is_walked_once_and_never_stopped() {
        let now = Instant::now();
        let mut place = place(None, 1, 0);
        assert_eq!(place.found(Some(5), 0, now, now), None);
        assert_eq!((place.due, place.disk_use()), (None, DiskUse { used: 5, over_limit: true }));
    }

    #[test]
    fn what_the_agent_writes_counts_until_a_walk_has_seen_it() {
        let (disks, _walker) = Disks::new(PathBuf::new());
        let (server, now): (ServerId, _) = ("s".parse().unwrap(), Instant::now());
        disks.measured(&server, 100);
        assert!(disks.take(&server, 50, Some(150)) && !disks.take(&server, 1, Some(150)));
        assert!(!disks.take(&server, u64::MAX, None), "a sum that overflows is over any limit");
        assert_eq!(disks.known(&server), Some(150));
        let before = disks.places()[&server].change;
        disks.give_back(&server, 30);
        let mut places = disks.places();
        let place = places.get_mut(&server).unwrap();
        assert_eq!(place.found(Some(150), before, now, now), None);
        assert_eq!((place.disk_use().used, place.due), (120, Some(now)), "it changed during the walk");
        assert_eq!(place.found(Some(120), -30, now, now), None);
        assert_eq!((place.disk_use().used, place.due), (120, None));
    }

    #[test]
    fn the_thread_walks_what_it_is_told_and_then_sleeps() {
        let root = tempfile::tempdir().unwrap();
        let server: ServerId = "s".parse().unwrap();
        std::fs::create_dir(root.path().join("s")).unwrap();
        for n in 0..3 * PIECE {
            std::fs::write(root.path().join("s").join(n.to_string()), "x").unwrap();
        }
        let (disks, walker) = Disks::new(root.path().to_owned());
        let (stop_tx, stop_rx) = bounded(0);
        let (over_tx, over_rx) = crossbeam_channel::unbounded();
        let thread = std::thread::spawn(move || {
            walker.run(&stop_rx, |server, run| over_tx.send((server, run)).unwrap());
        });
        let watch = Watch { run: Some(3), limit: Some(1), grace: Duration::ZERO };
        disks.set(&server, watch);
        assert_eq!(over_rx.recv_timeout(Duration::from_secs(10)), Ok((server.clone(), 3)));
        let found = disks.disk_use(&server);
        assert!(found.over_limit && found.used >= 3 * 512 * 512, "{found:?}");
        assert_eq!(disks.all(), [(server.clone(), found)]);
        disks.set(&server, Watch { limit: None, ..watch });
        disks.forget(&server);
        assert_eq!(disks.disk_use(&server), DiskUse::default());
        drop(stop_tx);
        thread.join().unwrap();
    }
}
