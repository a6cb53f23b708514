//! One request and its answer: the API version in its path, its bound in time, when it may be sent again.
//!
//! Runs on the caller's thread. The only state is the pool of connections and the version agreed on.

use std::fmt::{self, Write};
use std::io::Read;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body};

use super::closer::Closer;
use super::endpoint::{ApiVersion, Endpoint, EndpointError};
use super::error::{Error, MESSAGE_CAP};
use super::stream::{Dialer, Stream};
use super::transport::{self, CONNECT_LIMIT, DialError};

/// Bound on an answer that only needs to be read out.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(30);
/// Bound on an answer that waits for work: volumes to mount, a network to set up, a process to be gone.
pub(super) const WORK_LIMIT: Duration = Duration::from_secs(120);
/// Bound on a ping, thus on the negotiation of a version.
pub(super) const PING_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of an answer. A list of 5,000 containers is some 10 MB.
const ANSWER_CAP: u64 = 64 << 20;

/// A request, to be completed by `query`, `json`, `limit`, and run.
pub(super) struct Call {
    method: Method,
    /// After the version, with its query.
    path: String,
    /// Empty for a POST that says nothing.
    body: Option<Vec<u8>>,
    limit: Duration,
    header: Option<(&'static str, String)>,
    /// Whether doing it twice is the same as once, so that it may be sent again after a connection broke.
    replay: bool,
    versioned: bool,
}

impl Call {
    pub fn get(path: impl Into<String>) -> Call {
        Call::new(Method::GET, path.into(), READ_LIMIT, true)
    }

    /// Never sent a second time once it may have been received.
    pub fn post(path: impl Into<String>) -> Call {
        Call::new(Method::POST, path.into(), WORK_LIMIT, false)
    }

    pub fn delete(path: impl Into<String>) -> Call {
        Call::new(Method::DELETE, path.into(), WORK_LIMIT, true)
    }

    fn new(method: Method, path: String, limit: Duration, replay: bool) -> Call {
        let body = (method == Method::POST).then(Vec::new);
        Call { method, path, body, limit, header: None, replay, versioned: true }
    }

    pub fn query(mut self, name: &str, value: impl fmt::Display) -> Call {
        let mark = if self.path.contains('?') { '&' } else { '?' };
        let value = value.to_string();
        // Writing into a String cannot fail.
        let _ = write!(self.path, "{mark}{name}={}", Escaped(&value));
        self
    }

    pub fn json(mut self, body: &impl Serialize) -> Result<Call, Error> {
        let json = serde_json::to_vec(body).map_err(|e| Error::Malformed(format!("request: {e}")))?;
        self.body = Some(json);
        Ok(self)
    }

    pub fn header(mut self, name: &'static str, value: String) -> Call {
        self.header = Some((name, value));
        self
    }

    /// A POST of which a second one changes nothing.
    pub fn idempotent(mut self) -> Call {
        self.replay = true;
        self
    }

    pub fn into_path(self) -> String {
        self.path
    }

    fn unversioned(mut self) -> Call {
        self.versioned = false;
        self
    }
}

/// Percent-encodes everything but what RFC 3986 lets stand in a query and in the segments of a path.
pub(super) struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                f.write_char(byte.into())
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

/// What the Engine says of itself in answer to a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The newest API version it speaks.
    pub api_version: ApiVersion,
    /// `linux`, or empty when it does not say.
    pub os: String,
    /// Such as `Docker/20.10.24 (linux)` or `Libpod/4.3.1`; empty when it does not say.
    pub server: String,
}

/// The way to one Engine.
pub(super) struct Http {
    dialer: Dialer,
    agent: Agent,
    authority: String,
    /// The version in use, packed as `major << 16 | minor`; 0 while none is agreed on. A race between two
    /// threads means two pings with one result, so it needs no lock.
    version: AtomicU32,
    pinned: bool,
}

impl Http {
    pub fn new(endpoint: &Endpoint, version: Option<ApiVersion>) -> Result<Http, EndpointError> {
        let dialer = Dialer::new(endpoint)?;
        Ok(Http {
            agent: transport::pooled_agent(&dialer),
            authority: dialer.authority(),
            dialer,
            version: version.map_or(0, pack).into(),
            pinned: version.is_some(),
        })
    }

    /// Runs a call and reads a JSON answer.
    pub fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        let answer = self.run(call)?;
        serde_json::from_slice(&answer).map_err(|e| Error::Malformed(e.to_string()))
    }

    /// Runs a call to its whole answer, within its bound. It is sent a second time in two cases only: the
    /// connection broke and the call is idempotent; or the Engine refused the API version, which it does before
    /// it looks at anything else.
    pub fn run(&self, call: Call) -> Result<Vec<u8>, Error> {
        let deadline = Instant::now() + call.limit;
        let failure = match self.attempt(&call, deadline, false) {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let again = match &failure.error {
            Error::Unavailable(_) => failure.connected && call.replay,
            error => is_version_refusal(error) && !self.pinned,
        };
        if matches!(failure.error, Error::Unavailable(_)) || again {
            // Whoever answers next may be another Engine.
            self.forget_version();
        }
        if !again {
            return Err(failure.error);
        }
        self.attempt(&call, deadline, true).map_err(|failure| failure.error)
    }

    fn attempt(&self, call: &Call, deadline: Instant, fresh: bool) -> Result<Vec<u8>, Failure> {
        let uri = match call.versioned {
            true => self.uri(self.agreed_version(&self.agent, deadline)?, &call.path),
            false => format!("http://{}{}", self.authority, call.path),
        };
        let mut response = self.send(&self.agent, call, &uri, deadline, fresh)?;
        Ok(read_answer(&mut response)?)
    }

    fn send(
        &self,
        agent: &Agent,
        call: &Call,
        uri: &str,
        deadline: Instant,
        fresh: bool,
    ) -> Result<Response<Body>, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        call.send(agent, uri, Bounds { whole: Some(left), head: None, fresh })
    }

    /// Opens a stream on a connection of its own. Connecting, sending and the answer's head are bounded (10 s, 10 s
    /// and `head_limit`); reading the body is not, and `closer` ends it at any time.
    pub fn open(&self, call: Call, closer: &Closer, head_limit: Duration) -> Result<Response<Body>, Error> {
        let mut refused = false;
        loop {
            let result = self.open_once(&call, closer, head_limit);
            match result.map_err(|error| closer.explain(error)) {
                // A stream opens on a connection made for it, which cannot be stale: nothing to repeat.
                Err(error) if is_version_refusal(&error) && !self.pinned && !refused => {
                    refused = true;
                    self.forget_version();
                }
                Err(error) => {
                    if matches!(error, Error::Unavailable(_)) {
                        self.forget_version();
                    }
                    return Err(error);
                }
                Ok(response) => return Ok(response),
            }
        }
    }

    fn open_once(&self, call: &Call, closer: &Closer, head_limit: Duration) -> Result<Response<Body>, Error> {
        if closer.is_closed() {
            return Err(Error::Cancelled);
        }
        let agent = match call.header {
            Some(_) => transport::single_agent_for_long_headers(&self.dialer, closer),
            None => transport::single_agent(&self.dialer, closer),
        };
        // On a connection that the closer knows too, since a hung Engine answers no ping either.
        let agreed = self.agreed_version(&agent, Instant::now() + PING_LIMIT);
        let version = agreed.map_err(|failure| failure.error)?;
        let bounds = Bounds { whole: None, head: Some(head_limit), fresh: true };
        let uri = self.uri(version, &call.path);
        let mut response = call.send(&agent, &uri, bounds).map_err(|failure| failure.error)?;
        if response.status().is_success() {
            return Ok(response);
        }
        closer.limit_reads(PING_LIMIT);
        Err(match read_answer(&mut response) {
            Err(error) => error,
            Ok(_) => Error::Malformed(format!("status {}", response.status())),
        })
    }

    /// A bare connection, for what is not HTTP after its head, and the path that goes into that head.
    pub fn dial(&self, path: &str, closer: &Closer) -> Result<(Stream, String), Error> {
        let explain = |failure: Failure| closer.explain(failure.error);
        let agent = transport::single_agent(&self.dialer, closer);
        let version = self.agreed_version(&agent, Instant::now() + PING_LIMIT).map_err(explain)?;
        let dialed = self.dialer.dial(CONNECT_LIMIT, |socket| closer.watch(socket));
        let stream = dialed.map_err(|error| explain(DialError(error).into()))?;
        Ok((stream, format!("/v{version}{path}")))
    }

    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub fn ping(&self) -> Result<Ping, Error> {
        self.ping_by(&self.agent, Instant::now() + PING_LIMIT).map_err(|failure| failure.error)
    }

    fn ping_by(&self, agent: &Agent, deadline: Instant) -> Result<Ping, Failure> {
        let call = Call::get("/_ping").unversioned();
        let uri = format!("http://{}{}", self.authority, call.path);
        let mut attempt = self.send(agent, &call, &uri, deadline, false);
        if let Err(Failure { error: Error::Unavailable(_), connected: true }) = attempt {
            attempt = self.send(agent, &call, &uri, deadline, true);
        }
        if attempt.is_err() {
            self.forget_version();
        }
        Ok(read_ping(attempt?)?)
    }

    /// A ping on a connection made for it: what an Engine that shuts down no longer takes, while those that are
    /// open still work for some 10 s.
    pub fn ping_fresh(&self, limit: Duration) -> Result<Ping, Error> {
        let agent = transport::single_agent(&self.dialer, &Closer::new());
        let call = Call::get("/_ping").unversioned();
        let uri = format!("http://{}{}", self.authority, call.path);
        let sent = self.send(&agent, &call, &uri, Instant::now() + limit, true);
        read_ping(sent.map_err(|failure| failure.error)?)
    }

    /// The version in use, agreed on by a ping when there is none.
    pub fn api_version(&self) -> Result<ApiVersion, Error> {
        self.agreed_version(&self.agent, Instant::now() + PING_LIMIT).map_err(|failure| failure.error)
    }

    fn agreed_version(&self, agent: &Agent, deadline: Instant) -> Result<ApiVersion, Failure> {
        let known = self.version.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(unpack(known));
        }
        let deadline = deadline.min(Instant::now() + PING_LIMIT);
        let offered = self.ping_by(agent, deadline)?.api_version;
        if offered < ApiVersion::MIN {
            let text = format!("it speaks API {offered}, {} is the oldest that works", ApiVersion::MIN);
            return Err(Error::Unsupported(text).into());
        }
        let agreed = offered.min(ApiVersion::MAX);
        self.version.store(pack(agreed), Ordering::Relaxed);
        Ok(agreed)
    }

    fn forget_version(&self) {
        if !self.pinned {
            self.version.store(0, Ordering::Relaxed);
        }
    }

    fn uri(&self, version: ApiVersion, path: &str) -> String {
        format!("http://{}/v{version}{path}", self.authority)
    }
}

/// The bounds of one attempt.
struct Bounds {
    /// From connecting to the end of the body.
    whole: Option<Duration>,
    /// Until the head of the answer, when the body has none.
    head: Option<Duration>,
    /// On a new connection. What is idle in the pool is thrown away, being as old as what just broke.
    fresh: bool,
}

impl Call {
    fn send(&self, agent: &Agent, uri: &str, bounds: Bounds) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(self.method.clone()).uri(uri);
        if let Some((name, value)) = &self.header {
            request = request.header(*name, value);
        }
        match &self.body {
            None => run(agent, request.body(()).map_err(bad_request)?, bounds),
            // An empty one too: its length is said to be 0. With none at all a POST would be sent as chunked, and
            // the Engine takes that for a body, which a start must not have.
            Some(body) => {
                if !body.is_empty() {
                    request = request.header("content-type", "application/json");
                }
                run(agent, request.body(&body[..]).map_err(bad_request)?, bounds)
            }
        }
    }
}

fn run<B: ureq::AsSendBody>(
    agent: &Agent,
    request: Request<B>,
    bounds: Bounds,
) -> Result<Response<Body>, Failure> {
    let mut config = agent.configure_request(request).timeout_global(bounds.whole);
    if let Some(limit) = bounds.head {
        config = config
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_send_request(Some(CONNECT_LIMIT))
            .timeout_send_body(Some(CONNECT_LIMIT))
            .timeout_recv_response(Some(limit));
    }
    if bounds.fresh {
        config = config.max_idle_age(Duration::ZERO);
    }
    agent.run(config.build()).map_err(Failure::from)
}

/// The whole body of a success; anything else as the error it is.
fn read_answer(response: &mut Response<Body>) -> Result<Vec<u8>, Error> {
    let status = response.status();
    if status.is_success() {
        return Ok(response.body_mut().with_config().limit(ANSWER_CAP).read_to_vec()?);
    }
    let mut body = Vec::new();
    let read = response.body_mut().as_reader().take(4 * MESSAGE_CAP as u64).read_to_end(&mut body);
    // The status has been said, so a text that breaks off is no reason to forget it.
    let _ = read;
    Err(Error::from_answer(status.as_u16(), &body))
}

fn read_ping(mut response: Response<Body>) -> Result<Ping, Error> {
    let header = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (version, os, server) = (header("api-version"), header("ostype"), header("server"));
    read_answer(&mut response)?;
    let api_version =
        version.parse().map_err(|_| Error::Malformed("the answer to a ping names no API version".into()))?;
    Ok(Ping { api_version, os, server })
}

/// Why an attempt failed, and whether the request may have got through: only a failed dial rules it out.
struct Failure {
    error: Error,
    connected: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, connected: true }
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Failure {
        let error = match Error::from_io(&error.0) {
            Error::Timeout(_) => Error::Timeout("cannot connect in time"),
            _ => Error::Unavailable(error.to_string()),
        };
        Failure { error, connected: false }
    }
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Failure {
        match error {
            ureq::Error::Other(other) => match other.downcast::<DialError>() {
                Ok(dial) => Failure::from(*dial),
                Err(other) => Error::Malformed(other.to_string()).into(),
            },
            error => Error::from(error).into(),
        }
    }
}

fn bad_request(error: ureq::http::Error) -> Error {
    Error::Malformed(format!("request: {error}"))
}

/// The Engine's text for a version it does not speak is the same in 20.10 and 29; it has no code of its own.
fn is_version_refusal(error: &Error) -> bool {
    matches!(error, Error::Status { status: 400, message }
        if message.starts_with("client version") && (message.contains("too new") || message.contains("too old")))
}

fn pack(version: ApiVersion) -> u32 {
    u32::from(version.major) << 16 | u32::from(version.minor)
}

fn unpack(packed: u32) -> ApiVersion {
    ApiVersion { major: (packed >> 16) as u16, minor: packed as u16 }
}
