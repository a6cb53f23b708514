//! Reads a stream of JSON objects one line at a time, with a bound on what is kept in memory.
//!
//! The Engine ends each object of `/events` and of a pull with a line end, however the bytes arrive. Blocks on the
//! reader only.

use std::io::{self, Read};

/// Bytes of one object. An event carries its container's labels, and those have no bound of their own.
const LINE_CAP: usize = 1 << 20;
const READ: usize = 8 * 1024;

pub(super) struct JsonLines<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Where the line begins that was not given out yet.
    start: usize,
    /// Up to where no line end was found.
    searched: usize,
    /// The line that is being read passed the cap: the rest of it is thrown away.
    skipping: bool,
    skipped: u64,
}

impl<R: Read> JsonLines<R> {
    pub fn new(reader: R) -> JsonLines<R> {
        JsonLines { reader, buffer: Vec::new(), start: 0, searched: 0, skipping: false, skipped: 0 }
    }

    /// How many lines were over the cap and thrown away.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next line that is not blank, or `None` at the end. What comes after the last line end counts as a line.
    pub fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            let Some(end) = self.line_end()? else {
                let rest = self.start..self.buffer.len();
                self.start = rest.end;
                self.searched = rest.end;
                let rest = self.buffer[rest].trim_ascii();
                return Ok(Some(rest).filter(|rest| !rest.is_empty() && !self.skipping));
            };
            let line = self.start..end;
            self.start = end + 1;
            self.searched = self.start;
            if std::mem::take(&mut self.skipping) {
                self.skipped += 1;
                continue;
            }
            if !self.buffer[line.clone()].trim_ascii().is_empty() {
                return Ok(Some(self.buffer[line].trim_ascii()));
            }
        }
    }

    /// The index of the next line end, reading as far as needed.
    fn line_end(&mut self) -> io::Result<Option<usize>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                return Ok(Some(self.searched + at));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.buffer.len() > LINE_CAP {
                self.buffer.clear();
                self.skipping = true;
            }
            // One large line must not hold its memory for the rest of the stream.
            if self.buffer.capacity() > 8 * READ && self.buffer.len() < READ {
                self.buffer.shrink_to(2 * READ);
            }
            self.searched = self.buffer.len();
            self.buffer.resize(self.searched + READ, 0);
            let read = loop {
                match self.reader.read(&mut self.buffer[self.searched..]) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    read => break read,
                }
            };
            self.buffer.truncate(self.searched + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives the bytes in pieces of the given sizes, over and over.
    struct Pieces<'a>(&'a [u8], Vec<usize>, usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.1[self.2 % self.1.len()].clamp(1, buffer.len()).min(self.0.len());
            self.2 += 1;
            buffer[..size].copy_from_slice(&self.0[..size]);
            self.0 = &self.0[size..];
            Ok(size)
        }
    }

    fn all(bytes: &[u8], pieces: Vec<usize>) -> (Vec<String>, u64) {
        let mut lines = JsonLines::new(Pieces(bytes, pieces, 0));
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            found.push(String::from_utf8(line.to_vec()).unwrap());
        }
        (found, lines.skipped())
    }

    #[test]
    fn any_split_gives_the_same_lines() {
        let text = b"{\"a\":1}\r\n\n{\"b\":2}\n  \r\n{\"c\":3}";
        proptest::proptest!(|(pieces in proptest::collection::vec(1usize..12, 1..8))| {
            let expected: Vec<String> = [r#"{"a":1}"#, r#"{"b":2}"#, r#"{"c":3}"#].map(String::from).into();
            proptest::prop_assert_eq!(all(text, pieces), (expected, 0));
        });
    }

    #[test]
    fn a_line_over_the_cap_is_skipped_and_counted() {
        let text = format!("one\n{}\ntwo\n", "x".repeat(3 * LINE_CAP));
        assert_eq!(all(text.as_bytes(), vec![5000]), (vec!["one".into(), "two".into()], 1));
    }

    #[test]
    fn memory_stays_bounded_whatever_comes() {
        let mut lines = JsonLines::new(io::repeat(b'x').take(64 << 20));
        assert_eq!(lines.next().unwrap(), None);
        assert!(lines.buffer.capacity() <= 4 * LINE_CAP, "{}", lines.buffer.capacity());
    }
}
