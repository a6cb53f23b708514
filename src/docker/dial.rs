//! Opens connections to an Engine: Unix, TCP, TLS, each within a bound.
//!
//! Used by whichever thread makes the call; starts one only to look up a name.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::endpoint::{Endpoint, EndpointError};
use super::stream::{Handle, Kind, Socket, Stream};
use super::tls;

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
                return Ok(Stream::new(socket, None));
            }
            Target::Tcp { host, port, tls } => (host, *port, tls),
        };
        let mut socket = Socket::new(Kind::Tcp(connect_tcp(host, port, deadline)?), deadline);
        opened(&socket.handle)?;
        let Some((config, name)) = tls else { return Ok(Stream::new(socket, None)) };
        let mut tls = ClientConnection::new(config.clone(), name.clone()).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Stream::new(socket, Some(tls)))
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
