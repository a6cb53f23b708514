//! One request: its path and body, its bounds in time, whether it may be sent twice, and what its failure says.
//!
//! Runs on the caller's thread and keeps no state.

use std::fmt::{self, Write};
use std::io::Read;
use std::time::Duration;

use serde::Serialize;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body};

use super::error::{Error, MESSAGE_CAP};
use super::transport::{CONNECT_LIMIT, DialError};

/// Bound on an answer that only needs to be read out.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(30);
/// Bound on an answer that waits for work: volumes to mount, a network to set up, a process to be gone.
pub(super) const WORK_LIMIT: Duration = Duration::from_secs(120);
/// Bound on a ping, thus on the negotiation of a version.
pub(super) const PING_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of an answer. A list of 5,000 containers is some 10 MB.
const ANSWER_CAP: u64 = 64 << 20;

/// A request, to be completed by `query`, `json` and `header`, and run.
pub(super) struct Call {
    method: Method,
    /// After the version, with its query.
    pub path: String,
    /// Empty for a POST that says nothing.
    body: Option<Vec<u8>>,
    pub limit: Duration,
    content_type: &'static str,
    pub header: Option<(&'static str, String)>,
    /// Whether doing it twice is the same as once, so that it may be sent again after a connection broke.
    pub replay: bool,
    pub versioned: bool,
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
        let content_type = "application/json";
        Call { method, path, body, limit, content_type, header: None, replay, versioned: true }
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

    pub fn tar(mut self, archive: Vec<u8>) -> Call {
        (self.body, self.content_type) = (Some(archive), "application/x-tar");
        self
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

    pub fn unversioned(mut self) -> Call {
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

/// The bounds of one attempt.
pub(super) struct Bounds {
    /// From connecting to the end of the body.
    pub whole: Option<Duration>,
    /// Until the head of the answer, when the body has none.
    pub head: Option<Duration>,
    /// On a new connection. What is idle in the pool is thrown away, being as old as what just broke.
    pub fresh: bool,
}

impl Call {
    pub fn send(&self, agent: &Agent, uri: &str, bounds: Bounds) -> Result<Response<Body>, Failure> {
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
                    request = request.header("content-type", self.content_type);
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
pub(super) fn read_answer(response: &mut Response<Body>) -> Result<Vec<u8>, Error> {
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

/// Why an attempt failed, and whether the request may have got through: only a failed dial rules it out.
pub(super) struct Failure {
    pub error: Error,
    pub connected: bool,
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
