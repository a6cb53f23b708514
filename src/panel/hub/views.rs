//! How nodes, servers and commands look to the page and to users of the API.
//!
//! Pure. What is not known is left out rather than invented; a server's state is told with whether its node is
//! linked, because a state that nobody can confirm is only the last known one.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::panel::problem::Problem;
use crate::panel::time::Time;
use crate::panel::wire::{Progress, Resources, SystemInfo};
use crate::protocol::{NodeId, Reason, ServerId, Status};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView<'a> {
    pub id: &'a NodeId,
    pub online: bool,
    /// Since when it is linked, or not.
    pub since: Time,
    pub created: Time,
    pub servers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<&'a SystemInfo>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerView<'a> {
    pub node: &'a NodeId,
    pub id: &'a ServerId,
    pub name: &'a str,
    pub image: &'a str,
    pub ports: Vec<PortView>,
    /// `unknown` while the node is not linked.
    pub status: Status,
    /// What the node last said.
    pub last_status: Status,
    pub since: Time,
    pub online: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    pub needs_restart: bool,
    /// The node is linked and does not have this server.
    pub missing: bool,
    /// Seconds that a stop may take until it is a kill.
    pub stop_timeout: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<&'a Resources>,
    /// Commands without an outcome yet, oldest first.
    pub commands: Vec<PendingView<'a>>,
    /// Only where one server is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<&'a Map<String, Value>>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct PortView {
    pub internal: u16,
    pub external: u16,
    pub protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

#[derive(Serialize)]
pub struct PendingView<'a> {
    pub id: &'a str,
    pub action: &'a str,
    pub created: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<&'a Progress>,
}

#[derive(Serialize)]
pub struct UsageView<'a> {
    pub node: &'a NodeId,
    pub id: &'a ServerId,
    pub usage: &'a Resources,
}

/// A server that is gone, or a node.
#[derive(Serialize)]
pub struct GoneView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<&'a NodeId>,
    pub id: &'a str,
}

/// Where a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Progressing {
    Pending,
    Succeeded,
    Failed,
    /// Its deadline has passed without an answer. An answer that comes later still counts.
    Unknown,
}

/// A command with what is known of its outcome.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandView {
    pub id: String,
    pub node: NodeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_id: Option<ServerId>,
    pub action: String,
    pub state: Progressing,
    pub created: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// As the Agent sent it. Left out of events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

/// Ports as a spec has them, in either of the contract's forms; what is no port is left out.
pub fn ports(spec: Option<&Value>) -> Vec<PortView> {
    match spec {
        Some(Value::Array(list)) => list.iter().filter_map(listed_port).collect(),
        Some(Value::Object(map)) => map.iter().filter_map(|(key, value)| mapped_port(key, value)).collect(),
        _ => Vec::new(),
    }
}

fn listed_port(port: &Value) -> Option<PortView> {
    let text = |key| port.get(key).and_then(Value::as_str);
    Some(PortView {
        internal: number(port.get("internal")?)?,
        external: number(port.get("external")?)?,
        protocol: text("protocol").unwrap_or("tcp").to_owned(),
        ip: text("ip").map(str::to_owned),
    })
}

fn mapped_port(key: &str, external: &Value) -> Option<PortView> {
    let (internal, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    Some(PortView {
        internal: internal.parse().ok()?,
        external: number(external)?,
        protocol: protocol.to_owned(),
        ip: None,
    })
}

fn number(value: &Value) -> Option<u16> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64()?.try_into().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_of_ports_are_shown() {
        let port = |internal, external, protocol: &str| PortView {
            internal,
            external,
            protocol: protocol.into(),
            ip: None,
        };
        let list =
            json!([{"internal": 1, "external": 2}, {"internal": 3, "external": "4", "protocol": "udp"}, 5]);
        assert_eq!(ports(Some(&list)), [port(1, 2, "tcp"), port(3, 4, "udp")]);
        assert_eq!(ports(Some(&json!({"19132/udp": 7, "x": 1, "80": 70000}))), [port(19132, 7, "udp")]);
        assert_eq!(ports(None), []);
    }
}
