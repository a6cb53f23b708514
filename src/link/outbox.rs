//! [`Outbox`]: what waits to be written, in three lanes of strict priority: **control** (pushed, kept until it is
//! delivered), **data** (pulled from a [`Source`] when nothing else waits), **bulk** (pushed, kept like control, refused
//! when full: what files hold).
//!
//! Shared by whoever has something to say and the write thread of the current connection. It outlives connections:
//! [`Outbox::begin`] and [`Outbox::end`] frame one. The lock covers memory work only and is never held over I/O or
//! over a call of the source; the write thread blocks on a channel, and nothing here polls.
//!
//! **Delivery**: the write thread numbers what it writes and sends a WebSocket ping that carries the number; the pong
//! says that everything up to it has arrived, because a WebSocket connection keeps order. What was not confirmed
//! when a connection ends is written again on the next one: never twice on one connection, never lost.

use std::mem;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tungstenite::Bytes;
use tungstenite::protocol::CloseFrame;

use super::Text;
pub use entry::{
    Begin, Bounds, Drops, ENTRY_COST, Entry, MAX_MESSAGE, NoSource, Refused, Source, Stamp, Tag,
};
use lanes::{Lane, Slot};

mod entry;
mod lanes;
#[cfg(test)]
mod tests;

/// Bytes of control, or of data, after which delivery is asked for, even if more waits.
const DELIVERY_STEP: usize = 64 << 10;

/// Pings without a pong that are remembered; a peer that never answers must not make the list grow.
const MAX_PINGS: usize = 8;

/// What the write thread has to do next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Text(Text),
    Ping([u8; 8]),
    Pong(Bytes),
    /// The last thing to write. `ours` when it was asked for here, not an answer.
    Close {
        frame: Option<CloseFrame>,
        ours: bool,
    },
    /// Flush, then wait to be woken, at most until then.
    Idle {
        until: Option<Instant>,
    },
    /// This connection is not the current one any more, or its Close was written.
    Ended,
}

/// See the module's description.
pub struct Outbox<T> {
    state: Mutex<State<T>>,
    source: Mutex<Box<dyn Source>>,
    bounds: Bounds,
    on_gone: OnceLock<OnGone>,
}

type OnGone = Box<dyn Fn(Vec<u64>) + Send + Sync>;

struct State<T> {
    control: Lane<T>,
    bulk: Lane<T>,
    connection: Option<Live>,
    /// Numbers entries and pings together, over all connections, so that an old pong never fits.
    number: u64,
    dropped: Drops,
    /// Ended with a connection; told by the next [`Begin`].
    lost: Drops,
    /// What of both was handed out already.
    told: Drops,
    rtt: Option<Duration>,
}

/// What belongs to the current connection.
struct Live {
    generation: u64,
    wake_tx: Sender<()>,
    wake_rx: Receiver<()>,
    preamble: std::collections::VecDeque<Text>,
    ping_wanted: bool,
    /// Number and time of each ping that is not answered yet.
    pings: std::collections::VecDeque<(u64, Instant)>,
    /// The number of the last ping, and how many bytes of control were written after it.
    pinged: u64,
    unpinged: usize,
    /// Bytes of data written after it.
    unpinged_data: usize,
    /// The answer to the newest ping of the peer: RFC 6455 section 5.5.3 allows to skip older ones.
    pong: Option<Bytes>,
    closing: Closing,
    /// The peer acknowledges events by their names.
    acknowledges: bool,
}

enum Closing {
    No,
    /// Close once control is empty, or at this time.
    Wanted {
        frame: CloseFrame,
        at: Instant,
    },
    /// Close at once: the answer to the peer's Close, or to a fault of the peer's.
    Answer(Option<CloseFrame>),
    Written,
}

impl<T: Tag> Outbox<T> {
    /// An outbox without a connection.
    pub fn new(source: impl Source + 'static, bounds: Bounds) -> Outbox<T> {
        let state = State {
            control: Lane::new(),
            bulk: Lane::new(),
            connection: None,
            number: 0,
            dropped: Drops::default(),
            lost: Drops::default(),
            told: Drops::default(),
            rtt: None,
        };
        Outbox {
            state: Mutex::new(state),
            source: Mutex::new(Box::new(source)),
            bounds,
            on_gone: OnceLock::new(),
        }
    }

    /// Has the numbers of entries told that are delivered or dropped, on the thread where that shows, without a lock held. It
    /// can be set once.
    pub fn on_gone(&self, tell: impl Fn(Vec<u64>) + Send + Sync + 'static) {
        let _ = self.on_gone.set(Box::new(tell));
    }

    /// Lets go of the state, then tells what has left it.
    fn tell_gone(&self, mut state: MutexGuard<'_, State<T>>) {
        let gone = mem::take(&mut state.control.gone);
        drop(state);
        if let Some(tell) = self.on_gone.get().filter(|_| !gone.is_empty()) {
            tell(gone);
        }
    }

    /// Queues a control entry; never blocks. With no connection its `now` texts are left out, and an entry
    /// without `kept` is counted as lost (see [`Begin::dropped`]).
    pub fn push(&self, entry: Entry<T>) -> Result<(), Refused> {
        if let Some(long) = entry.now.iter().chain(&entry.kept).find(|text| text.len() > MAX_MESSAGE) {
            return Err(Refused::TooLong { bytes: long.len() });
        }
        let mut state = self.lock();
        let mut slot = Slot::new(entry);
        if state.connection.is_none() && !slot.leave_connection() {
            state.lost += slot.size();
            return Ok(());
        }
        state.control.push(slot);
        let inner = &mut *state;
        let fits = inner.control.shrink(self.bounds, &mut inner.dropped);
        state.wake();
        self.tell_gone(state);
        if fits { Ok(()) } else { Err(Refused::Full) }
    }

    /// Queues a bulk message, which is written after everything else and kept until it is delivered.
    ///
    /// # Errors
    /// `Full` while as much as may wait is not delivered; nothing is dropped for it. A single one always fits.
    pub fn push_bulk(&self, text: impl Into<Text>, tag: Option<T>) -> Result<(), Refused> {
        let entry = Entry { tag, ..Entry::kept(text) };
        let bytes = entry.kept.as_ref().map_or(0, |text| text.len());
        if bytes > MAX_MESSAGE {
            return Err(Refused::TooLong { bytes });
        }
        let mut state = self.lock();
        let slot = Slot::new(entry);
        if state.bulk.len() > 0 && state.bulk.bytes() + slot.cost() > self.bounds.bulk {
            return Err(Refused::Full);
        }
        state.bulk.push(slot);
        state.wake();
        Ok(())
    }

    /// Bytes of bulk that would still be taken. There are more whenever a ping was answered: see [`Source::ponged`].
    pub fn bulk_room(&self) -> usize {
        self.bounds.bulk.saturating_sub(self.lock().bulk.bytes())
    }

    /// Says that the source may have something.
    pub fn wake(&self) {
        self.lock().wake();
    }

    /// Has a ping written at once, ahead of what waits. Does nothing without a connection.
    pub fn ping(&self) {
        let mut state = self.lock();
        if let Some(live) = &mut state.connection {
            live.ping_wanted = true;
            state.wake();
        }
    }

    /// Starts a connection and ends the one before. It will write `preamble` (never again), then every
    /// undelivered entry's `kept` text in order, then what is pushed from now on.
    pub fn begin(&self, generation: u64, preamble: Vec<String>) -> Begin<T> {
        let mut state = self.lock();
        state.end();
        let mut resent = state.control.restart();
        resent.extend(state.bulk.restart());
        let (wake_tx, wake_rx) = bounded(1);
        state.connection = Some(Live {
            generation,
            wake_tx,
            wake_rx,
            preamble: preamble.into_iter().map(Text::from).collect(),
            ping_wanted: false,
            pings: Default::default(),
            pinged: 0,
            unpinged: 0,
            unpinged_data: 0,
            pong: None,
            closing: Closing::No,
            acknowledges: false,
        });
        state.wake();
        let dropped = mem::take(&mut state.lost);
        state.told += dropped;
        self.tell_gone(state);
        Begin { resent, dropped }
    }

    /// Ends a connection if it is still the current one: nothing is written any more.
    pub fn end(&self, generation: u64) {
        let mut state = self.lock();
        if state.live(generation).is_some() {
            state.end();
        }
    }

    /// Asks the write thread to write what the control and bulk lanes hold, for at most `flush`, and then a Close. Data is
    /// not written any more. A write that blocks is not interrupted by it; [`super::Duplex::kill`] does that.
    pub fn close(&self, code: u16, reason: &str, flush: Duration) {
        let mut state = self.lock();
        if let Some(live) = &mut state.connection
            && matches!(live.closing, Closing::No)
        {
            let frame = close_frame(code, reason);
            live.closing = Closing::Wanted { frame, at: Instant::now() + flush };
            state.wake();
        }
    }

    /// What was lost elsewhere on its way here, to be told like what is lost here.
    pub fn lose(&self, drops: Drops) {
        self.lock().dropped += drops;
    }

    /// What the control lane had to let go since the last call.
    pub fn take_dropped(&self) -> Drops {
        let mut state = self.lock();
        let dropped = mem::take(&mut state.dropped);
        state.told += dropped;
        dropped
    }

    /// Everything that was dropped or ended with a connection since the start, told or not.
    pub fn dropped_in_all(&self) -> Drops {
        let state = self.lock();
        let mut all = state.told;
        all += state.dropped;
        all += state.lost;
        all
    }

    /// The round trip of the last ping that was answered.
    pub fn rtt(&self) -> Option<Duration> {
        self.lock().rtt
    }

    /// The number and the bytes of the control entries that are not delivered.
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.control.len(), state.control.bytes())
    }

    /// The end that wakes the write thread of this connection; closed when the connection ends.
    pub(super) fn wakes(&self, generation: u64) -> Option<Receiver<()>> {
        self.lock().live(generation).map(|live| live.wake_rx.clone())
    }

    /// What the write thread has to write next.
    pub(super) fn next(&self, generation: u64) -> Next {
        loop {
            let next = self.lock().next_control(generation);
            if let Some(next) = next {
                if let Next::Ping(number) = &next {
                    self.source().pinged(u64::from_be_bytes(*number));
                }
                return next;
            }
            // The source has a lock of its own, so that its work is never done under the state's.
            let pulled = self.source().next(MAX_MESSAGE);
            match pulled {
                Some(text) if text.len() <= MAX_MESSAGE => {
                    self.lock().pulled(generation, text.len());
                    return Next::Text(text.into());
                }
                Some(text) => self.lock().dropped += Drops::one(text.len()),
                None => {
                    let bulk = self.lock().next_bulk(generation);
                    return bulk.map_or_else(|| Next::Idle { until: self.source().due() }, Next::Text);
                }
            }
        }
    }

    /// A pong has come. One that answers no ping of this connection is ignored.
    pub(super) fn ponged(&self, generation: u64, payload: &[u8]) {
        let Ok(number) = payload.try_into().map(u64::from_be_bytes) else { return };
        {
            let mut state = self.lock();
            let Some(live) = state.live(generation) else { return };
            let Some(at) = live.pings.iter().position(|&(n, _)| n == number) else { return };
            let sent = live.pings[at].1;
            live.pings.drain(..=at);
            let (more_data, acknowledges) = (live.unpinged_data >= DELIVERY_STEP, live.acknowledges);
            state.rtt = Some(sent.elapsed());
            state.control.delivered(number, acknowledges);
            state.bulk.delivered(number, false);
            // What was written meanwhile may want a ping of its own now.
            if more_data || state.last_written() > number {
                state.wake();
            }
            self.tell_gone(state);
        }
        self.source().ponged(number);
    }

    /// The peer says that it has taken in an event. From then on pongs of this connection say it of no event any more.
    pub fn acknowledged(&self, generation: u64, boot: &str, seq: u64) {
        let mut state = self.lock();
        let Some(live) = state.live(generation) else { return };
        live.acknowledges = true;
        state.control.acknowledged(boot, seq);
        self.tell_gone(state);
    }

    /// Has a pong written, in place of one that was not written yet.
    pub(super) fn answer_ping(&self, generation: u64, payload: Bytes) {
        let mut state = self.lock();
        if let Some(live) = state.live(generation) {
            live.pong = Some(payload);
            state.wake();
        }
    }

    /// Has a Close written before everything else, unless one was written already.
    pub(super) fn answer_close(&self, generation: u64, frame: Option<CloseFrame>) {
        let mut state = self.lock();
        if let Some(live) = state.live(generation)
            && !matches!(live.closing, Closing::Written)
        {
            live.closing = Closing::Answer(frame);
            state.wake();
        }
    }

    fn source(&self) -> MutexGuard<'_, Box<dyn Source>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing under this lock can panic halfway through a change, so a poisoned state is still a whole one.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Tag> State<T> {
    fn live(&mut self, generation: u64) -> Option<&mut Live> {
        self.connection.as_mut().filter(|live| live.generation == generation)
    }

    /// A full channel already holds the wake-up that is wanted.
    fn wake(&self) {
        if let Some(live) = &self.connection {
            let _ = live.wake_tx.try_send(());
        }
    }

    fn end(&mut self) {
        if self.connection.take().is_some() {
            self.lost += self.control.leave_connection();
            self.lost += self.bulk.leave_connection();
        }
    }

    /// So many bytes of data are about to be written.
    fn pulled(&mut self, generation: u64, bytes: usize) {
        if let Some(live) = self.live(generation) {
            live.unpinged_data += bytes;
        }
    }

    /// The number of the last entry that was written and is not delivered; 0 without one.
    fn last_written(&self) -> u64 {
        self.control.last_written().max(self.bulk.last_written())
    }

    /// What goes when there is nothing else.
    fn next_bulk(&mut self, generation: u64) -> Option<Text> {
        let live = self.connection.as_mut().filter(|live| live.generation == generation)?;
        let text = self.bulk.next(&mut self.number)?;
        live.unpinged += text.len();
        Some(text)
    }

    /// Everything that goes before data, or `None` when there is nothing of it.
    fn next_control(&mut self, generation: u64) -> Option<Next> {
        let Some(live) = self.connection.as_mut().filter(|live| live.generation == generation) else {
            return Some(Next::Ended);
        };
        if matches!(live.closing, Closing::Written) {
            return Some(Next::Ended);
        }
        // Before a Close too: the peer may wait for it to know that its last words have arrived.
        if let Some(payload) = live.pong.take() {
            return Some(Next::Pong(payload));
        }
        match &live.closing {
            Closing::Answer(_) => return Some(live.take_close()),
            Closing::Wanted { at, .. } if *at <= Instant::now() => return Some(live.take_close()),
            _ => {}
        }
        if mem::take(&mut live.ping_wanted) {
            return Some(live.ping(&mut self.number));
        }
        if let Some(text) = live.preamble.pop_front() {
            return Some(Next::Text(text));
        }
        // A long queue is confirmed in steps, or a link that is cut again and again would never get through it.
        let undelivered = self.control.last_written().max(self.bulk.last_written()) > live.pinged;
        let step = undelivered && live.unpinged >= DELIVERY_STEP && live.pings.is_empty();
        if !step && let Some(text) = self.control.next(&mut self.number) {
            live.unpinged += text.len();
            return Some(Next::Text(text));
        }
        let closing = matches!(live.closing, Closing::Wanted { .. });
        if closing && let Some(text) = self.bulk.next(&mut self.number) {
            live.unpinged += text.len();
            return Some(Next::Text(text));
        }
        let undelivered = undelivered || self.bulk.last_written() > live.pinged;
        let much_data = live.unpinged_data >= DELIVERY_STEP && live.pings.is_empty();
        if much_data || undelivered && (live.pings.is_empty() || closing) {
            return Some(live.ping(&mut self.number));
        }
        closing.then(|| live.take_close())
    }
}

impl Live {
    fn ping(&mut self, number: &mut u64) -> Next {
        *number += 1;
        self.pinged = *number;
        self.unpinged = 0;
        self.unpinged_data = 0;
        if self.pings.len() == MAX_PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back((*number, Instant::now()));
        Next::Ping(number.to_be_bytes())
    }

    fn take_close(&mut self) -> Next {
        match mem::replace(&mut self.closing, Closing::Written) {
            Closing::Wanted { frame, .. } => Next::Close { frame: Some(frame), ours: true },
            Closing::Answer(frame) => Next::Close { frame, ours: false },
            Closing::No | Closing::Written => Next::Ended,
        }
    }
}

/// A Close frame whose reason fits a control frame (RFC 6455 section 5.5: 125 bytes, two of them the code).
pub(super) fn close_frame(code: u16, reason: &str) -> CloseFrame {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    CloseFrame { code: code.into(), reason: reason[..end].into() }
}
