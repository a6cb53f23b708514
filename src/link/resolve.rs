//! [`Resolver`]: host names to addresses within a bound.
//!
//! `getaddrinfo` blocks for as long as it likes and cannot be ended, so each lookup has a thread of its own that is
//! left behind when it is late. At most [`MAX_STRAGGLERS`] of those exist; until one comes back no name is looked up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{error, fmt, io, thread};

use crossbeam_channel::bounded;

use super::url::Host;

/// Lookups that may be under way.
pub const MAX_STRAGGLERS: usize = 2;

/// Counts its lookups; share one for all dials.
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    running: Arc<AtomicUsize>,
}

/// Why a name has no addresses.
#[derive(Debug)]
pub enum ResolveError {
    /// The system's resolver says so.
    Failed(io::Error),
    /// It knows the name and has no address for it.
    Empty,
    TimedOut,
    /// Earlier lookups still hang.
    Busy,
}

/// Takes its lookup off the count, even if the thread panics.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Resolver {
    /// The addresses of a host, in the order to try them: IPv6 and IPv4 in turn, beginning with the family the
    /// system puts first, so that one family without a route costs one attempt. Literals and `localhost` never
    /// ask (RFC 6761 section 6.3; musl without /etc/hosts does not know the name).
    pub fn resolve(&self, host: &Host, port: u16, wait: Duration) -> Result<Vec<SocketAddr>, ResolveError> {
        let name = match host {
            Host::Ip(ip) => return Ok(vec![(*ip, port).into()]),
            Host::Name(_) if host.is_loopback() => {
                let both: [IpAddr; 2] = [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
                return Ok(both.map(|ip| (ip, port).into()).into());
            }
            Host::Name(name) => name.clone(),
        };
        self.bounded(wait, move || (name.as_str(), port).to_socket_addrs().map(Iterator::collect))
    }

    /// Runs one lookup in its own thread. Apart from the system's resolver, so that a test can have a slow one.
    fn bounded(
        &self,
        wait: Duration,
        lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let taken = self.running.fetch_add(1, Ordering::AcqRel);
        let running = Running(self.running.clone());
        if taken >= MAX_STRAGGLERS {
            return Err(ResolveError::Busy);
        }
        let (found_tx, found_rx) = bounded(1);
        let work = move || {
            let found = lookup();
            drop(running);
            let _ = found_tx.send(found);
        };
        thread::Builder::new().name("panel-dns".into()).spawn(work).map_err(ResolveError::Failed)?;
        match found_rx.recv_timeout(wait) {
            Ok(Ok(found)) if found.is_empty() => Err(ResolveError::Empty),
            Ok(Ok(found)) => Ok(alternate(found)),
            Ok(Err(cause)) => Err(ResolveError::Failed(cause)),
            Err(_) => Err(ResolveError::TimedOut),
        }
    }
}

/// One of each family in turn, each family in its own order, beginning with the first's (RFC 8305 section 4).
fn alternate(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let count = found.len();
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::with_capacity(count);
    while ordered.len() < count {
        ordered.extend(first.next());
        ordered.extend(second.next());
    }
    ordered
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveError::Failed(cause) => cause.fmt(f),
            ResolveError::Empty => f.write_str("the name has no address"),
            ResolveError::TimedOut => f.write_str("no answer in time"),
            ResolveError::Busy => write!(f, "{MAX_STRAGGLERS} earlier lookups have not come back"),
        }
    }
}

impl error::Error for ResolveError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let parse = |list: &str| list.split(' ').map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        for (found, expected) in [
            ("[::1]:1 [::2]:1 1.0.0.1:1", "[::1]:1 1.0.0.1:1 [::2]:1"),
            ("1.0.0.1:1 1.0.0.2:1 [::1]:1 [::2]:1 [::3]:1", "1.0.0.1:1 [::1]:1 1.0.0.2:1 [::2]:1 [::3]:1"),
            ("1.0.0.2:1 1.0.0.1:1", "1.0.0.2:1 1.0.0.1:1"),
        ] {
            assert_eq!(alternate(parse(found)), parse(expected));
        }
    }

    #[test]
    fn literals_and_localhost_do_not_ask() {
        let resolver = Resolver::default();
        // No room for a lookup: whoever asks is refused.
        resolver.running.store(MAX_STRAGGLERS, Ordering::Release);
        for (host, expected) in [
            ("localhost", "[[::1]:7, 127.0.0.1:7]"),
            ("a.localhost", "[[::1]:7, 127.0.0.1:7]"),
            ("[2001:db8::1]", "[[2001:db8::1]:7]"),
            ("10.1.2.3", "[10.1.2.3:7]"),
        ] {
            let found = resolver.resolve(&Host::parse(host).unwrap(), 7, Duration::ZERO).unwrap();
            assert_eq!(format!("{found:?}"), expected);
        }
        let asked = resolver.resolve(&Host::parse("panel.invalid").unwrap(), 7, Duration::ZERO);
        assert!(matches!(asked, Err(ResolveError::Busy)));
    }

    #[test]
    fn stragglers_are_counted_and_come_back() {
        let resolver = Resolver::default();
        let (release_tx, release_rx) = bounded::<()>(0);
        for _ in 0..MAX_STRAGGLERS {
            let release = release_rx.clone();
            let late = resolver.bounded(Duration::from_millis(20), move || {
                let _ = release.recv();
                Ok(vec![])
            });
            assert!(matches!(late, Err(ResolveError::TimedOut)));
        }
        let quick = || Ok(vec![([127, 0, 0, 1], 1).into()]);
        assert!(matches!(resolver.bounded(Duration::from_secs(5), quick), Err(ResolveError::Busy)));
        release_tx.send(()).unwrap();
        let waiting = std::time::Instant::now();
        while resolver.bounded(Duration::from_secs(5), quick).is_err() {
            assert!(waiting.elapsed() < Duration::from_secs(5), "the straggler was not taken off the count");
            thread::yield_now();
        }
    }
}
