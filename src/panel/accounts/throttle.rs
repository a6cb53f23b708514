//! How often someone may try to log in: token buckets by address and by name. Owned by [`super::Accounts`] behind its
//! lock; bounded, and forgotten when full again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Buckets kept; when there would be more, those that are full again go first.
const MAX: usize = 10_000;

/// A burst, and then one in so many seconds.
struct Rule {
    burst: f64,
    every: f64,
}

/// From one address to one name: what a person mistypes.
const PAIR: Rule = Rule { burst: 5.0, every: 10.0 };
/// From one address to all names.
const ADDRESS: Rule = Rule { burst: 20.0, every: 3.0 };
/// From everywhere to one name. Wide, or a stranger could keep its owner out.
const NAME: Rule = Rule { burst: 100.0, every: 1.0 };

#[derive(Default)]
pub struct Throttle {
    buckets: HashMap<String, Bucket>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
    rule: &'static Rule,
}

impl Throttle {
    /// Takes one try; how long to wait when there is none.
    pub fn take(&mut self, address: IpAddr, name: &str, now: Instant) -> Result<(), Duration> {
        let address = network(address);
        let name: String = name.to_lowercase().chars().take(64).collect();
        let keys = [
            (format!("p {address} {name}"), &PAIR),
            (format!("a {address}"), &ADDRESS),
            (format!("n {name}"), &NAME),
        ];
        let wait = keys.iter().filter_map(|(key, _)| self.buckets.get(key)?.wait(now)).max();
        if let Some(wait) = wait {
            return Err(wait);
        }
        if self.buckets.len() + keys.len() > MAX {
            self.buckets.retain(|_, bucket| bucket.tokens_at(now) < bucket.rule.burst);
        }
        if self.buckets.len() + keys.len() > MAX {
            return Err(Duration::from_secs(10)); // an attack from thousands of addresses: everybody waits
        }
        for (key, rule) in keys {
            let bucket = self.buckets.entry(key).or_insert(Bucket { tokens: rule.burst, at: now, rule });
            bucket.tokens = bucket.tokens_at(now) - 1.0;
            bucket.at = now;
        }
        Ok(())
    }

    /// A login that succeeded gives back what it took.
    pub fn succeeded(&mut self, address: IpAddr, name: &str) {
        let address = network(address);
        let name = name.to_lowercase();
        self.buckets.remove(&format!("p {address} {name}"));
        for key in [format!("a {address}"), format!("n {name}")] {
            if let Some(bucket) = self.buckets.get_mut(&key) {
                bucket.tokens = (bucket.tokens + 1.0).min(bucket.rule.burst);
            }
        }
    }
}

impl Bucket {
    fn tokens_at(&self, now: Instant) -> f64 {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() / self.rule.every;
        (self.tokens + earned).min(self.rule.burst)
    }

    fn wait(&self, now: Instant) -> Option<Duration> {
        let missing = 1.0 - self.tokens_at(now);
        (missing > 0.0).then(|| Duration::from_secs_f64(missing * self.rule.every))
    }
}

/// One subscriber of IPv6 has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_run_out_and_come_back() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let home = address("10.0.0.1");
        assert!((0..5).all(|_| throttle.take(home, "Ann", now).is_ok()));
        assert!(throttle.take(home, "ann", now).is_err_and(|wait| wait <= Duration::from_secs(10)));
        assert!(throttle.take(home, "ben", now).is_ok(), "another name");
        assert!(throttle.take(address("10.0.0.2"), "ann", now).is_ok(), "another address");
        assert!(throttle.take(home, "ann", now + Duration::from_secs(11)).is_ok());
        throttle.succeeded(home, "ann");
        assert!((0..5).all(|_| throttle.take(home, "ann", now + Duration::from_secs(12)).is_ok()));
    }

    #[test]
    fn an_address_has_its_bound_over_all_names_and_a_network_is_one() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let let_in = (0..100).filter(|n| {
            let address = format!("2001:db8::{n:x}").parse().unwrap();
            throttle.take(address, &format!("name{n}"), now).is_ok()
        });
        assert_eq!(let_in.count(), 20);
    }

    #[test]
    fn ten_thousand_addresses_do_not_fill_the_memory() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..30_000_u32 {
            let _ = throttle.take(IpAddr::from(n.to_be_bytes()), "ann", now + Duration::from_secs(n.into()));
        }
        assert!(throttle.buckets.len() <= MAX);
    }
}
