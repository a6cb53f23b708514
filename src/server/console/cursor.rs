//! How far a container's output was read, so that reading goes on after a gap without losing and without repeating a
//! line. Pure.
//!
//! A line is known by its time, its stream and its ordinal among those with the same two, because the Engine gives a
//! stream out again only from a time on, that time included. Within one stream times grow; between the two they may
//! be slightly out of order, since each line is stamped before it is stored.

use std::fmt;
use std::str::FromStr;

use crate::protocol::console::Stream;

/// What is asked for again before the newest line, in nanoseconds: more than two streams can be out of order.
const MARGIN: u64 = 1_000_000_000;

/// The last line of each stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor([Mark; 3]);

/// A stream's last time, and how many of its lines have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    time_ns: u64,
    count: u32,
}

impl Cursor {
    /// As if everything until then had been read.
    pub fn at(time_ns: u64) -> Cursor {
        let mark = Mark { time_ns, count: 1 };
        Cursor([mark, mark, Mark::default()])
    }

    /// Takes the next line of a stream and gives its ordinal.
    pub fn note(&mut self, stream: Stream, time_ns: u64) -> u32 {
        let mark = &mut self.0[stream as usize];
        *mark = match mark.time_ns == time_ns {
            true => Mark { time_ns, count: mark.count.saturating_add(1) },
            false => Mark { time_ns, count: 1 },
        };
        mark.count - 1
    }

    /// Where to read again from; `None` before the first line.
    pub fn since_ns(&self) -> Option<u64> {
        let times = || self.0.iter().filter(|mark| mark.count > 0).map(|mark| mark.time_ns);
        let newest = times().max()?;
        times().min().map(|oldest| oldest.max(newest.saturating_sub(MARGIN)))
    }

    /// The same for a clock that shows `now_ns`. Times after that are from before it was set back: nothing new would
    /// be after them.
    pub fn before(mut self, now_ns: u64) -> Cursor {
        for mark in &mut self.0 {
            if mark.time_ns > now_ns {
                *mark = Mark { time_ns: now_ns, count: 1 };
            }
        }
        self
    }
}

/// Sorts out of an output that was asked for again what was read before.
#[derive(Clone, Debug)]
pub struct Resume {
    read: Cursor,
    seen: Cursor,
    /// The streams that are past what was read.
    past: [bool; 3],
}

impl Resume {
    pub fn after(read: Cursor) -> Resume {
        Resume { read, seen: Cursor::default(), past: read.0.map(|mark| mark.count == 0) }
    }

    /// Whether the next line of a stream was not read before.
    pub fn is_new(&mut self, stream: Stream, time_ns: u64) -> bool {
        let at = stream as usize;
        if !self.past[at] {
            let ordinal = self.seen.note(stream, time_ns);
            let Mark { time_ns: last, count } = self.read.0[at];
            self.past[at] = time_ns > last || (time_ns == last && ordinal >= count);
        }
        self.past[at]
    }

    /// Whether every stream is past what was read, so that nobody needs to be asked any more.
    pub fn is_over(&self) -> bool {
        self.past[0] && self.past[1]
    }
}

/// As it is kept in a file: time and count of each stream.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [out, err, _] = self.0;
        write!(f, "{}:{} {}:{}", out.time_ns, out.count, err.time_ns, err.count)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Cursor, ()> {
        let mark = |text: &str| {
            let (time, count) = text.split_once(':').ok_or(())?;
            Ok(Mark { time_ns: time.parse().map_err(drop)?, count: count.parse().map_err(drop)? })
        };
        let (out, err) = text.split_once(' ').ok_or(())?;
        Ok(Cursor([mark(out)?, mark(err)?, Mark::default()]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Stream::{Stderr, Stdout};

    fn cursor(lines: &[(Stream, u64)]) -> Cursor {
        let mut cursor = Cursor::default();
        for (stream, time) in lines {
            cursor.note(*stream, *time);
        }
        cursor
    }

    #[test]
    fn ordinals_count_among_equal_time_and_stream() {
        let mut cursor = Cursor::default();
        let lines = [(Stdout, 1), (Stdout, 1), (Stderr, 1), (Stdout, 1), (Stdout, 2), (Stderr, 1)];
        let ordinals = lines.map(|(stream, time)| cursor.note(stream, time));
        assert_eq!(ordinals, [0, 1, 0, 2, 0, 1]);
    }

    #[test]
    fn reading_goes_on_a_little_earlier_but_not_where_a_quiet_stream_was() {
        assert_eq!(Cursor::default().since_ns(), None);
        assert_eq!(cursor(&[(Stdout, 5 * MARGIN)]).since_ns(), Some(5 * MARGIN));
        assert_eq!(
            cursor(&[(Stdout, 5 * MARGIN), (Stderr, 5 * MARGIN - 3)]).since_ns(),
            Some(5 * MARGIN - 3)
        );
        assert_eq!(cursor(&[(Stderr, 7), (Stdout, 5 * MARGIN)]).since_ns(), Some(4 * MARGIN));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_silence_a_stream() {
        let mut resume = Resume::after(cursor(&[(Stdout, 100), (Stdout, 100)]).before(50));
        assert!(!resume.is_new(Stdout, 49));
        assert!(resume.is_new(Stdout, 51));
    }

    #[test]
    fn is_kept_as_text() {
        let cursor = cursor(&[(Stdout, u64::MAX), (Stderr, 7), (Stderr, 7)]);
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in ["", "1:1", "1:1 1", "a:1 1:1", "-1:1 1:1"] {
            assert_eq!(bad.parse::<Cursor>(), Err(()), "{bad:?}");
        }
    }

    proptest! {
        /// Whatever is cut where, a resumed reader takes up every line exactly once.
        #[test]
        fn nothing_is_lost_and_nothing_comes_twice(
            steps in prop::collection::vec((any::<bool>(), prop_oneof![Just(0u64), Just(1), 2..3 * MARGIN]), 1..60),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut time = 10 * MARGIN;
            let lines: Vec<(Stream, u64)> = steps
                .into_iter()
                .map(|(out, step)| { time += step; (if out { Stdout } else { Stderr }, time) })
                .collect();
            let cut = cut.index(lines.len() + 1);
            let read = cursor(&lines[..cut]);
            let since = read.since_ns().unwrap_or(0);
            let mut resume = Resume::after(read);
            let again: Vec<_> = lines
                .iter()
                .enumerate()
                .filter(|(_, line)| line.1 >= since)
                .filter(|(_, line)| resume.is_new(line.0, line.1))
                .map(|(at, _)| at)
                .collect();
            prop_assert_eq!(again, (cut..lines.len()).collect::<Vec<_>>());
        }
    }
}
