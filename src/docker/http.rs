//! The way to one Engine: its pool of connections, the API version agreed on, when a call may be sent again.
//!
//! Runs on the caller's thread.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::call::{Bounds, Call, Failure, PING_LIMIT, read_answer};
use super::closer::Closer;
use super::dial::Dialer;
use super::endpoint::{ApiVersion, Endpoint, EndpointError};
use super::error::Error;
use super::stream::Stream;
use super::transport::{self, CONNECT_LIMIT, DialError};

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
        serde_json::from_slice(&answer).map_err(|error| match error.is_eof() && !answer.is_empty() {
            // Where the connection's end is the answer's end, one that broke is known by nothing else.
            true => Error::Unavailable(format!("its answer was cut off: {error}")),
            false => Error::Malformed(error.to_string()),
        })
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
