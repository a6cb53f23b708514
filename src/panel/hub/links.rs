//! Links of nodes: who is let in, which connection counts, and what an admin changes about a node.
//!
//! Part of [`Fleet`], on the hub's thread.

use std::time::Duration;

use log::{info, warn};

use super::fleet::{Fleet, Link};
use super::views::GoneView;
use crate::panel::agents::Line;
use crate::panel::events::Subject;
use crate::panel::problem::Problem;
use crate::panel::secret::SecretHash;
use crate::panel::store::{Expiring, NodeRecord, PortRange};
use crate::panel::time::Time;
use crate::protocol::{NodeId, panel_side};

/// How long a join token can be used.
pub const JOIN_VALID: Duration = Duration::from_secs(15 * 60);

/// What an admin changes about a node; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct NodeChange {
    pub name: Option<String>,
    pub address: Option<String>,
    pub ports: Option<PortRange>,
    pub maintenance: Option<bool>,
}

impl Fleet {
    /// Whether `secret` is that of `node`. Takes as long for a node that does not exist.
    pub fn admits(&mut self, node: &NodeId, secret: &SecretHash) -> bool {
        self.take_in_nodes();
        match self.store.node(node) {
            Some(record) => record.admits(secret, Time::now()),
            None => {
                let _ = SecretHash::of(b"").matches(secret);
                false
            }
        }
    }

    /// A node's new connection, which replaces the one it had. Returns its number, or `None` when the node has been
    /// removed since it was admitted.
    pub fn link_up(&mut self, node: &NodeId, secret: &SecretHash, peer: &str, line: Line) -> Option<u64> {
        if !self.admits(node, secret) {
            line.close(4003, "revoked");
            return None;
        }
        self.store.note_use(node, secret);
        self.next_link += 1;
        let number = self.next_link;
        line.send(panel_side::hello(self.store.epoch()));
        let live = self.nodes.entry(node.clone()).or_default();
        live.peer = Some(peer.to_owned());
        let link = Link { number, line, listing: None, list_again: false, ping: None };
        if let Some(older) = live.link.replace(link) {
            info!("node {node}: link {} is replaced by link {number}", older.number);
            older.line.close(4001, "replaced by a newer connection");
            live.reconnects += 1;
        } else {
            info!("node {node}: linked, link {number}");
            live.reconnects += u64::from(live.since.is_some());
        }
        live.since = Some(Time::now());
        self.tell_node(node);
        self.tell_servers_of(node);
        Some(number)
    }

    /// The end of a connection; of one that was replaced it says nothing about the node.
    pub fn link_down(&mut self, node: &NodeId, number: u64, cause: &str) {
        self.questions.link_ended(number);
        let Some(live) = self.nodes.get_mut(node) else { return };
        if live.link.take_if(|link| link.number == number).is_some() {
            info!("node {node}: link {number} ended: {cause}");
            live.since = Some(Time::now());
            (live.load, live.round_trip) = (None, None);
            self.tell_node(node);
            self.tell_servers_of(node);
        }
    }

    /// Says farewell to every node.
    pub fn close_links(&mut self) {
        for link in self.nodes.values_mut().filter_map(|live| live.link.take()) {
            link.line.close(1001, "the Panel stops");
        }
    }

    fn close_link(&mut self, node: &NodeId) {
        if let Some(link) = self.nodes.get_mut(node).and_then(|live| live.link.take()) {
            link.line.close(4003, "revoked");
            self.questions.link_ended(link.number);
        }
    }

    /// Takes in what subcommands have done meanwhile, and closes the links of nodes that are gone or revoked.
    pub(super) fn take_in_nodes(&mut self) {
        if let Err(cause) = self.store.refresh_nodes() {
            warn!("nodes could not be read again: {cause}");
            return;
        }
        let revoked: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(id, live)| {
                live.link.is_some() && self.store.node(id).is_some_and(|record| record.secret.is_none())
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in revoked {
            self.close_link(&id);
            self.tell_node(&id);
        }
        let gone: Vec<NodeId> =
            self.nodes.keys().filter(|id| self.store.node(id).is_none()).cloned().collect();
        if !gone.is_empty() {
            self.forget_commands();
        }
        for id in gone {
            info!("node {id}: removed");
            self.close_link(&id);
            self.nodes.remove(&id);
            self.servers.retain(|(node, _), _| *node != id);
            self.broadcast.publish(Subject::Admins, "node_gone", &GoneView { node: None, id: id.as_str() });
        }
    }

    fn tell_servers_of(&mut self, node: &NodeId) {
        let ids: Vec<_> = self.store.servers_of(node).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.tell_server(&(node.clone(), id));
        }
    }

    // ---- what admins do

    pub fn add_node(&mut self, id: &NodeId, record: NodeRecord) -> Result<(), Problem> {
        self.store.add_node(id, record)?;
        self.tell_node(id);
        Ok(())
    }

    pub fn change_node(&mut self, id: &NodeId, change: NodeChange) -> Result<(), Problem> {
        self.store.change_node(id, |record| {
            let NodeChange { name, address, ports, maintenance } = change;
            record.name = name.unwrap_or_else(|| std::mem::take(&mut record.name));
            record.address = address.unwrap_or_else(|| std::mem::take(&mut record.address));
            record.ports = ports.unwrap_or(record.ports);
            record.maintenance = maintenance.unwrap_or(record.maintenance);
        })?;
        self.tell_node(id);
        self.tell_servers_of(id);
        Ok(())
    }

    pub fn remove_node(&mut self, id: &NodeId) -> Result<(), Problem> {
        let servers: Vec<_> = self.store.servers_of(id).map(|(server, _)| server.clone()).collect();
        self.store.remove_node(id)?;
        // Those who may see its servers are told of each; the node's own end follows.
        for server in servers {
            let key = (id.clone(), server);
            self.consoles.forget(&key);
            let gone = GoneView { node: Some(id), id: key.1.as_str() };
            self.broadcast.publish(Subject::Server(key.clone()), "server_gone", &gone);
        }
        self.nodes.entry(id.clone()).or_default(); // so that its end is told even if it was never linked
        self.take_in_nodes();
        Ok(())
    }

    /// What a one-time token to join with is, from now on.
    pub fn join_offer(&self, hash: SecretHash) -> Expiring {
        Expiring { hash, until: Time::now().after(JOIN_VALID) }
    }

    /// A one-time token to join with; the one before is void.
    pub fn new_join(&mut self, id: &NodeId, hash: SecretHash) -> Result<Time, Problem> {
        let offer = self.join_offer(hash);
        let until = offer.until;
        self.store.change_node(id, |record| record.join = Some(offer))?;
        self.tell_node(id);
        Ok(until)
    }

    /// Trades a join token for a secret, once. A link that the node has is closed: its secret is another one now.
    pub fn join(&mut self, id: &NodeId, token: &SecretHash, secret: SecretHash) -> Result<(), Problem> {
        let refused = || {
            let what = "This join token is wrong, was used, or is older than 15 minutes. Make a new one on the node's page.";
            Problem::new(401, "JOIN_TOKEN", what)
        };
        self.take_in_nodes();
        let now = Time::now();
        let fits = |record: &NodeRecord| {
            record.join.as_ref().is_some_and(|join| join.hash.matches(token) && now < join.until)
        };
        if !self.store.node(id).is_some_and(fits) {
            return Err(refused());
        }
        let joined = self.store.change_node(id, |record| {
            // Another process may have used it since.
            let fits = fits(record);
            if fits {
                record.join = None;
                record.previous = None;
                record.secret = Some(secret);
                (record.secret_used, record.revoked) = (false, false);
            }
            fits
        })?;
        if !joined {
            return Err(refused());
        }
        self.close_link(id);
        self.tell_node(id);
        Ok(())
    }

    /// Another secret; the one before works until the end of the overlap, which is returned.
    pub fn rotate(&mut self, id: &NodeId, secret: SecretHash, overlap: Duration) -> Result<Time, Problem> {
        let until = Time::now().after(overlap);
        self.store.change_node(id, |record| record.rotate(secret, until))?;
        self.tell_node(id);
        Ok(until)
    }

    pub fn revoke(&mut self, id: &NodeId) -> Result<(), Problem> {
        self.store.change_node(id, NodeRecord::revoke)?;
        info!("node {id}: revoked");
        self.close_link(id);
        if let Some(live) = self.nodes.get_mut(id) {
            live.since = Some(Time::now());
        }
        self.tell_node(id);
        self.tell_servers_of(id);
        Ok(())
    }
}
