//! [`Connection`]: a WebSocket after its handshake, already split into a half for reading and one for writing.
//!
//! Made by [`super::Dialer::dial`] or [`super::accept::accept`], consumed by [`super::Duplex::start`].
//!
//! One tungstenite `WebSocket` needs `&mut self` both ways and its `read` may write, so there are two over clones of
//! one socket. INVARIANT: the read half never writes to the socket: what tungstenite writes on its own while it
//! reads (pong, close) is thrown away there, and the reader thread asks the outbox for it instead.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use super::halves::{ReadHalf, WriteHalf};
use super::outbox::MAX_MESSAGE;
use super::transport::Transport;

/// The bounds of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest incoming message and frame in bytes.
    pub max_message: usize,
    /// Without any byte from the peer for this long the connection has ended; from eight ninths of it on it may.
    pub silence: Duration,
    /// A write that makes no progress, or data the peer does not acknowledge (TCP_USER_TIMEOUT), for this long
    /// ends the connection.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_message: 16 << 20, silence: Duration::from_secs(45), stall: Duration::from_secs(30) }
    }
}

/// A connection that is ready for its two threads.
pub struct Connection {
    pub(super) read: WebSocket<ReadHalf>,
    pub(super) write: WebSocket<WriteHalf>,
    /// Only for shutting it down.
    pub(super) socket: TcpStream,
    pub(super) role: Role,
    peer: SocketAddr,
    date: Option<SystemTime>,
}

/// Bytes read from the socket at once. tungstenite allocates it at once and for good, for each connection.
const READ_BUFFER: usize = 8 << 10;
/// Messages are gathered up to this size before they are written; the write thread flushes when it has nothing left.
const WRITE_BUFFER: usize = 16 << 10;

impl Connection {
    /// `leftover` is what was already read behind the handshake. Sets the socket's options for the time from now on.
    pub(super) fn new(
        transport: Transport,
        role: Role,
        limits: Limits,
        leftover: Vec<u8>,
        date: Option<SystemTime>,
    ) -> io::Result<Connection> {
        let socket = transport.socket().try_clone()?;
        let peer = socket.peer_addr()?;
        socket.set_nodelay(true)?;
        // The kernel rounds a long timeout up, by as much as an eighth.
        socket.set_read_timeout(Some(limits.silence * 8 / 9))?;
        socket.set_write_timeout(Some(limits.stall))?;
        let stall = limits.stall.as_millis().try_into().unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&socket, stall)?;
        let (read, write) = transport.split()?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(limits.max_message))
            .max_frame_size(Some(limits.max_message));
        let read = WebSocket::from_partially_read(read, leftover, role, Some(config));
        Ok(Connection { read, write: write_half(write, role), socket, role, peer, date })
    }

    /// The other end of the TCP connection: with a proxy, the proxy.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The `Date` of the server's answer to the upgrade, to estimate the offset of the clocks. `None` on the
    /// accepting side.
    pub fn server_date(&self) -> Option<SystemTime> {
        self.date
    }
}

/// A fresh write half: one message fits in full behind what was gathered, and nothing is reserved for reading.
pub(super) fn write_half(half: WriteHalf, role: Role) -> WebSocket<WriteHalf> {
    let config = WebSocketConfig::default()
        .read_buffer_size(0)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + MAX_MESSAGE + 1024);
    WebSocket::from_raw_socket(half, role, Some(config))
}
