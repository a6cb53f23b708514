//! The bytes of one client connection, plain or TLS: the gate reads until `WouldBlock`, writes what is taken, and asks
//! whether something is left to be sent. Never blocks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use rustls::ServerConnection;

/// Plaintext of one TLS record at most (RFC 8446 section 5.1).
const RECORD: usize = 16 << 10;

/// One client connection.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(TcpStream, Box<ServerConnection>),
}

impl Stream {
    /// The socket itself, to clone, shut down or bound in time.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) | Stream::Tls(socket, _) => socket,
        }
    }

    /// Whether ciphertext waits for the socket to take it.
    pub(super) fn is_sending(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(_, tls) => tls.wants_write(),
        }
    }

    /// No more bytes will be written.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.shutdown(Shutdown::Write),
            Stream::Tls(socket, tls) => {
                tls.send_close_notify();
                // What does not fit the socket's buffer now is not waited for.
                let _ = send(socket, tls);
                socket.shutdown(Shutdown::Write)
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(socket, tls) => loop {
                match send(socket, tls) {
                    Err(cause) if cause.kind() != ErrorKind::WouldBlock => return Err(cause),
                    _ => {}
                }
                match tls.reader().read(buffer) {
                    Err(cause) if cause.kind() == ErrorKind::WouldBlock => {}
                    // A client that just hangs up, without the close that TLS has, has said all it will.
                    Err(cause) if cause.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                    result => return result,
                }
                let received = tls.read_tls(socket)?;
                let processed = tls.process_new_packets();
                // Handshakes answer while they read, and a fault is told to the client.
                let sent = send(socket, tls);
                processed.map_err(|cause| io::Error::new(ErrorKind::InvalidData, cause))?;
                if received == 0 {
                    return Ok(0);
                }
                match sent {
                    Err(cause) if cause.kind() != ErrorKind::WouldBlock => return Err(cause),
                    _ => {}
                }
            },
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(socket, tls) => {
                // First what waits: so at most one piece of a response is in memory as ciphertext.
                send(socket, tls)?;
                let taken = tls.writer().write(&bytes[..bytes.len().min(RECORD)])?;
                match send(socket, tls) {
                    Err(cause) if cause.kind() != ErrorKind::WouldBlock => Err(cause),
                    _ => Ok(taken),
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(socket, tls) => send(socket, tls),
        }
    }
}

/// Hands ciphertext to the socket until there is none left.
fn send(socket: &mut TcpStream, tls: &mut ServerConnection) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(socket)?;
    }
    Ok(())
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}
