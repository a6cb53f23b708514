//! The state of the Panel: which nodes are linked, what is known of each server, and who is told of it.
//!
//! Owned by the hub's thread, no lock around it. What has to outlive the Panel is in the [`Store`]; what a node tells
//! again at every connection (use of resources, its system) is only here.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use crossbeam_channel::Sender;
use log::{debug, info, warn};
use serde_json::{Map, Value};

use super::commands::{Finished, Staged};
use super::views::{GoneView, NodeView, PendingView, ServerView, UsageView, ports};
use crate::panel::agents::Line;
use crate::panel::events::Broadcast;
use crate::panel::secret::SecretHash;
use crate::panel::store::{CommandRecord, NodeRecord, ServerKey, ServerRecord, Store};
use crate::panel::time::Time;
use crate::panel::wire::{
    Event, Message, Progress, Resources, Seq, ServerFacts, StatusChange, Success, SystemInfo,
};
use crate::protocol::panel_side::{self, AgentConnected};
use crate::protocol::{Action, NodeId, Reason, ServerId, Status};

/// Servers that a node may tell of. A node that tells of more is wrong or worse, and must not fill the Panel.
const MAX_SERVERS: usize = 2_000;
/// Characters of a name or image that only a node has told.
const MAX_TOLD: usize = 200;
/// A start that differs by less from what was known is the same one.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

pub struct Fleet {
    pub(super) store: Store,
    pub(super) broadcast: Broadcast,
    pub(super) nodes: HashMap<NodeId, LiveNode>,
    servers: HashMap<ServerKey, LiveServer>,
    next_link: u64,
    // Commands; their part is in `commands.rs`.
    pub(super) next_command: u64,
    pub(super) staged: Vec<Staged>,
    /// On which link a command was last sent.
    pub(super) sent_on: HashMap<String, u64>,
    pub(super) progress: HashMap<String, Progress>,
    pub(super) waiters: HashMap<String, Vec<Sender<Finished>>>,
    pub(super) finished: VecDeque<Finished>,
    pub(super) finished_bytes: usize,
    /// Of the commands that are not overdue yet, soonest first.
    pub(super) deadlines: BTreeSet<(Time, String)>,
}

/// What is known of a node since the Panel started.
#[derive(Default)]
pub(super) struct LiveNode {
    pub link: Option<Link>,
    /// Since when it is linked, or not.
    pub since: Option<Time>,
    version: Option<String>,
    system: Option<SystemInfo>,
    /// The newest event taken, so that one that is sent again is known.
    newest: Option<Seq>,
}

pub(super) struct Link {
    pub number: u64,
    pub line: Line,
    /// Id of the Panel's own `list_servers`, while it is out.
    listing: Option<String>,
    /// The list that is out may lack a server that was heard of since.
    list_again: bool,
}

#[derive(Default)]
struct LiveServer {
    usage: Option<Resources>,
    /// Told by the node, for servers whose spec the Panel does not have.
    name: Option<String>,
    image: Option<String>,
    ports: Option<Value>,
    missing: bool,
}

impl Fleet {
    pub fn new(store: Store) -> Fleet {
        let broadcast = Broadcast::new(store.epoch());
        let deadlines = store.commands().map(|(id, command)| (command.deadline, id.clone())).collect();
        Fleet {
            store,
            broadcast,
            nodes: HashMap::new(),
            servers: HashMap::new(),
            next_link: 0,
            next_command: 0,
            staged: Vec::new(),
            sent_on: HashMap::new(),
            progress: HashMap::new(),
            waiters: HashMap::new(),
            finished: VecDeque::new(),
            finished_bytes: 0,
            deadlines,
        }
    }

    // ---- links

    /// Whether `secret` is that of `node`. Takes as long for a node that does not exist.
    pub fn admits(&mut self, node: &NodeId, secret: &SecretHash) -> bool {
        self.take_in_nodes();
        let nobody = SecretHash::of(b"");
        let (known, expected) = match self.store.node(node) {
            Some(record) => (true, &record.secret),
            None => (false, &nobody),
        };
        expected.matches(secret) && known
    }

    /// A node's new connection, which replaces the one it had. Returns its number, or `None` when the node has been
    /// removed since it was admitted.
    pub fn link_up(&mut self, node: &NodeId, secret: &SecretHash, line: Line) -> Option<u64> {
        if !self.admits(node, secret) {
            line.close(4003, "revoked");
            return None;
        }
        self.next_link += 1;
        let number = self.next_link;
        line.send(panel_side::hello(self.store.epoch()));
        let live = self.nodes.entry(node.clone()).or_default();
        if let Some(older) = live.link.replace(Link { number, line, listing: None, list_again: false }) {
            info!("node {node}: link {} is replaced by link {number}", older.number);
            older.line.close(4001, "replaced by a newer connection");
        } else {
            info!("node {node}: linked, link {number}");
        }
        live.since = Some(Time::now());
        self.tell_node(node);
        Some(number)
    }

    /// The end of a connection; of one that was replaced it says nothing about the node.
    pub fn link_down(&mut self, node: &NodeId, number: u64, cause: &str) {
        let Some(live) = self.nodes.get_mut(node) else { return };
        if live.link.take_if(|link| link.number == number).is_some() {
            info!("node {node}: link {number} ended: {cause}");
            live.since = Some(Time::now());
            self.tell_node(node);
        }
    }

    /// Says farewell to every node.
    pub fn close_links(&mut self) {
        for link in self.nodes.values_mut().filter_map(|live| live.link.take()) {
            link.line.close(1001, "the Panel stops");
        }
    }

    /// Takes in what `node add` and `node remove` have done meanwhile, and closes the links of nodes that are gone.
    fn take_in_nodes(&mut self) {
        if let Err(cause) = self.store.refresh_nodes() {
            warn!("nodes could not be read again: {cause}");
            return;
        }
        let gone: Vec<NodeId> =
            self.nodes.keys().filter(|id| self.store.node(id).is_none()).cloned().collect();
        if !gone.is_empty() {
            self.forget_commands();
        }
        for id in gone {
            info!("node {id}: removed");
            if let Some(link) = self.nodes.remove(&id).and_then(|live| live.link) {
                link.line.close(4003, "revoked");
            }
            self.servers.retain(|(node, _), _| *node != id);
            self.broadcast.publish("node_gone", &GoneView { node: None, id: id.as_str() });
        }
    }

    // ---- what nodes say

    /// One message of a node. Those of a replaced link count too: the node holds them for delivered.
    pub fn heard(&mut self, node: &NodeId, link: u64, message: Message) {
        if self.store.node(node).is_none() {
            return; // removed, and its link is being closed
        }
        match message {
            Message::Response(response) => self.answered(node, response),
            Message::Event { seq, event } => self.happened(node, link, seq, event),
            Message::Usage(usage) => self.used(&(node.clone(), usage.server_id), usage.resources),
            Message::SystemInfo(system) => {
                let live = self.nodes.entry(node.clone()).or_default();
                live.system = Some(*system);
                self.tell_node(node);
            }
            // The one regular message of every Agent: often enough for noticing that its node was removed.
            Message::Heartbeat => self.take_in_nodes(),
            Message::Other => {}
        }
    }

    fn happened(&mut self, node: &NodeId, link: u64, seq: Option<Seq>, event: Event) {
        if let Event::Connected(connected) = event {
            return self.connected(node, link, seq, connected);
        }
        if seq.is_some_and(|seq| !self.is_new(node, seq)) {
            return;
        }
        match event {
            Event::StatusChanged(change) => self.status_changed(node, change),
            Event::Progress(progress) => self.progressed(node, progress),
            Event::Stopping => info!("node {node}: its Agent stops; its servers go on"),
            Event::Gap => debug!("node {node}: it has dropped output"),
            Event::Connected(_) | Event::Other => {}
        }
    }

    /// Whether an event was not taken before. Events that name no boot belong to the newest one known: should that
    /// be wrong right after an Agent's restart, `agent_connected` tells the truth soon after.
    fn is_new(&mut self, node: &NodeId, seq: Seq) -> bool {
        let newest = &mut self.nodes.entry(node.clone()).or_default().newest;
        let known_boot = newest.as_ref().and_then(|newest| newest.boot.clone());
        let boot = seq.boot.or_else(|| known_boot.clone());
        let same_boot = boot == known_boot;
        if same_boot && newest.as_ref().is_some_and(|newest| seq.number <= newest.number) {
            return false;
        }
        *newest = Some(Seq { boot, number: seq.number });
        true
    }

    /// The Agent's own word on what it runs, after all that it still had to deliver.
    fn connected(&mut self, node: &NodeId, link: u64, seq: Option<Seq>, told: AgentConnected) {
        let live = self.nodes.entry(node.clone()).or_default();
        if live.link.as_ref().is_none_or(|current| current.number != link) {
            return; // an older link's list of servers is an older truth
        }
        live.version = Some(shortened(&told.version));
        let number = seq.map_or(0, |seq| seq.number);
        live.newest = Some(Seq { boot: Some(told.boot_id), number });
        let mut absent: BTreeSet<ServerId> = self.store.servers_of(node).map(|(id, _)| id.clone()).collect();
        for server in told.servers {
            absent.remove(&server.server_id);
            self.learn(&(node.clone(), server.server_id), server.status, None, server.exit_code);
        }
        // A list that was cut short does not say what is absent.
        for id in absent.into_iter().filter(|_| !told.truncated) {
            let key = (node.clone(), id);
            self.servers.entry(key.clone()).or_default().missing = true;
            if let Some(record) = self.store.server_mut(&key) {
                *record = ServerRecord { status: Status::Unknown, since: Time::now(), ..record.clone() };
            }
            self.tell_server(&key);
        }
        self.tell_node(node);
        self.list_servers(node);
        self.send_again(node);
    }

    /// Asks for what `agent_connected` does not tell: names, images, ports, use of resources. Not kept in the store:
    /// it is asked again at every connection.
    pub(super) fn list_servers(&mut self, node: &NodeId) {
        let id = self.new_command_id();
        match self.nodes.get_mut(node).and_then(|live| live.link.as_mut()) {
            Some(link) if link.listing.is_some() => link.list_again = true,
            Some(link) => {
                let action = panel_side::action(&id, Some(node), &Action::ListServers, SystemTime::now());
                if link.line.send(action) {
                    link.listing = Some(id);
                }
            }
            None => {}
        }
    }

    /// Whether `id` was the Panel's own question, which this answers.
    pub(super) fn listed(&mut self, node: &NodeId, id: &str, answer: Option<&Success>) -> bool {
        let link = self.nodes.get_mut(node).and_then(|live| live.link.as_mut());
        let Some(link) = link.filter(|link| link.listing.as_deref() == Some(id)) else { return false };
        link.listing = None;
        if std::mem::take(&mut link.list_again) {
            self.list_servers(node);
        }
        for (server, facts) in answer.map(Success::listed).unwrap_or_default() {
            self.described(&(node.clone(), server), facts);
        }
        true
    }

    fn described(&mut self, key: &ServerKey, facts: ServerFacts) {
        if self.store.server(key).is_none() {
            return; // a list cannot bring back what was deleted while it was on its way
        }
        let live = self.servers.entry(key.clone()).or_default();
        live.name = facts.name.as_deref().map(shortened);
        live.image = facts.image.as_deref().map(shortened);
        live.ports = facts.ports;
        live.usage = facts.resources;
        live.missing = false;
        if let (Some(Status::Running), Some(uptime)) = (facts.status, facts.uptime) {
            let started = Time::now().before(Duration::from_secs(uptime));
            let is_news =
                self.store.server(key).is_some_and(|record| record.since.distance(started) > CLOCK_SLACK);
            if is_news && let Some(record) = self.store.server_mut(key) {
                record.since = started;
            }
        }
        self.tell_server(key);
    }

    fn status_changed(&mut self, node: &NodeId, change: StatusChange) {
        let key = (node.clone(), change.server_id);
        let was_known = self.store.server(&key).is_some();
        self.learn(&key, change.current_status, change.reason, change.exit_code);
        if !was_known && self.store.server(&key).is_some() {
            debug!("node {node}: it has server {}, which the Panel did not know", key.1);
            self.list_servers(node);
        }
    }

    /// Takes in a server's state from its node.
    pub(super) fn learn(
        &mut self,
        key: &ServerKey,
        status: Status,
        reason: Option<Reason>,
        exit_code: Option<i64>,
    ) {
        if status == Status::Deleted {
            return self.forget_server(key);
        }
        let is_known = self.store.server(key).is_some();
        if !is_known && self.store.server_count(&key.0) >= MAX_SERVERS {
            return;
        }
        if !is_known {
            self.store.put_server(key, new_server(None));
        }
        let live = self.servers.entry(key.clone()).or_default();
        let was_missing = std::mem::take(&mut live.missing);
        if status != Status::Running {
            live.usage = None;
        }
        let Some(record) = self.store.server(key) else { return };
        let same = record.status == status
            && record.exit_code == exit_code
            && (reason.is_none() || record.reason == reason);
        if is_known && same && !was_missing {
            return;
        }
        let since = if record.status == status { record.since } else { Time::now() };
        // A restart takes the new spec in, whoever has asked for it.
        let needs_restart = record.needs_restart && status != Status::Starting;
        if let Some(record) = self.store.server_mut(key) {
            *record =
                ServerRecord { status, since, reason, exit_code, needs_restart, spec: record.spec.take() };
        }
        self.tell_server(key);
    }

    fn used(&mut self, key: &ServerKey, usage: Resources) {
        if self.store.server(key).is_none() {
            return;
        }
        self.broadcast.publish_passing("usage", &UsageView { node: &key.0, id: &key.1, usage: &usage });
        self.servers.entry(key.clone()).or_default().usage = Some(usage);
    }

    pub(super) fn forget_server(&mut self, key: &ServerKey) {
        self.servers.remove(key);
        if self.store.remove_server(key).is_some() {
            let gone = GoneView { node: Some(&key.0), id: key.1.as_str() };
            self.broadcast.publish("server_gone", &gone);
        }
    }

    // ---- how it looks

    pub fn is_online(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_some_and(|live| live.link.is_some())
    }

    pub fn node_views(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.store.nodes().map(|(id, record)| self.node_view(id, record))
    }

    pub fn server_views(&self) -> impl Iterator<Item = ServerView<'_>> {
        self.store.servers().map(|(node, id, record)| self.server_view(node, id, record))
    }

    /// One server with its spec.
    pub fn server_in_full(&self, key: &ServerKey) -> Option<ServerView<'_>> {
        let (node, id, record) = self.store.server_entry(key)?;
        Some(ServerView { spec: record.spec.as_ref(), ..self.server_view(node, id, record) })
    }

    fn node_view<'a>(&'a self, id: &'a NodeId, record: &NodeRecord) -> NodeView<'a> {
        let live = self.nodes.get(id);
        NodeView {
            id,
            online: self.is_online(id),
            since: live.and_then(|live| live.since).unwrap_or(record.created),
            created: record.created,
            servers: self.store.server_count(id),
            version: live.and_then(|live| live.version.as_deref()),
            system: live.and_then(|live| live.system.as_ref()),
        }
    }

    fn server_view<'a>(
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
        ServerView {
            node,
            id,
            name: text("name").or(live.and_then(|live| live.name.as_deref())).unwrap_or(id.as_str()),
            image: text("image").or(live.and_then(|live| live.image.as_deref())).unwrap_or_default(),
            ports: ports(
                spec.and_then(|spec| spec.get("ports")).or(live.and_then(|live| live.ports.as_ref())),
            ),
            status: if online { record.status } else { Status::Unknown },
            last_status: record.status,
            since: record.since,
            online,
            reason: record.reason,
            exit_code: record.exit_code,
            needs_restart: record.needs_restart,
            missing: live.is_some_and(|live| live.missing),
            stop_timeout: stop_timeout.unwrap_or(30),
            usage: live.and_then(|live| live.usage.as_ref()).filter(|_| online),
            commands: self.pending_of(node, id),
            spec: None,
        }
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

    pub(super) fn tell_node(&mut self, id: &NodeId) {
        let Some(record) = self.store.node(id).cloned() else { return };
        let view = serde_json::to_value(self.node_view(id, &record)).unwrap_or_default();
        self.broadcast.publish("node", &view);
    }

    pub(super) fn tell_server(&mut self, key: &ServerKey) {
        let Some(record) = self.store.server(key) else { return };
        let view = serde_json::to_value(self.server_view(&key.0, &key.1, record)).unwrap_or_default();
        self.broadcast.publish("server", &view);
    }
}

/// A server that was not heard of before.
pub(super) fn new_server(spec: Option<Map<String, Value>>) -> ServerRecord {
    let (status, since) = (Status::Unknown, Time::now());
    ServerRecord { spec, status, since, reason: None, exit_code: None, needs_restart: false }
}

fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TOLD).collect()
}
