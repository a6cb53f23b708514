//! Makes lines with a time out of a log stream that was asked for with `timestamps=1`. Pure and incremental.
//!
//! The Engine stamps what it stored, and it stores at most 16 KiB of a line at once: a longer line comes in parts that
//! repeat the stamp, of which only the last has a line end. With a TTY it writes the same without frames.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::error::Error;
use super::frames::{Frames, Output};
use super::time::parse_rfc3339;

/// Bytes of a line, or of a piece of one that is longer: the bound on what is kept for each of the two outputs.
pub const LINE_CAP: usize = 32 * 1024;
/// Bytes of a line's text that the Engine stores at once.
const PART: usize = 16 * 1024;
/// Bytes of a stamp, which is RFC 3339 with nine digits at most and an offset.
const STAMP_CAP: usize = 40;

/// A line, without its end (`\n`, or `\r\n`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Nanoseconds since 1970, when the Engine read the line's beginning.
    pub time_ns: u64,
    pub output: Output,
    /// What is not UTF-8 is replaced by U+FFFD.
    pub text: Cow<'a, str>,
    /// The line is longer than 32 KiB and goes on in the next one of this output, which has the same time.
    pub partial: bool,
}

/// The assembler's place in the stream.
#[derive(Debug)]
pub struct Lines {
    /// `None` with a TTY.
    frames: Option<Frames>,
    stdout: Assembly,
    stderr: Assembly,
}

/// One output's line in the making.
#[derive(Debug, Default)]
struct Assembly {
    /// Whether a repeated stamp has to be looked for after each 16 KiB, since no frame shows where it is.
    tty: bool,
    /// Whether text comes now, or a stamp.
    in_text: bool,
    /// What has come of a stamp.
    stamp: Vec<u8>,
    /// Whether a line is open; it may have no text yet.
    open: bool,
    /// Of the open line, else of the last one.
    time_ns: u64,
    text: Vec<u8>,
    /// Bytes of text since the last stamp.
    part: usize,
}

impl Lines {
    /// `tty` is the container's `Config.Tty`.
    pub fn new(tty: bool) -> Lines {
        Lines {
            frames: (!tty).then(Frames::new),
            stdout: Assembly { tty, ..Assembly::default() },
            stderr: Assembly::default(),
        }
    }

    /// Takes the next bytes and gives out the lines that they complete, in the order of their ends. Errors are those of
    /// [`Frames::decode`].
    pub fn push(&mut self, bytes: &[u8], mut out: impl FnMut(Line<'_>)) -> Result<(), Error> {
        let Lines { frames, stdout, stderr } = self;
        let Some(frames) = frames else {
            stdout.take(bytes, Output::Stdout, &mut out);
            return Ok(());
        };
        frames.decode(bytes, |piece| {
            let assembly = match piece.output {
                Output::Stdout => &mut *stdout,
                Output::Stderr => &mut *stderr,
            };
            // Every frame begins with a stamp, also one that goes on with a line.
            assembly.in_text &= !piece.begins;
            assembly.take(piece.bytes, piece.output, &mut out);
            if piece.ends {
                assembly.end_stamp(piece.output, &mut out);
            }
        })
    }

    /// The stream ended in good order: gives out what has no line end, such as a prompt. Not to be called when the
    /// connection broke, since a resumed stream brings such a line again, and in full.
    pub fn finish(&mut self, mut out: impl FnMut(Line<'_>)) {
        for (assembly, output) in [(&mut self.stdout, Output::Stdout), (&mut self.stderr, Output::Stderr)] {
            assembly.end_stamp(output, &mut out);
            if assembly.open && !assembly.text.is_empty() {
                assembly.emit(output, false, &mut out);
            }
        }
    }
}

impl Assembly {
    /// Stamps, text and line ends, as they come.
    fn take(&mut self, mut bytes: &[u8], output: Output, out: &mut impl FnMut(Line<'_>)) {
        while !bytes.is_empty() {
            bytes = match self.in_text {
                true => self.take_text(bytes, output, out),
                false => self.take_stamp(bytes, output, out),
            };
        }
    }

    /// Reads a stamp, up to its space, and returns what follows.
    fn take_stamp<'a>(
        &mut self,
        bytes: &'a [u8],
        output: Output,
        out: &mut impl FnMut(Line<'_>),
    ) -> &'a [u8] {
        let look = &bytes[..bytes.len().min(STAMP_CAP - self.stamp.len())];
        let stop = memchr2(b' ', b'\n', look);
        self.stamp.extend_from_slice(&look[..stop.unwrap_or(look.len())]);
        if stop.is_none() && self.stamp.len() < STAMP_CAP {
            return &bytes[look.len()..];
        }
        let was_stamp = self.settle_stamp(output, out);
        let at = stop.unwrap_or(look.len());
        let is_its_space = was_stamp && bytes.get(at) == Some(&b' ');
        &bytes[at + usize::from(is_its_space)..]
    }

    /// A stamp that nothing follows any more is what it is.
    fn end_stamp(&mut self, output: Output, out: &mut impl FnMut(Line<'_>)) {
        if !self.in_text && !self.stamp.is_empty() {
            self.settle_stamp(output, out);
        }
    }

    /// Decides what the bytes in `stamp` are: a repeated stamp, a new line's stamp, or text. Returns whether they were a
    /// stamp. Text it is when an Engine writes stamps of another kind: its lines are still shown, with the time of the
    /// line before.
    fn settle_stamp(&mut self, output: Output, out: &mut impl FnMut(Line<'_>)) -> bool {
        let time_ns = std::str::from_utf8(&self.stamp).ok().and_then(parse_rfc3339);
        let goes_on = self.open && (time_ns == Some(self.time_ns) || self.tty);
        if self.open && !goes_on {
            // The line before never ended, for its process did first.
            self.emit(output, false, out);
        }
        let is_stamp = match goes_on {
            true => time_ns == Some(self.time_ns),
            false => time_ns.is_some(),
        };
        self.part = 0;
        if !is_stamp {
            let text = std::mem::take(&mut self.stamp);
            self.part = text.len();
            self.add(&text, output, out);
            self.stamp = text;
        } else if let Some(time_ns) = time_ns {
            self.time_ns = time_ns;
        }
        self.stamp.clear();
        self.open = true;
        self.in_text = true;
        is_stamp
    }

    /// Reads text up to the line's end, or to where a stamp may be repeated, and returns what follows.
    fn take_text<'a>(&mut self, bytes: &'a [u8], output: Output, out: &mut impl FnMut(Line<'_>)) -> &'a [u8] {
        let room = if self.tty { PART - self.part } else { bytes.len() };
        let look = &bytes[..bytes.len().min(room)];
        let end = memchr(b'\n', look);
        let text = &look[..end.unwrap_or(look.len())];
        self.add(text, output, out);
        self.part += text.len();
        if end.is_some() {
            self.emit(output, false, out);
            return &bytes[text.len() + 1..];
        }
        self.in_text = !(self.tty && self.part == PART);
        &bytes[text.len()..]
    }

    fn add(&mut self, mut text: &[u8], output: Output, out: &mut impl FnMut(Line<'_>)) {
        while self.text.len() + text.len() > LINE_CAP {
            let taken = LINE_CAP.saturating_sub(self.text.len());
            self.text.extend_from_slice(&text[..taken]);
            text = &text[taken..];
            // A character that the cut would split goes to the next piece.
            let cut = whole_characters(&self.text);
            let mut carried = [0; 3];
            let tail = self.text.len() - cut;
            carried[..tail].copy_from_slice(&self.text[cut..]);
            self.text.truncate(cut);
            self.emit(output, true, out);
            self.text.extend_from_slice(&carried[..tail]);
        }
        self.text.extend_from_slice(text);
    }

    fn emit(&mut self, output: Output, partial: bool, out: &mut impl FnMut(Line<'_>)) {
        if !partial && self.text.last() == Some(&b'\r') {
            self.text.pop();
        }
        out(Line { time_ns: self.time_ns, output, text: String::from_utf8_lossy(&self.text), partial });
        self.text.clear();
        if !partial {
            // One long line must not hold its memory for as long as the stream lives.
            if self.text.capacity() > 4096 {
                self.text.shrink_to(1024);
            }
            self.open = false;
            self.in_text = false;
        }
    }
}

/// The length without a character that has begun and not ended.
fn whole_characters(text: &[u8]) -> usize {
    let from = text.len().saturating_sub(3);
    let begun = (from..text.len()).rev().find(|at| text[*at] & 0xc0 != 0x80);
    match begun.map(|at| (at, text[at])) {
        Some((at, 0xc0..=0xdf)) if text.len() - at < 2 => at,
        Some((at, 0xe0..=0xef)) if text.len() - at < 3 => at,
        Some((at, 0xf0..=0xf7)) if text.len() - at < 4 => at,
        _ => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frames::tests::{frame, split};
    use super::*;

    type Got = (u64, Output, String, bool);

    fn run(tty: bool, bytes: &[u8], sizes: &[usize]) -> Vec<Got> {
        let mut lines = Lines::new(tty);
        let mut got = Vec::new();
        let mut keep =
            |line: Line<'_>| got.push((line.time_ns, line.output, line.text.into_owned(), line.partial));
        split(bytes, sizes, |bytes| lines.push(bytes, &mut keep).unwrap());
        lines.finish(&mut keep);
        got
    }

    /// In one piece and in splits of every size that matters.
    fn check(tty: bool, bytes: &[u8], expected: &[(u64, Output, &str, bool)]) {
        let expected: Vec<Got> = expected.iter().map(|(t, o, s, p)| (*t, *o, (*s).to_owned(), *p)).collect();
        for sizes in [&[usize::MAX / 2][..], &[1], &[7], &[8, 1, 30], &[4096]] {
            assert_eq!(run(tty, bytes, sizes), expected, "split into {sizes:?}");
        }
    }

    use Output::{Stderr, Stdout};

    const T1: &str = "1970-01-01T00:00:00.000000001Z";
    const T2: &str = "1970-01-01T00:00:00.000000002Z";

    fn stamped(output: u8, stamp: &str, text: &str) -> Vec<u8> {
        frame(output, format!("{stamp} {text}").as_bytes())
    }

    #[test]
    fn lines_have_their_time_and_output() {
        let bytes = [
            stamped(1, T1, "one\n"),
            stamped(2, T2, "\n"),
            stamped(1, T2, "two \r\n"),
            stamped(1, T2, "no end"),
        ];
        check(
            false,
            &bytes.concat(),
            &[
                (1, Stdout, "one", false),
                (2, Stderr, "", false),
                (2, Stdout, "two ", false),
                (2, Stdout, "no end", false),
            ],
        );
    }

    #[test]
    fn parts_with_the_same_stamp_are_one_line_and_with_another_are_not() {
        let bytes = [
            stamped(1, T1, "a"),
            stamped(2, T1, "between\n"),
            stamped(1, T1, "b"),
            stamped(1, T1, "c\n"),
            stamped(1, T1, "killed in the middle"),
            stamped(1, T2, "next run\n"),
        ];
        check(
            false,
            &bytes.concat(),
            &[
                (1, Stderr, "between", false),
                (1, Stdout, "abc", false),
                (1, Stdout, "killed in the middle", false),
                (2, Stdout, "next run", false),
            ],
        );
    }

    #[test]
    fn a_line_over_the_cap_comes_in_whole_characters() {
        // An odd byte first, so that the cap falls into a character.
        let text = format!("x{}", "é".repeat(40_000));
        let mut bytes = Vec::new();
        for part in text.as_bytes().chunks(PART) {
            bytes.extend(frame(1, &[format!("{T1} ").as_bytes(), part].concat()));
        }
        bytes.extend(stamped(1, T1, "end\n"));
        let got = run(false, &bytes, &[4096]);
        let joined: String = got.iter().map(|line| &*line.2).collect();
        assert_eq!(joined, text.clone() + "end");
        assert_eq!(got.iter().map(|line| line.3).collect::<Vec<_>>(), [true, true, false]);
        assert!(got.iter().all(|line| line.0 == 1 && line.2.len() <= LINE_CAP));
        assert_eq!(got[0].2.len(), LINE_CAP - 1);
        assert_eq!(run(false, &bytes, &[1]), got);
    }

    #[test]
    fn a_tty_has_no_frames_and_repeats_the_stamp_after_16_kib() {
        let long = "l".repeat(PART);
        let bytes = format!("{T1} one\r\n{T2} {long}{T2} {long}{T2} end\r\n{T1} \r\n{T1} prompt> ");
        check(
            true,
            bytes.as_bytes(),
            &[
                (1, Stdout, "one", false),
                (2, Stdout, &long.repeat(2), true),
                (2, Stdout, "end", false),
                (1, Stdout, "", false),
                (1, Stdout, "prompt> ", false),
            ],
        );
        // A line of exactly 16 KiB ends where a stamp could be, and text may look like the beginning of one.
        let bytes = format!("{T1} {long}\n{T2} {long}{}!\n", &T2[..20]);
        let like_a_stamp = format!("{long}{}!", &T2[..20]);
        check(true, bytes.as_bytes(), &[(1, Stdout, &long, false), (2, Stdout, &like_a_stamp, false)]);
    }

    #[test]
    fn what_has_no_stamp_is_a_line_all_the_same() {
        let bytes = [
            stamped(1, T1, "one\n"),
            frame(1, b"Error grabbing logs: unexpected EOF\n"),
            frame(1, b"\n"),
            frame(1, b"word"),
            frame(1, &[b'x'; 100]),
        ];
        let x = "x".repeat(100);
        check(
            false,
            &bytes.concat(),
            &[
                (1, Stdout, "one", false),
                (1, Stdout, "Error grabbing logs: unexpected EOF", false),
                (1, Stdout, "", false),
                (1, Stdout, "word", false),
                (1, Stdout, &x, false),
            ],
        );
    }

    #[test]
    fn what_is_not_utf_8_is_replaced() {
        let bytes = [&frame(1, &[T1.as_bytes(), b" a\xffb\xc3\n"].concat())[..]].concat();
        check(false, &bytes, &[(1, Stdout, "a\u{fffd}b\u{fffd}", false)]);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(
            tty: bool,
            sent in prop::collection::vec((1u8..3, 0u64..3, "[a-zé\r]{0,12}", 0usize..3), 1..8),
            sizes in prop::collection::vec(1usize..50, 1..6),
        ) {
            let mut bytes = Vec::new();
            for (output, time, text, kind) in sent {
                let text = match kind {
                    0 => text.repeat(3000),
                    _ => text,
                };
                let stamp = format!("1970-01-01T00:00:00.00000000{time}Z ");
                let line = text + if kind == 2 && !tty { "" } else { "\n" };
                for part in line.as_bytes().chunks(PART) {
                    let part = [stamp.as_bytes(), part].concat();
                    bytes.extend(if tty { part } else { frame(output, &part) });
                }
            }
            prop_assert_eq!(run(tty, &bytes, &sizes), run(tty, &bytes, &[usize::MAX / 2]));
        }

        #[test]
        fn never_panics_and_keeps_no_more_than_a_line(
            tty: bool,
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            sizes in prop::collection::vec(1usize..50, 1..6),
        ) {
            let mut lines = Lines::new(tty);
            split(&bytes, &sizes, |bytes| {
                let _ = lines.push(bytes, |_| {});
            });
            lines.finish(|_| {});
        }
    }
}
