//! Who may ask over HTTP: whoever bears the node's secret, as `Authorization: Bearer` or `X-API-Key`, and does not come
//! from an address that has just guessed wrong too often. Asked by the gate's threads.
//!
//! The secret is read anew for each answer, so that one that was taken back opens nothing. Only the gate's own thread, which
//! must never wait for a disk, compares with the one read last, and what it lets in is judged again before it is served.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::config::{LEAST_SECRET_BEYOND_LOOPBACK, SecretSource, is_loopback};
use super::guesses::Guesses;
use crate::gate::{Head, Request, Response, is_local};
use crate::link::Secret;
use crate::protocol::{Code, http};

/// How often the gate's own thread may look into the secret's file when it is given another one than it knows.
const LOOK: Duration = Duration::from_secs(1);
/// Between two lines in the log that others can cause.
const QUIET: Duration = Duration::from_secs(10);

/// See the module's description.
#[derive(Debug)]
pub struct Access {
    source: SecretSource,
    /// Bytes that a secret must have.
    least: usize,
    /// Locks, because each of the gate's threads asks for itself; they are held for microseconds.
    known: Mutex<Known>,
    guesses: Mutex<Guesses>,
}

/// The secret that was read last, and what was logged.
#[derive(Debug, Default)]
struct Known {
    secret: Option<Secret>,
    read_at: Option<Instant>,
    of_trouble: Quiet,
    of_guesses: Quiet,
}

/// Lets one log line through in [`QUIET`], and counts the others.
#[derive(Debug, Default)]
struct Quiet {
    said: Option<Instant>,
    unsaid: u64,
}

impl Quiet {
    /// `Some` when a line may be written, with the number of those that were not since the last one.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.said.is_some_and(|said| now.saturating_duration_since(said) < QUIET) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Why somebody is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No secret, or a wrong one.
    Unauthorized,
    /// Too many wrong ones; so long is nothing looked at.
    LockedOut(Duration),
    /// Asked on this machine by a name that may be anybody's, without the secret.
    Misdirected,
}

impl Access {
    /// `listens` is where the API is served: beyond loopback the secret must be long.
    pub fn new(source: SecretSource, listens: SocketAddr) -> Access {
        let least = if is_loopback(listens) { 1 } else { LEAST_SECRET_BEYOND_LOOPBACK };
        Access { source, least, known: Mutex::default(), guesses: Mutex::default() }
    }

    /// Whether the request bears the secret.
    ///
    /// # Errors
    /// Why not; a wrong secret counts against its address.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        self.judge(request.head(), request.peer(), true)
    }

    /// The same for a request of which only the head has come. Never waits for a disk but, at most once a second, for
    /// the file that a new secret was written to.
    ///
    /// # Errors
    /// As of [`Access::check`].
    pub fn admit(&self, head: &Head, peer: SocketAddr) -> Result<(), Refusal> {
        self.judge(head, peer, false)
    }

    /// Whether the asker may know details: on this machine, by a name that is its own, and whoever bears the secret.
    ///
    /// # Errors
    /// Why not.
    pub fn may_know(&self, request: &Request) -> Result<(), Refusal> {
        let local = is_local(request.head(), request.peer());
        if local && request.head().has_own_host() {
            return Ok(());
        }
        match self.check(request) {
            Err(Refusal::Unauthorized) if local => Err(Refusal::Misdirected),
            result => result,
        }
    }

    fn judge(&self, head: &Head, peer: SocketAddr, fresh: bool) -> Result<(), Refusal> {
        let given = credential(head).ok_or(Refusal::Unauthorized)?;
        let (now, address) = (Instant::now(), peer.ip());
        if let Some(left) = self.guesses().locked(address, now) {
            return Err(Refusal::LockedOut(left));
        }
        if self.is_secret(given.as_bytes(), fresh, now) {
            self.guesses().right(address);
            return Ok(());
        }
        let lock = self.guesses().wrong(address, now);
        self.tell(address, lock, now);
        Err(Refusal::Unauthorized)
    }

    fn is_secret(&self, given: &[u8], fresh: bool, now: Instant) -> bool {
        if !fresh {
            let known = self.known();
            if known.secret.as_ref().is_some_and(|secret| secret.matches(given)) {
                return true;
            }
            if known.read_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK) {
                return false;
            }
        }
        // Read without the lock: the gate's own thread waits for it.
        let secret = self.read(now);
        let matches = secret.as_ref().is_some_and(|secret| secret.matches(given));
        let mut known = self.known();
        (known.secret, known.read_at) = (secret, Some(now));
        matches
    }

    fn read(&self, now: Instant) -> Option<Secret> {
        let trouble = match self.source.read() {
            Ok(secret) if secret.expose().len() >= self.least => return Some(secret),
            Ok(_) => format!("beyond loopback the secret must have at least {} characters", self.least),
            Err(cause) => cause.to_string(),
        };
        if let Some(unsaid) = self.known().of_trouble.pass(now) {
            log::warn!("http: everybody is refused: {trouble} ({unsaid} more not logged)");
        }
        None
    }

    fn tell(&self, address: IpAddr, lock: Option<Duration>, now: Instant) {
        let Some(unsaid) = self.known().of_guesses.pass(now) else { return };
        let locked = lock.map(|lock| format!(", locked out for {} s", lock.as_secs())).unwrap_or_default();
        log::warn!("http: wrong secret from {address}{locked} ({unsaid} more not logged)");
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guesses(&self) -> MutexGuard<'_, Guesses> {
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refusal {
    /// As it is answered to who asked for `/api/…`.
    pub fn in_json(self) -> Response {
        let code = if matches!(self, Refusal::LockedOut(_)) { Code::Busy } else { Code::PermissionDenied };
        self.with_headers(Response::json(self.status(), http::encode_error(code, self.sentence())))
    }

    /// As it is answered to who asked for a page of text.
    pub fn in_text(self) -> Response {
        self.with_headers(Response::text(self.status(), format!("{}\n", self.sentence())))
    }

    fn status(self) -> u16 {
        match self {
            Refusal::Unauthorized => 401,
            Refusal::LockedOut(_) => 429,
            Refusal::Misdirected => 421,
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Refusal::Unauthorized => "The node's secret is required, as a bearer token or as X-API-Key.",
            Refusal::LockedOut(_) => "Too many wrong secrets came from this address. Try again later.",
            Refusal::Misdirected => "Ask by address or as localhost, or with the node's secret.",
        }
    }

    fn with_headers(self, response: Response) -> Response {
        match self {
            Refusal::Unauthorized => response.with("WWW-Authenticate", "Bearer"),
            Refusal::LockedOut(left) => {
                // Rounded up, so that who waits as told is not refused again.
                response.with("Retry-After", left.as_millis().div_ceil(1000).to_string())
            }
            Refusal::Misdirected => response,
        }
    }
}

/// What is given as the secret. `Authorization` of another scheme is a proxy's and says nothing about us.
fn credential(head: &Head) -> Option<&str> {
    let bearer = head.header("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    bearer.or_else(|| head.header("x-api-key")).map(str::trim).filter(|given| !given.is_empty())
}
