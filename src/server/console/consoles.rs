//! The consoles of all servers: followers put lines in, the link's write thread takes them out, the agent loop says
//! what is followed and who listens.
//!
//! One lock around all of them, since their memory has one bound and the writer serves them in turn; it covers memory
//! work only and is never held over I/O or over a call of a hook.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::cursor::Cursor;
use super::feed::{Batch, Feed, Gap, Next, RING};
use super::follower::{self, Ended, Order};
use super::patterns::Patterns;
use super::ring::{Chunk, Kept};
use super::saved::Saved;
use crate::docker::{Client, Closer, ContainerId};
use crate::protocol::ServerId;

/// When the loop has no room to be told of a gap, it is tried again after this.
const TELL_AGAIN: Duration = Duration::from_millis(20);
/// Followers that call the Engine at once, and how long one waits for its turn before it goes all the same.
const CALLS: usize = 4;
const CALL_PATIENCE: Duration = Duration::from_secs(1);

/// How the consoles behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of all lines in memory.
    pub memory: usize,
    /// Bytes a second that go out of one server; `None` never drops: the follower waits instead.
    pub rate: Option<u64>,
    /// Whether every server's lines go out unasked.
    pub always: bool,
    /// Of this run of the Agent: line numbers count within it.
    pub boot_id: String,
}

/// See [`Hooks::ready`].
pub type Ready = Box<dyn Fn(&ServerId, u64) + Send + Sync>;
/// See [`Hooks::gap`].
pub type Told = Box<dyn Fn() -> bool + Send + Sync>;

/// What the consoles call. They know neither the loop nor the link.
pub struct Hooks {
    /// The output of the run that began at `started_ns` shows that the server is up. It may wait.
    pub ready: Ready,
    /// There are gaps to be told: [`Consoles::tell_gaps`] is to be called. It must not wait; false when it could not
    /// be passed on.
    pub gap: Told,
}

/// A server's container that runs.
#[derive(Clone, Debug)]
pub struct Run {
    pub container: ContainerId,
    /// By the Engine's clock; 0 when it is not known yet.
    pub started_ns: u64,
    /// What to look for in the output of this run, while somebody waits for it.
    pub done: Option<Arc<Patterns>>,
}

impl Run {
    fn is_same(&self, other: &Run) -> bool {
        self.container == other.container && self.started_ns == other.started_ns
    }
}

/// See the module's description. A clone is the same.
#[derive(Clone)]
pub struct Consoles(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub settings: Settings,
    pub hooks: Hooks,
    pub client: Client,
    pub saved: Saved,
    /// Has the write thread look for lines.
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    state: Mutex<State>,
    /// A follower that may not drop lines waits here for the writer.
    room: Condvar,
    /// Disconnected once all followers have ended.
    ended_rx: Receiver<Infallible>,
    /// Holds one for each follower that calls the Engine.
    calls: (Sender<()>, Receiver<()>),
}

/// A turn at calling the Engine; dropping it lets the next follower have one.
pub(super) struct Turn<'a>(&'a Receiver<()>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_recv();
    }
}

struct State {
    consoles: BTreeMap<ServerId, Entry>,
    /// Those with something to say, in the order of their turns.
    turns: VecDeque<ServerId>,
    /// Those that may say nothing before a time.
    resting: Vec<(Instant, ServerId)>,
    /// Bytes of all rings.
    memory: usize,
    /// Lines and bytes that were told as lost.
    dropped: (u64, u64),
    /// The writer found nothing and has to be woken.
    asleep: bool,
    /// The ping behind what is marked.
    mark: Option<u64>,
    /// The loop knows of gaps; or has to be told again at a time.
    gap_told: bool,
    tell_again: Option<Instant>,
    /// Of the newest follower.
    follower_id: u64,
    /// Cloned into each follower; `None` once the end has begun.
    alive_tx: Option<Sender<Infallible>>,
}

/// A console and what goes with it.
struct Entry {
    feed: Feed,
    run: Option<Run>,
    follower: Option<Handle>,
    /// It is in `turns` or in `resting`.
    queued: bool,
}

/// The loop's side of a follower.
struct Handle {
    /// Tells it from one before it that has not ended yet.
    id: u64,
    /// Of the stream that is open.
    closer: Closer,
    /// Ends its wait for the Engine; dropping it ends the follower.
    poke_tx: Option<Sender<()>>,
}

/// How a console stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub connected: bool,
    pub last_activity_ns: Option<u64>,
    pub buffer_size: usize,
}

/// All consoles together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes that the lines in memory take, and how many of them have not gone out yet.
    pub memory: usize,
    pub waiting: usize,
    /// What was told as lost since the Agent started.
    pub dropped_lines: u64,
    pub dropped_bytes: u64,
}

/// The newest lines of a ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    pub lines: Vec<String>,
    /// Of the line after the last.
    pub next_seq: u64,
    /// The first of `lines`: time, stream and ordinal.
    pub first: Option<(u64, crate::protocol::console::Stream, u32)>,
    /// What was cleared is not to be shown again.
    pub cleared: Option<Cursor>,
}

impl Consoles {
    /// Nothing is followed yet. [`Consoles::set_wake`] completes it.
    pub fn new(settings: Settings, hooks: Hooks, client: Client, saved: Saved) -> Consoles {
        let (alive_tx, ended_rx) = bounded(0);
        let state = State {
            consoles: BTreeMap::new(),
            turns: VecDeque::new(),
            resting: Vec::new(),
            memory: 0,
            dropped: (0, 0),
            asleep: true,
            mark: None,
            gap_told: false,
            tell_again: None,
            follower_id: 0,
            alive_tx: Some(alive_tx),
        };
        Consoles(Arc::new(Shared {
            settings,
            hooks,
            client,
            saved,
            wake: OnceLock::new(),
            state: Mutex::new(state),
            room: Condvar::new(),
            ended_rx,
            calls: bounded(CALLS),
        }))
    }

    /// What has the writer look for lines. Called with no lock held; it must not wait.
    pub fn set_wake(&self, wake: impl Fn() + Send + Sync + 'static) {
        // A second one would be a mistake of whoever puts the Agent together; the first one stays.
        let _ = self.0.wake.set(Box::new(wake));
    }

    pub fn boot_id(&self) -> &str {
        &self.0.settings.boot_id
    }

    // ---- for the agent loop --------------------------------------------------------------------------------

    /// What of this server runs now. A run that begins is followed; the output of one that has ended is read to its
    /// end.
    pub fn set_run(&self, server: &ServerId, run: Option<Run>) {
        let mut state = self.0.lock();
        if run.is_none() && !state.consoles.contains_key(server) {
            return;
        }
        let entry = state.entry(server, &self.0.settings);
        // That nobody waits for a run any more is no reason to open its stream again.
        let goes_on = match (&entry.run, &run) {
            (Some(before), Some(run)) => before.is_same(run) && run.done.is_none(),
            (_, run) => run.is_none(),
        };
        entry.run = run;
        if !goes_on && let Some(follower) = &entry.follower {
            // It goes on at once where it was, with the new run in view.
            follower.closer.close();
            follower.poke();
        }
        self.0.follow(state, server);
    }

    /// Forgets a server that was deleted.
    pub fn forget(&self, server: &ServerId) {
        let mut state = self.0.lock();
        if let Some(entry) = state.consoles.remove(server) {
            state.memory -= entry.feed.ring.memory();
            drop(state);
            if let Some(mut follower) = entry.follower {
                follower.stop();
            }
            self.0.room.notify_all();
        }
        self.0.saved.remove(server);
    }

    /// A link begins: what is not known to have arrived on the one before goes out again.
    pub fn link_begins(&self) {
        let mut state = self.0.lock();
        state.mark = None;
        let servers: Vec<ServerId> = state.consoles.keys().cloned().collect();
        for server in servers {
            if let Some(entry) = state.consoles.get_mut(&server) {
                entry.feed.rewind();
            }
            state.enqueue(&server);
        }
    }

    /// Tells each gap through `tell`, then lets the lines behind it go out.
    pub fn tell_gaps(&self, mut tell: impl FnMut(Gap)) {
        let gaps: Vec<Gap> = {
            let mut state = self.0.lock();
            (state.gap_told, state.tell_again) = (false, None);
            let State { consoles, dropped, .. } = &mut *state;
            let gaps = consoles.iter_mut().filter_map(|(id, entry)| entry.feed.take_gap(id));
            gaps.inspect(|gap| *dropped = (dropped.0 + gap.lines, dropped.1 + gap.bytes)).collect()
        };
        let servers: Vec<ServerId> = gaps.iter().map(|gap| gap.server.clone()).collect();
        gaps.into_iter().for_each(&mut tell);
        let mut state = self.0.lock();
        servers.iter().for_each(|server| state.enqueue(server));
        self.0.wake(state);
    }

    /// Lines of this server go out: from behind `since`, a number of the boot `boot_id`, or from now.
    pub fn connect(&self, server: &ServerId, since: Option<u64>, boot_id: Option<&str>) {
        let mut state = self.0.lock();
        let settings = &self.0.settings;
        let Entry { feed, run, .. } = state.entry(server, settings);
        let fresh = !feed.is_live();
        match boot_id {
            Some(boot_id) if boot_id != settings.boot_id => feed.connect_anew(),
            _ => feed.connect(since),
        }
        if fresh && !settings.always && since.is_none() {
            // Nobody has asked for what was printed while nobody listened.
            feed.ring.clear();
            feed.ring.resume(Cursor::at(now_ns()));
            feed.container = run.as_ref().map(|run| run.container.clone());
            feed.connect(Some(u64::MAX));
        }
        self.0.recount(&mut state);
        self.0.follow(state, server);
        let mut state = self.0.lock();
        state.enqueue(server);
        self.0.wake(state);
    }

    /// Lines of this server stay here.
    pub fn disconnect(&self, server: &ServerId) {
        let mut state = self.0.lock();
        let Some(entry) = state.consoles.get_mut(server) else { return };
        entry.feed.disconnect();
        self.0.follow(state, server);
    }

    pub fn clear(&self, server: &ServerId) {
        let mut state = self.0.lock();
        if let Some(entry) = state.consoles.get_mut(server) {
            entry.feed.clear();
        }
        self.0.recount(&mut state);
    }

    pub fn standing(&self, server: &ServerId) -> Standing {
        let state = self.0.lock();
        match state.consoles.get(server) {
            Some(Entry { feed, .. }) => Standing {
                connected: feed.is_live(),
                last_activity_ns: feed.last_activity_ns,
                buffer_size: feed.ring.memory(),
            },
            None => Standing { connected: self.0.settings.always, last_activity_ns: None, buffer_size: 0 },
        }
    }

    pub fn totals(&self) -> Totals {
        let state = self.0.lock();
        let waiting = state.consoles.values().map(|entry| entry.feed.waiting()).sum();
        let (dropped_lines, dropped_bytes) = state.dropped;
        Totals { memory: state.memory, waiting, dropped_lines, dropped_bytes }
    }

    /// Somebody wrote to the server.
    pub fn touch(&self, server: &ServerId) {
        if let Some(entry) = self.0.lock().consoles.get_mut(server) {
            entry.feed.last_activity_ns = Some(now_ns());
        }
    }

    /// The last `count` lines that are in memory.
    pub fn recent(&self, server: &ServerId, count: usize) -> Recent {
        let state = self.0.lock();
        let Some(Entry { feed, .. }) = state.consoles.get(server) else {
            return Recent { next_seq: 1, ..Recent::default() };
        };
        let end = feed.ring.end().seq;
        let mut lines = feed.ring.lines(end.saturating_sub(count as u64)).peekable();
        let first = lines.peek().map(|line| (line.time_ns, line.stream, line.ordinal));
        Recent { first, lines: joined(lines), next_seq: end, cleared: feed.cleared }
    }

    /// Ends all followers and waits for them. False when some did not end in time.
    pub fn finish(&self, deadline: Instant) -> bool {
        let mut followers = Vec::new();
        {
            let mut state = self.0.lock();
            state.alive_tx = None;
            followers.extend(state.consoles.values_mut().filter_map(|entry| entry.follower.take()));
        }
        followers.iter_mut().for_each(Handle::stop);
        self.0.room.notify_all();
        self.0.ended_rx.recv_deadline(deadline) != Err(crossbeam_channel::RecvTimeoutError::Timeout)
    }

    // ---- for the write thread ------------------------------------------------------------------------------

    /// Fills `batch` with the next lines and names their server; `None` when there is nothing.
    pub fn next(&self, batch: &mut Batch, now: Instant) -> Option<ServerId> {
        let mut state = self.0.lock();
        let (found, gap) = state.next(batch, now);
        if gap && !std::mem::replace(&mut state.gap_told, true) {
            drop(state);
            if !(self.0.hooks.gap)() {
                let mut state = self.0.lock();
                state.gap_told = false;
                state.tell_again = Some(now + TELL_AGAIN);
            }
        }
        if found.is_some() && self.0.settings.rate.is_none() {
            self.0.room.notify_all();
        }
        found
    }

    /// When there may be something although nobody wakes the writer.
    pub fn due(&self) -> Option<Instant> {
        let state = self.0.lock();
        state.resting.iter().map(|(until, _)| *until).chain(state.tell_again).min()
    }

    /// A ping with this number goes out behind all that was taken.
    pub fn pinged(&self, number: u64) {
        let mut state = self.0.lock();
        if state.mark.is_none() {
            state.mark = Some(number);
            state.consoles.values_mut().for_each(|entry| entry.feed.mark());
        }
    }

    /// That ping, or one after it, was answered.
    pub fn ponged(&self, number: u64) {
        let mut state = self.0.lock();
        if state.mark.is_some_and(|mark| number >= mark) {
            state.mark = None;
            state.consoles.values_mut().for_each(|entry| entry.feed.confirm());
        }
    }
}

/// Texts of lines, with the pieces of a long one put together again.
fn joined<'a>(lines: impl Iterator<Item = Kept<'a>>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut open = [None::<usize>; 3];
    for line in lines {
        let slot = &mut open[line.stream as usize];
        match slot.take() {
            Some(at) => {
                out[at].push_str(line.text);
                *slot = line.partial.then_some(at);
            }
            None => {
                *slot = line.partial.then_some(out.len());
                out.push(line.text.to_owned());
            }
        }
    }
    out
}

impl Handle {
    fn poke(&self) {
        if let Some(poke_tx) = &self.poke_tx {
            // A full channel holds a poke already.
            let _ = poke_tx.try_send(());
        }
    }

    fn stop(&mut self) {
        self.poke_tx = None;
        self.closer.close();
    }
}

impl State {
    fn entry(&mut self, server: &ServerId, settings: &Settings) -> &mut Entry {
        self.consoles.entry(server.clone()).or_insert_with(|| Entry {
            feed: Feed::new(settings.always, settings.rate, Instant::now()),
            run: None,
            follower: None,
            queued: false,
        })
    }

    /// The server that this follower follows; `None` when another one does, or none.
    fn followed(&mut self, server: &ServerId, id: u64) -> Option<&mut Entry> {
        let entry = self.consoles.get_mut(server)?;
        entry.follower.as_ref().is_some_and(|handle| handle.id == id).then_some(entry)
    }

    /// Gives a server with something to say its turn.
    fn enqueue(&mut self, server: &ServerId) {
        if let Some(entry) = self.consoles.get_mut(server)
            && !entry.queued
            && entry.feed.has_waiting()
        {
            entry.queued = true;
            self.turns.push_back(server.clone());
        }
    }

    /// Gives a server its turn that only gathers lines, once it has enough of them or when their reader waits.
    fn hurry(&mut self, server: &ServerId, waits: bool) -> bool {
        let Some(entry) = self.consoles.get_mut(server) else { return false };
        let hurries = entry.feed.stop_gathering(waits) && entry.queued;
        if hurries && let Some(at) = self.resting.iter().position(|(_, resting)| resting == server) {
            self.resting.swap_remove(at);
            self.turns.push_back(server.clone());
        }
        hurries
    }

    /// The next batch, and whether the loop is to be told of a gap.
    fn next(&mut self, batch: &mut Batch, now: Instant) -> (Option<ServerId>, bool) {
        let mut gap = self.tell_again.take_if(|at| *at <= now).is_some();
        let State { resting, turns, .. } = self;
        resting.retain(|(until, server)| {
            let rests = *until > now;
            if !rests {
                turns.push_back(server.clone());
            }
            rests
        });
        while let Some(server) = self.turns.pop_front() {
            let Some(entry) = self.consoles.get_mut(&server) else { continue };
            entry.queued = false;
            match entry.feed.next(batch, now) {
                Next::Nothing => {}
                Next::Gap => gap = true,
                Next::Rest(until) => {
                    entry.queued = true;
                    self.resting.push((until, server));
                }
                Next::Batch { more } => {
                    if more {
                        entry.queued = true;
                        self.turns.push_back(server.clone());
                    }
                    return (Some(server), gap);
                }
            }
        }
        self.asleep = true;
        (None, gap)
    }

    /// Lets the oldest lines of the largest ring go until all fit.
    fn shrink(&mut self, settings: &Settings) {
        while self.memory > settings.memory {
            let may_go = |entry: &&mut Entry| settings.rate.is_some() || entry.feed.front_is_sent();
            let largest = self.consoles.values_mut().filter(may_go).max_by_key(|e| e.feed.ring.memory());
            let Some(entry) = largest.filter(|entry| entry.feed.ring.memory() > 0) else { return };
            let before = entry.feed.ring.memory();
            entry.feed.ring.drop_oldest();
            self.memory -= before - entry.feed.ring.memory();
        }
    }
}

impl Shared {
    /// Waits for a turn at calling the Engine, so that an Agent which finds 500 servers does not ask for all at once. Not for
    /// long: calls that hang must not hold up the other servers' output, so then there is none.
    pub(super) fn turn(&self) -> Option<Turn<'_>> {
        let (calls_tx, calls_rx) = &self.calls;
        calls_tx.send_timeout((), CALL_PATIENCE).ok().map(|()| Turn(calls_rx))
    }

    /// Nothing under this lock can panic halfway through a change, so a poisoned state is still a whole one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recount(&self, state: &mut State) {
        state.memory = state.consoles.values().map(|entry| entry.feed.ring.memory()).sum();
    }

    /// Wakes the writer when it sleeps and there is something for it.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let wanted = state.asleep && !state.turns.is_empty();
        state.asleep &= !wanted;
        drop(state);
        if wanted && let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// Starts a follower where one is wanted and there is none, and ends one that is not wanted.
    fn follow(self: &Arc<Self>, mut state: MutexGuard<'_, State>, server: &ServerId) {
        let id = state.follower_id + 1;
        let Some(alive_tx) = state.alive_tx.clone() else { return };
        let Some(entry) = state.consoles.get_mut(server) else { return };
        let awaited = entry.run.as_ref().is_some_and(|run| run.done.is_some());
        let mut stopped = None;
        if !self.settings.always && !entry.feed.is_live() && !awaited {
            stopped = entry.follower.take();
            // What is printed from now on would be missing behind these.
            entry.feed.drop_lines();
            self.recount(&mut state);
        } else if let (Some(run), None) = (&entry.run, &entry.follower) {
            let (poke_tx, poke_rx) = bounded(1);
            match follower::start(self.clone(), server.clone(), id, &run.container, poke_rx, alive_tx) {
                Ok(()) => {
                    entry.follower = Some(Handle { id, closer: Closer::new(), poke_tx: Some(poke_tx) });
                    state.follower_id = id;
                }
                Err(error) => log::error!("{server}: no thread for its output: {error}"),
            }
        }
        drop(state);
        if let Some(mut follower) = stopped {
            follower.stop();
        }
        self.room.notify_all();
    }

    // ---- for a follower ------------------------------------------------------------------------------------

    /// What to read now; `None` when it is not wanted any more. `saved` is what was read in an earlier boot.
    pub fn order(&self, server: &ServerId, id: u64, saved: Option<(ContainerId, Cursor)>) -> Option<Order> {
        let mut state = self.lock();
        state.alive_tx.as_ref()?;
        let Entry { feed, run, follower, .. } = state.followed(server, id)?;
        let (Some(run), Some(handle)) = (&run, &mut *follower) else {
            *follower = None;
            return None;
        };
        if feed.container.as_ref() != Some(&run.container) {
            let saved = saved.filter(|(container, _)| *container == run.container);
            feed.ring.resume(saved.map(|(_, cursor)| cursor).unwrap_or_default());
            feed.container = Some(run.container.clone());
        }
        handle.closer = Closer::new();
        Some(Order { run: run.clone(), closer: handle.closer.clone(), cursor: feed.ring.cursor() })
    }

    /// The follower has read a run to its end and leaves, unless there is another one by now.
    pub fn leave(&self, server: &ServerId, id: u64, run: &Run) -> bool {
        let mut state = self.lock();
        let Some(entry) = state.followed(server, id) else { return true };
        let next = entry.run.as_ref().is_some_and(|next| !next.is_same(run));
        if !next {
            entry.follower = None;
        }
        !next
    }

    /// Shows the lines of the ring that are newer than `after_ns`; true when one fits.
    pub fn shows(&self, server: &ServerId, after_ns: u64, patterns: &Patterns) -> bool {
        let state = self.lock();
        let Some(entry) = state.consoles.get(server) else { return false };
        let mut lines = entry.feed.ring.lines(0).filter(|line| line.time_ns > after_ns);
        lines.any(|line| patterns.fit(line.text))
    }

    /// Puts lines in. Where nothing may be dropped it waits for room; an error when the follower is to end.
    pub fn add(&self, server: &ServerId, id: u64, closer: &Closer, chunk: &Chunk) -> Result<(), Ended> {
        let mut state = self.lock();
        if self.settings.rate.is_none() {
            state = self.wait_for_room(state, server, closer, chunk.bytes())?;
        }
        let entry = state.followed(server, id).ok_or(Ended)?;
        let before = entry.feed.ring.memory();
        entry.feed.add(chunk);
        entry.feed.last_activity_ns = Some(now_ns());
        let after = entry.feed.ring.memory();
        state.memory = state.memory + after - before;
        state.shrink(&self.settings);
        state.hurry(server, false);
        state.enqueue(server);
        self.wake(state);
        Ok(())
    }

    /// Waits while too much of this server's output waits. Its part of the memory is a quarter of what it may have,
    /// since a line takes more than its bytes and what was sent is history.
    fn wait_for_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        server: &ServerId,
        closer: &Closer,
        bytes: usize,
    ) -> Result<MutexGuard<'a, State>, Ended> {
        loop {
            let count = state.consoles.len().max(1);
            let part = (RING / 4).min(self.settings.memory / (4 * count));
            if closer.is_closed() {
                return Err(Ended);
            }
            let entry = state.consoles.get(server).ok_or(Ended)?;
            let waiting = entry.feed.waiting();
            if waiting == 0 || waiting + bytes <= part {
                return Ok(state);
            }
            if state.hurry(server, true) {
                self.wake(state);
                state = self.lock();
                continue;
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What to keep on disk for this server.
    pub fn settled(&self, server: &ServerId) -> Option<(ContainerId, Cursor)> {
        let state = self.lock();
        let feed = &state.consoles.get(server)?.feed;
        Some((feed.container.clone()?, feed.settled()))
    }
}

pub(super) fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
