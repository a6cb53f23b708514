//! Which work on servers' files begins next. Pure; owned by the agent loop, which gives what it says to the `file-N`
//! threads.
//!
//! Changes of one server happen in the order in which they came, so that a Panel may send the pieces of a file one behind
//! the other without waiting. What only looks goes at once, except behind a short change that came before it. A thread is
//! always left for what is short: no copy of a world holds up a listing. What brings a file's content to the Panel begins
//! when the link has room for it, and holds up nothing while it waits for that.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::protocol::ServerId;
use crate::server::Ticket;

/// Threads, and how many of them may be busy with what takes long.
pub const THREADS: usize = 3;
const LONG: usize = THREADS - 1;
/// What may wait: pieces of work, and bytes that came with them.
const MAX_WAITING: usize = 512;
const MAX_BYTES: usize = 32 << 20;
/// Bytes on the link of one MiB of content: base64, with what is around it.
const PIECE: usize = 3 << 19;
/// How long content may wait for room: as long as a Panel may be silent before its link counts as dead.
const WAIT: Duration = Duration::from_secs(45);

/// What the order depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature {
    pub changes: bool,
    pub long: bool,
    /// A file's content goes to the Panel, below everything else on the link.
    pub brings: bool,
    /// That came along.
    pub bytes: usize,
}

/// See the module's description. `W` is the work.
pub struct FileQueue<W> {
    /// In the order in which they came; without work once begun.
    entries: VecDeque<Entry<W>>,
    running: usize,
    long: usize,
    /// Of those that run, how many bring content.
    bringing: usize,
    /// Of those that wait.
    bytes: usize,
}

struct Entry<W> {
    ticket: Ticket,
    server: ServerId,
    nature: Nature,
    work: Option<W>,
    /// Until when it waits for room on the link, once it does.
    until: Option<Instant>,
}

/// There is too much already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<W> Default for FileQueue<W> {
    fn default() -> FileQueue<W> {
        FileQueue { entries: VecDeque::new(), running: 0, long: 0, bringing: 0, bytes: 0 }
    }
}

impl<W> FileQueue<W> {
    /// Whether so much more would fit.
    pub fn has_room(&self, bytes: usize) -> bool {
        let waiting = self.entries.len() - self.running;
        waiting < MAX_WAITING && (waiting == 0 || self.bytes.saturating_add(bytes) <= MAX_BYTES)
    }

    pub fn push(&mut self, ticket: Ticket, server: ServerId, nature: Nature, work: W) {
        self.bytes += nature.bytes;
        self.entries.push_back(Entry { ticket, server, nature, work: Some(work), until: None });
    }

    /// What may begin now; it runs until [`FileQueue::done`]. The link takes `room` bytes more of content.
    pub fn begin(&mut self, room: usize, now: Instant) -> Option<(Ticket, W)> {
        if self.running >= THREADS {
            return None;
        }
        // For each server: whether a change came before, and whether that was a short one which nothing held up.
        let mut ahead: BTreeMap<&ServerId, (bool, bool)> = BTreeMap::new();
        let (mut found, mut held) = (None, Vec::new());
        let is_full = room < PIECE * (self.bringing + 1);
        for (at, entry) in self.entries.iter().enumerate() {
            let Nature { changes, long, brings, .. } = entry.nature;
            let (change, short) = ahead.entry(&entry.server).or_default();
            let blocked = if changes { *change } else { *short };
            let may = entry.work.is_some() && !blocked && !(long && self.long >= LONG);
            if may && brings && is_full {
                held.push(at);
            } else if may {
                found = Some(at);
                break;
            }
            if changes {
                *short |= !long && !blocked;
                *change = true;
            }
        }
        for at in held {
            self.entries[at].until.get_or_insert(now + WAIT);
        }
        let entry = self.entries.get_mut(found?)?;
        self.running += 1;
        self.bringing += usize::from(entry.nature.brings);
        self.long += usize::from(entry.nature.long);
        self.bytes -= entry.nature.bytes;
        entry.work.take().map(|work| (entry.ticket, work))
    }

    /// That work has ended. False for what is none of these.
    pub fn done(&mut self, ticket: Ticket) -> bool {
        let running = |entry: &Entry<W>| entry.ticket == ticket && entry.work.is_none();
        let Some(entry) = self.entries.iter().position(running).and_then(|at| self.entries.remove(at)) else {
            return false;
        };
        self.running -= 1;
        self.bringing -= usize::from(entry.nature.brings);
        self.long -= usize::from(entry.nature.long);
        true
    }

    /// When the first that waits for room has waited long enough; `None` when none does.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.entries.iter().filter(|entry| entry.work.is_some());
        waiting.filter_map(|entry| entry.until).min()
    }

    /// Takes out what has waited for room long enough.
    pub fn give_up(&mut self, now: Instant) -> Vec<Ticket> {
        let late = |entry: &Entry<W>| entry.work.is_some() && entry.until.is_some_and(|until| until <= now);
        let mut tickets = Vec::new();
        self.entries.retain(|entry| {
            if late(entry) {
                tickets.push(entry.ticket);
                self.bytes -= entry.nature.bytes;
            }
            !late(entry)
        });
        tickets
    }

    /// Pieces of work that were begun and have not ended.
    pub fn running(&self) -> usize {
        self.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Nature = Nature { changes: false, long: false, brings: false, bytes: 0 };
    const DOWNLOAD: Nature = Nature { brings: true, ..READ };
    const SEARCH: Nature = Nature { long: true, ..READ };
    const WRITE: Nature = Nature { changes: true, bytes: 8 << 20, ..READ };
    const COPY: Nature = Nature { changes: true, ..SEARCH };

    fn queue(entries: &[(u64, &str, Nature)]) -> FileQueue<()> {
        let mut queue = FileQueue::default();
        for (ticket, server, nature) in entries {
            queue.push(Ticket(*ticket), server.parse().unwrap(), *nature, ());
        }
        queue
    }

    /// All that begin now.
    fn begin(queue: &mut FileQueue<()>) -> Vec<u64> {
        begin_with(queue, usize::MAX, Instant::now())
    }

    fn begin_with(queue: &mut FileQueue<()>, room: usize, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| queue.begin(room, now)).map(|(ticket, ())| ticket.0).collect()
    }

    #[test]
    fn changes_of_one_server_keep_their_order_and_short_ones_hold_up_what_looks() {
        let mut queue = queue(&[(1, "a", WRITE), (2, "a", WRITE), (3, "a", READ), (4, "b", WRITE)]);
        assert_eq!(begin(&mut queue), [1, 4]);
        assert!(queue.done(Ticket(4)) && !queue.done(Ticket(4)) && !queue.done(Ticket(2)));
        assert!(queue.done(Ticket(1)));
        assert_eq!(begin(&mut queue), [2]);
        assert!(queue.done(Ticket(2)));
        assert_eq!(begin(&mut queue), [3]);
    }

    #[test]
    fn what_takes_long_holds_up_no_listing() {
        let mut queue = queue(&[
            (1, "a", COPY),
            (2, "b", SEARCH),
            (3, "c", COPY),
            (4, "a", WRITE),
            (5, "a", READ),
            (6, "d", READ),
        ]);
        assert_eq!(begin(&mut queue), [1, 2, 5], "neither 3 nor the write behind the copy");
        queue.done(Ticket(5));
        assert_eq!(begin(&mut queue), [6]);
        queue.done(Ticket(2));
        assert_eq!(begin(&mut queue), [3]);
        queue.done(Ticket(1));
        assert_eq!(begin(&mut queue), [4]);
    }

    #[test]
    fn content_waits_for_room_holds_up_nothing_and_is_given_up_in_the_end() {
        let now = Instant::now();
        let mut queue = queue(&[
            (1, "a", DOWNLOAD),
            (2, "a", DOWNLOAD),
            (3, "a", WRITE),
            (4, "b", READ),
            (5, "c", DOWNLOAD),
        ]);
        assert_eq!(begin_with(&mut queue, 2 * PIECE - 1, now), [1, 3, 4]);
        assert_eq!(queue.deadline(), Some(now + WAIT));
        queue.done(Ticket(1));
        queue.done(Ticket(3));
        assert_eq!(begin_with(&mut queue, PIECE - 1, now + WAIT / 2), [0_u64; 0]);
        assert_eq!(begin_with(&mut queue, PIECE, now + WAIT / 2), [2]);
        assert_eq!((queue.give_up(now + WAIT), queue.give_up(now + WAIT * 3 / 2)), (vec![], vec![Ticket(5)]));
        assert_eq!(queue.deadline(), None);
        assert!(!queue.done(Ticket(5)) && queue.done(Ticket(2)) && queue.done(Ticket(4)));
        assert_eq!((queue.running(), queue.bytes, queue.bringing), (0, 0, 0));
    }

    #[test]
    fn is_bounded_in_number_and_bytes() {
        let mut queue = queue(&[(1, "a", WRITE), (2, "a", WRITE), (3, "a", WRITE), (4, "a", WRITE)]);
        assert!(queue.has_room(0) && !queue.has_room(1));
        assert_eq!(begin(&mut queue), [1]);
        assert!(queue.has_room(8 << 20), "what has begun counts no more");
        for ticket in 5..5 + MAX_WAITING as u64 {
            queue.push(Ticket(ticket), "a".parse().unwrap(), READ, ());
        }
        assert!(!queue.has_room(0));
        assert!(FileQueue::<()>::default().has_room(usize::MAX), "one of any size is always taken");
    }
}
