//! Where Agents come in: the listener of AGENT_ADDR, the check of a node's secret, and each node's link.
//!
//! The gate reads and bounds what comes before a WebSocket; the `agents` thread lets in or refuses and owns the links'
//! threads (`agent-read`, `agent-write`). A link's read thread decodes what its node says and hands it to the hub; it
//! holds no state of the Panel.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select, unbounded};
use log::{info, warn};

use super::hub::{HubHandle, Unavailable};
use super::limit::{LogLimit, Pace};
use super::secret::SecretHash;
use super::wire::{self, Message};
use crate::gate::{self, Gate, GateError, Upgrade};
use crate::link::accept::{self, AcceptError, HANDSHAKE, Refuse, Request};
use crate::link::outbox::{Bounds, NoSource};
use crate::link::tls::Transport;
use crate::link::{self, Connection, Duplex, Inbound, Limits, Names, Outbox};
use crate::protocol::{NodeId, Skip};

/// Connections that are not a link yet.
const HANDSHAKES: usize = 256;
/// Agents say something every 30 s, so this is two heartbeats lost and one late.
const SILENCE: Duration = Duration::from_secs(75);
/// The longest message of an Agent is 2 MiB.
const MAX_MESSAGE: usize = 2 << 20;
/// Messages of one node that the hub has to hear: one with a thousand servers may say all it knows at once, and after
/// that it has a pace.
const BURST: u32 = 5_000;
const RATE: u32 = 500;
/// How long a Close may wait behind what is to be written before it.
const FLUSH: Duration = Duration::from_secs(2);

/// The listener with all its links. [`Agents::shutdown`] ends it.
pub struct Agents {
    gate: Gate,
    upgrades: Sender<Upgrade>,
    stop: Sender<Instant>,
    thread: JoinHandle<()>,
    ended: Receiver<()>,
}

/// The hub's end of a link: whatever it does returns at once.
pub struct Line {
    outbox: Arc<Outbox<()>>,
}

impl Line {
    /// Queues a message. False when the node does not keep up; the link then ends, and a new one may begin.
    pub fn send(&self, text: String) -> bool {
        let taken = self.outbox.push(link::Entry::now(text)).is_ok();
        if !taken {
            self.outbox.close(1013, "too much is waiting to be read", Duration::ZERO);
        }
        taken
    }

    /// Ends the link with a Close after what was sent before.
    pub fn close(&self, code: u16, reason: &'static str) {
        self.outbox.close(code, reason, FLUSH);
    }
}

impl Agents {
    /// # Errors
    /// The gate could not be opened or the thread not be started.
    pub fn start(listener: TcpListener, hub: HubHandle, tls: Option<gate::Tls>) -> Result<Agents, GateError> {
        let (upgrades_tx, upgrades) = bounded(HANDSHAKES);
        let limits = gate::Config {
            connections: HANDSHAKES,
            upgrades: Some(upgrades_tx.clone()),
            tls,
            ..gate::Config::default()
        };
        let gate = Gate::start(listener, limits, |_: gate::Request| {
            gate::Response::text(426, "only the WebSocket of an Agent is served here\n")
                .with("Upgrade", "websocket")
        })?;
        let (stop, stopping) = bounded(1);
        let (end, ended) = bounded(0);
        let thread = Builder::new().name("agents".into()).spawn(move || {
            Reception::new(hub).run(&upgrades, &stopping);
            drop(end);
        })?;
        Ok(Agents { gate, upgrades: upgrades_tx, stop, thread, ended })
    }

    /// Where another gate hands its WebSockets in.
    pub fn upgrades(&self) -> Sender<Upgrade> {
        self.upgrades.clone()
    }

    pub fn address(&self) -> SocketAddr {
        self.gate.address()
    }

    /// Disconnects when the thread that lets Agents in has ended.
    pub fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// Lets nobody in any more and waits for all links to end, which the hub has been told to close; those that
    /// have not by `deadline` are cut. False when a thread did not end.
    pub fn shutdown(self, deadline: Instant) -> bool {
        let gate = self.gate.shutdown(deadline);
        drop(self.upgrades);
        if let Err(cause) = &gate {
            warn!("agents: {cause}");
        }
        let _ = self.stop.send(deadline); // has ended already
        let ended = self.ended.recv_deadline(deadline + FLUSH);
        gate.is_ok() && ended == Err(RecvTimeoutError::Disconnected) && self.thread.join().is_ok()
    }
}

/// A link with both of its threads, or with the one that still has to end: cutting it then could cost the other side
/// the Close it is about to read.
struct Open {
    duplex: Duplex,
    half_ended: bool,
}

/// What the `agents` thread owns.
struct Reception {
    hub: HubHandle,
    links: HashMap<u64, Open>,
    /// Numbers of links that have ended, told by their own threads: at most two entries for each link.
    ended_tx: Sender<u64>,
    ended: Receiver<u64>,
    refused: LogLimit,
}

impl Reception {
    fn new(hub: HubHandle) -> Reception {
        let (ended_tx, ended) = unbounded();
        let refused = LogLimit::default();
        Reception { hub, links: HashMap::new(), ended_tx, ended, refused }
    }

    fn run(mut self, upgrades: &Receiver<Upgrade>, stopping: &Receiver<Instant>) {
        let deadline = loop {
            select! {
                recv(upgrades) -> upgrade => match upgrade {
                    Ok(upgrade) => self.receive(upgrade),
                    Err(_) => break stopping.recv().unwrap_or_else(|_| Instant::now()), // the gate has ended
                },
                recv(self.ended) -> number => number.into_iter().for_each(|number| self.half_ended(number)),
                recv(stopping) -> deadline => break deadline.unwrap_or_else(|_| Instant::now()),
            }
        };
        for (number, mut link) in self.links {
            if link.duplex.join(deadline).is_err() {
                warn!("link {number} did not close in time and is cut");
            } // dropping it cuts it
        }
    }

    fn half_ended(&mut self, number: u64) {
        if let Entry::Occupied(mut link) = self.links.entry(number)
            && std::mem::replace(&mut link.get_mut().half_ended, true)
        {
            link.remove(); // its threads are at their ends: this waits for nothing
        }
    }

    fn receive(&mut self, upgrade: Upgrade) {
        let peer = upgrade.peer;
        if let Err(cause) = self.let_in(upgrade)
            && let Some(more) = self.refused.pass()
        {
            warn!("agent at {peer} was not let in ({more} more of these since the last line): {cause}");
        }
    }

    fn let_in(&mut self, upgrade: Upgrade) -> Result<(), Turned> {
        let Upgrade { head, stream, early, peer } = upgrade;
        let mut asked = None;
        let transport = match stream {
            gate::Stream::Plain(socket) => Transport::plain(socket),
            gate::Stream::Tls(socket, tls) => Transport::tls(socket, *tls),
        };
        let limits = Limits { max_message: MAX_MESSAGE, silence: SILENCE, ..Limits::default() };
        let connection = accept::accept(transport, read_again(&head, &early), limits, HANDSHAKE, |request| {
            let (node, secret) = identity(request)?;
            match self.hub.admits(node.clone(), secret.clone()) {
                Ok(true) => {
                    asked = Some((node, secret));
                    Ok(())
                }
                Ok(false) => Err(refuse(401, "this node or its secret is not known here")),
                Err(Unavailable) => Err(busy()),
            }
        })
        .map_err(Turned::Handshake)?;
        let Some((node, secret)) = asked else { return Ok(()) }; // let in only with both
        info!("node {node}: connected from {peer}");
        self.link(connection, node, secret, peer)
    }

    fn link(
        &mut self,
        connection: Connection,
        node: NodeId,
        secret: SecretHash,
        peer: SocketAddr,
    ) -> Result<(), Turned> {
        let outbox = Arc::new(Outbox::new(NoSource, Bounds::default()));
        let line = Line { outbox: outbox.clone() };
        // The outbox has one connection only; links are told apart by the hub's number.
        let _ = outbox.begin(0, Vec::new());
        let number = self
            .hub
            .link_up(node.clone(), secret, peer.ip().to_canonical().to_string(), line)
            .map_err(|_| Turned::Unavailable)?;
        // Without a number the node was removed meanwhile: the link runs just long enough to say so.
        let number = number.unwrap_or(0);
        let names = Names { read: "agent-read", write: "agent-write" };
        let (hub, ended_tx) = (self.hub.clone(), self.ended_tx.clone());
        let on_end = {
            let (hub, node) = (hub.clone(), node.clone());
            move |end: link::Ended| {
                hub.link_down(node.clone(), number, end.cause.to_string());
                let _ = ended_tx.send(number); // ended itself
            }
        };
        let mut ear = Ear::new(hub.clone(), node.clone(), number);
        match Duplex::start(connection, 0, outbox, names, move |inbound| ear.hear(inbound), on_end) {
            Ok(duplex) => drop(self.links.insert(number, Open { duplex, half_ended: false })),
            Err(cause) => {
                hub.link_down(node, number, format!("threads: {cause}"));
                return Err(Turned::Threads(cause));
            }
        }
        Ok(())
    }
}

/// A link's read thread: decodes what a node says and waits until the hub has heard it.
struct Ear {
    hub: HubHandle,
    node: NodeId,
    link: u64,
    pace: Pace,
    odd: u64,
    odd_log: LogLimit,
}

impl Ear {
    fn new(hub: HubHandle, node: NodeId, link: u64) -> Ear {
        let pace = Pace::new(BURST, RATE, Instant::now());
        Ear { hub, node, link, pace, odd: 0, odd_log: LogLimit::default() }
    }

    fn hear(&mut self, inbound: Inbound) {
        let decoded = match &inbound {
            Inbound::Text(text) => wire::decode(text.as_str()),
            Inbound::Binary(_) => Err(Skip::Binary),
        };
        match decoded {
            Ok(Message::Other) => {}
            Ok(message) => {
                if let Some(wait) = self.pace.take(Instant::now()) {
                    // Some milliseconds. What is not read stays with the node, whose own queues are bounded.
                    sleep(wait);
                }
                // When the hub has ended, so does this link.
                let _ = self.hub.heard(self.node.clone(), self.link, message);
            }
            Err(fault) => {
                self.odd += 1;
                if self.odd_log.pass().is_some() {
                    warn!("node {}: link {}: skipped {fault} ({} in all)", self.node, self.link, self.odd);
                }
            }
        }
    }
}

/// Node id and secret of a request. The id may stand in the header or in the query, which some proxies leave alone
/// where they drop headers; when both are there they must agree.
fn identity(request: &Request) -> Result<(NodeId, SecretHash), Refuse> {
    let named = [request.headers.get("x-node-id"), request.query_value("nodeId")];
    let mut ids = named.into_iter().flatten();
    let id = ids.next().filter(|id| ids.all(|other| other == *id));
    let node =
        id.and_then(|id| id.parse().ok()).ok_or_else(|| refuse(400, "no valid node id, or two of them"))?;
    let bearer = request.headers.get("authorization").and_then(|value| {
        let (scheme, secret) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
    });
    let secret =
        bearer.filter(|secret| !secret.is_empty()).ok_or_else(|| refuse(401, "a bearer secret is needed"))?;
    Ok((node, SecretHash::of(secret.as_bytes())))
}

fn refuse(status: u16, text: &str) -> Refuse {
    Refuse { status, text: text.into(), retry_after: None }
}

fn busy() -> Refuse {
    Refuse { retry_after: Some(Duration::from_secs(5)), ..refuse(503, "the Panel is busy or stopping") }
}

/// The head as bytes once more: the gate has checked it, and the link reads it by its own rules.
fn read_again(head: &gate::Head, early: &[u8]) -> Vec<u8> {
    let mut text = format!("{} {} HTTP/1.1\r\n", head.method(), head.target());
    for (name, value) in head.headers() {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(early);
    bytes
}

/// Why an Agent is not linked.
enum Turned {
    Handshake(AcceptError),
    Unavailable,
    Threads(std::io::Error),
}

impl std::fmt::Display for Turned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Turned::Handshake(cause) => cause.fmt(f),
            Turned::Unavailable => f.write_str("the hub is busy or stopping"),
            Turned::Threads(cause) => write!(f, "threads: {cause}"),
        }
    }
}
