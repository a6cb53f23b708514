//! HTTP over a `Stream`: the connector that ureq runs on, and the two kinds of agent.
//!
//! ureq's transport module is outside its semver promise, so its patch series is pinned. Its own TLS feature is
//! left out: attach needs TLS without ureq anyway, and one way to make a connection serves both.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};
use ureq::{Agent, Error};

use super::buffers::StreamBuffers;
use super::closer::Closer;
use super::dial::Dialer;
use super::stream::Stream;

/// The longest that connecting may take, within whatever bound the call has.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Connections that a client keeps open between calls: the workers, and some for the rest of the Agent.
const MAX_IDLE: usize = 8;
/// Seconds an unused connection is kept. A longer time only raises the chance of finding it broken.
const MAX_IDLE_AGE: Duration = Duration::from_secs(30);
/// Bytes read at once, and the most that an answer's head may have.
const INPUT: usize = 16 * 1024;
/// Bytes written at once, and the most that one line of a request's head may have.
const OUTPUT: usize = 4 * 1024;
/// The same for a pull, which carries a registry's token in one line.
const LONG_OUTPUT: usize = 32 * 1024;

/// The agent for calls, which shares a pool of connections.
pub(super) fn pooled_agent(dialer: &Dialer) -> Agent {
    let config = config(OUTPUT).max_idle_connections(MAX_IDLE).max_idle_connections_per_host(MAX_IDLE);
    agent(config.max_idle_age(MAX_IDLE_AGE).build(), dialer, None)
}

/// An agent for one exchange on a connection of its own, which `closer` can end at any time.
pub(super) fn single_agent(dialer: &Dialer, closer: &Closer) -> Agent {
    let config = config(OUTPUT).max_idle_connections(0).max_idle_connections_per_host(0);
    agent(config.build(), dialer, Some(closer.clone()))
}

/// As [`single_agent`], for a request with a long header line.
pub(super) fn single_agent_for_long_headers(dialer: &Dialer, closer: &Closer) -> Agent {
    let config = config(LONG_OUTPUT).max_idle_connections(0).max_idle_connections_per_host(0);
    agent(config.build(), dialer, Some(closer.clone()))
}

fn config(output: usize) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        // Taken from the environment otherwise, which is about the Internet and not about the Engine.
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent("")
        .accept("")
        .accept_encoding("")
        .input_buffer_size(INPUT)
        .output_buffer_size(output)
        .max_response_header_size(INPUT)
}

fn agent(config: Config, dialer: &Dialer, closer: Option<Closer>) -> Agent {
    Agent::with_parts(config, Connect { dialer: dialer.clone(), closer }, NoResolver)
}

#[derive(Debug)]
struct Connect {
    dialer: Dialer,
    closer: Option<Closer>,
}

impl Connector for Connect {
    type Out = Wire;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Wire>, Error> {
        let limit = details.timeout.not_zero().map_or(CONNECT_LIMIT, |d| *d);
        let watch = |handle: &_| self.closer.as_ref().map_or(Ok(()), |closer| closer.watch(handle));
        let dialed = self.dialer.dial(limit.min(CONNECT_LIMIT), watch);
        let stream = dialed.map_err(|e| Error::Other(Box::new(DialError(e))))?;
        let config = details.config;
        let buffers = StreamBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Wire { stream, buffers }))
    }
}

/// The connection could not be made, so the request was never sent. Its own type, since ureq gives an I/O error
/// for that and for a connection that broke later alike.
#[derive(Debug)]
pub(super) struct DialError(pub io::Error);

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect: {}", self.0)
    }
}

impl std::error::Error for DialError {}

struct Wire {
    stream: Stream,
    buffers: StreamBuffers,
}

impl Wire {
    fn obey(&mut self, timeout: &NextTimeout) {
        self.stream.set_deadline(timeout.not_zero().map(|left| Instant::now() + *left));
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        self.obey(&timeout);
        let output = &self.buffers.output()[..amount];
        let sent = self.stream.write_all(output).and_then(|()| self.stream.flush());
        self.buffers.output_sent();
        sent.map_err(|e| timed_out_or(e, &timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        self.obey(&timeout);
        let input = self.buffers.input_append_buf();
        if input.is_empty() {
            // Only a response head that does not fit gets here; a read into nothing would look like its end.
            return Err(Error::LargeResponseHeader(INPUT, INPUT));
        }
        let amount = self.stream.read(input).map_err(|e| timed_out_or(e, &timeout))?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.is_quiet()
    }
}

fn timed_out_or(error: io::Error, timeout: &NextTimeout) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::Timeout(timeout.reason),
        _ => Error::Io(error),
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.stream.handle())
    }
}

/// ureq wants an address before it connects; the dialer knows better.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Ok(addresses)
    }
}
