//! What servers and nodes use: told to pages about once a second, and summed up for the charts.
//!
//! Part of [`Fleet`], on the hub's thread.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::fleet::Fleet;
use super::views::{NodeUsageView, UsageEvent, UsageView};
use crate::panel::events::Subject;
use crate::panel::store::ServerKey;
use crate::panel::time::Time;
use crate::panel::wire::Resources;
use crate::protocol::{NodeId, Reason, Status};

/// Changes of state that wait to be stored; more than a machine makes between two stores.
const MAX_MARKS: usize = 10_000;

/// What was measured since it was last asked for.
#[derive(Default)]
pub(super) struct Measured {
    /// Whose use pages have not been told yet.
    untold: BTreeSet<ServerKey>,
    untold_nodes: BTreeSet<NodeId>,
    sums: HashMap<ServerKey, Sum>,
    marks: Vec<Mark>,
    gone: Vec<ServerKey>,
}

/// Measurements of one server, added up. Network is the last count of bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub count: u32,
    pub cpu: f64,
    pub memory: f64,
    pub disk: f64,
    pub rx: u64,
    pub tx: u64,
}

/// Something that charts mark.
#[derive(Clone, Debug)]
pub struct Mark {
    pub key: ServerKey,
    pub time: Time,
    pub kind: &'static str,
    pub text: String,
}

/// All that was measured since the last time.
#[derive(Debug, Default)]
pub struct Measurements {
    pub servers: Vec<(ServerKey, Sum)>,
    /// Cpu, memory and disk in percent.
    pub nodes: Vec<(NodeId, [f64; 3])>,
    pub marks: Vec<Mark>,
    /// Servers whose series end.
    pub gone: Vec<ServerKey>,
}

/// Labels and values of the Panel's own figures.
#[derive(Debug)]
pub struct Figures {
    pub nodes: Vec<(String, f64)>,
    pub servers: Vec<(String, f64)>,
    pub pending: f64,
    pub streams: f64,
    pub reconnects: Vec<(String, f64)>,
    pub round_trips: Vec<(String, f64)>,
}

impl Measured {
    pub fn changed(&mut self, key: &ServerKey, status: Status, reason: Option<Reason>, exit: Option<i64>) {
        let (kind, text) = match (status, reason) {
            (Status::Running, _) => ("start", "started".to_owned()),
            (Status::Stopped, _) => ("stop", "stopped".to_owned()),
            (Status::Crashed, Some(Reason::Oom)) => ("oom", "out of memory".to_owned()),
            (Status::Crashed, _) => {
                ("crash", exit.map_or("crashed".to_owned(), |code| format!("crashed, exit code {code}")))
            }
            _ => return,
        };
        if self.marks.len() < MAX_MARKS {
            self.marks.push(Mark { key: key.clone(), time: Time::now(), kind, text });
        }
    }

    pub fn gone(&mut self, key: &ServerKey) {
        self.untold.remove(key);
        self.sums.remove(key);
        if self.gone.len() < MAX_MARKS {
            self.gone.push(key.clone());
        }
    }

    pub fn node_changed(&mut self, node: &NodeId) {
        self.untold_nodes.insert(node.clone());
    }

    pub fn is_untold(&self) -> bool {
        !self.untold.is_empty() || !self.untold_nodes.is_empty()
    }
}

impl Fleet {
    pub(super) fn used(&mut self, key: &ServerKey, usage: Resources) {
        if self.store.server(key).is_none() {
            return;
        }
        let sum = self.measured.sums.entry(key.clone()).or_default();
        sum.count += 1;
        sum.cpu += usage.cpu;
        sum.memory += usage.memory.used as f64;
        sum.disk += usage.disk.used as f64;
        (sum.rx, sum.tx) = (usage.network.rx, usage.network.tx);
        self.measured.untold.insert(key.clone());
        self.servers.entry(key.clone()).or_default().usage = Some(usage);
    }

    /// Tells pages what has changed since the last time, in one event.
    pub(super) fn tell_usage(&mut self) {
        let servers = std::mem::take(&mut self.measured.untold);
        let nodes = std::mem::take(&mut self.measured.untold_nodes);
        let Fleet { broadcast, servers: live, nodes: live_nodes, .. } = self;
        let at = Time::now();
        broadcast.publish_passing("usage", |audience| {
            let mine = servers.iter().filter(|key| audience.sees_server(key));
            let servers: Vec<_> = mine
                .filter_map(|key| {
                    let usage = live.get(key)?.usage.as_ref()?;
                    Some(UsageView { node: &key.0, id: &key.1, usage })
                })
                .collect();
            let nodes = nodes.iter().filter(|_| audience.sees_all()).filter_map(|id| {
                let live = live_nodes.get(id)?;
                let (load, round_trip, clock_offset) = (live.load, live.round_trip, live.clock_offset);
                Some(NodeUsageView { id, load, round_trip, clock_offset })
            });
            let event = UsageEvent { at, servers, nodes: nodes.collect() };
            (!event.servers.is_empty() || !event.nodes.is_empty()).then_some(event)
        });
    }

    /// Tells pages of an entry of the journal.
    pub fn tell_activity(&mut self, server: Option<ServerKey>, entry: &impl serde::Serialize) {
        let subject = server.map_or(Subject::Admins, Subject::Server);
        self.broadcast.publish(subject, "activity", entry);
    }

    /// What `/metrics` tells.
    pub fn figures(&self) -> Figures {
        let linked = self.nodes.values().filter(|live| live.link.is_some()).count();
        let all = self.store.nodes().count();
        let mut states: BTreeMap<String, f64> = BTreeMap::new();
        for (_, _, record) in self.store.servers() {
            *states.entry(record.status.to_string()).or_default() += 1.0;
        }
        let of_node = |id: &NodeId| format!("{{node=\"{id}\"}}");
        Figures {
            nodes: vec![
                ("{state=\"online\"}".into(), linked as f64),
                ("{state=\"offline\"}".into(), all.saturating_sub(linked) as f64),
            ],
            servers: states
                .into_iter()
                .map(|(state, count)| (format!("{{state=\"{state}\"}}"), count))
                .collect(),
            pending: self.store.commands().count() as f64,
            streams: self.broadcast.stream_count() as f64,
            reconnects: self.nodes.iter().map(|(id, live)| (of_node(id), live.reconnects as f64)).collect(),
            round_trips: self
                .nodes
                .iter()
                .filter_map(|(id, live)| Some((of_node(id), live.round_trip? / 1000.0)))
                .collect(),
        }
    }

    /// Ends streams of sessions that are over, by user and the session's hash.
    pub fn end_sessions(&mut self, over: impl Fn(i64, &str) -> bool) {
        self.broadcast.end_session(over);
    }

    /// Has a user's streams begin anew, since what they may see has changed.
    pub fn end_streams_of(&mut self, user: i64) {
        self.broadcast.end_user(user);
    }

    /// Hands over what the charts are made of.
    pub fn take_measurements(&mut self) -> Measurements {
        let nodes: BTreeMap<_, _> = self
            .nodes
            .iter()
            .filter_map(|(id, live)| {
                let load = live.load.filter(|_| live.link.is_some())?;
                Some((id.clone(), [load.cpu, load.memory, load.disk]))
            })
            .collect();
        Measurements {
            servers: self.measured.sums.drain().collect(),
            nodes: nodes.into_iter().collect(),
            marks: std::mem::take(&mut self.measured.marks),
            gone: std::mem::take(&mut self.measured.gone),
        }
    }
}
