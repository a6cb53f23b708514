//! The state of the Panel: which nodes are linked, what is known of each server, and who is told of it.
//!
//! Owned by the hub's thread, no lock around it. What has to outlive the Panel is in the [`Store`]; what a node tells
//! again at every connection (use of resources, its system) is only here.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender};
use log::{debug, info};
use serde_json::{Map, Value};

use super::commands::{Finished, Staged};
use super::consoles::Consoles;
use super::questions::Questions;
use super::usage::Measured;
use super::views::GoneView;
use crate::panel::agents::Line;
use crate::panel::events::{Broadcast, Subject};
use crate::panel::store::{ServerKey, ServerRecord, Store};
use crate::panel::time::Time;
use crate::panel::wire::{
    Event, Load, Message, Output, Pong, Progress, Seq, ServerFacts, StatusChange, Success, SystemInfo,
};
use crate::protocol::panel_side::{self, AgentConnected};
use crate::protocol::{Action, EVENT_ACK, NodeId, Reason, ServerId, Status};

/// Servers that a node may tell of. A node that tells of more is wrong or worse, and must not fill the Panel.
const MAX_SERVERS: usize = 2_000;
/// Characters of a name or image that only a node has told.
const MAX_TOLD: usize = 200;
/// A start that differs by less from what was known is the same one.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

pub struct Fleet {
    pub store: Store,
    pub(super) broadcast: Broadcast,
    pub(super) nodes: HashMap<NodeId, LiveNode>,
    pub(super) servers: HashMap<ServerKey, LiveServer>,
    pub(super) next_link: u64,
    pub(super) consoles: Consoles,
    pub(super) questions: Questions,
    pub(super) measured: Measured,
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
    pub version: Option<String>,
    pub system: Option<SystemInfo>,
    pub capabilities: Vec<String>,
    pub load: Option<Load>,
    /// Milliseconds.
    pub round_trip: Option<f64>,
    /// Seconds that its clock is ahead of ours.
    pub clock_offset: Option<f64>,
    pub peer: Option<String>,
    pub reconnects: u64,
    /// The newest event taken, so that one that is sent again is known.
    newest: Option<Seq>,
    /// The newest event that was acknowledged.
    acknowledged: Option<Seq>,
}

pub(super) struct Link {
    pub number: u64,
    pub line: Line,
    /// Id of the Panel's own `list_servers`, while it is out.
    pub listing: Option<String>,
    /// The list that is out may lack a server that was heard of since.
    pub list_again: bool,
    /// The ping that is out, and since when.
    pub ping: Option<(String, Instant, Time)>,
}

#[derive(Default)]
pub(super) struct LiveServer {
    pub usage: Option<crate::panel::wire::Resources>,
    /// Told by the node, for servers whose spec the Panel does not have.
    pub name: Option<String>,
    pub image: Option<String>,
    pub ports: Option<Value>,
    pub missing: bool,
}

impl Fleet {
    pub fn new(store: Store) -> Fleet {
        let broadcast = Broadcast::new(store.epoch());
        let deadlines = store.commands().map(|(id, command)| (command.deadline, id.clone())).collect();
        Fleet {
            broadcast,
            consoles: Consoles::new(store.epoch().to_string()),
            store,
            nodes: HashMap::new(),
            servers: HashMap::new(),
            next_link: 0,
            questions: Questions::default(),
            measured: Measured::default(),
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
            Message::Output(output) => self.printed(node, &output),
            Message::SystemInfo(system) => {
                let live = self.nodes.entry(node.clone()).or_default();
                live.system = Some(*system);
                self.tell_node(node);
            }
            // The one regular message of every Agent: often enough for noticing that its node was removed.
            Message::Heartbeat => {
                self.take_in_nodes();
                self.ping(node);
            }
            Message::Pong(pong) => self.ponged(node, link, &pong),
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
            Event::Gap(gap) => {
                debug!("node {node}: it has dropped output");
                if let Some(server) = gap.server_id.clone() {
                    let key = (node.clone(), server);
                    if self.store.server(&key).is_some() && gap.lines > 0 {
                        let told = self.consoles.gap(&key, &gap);
                        self.tell_output(&key, &told);
                    }
                }
            }
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

    /// Tells nodes which of their events need not be kept any more: those whose effect is on disk.
    pub fn acknowledge(&mut self) {
        if self.store.is_changed() {
            return;
        }
        for live in self.nodes.values_mut().filter(|live| live.newest != live.acknowledged) {
            let takes_acks = live.capabilities.iter().any(|name| name == EVENT_ACK);
            let (Some(link), Some(newest)) = (&live.link, &live.newest) else { continue };
            if takes_acks && let Some(boot) = &newest.boot {
                link.line.send(panel_side::ack(boot, newest.number));
            }
            live.acknowledged = live.newest.clone();
        }
    }

    /// The Agent's own word on what it runs, after all that it still had to deliver.
    fn connected(&mut self, node: &NodeId, link: u64, seq: Option<Seq>, told: AgentConnected) {
        let live = self.nodes.entry(node.clone()).or_default();
        if live.link.as_ref().is_none_or(|current| current.number != link) {
            return; // an older link's list of servers is an older truth
        }
        live.version = Some(shortened(&told.version));
        live.capabilities = told.capabilities.iter().take(200).map(|name| shortened(name)).collect();
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
        self.ping(node);
        let watched: Vec<ServerKey> = self
            .store
            .servers_of(node)
            .map(|(id, _)| (node.clone(), id.clone()))
            .filter(|key| self.broadcast.has_console(key))
            .collect();
        for key in watched {
            self.follow_output(&key);
        }
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
        if is_known && record.status != status {
            self.measured.changed(key, status, reason, exit_code);
        }
        if let Some(record) = self.store.server_mut(key) {
            if record.status != status {
                record.since = Time::now();
            }
            // A restart takes the new spec in, whoever has asked for it.
            record.needs_restart &= status != Status::Starting;
            (record.status, record.reason, record.exit_code) = (status, reason, exit_code);
        }
        self.tell_server(key);
    }

    // ---- output

    fn printed(&mut self, node: &NodeId, output: &Output) {
        let key = (node.clone(), output.server_id.clone());
        if self.store.server(&key).is_none() {
            return;
        }
        if let Some(told) = self.consoles.take(&key, output) {
            self.tell_output(&key, &told);
        }
    }

    pub(super) fn tell_output(&mut self, key: &ServerKey, lines: &str) {
        let boot = self.consoles.boot();
        self.broadcast.publish_console(key, || {
            format!(r#"{{"node":"{}","server":"{}","boot":"{boot}","lines":[{lines}]}}"#, key.0, key.1)
        });
    }

    /// Has the Agent send what of a server's output is missing here, once a link.
    pub(super) fn follow_output(&mut self, key: &ServerKey) {
        let Some(link) = self.nodes.get(&key.0).and_then(|live| live.link.as_ref()).map(|link| link.number)
        else {
            return;
        };
        if let Some(heard) = self.consoles.ask(key, link) {
            let mut payload = Map::new();
            if let Some((boot, seq)) = heard {
                payload.insert("bootId".into(), boot.into());
                payload.insert("since".into(), seq.into());
            }
            let _ =
                self.question(key.0.clone(), Some(key.1.clone()), "console:connect", payload.into(), None);
        }
    }

    /// Output so far as JSON; with `after` only what follows that line of this boot.
    pub fn output(&self, key: &ServerKey, lines: usize, after: Option<u64>, boot: Option<&str>) -> String {
        let after = after.filter(|_| boot.is_none_or(|boot| boot == self.consoles.boot()));
        self.consoles.excerpt(key, lines, after)
    }

    /// Has the Agent send what is missing here. When there is nothing yet, something to wait for: it disconnects with
    /// the first lines.
    pub fn await_output(&mut self, key: &ServerKey) -> Option<Receiver<()>> {
        self.store.server(key)?;
        self.follow_output(key);
        if !self.is_online(&key.0) {
            return None;
        }
        self.consoles.first_lines(key)
    }

    // ---- pings

    /// Asks for the node's load, which also tells the round trip and its clock.
    fn ping(&mut self, node: &NodeId) {
        let id = self.new_command_id();
        let Some(link) = self.nodes.get_mut(node).and_then(|live| live.link.as_mut()) else { return };
        if link.line.send(panel_side::ping(&id)) {
            link.ping = Some((id, Instant::now(), Time::now()));
        }
    }

    fn ponged(&mut self, node: &NodeId, link: u64, pong: &Pong) {
        let Some(live) = self.nodes.get_mut(node) else { return };
        let out = live
            .link
            .as_mut()
            .filter(|current| current.number == link)
            .and_then(|link| link.ping.take_if(|(id, ..)| pong.id.as_ref() == Some(id)));
        let Some((_, begun, sent)) = out else { return };
        let round_trip = begun.elapsed();
        live.round_trip = Some(round_trip.as_secs_f64() * 1000.0);
        if let Some(time) = pong.time {
            let middle = sent.after(round_trip / 2);
            live.clock_offset = Some((time.millis() as f64 - middle.millis() as f64) / 1000.0);
        }
        live.load = pong.load;
        self.measured.node_changed(node);
    }

    // ---- who is told

    pub(super) fn forget_server(&mut self, key: &ServerKey) {
        self.servers.remove(key);
        self.consoles.forget(key);
        if self.store.remove_server(key).is_some() {
            self.measured.gone(key);
            let gone = GoneView { node: Some(&key.0), id: key.1.as_str() };
            self.broadcast.publish(Subject::Server(key.clone()), "server_gone", &gone);
        }
    }

    pub fn is_online(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_some_and(|live| live.link.is_some())
    }

    pub(super) fn tell_node(&mut self, id: &NodeId) {
        let Some(record) = self.store.node(id).cloned() else { return };
        let view = serde_json::to_value(self.node_view(id, &record)).unwrap_or_default();
        self.broadcast.publish(Subject::Admins, "node", &view);
    }

    pub(super) fn tell_server(&mut self, key: &ServerKey) {
        let Some(record) = self.store.server(key) else { return };
        let view = serde_json::to_value(self.server_view(&key.0, &key.1, record)).unwrap_or_default();
        self.broadcast.publish(Subject::Server(key.clone()), "server", &view);
    }
}

/// A server that was not heard of before.
pub(super) fn new_server(spec: Option<Map<String, Value>>) -> ServerRecord {
    let (status, since) = (Status::Unknown, Time::now());
    ServerRecord {
        spec,
        status,
        since,
        reason: None,
        exit_code: None,
        needs_restart: false,
        created: Some(since),
        template: None,
        variables: Map::new(),
    }
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TOLD).collect()
}
