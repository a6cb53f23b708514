//! Which commands were seen and what came of them, so that a repeated one is not run twice and each receipt is
//! answered once. Pure memory of the agent loop; bounded in number, age and bytes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use super::caller::Caller;
use crate::protocol::{CommandKey, Outcome, Reply};

/// How much is remembered, in memory and on disk (section 2 of the contract).
pub const MAX_COMMANDS: usize = 4096;
pub const MAX_BYTES: usize = 4 << 20;
pub const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Who waits for an outcome. `Link` names the connection, by its generation, that the command came on.
#[derive(Clone, Debug)]
pub enum Asker {
    Link { generation: u64 },
    Http(Caller),
}

/// What to do with a command that came in.
#[derive(Debug)]
pub enum Receipt {
    /// Run it.
    New,
    /// It runs already; the answer will serve this receipt too.
    Joined,
    /// It was answered: send the same again, with the same time.
    Answered(Outcome, SystemTime),
    /// Its answer already went out on this connection and counts for this receipt.
    AlreadySent,
}

/// The memory of commands, by key.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: HashMap<CommandKey, Entry>,
    /// Answered ones, the oldest first.
    order: VecDeque<(CommandKey, Instant)>,
    bytes: usize,
    /// Answers to receipts of earlier connections that went out on the current one, not yet asked for on it.
    resent: HashSet<CommandKey>,
}

#[derive(Debug)]
enum Entry {
    Running(Vec<Asker>),
    Answered { outcome: Outcome, at: SystemTime, bytes: usize },
}

impl Ledger {
    /// A new connection began, on which the answers to `resent` were sent again.
    pub fn connected(&mut self, resent: impl IntoIterator<Item = CommandKey>) {
        self.resent = resent.into_iter().collect();
    }

    /// A command came in. For [`Receipt::New`] the caller must run it and then call [`Ledger::answered`].
    pub fn receive(&mut self, key: &CommandKey, asker: Asker, now: Instant) -> Receipt {
        self.forget_old(now);
        match self.entries.get_mut(key) {
            None => {
                self.entries.insert(key.clone(), Entry::Running(vec![asker]));
                Receipt::New
            }
            Some(Entry::Running(askers)) => {
                // Who asks over HTTP leaves after a while and may ask again, for as long as the command runs.
                askers.retain(|asker| !matches!(asker, Asker::Http(caller) if caller.is_gone()));
                askers.push(asker);
                Receipt::Joined
            }
            Some(Entry::Answered { outcome, at, .. }) => {
                if matches!(asker, Asker::Link { .. }) && self.resent.remove(key) {
                    return Receipt::AlreadySent;
                }
                Receipt::Answered(outcome.clone(), *at)
            }
        }
    }

    /// The command's outcome is known. Gives whom to answer: of those on connections that are gone, one answer
    /// serves for all, and for the first that asked again on the connection `current` or will.
    pub fn answered(
        &mut self,
        key: &CommandKey,
        outcome: &Outcome,
        at: SystemTime,
        now: Instant,
        current: u64,
    ) -> Vec<Asker> {
        let bytes = size_of(key, outcome);
        let entry = Entry::Answered { outcome: outcome.clone(), at, bytes };
        let Some(Entry::Running(askers)) = self.entries.insert(key.clone(), entry) else {
            return Vec::new();
        };
        self.bytes += bytes;
        self.order.push_back((key.clone(), now));
        self.forget_old(now);
        let is_current = |a: &Asker| matches!(a, Asker::Link { generation } if *generation == current);
        let asked_again = askers.iter().any(is_current);
        let mut old_served = asked_again;
        let to_answer: Vec<_> = askers
            .into_iter()
            .filter(|asker| match asker {
                Asker::Http(_) => true,
                asker if is_current(asker) => true,
                Asker::Link { .. } => !std::mem::replace(&mut old_served, true),
            })
            .collect();
        if old_served && !asked_again {
            self.resent.insert(key.clone());
        }
        to_answer
    }

    /// Whether somebody on the link waits for it.
    pub fn is_asked_on_link(&self, key: &CommandKey) -> bool {
        let Some(Entry::Running(askers)) = self.entries.get(key) else { return false };
        askers.iter().any(|asker| matches!(asker, Asker::Link { .. }))
    }

    /// The command was refused before anything was touched for a reason that may pass (such as `BUSY`): it is not
    /// remembered, so that the same message may be tried again.
    pub fn forget(&mut self, key: &CommandKey) {
        self.entries.remove(key);
    }

    /// A command of the Agent before this one: it is under way. `asker` is who waits for its answer, unless that was a
    /// caller over HTTP, who is gone.
    pub fn restore_running(&mut self, key: CommandKey, asker: Option<Asker>) {
        self.entries.insert(key, Entry::Running(asker.into_iter().collect()));
    }

    /// The same, answered `age` ago. The oldest come first.
    pub fn restore_answered(
        &mut self,
        key: CommandKey,
        outcome: Outcome,
        at: SystemTime,
        age: Duration,
        now: Instant,
    ) {
        let bytes = size_of(&key, &outcome);
        self.bytes += bytes;
        // A machine that has been up for less than that has no such time; its clock runs on from here.
        self.order.push_back((key.clone(), now.checked_sub(age).unwrap_or(now)));
        self.entries.insert(key, Entry::Answered { outcome, at, bytes });
        self.forget_old(now);
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((_, at)) = self.order.front() {
            let old = now.saturating_duration_since(*at) > MAX_AGE;
            if !old && self.order.len() <= MAX_COMMANDS && self.bytes <= MAX_BYTES {
                break;
            }
            if let Some((key, _)) = self.order.pop_front()
                && let Some(Entry::Answered { bytes, .. }) = self.entries.remove(&key)
            {
                self.bytes -= bytes;
            }
        }
    }
}

fn size_of(key: &CommandKey, outcome: &Outcome) -> usize {
    let key = 2 * (key.id.len() + 128);
    key + match outcome {
        // Names of files are the only thing that a remembered answer may have many of.
        Ok(Reply::Mod(reply)) => 512 + reply.size(),
        Ok(Reply::Kept(reply)) => 512 + reply.size(),
        Ok(_) => 512,
        Err(fault) => 64 + fault.message.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::caller;
    use crate::protocol::{Code, Fault};

    fn key(id: &str) -> CommandKey {
        CommandKey { id: id.into(), content: [0; 32] }
    }

    fn outcome() -> Outcome {
        Err(Fault::new(Code::Internal, "x"))
    }

    fn link(generation: u64) -> Asker {
        Asker::Link { generation }
    }

    /// Receives on `receipts` (generations), answers while `current` is up, and counts the answers.
    fn answers(receipts: &[u64], current: u64) -> usize {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        for &generation in receipts {
            ledger.receive(&key("a"), link(generation), now);
        }
        ledger.answered(&key("a"), &outcome(), SystemTime::now(), now, current).len()
    }

    #[test]
    fn each_receipt_is_answered_once_and_old_connections_share_one_answer() {
        assert_eq!(answers(&[1], 1), 1);
        assert_eq!(answers(&[1, 1], 1), 2);
        assert_eq!(answers(&[1], 2), 1, "the first receipt's connection is gone");
        assert_eq!(answers(&[1, 1], 2), 1);
        assert_eq!(answers(&[1, 2], 2), 1, "the answer serves the first repeat");
        assert_eq!(answers(&[1, 2, 2], 2), 2);
    }

    #[test]
    fn an_answer_sent_again_counts_for_the_first_repeat() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.receive(&key("a"), link(1), now);
        ledger.answered(&key("a"), &outcome(), SystemTime::now(), now, 1);
        ledger.connected([key("a")]);
        assert!(matches!(ledger.receive(&key("a"), link(2), now), Receipt::AlreadySent));
        assert!(matches!(ledger.receive(&key("a"), link(2), now), Receipt::Answered(..)));
        assert!(matches!(
            ledger.receive(&key("a"), Asker::Http(caller::pair().0), now),
            Receipt::Answered(..)
        ));
    }

    #[test]
    fn a_late_answer_to_an_earlier_connection_counts_for_the_first_repeat_too() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.receive(&key("a"), link(1), now);
        ledger.connected([]);
        assert_eq!(ledger.answered(&key("a"), &outcome(), SystemTime::now(), now, 2).len(), 1);
        assert!(matches!(ledger.receive(&key("a"), link(2), now), Receipt::AlreadySent));
        assert!(matches!(ledger.receive(&key("a"), link(2), now), Receipt::Answered(..)));
    }

    #[test]
    fn other_content_is_another_command() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        assert!(matches!(ledger.receive(&key("a"), link(1), now), Receipt::New));
        let other = CommandKey { content: [1; 32], ..key("a") };
        assert!(matches!(ledger.receive(&other, link(1), now), Receipt::New));
        assert!(matches!(ledger.receive(&key("a"), link(1), now), Receipt::Joined));
    }

    #[test]
    fn callers_that_left_are_forgotten_and_the_others_are_answered() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let (patient, answers) = caller::pair();
        ledger.receive(&key("a"), Asker::Http(patient), now);
        for _ in 0..1000 {
            let (caller, answers) = caller::pair();
            assert!(matches!(ledger.receive(&key("a"), Asker::Http(caller), now), Receipt::Joined));
            drop(answers);
        }
        let Some(Entry::Running(askers)) = ledger.entries.get(&key("a")) else { panic!("it runs") };
        assert_eq!(askers.len(), 2, "the one that waits, and the last to leave");
        ledger.receive(&key("a"), link(1), now);
        let to_answer = ledger.answered(&key("a"), &outcome(), SystemTime::now(), now, 1);
        let answered = to_answer.into_iter().filter(|asker| match asker {
            Asker::Http(caller) => {
                caller.answer(outcome(), SystemTime::now());
                !caller.is_gone()
            }
            Asker::Link { .. } => true,
        });
        assert_eq!(answered.count(), 2);
        assert!(answers.now().is_ok());
    }

    #[test]
    fn is_bounded_in_number_and_age() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        for n in 0..MAX_COMMANDS + 10 {
            let key = key(&n.to_string());
            ledger.receive(&key, link(1), now);
            ledger.answered(&key, &outcome(), SystemTime::now(), now, 1);
        }
        assert!(ledger.entries.len() <= MAX_COMMANDS && ledger.bytes <= MAX_BYTES);
        assert!(matches!(ledger.receive(&key("0"), link(1), now), Receipt::New), "the oldest went first");
        let later = now + MAX_AGE + Duration::from_secs(1);
        assert!(matches!(ledger.receive(&key("4000"), link(1), later), Receipt::New));
    }
}
