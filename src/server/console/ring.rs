//! The last lines of one server, numbered, in bounded memory. Pure.
//!
//! Lines lie in segments, a text and a table each, so that a line costs its bytes and 16 more, and is found by its
//! number in constant time within one. Memory is given back by whole segments, the oldest first.

use std::collections::VecDeque;

use super::cursor::Cursor;
use crate::protocol::console::{MAX_LOG, Stream};

/// Bytes of text in a segment, but for a line that is longer.
const SEGMENT: usize = 8 << 10;
/// Of the first segments, so that a server that says little takes little.
const SMALL: usize = 512;
/// What a segment takes beside its text and its table.
const SEGMENT_COST: usize = 96;

/// A place between two lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The number of the line after it. The first line has number 1.
    pub seq: u64,
    /// Bytes of all lines before it, each with its end.
    pub bytes: u64,
}

/// Before the first line.
pub const START: Position = Position { seq: 1, bytes: 0 };

/// A line as it lies in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept<'a> {
    pub seq: u64,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    pub stream: Stream,
    pub ordinal: u32,
    /// It goes on in the next line of the stream.
    pub partial: bool,
    pub text: &'a str,
}

/// Lines that were read at once and go into a ring together, so that its lock is taken once.
#[derive(Debug, Default)]
pub struct Chunk {
    text: String,
    lines: Vec<Staged>,
}

#[derive(Clone, Copy, Debug)]
struct Staged {
    time_ns: u64,
    stream: Stream,
    partial: bool,
    /// Where its text ends.
    end: usize,
}

/// See the module's description.
#[derive(Debug)]
pub struct Ring {
    segments: VecDeque<Segment>,
    front: Position,
    end: Position,
    /// What was read before the front, and before the end.
    base: Cursor,
    cursor: Cursor,
    memory: usize,
}

#[derive(Debug)]
struct Segment {
    start: Position,
    text: String,
    lines: Vec<Meta>,
}

/// 16 bytes.
#[derive(Clone, Copy, Debug)]
struct Meta {
    time_ns: u64,
    /// Where the text ends, under the two bits of the stream and the one of `partial`.
    packed: u32,
    ordinal: u32,
}

const PARTIAL: u32 = 1 << 29;

impl Chunk {
    /// Adds a line; one of over 32 KiB in pieces.
    pub fn add(&mut self, stream: Stream, time_ns: u64, text: &str, partial: bool) {
        let mut rest = text;
        loop {
            let cut = rest.floor_char_boundary(MAX_LOG);
            let (piece, tail) = rest.split_at(cut);
            self.text.push_str(piece);
            let end = self.text.len();
            self.lines.push(Staged { time_ns, stream, partial: partial || !tail.is_empty(), end });
            if tail.is_empty() {
                return;
            }
            rest = tail;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Of the lines with their ends.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.lines.len()
    }

    /// Forgets the lines. One large chunk must not hold its memory for as long as its reader lives.
    pub fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
        self.text.shrink_to(16 << 10);
        self.lines.shrink_to(1 << 10);
    }

    fn iter(&self) -> impl Iterator<Item = (Staged, &str)> {
        let mut begin = 0;
        self.lines.iter().map(move |staged| {
            let text = &self.text[begin..staged.end];
            begin = staged.end;
            (*staged, text)
        })
    }
}

impl Default for Ring {
    fn default() -> Ring {
        Ring {
            segments: VecDeque::new(),
            front: START,
            end: START,
            base: Cursor::default(),
            cursor: Cursor::default(),
            memory: 0,
        }
    }
}

impl Ring {
    /// Before the oldest line.
    pub fn front(&self) -> Position {
        self.front
    }

    /// Behind the newest line.
    pub fn end(&self) -> Position {
        self.end
    }

    /// Bytes that it takes.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// What was read in all.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Adds lines. What is over `limit` bytes then goes, the oldest first.
    pub fn append(&mut self, chunk: &Chunk, limit: usize) {
        for (staged, text) in chunk.iter() {
            self.push(staged, text);
            while self.memory > limit && self.segments.len() > 1 {
                self.drop_oldest();
            }
        }
    }

    fn push(&mut self, staged: Staged, text: &str) {
        let ordinal = self.cursor.note(staged.stream, staged.time_ns);
        let fits = |last: &Segment| last.text.len() + text.len() <= last.text.capacity();
        let segment = match self.segments.back_mut().filter(|last| fits(last)) {
            Some(segment) => segment,
            None => {
                let capacity = self.memory.clamp(SMALL, SEGMENT).max(text.len());
                let text = String::with_capacity(capacity);
                self.memory += SEGMENT_COST + text.capacity();
                // A table that is too large for short lines would cost more than they do.
                self.segments.push_back(Segment { start: self.end, text, lines: Vec::with_capacity(8) });
                self.memory += 8 * size_of::<Meta>();
                self.segments.back_mut().expect("one was just added")
            }
        };
        let table = segment.lines.capacity();
        segment.text.push_str(text);
        let flags = (staged.stream as u32) << 30 | if staged.partial { PARTIAL } else { 0 };
        // A segment is far smaller than the 29 bits that are left.
        let packed = segment.text.len() as u32 | flags;
        segment.lines.push(Meta { time_ns: staged.time_ns, packed, ordinal });
        self.memory += (segment.lines.capacity() - table) * size_of::<Meta>();
        self.end.seq += 1;
        self.end.bytes += text.len() as u64 + 1;
    }

    /// Lets the oldest lines go, a segment of them.
    pub fn drop_oldest(&mut self) {
        let Some(segment) = self.segments.pop_front() else { return };
        self.memory -= segment.memory();
        for meta in &segment.lines {
            self.base.note(meta.stream(), meta.time_ns);
        }
        self.front = self.segments.front().map_or(self.end, |next| next.start);
        if self.segments.is_empty() {
            self.segments.shrink_to_fit();
        }
    }

    /// Lets all lines go; numbers go on.
    pub fn clear(&mut self) {
        while !self.segments.is_empty() {
            self.drop_oldest();
        }
    }

    /// What follows is read from there on: it was read before, or it is another container's.
    pub fn resume(&mut self, cursor: Cursor) {
        if self.segments.is_empty() {
            self.base = cursor;
        }
        self.cursor = cursor;
    }

    /// The place before the line `seq`, or the nearest one there is.
    pub fn position(&self, seq: u64) -> Position {
        if seq <= self.front.seq {
            return self.front;
        }
        match self.segment_of(seq) {
            Some(segment) => segment.position((seq - segment.start.seq) as usize),
            None => self.end,
        }
    }

    /// What was read before the line `seq`.
    pub fn cursor_at(&self, seq: u64) -> Cursor {
        let mut cursor = self.base;
        for line in self.lines(self.front.seq).take_while(|line| line.seq < seq) {
            cursor.note(line.stream, line.time_ns);
        }
        cursor
    }

    /// The lines from `seq` on, or from the oldest.
    pub fn lines(&self, seq: u64) -> impl Iterator<Item = Kept<'_>> {
        let seq = seq.max(self.front.seq);
        let first = self.segments.partition_point(|segment| segment.end() <= seq);
        let segments = self.segments.range(first..);
        segments.flat_map(move |segment| {
            let skip = seq.saturating_sub(segment.start.seq) as usize;
            (skip..segment.lines.len()).map(move |at| segment.line(at))
        })
    }

    /// The number of the first line that stays when the oldest lines go.
    pub fn second_segment(&self) -> Option<u64> {
        self.segments.front().map(Segment::end)
    }

    fn segment_of(&self, seq: u64) -> Option<&Segment> {
        self.segments.get(self.segments.partition_point(|segment| segment.end() <= seq))
    }
}

impl Segment {
    /// The number after its last line.
    fn end(&self) -> u64 {
        self.start.seq + self.lines.len() as u64
    }

    fn memory(&self) -> usize {
        SEGMENT_COST + self.text.capacity() + self.lines.capacity() * size_of::<Meta>()
    }

    fn begin_of(&self, at: usize) -> usize {
        if at == 0 { 0 } else { self.lines[at - 1].text_end() }
    }

    fn position(&self, at: usize) -> Position {
        let bytes = (self.begin_of(at) + at) as u64;
        Position { seq: self.start.seq + at as u64, bytes: self.start.bytes + bytes }
    }

    fn line(&self, at: usize) -> Kept<'_> {
        let meta = self.lines[at];
        Kept {
            seq: self.start.seq + at as u64,
            time_ns: meta.time_ns,
            stream: meta.stream(),
            ordinal: meta.ordinal,
            partial: meta.packed & PARTIAL != 0,
            text: &self.text[self.begin_of(at)..meta.text_end()],
        }
    }
}

impl Meta {
    fn text_end(self) -> usize {
        (self.packed & (PARTIAL - 1)) as usize
    }

    fn stream(self) -> Stream {
        match self.packed >> 30 {
            0 => Stream::Stdout,
            1 => Stream::Stderr,
            _ => Stream::Install,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(lines: &[(Stream, u64, &str)]) -> Chunk {
        let mut chunk = Chunk::default();
        lines.iter().for_each(|(stream, time, text)| chunk.add(*stream, *time, text, false));
        chunk
    }

    #[test]
    fn lines_keep_what_they_are() {
        let mut ring = Ring::default();
        let mut lines =
            chunk(&[(Stream::Stdout, 1, "one"), (Stream::Stderr, 1, ""), (Stream::Stdout, 1, "é")]);
        lines.add(Stream::Install, 2, "half", true);
        ring.append(&lines, 1 << 20);
        let got: Vec<_> =
            ring.lines(0).map(|l| (l.seq, l.time_ns, l.stream, l.ordinal, l.text, l.partial)).collect();
        assert_eq!(
            got,
            [
                (1, 1, Stream::Stdout, 0, "one", false),
                (2, 1, Stream::Stderr, 0, "", false),
                (3, 1, Stream::Stdout, 1, "é", false),
                (4, 2, Stream::Install, 0, "half", true),
            ]
        );
        assert_eq!(ring.end(), Position { seq: 5, bytes: 13 });
    }

    #[test]
    fn a_line_over_32_kib_comes_in_pieces_of_whole_characters() {
        let text = format!("x{}", "é".repeat(40_000));
        let mut ring = Ring::default();
        ring.append(&chunk(&[(Stream::Stdout, 1, &text)]), 1 << 20);
        let pieces: Vec<_> = ring.lines(1).collect();
        assert!(pieces.iter().all(|piece| piece.text.len() <= MAX_LOG));
        assert_eq!(pieces.iter().map(|piece| piece.partial).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(pieces.iter().map(|piece| piece.ordinal).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(pieces.iter().map(|piece| piece.text).collect::<String>(), text);
    }

    #[test]
    fn numbers_go_on_after_a_clear() {
        let mut ring = Ring::default();
        ring.append(&chunk(&[(Stream::Stdout, 1, "one"), (Stream::Stdout, 1, "two")]), 1 << 20);
        ring.clear();
        assert_eq!((ring.memory(), ring.lines(0).count(), ring.front()), (0, 0, ring.end()));
        ring.append(&chunk(&[(Stream::Stdout, 1, "three")]), 1 << 20);
        let line = ring.lines(0).next().unwrap();
        assert_eq!((line.seq, line.ordinal, line.text), (3, 2, "three"));
    }

    #[test]
    fn short_lines_cost_little_and_few_lines_less() {
        let mut ring = Ring::default();
        for n in 0..1000 {
            ring.append(&chunk(&[(Stream::Stdout, n, "tick 123")]), 256 << 10);
        }
        assert!(ring.memory() < 1000 * (8 + 16) * 2, "{}", ring.memory());
        let mut ring = Ring::default();
        ring.append(&chunk(&[(Stream::Stdout, 1, "up")]), 256 << 10);
        assert!(ring.memory() < 1024, "{}", ring.memory());
    }

    proptest! {
        /// Against a list of all lines ever added: a suffix of it is there, whole, within the bound.
        #[test]
        fn holds_the_newest_lines(
            lines in prop::collection::vec((0u8..3, 0u64..4, "[a-zé]{0,40}", 0usize..60), 1..120),
            limit in 2_000usize..40_000,
            clear_at in prop::option::of(0usize..120),
        ) {
            let mut ring = Ring::default();
            let (mut all, mut bytes, mut cleared) = (Vec::new(), vec![0], 0);
            let mut cursors = vec![Cursor::default()];
            for (at, (stream, time, text, repeat)) in lines.into_iter().enumerate() {
                if clear_at == Some(at) {
                    ring.clear();
                    cleared = at;
                }
                let stream = [Stream::Stdout, Stream::Stderr, Stream::Install][usize::from(stream)];
                let text = text.repeat(repeat);
                let mut cursor = *cursors.last().unwrap();
                let ordinal = cursor.note(stream, time);
                cursors.push(cursor);
                ring.append(&chunk(&[(stream, time, &text)]), limit);
                bytes.push(bytes.last().unwrap() + text.len() as u64 + 1);
                all.push((time, stream, ordinal, text));
                let held: usize = ring.segments.iter().map(Segment::memory).sum();
                prop_assert_eq!(held, ring.memory());
                prop_assert!(ring.memory() <= limit.max(SEGMENT_COST + 2 * SEGMENT + 16 * 2048));
                prop_assert!(ring.segments.len() <= 1 || ring.memory() <= limit);
            }
            let front = ring.front();
            prop_assert!(front.seq as usize > cleared);
            prop_assert_eq!(front.bytes, bytes[front.seq as usize - 1]);
            prop_assert_eq!(ring.end().bytes, *bytes.last().unwrap());
            for seq in front.seq..=ring.end().seq {
                let at = seq as usize - 1;
                let got: Vec<_> = ring.lines(seq).map(|l| (l.time_ns, l.stream, l.ordinal, l.text.to_owned())).collect();
                prop_assert_eq!(&got[..], &all[at..]);
                prop_assert_eq!(ring.position(seq), Position { seq, bytes: bytes[at] });
                prop_assert_eq!(ring.cursor_at(seq), cursors[at]);
            }
        }
    }
}
