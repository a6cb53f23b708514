//! How nodes, servers and commands look to the page and to users of the API.
//!
//! Pure. What is not known is left out rather than invented; a server's state is told with whether its node is
//! linked, because a state that nobody can confirm is only the last known one.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::fleet::Fleet;
use crate::panel::problem::Problem;
use crate::panel::store::{CommandRecord, NodeRecord, PortRange, ServerKey, ServerRecord};
use crate::panel::time::Time;
use crate::panel::wire::{Load, Progress, Resources, SystemInfo};
use crate::protocol::{NodeId, Reason, ServerId, Status};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView<'a> {
    pub id: &'a NodeId,
    pub name: &'a str,
    pub address: &'a str,
    pub online: bool,
    /// Since when it is linked, or not.
    pub since: Time,
    pub created: Time,
    pub servers: usize,
    pub maintenance: bool,
    pub revoked: bool,
    pub never_joined: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_expires: Option<Time>,
    pub ports: PortRange,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationView>,
    pub reconnects: u64,
    pub behind: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<&'a SystemInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_offset: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub capabilities: &'a [String],
}

/// A rotation of secrets under way.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationView {
    pub until: Time,
    pub new_used: bool,
}

/// A node as those see it who see its servers only.
#[derive(Serialize)]
pub struct NodeGlimpse<'a> {
    pub id: &'a NodeId,
    pub name: &'a str,
    pub online: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerView<'a> {
    pub node: &'a NodeId,
    pub id: &'a ServerId,
    pub name: &'a str,
    pub image: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
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
    pub limits: LimitsView,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<&'a Resources>,
    /// Commands without an outcome yet, oldest first.
    pub commands: Vec<PendingView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    // Only where one server is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variables: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_lines: Option<Vec<String>>,
}

/// Memory and disk in bytes, cpu in percent of one core; 0 is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LimitsView {
    pub memory: u64,
    pub cpu: f64,
    pub disk: u64,
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
pub struct UsageEvent<'a> {
    pub at: Time,
    pub servers: Vec<UsageView<'a>>,
    pub nodes: Vec<NodeUsageView<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeUsageView<'a> {
    pub id: &'a NodeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_offset: Option<f64>,
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
    pub deadline: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// As the Agent sent it. Left out of events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

impl Fleet {
    pub fn node_views(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.store.nodes().map(|(id, record)| self.node_view(id, record))
    }

    pub fn node_glimpses(&self) -> impl Iterator<Item = NodeGlimpse<'_>> {
        self.store.nodes().map(|(id, record)| NodeGlimpse {
            id,
            name: &record.name,
            online: self.is_online(id),
        })
    }

    pub fn server_views(&self) -> impl Iterator<Item = ServerView<'_>> {
        self.store.servers().map(|(node, id, record)| self.server_view(node, id, record))
    }

    /// One server with its spec, and after a crash with what it said last.
    pub fn server_in_full(&self, key: &ServerKey) -> Option<ServerView<'_>> {
        let (node, id, record) = self.store.server_entry(key)?;
        let crashed = record.status == Status::Crashed;
        Some(ServerView {
            spec: record.spec.as_ref(),
            variables: Some(&record.variables).filter(|variables| !variables.is_empty()),
            last_lines: crashed.then(|| self.consoles.last(key, 10)),
            ..self.server_view(node, id, record)
        })
    }

    pub fn node_in_full(&self, id: &NodeId) -> Option<NodeView<'_>> {
        let (id, record) = self.store.nodes().find(|(known, _)| *known == id)?;
        Some(self.node_view(id, record))
    }

    pub(super) fn node_view<'a>(&'a self, id: &'a NodeId, record: &'a NodeRecord) -> NodeView<'a> {
        let live = self.nodes.get(id);
        let now = Time::now();
        let version = live.and_then(|live| live.version.as_deref());
        let rotation = record.previous.as_ref().filter(|previous| now < previous.until);
        NodeView {
            id,
            name: &record.name,
            address: &record.address,
            online: self.is_online(id),
            since: live.and_then(|live| live.since).unwrap_or(record.created),
            created: record.created,
            servers: self.store.server_count(id),
            maintenance: record.maintenance,
            revoked: record.revoked,
            never_joined: !record.joined,
            join_expires: record.join.as_ref().map(|join| join.until).filter(|until| now < *until),
            ports: record.ports,
            rotation: rotation
                .map(|previous| RotationView { until: previous.until, new_used: record.secret_used }),
            reconnects: live.map_or(0, |live| live.reconnects),
            behind: version.is_some_and(is_behind),
            version,
            system: live.and_then(|live| live.system.as_ref()),
            load: live.and_then(|live| live.load),
            clock_offset: live.and_then(|live| live.clock_offset),
            round_trip: live.and_then(|live| live.round_trip),
            peer: live.and_then(|live| live.peer.as_deref()),
            capabilities: live.map_or(&[], |live| &live.capabilities),
        }
    }

    pub(super) fn server_view<'a>(
        &'a self,
        node: &'a NodeId,
        id: &'a ServerId,
        record: &'a ServerRecord,
    ) -> ServerView<'a> {
        let live = self.servers.get(&(node.clone(), id.clone()));
        let spec = record.spec.as_ref();
        let text = |key| spec.and_then(|spec| spec.get(key)).and_then(Value::as_str);
        let online = self.is_online(node);
        let stop_timeout = spec.and_then(|spec| spec.get("stop")?.get("timeout")?.as_u64());
        let ports =
            ports(spec.and_then(|spec| spec.get("ports")).or(live.and_then(|live| live.ports.as_ref())));
        ServerView {
            node,
            id,
            name: text("name").or(live.and_then(|live| live.name.as_deref())).unwrap_or(id.as_str()),
            image: text("image").or(live.and_then(|live| live.image.as_deref())).unwrap_or_default(),
            template: record.template.as_deref(),
            address: ports.first().and_then(|port| self.address(node, port.external)),
            ports,
            status: if online { record.status } else { Status::Unknown },
            last_status: record.status,
            since: record.since,
            online,
            reason: record.reason,
            exit_code: record.exit_code,
            needs_restart: record.needs_restart,
            missing: live.is_some_and(|live| live.missing),
            stop_timeout: stop_timeout.unwrap_or(30),
            limits: limits(spec.and_then(|spec| spec.get("limits"))),
            usage: live.and_then(|live| live.usage.as_ref()).filter(|_| online),
            commands: self.pending_of(node, id),
            created: record.created,
            spec: None,
            variables: None,
            last_lines: None,
        }
    }

    /// Where players find a port: the node's address, or where its link comes from.
    fn address(&self, node: &NodeId, port: u16) -> Option<String> {
        let record = self.store.node(node)?;
        let host = match record.address.as_str() {
            "" => self.nodes.get(node)?.peer.as_deref()?,
            told => told,
        };
        Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    }

    fn pending_of(&self, node: &NodeId, server: &ServerId) -> Vec<PendingView<'_>> {
        let of_server =
            |command: &CommandRecord| command.node == *node && command.server.as_ref() == Some(server);
        let mut pending: Vec<_> = self
            .store
            .commands()
            .filter(|(id, command)| of_server(command) && self.is_due(id, command))
            .map(|(id, command)| PendingView {
                id,
                action: &command.action,
                created: command.created,
                progress: self.progress.get(id),
            })
            .collect();
        pending.sort_by_key(|command| command.created);
        pending
    }
}

/// Whether an Agent's version is older than ours. One that is no version of ours is not said to be.
fn is_behind(version: &str) -> bool {
    let parts = |text: &str| -> Option<Vec<u64>> {
        text.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok()).collect()
    };
    match (parts(version), parts(crate::version::VERSION)) {
        (Some(theirs), Some(ours)) => theirs < ours,
        _ => false,
    }
}

/// Limits as the contract has them: a memory or disk number up to 6 MiB is MiB, a text may end in `k`, `m` or `g`; cpu as a
/// number is percent, as a text cores.
pub fn limits(limits: Option<&Value>) -> LimitsView {
    const MIB: u64 = 1 << 20;
    let size = |key| match limits.and_then(|limits| limits.get(key)) {
        Some(Value::Number(number)) => match number.as_u64().unwrap_or(0) {
            number @ 1..=6_291_456 => number * MIB,
            number => number,
        },
        Some(Value::String(text)) => {
            let text = text.trim().to_ascii_lowercase();
            let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
            let factor = match text[digits.len()..].trim().chars().next() {
                Some('k') => 1 << 10,
                Some('m') => MIB,
                Some('g') => 1 << 30,
                _ => 1,
            };
            digits.parse().ok().and_then(|number: u64| number.checked_mul(factor)).unwrap_or(0)
        }
        _ => 0,
    };
    let cpu = match limits.and_then(|limits| limits.get("cpu")) {
        Some(Value::Number(percent)) => percent.as_f64().unwrap_or(0.0),
        Some(Value::String(cores)) => cores.trim().parse().map_or(0.0, |cores: f64| cores * 100.0),
        _ => 0.0,
    };
    LimitsView { memory: size("memory"), cpu, disk: size("disk") }
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
    fn limits_are_read_as_agents_read_them() {
        let view = |value: Value| limits(Some(&value));
        assert_eq!(view(json!({"memory": "2048m", "cpu": "1.5"})).memory, 2 << 30);
        assert_eq!(
            view(json!({"memory": 512, "cpu": 150, "disk": 10_737_418_240_u64})),
            LimitsView { memory: 512 << 20, cpu: 150.0, disk: 10 << 30 }
        );
        assert_eq!(view(json!({"memory": "99999999999999999999g", "cpu": "x"})), LimitsView::default());
        assert_eq!(limits(None), LimitsView::default());
    }

    #[test]
    fn older_agents_are_behind() {
        assert!(is_behind("0.0.9") && !is_behind("9.9") && !is_behind("odd"));
        assert!(!is_behind(crate::version::VERSION));
    }

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
