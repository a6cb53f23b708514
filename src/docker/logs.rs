//! A container's log as a stream of lines, from the past and, followed, from now on.
//!
//! Runs on the caller's thread, which blocks in [`LogStream::read`] until output comes; its [`Closer`] ends that. A reader
//! that stops reading stops nobody: the Engine waits with the log's file, not with the container.

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use ureq::BodyReader;

use super::call::{Call, READ_LIMIT};
use super::client::{Client, container_path};
use super::closer::Closer;
use super::error::Error;
use super::lines::{Line, Lines};
use super::time::unix_seconds;

/// Bytes read at once, at least while little comes: five hundred followers hold five hundred of these.
const LEAST_READ: usize = 256;
const MOST_READ: usize = 16 * 1024;

/// The Engine writes each line by itself. What came sooner than this was waiting or is a flood; then a rest lets more of
/// it come, so that a thread is not woken for each line. The kernel holds some 250 lines meanwhile.
const AT_ONCE: Duration = Duration::from_micros(100);
const REST: Duration = Duration::from_micros(200);

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Whether to wait for more. It ends when the container stops, and a restart does not resume it.
    pub follow: bool,
    /// Nanoseconds since 1970. Inclusive: lines of that very nanosecond come again.
    pub since_ns: Option<u64>,
    /// Only so many of the last lines; `None` is all.
    pub tail: Option<u32>,
}

impl Client {
    /// Opens a container's log. `tty` is its `Config.Tty`, which alone says how the stream is to be read.
    ///
    /// 404: gone. 500 or 501: its log driver cannot be read, and never will be.
    pub fn logs(
        &self,
        container: &str,
        tty: bool,
        query: &LogQuery,
        closer: &Closer,
    ) -> Result<LogStream, Error> {
        let mut call = Call::get(container_path(container, "/logs")?)
            .query("stdout", 1)
            .query("stderr", 1)
            .query("timestamps", 1)
            .query("follow", u8::from(query.follow));
        if let Some(since) = query.since_ns {
            call = call.query("since", unix_seconds(since));
        }
        if let Some(tail) = query.tail {
            call = call.query("tail", tail);
        }
        let response = self.http().open(call, closer, READ_LIMIT)?;
        if !query.follow {
            closer.limit_reads(READ_LIMIT);
        }
        let reader = response.into_body().into_reader();
        Ok(LogStream {
            reader,
            lines: Lines::new(tty),
            buffer: vec![0; LEAST_READ],
            flood: false,
            closer: closer.clone(),
        })
    }
}

/// An open log. Dropping it ends it.
pub struct LogStream {
    reader: BodyReader<'static>,
    lines: Lines,
    buffer: Vec<u8>,
    /// The last read had not to wait, and found little.
    flood: bool,
    closer: Closer,
}

impl LogStream {
    /// Blocks until output comes and gives out the lines that it completes, possibly none. `Ok(false)` is the end: the
    /// container stopped, or there is no more.
    ///
    /// An error is final: `Cancelled` after a close, `Unavailable` or `Malformed` when the stream broke, `Status` when the
    /// Engine put an error into it. Then open it again with the time of the last line, and drop what comes again.
    pub fn read(&mut self, mut out: impl FnMut(Line<'_>)) -> Result<bool, Error> {
        if self.flood {
            thread::sleep(REST);
        }
        let begun = Instant::now();
        let count = loop {
            match self.reader.read(&mut self.buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.closer.explain(Error::from_reader(error))),
            }
        };
        if count == 0 {
            if self.closer.is_closed() {
                return Err(Error::Cancelled);
            }
            self.lines.finish(out);
            return Ok(false);
        }
        self.flood = count < self.buffer.len() && begun.elapsed() < AT_ONCE;
        self.lines.push(&self.buffer[..count], &mut out)?;
        if count == self.buffer.len() && count < MOST_READ {
            self.buffer = vec![0; 2 * count];
        } else if count < LEAST_READ / 2 && self.buffer.len() > LEAST_READ {
            self.buffer = vec![0; LEAST_READ];
        }
        Ok(true)
    }
}
