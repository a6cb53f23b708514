//! Host ports: which are taken on a node, and which a new server is given.
//!
//! Part of [`Fleet`], on the hub's thread, which is what makes two servers that are created at once get different ones.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::commands::Order;
use super::fleet::Fleet;
use super::views::{PortView, ports};
use crate::panel::problem::Problem;
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
    /// 0, or a `preferred` one beside it).
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
        let mut given: Option<(u64, u16)> = None;
        for port in list.iter_mut().filter_map(Value::as_object_mut) {
            let preferred = port.remove("preferred").and_then(|port| u16::try_from(port.as_u64()?).ok());
            if port.get("external").and_then(Value::as_u64) != Some(0) {
                continue;
            }
            let kind = port.get("protocol").and_then(Value::as_str).unwrap_or("tcp").to_owned();
            let internal = port.get("internal").and_then(Value::as_u64).unwrap_or(0);
            let is_free = |port: &u16| !taken.contains(&(*port, kind.clone()));
            // The same port inside for tcp and udp is one port to players, so it is one outside too.
            let same = given.filter(|(before, _)| *before == internal).map(|(_, port)| port);
            let found = same
                .filter(is_free)
                .or(preferred.filter(is_free))
                .or_else(|| (range.first..=range.last).find(is_free));
            let Some(found) = found else {
                let what = format!(
                    "Node {} has no free port between {} and {}. Widen its range on its page.",
                    order.node, range.first, range.last
                );
                return Err(Problem {
                    field: Some("ports".into()),
                    ..Problem::new(409, "PORT_CONFLICT", what)
                });
            };
            taken.insert((found, kind));
            given = Some((internal, found));
            port.insert("external".into(), json!(found));
        }
        Ok(())
    }
}

fn is_taken(taken: &Taken, port: &PortView) -> bool {
    taken.contains(&(port.external, port.protocol.clone()))
}

fn conflict(field: &str, node: &NodeId, port: &PortView) -> Problem {
    let what = format!("Port {}/{} of node {node} belongs to another server.", port.external, port.protocol);
    Problem { field: Some(field.into()), ..Problem::new(409, "PORT_CONFLICT", what) }
}
