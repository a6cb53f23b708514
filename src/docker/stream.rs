//! One byte stream to the Engine, over a Unix socket, TCP or TLS, and how it is opened.
//!
//! Every read and write obeys the stream's deadline; without one it ends only with the peer or with a
//! [`Closer`](super::Closer). Used by whichever thread makes the call; starts a thread only to look up a name.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with, sockopt,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::endpoint::{Endpoint, EndpointError};
use super::tls;

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
enum Kind {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// The socket with the deadline that its I/O obeys.
struct Socket {
    handle: Arc<Handle>,
    deadline: Option<Instant>,
    /// What the kernel was last told, so that it is told only changes.
    read_limit: Option<Duration>,
    write_limit: Option<Duration>,
}

impl Stream {
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
    fn new(socket: Kind, deadline: Instant) -> Socket {
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

/// Opens connections to one endpoint. Cheap to clone.
#[derive(Clone)]
pub(super) struct Dialer(Arc<Target>);

enum Target {
    Unix(PathBuf),
    Tcp { host: String, port: u16, tls: Option<(Arc<ClientConfig>, ServerName<'static>)> },
}

impl Dialer {
    pub fn new(endpoint: &Endpoint) -> Result<Dialer, EndpointError> {
        let target = match endpoint {
            Endpoint::Unix(path) => Target::Unix(path.clone()),
            Endpoint::Tcp { host, port, tls: None } => {
                Target::Tcp { host: host.clone(), port: *port, tls: None }
            }
            Endpoint::Tcp { host, port, tls: Some(files) } => {
                let name = ServerName::try_from(host.clone()).map_err(|_| EndpointError {
                    key: "DOCKER_HOST",
                    reason: format!("{host:?} is no name or address that a certificate can be for"),
                })?;
                let tls = Some((tls::client_config(files)?, name));
                Target::Tcp { host: host.clone(), port: *port, tls }
            }
        };
        Ok(Dialer(Arc::new(target)))
    }

    /// What goes into the `Host` header.
    pub fn authority(&self) -> String {
        match &*self.0 {
            Target::Unix(_) => "docker".into(),
            Target::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Target::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }

    /// Connects, and shakes hands under TLS, within `limit`. `opened` sees the socket before anything blocks on
    /// it, so that it can be ended from another thread. The new stream carries the deadline of the dial.
    pub fn dial(
        &self,
        limit: Duration,
        opened: impl FnOnce(&Arc<Handle>) -> io::Result<()>,
    ) -> io::Result<Stream> {
        let deadline = Instant::now() + limit;
        let (host, port, tls) = match &*self.0 {
            Target::Unix(path) => {
                let socket = Socket::new(Kind::Unix(connect_unix(path, limit)?), deadline);
                opened(&socket.handle)?;
                return Ok(Stream { socket, tls: None });
            }
            Target::Tcp { host, port, tls } => (host, *port, tls),
        };
        let mut socket = Socket::new(Kind::Tcp(connect_tcp(host, port, deadline)?), deadline);
        opened(&socket.handle)?;
        let Some((config, name)) = tls else { return Ok(Stream { socket, tls: None }) };
        let mut tls = ClientConnection::new(config.clone(), name.clone()).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Stream { socket, tls: Some(Box::new(tls)) })
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Target::Unix(path) => write!(f, "unix {}", path.display()),
            Target::Tcp { host, port, tls } => write!(f, "tcp {host} {port} tls={}", tls.is_some()),
        }
    }
}

/// Connects within `limit`. A Unix connect blocks while the listener's queue is full, which is how a hung Engine
/// looks, and the standard library has no bound for it; the kernel takes the send timeout for one.
pub(super) fn connect_unix(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(limit.max(Duration::from_millis(1))))?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => {}
        Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
        Err(error) => return Err(error.into()),
    }
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
    Ok(socket.into())
}

/// Tries each address in turn. The peer may vanish without a word, so keep-alive ends a stream that waits for
/// nobody after some 30 s.
fn connect_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = None;
    for address in resolve(host, port, deadline)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                sockopt::set_socket_keepalive(&socket, true)?;
                sockopt::set_tcp_keepidle(&socket, Duration::from_secs(15))?;
                sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(5))?;
                sockopt::set_tcp_keepcnt(&socket, 3)?;
                return Ok(socket);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::TimedOut.into()))
}

/// A name is looked up on a thread of its own, since the system's resolver takes no bound; an address is not
/// looked up at all.
fn resolve(host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (found_tx, found) = mpsc::sync_channel(1);
    let target = (host.to_owned(), port);
    std::thread::Builder::new().name("docker-dns".into()).spawn(move || {
        // Nobody listens any more when the lookup took too long.
        let _ = found_tx.send(target.to_socket_addrs().map(Vec::from_iter));
    })?;
    let left = deadline.saturating_duration_since(Instant::now());
    found.recv_timeout(left).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
