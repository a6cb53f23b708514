//! The queue inside the outbox of which it has two, control and bulk: a [`Lane`] remembers what is not delivered.
//!
//! Pure memory work under the outbox's lock.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::{Bounds, Drops, ENTRY_COST, Entry, Stamp, Tag};
use crate::link::Text;

/// Entries that wait to be written, and entries that were written and wait to be delivered.
///
/// INVARIANT: everything in `written` is older than everything in `waiting`.
pub struct Lane<T> {
    written: VecDeque<Slot<T>>,
    waiting: VecDeque<Slot<T>>,
    bytes: usize,
    /// Numbers of entries that have left for good since they were last taken.
    pub gone: Vec<u64>,
}

/// One entry on its way.
pub struct Slot<T> {
    /// Still to be written on this connection.
    now: VecDeque<Text>,
    kept: Option<Text>,
    droppable: bool,
    tag: Option<T>,
    /// Its name for what is kept of it elsewhere.
    kept_as: Option<u64>,
    stamp: Option<Stamp>,
    topic: Option<Arc<str>>,
    /// The number it was written under on this connection.
    number: u64,
}

impl<T: Tag> Lane<T> {
    pub fn new() -> Lane<T> {
        Lane { written: VecDeque::new(), waiting: VecDeque::new(), bytes: 0, gone: Vec::new() }
    }

    pub fn push(&mut self, slot: Slot<T>) {
        self.bytes += slot.cost();
        self.waiting.push_back(slot);
    }

    /// Brings the lane back into its bounds and says whether the newest entry is still in it. What a later one of its
    /// topic has made old news goes first, then the oldest droppable ones. Over the hard bound the oldest written ones go, which have most probably arrived: a
    /// peer that answers no ping must not make every new message fail. Then the newest goes.
    pub fn shrink(&mut self, bounds: Bounds, dropped: &mut Drops) -> bool {
        if self.bytes > bounds.control {
            self.drop_old_news(dropped);
        }
        while self.bytes > bounds.control {
            let newest = self.waiting.len().saturating_sub(1);
            let written = self.written.iter().position(|slot| slot.droppable);
            let waiting = self.waiting.iter().position(|slot| slot.droppable);
            let (slot, is_newest) = match (written, waiting) {
                (Some(at), _) => (self.written.remove(at), false),
                (None, Some(at)) => (self.waiting.remove(at), at == newest),
                (None, None) if self.bytes <= bounds.control_hard => break,
                (None, None) => match self.written.pop_front() {
                    None => (self.waiting.pop_back(), true),
                    oldest => (oldest, false),
                },
            };
            let Some(slot) = slot else { break };
            self.bytes -= slot.cost();
            *dropped += slot.size();
            self.gone.extend(slot.kept_as);
            if is_newest {
                return false;
            }
        }
        true
    }

    /// Of each topic only the newest entry stays.
    fn drop_old_news(&mut self, dropped: &mut Drops) {
        let mut newest: HashSet<Arc<str>> = HashSet::new();
        let mut left = 0;
        for lane in [&mut self.waiting, &mut self.written] {
            // `retain` goes from the oldest on, and which is the newest is known from the other end.
            let news: Vec<bool> = lane
                .iter()
                .rev()
                .map(|slot| {
                    let known = slot.topic.as_ref().is_some_and(|topic| !newest.insert(topic.clone()));
                    !(known && slot.droppable)
                })
                .collect();
            let mut news = news.into_iter().rev();
            lane.retain(|slot| {
                let stays = news.next().unwrap_or(true);
                if !stays {
                    left += slot.cost();
                    *dropped += slot.size();
                    self.gone.extend(slot.kept_as);
                }
                stays
            });
        }
        self.bytes -= left;
    }

    /// The next text to write; the entry whose last text it is gets the next number.
    pub fn next(&mut self, number: &mut u64) -> Option<Text> {
        loop {
            let slot = self.waiting.front_mut()?;
            let before = slot.cost();
            let text = slot.now.pop_front();
            self.bytes -= before - slot.cost();
            if slot.now.is_empty()
                && let Some(mut slot) = self.waiting.pop_front()
            {
                if slot.kept.is_some() {
                    *number += 1;
                    slot.number = *number;
                    self.written.push_back(slot);
                } else {
                    self.bytes -= slot.cost();
                }
            }
            if text.is_some() {
                return text;
            }
        }
    }

    /// The number of the last entry that was written and is not delivered; 0 without one.
    pub fn last_written(&self) -> u64 {
        self.written.back().map_or(0, |slot| slot.number)
    }

    /// Everything that was written up to this number has arrived. Events stay when `acknowledged` ones alone count.
    pub fn delivered(&mut self, number: u64, acknowledged: bool) {
        let written = self.written.iter().take_while(|slot| slot.number <= number).count();
        self.leave(written, |slot| acknowledged && slot.stamp.is_some());
    }

    /// The peer has taken in the event of this name, and with it all that was written before.
    pub fn acknowledged(&mut self, boot: &str, seq: u64) {
        let named = |slot: &Slot<T>| {
            slot.stamp.as_ref().is_some_and(|stamp| &*stamp.boot == boot && stamp.seq <= seq)
        };
        if let Some(at) = self.written.iter().rposition(named) {
            self.leave(at + 1, |_| false);
        }
    }

    /// The first `count` of those that were written need not be kept any more, but what `stays`.
    fn leave(&mut self, count: usize, stays: impl Fn(&Slot<T>) -> bool) {
        let later = self.written.split_off(count);
        let mut left = 0;
        self.written.retain(|slot| {
            let stays = stays(slot);
            if !stays {
                left += slot.cost();
                self.gone.extend(slot.kept_as);
            }
            stays
        });
        self.bytes -= left;
        self.written.extend(later);
        if self.written.is_empty() {
            // A burst must not hold its memory for ever.
            self.written.shrink_to(64);
            self.waiting.shrink_to(64);
        }
    }

    /// The connection has ended: what is kept waits again, the rest is gone.
    pub fn leave_connection(&mut self) -> Drops {
        let mut lost = Drops::default();
        self.written.append(&mut self.waiting);
        std::mem::swap(&mut self.written, &mut self.waiting);
        self.waiting.retain_mut(|slot| {
            let kept = slot.leave_connection();
            if !kept {
                lost += slot.size();
            }
            kept
        });
        self.bytes = self.waiting.iter().map(Slot::cost).sum();
        lost
    }

    /// A connection begins: every entry is to be written, of those with the same tag the oldest. Gives their tags.
    pub fn restart(&mut self) -> Vec<T> {
        let (mut tags, mut bytes) = (HashSet::new(), 0);
        self.waiting.retain_mut(|slot| {
            let first = slot.tag.clone().is_none_or(|tag| tags.insert(tag));
            slot.now = slot.kept.iter().cloned().collect();
            bytes += if first { slot.cost() } else { 0 };
            if !first {
                self.gone.extend(slot.kept_as);
            }
            first
        });
        self.bytes = bytes;
        self.waiting.iter().filter_map(|slot| slot.tag.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.written.len() + self.waiting.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<T> Slot<T> {
    pub fn new(entry: Entry<T>) -> Slot<T> {
        let Entry { now, kept, droppable, tag, number: kept_as, stamp, topic } = entry;
        Slot { now: now.into(), kept, droppable, tag, kept_as, stamp, topic, number: 0 }
    }

    /// Forgets what was meant for the connection; whether the entry lives on without it.
    pub fn leave_connection(&mut self) -> bool {
        if self.kept.is_some() {
            self.now.clear();
        }
        self.kept.is_some()
    }

    /// The message it stands for. Its forms for this and for later connections are one message.
    pub fn size(&self) -> Drops {
        let text = self.kept.as_ref().or(self.now.front());
        Drops::one(text.map_or(0, |text| text.len()))
    }

    /// What it counts in the lane. A `now` text that shares its storage with `kept` counts once.
    pub fn cost(&self) -> usize {
        let kept = self.kept.as_ref().map_or(0, |text| text.len());
        let own = |text: &&Text| self.kept.as_ref().is_none_or(|kept| kept.as_ptr() != text.as_ptr());
        ENTRY_COST + kept + self.now.iter().filter(own).map(|text| text.len()).sum::<usize>()
    }
}
