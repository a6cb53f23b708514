//! [`Dialer`]: from a URL to a [`Connection`], phase by phase, each with its own bound.
//!
//! Runs on the thread that calls it (`panel-dial`) and ends by itself within [`Budget::total`]. It does the HTTP
//! upgrade itself (RFC 6455 section 4.1): `head.rs` says why. The secret is in the request and nowhere else.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::ClientConfig;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use zeroize::Zeroizing;

use super::connection::{Connection, Limits};
use super::head::{ResponseHead, read_body, read_head};
use super::proxy::Proxy;
use super::resolve::Resolver;
use super::secret::Secret;
use super::transport::Transport;
use super::url::WsUrl;
pub use error::{DialError, Phase, Refusal};

mod error;

/// Bytes that an upgrade request has room for: a secret has at most 4 KiB.
const MAX_REQUEST: usize = 16 << 10;
/// Most bytes of an answer by plain HTTP.
const MAX_ANSWER: usize = 64 << 10;

/// How long each phase may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub dns: Duration,
    /// For each address.
    pub connect: Duration,
    pub proxy: Duration,
    pub tls: Duration,
    pub upgrade: Duration,
    /// For all of it, whatever the phases would allow.
    pub total: Duration,
}

/// Dials one URL, as often as asked.
pub struct Dialer {
    pub url: WsUrl,
    /// Sent with the upgrade, beside what the handshake needs.
    pub headers: Vec<(String, String)>,
    /// Needed for `wss://`.
    pub tls: Option<Arc<ClientConfig>>,
    pub proxy: Option<Proxy>,
    pub budget: Budget,
    pub limits: Limits,
    pub resolver: Resolver,
}

impl Default for Budget {
    fn default() -> Budget {
        let phase = Duration::from_secs(10);
        Budget {
            dns: phase,
            connect: phase,
            proxy: phase,
            tls: phase,
            upgrade: phase,
            total: Duration::from_secs(30),
        }
    }
}

/// What a dial met on its way, for a person who looks for a fault.
#[derive(Debug, Default)]
pub struct Survey {
    /// What the name stands for, in the order in which it is tried.
    pub addresses: Vec<SocketAddr>,
    pub connected: Option<SocketAddr>,
    /// The server's own certificate, in DER.
    pub certificate: Option<Vec<u8>>,
}

/// The time that is left for a dial.
struct Clock {
    end: Instant,
}

impl Clock {
    /// The end of a phase that starts now.
    fn phase(&self, phase: Phase, bound: Duration) -> Result<Instant, DialError> {
        let now = Instant::now();
        if now >= self.end { Err(DialError::TimedOut(phase)) } else { Ok(self.end.min(now + bound)) }
    }
}

impl Dialer {
    /// A dialer with the usual bounds, no proxy, no further headers.
    pub fn new(url: WsUrl, tls: Option<Arc<ClientConfig>>) -> Dialer {
        Dialer {
            url,
            headers: Vec::new(),
            tls,
            proxy: None,
            budget: Budget::default(),
            limits: Limits::default(),
            resolver: Resolver::default(),
        }
    }

    /// Dials once; `secret` goes out as `Authorization: Bearer`. Blocks for at most [`Budget::total`].
    pub fn dial(&self, secret: &Secret) -> Result<Connection, DialError> {
        let (request, key) = self.request(secret)?;
        let clock = Clock { end: Instant::now() + self.budget.total };
        let mut transport = self.reach(&clock, &mut Survey::default())?;
        let deadline = clock.phase(Phase::Upgrade, self.budget.upgrade)?;
        let (leftover, date) = upgrade(&mut transport.until(deadline), &request, &key)?;
        Connection::new(transport, Role::Client, self.limits, leftover, date).map_err(DialError::Upgrade)
    }

    /// Goes the way of a dial, with the upgrade only when there is a `secret`, and hangs up. `Ok` is the `Date` that
    /// the server gave. A Panel that is already linked with this node would end that link for the new one.
    pub fn survey(&self, secret: Option<&Secret>) -> (Survey, Result<Option<SystemTime>, DialError>) {
        let mut survey = Survey::default();
        let clock = Clock { end: Instant::now() + self.budget.total };
        let result = self.reach(&clock, &mut survey).and_then(|mut transport| {
            let Some(secret) = secret else { return Ok(None) };
            let (request, key) = self.request(secret)?;
            let deadline = clock.phase(Phase::Upgrade, self.budget.upgrade)?;
            upgrade(&mut transport.until(deadline), &request, &key).map(|(_, date)| date)
        });
        (survey, result)
    }

    /// Asks the same host for something by plain HTTP, over the same way: the status and at most 64 KiB of the answer.
    pub fn post(&self, path: &str, body: &[u8]) -> Result<(u16, String), DialError> {
        let clock = Clock { end: Instant::now() + self.budget.total };
        let mut transport = self.reach(&clock, &mut Survey::default())?;
        let deadline = clock.phase(Phase::Upgrade, self.budget.upgrade)?;
        let mut stream = transport.until(deadline);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.url.host_header(),
            body.len()
        );
        let sent = stream.write_all(&[head.as_bytes(), body].concat()).and_then(|()| stream.flush());
        sent.map_err(DialError::Upgrade)?;
        let (head, mut answer) = read_head(&mut stream, Vec::new()).map_err(DialError::Upgrade)?;
        let ResponseHead { status, headers } = ResponseHead::parse(&head).map_err(DialError::Upgrade)?;
        let length = headers.get("content-length").and_then(|value| value.parse::<usize>().ok());
        let wanted = length.unwrap_or(MAX_ANSWER).min(MAX_ANSWER);
        let missing = wanted.saturating_sub(answer.len()) as u64;
        // An answer that is cut short is one that cannot be read, which its reader tells.
        let _ = stream.take(missing).read_to_end(&mut answer);
        Ok((status, String::from_utf8_lossy(&answer).into_owned()))
    }

    /// Everything before the upgrade.
    fn reach(&self, clock: &Clock, survey: &mut Survey) -> Result<Transport, DialError> {
        let tls = match (self.url.secure(), &self.tls) {
            (true, None) => return Err(DialError::NoTls),
            (true, Some(config)) => Some(config.clone()),
            (false, _) => None,
        };
        let socket = self.connect(clock, survey)?;
        let mut transport = Transport::plain(socket);
        if let Some(proxy) = &self.proxy {
            let deadline = clock.phase(Phase::Proxy, self.budget.proxy)?;
            proxy
                .tunnel(&mut transport.until(deadline), &self.url)
                .map_err(|cause| DialError::Proxy { proxy: proxy.clone(), cause })?;
        }
        if let Some(config) = tls {
            let deadline = clock.phase(Phase::Tls, self.budget.tls)?;
            let secured = transport.secure(config, self.url.host(), deadline);
            transport = secured.map_err(|cause| DialError::Tls(blamed_on_clock(cause, SystemTime::now())))?;
            survey.certificate = transport.certificate();
        }
        Ok(transport)
    }

    fn connect(&self, clock: &Clock, survey: &mut Survey) -> Result<TcpStream, DialError> {
        let (host, port) = match &self.proxy {
            Some(proxy) => (&proxy.host, proxy.port),
            None => (self.url.host(), self.url.port()),
        };
        let wait = clock.phase(Phase::Dns, self.budget.dns)?.saturating_duration_since(Instant::now());
        let found = self.resolver.resolve(host, port, wait);
        let addresses = found.map_err(|cause| DialError::Dns { host: host.clone(), cause })?;
        survey.addresses.clone_from(&addresses);
        let mut tried = Vec::new();
        for address in addresses {
            let wait = match clock.phase(Phase::Connect, self.budget.connect) {
                Ok(deadline) => deadline.saturating_duration_since(Instant::now()),
                Err(_) if !tried.is_empty() => break,
                Err(late) => return Err(late),
            };
            // A zero wait would be an error of its own kind.
            match TcpStream::connect_timeout(&address, wait.max(Duration::from_millis(1))) {
                Ok(socket) => {
                    socket
                        .set_nodelay(true)
                        .map_err(|cause| DialError::Connect { tried: vec![(address, cause)] })?;
                    survey.connected = Some(address);
                    return Ok(socket);
                }
                Err(cause) => tried.push((address, cause)),
            }
        }
        Err(DialError::Connect { tried })
    }

    /// The upgrade request, which is wiped once it was sent, and its key.
    fn request(&self, secret: &Secret) -> Result<(Zeroizing<Vec<u8>>, String), DialError> {
        let key = generate_key();
        // Never moved by growing: a place that was left could not be wiped.
        let mut request = Zeroizing::new(String::with_capacity(MAX_REQUEST));
        let _ = write!(
            request,
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nAuthorization: Bearer {}\r\n",
            self.url.target(),
            self.url.host_header(),
            secret.expose()
        );
        for (name, value) in &self.headers {
            if !is_token(name) || !value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
                return Err(DialError::Header { name: name.clone() });
            }
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        Ok((Zeroizing::new(std::mem::take(&mut *request).into_bytes()), key))
    }
}

/// A machine without a battery for its clock wakes up in 1970, where no certificate is valid yet: what fails under TLS
/// is then told with its cause.
fn blamed_on_clock(cause: io::Error, now: SystemTime) -> io::Error {
    let year_1980 = SystemTime::UNIX_EPOCH + Duration::from_secs(315_532_800);
    if now >= year_1980 {
        return cause;
    }
    io::Error::other(format!("the clock of this node is not set, it says a time before 1980: {cause}"))
}

/// A header name (RFC 9110 section 5.6.2).
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Sends the request and checks the answer. Gives what was read behind its head, and its date.
fn upgrade(
    stream: &mut (impl Read + Write),
    request: &[u8],
    key: &str,
) -> Result<(Vec<u8>, Option<SystemTime>), DialError> {
    stream.write_all(request).and_then(|()| stream.flush()).map_err(DialError::Upgrade)?;
    let (head, rest) = read_head(stream, Vec::new()).map_err(DialError::Upgrade)?;
    let ResponseHead { status, headers } = ResponseHead::parse(&head).map_err(DialError::Upgrade)?;
    let date = headers.date();
    if status != 101 {
        let retry_after = headers.retry_after();
        let body = read_body(stream, &headers, rest);
        return Err(DialError::Refused(Refusal { status, body, retry_after, date }));
    }
    let fault = if !headers.has_token("upgrade", "websocket") {
        "answer has no upgrade: websocket"
    } else if !headers.has_token("connection", "upgrade") {
        "answer has no connection: upgrade"
    } else if headers.get("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
        "answer does not fit the key that was sent"
    } else if headers.get("sec-websocket-extensions").is_some_and(|value| !value.is_empty()) {
        "answer uses an extension that was not asked for"
    } else if headers.get("sec-websocket-protocol").is_some() {
        "answer uses a subprotocol that was not asked for"
    } else {
        return Ok((rest, date));
    };
    Err(DialError::Upgrade(io::Error::new(io::ErrorKind::InvalidData, fault)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_clock_is_named_when_tls_fails() {
        let told = |now| blamed_on_clock(io::Error::other("certificate not valid yet"), now).to_string();
        let unset = told(SystemTime::UNIX_EPOCH + Duration::from_secs(60));
        assert_eq!(
            unset,
            "the clock of this node is not set, it says a time before 1980: certificate not valid yet"
        );
        assert!(told(SystemTime::UNIX_EPOCH - Duration::from_secs(60)).starts_with("the clock"));
        assert_eq!(told(SystemTime::now()), "certificate not valid yet");
    }
}
