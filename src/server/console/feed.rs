//! One server's output on its way to the Panel: its ring, how far the Panel has it, and what goes out next. Pure.
//!
//! The ring is the queue: a line that waits is one behind `sent`, and what was never sent is the difference of two
//! positions. INVARIANT: `confirmed` and `marked` are never behind the ring's end, and `sent` neither.

use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::cursor::Cursor;
use super::ring::{Chunk, Position, Ring, START};
use crate::docker::ContainerId;
use crate::protocol::ServerId;
use crate::protocol::console::{MAX_LOG, Stream};

/// Bytes of one server's lines in memory.
pub const RING: usize = 256 << 10;

/// After a batch that left nothing behind, the next one gathers lines for so long, or until they fill a message: the
/// Engine gives out line by line, and a message for each would cost more than the lines.
const GATHER: Duration = Duration::from_millis(20);

/// See the module's description.
#[derive(Debug)]
pub struct Feed {
    pub ring: Ring,
    /// Whether lines go out.
    live: bool,
    /// Before the next line to go out.
    sent: Position,
    /// Before the first line that is not known to have arrived.
    confirmed: Position,
    /// What is confirmed with the answer to the ping that is under way.
    marked: Position,
    /// Lines that are gone before they could be sent, and that the Panel is to be told of before what follows.
    gap: Option<(Position, Position)>,
    bucket: Option<Bucket>,
    rests_until: Option<Instant>,
    gathers_until: Option<Instant>,
    /// Nanoseconds since 1970.
    pub last_activity_ns: Option<u64>,
    /// Whose output the ring's cursor is about.
    pub container: Option<ContainerId>,
    /// What was read when the console was cleared: history does not go back behind it.
    pub cleared: Option<Cursor>,
}

/// Lines that could not be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub server: ServerId,
    pub lines: u64,
    pub bytes: u64,
    /// Of the first line and of the last.
    pub seqs: (u64, u64),
}

/// Lines on their way out, of one stream. Kept by whoever sends, so that its memory is used again.
#[derive(Debug, Default)]
pub struct Batch {
    pub message: String,
    pub stream: Option<Stream>,
    pub seq: u64,
    pub time_ns: u64,
    pub dt: Vec<i64>,
    pub ordinal: u32,
    pub partial: bool,
}

/// What a feed has to say now.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Nothing,
    /// The Panel must be told of a gap first.
    Gap,
    /// Nothing before this time.
    Rest(Instant),
    /// The batch is filled; whether there is more.
    Batch {
        more: bool,
    },
}

impl Feed {
    /// `rate` is in bytes a second, if there is a limit.
    pub fn new(live: bool, rate: Option<u64>, now: Instant) -> Feed {
        Feed {
            ring: Ring::default(),
            live,
            sent: START,
            confirmed: START,
            marked: START,
            gap: None,
            bucket: rate.map(|rate| Bucket::new(rate, now)),
            rests_until: None,
            gathers_until: None,
            last_activity_ns: None,
            container: None,
            cleared: None,
        }
    }

    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Adds lines that were read.
    pub fn add(&mut self, chunk: &Chunk) {
        self.ring.append(chunk, RING);
        if !self.live {
            self.skip_to(self.ring.end());
        }
    }

    /// Whether anything waits to go out.
    pub fn has_waiting(&self) -> bool {
        self.live && self.gap.is_none() && self.sent.seq < self.ring.end().seq
    }

    /// About how many bytes of memory the lines take that wait.
    pub fn waiting(&self) -> usize {
        let (end, from) = (self.ring.end(), self.sent);
        if self.live { (end.bytes - from.bytes + 16 * (end.seq - from.seq)) as usize } else { 0 }
    }

    fn fills_a_message(&self) -> bool {
        self.waiting() >= MAX_LOG
    }

    /// Ends the gathering of lines, when they fill a message or when their reader `waits` for them to go. True when they
    /// were held back for that alone.
    pub fn stop_gathering(&mut self, waits: bool) -> bool {
        let ends = self.gathers_until.is_some() && (waits || self.fills_a_message());
        if ends {
            self.gathers_until = None;
        }
        ends && self.rests_until.is_none()
    }

    /// Whether the oldest lines may go without being missed.
    pub fn front_is_sent(&self) -> bool {
        let second = self.ring.second_segment();
        !self.live || second.is_some_and(|seq| seq <= self.sent.seq) || self.waiting() == 0
    }

    /// Lines go out from now on: from behind line `since` where that is given, else from where they stand or, when
    /// none went out, from now.
    pub fn connect(&mut self, since: Option<u64>) {
        let was_live = std::mem::replace(&mut self.live, true);
        match since {
            Some(seq) => {
                // The lines that the ring does not hold any more, the Panel shall know of.
                let wanted = seq.saturating_add(1).min(self.ring.end().seq);
                let front = self.ring.front();
                let from = match wanted < front.seq {
                    true => Position { seq: wanted, bytes: front.bytes },
                    false => self.ring.position(wanted),
                };
                self.gap = None;
                self.skip_to(from);
            }
            None if !was_live => self.skip_to(self.ring.end()),
            None => {}
        }
    }

    /// The whole ring goes out again: the Panel knows numbers of another boot only.
    pub fn connect_anew(&mut self) {
        self.live = true;
        self.gap = None;
        self.skip_to(self.ring.front());
    }

    pub fn disconnect(&mut self) {
        self.live = false;
        self.gap = None;
        self.skip_to(self.ring.end());
    }

    /// What was printed until now is not to be shown again.
    pub fn clear(&mut self) {
        self.cleared = Some(self.ring.cursor());
        self.drop_lines();
    }

    /// Lets all lines go, those that wait too.
    pub fn drop_lines(&mut self) {
        self.ring.clear();
        self.gap = None;
        self.skip_to(self.ring.end());
    }

    fn skip_to(&mut self, to: Position) {
        (self.sent, self.confirmed, self.marked) = (to, to, to);
    }

    /// A ping goes out behind what was sent.
    pub fn mark(&mut self) {
        self.marked = self.sent;
    }

    /// The ping was answered.
    pub fn confirm(&mut self) {
        if self.marked.seq > self.confirmed.seq {
            self.confirmed = self.marked;
        }
    }

    /// A new link: what is not known to have arrived goes out again.
    pub fn rewind(&mut self) {
        if self.confirmed.seq < self.sent.seq {
            self.sent = self.confirmed;
        }
        self.marked = self.confirmed;
    }

    /// What was read and has arrived, for going on after a restart of the Agent.
    pub fn settled(&self) -> Cursor {
        if self.live { self.ring.cursor_at(self.confirmed.seq) } else { self.ring.cursor() }
    }

    /// What is to be told of as lost; what follows may go out then.
    pub fn take_gap(&mut self, server: &ServerId) -> Option<Gap> {
        let (from, to) = self.gap.take()?;
        Some(Gap {
            server: server.clone(),
            lines: to.seq - from.seq,
            bytes: to.bytes - from.bytes,
            seqs: (from.seq, to.seq - 1),
        })
    }

    /// Fills `batch` with the next lines: whole ones, of one stream, at most 32 KiB. A piece of a longer line ends it.
    pub fn next(&mut self, batch: &mut Batch, now: Instant) -> Next {
        if !self.live {
            return Next::Nothing;
        }
        if let Some(until) = self.rests_until {
            if now < until {
                return Next::Rest(until);
            }
            self.rests_until = None;
        }
        let front = self.ring.front();
        if self.sent.seq < front.seq {
            let from = self.gap.map_or(self.sent, |(from, _)| from);
            self.gap = Some((from, front));
            self.sent = front;
        }
        if self.gap.is_some() {
            return Next::Gap;
        }
        let end = self.ring.end();
        if self.sent.seq >= end.seq {
            return Next::Nothing;
        }
        if let Some(until) = self.gathers_until.filter(|until| now < *until && !self.fills_a_message()) {
            return Next::Rest(until);
        }
        let bytes = self.fill(batch);
        let last =
            Position { seq: self.sent.seq + batch.dt.len() as u64, bytes: self.sent.bytes + bytes as u64 };
        self.sent = last;
        if let Some(bucket) = &mut self.bucket {
            self.rests_until = bucket.take(bytes, now).err();
        }
        let more = last.seq < end.seq;
        self.gathers_until = (!more).then(|| now + GATHER);
        Next::Batch { more }
    }

    /// Gives the bytes of the lines with their ends.
    fn fill(&self, batch: &mut Batch) -> usize {
        batch.message.clear();
        batch.dt.clear();
        let mut lines = self.ring.lines(self.sent.seq).peekable();
        let Some(first) = lines.peek().copied() else { return 0 };
        (batch.stream, batch.seq, batch.ordinal) = (Some(first.stream), first.seq, first.ordinal);
        (batch.time_ns, batch.partial) = (first.time_ns, false);
        for line in lines {
            let begins = batch.dt.is_empty();
            if line.stream != first.stream
                || !begins && (line.partial || batch.message.len() + 1 + line.text.len() > MAX_LOG)
            {
                break;
            }
            if !begins {
                batch.message.push('\n');
            }
            batch.message.push_str(line.text);
            batch.dt.push(line.time_ns.wrapping_sub(first.time_ns).cast_signed());
            batch.partial = line.partial;
            if line.partial {
                break;
            }
        }
        batch.message.len() + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(rate: Option<u64>) -> Feed {
        Feed::new(true, rate, Instant::now())
    }

    fn add(feed: &mut Feed, texts: &[&str]) {
        let mut chunk = Chunk::default();
        texts.iter().for_each(|text| chunk.add(Stream::Stdout, 7, text, false));
        feed.add(&chunk);
    }

    fn next(feed: &mut Feed) -> Option<(u64, String)> {
        let mut batch = Batch::default();
        match poll(feed, &mut batch) {
            Next::Batch { .. } => Some((batch.seq, batch.message)),
            _ => None,
        }
    }

    /// What it has to say once it has gathered.
    fn poll(feed: &mut Feed, batch: &mut Batch) -> Next {
        match feed.next(batch, Instant::now()) {
            Next::Rest(until) => feed.next(batch, until),
            next => next,
        }
    }

    #[test]
    fn what_comes_in_little_pieces_goes_out_together() {
        let mut feed = feed(None);
        let (mut batch, now) = (Batch::default(), Instant::now());
        add(&mut feed, &["at once"]);
        assert_eq!(feed.next(&mut batch, now), Next::Batch { more: false });
        add(&mut feed, &["a"]);
        add(&mut feed, &["b"]);
        assert_eq!(feed.next(&mut batch, now), Next::Rest(now + GATHER));
        assert!(!feed.stop_gathering(false));
        assert_eq!(feed.next(&mut batch, now + GATHER), Next::Batch { more: false });
        assert_eq!(batch.message, "a\nb");
        // A message's worth does not wait, nor does what its reader waits for.
        add(&mut feed, &["c"]);
        assert!(feed.stop_gathering(true) && !feed.stop_gathering(true));
        assert_eq!(feed.next(&mut batch, now + GATHER), Next::Batch { more: false });
        add(&mut feed, &[&"x".repeat(MAX_LOG)]);
        assert!(feed.stop_gathering(false));
        assert_eq!(feed.next(&mut batch, now + GATHER), Next::Batch { more: false });
    }

    fn gap(feed: &mut Feed) -> Option<(u64, u64, (u64, u64))> {
        feed.take_gap(&"s".parse().unwrap()).map(|gap| (gap.lines, gap.bytes, gap.seqs))
    }

    #[test]
    fn lines_of_one_stream_go_together() {
        let mut feed = feed(None);
        let mut chunk = Chunk::default();
        for (stream, text) in [(Stream::Stdout, "a"), (Stream::Stdout, "b"), (Stream::Stderr, "c")] {
            chunk.add(stream, 7, text, false);
        }
        feed.add(&chunk);
        assert_eq!(next(&mut feed), Some((1, "a\nb".into())));
        assert_eq!(next(&mut feed), Some((3, "c".into())));
        assert_eq!(next(&mut feed), None);
    }

    #[test]
    fn what_has_not_arrived_goes_out_again() {
        let mut feed = feed(None);
        add(&mut feed, &["a"]);
        next(&mut feed);
        feed.mark();
        add(&mut feed, &["b"]);
        next(&mut feed);
        feed.confirm();
        feed.rewind();
        assert_eq!(next(&mut feed), Some((2, "b".into())), "the ping was written before it");
        feed.mark();
        feed.confirm();
        feed.rewind();
        assert_eq!(next(&mut feed), None);
    }

    #[test]
    fn connect_goes_back_and_disconnect_mutes() {
        let mut feed = feed(None);
        add(&mut feed, &["a", "b", "c"]);
        next(&mut feed);
        feed.connect(None);
        assert_eq!(next(&mut feed), None, "it was connected already");
        feed.connect(Some(1));
        assert_eq!(next(&mut feed), Some((2, "b\nc".into())));
        feed.connect(Some(99));
        assert_eq!(next(&mut feed), None, "there is no such line yet");
        feed.disconnect();
        add(&mut feed, &["d"]);
        assert_eq!(next(&mut feed), None);
        feed.connect(None);
        add(&mut feed, &["e"]);
        assert_eq!(next(&mut feed), Some((5, "e".into())), "what was printed meanwhile was not wanted");
        feed.connect(Some(3));
        assert_eq!(next(&mut feed), Some((4, "d\ne".into())));
        feed.connect_anew();
        assert_eq!(next(&mut feed), Some((1, "a\nb\nc\nd\ne".into())));
    }

    #[test]
    fn a_gap_is_told_before_what_follows_it() {
        let mut feed = feed(None);
        add(&mut feed, &["a"]);
        next(&mut feed);
        let long = "x".repeat(1000);
        for _ in 0..1000 {
            add(&mut feed, &[&long]);
        }
        assert_eq!(next(&mut feed), None);
        let (lines, bytes, (first, last)) = gap(&mut feed).unwrap();
        assert_eq!((bytes, first, last), (lines * 1001, 2, lines + 1));
        assert_eq!(next(&mut feed).unwrap().0, last + 1);
    }

    #[test]
    fn a_piece_of_a_longer_line_is_a_message_of_its_own() {
        let mut feed = feed(None);
        add(&mut feed, &["before", &"x".repeat(MAX_LOG + 1), "after"]);
        let mut batch = Batch::default();
        let mut said = Vec::new();
        while matches!(poll(&mut feed, &mut batch), Next::Batch { .. }) {
            said.push((batch.message.len(), batch.partial));
        }
        assert_eq!(said, [(6, false), (MAX_LOG, true), (1 + 1 + 5, false)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(usize, usize),
        Send,
        TellGap,
        Mark,
        Confirm,
        Cut,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1usize..40, 0usize..3000).prop_map(|(lines, length)| Step::Add(lines, length)),
            4 => Just(Step::Send),
            2 => Just(Step::TellGap),
            1 => Just(Step::Mark),
            1 => Just(Step::Confirm),
            1 => Just(Step::Cut),
        ]
    }

    proptest! {
        /// Every line arrives or is told as lost, in order, whatever is cut when; a link that stands repeats nothing.
        #[test]
        fn nothing_is_lost_silently(steps in prop::collection::vec(step(), 1..200)) {
            let mut feed = feed(None);
            let (mut added, mut known) = (0u64, vec![false]);
            let mut expected = 1;
            let mut batch = Batch::default();
            let settle = |feed: &mut Feed, batch: &mut Batch, known: &mut Vec<bool>, expected: &mut u64| {
                match poll(feed, batch) {
                    Next::Batch { .. } => {
                        assert_eq!(batch.seq, *expected);
                        assert!(batch.message.len() <= MAX_LOG);
                        let texts: Vec<&str> = batch.message.split('\n').collect();
                        assert_eq!(texts.len(), batch.dt.len());
                        for (at, text) in texts.iter().enumerate() {
                            let seq = batch.seq + at as u64;
                            assert!(text.starts_with(&format!("{seq} ")), "{text:.20} is not line {seq}");
                            known[seq as usize] = true;
                        }
                        *expected += batch.dt.len() as u64;
                        true
                    }
                    Next::Gap => {
                        let (lines, _, (first, last)) = gap(feed).unwrap();
                        assert_eq!(lines, last - first + 1);
                        assert!(first <= *expected && last >= *expected - 1, "{first}-{last} at {expected}");
                        (first..=last).for_each(|seq| known[seq as usize] = true);
                        *expected = last + 1;
                        true
                    }
                    _ => false,
                }
            };
            for step in steps {
                match step {
                    Step::Add(lines, length) => {
                        let texts: Vec<String> = (0..lines as u64)
                            .map(|n| format!("{} {}", added + n + 1, "x".repeat(length)))
                            .collect();
                        add(&mut feed, &texts.iter().map(String::as_str).collect::<Vec<_>>());
                        added += lines as u64;
                        known.resize(added as usize + 1, false);
                    }
                    Step::Send | Step::TellGap => drop(settle(&mut feed, &mut batch, &mut known, &mut expected)),
                    Step::Mark => feed.mark(),
                    Step::Confirm => feed.confirm(),
                    Step::Cut => {
                        feed.rewind();
                        expected = feed.sent.seq;
                    }
                }
            }
            while settle(&mut feed, &mut batch, &mut known, &mut expected) {}
            prop_assert!(known[1..].iter().all(|known| *known));
            prop_assert_eq!(expected, added + 1);
        }
    }
}
