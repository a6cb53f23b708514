//! One byte stream to the Engine, over a Unix socket, TCP or TLS.
//!
//! Every read and write obeys the stream's deadline; without one it ends only with the peer or with a
//! [`Closer`](super::Closer). Used by whichever thread makes the call.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustls::ClientConnection;

/// An open connection.
pub(super) struct Stream {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
}

/// The connection's socket, shared so that another thread can end what this one blocks on.
#[derive(Debug)]
pub(super) struct Handle {
    socket: Kind,
    /// Milliseconds that a read without a deadline may wait; 0 is for ever.
    idle_limit: AtomicU32,
}

#[derive(Debug)]
pub(super) enum Kind {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// The socket with the deadline that its I/O obeys.
pub(super) struct Socket {
    pub handle: Arc<Handle>,
    deadline: Option<Instant>,
    /// What the kernel was last told, so that it is told only changes.
    read_limit: Option<Duration>,
    write_limit: Option<Duration>,
}

impl Stream {
    pub fn new(socket: Socket, tls: Option<ClientConnection>) -> Stream {
        Stream { socket, tls: tls.map(Box::new) }
    }

    pub fn handle(&self) -> &Arc<Handle> {
        &self.socket.handle
    }

    /// Reads and writes fail with `TimedOut` from then on, at most 100 ms late.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.socket.deadline = deadline;
    }

    /// Whether the connection can carry another request: the peer has neither closed it nor said anything that
    /// nobody asked for. One system call, and it never blocks.
    pub fn is_quiet(&self) -> bool {
        matches!(self.peek(), Err(Errno::AGAIN))
    }

    /// Whether the peer has closed the connection; never blocks. Under TLS its farewell hides that until it is read.
    pub fn has_ended(&self) -> bool {
        !matches!(self.peek(), Ok(1..) | Err(Errno::AGAIN))
    }

    fn peek(&self) -> Result<usize, Errno> {
        let mut byte = [0u8; 1];
        recv(&*self.socket.handle, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT).map(|(count, _)| count)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.write(buffer),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).flush(),
        }
    }
}

impl Handle {
    fn new(socket: Kind) -> Handle {
        Handle { socket, idle_limit: 0.into() }
    }

    /// Ends the connection for both sides; a read or write blocked on it returns at once.
    pub fn shutdown(&self) {
        // It fails only when the connection is over already, which is what was wanted.
        let _ = match &self.socket {
            Kind::Unix(socket) => socket.shutdown(Shutdown::Both),
            Kind::Tcp(socket) => socket.shutdown(Shutdown::Both),
        };
    }

    /// Ends what goes to the peer; what comes from it goes on.
    pub fn shutdown_write(&self) {
        // It fails only when the connection is over already, which is what was wanted.
        let _ = match &self.socket {
            Kind::Unix(socket) => socket.shutdown(Shutdown::Write),
            Kind::Tcp(socket) => socket.shutdown(Shutdown::Write),
        };
    }

    /// Bounds each later read that no deadline bounds.
    pub fn set_idle_limit(&self, limit: Duration) {
        let millis = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        self.idle_limit.store(millis.max(1), Ordering::Relaxed);
    }

    fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match &self.socket {
            Kind::Unix(socket) => socket.set_read_timeout(limit),
            Kind::Tcp(socket) => socket.set_read_timeout(limit),
        }
    }

    fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match &self.socket {
            Kind::Unix(socket) => socket.set_write_timeout(limit),
            Kind::Tcp(socket) => socket.set_write_timeout(limit),
        }
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Kind::Unix(socket) => socket.as_fd(),
            Kind::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl Socket {
    pub fn new(socket: Kind, deadline: Instant) -> Socket {
        Socket {
            handle: Arc::new(Handle::new(socket)),
            deadline: Some(deadline),
            read_limit: None,
            write_limit: None,
        }
    }

    /// What is left of the time, rounded up to a tenth of a second. The exact rest would differ in every call
    /// and cost a system call each time; rounded, the kernel's value nearly always stands already.
    fn left(&self) -> io::Result<Option<Duration>> {
        const STEP: Duration = Duration::from_millis(100);
        let Some(deadline) = self.deadline else {
            let idle = self.handle.idle_limit.load(Ordering::Relaxed);
            return Ok((idle > 0).then(|| Duration::from_millis(idle.into())));
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let steps = left.as_nanos().div_ceil(STEP.as_nanos()).min(u32::MAX.into());
        Ok(Some(STEP * steps as u32))
    }

    /// With a deadline, it alone says when the time is up, however early the kernel wakes up.
    fn is_retry(&self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::Interrupted => true,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.deadline.is_some(),
            _ => false,
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.left()?;
            if left != self.read_limit {
                self.handle.set_read_timeout(left)?;
                self.read_limit = left;
            }
            let result = match &self.handle.socket {
                Kind::Unix(socket) => (&mut &*socket).read(buffer),
                Kind::Tcp(socket) => (&mut &*socket).read(buffer),
            };
            match result {
                Err(e) if self.is_retry(&e) => continue,
                result => return result,
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        loop {
            let left = self.left()?;
            if left != self.write_limit {
                self.handle.set_write_timeout(left)?;
                self.write_limit = left;
            }
            let result = match &self.handle.socket {
                Kind::Unix(socket) => (&mut &*socket).write(buffer),
                Kind::Tcp(socket) => (&mut &*socket).write(buffer),
            };
            match result {
                Err(e) if self.is_retry(&e) => continue,
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
