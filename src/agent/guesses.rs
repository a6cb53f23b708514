//! Wrong secrets by the address they came from, so that guessing is slow and cheap to refuse. Pure memory behind
//! [`super::access`], bounded in number.
//!
//! The first few cost nothing, since a person may mistype. Each one after that locks its address out for a time that
//! doubles. A lock refuses the right secret too: else it would tell a guesser which one that is.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Wrong secrets of one address that lock nothing.
const FREE: u32 = 5;
/// The first lock, and the longest.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// The longest on loopback: behind a proxy on this machine everybody has that address, and one who guesses must not
/// shut out the others.
const LONGEST_LOCAL: Duration = Duration::from_secs(1);
/// After so long without a wrong secret an address starts anew.
const FORGET: Duration = Duration::from_secs(600);
/// Addresses that are remembered; beyond them the one that has been quiet for longest is forgotten.
const ADDRESSES: usize = 1024;

/// See the module's description.
#[derive(Debug, Default)]
pub struct Guesses(HashMap<IpAddr, Guesser>);

#[derive(Clone, Copy, Debug)]
struct Guesser {
    wrong: u32,
    last: Instant,
    locked_until: Instant,
}

impl Guesses {
    /// How much longer the address is locked out; `None` when it may try.
    pub fn locked(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let left = self.0.get(&subject(address))?.locked_until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// The address has given a wrong secret. Returns for how long it is locked out.
    pub fn wrong(&mut self, address: IpAddr, now: Instant) -> Option<Duration> {
        let subject = subject(address);
        if self.0.len() >= ADDRESSES && !self.0.contains_key(&subject) {
            self.make_room(now);
        }
        let guesser = self.0.entry(subject).or_insert(Guesser { wrong: 0, last: now, locked_until: now });
        if now.saturating_duration_since(guesser.last) > FORGET {
            guesser.wrong = 0;
        }
        guesser.wrong = guesser.wrong.saturating_add(1);
        guesser.last = now;
        let doublings = guesser.wrong.checked_sub(FREE + 1)?;
        let longest = if subject.is_loopback() { LONGEST_LOCAL } else { LONGEST };
        let lock = SHORTEST.saturating_mul(1 << doublings.min(16)).min(longest);
        guesser.locked_until = now + lock;
        Some(lock)
    }

    /// The address has given the right secret.
    pub fn right(&mut self, address: IpAddr) {
        self.0.remove(&subject(address));
    }

    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, guesser| now.saturating_duration_since(guesser.last) <= FORGET);
        if self.0.len() >= ADDRESSES
            && let Some(quietest) = self.0.iter().min_by_key(|(_, guesser)| guesser.last).map(|(who, _)| *who)
        {
            self.0.remove(&quietest);
        }
    }
}

/// Who is counted as one: an IPv4 address, or a /64 network of IPv6, which is the least that one customer gets.
fn subject(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The locks that follow wrong secrets given as soon as each lock is over, in seconds.
    fn locks(address: &str, count: usize) -> Vec<u64> {
        let (mut guesses, mut now, address) = (Guesses::default(), Instant::now(), ip(address));
        let lock = |_| {
            assert_eq!(guesses.locked(address, now), None);
            let lock = guesses.wrong(address, now).unwrap_or_default();
            assert_eq!(guesses.locked(address, now), Some(lock).filter(|lock| !lock.is_zero()));
            now += lock;
            lock.as_secs()
        };
        (0..count).map(lock).collect()
    }

    #[test]
    fn locks_grow_up_to_a_minute_and_stay_short_on_loopback() {
        assert_eq!(locks("192.0.2.1", 13), [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        for local in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(locks(local, 8), [0, 0, 0, 0, 0, 1, 1, 1], "{local}");
        }
        assert_eq!(locks("2001:db8::1", 60)[59], 60);
    }

    #[test]
    fn one_customer_is_one_guesser_and_others_are_not_locked() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        for host in 0..=FREE {
            guesses.wrong(ip(&format!("2001:db8::{host:x}")), now);
        }
        assert!(guesses.locked(ip("2001:db8::ffff:1"), now).is_some());
        assert_eq!(guesses.locked(ip("2001:db8:0:1::1"), now), None);
        for _ in 0..=FREE {
            guesses.wrong(ip("::ffff:192.0.2.1"), now);
        }
        assert!(guesses.locked(ip("192.0.2.1"), now).is_some());
        assert_eq!(guesses.locked(ip("192.0.2.2"), now), None);
    }

    #[test]
    fn the_right_secret_and_time_clear_an_address() {
        let (mut guesses, now, address) = (Guesses::default(), Instant::now(), ip("192.0.2.1"));
        let mut wrong = |at| (0..FREE).filter_map(|_| guesses.wrong(address, at)).count();
        assert_eq!(wrong(now), 0);
        assert_eq!(wrong(now + FORGET + Duration::from_secs(1)), 0);
        guesses.right(address);
        assert_eq!((0..FREE).filter_map(|_| guesses.wrong(address, now)).count(), 0);
    }

    #[test]
    fn is_bounded_and_forgets_the_quietest() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        for n in 0..ADDRESSES as u32 + 100 {
            let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            for _ in 0..=FREE {
                guesses.wrong(address, now + Duration::from_millis(n.into()));
            }
            assert!(guesses.0.len() <= ADDRESSES);
        }
        assert_eq!(guesses.locked(ip("10.0.0.0"), now), None);
        assert!(guesses.locked(ip("10.0.4.99"), now).is_some());
    }
}
