//! Where Agents come in: the listener of AGENT_ADDR, the check of a node's secret, and each node's link.
//!
//! The gate reads and bounds what comes before a WebSocket; `door-N` threads let in or refuse, several at a time, since
//! after a restart all nodes come at once; the `agents` thread owns the links' threads (`agent-read`, `agent-write`).
//! A link's read thread decodes what its node says and hands it to the hub; it holds no state of the Panel.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
use crate::link::{self, Connection, Duplex, Inbound, Limits, Outbox, Threads};
use crate::protocol::{NodeId, Skip};

/// Connections that are not a link yet.
const HANDSHAKES: usize = 256;
/// Handshakes at one time. Each takes some ten microseconds, unless a client does not take its answer.
const DOORS: usize = 8;
/// Bytes of stack of a link's threads. A thousand nodes have two thousand of them; JSON nested 64 deep takes a tenth.
const LINK_STACK: usize = 256 << 10;
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
        let reception = Reception::open(&hub, &upgrades)?;
        let thread = Builder::new().name("agents".into()).spawn(move || {
            reception.run(&stopping);
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

/// What the `agents` thread hears of.
enum News {
    /// The link of this number has its threads, or could not be given both.
    Opened(u64, Option<Duplex>),
    /// A thread of the link has ended; told by itself, perhaps before the link is told of.
    HalfEnded(u64),
    /// A `door-N` thread has ended.
    DoorClosed,
}

/// A link while any of it is left. Only when both of its threads have ended is its handle dropped: cutting it before
/// could cost the other side the Close it is about to read.
#[derive(Default)]
struct Open {
    told: bool,
    duplex: Option<Duplex>,
    halves_ended: u8,
}

/// What the `agents` thread owns.
struct Reception {
    links: HashMap<u64, Open>,
    /// At most three entries for each link and one for each door.
    news: Receiver<News>,
    doors: Vec<JoinHandle<()>>,
    doors_open: usize,
    /// Dropped to close the doors.
    open: Option<Sender<Infallible>>,
}

impl Reception {
    /// Opens the doors.
    fn open(hub: &HubHandle, upgrades: &Receiver<Upgrade>) -> std::io::Result<Reception> {
        let (news_tx, news) = unbounded();
        let (open, closing) = bounded(0);
        let links = Arc::new(AtomicU64::new(0));
        let doors = (1..=DOORS).map(|number| {
            let mut door = Door {
                hub: hub.clone(),
                links: links.clone(),
                news: news_tx.clone(),
                refused: LogLimit::default(),
            };
            let (upgrades, closing) = (upgrades.clone(), closing.clone());
            Builder::new().name(format!("door-{number}")).spawn(move || door.run(&upgrades, &closing))
        });
        let doors = doors.collect::<Result<Vec<_>, _>>()?;
        Ok(Reception { links: HashMap::new(), news, doors_open: doors.len(), doors, open: Some(open) })
    }

    fn run(mut self, stopping: &Receiver<Instant>) {
        let deadline = loop {
            select! {
                recv(self.news) -> news => {
                    news.into_iter().for_each(|news| self.hear(news));
                    if self.doors_open < DOORS {
                        return; // one panicked: the Panel must not go on with a part of its doors
                    }
                }
                recv(stopping) -> deadline => break deadline.unwrap_or_else(|_| Instant::now()),
            }
        };
        self.open = None;
        while self.doors_open > 0
            && let Ok(news) = self.news.recv_deadline(deadline)
        {
            self.hear(news);
        }
        match self.doors_open {
            0 => self.doors.into_iter().for_each(|door| drop(door.join())), // a panic was logged
            stuck => warn!("{stuck} handshakes did not end in time"),
        }
        for (number, mut link) in self.links {
            if link.duplex.as_mut().is_some_and(|duplex| duplex.join(deadline).is_err()) {
                warn!("link {number} did not close in time and is cut");
            } // dropping it cuts it
        }
    }

    fn hear(&mut self, news: News) {
        let number = match news {
            News::Opened(number, duplex) => {
                let link = self.links.entry(number).or_default();
                (link.told, link.duplex) = (true, duplex);
                number
            }
            News::HalfEnded(number) => {
                self.links.entry(number).or_default().halves_ended += 1;
                number
            }
            News::DoorClosed => {
                self.doors_open -= 1;
                return;
            }
        };
        if self.links.get(&number).is_some_and(|link| link.told && link.halves_ended == 2) {
            self.links.remove(&number); // its threads are at their ends: this waits for nothing
        }
    }
}

/// What a `door-N` thread works with.
struct Door {
    hub: HubHandle,
    /// Counts links, for the `agents` thread. The hub has numbers of its own, and none for a link that it turns away.
    links: Arc<AtomicU64>,
    news: Sender<News>,
    refused: LogLimit,
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.news.send(News::DoorClosed); // the other end has left too
    }
}

impl Door {
    fn run(&mut self, upgrades: &Receiver<Upgrade>, closing: &Receiver<Infallible>) {
        loop {
            select! {
                recv(closing) -> _ => return,
                recv(upgrades) -> upgrade => match upgrade {
                    Ok(upgrade) => self.receive(upgrade),
                    Err(_) => return, // both gates have ended
                },
            }
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

    fn let_in(&self, upgrade: Upgrade) -> Result<(), Turned> {
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
        &self,
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
        let threads = Threads { read: "agent-read", write: "agent-write", stack: Some(LINK_STACK) };
        let (hub, news) = (self.hub.clone(), self.news.clone());
        let own = self.links.fetch_add(1, Ordering::Relaxed);
        let on_end = {
            let (hub, node) = (hub.clone(), node.clone());
            move |end: link::Ended| {
                hub.link_down(node.clone(), number, end.cause.to_string());
                let _ = news.send(News::HalfEnded(own)); // ended itself
            }
        };
        let mut ear = Ear::new(hub, node, number);
        let started = Duplex::start(connection, 0, outbox, threads, move |inbound| ear.hear(inbound), on_end);
        let (duplex, outcome) = match started {
            Ok(duplex) => (Some(duplex), Ok(())),
            Err(cause) => (None, Err(Turned::Threads(cause))), // both halves have told their ends
        };
        let _ = self.news.send(News::Opened(own, duplex)); // ended itself
        outcome
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
