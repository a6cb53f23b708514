//! A conversation with a container that lives for that alone, over its standard input and output, in lines. Attach freezes
//! a container whose reader falls behind, which is no harm to one that only answers.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call::{Call, READ_LIMIT};
use super::client::{Client, container_path};
use super::closer::Closer;
use super::error::Error;
use super::frames::{Frames, Output};
use super::stream::{Handle, Stream};

/// Bytes of standard error that are kept.
const ERRORS_CAP: usize = 4096;
const READ: usize = 64 << 10;

impl Client {
    /// Attaches to a container that was created with its input open and without a TTY, and not started yet: then nothing
    /// of its output is missed.
    ///
    /// 404: gone.
    pub fn attach_exchange(&self, container: &str) -> Result<Exchange, Error> {
        let path = Call::post(container_path(container, "/attach")?)
            .query("stream", 1)
            .query("stdin", 1)
            .query("stdout", 1)
            .query("stderr", 1)
            .into_path();
        let (stream, leftover) = self.upgrade(&path, &Closer::new())?;
        let end = Arc::new(InputEnd(stream.handle().clone()));
        let mut heard = Heard::default();
        heard.take(&leftover)?;
        Ok(Exchange { stream, end, heard })
    }
}

/// An open attach. Dropping it ends it, and with it the container's input.
pub struct Exchange {
    stream: Stream,
    end: Arc<InputEnd>,
    heard: Heard,
}

/// Ends a container's input from another thread. What it says goes on to be heard.
#[derive(Debug)]
pub struct InputEnd(Arc<Handle>);

#[derive(Default)]
struct Heard {
    frames: Frames,
    output: Vec<u8>,
    /// Up to where no line end was found.
    searched: usize,
    /// The beginning of it.
    errors: Vec<u8>,
}

impl InputEnd {
    pub fn end_input(&self) {
        self.0.shutdown_write();
    }
}

impl Exchange {
    /// Whoever has it can end the container's input at any time.
    pub fn input_end(&self) -> &Arc<InputEnd> {
        &self.end
    }

    /// Writes a line, to which its end is added.
    pub fn say(&mut self, mut line: Vec<u8>) -> Result<(), Error> {
        line.push(b'\n');
        self.stream.set_deadline(Some(Instant::now() + READ_LIMIT));
        self.stream.write_all(&line).and_then(|()| self.stream.flush()).map_err(|e| Error::from_io(&e))
    }

    /// The next line without its end; `None` once the container has ended. `Timeout` after so long a silence; a line of
    /// more than `most` bytes is `Malformed`.
    pub fn hear(&mut self, most: usize, silence: Duration) -> Result<Option<Vec<u8>>, Error> {
        let mut buffer = vec![0; READ];
        loop {
            if let Some(line) = self.heard.line() {
                return Ok(Some(line));
            }
            if self.heard.output.len() > most {
                return Err(Error::Malformed(format!("a line of over {most} bytes")));
            }
            self.stream.set_deadline(Some(Instant::now() + silence));
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => self.heard.take(&buffer[..count])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from_io(&error)),
            }
        }
    }

    /// What the container complained of.
    pub fn errors(&self) -> &[u8] {
        &self.heard.errors
    }
}

impl Heard {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Heard { frames, output, errors, .. } = self;
        frames.decode(bytes, |piece| match piece.output {
            Output::Stdout => output.extend_from_slice(piece.bytes),
            Output::Stderr => {
                let room = ERRORS_CAP - errors.len();
                errors.extend_from_slice(&piece.bytes[..piece.bytes.len().min(room)]);
            }
        })
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let Some(at) = self.output[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.output.len();
            return None;
        };
        let rest = self.output.split_off(self.searched + at + 1);
        let mut line = std::mem::replace(&mut self.output, rest);
        line.pop();
        self.searched = 0;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_the_bytes_arrive() {
        let frame = |stream: u8, text: &[u8]| [&[stream, 0, 0, 0, 0, 0, 0, text.len() as u8], text].concat();
        let bytes = [frame(1, b"one\ntw"), frame(2, b"a complaint"), frame(1, b"o\n\nrest")].concat();
        for size in 1..bytes.len() {
            let (mut heard, mut lines) = (Heard::default(), Vec::new());
            for piece in bytes.chunks(size) {
                heard.take(piece).unwrap();
                lines.extend(std::iter::from_fn(|| heard.line()));
            }
            assert_eq!(lines, [b"one".to_vec(), b"two".to_vec(), b"".to_vec()], "{size}");
            assert_eq!((&heard.output[..], &heard.errors[..]), (&b"rest"[..], &b"a complaint"[..]));
        }
    }
}
