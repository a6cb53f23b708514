//! The Engine API called directly: one kept connection, the request written by hand, the answer read and not parsed.
//!
//! This is the least that any client of the Engine has to do, and so the figure that the Agent is held against.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub struct Bare {
    stream: BufReader<UnixStream>,
}

impl Bare {
    /// Connects to an Engine on a Unix socket, given as `DOCKER_HOST`.
    pub fn connect(host: &str) -> io::Result<Self> {
        let path = host.strip_prefix("unix://").ok_or(io::ErrorKind::Unsupported)?;
        Ok(Bare { stream: BufReader::with_capacity(64 << 10, UnixStream::connect(path)?) })
    }

    /// One call without a body; returns how long it took. Panics on an error status, since then nothing was measured.
    pub fn call(&mut self, method: &str, path: &str) -> Duration {
        let began = Instant::now();
        let status = self.exchange(method, path).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert!(status < 400, "{method} {path} was answered {status}");
        began.elapsed()
    }

    fn exchange(&mut self, method: &str, path: &str) -> io::Result<u16> {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Length: 0\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status_line = self.line()?;
        let status =
            status_line.get(9..12).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let header = self.line()?.to_ascii_lowercase();
            match header.split_once(": ") {
                Some(("content-length", value)) => {
                    length = value.parse().map_err(|_| io::ErrorKind::InvalidData)?
                }
                Some(("transfer-encoding", "chunked")) => chunked = true,
                Some(_) => {}
                None => break,
            }
        }
        if !chunked {
            self.skip(length)?;
            return Ok(status);
        }
        loop {
            let size = u64::from_str_radix(&self.line()?, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            self.skip(size)?;
            self.line()?;
            if size == 0 {
                return Ok(status);
            }
        }
    }

    /// One line without its end.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.stream.by_ref().take(length), &mut io::sink())?;
        if skipped == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
