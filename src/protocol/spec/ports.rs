//! The two shapes of `ports`, and which port is the server's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Port, Protocol};
use crate::protocol::Fault;
use crate::protocol::fields::{Fields, whole};

const MAX_PORTS: usize = 256;

/// What `ports` says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ports {
    pub list: Vec<Port>,
    pub as_map: bool,
    pub server_port: Option<u16>,
}

impl Ports {
    pub(super) fn parse(fields: &Fields, environment: &BTreeMap<String, String>) -> Result<Ports, Fault> {
        let ports = match fields.get("ports") {
            None => Ports::default(),
            Some(Value::Array(list)) => {
                let list = list
                    .iter()
                    .enumerate()
                    .map(|(at, port)| entry(at, port))
                    .collect::<Result<Vec<_>, _>>()?;
                Ports { server_port: list.first().map(|port| port.internal), as_map: false, list }
            }
            Some(Value::Object(map)) => {
                let list = from_map(map)?;
                let wanted = environment.get("SERVER_PORT").and_then(|port| port.parse().ok());
                let listed = wanted.filter(|&wanted| list.iter().any(|port| port.internal == wanted));
                Ports { server_port: listed.or(list.first().map(|port| port.internal)), as_map: true, list }
            }
            Some(_) => return Err(fields.fault("ports", "expected a list or a map of ports")),
        };
        let unique: BTreeSet<_> =
            ports.list.iter().map(|port| (port.external, port.protocol, port.ip)).collect();
        if ports.list.len() > MAX_PORTS {
            return Err(fields.fault("ports", format_args!("expected at most {MAX_PORTS}")));
        }
        if unique.len() < ports.list.len() {
            return Err(fields.fault("ports", "the same external port is given twice"));
        }
        Ok(ports)
    }
}

fn entry(at: usize, value: &Value) -> Result<Port, Fault> {
    let fault = |name: &str, expected: &str| Fault::field(&format!("ports[{at}]{name}"), expected);
    let Value::Object(map) = value else { return Err(fault("", "expected an object")) };
    let fields = Fields::of(map);
    let number = |name: &str, field: &str| {
        fields.get(name).and_then(port_number).ok_or_else(|| fault(field, "expected a port from 1 to 65535"))
    };
    let protocol = match fields.get("protocol") {
        None => Some(Protocol::Tcp),
        Some(value) => value.as_str().and_then(protocol),
    };
    let ip = match fields.get("ip") {
        None => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(value) => {
            let ip: Option<IpAddr> = value.as_str().and_then(|text| text.parse().ok());
            Some(ip.ok_or_else(|| fault(".ip", "expected an IP address of the node"))?)
        }
    };
    Ok(Port {
        internal: number("internal", ".internal")?,
        external: number("external", ".external")?,
        protocol: protocol.ok_or_else(|| fault(".protocol", "expected tcp or udp"))?,
        ip,
    })
}

/// Sorted by internal port, since a map has no order.
fn from_map(map: &Map<String, Value>) -> Result<Vec<Port>, Fault> {
    let mut list = Vec::with_capacity(map.len().min(MAX_PORTS));
    for (key, value) in map {
        let (port, kind) = key.split_once('/').unwrap_or((key, "tcp"));
        let (Some(internal), Some(protocol)) = (digits(port), protocol(kind)) else {
            return Err(Fault::field("ports", "expected keys such as \"25565\" or \"19132/udp\""));
        };
        let Some(external) = port_number(value) else {
            let field = format!("ports.{internal}/{protocol}");
            return Err(Fault::field(&field, "expected a port from 1 to 65535"));
        };
        list.push(Port { internal, external, protocol, ip: None });
    }
    list.sort_by_key(|port| (port.internal, port.protocol));
    match list.windows(2).any(|two| (two[0].internal, two[0].protocol) == (two[1].internal, two[1].protocol))
    {
        true => Err(Fault::field("ports", "the same internal port is given twice")),
        false => Ok(list),
    }
}

/// As a number, or in quotes, as writers without integer types send it.
fn port_number(value: &Value) -> Option<u16> {
    match value {
        Value::String(text) => digits(text),
        value => whole(value).and_then(|n| u16::try_from(n).ok()).filter(|&n| n > 0),
    }
}

fn digits(text: &str) -> Option<u16> {
    // `parse` alone would take "+80".
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok().filter(|&n| n > 0) } else { None }
}

fn protocol(text: &str) -> Option<Protocol> {
    match text {
        text if text.eq_ignore_ascii_case("tcp") => Some(Protocol::Tcp),
        text if text.eq_ignore_ascii_case("udp") => Some(Protocol::Udp),
        _ => None,
    }
}

impl Port {
    /// The container's side in Docker's own form, such as `25565/tcp`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.internal, self.protocol)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Ports in the shape they came in.
pub(super) struct Shape<'a>(pub &'a [Port], pub bool);

impl Serialize for Shape<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            false => self.0.serialize(s),
            true => s.collect_map(self.0.iter().map(|port| (port.key(), port.external))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(ports: Value, server_port: &str) -> Result<Ports, String> {
        let map = json!({ "ports": ports });
        let environment = BTreeMap::from([("SERVER_PORT".to_owned(), server_port.to_owned())]);
        Ports::parse(&Fields::of(map.as_object().unwrap()), &environment).map_err(|fault| fault.message)
    }

    #[test]
    fn a_list_names_the_server_port_by_its_first_entry() {
        let ports = parse(
            json!([{"internal":25575,"external":1},{"internal":"25565","external":2,"protocol":"UDP","ip":"::1"}]),
            "25565",
        )
        .unwrap();
        assert_eq!(ports.server_port, Some(25575));
        assert_eq!(ports.list[1].protocol, Protocol::Udp);
        assert_eq!(ports.list[1].ip, Some("::1".parse().unwrap()));
    }

    #[test]
    fn a_map_names_it_by_the_environment_or_takes_the_lowest() {
        let map = json!({"25575":1,"25565":2,"19132/udp":"3"});
        assert_eq!(parse(map.clone(), "25575").unwrap().server_port, Some(25575));
        assert_eq!(parse(map.clone(), "80").unwrap().server_port, Some(19132));
        assert_eq!(parse(map.clone(), "").unwrap().server_port, Some(19132));
        assert_eq!(parse(map, "").unwrap().list[0].protocol, Protocol::Udp);
        assert_eq!(parse(json!({}), "80").unwrap().server_port, None);
        assert_eq!(parse(json!([]), "80").unwrap().server_port, None);
    }

    #[test]
    fn wrong_ports_are_named() {
        let check = |ports: Value, field: &str| {
            let message = parse(ports.clone(), "").unwrap_err();
            assert!(message.starts_with(&format!("{field}: ")), "{ports}: {message}");
        };
        check(json!("25565"), "ports");
        check(json!([25565]), "ports[0]");
        check(json!([{"external":1}]), "ports[0].internal");
        check(json!([{"internal":0,"external":1}]), "ports[0].internal");
        check(json!([{"internal":1,"external":65536}]), "ports[0].external");
        check(json!([{"internal":1,"external":1},{"internal":2,"external":-2}]), "ports[1].external");
        check(json!([{"internal":1,"external":1,"protocol":"sctp"}]), "ports[0].protocol");
        check(json!([{"internal":1,"external":1,"protocol":6}]), "ports[0].protocol");
        check(json!([{"internal":1,"external":1,"ip":"localhost"}]), "ports[0].ip");
        check(json!([{"internal":1,"external":1},{"internal":2,"external":1}]), "ports");
        check(json!({"25565/sctp":1}), "ports");
        check(json!({"+80":1}), "ports");
        check(json!({"80":1,"80/tcp":2}), "ports");
        check(json!({"80":0}), "ports.80/tcp");
        check(json!({"80":"+1"}), "ports.80/tcp");
    }
}
