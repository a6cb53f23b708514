//! The bytes beneath a WebSocket: [`Transport`], plain TCP or TLS, before and after it is split in two.
//!
//! A rustls connection is one state for both directions. After the split it is behind a mutex that covers memory work
//! only: the reader reads ciphertext without it and locks to decrypt, the writer locks to encrypt and writes after.
//! INVARIANT: only the write half writes to the socket and drains `write_tls`, so records keep their order. What the
//! read side brings up (alerts) waits for the writer's next flush; a key update's answer goes out in front of the
//! next message (RFC 8446 section 4.6.3).
//!
//! The same types serve client and server connections.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{error, fmt};

use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use super::url::Host;

/// Plaintext encrypted under one lock: two full records.
const ENCRYPT_AT_ONCE: usize = 32 << 10;
/// Ciphertext read at once: one full record.
const READ_AT_ONCE: usize = 17 << 10;

/// A connected byte stream that is still in one piece: for handshakes.
pub struct Transport {
    socket: TcpStream,
    tls: Option<Box<rustls::Connection>>,
}

/// Why there is no TLS configuration.
#[derive(Debug)]
pub enum TlsError {
    /// The file with certificates cannot be read or holds none.
    CaFile { path: PathBuf, cause: String },
    /// rustls refuses the configuration.
    Config(rustls::Error),
}

/// A client configuration that trusts the certificates in `ca_file` and no others; without it the system's, or,
/// where the system has none, the ones that were built in (webpki-roots).
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => add_file(&mut roots, path)?,
        None => {
            let system = rustls_native_certs::load_native_certs();
            for cause in &system.errors {
                log::debug!("system certificates: {cause}");
            }
            let (added, ignored) = roots.add_parsable_certificates(system.certs);
            log::debug!("system certificates: {added} taken, {ignored} unusable");
            if added == 0 {
                log::info!("no system certificates found, using the built-in ones");
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // One peer needs one session; the default reserves room for 256 servers.
    config.resumption = Resumption::in_memory_sessions(4);
    Ok(Arc::new(config))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    let fault = |cause: String| TlsError::CaFile { path: path.to_owned(), cause };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|cause| fault(cause.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|cause| fault(cause.to_string()))?;
        roots.add(certificate).map_err(|cause| fault(cause.to_string()))?;
    }
    if roots.is_empty() { Err(fault("holds no certificate".into())) } else { Ok(()) }
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

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn split(self) -> io::Result<(ReadHalf, WriteHalf)> {
        let second = self.socket.try_clone()?;
        Ok(match self.tls {
            None => (ReadHalf::Plain(self.socket), WriteHalf::Plain(second)),
            Some(tls) => {
                let tls = Arc::new(Mutex::new(*tls));
                let reader = TlsReader {
                    socket: self.socket,
                    tls: tls.clone(),
                    cipher: vec![0; READ_AT_ONCE],
                    start: 0,
                    end: 0,
                };
                (
                    ReadHalf::Tls(reader),
                    WriteHalf::Tls(TlsWriter { socket: second, tls, records: Vec::new() }),
                )
            }
        })
    }
}

/// A socket with one deadline for everything: each call waits for what is left of it.
struct Timed<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<std::time::Duration> {
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

/// What rustls finds wrong with the peer's records.
fn broken(cause: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

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

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::CaFile { path, cause } => write!(f, "certificates in {}: {cause}", path.display()),
            TlsError::Config(cause) => write!(f, "tls configuration: {cause}"),
        }
    }
}

impl error::Error for TlsError {}
