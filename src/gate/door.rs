//! One tiny_http server and the Unix socket in front of it.
//!
//! tiny_http starts five threads of its own, the fewest it can: one that accepts and four that read requests. They have
//! no names, and end by themselves up to five seconds after the socket is closed.
//!
//! tiny_http must never meet a stranger: a header line without end is buffered whole, a `Content-Length` near 2^62 aborts the
//! process. So the socket has no name that one could connect to: it is bound in any directory that can be written, held
//! open, and unlinked before it listens; only this process reaches it, through `/proc/self/fd`. Where no directory can be written
//! (or there is no `/proc`) an abstract socket with a random name has to do, which local users can find.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::GateError;

/// Connections that may wait for tiny_http's accept; more than the gate ever has.
const BACKLOG: i32 = 128;

/// A tiny_http server. Dropping it frees the requests in its queue, but its own `Drop` panics for an abstract socket: that
/// one is leaked, a kilobyte and what is queued.
pub(super) struct Server {
    /// INVARIANT: taken by `drop` alone.
    inner: Option<tiny_http::Server>,
    is_abstract: bool,
}

impl Server {
    /// Blocks until there is a request. An error when it has been unblocked or has stopped accepting.
    pub fn recv(&self) -> io::Result<tiny_http::Request> {
        self.inner.as_ref().ok_or(io::ErrorKind::NotConnected)?.recv()
    }

    /// Makes one `recv`, now or later, return an error.
    pub fn unblock(&self) {
        if let Some(server) = &self.inner {
            server.unblock();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_abstract {
            std::mem::forget(self.inner.take());
        }
    }
}

/// tiny_http, accepting.
pub(super) struct Door {
    address: SocketAddrUnix,
    /// Holds the unlinked socket that `address` leads to; none for an abstract one.
    _inode: Option<OwnedFd>,
    /// The same socket that tiny_http accepts on: shutting it down is the only way to end its accept thread.
    listener: UnixListener,
    server: Arc<Server>,
    /// Its accept thread has ended, so that a connection would wait for ever.
    pub broken: bool,
}

impl Door {
    /// Tries `directory` first, then those that most systems have.
    pub fn open(directory: Option<&Path>) -> Result<Door, GateError> {
        let usual = [std::env::temp_dir(), "/dev/shm".into(), "/run".into()];
        let places = directory.map(PathBuf::from).into_iter().chain(usual);
        let mut nameless = places.filter_map(|place| nameless(&place).ok());
        let (address, inode, listener) = match nameless.next() {
            Some((address, inode, listener)) => (address, Some(inode), listener),
            None => {
                log::warn!("http gate: no directory can be written: local users can reach the inner socket");
                let (address, listener) = abstract_socket()?;
                (address, None, listener)
            }
        };
        let server = tiny_http::Server::from_listener(listener.try_clone()?, None)
            .map_err(|cause| GateError::Server(cause.to_string()))?;
        let server = Arc::new(Server { inner: Some(server), is_abstract: inode.is_none() });
        Ok(Door { address, _inode: inode, listener, server, broken: false })
    }

    /// From now on connections are taken and never served, as after a panic of the accept thread.
    #[cfg(test)]
    pub fn deafen(&mut self) {
        let (address, inode, listener) = nameless(&std::env::temp_dir()).unwrap();
        (self.address, self._inode, self.listener) = (address, Some(inode), listener);
    }

    pub fn server(&self) -> Arc<Server> {
        Arc::clone(&self.server)
    }

    /// A nonblocking connection to tiny_http.
    pub fn connect(&self) -> io::Result<UnixStream> {
        // That thread panics when it cannot duplicate a descriptor. Looking first whether there are three, one here and
        // two there, makes that rare; another door is opened when some other thread was faster.
        let spare = [self.listener.try_clone()?, self.listener.try_clone()?, self.listener.try_clone()?];
        drop(spare);
        let socket = socket(SocketFlags::NONBLOCK)?;
        rustix::net::connect(&socket, &self.address)?;
        Ok(UnixStream::from(socket))
    }

    /// Ends tiny_http's accept thread and with it, in time, its others.
    pub fn close(&self) {
        // Fails only when it is shut down already.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

fn socket(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)
}

/// A listening socket whose name is gone before anybody could use it.
fn nameless(directory: &Path) -> io::Result<(SocketAddrUnix, OwnedFd, UnixListener)> {
    let path = directory.join(format!(".longshore-{:032x}", u128::from_ne_bytes(random()?)));
    let listener = socket(SocketFlags::empty())?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path)?)?;
    let inode = rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    // Who opened it in between still lacks the right to connect, whatever the umask was.
    let chmod = rustix::fs::chmodat(CWD, &path, Mode::RUSR | Mode::WUSR, AtFlags::empty());
    std::fs::remove_file(&path)?;
    let (inode, ()) = (inode?, chmod?);
    rustix::net::listen(&listener, BACKLOG)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", inode.as_raw_fd()))?;
    let listener = UnixListener::from(listener);
    // Proves that /proc leads there; shut down at once, tiny_http never has to read from it.
    rustix::net::connect(socket(SocketFlags::NONBLOCK)?, &address)?;
    drop(listener.accept()?);
    Ok((address, inode, listener))
}

fn abstract_socket() -> io::Result<(SocketAddrUnix, UnixListener)> {
    let listener = socket(SocketFlags::empty())?;
    let address = SocketAddrUnix::new_abstract_name(&random()?)?;
    rustix::net::bind(&listener, &address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok((address, UnixListener::from(listener)))
}

/// 128 bits that nobody can guess. ring's source reads `/dev/urandom` where the kernel, or a filter before it, has no
/// getrandom(2).
pub(super) fn random() -> io::Result<[u8; 16]> {
    let bytes = ring::rand::generate(&ring::rand::SystemRandom::new());
    bytes.map(ring::rand::Random::expose).map_err(|_| io::Error::other("the system gives no random numbers"))
}
