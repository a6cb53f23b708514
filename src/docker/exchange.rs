//! One question to a container and one answer: standard input and output of a container that lives for that alone. Attach
//! freezes a container whose reader falls behind, which is no harm to one that only answers.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::call::Call;
use super::client::{Client, container_path};
use super::closer::Closer;
use super::error::Error;
use super::frames::{Frames, Output};
use super::stream::Stream;

/// Bytes of standard error that are kept.
const ERRORS_CAP: usize = 4096;

impl Client {
    /// Attaches to a container that was created with its input open and without a TTY, and not started yet: then nothing
    /// of its output is missed.
    ///
    /// 404: gone.
    pub fn attach_exchange(&self, container: &str, closer: &Closer) -> Result<Exchange, Error> {
        let path = Call::post(container_path(container, "/attach")?)
            .query("stream", 1)
            .query("stdin", 1)
            .query("stdout", 1)
            .query("stderr", 1)
            .into_path();
        let (stream, leftover) = self.upgrade(&path, closer)?;
        Ok(Exchange { stream, leftover, closer: closer.clone() })
    }
}

/// An open attach. Dropping it ends it.
pub struct Exchange {
    stream: Stream,
    leftover: Vec<u8>,
    closer: Closer,
}

/// What a container said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub output: Vec<u8>,
    /// The beginning of it.
    pub errors: Vec<u8>,
}

impl Exchange {
    /// Writes the question, whose end the container has to know by itself, and reads until the container has ended, all
    /// within `limit`. An answer over `most` bytes is `Malformed`.
    pub fn ask(mut self, question: &[u8], most: usize, limit: Duration) -> Result<Said, Error> {
        self.stream.set_deadline(Some(Instant::now() + limit));
        let closer = self.closer.clone();
        self.exchange(question, most).map_err(|error| closer.explain(error))
    }

    fn exchange(&mut self, question: &[u8], most: usize) -> Result<Said, Error> {
        let written = self.stream.write_all(question).and_then(|()| self.stream.flush());
        written.map_err(|e| Error::from_io(&e))?;
        let (mut frames, mut said) = (Frames::new(), Said::default());
        let mut take = |bytes: &[u8]| {
            frames.decode(bytes, |piece| match piece.output {
                Output::Stdout => said.output.extend_from_slice(piece.bytes),
                Output::Stderr => {
                    let room = ERRORS_CAP - said.errors.len();
                    said.errors.extend_from_slice(&piece.bytes[..piece.bytes.len().min(room)]);
                }
            })?;
            match said.output.len() > most {
                true => Err(Error::Malformed(format!("an answer of over {most} bytes"))),
                false => Ok(()),
            }
        };
        take(&std::mem::take(&mut self.leftover))?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(said),
                Ok(count) => take(&buffer[..count])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from_io(&error)),
            }
        }
    }
}
