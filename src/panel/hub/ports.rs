//! Host ports: which are taken on a node, and which a new server is given.
//!
//! Part of [`Fleet`], on the hub's thread, which is what makes two servers that are created at once get different ones.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::commands::Order;
use super::fleet::Fleet;
use super::views::{PortView, ports};
use crate::panel::problem::Problem;
use crate::panel::store::PortRange;
use crate::protocol::{NodeId, ServerId};

type Taken = BTreeSet<(u16, String)>;

impl Fleet {
    /// Ports that a new server on this node would be given, free for tcp and udp.
    pub fn free_ports(&self, node: &NodeId, count: usize) -> Vec<u16> {
        let taken = self.taken(node, None);
        let range = self.store.node(node).map(|record| record.ports).unwrap_or_default();
        let is_free =
            |port: &u16| !["tcp", "udp"].iter().any(|kind| taken.contains(&(*port, (*kind).into())));
        (range.first..=range.last).filter(is_free).take(count).collect()
    }

    fn taken(&self, node: &NodeId, but: Option<&ServerId>) -> Taken {
        let servers = self.store.servers_of(node).filter(|(id, _)| Some(*id) != but);
        let all = servers.flat_map(|(id, record)| {
            let told = self.servers.get(&(node.clone(), id.clone())).and_then(|live| live.ports.as_ref());
            ports(record.spec.as_ref().and_then(|spec| spec.get("ports")).or(told))
        });
        all.map(|port| (port.external, port.protocol)).collect()
    }

    /// Refuses host ports that another server of the node has, and fills in those that are left open (an `external` of
    /// 0, with a `preferred` one or an `offset` from the first one beside it).
    pub(super) fn give_ports(&self, order: &mut Order) -> Result<(), Problem> {
        if !matches!(order.action.as_str(), "create_server" | "update_server") || order.raw {
            return Ok(());
        }
        let Some(asked) = order.payload.get_mut("ports") else { return Ok(()) };
        let Value::Array(list) = asked else {
            let taken = self.taken(&order.node, order.server.as_ref());
            return match ports(Some(asked)).into_iter().find(|port| is_taken(&taken, port)) {
                Some(port) => Err(conflict("ports", &order.node, &port)),
                None => Ok(()),
            };
        };
        let mut taken = self.taken(&order.node, order.server.as_ref());
        // Those that are chosen first: no open one may be given what another asks for.
        for (index, port) in ports(Some(&Value::Array(list.clone()))).into_iter().enumerate() {
            if port.external != 0 && is_taken(&taken, &port) {
                return Err(conflict(&format!("ports[{index}].external"), &order.node, &port));
            }
            if port.external != 0 {
                taken.insert((port.external, port.protocol));
            }
        }
        let range = self.store.node(&order.node).map(|record| record.ports).unwrap_or_default();
        let mut wanted: Vec<Open> = list.iter_mut().filter_map(Value::as_object_mut).map(Open::of).collect();
        // What the first port takes along has to be free as well, above it.
        let joint: Vec<(u16, String)> =
            wanted.iter().filter_map(|open| Some((open.offset?, open.kind.clone()))).collect();
        let reach = joint.iter().map(|(offset, _)| *offset).max().unwrap_or(0);
        let mut first = None;
        let mut given: Option<(u64, u16)> = None;
        for open in &mut wanted {
            let is_free = |port: &u16| !taken.contains(&(*port, open.kind.clone()));
            let found = match (open.external, open.offset.zip(first)) {
                (0, Some((offset, first))) => {
                    let port = u16::checked_add(first, offset).filter(is_free);
                    port.ok_or_else(|| not_joint(&order.node, first, offset))?
                }
                (0, None) => {
                    let takes_along = |port: &u16| {
                        let has_room = |(offset, kind): &(u16, String)| {
                            port.checked_add(*offset)
                                .is_some_and(|port| !taken.contains(&(port, kind.clone())))
                        };
                        is_free(port) && (first.is_some() || joint.iter().all(has_room))
                    };
                    let last = range.last.saturating_sub(if first.is_none() { reach } else { 0 });
                    // The same port inside for tcp and udp is one port to players, so it is one outside too.
                    let same = given.filter(|(before, _)| *before == open.internal).map(|(_, port)| port);
                    same.filter(is_free)
                        .or(open.preferred.filter(takes_along))
                        .or_else(|| (range.first..=last).find(takes_along))
                        .ok_or_else(|| none_free(&order.node, range))?
                }
                (chosen, _) => chosen,
            };
            taken.insert((found, open.kind.clone()));
            given = Some((open.internal, found));
            first.get_or_insert(found);
            open.port.insert("external".into(), json!(found));
        }
        Ok(())
    }
}

/// A port of an order, without what says only how it is to be chosen.
struct Open<'a> {
    port: &'a mut Map<String, Value>,
    internal: u64,
    /// 0 when it is to be chosen.
    external: u16,
    kind: String,
    preferred: Option<u16>,
    offset: Option<u16>,
}

impl Open<'_> {
    fn of(port: &mut Map<String, Value>) -> Open<'_> {
        let number = |value: Option<Value>| value.and_then(|value| u16::try_from(value.as_u64()?).ok());
        let (preferred, offset) = (number(port.remove("preferred")), number(port.remove("offset")));
        let external = number(port.get("external").cloned()).unwrap_or(0);
        let kind = port.get("protocol").and_then(Value::as_str).unwrap_or("tcp").to_owned();
        let internal = port.get("internal").and_then(Value::as_u64).unwrap_or(0);
        Open { port, internal, external, kind, preferred, offset }
    }
}

fn is_taken(taken: &Taken, port: &PortView) -> bool {
    taken.contains(&(port.external, port.protocol.clone()))
}

fn none_free(node: &NodeId, range: PortRange) -> Problem {
    let (first, last) = (range.first, range.last);
    let what =
        format!("Node {node} has no free port between {first} and {last}. Widen its range on its page.");
    Problem { field: Some("ports".into()), ..Problem::new(409, "PORT_CONFLICT", what) }
}

fn not_joint(node: &NodeId, first: u16, offset: u16) -> Problem {
    let what = format!(
        "This game needs the port {offset} above its first one, {first}, and node {node} has none there to give. Choose \
         another first port."
    );
    Problem { field: Some("ports".into()), ..Problem::new(409, "PORT_CONFLICT", what) }
}

fn conflict(field: &str, node: &NodeId, port: &PortView) -> Problem {
    let what = format!("Port {}/{} of node {node} belongs to another server.", port.external, port.protocol);
    Problem { field: Some(field.into()), ..Problem::new(409, "PORT_CONFLICT", what) }
}
