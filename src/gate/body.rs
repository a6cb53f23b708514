//! The body of a request, collected as its bytes come in. Pure but for the shared budget it counts against.
//!
//! The gate collects bodies whole, before a worker is taken: a client that sends slowly then costs memory it has already
//! paid for with its own bytes, and never a thread. A body that is too large for that belongs into several requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::head::Framing;

/// Most bytes of chunk extensions in a body: nobody needs them, and without a bound they are a body that never grows.
const MAX_EXTENSIONS: usize = 1024;

/// Why a body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// Above the limit of its route (413).
    TooLarge,
    /// The budget of all connections is used up (503).
    NoRoom,
    /// The chunks break RFC 9112 section 7.1, or carry trailers, which are not taken (400).
    Malformed,
}

/// How many bytes of body all connections and handlers hold together.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicUsize,
    most: usize,
}

impl Budget {
    pub fn new(most: usize) -> Arc<Budget> {
        Arc::new(Budget { held: AtomicUsize::new(0), most })
    }
}

/// Bytes counted against a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    held: usize,
}

impl Share {
    pub fn none(budget: &Arc<Budget>) -> Share {
        Share { budget: Arc::clone(budget), held: 0 }
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let before = self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        self.held += bytes;
        before.saturating_add(bytes) <= self.budget.most
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.held, Ordering::Relaxed);
    }
}

/// What comes next on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// This many bytes of data, the whole body.
    Length(u64),
    /// Hexadecimal digits of a chunk size; `digits` of them so far.
    Size {
        size: u64,
        digits: u8,
    },
    /// Bytes after `;` up to CR.
    Extension {
        size: u64,
    },
    /// LF after a chunk size.
    SizeEnd {
        size: u64,
    },
    /// Data of a chunk.
    Data(u64),
    /// CR, then LF, after the data of a chunk.
    DataEnd {
        cr: bool,
    },
    /// CR, then LF, after the last chunk.
    LastEnd {
        cr: bool,
    },
    Complete,
}

/// Takes the bytes of one body and keeps its data.
#[derive(Debug)]
pub(super) struct Collector {
    state: State,
    data: Vec<u8>,
    limit: usize,
    extensions: usize,
    share: Share,
}

impl Collector {
    pub fn new(framing: Framing, limit: usize, share: Share) -> Result<Collector, BodyError> {
        let state = match framing {
            Framing::Length(length) if length > limit as u64 => return Err(BodyError::TooLarge),
            Framing::Length(0) => State::Complete,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
        };
        Ok(Collector { state, data: Vec::new(), limit, extensions: 0, share })
    }

    /// Takes what belongs to the body; what follows it is of no request that will be read.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), BodyError> {
        while let Some(&byte) = bytes.first() {
            if let State::Length(left) | State::Data(left) = self.state {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.keep(&bytes[..taken])?;
                bytes = &bytes[taken..];
                let left = left - taken as u64;
                self.state = match self.state {
                    State::Length(_) if left == 0 => State::Complete,
                    State::Length(_) => State::Length(left),
                    _ if left == 0 => State::DataEnd { cr: false },
                    _ => State::Data(left),
                };
                continue;
            }
            self.state = match (self.state, byte) {
                (State::Complete, _) => return Ok(()),
                // Fifteen digits cannot overflow; more of them are padding, and no chunk is that large.
                (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < 15 => {
                    let digit = char::from(byte).to_digit(16).unwrap_or(0);
                    State::Size { size: size * 16 + u64::from(digit), digits: digits + 1 }
                }
                (State::Size { size, digits: 1.. }, b'\r') => State::SizeEnd { size },
                (State::Size { size, digits: 1.. }, b';') => State::Extension { size },
                (State::Extension { size }, b'\r') => State::SizeEnd { size },
                (State::Extension { size }, b'\t' | b' '..=b'~') if self.extensions < MAX_EXTENSIONS => {
                    self.extensions += 1;
                    State::Extension { size }
                }
                (State::SizeEnd { size: 0 }, b'\n') => State::LastEnd { cr: false },
                (State::SizeEnd { size }, b'\n') => State::Data(size),
                (State::DataEnd { cr: false }, b'\r') => State::DataEnd { cr: true },
                (State::DataEnd { cr: true }, b'\n') => State::Size { size: 0, digits: 0 },
                (State::LastEnd { cr: false }, b'\r') => State::LastEnd { cr: true },
                (State::LastEnd { cr: true }, b'\n') => State::Complete,
                _ => return Err(BodyError::Malformed),
            };
            if let State::Data(size) = self.state
                && size > (self.limit - self.data.len()) as u64
            {
                return Err(BodyError::TooLarge);
            }
            bytes = &bytes[1..];
        }
        Ok(())
    }

    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Bytes of data so far.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    pub fn into_parts(self) -> (Vec<u8>, Share) {
        (self.data, self.share)
    }

    /// INVARIANT: `data` never passes `limit`: `new` checks a length, `push` each chunk size.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        if !self.share.grow(bytes.len()) {
            return Err(BodyError::NoRoom);
        }
        self.data.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(
        framing: Framing,
        limit: usize,
        wire: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, bool), BodyError> {
        let mut body = Collector::new(framing, limit, Share::none(&Budget::new(1 << 20)))?;
        for piece in wire.chunks(step) {
            body.push(piece)?;
        }
        let complete = body.is_complete();
        Ok((body.into_parts().0, complete))
    }

    /// The result must not depend on how the wire cuts the bytes.
    fn check(framing: Framing, limit: usize, wire: &[u8], expected: Result<(&[u8], bool), BodyError>) {
        for step in [1, 2, 3, 7, wire.len().max(1)] {
            let got = collect(framing, limit, wire, step);
            let expected = expected.map(|(data, complete)| (data.to_vec(), complete));
            assert_eq!(got, expected, "{} in pieces of {step}", String::from_utf8_lossy(wire));
        }
    }

    #[test]
    fn lengths() {
        check(Framing::Length(0), 0, b"GET / ", Ok((b"", true)));
        check(Framing::Length(5), 5, b"hello", Ok((b"hello", true)));
        check(Framing::Length(5), 5, b"hell", Ok((b"hell", false)));
        check(Framing::Length(5), 5, b"helloGET /", Ok((b"hello", true)));
        check(Framing::Length(6), 5, b"", Err(BodyError::TooLarge));
        check(Framing::Length(u64::MAX), 5, b"", Err(BodyError::TooLarge));
    }

    #[test]
    fn chunks() {
        let chunked = |limit, wire: &[u8], expected| check(Framing::Chunked, limit, wire, expected);
        chunked(9, b"5\r\nhello\r\n0\r\n\r\n", Ok((b"hello", true)));
        chunked(9, b"05\r\nhello\r\n1;a=\"b\"\r\n!\r\n0;x\r\n\r\nrest", Ok((b"hello!", true)));
        chunked(9, b"5\r\nhello\r\n0\r\n\r", Ok((b"hello", false)));
        chunked(9, b"A\r\n", Err(BodyError::TooLarge));
        chunked(9, b"5\r\nhello\r\n5\r\n", Err(BodyError::TooLarge));
        let malformed: [&[u8]; 16] = [
            b"\r\n",
            b";x\r\n",
            b"+5\r\n",
            b"-1\r\n",
            b"0x5\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"5\n",
            b"5\r\r\n",
            b"5\r\nhello!",
            b"5\r\nhello\n",
            b"5\r\nhello\r\r",
            b"0000000000000005\r\n",
            b"0\r\nTrailer: x\r\n\r\n",
            b"0\r\n\n",
            b"5;\0\r\n",
        ];
        for wire in malformed {
            chunked(9, wire, Err(BodyError::Malformed));
        }
        let mut endless = b"5;".to_vec();
        endless.resize(4096, b'x');
        chunked(9, &endless, Err(BodyError::Malformed));
    }

    #[test]
    fn bodies_share_a_budget() {
        let budget = Budget::new(10);
        let mut first = Collector::new(Framing::Length(8), 8, Share::none(&budget)).unwrap();
        let mut second = Collector::new(Framing::Length(8), 8, Share::none(&budget)).unwrap();
        assert_eq!(first.push(b"12345678"), Ok(()));
        assert_eq!(second.push(b"123"), Err(BodyError::NoRoom));
        drop(second);
        drop(first);
        let mut third = Collector::new(Framing::Length(8), 8, Share::none(&budget)).unwrap();
        assert_eq!(third.push(b"12345678"), Ok(()));
    }
}
