//! The policy's keys as rules: every value is checked, and a fault names its line and key. Sizes, users and capabilities
//! are written as in a server's spec and read by the same code.

use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value as Json, json};

use super::lines::{self, Entry, Scalar, Value};
use super::pattern::ImagePattern;
use super::{BadPolicy, Ceilings, Feature, Policy, PortRange};
use crate::protocol::Spec;
use crate::protocol::spec::{Protocol, Rules};

/// The keys that there are, for who has misspelt one.
const KEYS: &str = "images, digests-only, registries, ports, addresses, mounts, users, capabilities, commands-per-minute, \
                    [limits] memory swap disk cpu pids, [features] files mods console-input create delete";

/// Reads a whole policy.
///
/// # Errors
/// The first fault, with its line and key.
pub fn policy(text: &str) -> Result<Policy, BadPolicy> {
    let mut policy = Policy::default();
    let mut limits = Map::new();
    for entry in lines::read(text).map_err(|bad| BadPolicy(bad.to_string()))? {
        let at = At(&entry);
        match entry.key.as_str() {
            "images" => policy.images = Some(at.each("an image such as itzg/* or ghcr.io/us/**", image)?),
            "digests-only" => policy.digests_only = at.flag()?,
            "registries" => policy.registries = Some(at.each("a registry such as ghcr.io", registry)?),
            "ports" => {
                policy.ports = Some(at.each("ports such as 25565, \"25565-25600\" or \"19132/udp\"", ports)?)
            }
            "addresses" => policy.addresses = Some(at.each("an address of this machine", address)?),
            "mounts" => policy.mounts = Some(at.each("an absolute path such as /home/container", mount)?),
            "users" => {
                let user = |value: &Scalar| as_spec("user", json_of(value))?.user;
                policy.users = Some(at.each("\"uid:gid\" in numbers, or \"image\"", user)?);
            }
            "capabilities" => {
                let capability =
                    |value: &Scalar| as_spec("capabilities", json!([json_of(value)]))?.capabilities.pop();
                policy.capabilities =
                    Some(at.each("DAC_OVERRIDE or FOWNER, the only ones that are ever given", capability)?);
            }
            "commands-per-minute" => policy.commands_per_minute = Some(at.count()?),
            key => match key.split_once('.') {
                Some(("limits", name @ ("memory" | "swap" | "disk" | "cpu" | "pids"))) => {
                    limits.insert(name.to_owned(), at.one()?);
                    // One at a time, so that the fault is this one's.
                    policy.limits = ceilings(&limits).map_err(|why| at.bad(why))?;
                }
                Some(("features", name)) => {
                    let known = Feature::ALL.into_iter().find(|(known, _)| *known == name);
                    let Some((_, feature)) = known else { return Err(at.unknown()) };
                    if !at.flag()? {
                        policy.off.push(feature);
                    }
                }
                _ => return Err(at.unknown()),
            },
        }
    }
    Ok(policy)
}

/// An entry, for what is wrong with it.
struct At<'a>(&'a Entry);

impl At<'_> {
    fn bad(&self, what: impl fmt::Display) -> BadPolicy {
        BadPolicy(format!("line {}: {}: {what}", self.0.line, self.0.key))
    }

    fn unknown(&self) -> BadPolicy {
        self.bad(format_args!("there is no such key; there are {KEYS}"))
    }

    fn flag(&self) -> Result<bool, BadPolicy> {
        match self.0.value {
            Value::One(Scalar::Flag(flag)) => Ok(flag),
            _ => Err(self.bad("expected true or false")),
        }
    }

    fn count(&self) -> Result<u32, BadPolicy> {
        match self.0.value {
            Value::One(Scalar::Number(number @ 1..=1_000_000)) => Ok(number as u32),
            _ => Err(self.bad("expected a number from 1 to 1000000")),
        }
    }

    fn one(&self) -> Result<Json, BadPolicy> {
        match &self.0.value {
            Value::One(scalar) => Ok(json_of(scalar)),
            Value::List(_) => Err(self.bad("expected one value")),
        }
    }

    /// Every value of a list.
    fn each<T>(&self, expected: &str, read: impl Fn(&Scalar) -> Option<T>) -> Result<Vec<T>, BadPolicy> {
        let Value::List(list) = &self.0.value else {
            return Err(self.bad(format_args!("expected a list, each of it {expected}")));
        };
        let one = |(at, scalar)| {
            read(scalar).ok_or_else(|| {
                let shown = json_of(scalar);
                self.bad(format_args!("value {}, {shown}: expected {expected}", at + 1))
            })
        };
        list.iter().enumerate().map(one).collect()
    }
}

fn json_of(scalar: &Scalar) -> Json {
    match scalar {
        Scalar::Text(text) => json!(text),
        Scalar::Number(number) => json!(number),
        Scalar::Flag(flag) => json!(flag),
    }
}

/// Reads one field as a spec's.
fn as_spec(field: &str, value: Json) -> Option<Spec> {
    let map = Map::from_iter([("image".to_owned(), json!("x")), (field.to_owned(), value)]);
    Spec::parse(&map, &Rules::default()).ok()
}

/// Reads them as a spec's limits. What is unlimited there is no ceiling.
fn ceilings(limits: &Map<String, Json>) -> Result<Ceilings, String> {
    let map = Map::from_iter([("image".to_owned(), json!("x")), ("limits".to_owned(), json!(limits))]);
    let spec = Spec::parse(&map, &Rules::default());
    let read = spec.map_err(|fault| {
        // The field's name stands before it already.
        fault.message.split_once(": ").map_or(fault.message.clone(), |(_, rule)| rule.to_owned())
    })?;
    let read = read.limits;
    let given = |name: &str| limits.contains_key(name);
    let ceilings = Ceilings {
        memory: read.memory,
        swap: if given("swap") { u64::try_from(read.swap.unwrap_or(0)).ok() } else { None },
        disk: read.disk,
        nano_cpus: read.nano_cpus,
        pids: given("pids").then_some(read.pids),
    };
    let unlimited = [
        ("memory", ceilings.memory.is_none()),
        ("swap", ceilings.swap.is_none()),
        ("disk", ceilings.disk.is_none()),
        ("cpu", ceilings.nano_cpus.is_none()),
    ];
    match unlimited.into_iter().any(|(name, none)| none && given(name)) {
        true => Err("no limit is no ceiling; leave the key out".into()),
        false => Ok(ceilings),
    }
}

fn image(value: &Scalar) -> Option<ImagePattern> {
    let Scalar::Text(text) = value else { return None };
    ImagePattern::parse(text)
}

/// As [`crate::docker::Reference`] tells it.
fn registry(value: &Scalar) -> Option<String> {
    let Scalar::Text(text) = value else { return None };
    let reference: crate::docker::Reference = format!("{text}/x").parse().ok()?;
    let is_host = text.contains(['.', ':']) || text == "localhost";
    (is_host && !text.contains('/')).then_some(reference.registry)
}

fn ports(value: &Scalar) -> Option<PortRange> {
    let text = match value {
        Scalar::Number(number) => number.to_string(),
        Scalar::Text(text) => text.clone(),
        Scalar::Flag(_) => return None,
    };
    let (range, protocol) = match text.split_once('/') {
        None => (text.as_str(), None),
        Some((range, "tcp")) => (range, Some(Protocol::Tcp)),
        Some((range, "udp")) => (range, Some(Protocol::Udp)),
        Some(_) => return None,
    };
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(PortRange { ports: first..=last, protocol })
}

fn address(value: &Scalar) -> Option<IpAddr> {
    let Scalar::Text(text) = value else { return None };
    text.parse().ok()
}

fn mount(value: &Scalar) -> Option<String> {
    let Scalar::Text(text) = value else { return None };
    text.starts_with('/').then(|| text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_line_and_key() {
        let check = |text: &str, start: &str, part: &str| {
            let bad = policy(&format!("# rules\n{text}\n")).unwrap_err().to_string();
            assert!(bad.starts_with(start) && bad.contains(part), "{text:?}: {bad}");
        };
        check("image = ['a']", "line 2: image: ", "images, digests-only");
        check("images = 'a'", "line 2: images: ", "list");
        check("images = [1]", "line 2: images: value 1, 1: ", "itzg");
        check("images = ['a', 'b c']", "line 2: images: value 2, \"b c\": ", "itzg");
        check("digests-only = 1", "line 2: digests-only: ", "true or false");
        check("registries = ['ghcr.io/us']", "line 2: registries: value 1", "ghcr.io");
        check("registries = ['library']", "line 2: registries: value 1", "ghcr.io");
        check("ports = ['0']", "line 2: ports: value 1", "25565");
        check("ports = [65536]", "line 2: ports: value 1", "25565");
        check("ports = ['2-1']", "line 2: ports: value 1", "25565");
        check("ports = ['1/sctp']", "line 2: ports: value 1", "25565");
        check("addresses = ['localhost']", "line 2: addresses: value 1", "address");
        check("mounts = ['data']", "line 2: mounts: value 1", "absolute");
        check("users = ['root']", "line 2: users: value 1, \"root\"", "uid:gid");
        check("users = [0]", "line 2: users: value 1", "uid:gid");
        check("capabilities = ['SYS_ADMIN']", "line 2: capabilities: value 1", "DAC_OVERRIDE");
        check("commands-per-minute = 0", "line 2: commands-per-minute: ", "1 to");
        check("[limits]\nmemory = 'much'", "line 3: limits.memory: ", "2048m");
        check("[limits]\npids = 5\nmemory = 0", "line 4: limits.memory: ", "no ceiling");
        check("limits.swap = '-1'", "line 2: limits.swap: ", "no ceiling");
        check("limits.cpu = ['1']", "line 2: limits.cpu: ", "one value");
        check("limits.io = 10", "line 2: limits.io: ", "no such key");
        check("features.files = 'no'", "line 2: features.files: ", "true or false");
        check("[features]\nexec = false", "line 3: features.exec: ", "no such key");
        check("[network]\nhost = false", "line 3: network.host: ", "no such key");
        check("ports = [1]\nports = [2]", "line 3: ports: ", "twice");
        check("digests-only = true\nimages = [", "line 3", "");
    }
}
