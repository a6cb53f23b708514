//! Resolves, checks and dials for ureq: the address that was checked is the one that is dialled.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Agent, Error};

use super::address::is_public;
use super::{Internet, Lookup};
use crate::server::abort::{Abort, Aborted};

/// Each has this long: a lookup, a connection to one address, a TLS handshake.
const LOOKUP: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(10);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A server that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// The name leads to an address that is not public.
#[derive(Debug)]
pub struct Denied;

/// An agent for one download, which `abort` can end at any time.
pub(super) fn agent(internet: &Internet, abort: &Abort, config: Config) -> Result<Agent, super::Error> {
    let tls = (internet.tls)().map_err(super::Error::Failed)?;
    let resolver = Checked { lookup: internet.lookup.clone(), allow_private: internet.allow_private };
    Ok(Agent::with_parts(config, Dial { tls, abort: abort.clone() }, resolver))
}

/// Gives checked addresses only.
struct Checked {
    lookup: Arc<Lookup>,
    allow_private: bool,
}

impl Resolver for Checked {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = host(uri).ok_or(Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(if is_https(uri) { 443 } else { 80 });
        let found = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => (self.lookup)(host, port, LOOKUP)?,
        };
        // One bad address condemns the name: it is no public server's.
        if !self.allow_private && !found.iter().all(|address| is_public(address.ip())) {
            return Err(Error::Other(Box::new(Denied)));
        }
        let mut addresses = self.empty();
        found.into_iter().take(MAX_ADDRESSES).for_each(|address| addresses.push(address));
        if addresses.is_empty() { Err(Error::HostNotFound) } else { Ok(addresses) }
    }
}

/// Without the brackets of an IPv6 address.
fn host(uri: &Uri) -> Option<&str> {
    let host = uri.host()?;
    Some(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

#[derive(Debug)]
struct Dial {
    tls: Arc<ClientConfig>,
    abort: Abort,
}

impl Connector for Dial {
    type Out = Wire;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Wire>, Error> {
        let socket = self.reach(&details.addrs)?;
        let mut socket = Socket { stream: socket, deadline: Instant::now() + HANDSHAKE };
        let tls = match is_https(details.uri) {
            false => None,
            true => {
                let name = host(details.uri).ok_or(Error::HostNotFound)?.trim_end_matches('.').to_owned();
                let name = ServerName::try_from(name).map_err(|_| Error::HostNotFound)?;
                let mut tls = ClientConnection::new(self.tls.clone(), name).map_err(io::Error::other)?;
                while tls.is_handshaking() {
                    tls.complete_io(&mut socket)?;
                }
                Some(Box::new(tls))
            }
        };
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Wire { socket, tls, buffers }))
    }
}

impl Dial {
    /// A connection to the first address that takes one.
    fn reach(&self, addresses: &[SocketAddr]) -> io::Result<Arc<TcpStream>> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            match self.reach_one(address) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
            self.abort.check().map_err(|Aborted| aborted())?;
        }
        Err(last)
    }

    /// The socket is known to whoever may end it before it connects, which `TcpStream::connect_timeout` does not allow.
    /// The kernel takes the send timeout for a connect's bound.
    fn reach_one(&self, address: &SocketAddr) -> io::Result<Arc<TcpStream>> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(CONNECT))?;
        let socket = Arc::new(TcpStream::from(socket));
        self.abort.watch(&socket).map_err(|Aborted| aborted())?;
        match rustix::net::connect(&*socket, address) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::INPROGRESS) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        }
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

fn aborted() -> io::Error {
    io::Error::other("ended before it was done")
}

/// A socket with a deadline for all that is done until it is moved.
struct Socket {
    stream: Arc<TcpStream>,
    deadline: Instant,
}

impl Socket {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

/// What an expired SO_RCVTIMEO or SO_SNDTIMEO gives (EAGAIN) is told as what it means.
fn timed_out(cause: io::Error) -> io::Error {
    if cause.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { cause }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        (&*self.stream).read(buffer).map_err(timed_out)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        (&*self.stream).write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Wire {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    buffers: LazyBuffers,
}

impl Wire {
    /// What is left of the request's time, but never longer than a silence may be.
    fn obey(&mut self, timeout: &NextTimeout) {
        let left = timeout.not_zero().map_or(SILENCE, |left| (*left).min(SILENCE));
        self.socket.deadline = Instant::now() + left;
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.obey(&timeout.for_write());
        let output = &self.buffers.output()[..amount];
        match &mut self.tls {
            None => self.socket.write_all(output)?,
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).write_all(output)?,
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.obey(&timeout.for_read());
        let input = self.buffers.input_append_buf();
        if input.is_empty() {
            // Only an answer's head that does not fit gets here; a read into nothing would look like its end.
            return Err(Error::LargeResponseHeader(super::MAX_HEAD, super::MAX_HEAD));
        }
        let amount = match &mut self.tls {
            None => self.socket.read(input)?,
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).read(input)?,
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Each connection serves one request.
    fn is_open(&mut self) -> bool {
        false
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked").field("allow_private", &self.allow_private).finish_non_exhaustive()
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name leads to an address that is not public")
    }
}

impl std::error::Error for Denied {}
