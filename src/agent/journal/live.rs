//! What a journal amounts to: commands that are under way, answers that are remembered, and messages that are not
//! delivered. Made by going through the records; what it writes out again is the compacted journal. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::record::{Record, Said};
use crate::agent::ledger::{MAX_AGE, MAX_BYTES, MAX_COMMANDS};
use crate::link::Drops;
use crate::protocol::CommandKey;

/// Bytes of events that wait for their delivery.
const MAX_SAID: usize = 4 << 20;

/// See the module's description.
#[derive(Debug, Default)]
pub struct Live {
    /// In the order in which they were received.
    open: BTreeMap<u64, Open>,
    open_at: HashMap<CommandKey, u64>,
    received: u64,
    /// By number, thus the oldest first.
    done: VecDeque<Done>,
    done_bytes: usize,
    /// Numbers of the answers that are not delivered.
    owed: BTreeSet<u64>,
    said: BTreeMap<u64, Said>,
    said_bytes: usize,
    /// What was not delivered and is kept no longer.
    pub lost: Drops,
    /// Above every number that was given.
    pub next_number: u64,
}

/// A command that was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub key: CommandKey,
    pub action: String,
    pub server: String,
    pub link: bool,
    /// The container's run when it was started; `None` when it was not.
    pub started: Option<u64>,
}

/// A command that was answered, when, and whether that is known to the Panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub key: CommandKey,
    pub number: u64,
    pub at: u64,
    pub answer: String,
}

impl Done {
    fn size(&self) -> usize {
        256 + self.key.id.len() + self.answer.len()
    }
}

impl Live {
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Received { key, action, server, link } => {
                self.received += 1;
                self.close(&key);
                self.open_at.insert(key.clone(), self.received);
                let open = Open { key, action, server, link, started: None };
                self.open.insert(self.received, open);
            }
            Record::Started { key, run } => {
                let open = self.open_at.get(&key).and_then(|at| self.open.get_mut(at));
                if let Some(open) = open {
                    open.started = Some(run);
                }
            }
            Record::Done { key, number, at, owed, answer } => {
                self.close(&key);
                self.next_number = self.next_number.max(number + 1);
                // One that was forgotten for its age, and run again.
                if let Some(old) = self.done.iter().rposition(|done| done.key == key) {
                    self.forget(old);
                }
                if owed {
                    self.owed.insert(number);
                }
                let done = Done { key, number, at, answer };
                self.done_bytes += done.size();
                self.done.push_back(done);
                while self.done.len() > MAX_COMMANDS || self.done_bytes > MAX_BYTES {
                    self.forget(0);
                }
            }
            Record::Said(said) => {
                self.next_number = self.next_number.max(said.number + 1);
                self.said_bytes += said.text.len();
                self.said.insert(said.number, said);
                while self.said_bytes > MAX_SAID
                    && let Some((_, oldest)) = self.said.pop_first()
                {
                    self.lose(&oldest.text);
                    self.said_bytes -= oldest.text.len();
                }
            }
            Record::Gone { numbers } => {
                for number in numbers {
                    self.owed.remove(&number);
                    if let Some(said) = self.said.remove(&number) {
                        self.said_bytes -= said.text.len();
                    }
                }
            }
        }
    }

    fn close(&mut self, key: &CommandKey) {
        if let Some(at) = self.open_at.remove(key) {
            self.open.remove(&at);
        }
    }

    fn forget(&mut self, at: usize) {
        if let Some(done) = self.done.remove(at) {
            self.done_bytes -= done.size();
            if self.owed.remove(&done.number) {
                self.lose(&done.answer);
            }
        }
    }

    fn lose(&mut self, text: &str) {
        self.lost += Drops { messages: 1, bytes: text.len() as u64 };
    }

    /// Lets go of what is older than anything is remembered. `now` is milliseconds since the Unix epoch; what bears a
    /// later time, from before the clock was set back, stays.
    pub fn expire(&mut self, now: u64) {
        let oldest = now.saturating_sub(MAX_AGE.as_millis() as u64);
        while self.done.front().is_some_and(|done| done.at < oldest) {
            self.forget(0);
        }
        let old: Vec<u64> =
            self.said.values().filter(|said| said.at < oldest).map(|said| said.number).collect();
        for number in old {
            if let Some(said) = self.said.remove(&number) {
                self.lose(&said.text);
                self.said_bytes -= said.text.len();
            }
        }
    }

    pub fn open(&self) -> impl Iterator<Item = &Open> {
        self.open.values()
    }

    /// The oldest first, each with whether its answer is not delivered.
    pub fn done(&self) -> impl Iterator<Item = (&Done, bool)> {
        self.done.iter().map(|done| (done, self.owed.contains(&done.number)))
    }

    /// The oldest first.
    pub fn said(&self) -> impl Iterator<Item = &Said> {
        self.said.values()
    }

    /// The records that amount to the same.
    pub fn write(&self) -> Vec<u8> {
        let mut log = Vec::with_capacity(self.done_bytes + self.said_bytes + (4 << 10));
        for (done, owed) in self.done() {
            let Done { key, number, at, answer } = done.clone();
            Record::Done { key, number, at, owed, answer }.write(&mut log);
        }
        for Open { key, action, server, link, started } in self.open().cloned() {
            Record::Received { key: key.clone(), action, server, link }.write(&mut log);
            if let Some(run) = started {
                Record::Started { key, run }.write(&mut log);
            }
        }
        self.said().for_each(|said| Record::Said(said.clone()).write(&mut log));
        log
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Reader;
    use super::*;

    fn key(id: u64) -> CommandKey {
        CommandKey { id: id.to_string(), content: [0; 32] }
    }

    fn received(id: u64) -> Record {
        Record::Received { key: key(id), action: "start_server".into(), server: "s".into(), link: true }
    }

    fn done(id: u64, at: u64) -> Record {
        Record::Done { key: key(id), number: id, at, owed: true, answer: "x".repeat(100) }
    }

    fn said(number: u64, bytes: usize) -> Record {
        let text = "x".repeat(bytes);
        Record::Said(Said { number, at: number, boot: "b".into(), seq: 1, server: None, text })
    }

    fn live(records: impl IntoIterator<Item = Record>) -> Live {
        let mut live = Live::default();
        records.into_iter().for_each(|record| live.apply(record));
        live
    }

    type Seen = (Vec<Open>, Vec<(Done, bool)>, Vec<Said>, u64);

    /// What can be seen of it.
    fn seen(live: &Live) -> Seen {
        let done = live.done().map(|(done, owed)| (done.clone(), owed));
        let (open, said) = (live.open().cloned().collect(), live.said().cloned().collect());
        (open, done.collect(), said, live.next_number)
    }

    #[test]
    fn amounts_to_the_same_when_it_is_written_out() {
        let records = [
            received(1),
            received(2),
            Record::Started { key: key(2), run: 9 },
            received(3),
            done(3, 5),
            said(4, 10),
            said(5, 10),
            Record::Gone { numbers: vec![4] },
            done(6, 6),
            Record::Gone { numbers: vec![6] },
        ];
        let first = live(records);
        let (open, done, said, next) = seen(&first);
        assert_eq!(open.iter().map(|open| open.started).collect::<Vec<_>>(), [None, Some(9)]);
        assert_eq!(
            done.iter().map(|(done, owed)| (done.number, *owed)).collect::<Vec<_>>(),
            [(3, true), (6, false)]
        );
        assert_eq!((said.len(), next), (1, 7));
        assert_eq!(seen(&live(Reader::new(&first.write()))), seen(&first));
    }

    #[test]
    fn is_bounded_and_counts_what_it_loses() {
        let mut full = live((0..MAX_COMMANDS as u64 + 10).map(|id| done(id, id)));
        assert_eq!((full.done.len(), full.lost.messages), (MAX_COMMANDS, 10));
        full.expire(MAX_AGE.as_millis() as u64 + 20);
        assert_eq!((full.done.front().unwrap().number, full.lost.messages), (20, 20));
        let full = live((0..10).map(|number| said(number, 1 << 20)));
        assert_eq!((full.said.len(), full.lost), (4, Drops { messages: 6, bytes: 6 << 20 }));
        let large =
            |id| Record::Done { key: key(id), number: id, at: 0, owed: false, answer: "x".repeat(1 << 20) };
        let full = live((0..10).map(large));
        assert!(full.done_bytes <= MAX_BYTES && full.done.len() == 3 && full.lost == Drops::default());
    }
}
