//! Why a dial came to nothing, in which phase, and what that means for the next one.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use std::{error, fmt, io};

use crate::link::Setback;
use crate::link::proxy::{Proxy, ProxyError};
use crate::link::resolve::ResolveError;
use crate::link::url::Host;

/// A step of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Dns,
    Connect,
    Proxy,
    Tls,
    Upgrade,
}

/// Why there is no connection. [`DialError::phase`] tells where it went wrong.
#[derive(Debug)]
pub enum DialError {
    /// A header of ours cannot be sent.
    Header {
        name: String,
    },
    /// The URL is `wss://` and there is no TLS configuration.
    NoTls,
    Dns {
        host: Host,
        cause: ResolveError,
    },
    /// Every address that was tried, with what came of it.
    Connect {
        tried: Vec<(SocketAddr, io::Error)>,
    },
    Proxy {
        proxy: Proxy,
        cause: ProxyError,
    },
    Tls(io::Error),
    /// The server answered the upgrade with something else than a WebSocket.
    Refused(Refusal),
    Upgrade(io::Error),
    /// The time for all of it ran out at the beginning of this phase.
    TimedOut(Phase),
}

/// The answer of a server that refuses the upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// The first 200 characters of the body, printable.
    pub body: String,
    pub retry_after: Option<Duration>,
    /// Its `Date` header.
    pub date: Option<SystemTime>,
}

impl DialError {
    /// Where it went wrong.
    pub fn phase(&self) -> Phase {
        match self {
            DialError::Dns { .. } => Phase::Dns,
            DialError::Connect { .. } => Phase::Connect,
            DialError::Proxy { .. } => Phase::Proxy,
            DialError::Tls(_) | DialError::NoTls => Phase::Tls,
            DialError::Header { .. } | DialError::Refused(_) | DialError::Upgrade(_) => Phase::Upgrade,
            DialError::TimedOut(phase) => *phase,
        }
    }

    /// The server's answer, if it was a refusal.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            DialError::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// What it means for the next attempt.
    pub fn setback(&self) -> Setback {
        match self.refusal() {
            Some(Refusal { status: 401 | 403, .. }) => Setback::Unwelcome,
            Some(Refusal { status: 429 | 503, retry_after, .. }) => {
                Setback::Failed { retry_after: *retry_after }
            }
            _ => Setback::Failed { retry_after: None },
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Dns => "dns",
            Phase::Connect => "connect",
            Phase::Proxy => "proxy",
            Phase::Tls => "tls",
            Phase::Upgrade => "upgrade",
        })
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.phase())?;
        match self {
            DialError::Header { name } => write!(f, "header {name:?} cannot be sent"),
            DialError::NoTls => f.write_str("there is no configuration for it"),
            DialError::Dns { host, cause } => write!(f, "{host}: {cause}"),
            DialError::Connect { tried } => {
                for (n, (address, cause)) in tried.iter().enumerate() {
                    let separator = if n == 0 { "" } else { ", " };
                    write!(f, "{separator}{address}: {cause}")?;
                }
                Ok(())
            }
            DialError::Proxy { proxy, cause } => write!(f, "{proxy}: {cause}"),
            DialError::Tls(cause) | DialError::Upgrade(cause) => cause.fmt(f),
            DialError::Refused(Refusal { status, body, .. }) if body.is_empty() => {
                write!(f, "refused with {status}")
            }
            DialError::Refused(Refusal { status, body, .. }) => write!(f, "refused with {status}: {body}"),
            DialError::TimedOut(_) => f.write_str("no time left"),
        }
    }
}

impl error::Error for DialError {}
