//! Decodes the multiplexed output stream of logs and attach. Pure and incremental: bytes go in cut anywhere, pieces of
//! frames come out as slices of what went in, so that nothing is copied and no frame is ever held in memory.
//!
//! A frame is `[stream, 0, 0, 0, length: u32 big-endian]` and its bytes. With a TTY there are no frames; only the
//! container's `Config.Tty` says which it is, since Engines before 1.42 label both as raw.

use super::error::{Error, MESSAGE_CAP};

/// Bytes of a frame. The Engine writes at most 32 KiB; more means that what is read is no header.
pub const FRAME_CAP: usize = 1 << 20;
const HEADER: usize = 8;

/// Where output came from. A TTY has one stream, which counts as `Stdout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    Stdout,
    Stderr,
}

/// Part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub output: Output,
    pub bytes: &'a [u8],
    /// The frame's first piece.
    pub begins: bool,
    /// The frame's last piece. An empty frame is one empty piece that begins and ends.
    pub ends: bool,
}

/// The decoder's place in the stream.
#[derive(Debug, Default)]
pub struct Frames {
    header: [u8; HEADER],
    /// Bytes of the header that have come.
    header_len: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    begun: bool,
    /// Text of an error frame, cut at 4 KiB.
    error: Vec<u8>,
}

impl Frames {
    pub fn new() -> Frames {
        Frames::default()
    }

    /// Takes the next bytes and gives out what they hold.
    ///
    /// `Status` 500 with the Engine's text when it put an error into the stream, `Malformed` when the bytes are no
    /// frames; after either, nothing that follows has a meaning.
    pub fn decode<'a>(&mut self, mut bytes: &'a [u8], mut out: impl FnMut(Piece<'a>)) -> Result<(), Error> {
        loop {
            if self.header_len < HEADER {
                let taken = bytes.len().min(HEADER - self.header_len);
                self.header[self.header_len..][..taken].copy_from_slice(&bytes[..taken]);
                self.header_len += taken;
                bytes = &bytes[taken..];
                if self.header_len < HEADER {
                    return Ok(());
                }
                self.left = frame_length(&self.header)?;
                self.begun = false;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(self.left));
            if piece.is_empty() && self.left > 0 {
                return Ok(());
            }
            bytes = rest;
            self.left -= piece.len();
            let ends = self.left == 0;
            if ends {
                self.header_len = 0;
            }
            let output = match self.header[0] {
                0 | 1 => Output::Stdout,
                2 => Output::Stderr,
                _ => {
                    let room = MESSAGE_CAP - self.error.len();
                    self.error.extend_from_slice(&piece[..piece.len().min(room)]);
                    if ends {
                        return Err(Error::status_of(500, String::from_utf8_lossy(&self.error).trim()));
                    }
                    continue;
                }
            };
            out(Piece { output, bytes: piece, begins: !std::mem::replace(&mut self.begun, true), ends });
        }
    }

    /// Whether the stream may end here.
    pub fn is_between_frames(&self) -> bool {
        self.header_len == 0
    }
}

fn frame_length(header: &[u8; HEADER]) -> Result<usize, Error> {
    let [stream @ 0..=3, 0, 0, 0, a, b, c, d] = *header else {
        return Err(Error::Malformed(format!("no frame begins with {header:02x?}")));
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > FRAME_CAP {
        return Err(Error::Malformed(format!("a frame of stream {stream} has {length} bytes")));
    }
    Ok(length)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
        let mut frame = vec![stream, 0, 0, 0];
        frame.extend((bytes.len() as u32).to_be_bytes());
        frame.extend(bytes);
        frame
    }

    /// Feeds the bytes in pieces of the given sizes, over and over.
    pub fn split(bytes: &[u8], sizes: &[usize], mut feed: impl FnMut(&[u8])) {
        let (mut at, mut turn) = (0, 0);
        while at < bytes.len() {
            let end = bytes.len().min(at + sizes[turn % sizes.len()]);
            feed(&bytes[at..end]);
            (at, turn) = (end, turn + 1);
        }
    }

    #[test]
    fn an_error_in_the_stream_is_an_error() {
        let mut bytes = frame(1, b"fine\n");
        bytes.extend(frame(3, &[b'e'; 10_000]));
        let mut frames = Frames::new();
        let mut seen: Vec<u8> = Vec::new();
        let error = frames.decode(&bytes, |piece| seen.extend(piece.bytes)).unwrap_err();
        assert_eq!(seen, b"fine\n");
        assert_eq!(error, Error::Status { status: 500, message: "e".repeat(MESSAGE_CAP) });
    }

    #[test]
    fn bytes_that_are_no_frames_are_refused() {
        for bad in [&b"2024-01-01T00:00:00Z raw\n"[..], &[4, 0, 0, 0, 0, 0, 0, 1], &[1, 0, 0, 0, 0, 16, 0, 1]]
        {
            let result = Frames::new().decode(bad, |_| {});
            assert!(matches!(result, Err(Error::Malformed(_))), "{bad:?}");
        }
        let largest = frame(1, &vec![b'x'; FRAME_CAP]);
        assert_eq!(Frames::new().decode(&largest, |_| {}), Ok(()));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            sent in prop::collection::vec((0u8..3, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            sizes in prop::collection::vec(1usize..20, 1..6),
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(|(stream, bytes)| frame(*stream, bytes)).collect();
            let mut frames = Frames::new();
            let mut got: Vec<(Output, Vec<u8>)> = Vec::new();
            let mut open = false;
            split(&bytes, &sizes, |bytes| {
                frames.decode(bytes, |piece| {
                    assert_eq!(piece.begins, !open);
                    if piece.begins {
                        got.push((piece.output, Vec::new()));
                    }
                    let frame = got.last_mut().unwrap();
                    assert_eq!(frame.0, piece.output);
                    frame.1.extend(piece.bytes);
                    open = !piece.ends;
                }).unwrap();
            });
            prop_assert!(frames.is_between_frames() && !open);
            let output = |stream| if stream == 2 { Output::Stderr } else { Output::Stdout };
            let expected: Vec<_> = sent.into_iter().map(|(stream, bytes)| (output(stream), bytes)).collect();
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frames::new().decode(&bytes, |_| {});
        }
    }
}
