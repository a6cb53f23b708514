//! [`Transport`]: the bytes beneath a WebSocket, plain TCP or TLS, while they are still one stream: for handshakes,
//! within deadlines. Afterwards it is split into [`super::halves`].
//!
//! The same type serves client and server connections.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;

use super::halves::{ReadHalf, WriteHalf, broken, tls_halves};
use super::url::Host;

/// A connected byte stream that is still in one piece: for handshakes.
pub struct Transport {
    socket: TcpStream,
    tls: Option<Box<rustls::Connection>>,
}

impl Transport {
    pub fn plain(socket: TcpStream) -> Transport {
        Transport { socket, tls: None }
    }

    /// A TLS connection over `socket`, client or server side. Its handshake may still have to be done.
    pub fn tls(socket: TcpStream, tls: impl Into<rustls::Connection>) -> Transport {
        Transport { socket, tls: Some(Box::new(tls.into())) }
    }

    /// Starts TLS as a client and finishes the handshake.
    pub(super) fn secure(
        self,
        config: Arc<ClientConfig>,
        host: &Host,
        deadline: Instant,
    ) -> io::Result<Transport> {
        let name = match host {
            // The dot of an absolute name is DNS's, certificates are without it.
            Host::Name(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "host name does not fit TLS"))?,
            Host::Ip(ip) => ServerName::from(*ip),
        };
        let client = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut secured = Transport::tls(self.socket, client);
        secured.handshake(deadline)?;
        Ok(secured)
    }

    /// Finishes a TLS handshake; nothing to do for a plain connection.
    pub fn handshake(&mut self, deadline: Instant) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            let mut socket = Timed { socket: &self.socket, deadline };
            while tls.is_handshaking() {
                tls.complete_io(&mut socket)?;
            }
        }
        Ok(())
    }

    /// Reading and writing that fails with `TimedOut` at the deadline, however slowly the peer drips.
    pub(super) fn until(&mut self, deadline: Instant) -> impl Read + Write {
        let socket = Timed { socket: &self.socket, deadline };
        TimedTransport { socket, tls: self.tls.as_deref_mut() }
    }

    /// The peer's own certificate, in DER.
    pub(super) fn certificate(&self) -> Option<Vec<u8>> {
        let chain = self.tls.as_ref()?.peer_certificates()?;
        chain.first().map(|certificate| certificate.to_vec())
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn split(self) -> io::Result<(ReadHalf, WriteHalf)> {
        let second = self.socket.try_clone()?;
        Ok(match self.tls {
            None => (ReadHalf::Plain(self.socket), WriteHalf::Plain(second)),
            Some(tls) => tls_halves(self.socket, second, *tls),
        })
    }
}

/// A socket with one deadline for everything: each call waits for what is left of it.
struct Timed<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// What an expired SO_RCVTIMEO or SO_SNDTIMEO gives (EAGAIN) is told as what it means.
fn timed_out(cause: io::Error) -> io::Error {
    if cause.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { cause }
}

impl Read for Timed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        let mut socket = self.socket;
        socket.read(buf).map_err(timed_out)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        let mut socket = self.socket;
        socket.write(buf).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct TimedTransport<'a> {
    socket: Timed<'a>,
    tls: Option<&'a mut rustls::Connection>,
}

impl Read for TimedTransport<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buf) };
        loop {
            match tls.reader().read(buf) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            if tls.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(broken)?;
        }
    }
}

impl Write for TimedTransport<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(buf) };
        let taken = tls.writer().write(buf)?;
        self.flush()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.socket)?;
            }
        }
        Ok(())
    }
}
