//! The two halves of a connected stream: the read thread's and the write thread's.
//!
//! A rustls connection is one state for both directions. After the split it is behind a mutex that covers memory work
//! only: the reader reads ciphertext without it and locks to decrypt, the writer locks to encrypt and writes after.
//! INVARIANT: only the write half writes to the socket and drains `write_tls`, so records keep their order. What the
//! read side brings up (alerts) waits for the writer's next flush; a key update's answer goes out in front of the
//! next message (RFC 8446 section 4.6.3).

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Plaintext encrypted under one lock: two full records.
const ENCRYPT_AT_ONCE: usize = 32 << 10;
/// Ciphertext read at once: one full record.
const READ_AT_ONCE: usize = 17 << 10;

/// The half of the read thread. Its `Write` throws everything away (see [`super::connection`]).
pub enum ReadHalf {
    Plain(TcpStream),
    Tls(TlsReader),
}

/// The half of the write thread. Its `Read` fails: tungstenite asks for the trait, and never calls it to write.
pub enum WriteHalf {
    Plain(TcpStream),
    Tls(TlsWriter),
}

/// Decrypts what it reads.
pub struct TlsReader {
    socket: TcpStream,
    tls: Arc<Mutex<rustls::Connection>>,
    /// Ciphertext; `start..end` is not fed to rustls yet.
    cipher: Vec<u8>,
    start: usize,
    end: usize,
}

/// Encrypts what it writes.
pub struct TlsWriter {
    socket: TcpStream,
    tls: Arc<Mutex<rustls::Connection>>,
    /// Records on their way to the socket.
    records: Vec<u8>,
}

/// Both halves of a TLS connection over two clones of its socket.
pub(super) fn tls_halves(
    first: TcpStream,
    second: TcpStream,
    tls: rustls::Connection,
) -> (ReadHalf, WriteHalf) {
    let tls = Arc::new(Mutex::new(tls));
    let cipher = vec![0; READ_AT_ONCE];
    let reader = TlsReader { socket: first, tls: tls.clone(), cipher, start: 0, end: 0 };
    (ReadHalf::Tls(reader), WriteHalf::Tls(TlsWriter { socket: second, tls, records: Vec::new() }))
}

/// A panic of the other half while it held the lock has ended its thread, and with it this connection.
fn lock(tls: &Mutex<rustls::Connection>) -> MutexGuard<'_, rustls::Connection> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A signal handler that ran on this thread is no reason to end a connection.
fn read_retrying(socket: &mut TcpStream, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(buf) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Read for ReadHalf {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            ReadHalf::Plain(socket) => read_retrying(socket, buf),
            ReadHalf::Tls(reader) => reader.read(buf),
        }
    }
}

impl Write for ReadHalf {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(read) = self.decrypt(buf)? {
                return Ok(read);
            }
            self.end = read_retrying(&mut self.socket, &mut self.cipher)?;
            self.start = 0;
            if self.end == 0 {
                // The WebSocket's own Close tells a whole stream from a cut one, so TLS need not.
                return Ok(0);
            }
        }
    }

    /// Plaintext that is there, `Some(0)` at the end of the stream, `None` when more ciphertext is needed. rustls
    /// takes ciphertext in pieces: at most what fits its buffers.
    fn decrypt(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let mut tls = lock(&self.tls);
        loop {
            match tls.reader().read(buf) {
                Ok(read) => return Ok(Some(read)),
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => return Err(cause),
            }
            if self.start == self.end {
                return Ok(None);
            }
            let mut piece = &self.cipher[self.start..self.end];
            self.start += tls.read_tls(&mut piece)?;
            tls.process_new_packets().map_err(broken)?;
        }
    }
}

impl Read for WriteHalf {
    fn read(&mut self, _buf: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Write for WriteHalf {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            WriteHalf::Plain(socket) => loop {
                match socket.write(buf) {
                    Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                    result => return result,
                }
            },
            WriteHalf::Tls(writer) => writer.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            WriteHalf::Plain(_) => Ok(()),
            WriteHalf::Tls(writer) => writer.drain(),
        }
    }
}

impl WriteHalf {
    /// Says that nothing more will be written: close_notify, then FIN. Reading goes on.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self {
            WriteHalf::Plain(socket) => socket.shutdown(Shutdown::Write),
            WriteHalf::Tls(writer) => {
                lock(&writer.tls).send_close_notify();
                writer.drain()?;
                writer.socket.shutdown(Shutdown::Write)
            }
        }
    }
}

impl TlsWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let piece = &buf[..buf.len().min(ENCRYPT_AT_ONCE)];
        // rustls buffers at most 64 KiB, which is more than the piece: it is taken whole.
        let taken = lock(&self.tls).writer().write(piece)?;
        self.drain()?;
        Ok(taken)
    }

    /// Writes all records rustls has ready.
    fn drain(&mut self) -> io::Result<()> {
        self.records.clear();
        let mut tls = lock(&self.tls);
        while tls.wants_write() {
            tls.write_tls(&mut self.records)?;
        }
        drop(tls);
        self.socket.write_all(&self.records)
    }
}

/// What rustls finds wrong with the peer's records.
pub(super) fn broken(cause: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}
