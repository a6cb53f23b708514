//! Standard input of a running container, over an attach that asks for nothing else.
//!
//! Output is not asked for here: the Engine stops a container whose attached reader falls behind. The connection is not
//! HTTP after its head, and ureq cannot hand it out, so the head is written and read here.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::call::{Call, READ_LIMIT};
use super::client::{Client, container_path};
use super::closer::Closer;
use super::error::{Error, MESSAGE_CAP};
use super::stream::Stream;

/// Bytes of the answer's head.
const HEAD_CAP: usize = 8 * 1024;
/// Keys that detach a TTY's attach, which Docker has as ctrl-p,ctrl-q: a player's terminal may send those, and hardly
/// these six one after the other.
const DETACH_KEYS: &str = "ctrl-^,ctrl-_,ctrl-^,ctrl-_,ctrl-^,ctrl-_";

impl Client {
    /// Attaches to a container's standard input, which must have been created open.
    ///
    /// 404: gone. 409: paused or restarting. With `StdinOnce` unset, as it should be, ending the attach does not end the
    /// container's input. `closer` ends a blocked write from another thread.
    pub fn attach_stdin(&self, container: &str, closer: &Closer) -> Result<Stdin, Error> {
        let path = Call::post(container_path(container, "/attach")?)
            .query("stream", 1)
            .query("stdin", 1)
            .query("detachKeys", DETACH_KEYS)
            .into_path();
        let (stream, leftover) = self.upgrade(&path, closer)?;
        Ok(Stdin { stream, closer: closer.clone(), leftover, broken: false })
    }

    /// Opens a stream that is no HTTP after its head. Gives also what came right behind that.
    pub(super) fn upgrade(&self, path: &str, closer: &Closer) -> Result<(Stream, Vec<u8>), Error> {
        let (mut stream, path) = self.http().dial(path, closer)?;
        stream.set_deadline(Some(Instant::now() + READ_LIMIT));
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
            self.http().authority()
        );
        let upgraded = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.flush())
            .map_err(|e| Error::from_io(&e))
            .and_then(|()| read_head(&mut stream));
        let leftover = upgraded.map_err(|error| closer.explain(error))?;
        Ok((stream, leftover))
    }
}

/// An open attach. Dropping it ends it.
pub struct Stdin {
    stream: Stream,
    closer: Closer,
    leftover: Vec<u8>,
    /// Part of a write may have gone out.
    broken: bool,
}

impl Stdin {
    /// Writes all of `bytes` within `limit`. It blocks while the container does not read and its pipe (64 KiB) and the
    /// Engine's buffers are full.
    ///
    /// After an error part of it may have been written and the attach is of no more use: `Timeout`, `Cancelled`, or
    /// `Unavailable` when the attach has ended. Success means that the Engine has the bytes, not that they were read; the
    /// first ones after the container's end are still taken, for only they show the Engine that nobody is there.
    pub fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), Error> {
        if self.broken {
            return Err(self.closer.explain(Error::Unavailable("an earlier write failed".into())));
        }
        if self.stream.has_ended() {
            self.broken = true;
            return Err(self.closer.explain(Error::Unavailable("the attach has ended".into())));
        }
        self.stream.set_deadline(Some(Instant::now() + limit));
        let written = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
        self.broken = written.is_err();
        written.map_err(|error| {
            self.closer.explain(match Error::from_io(&error) {
                Error::Timeout(_) => Error::Timeout("the container does not read its input"),
                error => error,
            })
        })
    }

    /// Writes as much of `bytes` as is taken within `limit`, and says how much that is. When it is not all, the container
    /// does not read; the attach stays as it is, and the rest may follow.
    pub fn write_part(&mut self, bytes: &[u8], limit: Duration) -> Result<usize, Error> {
        if self.broken || self.stream.has_ended() {
            self.broken = true;
            return Err(self.closer.explain(Error::Unavailable("the attach has ended".into())));
        }
        self.stream.set_deadline(Some(Instant::now() + limit));
        let mut written = 0;
        while written < bytes.len() {
            let wrote = self.stream.write(&bytes[written..]).and_then(|count| {
                written += count;
                // Under TLS what was taken is the stream's own, and a late flush goes on with the next write.
                self.stream.flush()
            });
            match wrote {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                Err(error) => {
                    self.broken = true;
                    return Err(self.closer.explain(Error::from_io(&error)));
                }
            }
        }
        Ok(written)
    }

    /// Whether the Engine keeps the attach; never blocks. It does so beyond the container's end, until something is
    /// written: a `die` event says more.
    pub fn is_open(&self) -> bool {
        !self.broken && !self.stream.has_ended()
    }

    /// What the Engine sent right behind the answer's head; nothing, unless it has something to say after all.
    pub fn leftover(&self) -> &[u8] {
        &self.leftover
    }
}

/// Reads the head of the answer and returns the bytes after it. 101 is the upgrade; 200 is what an Engine says behind a
/// proxy that took the upgrade header away, and what follows is the same.
fn read_head(stream: &mut Stream) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&bytes) {
            Ok(httparse::Status::Complete(length)) => {
                let status = response.code.unwrap_or_default();
                if status == 101 || status == 200 {
                    return Ok(bytes.split_off(length));
                }
                let body_length = response
                    .headers
                    .iter()
                    .find(|header| header.name.eq_ignore_ascii_case("content-length"))
                    .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
                let end = length.saturating_add(body_length.unwrap_or(0).min(4 * MESSAGE_CAP));
                while bytes.len() < end {
                    // The status has been said, so a text that breaks off is no reason to forget it.
                    if read_more(stream, &mut bytes).is_err() {
                        break;
                    }
                }
                return Err(Error::from_answer(status, &bytes[length..]));
            }
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_CAP => read_more(stream, &mut bytes)?,
            Ok(httparse::Status::Partial) => {
                return Err(Error::Malformed("the answer's head is over 8 KiB".into()));
            }
            Err(error) => return Err(Error::Malformed(format!("the answer's head: {error}"))),
        }
    }
}

fn read_more(stream: &mut Stream, bytes: &mut Vec<u8>) -> Result<(), Error> {
    let mut buffer = [0; 1024];
    match stream.read(&mut buffer) {
        Ok(0) => Err(Error::Unavailable("the connection ended before the answer".into())),
        Ok(count) => {
            bytes.extend_from_slice(&buffer[..count]);
            Ok(())
        }
        Err(error) => Err(Error::from_io(&error)),
    }
}
