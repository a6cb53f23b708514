//! The hub: one thread that owns the state of the whole Panel, and the handle by which all others reach it.
//!
//! It blocks in one `select!` and does its work in batches: whatever waits is handled, what was accepted becomes
//! durable with one commit, and only then is it sent. Nodes reach it through a channel without room, so that what
//! they have said and it has not heard stays in their own sockets, and a node that floods waits for its turn.

mod commands;
mod consoles;
mod fleet;
mod links;
mod ports;
mod questions;
mod usage;
mod views;

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, at, bounded, never, select};
use log::{error, warn};
use serde::Serialize;

use super::agents::Line;
use super::events::{Audience, EventId};
use super::problem::Problem;
use super::secret::SecretHash;
use super::store::Store;
use super::time::Time;
use super::wire::Message;
use crate::protocol::NodeId;

pub use commands::{Accepted, Finished, Order};
pub use fleet::Fleet;
pub use links::{JOIN_VALID, NodeChange};
pub use questions::Answer;
pub use usage::{Mark, Measurements, Sum};
pub use views::{CommandView, Progressing, ports};

/// Questions that may wait for the hub; each is small and has a thread that waits for its answer.
const QUEUE: usize = 64;
/// Messages handled before what was accepted is committed.
const BATCH: usize = 128;
/// How long the hub may take to answer. It waits for nothing but the disk.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a change that may be lost (the node tells it again) stays in memory only.
const FLUSH: Duration = Duration::from_secs(5);
/// The same for the first use of a secret, which subcommands have to know of.
const FLUSH_USES: Duration = Duration::from_millis(200);
/// Streams carry something at least this often, so that a page knows a dead one from a quiet one.
const TICK: Duration = Duration::from_secs(20);
/// How long events are gathered before pages are told; nobody sees the difference.
const GATHER: Duration = Duration::from_millis(20);
/// Between two events with measurements.
const USAGE: Duration = Duration::from_secs(1);

/// Everything that can make the hub act, but time.
enum Event {
    Admit {
        node: NodeId,
        secret: SecretHash,
        reply: Sender<bool>,
    },
    LinkUp {
        node: NodeId,
        secret: SecretHash,
        peer: String,
        line: Line,
        reply: Sender<Option<u64>>,
    },
    LinkDown {
        node: NodeId,
        link: u64,
        cause: String,
    },
    Heard {
        node: NodeId,
        link: u64,
        message: Message,
    },
    Order {
        order: Order,
        reply: Sender<Result<Accepted, Problem>>,
    },
    Subscribe {
        audience: Box<Audience>,
        last: Option<EventId>,
        reply: Sender<Stream>,
    },
    /// Looks at the state or changes it, and answers by itself. It must not wait for anything but the disk.
    Visit(Box<dyn FnOnce(&mut Fleet) + Send>),
    Stop,
}

type Stream = Result<Receiver<Arc<[u8]>>, Problem>;

/// The hub's thread. [`Hub::shutdown`] ends it.
pub struct Hub {
    handle: HubHandle,
    thread: JoinHandle<()>,
    ended: Receiver<()>,
}

/// How every other thread speaks with the hub. All calls are bounded in time.
#[derive(Clone)]
pub struct HubHandle {
    asks: Sender<Event>,
    news: Sender<Event>,
}

/// The hub has stopped, or is stuck on its disk.
#[derive(Debug, PartialEq)]
pub struct Unavailable;

impl Hub {
    /// # Errors
    /// The thread could not be started.
    pub fn start(store: Store) -> std::io::Result<Hub> {
        let (asks, from_api) = bounded(QUEUE);
        // INVARIANT: no room, so that at most one decoded message of each link is in memory.
        let (news, from_nodes) = bounded(0);
        let (end, ended) = bounded(0);
        let thread = Builder::new().name("hub".into()).spawn(move || {
            run(store, &from_api, &from_nodes);
            drop(end);
        })?;
        Ok(Hub { handle: HubHandle { asks, news }, thread, ended })
    }

    pub fn handle(&self) -> HubHandle {
        self.handle.clone()
    }

    /// Disconnects when the hub has ended.
    pub fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// Closes all links with 1001 and all streams, and writes the store. False when that takes past `deadline`.
    pub fn shutdown(self, deadline: Instant) -> bool {
        let _ = self.handle.asks.send_deadline(Event::Stop, deadline); // ended already: all the better
        let ended = self.ended.recv_deadline(deadline);
        ended == Err(RecvTimeoutError::Disconnected) && self.thread.join().is_ok()
    }
}

impl HubHandle {
    /// Whether this is the node's secret.
    pub fn admits(&self, node: NodeId, secret: SecretHash) -> Result<bool, Unavailable> {
        self.ask(|reply| Event::Admit { node, secret, reply })
    }

    /// Hands a link over; its number, or `None` when the node was removed meanwhile.
    pub fn link_up(
        &self,
        node: NodeId,
        secret: SecretHash,
        peer: String,
        line: Line,
    ) -> Result<Option<u64>, Unavailable> {
        self.ask(|reply| Event::LinkUp { node, secret, peer, line, reply })
    }

    /// Waits until the hub has heard it. It takes turns between nodes, and stops listening only when it ends.
    pub fn heard(&self, node: NodeId, link: u64, message: Message) -> Result<(), Unavailable> {
        self.news.send(Event::Heard { node, link, message }).map_err(|_| Unavailable)
    }

    pub fn link_down(&self, node: NodeId, link: u64, cause: String) {
        let _ = self.news.send(Event::LinkDown { node, link, cause }); // ended: it has no links any more
    }

    /// Asks a node for something. Returns when the order is durable and on its way.
    pub fn order(&self, order: Order) -> Result<Accepted, Problem> {
        self.ask(|reply| Event::Order { order, reply }).unwrap_or_else(|gone| Err(gone.into()))
    }

    /// Has the hub look at its state or change it, and hands back what it finds.
    pub fn visit<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Fleet) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.ask(|reply| {
            Event::Visit(Box::new(move |fleet| {
                let _ = reply.send(look(fleet)); // nobody waits any more
            }))
        })
    }

    /// A stream of server-sent events, ready to be sent.
    pub fn subscribe(&self, audience: Audience, last: Option<EventId>) -> Stream {
        let audience = Box::new(audience);
        self.ask(|reply| Event::Subscribe { audience, last, reply }).unwrap_or_else(|gone| Err(gone.into()))
    }

    fn ask<T>(&self, event: impl FnOnce(Sender<T>) -> Event) -> Result<T, Unavailable> {
        let deadline = Instant::now() + ANSWER;
        let (reply, answer) = bounded(1);
        self.asks.send_deadline(event(reply), deadline).map_err(|_| Unavailable)?;
        answer.recv_deadline(deadline).map_err(|_| Unavailable)
    }
}

impl From<Unavailable> for Problem {
    fn from(_: Unavailable) -> Problem {
        Problem::new(503, "UNAVAILABLE", "The Panel is stopping or its disk does not answer. Try again soon.")
    }
}

fn run(store: Store, from_api: &Receiver<Event>, from_nodes: &Receiver<Event>) {
    let mut fleet = Fleet::new(store);
    let (mut flush_at, mut tick_at, mut usage_at, mut tell_at) = (None, None, None, None);
    loop {
        let wake = wake_up(&fleet, [flush_at, tick_at, usage_at, tell_at]);
        let mut next = select! {
            recv(from_api) -> event => event.ok(),
            recv(from_nodes) -> event => event.ok(),
            recv(wake) -> _ => None,
        };
        let mut handled = 0;
        while let Some(event) = next {
            if matches!(event, Event::Stop) {
                return stop(fleet);
            }
            handle(&mut fleet, event);
            handled += 1;
            next = match handled {
                BATCH => None,
                _ => from_api.try_recv().or_else(|_| from_nodes.try_recv()).ok(),
            };
        }
        fleet.expire(Time::now());
        fleet.settle();
        let now = Instant::now();
        flush_at = flush(&mut fleet, flush_at, now);
        tick_at = tick(&mut fleet, tick_at, now);
        usage_at = usage(&mut fleet, usage_at, now);
        tell_at = tell(&mut fleet, tell_at, now);
        fleet.acknowledge();
    }
}

fn handle(fleet: &mut Fleet, event: Event) {
    // A reply that cannot be sent is one that nobody waits for any more.
    match event {
        Event::Admit { node, secret, reply } => {
            let _ = reply.send(fleet.admits(&node, &secret));
        }
        Event::LinkUp { node, secret, peer, line, reply } => {
            let _ = reply.send(fleet.link_up(&node, &secret, &peer, line));
        }
        Event::LinkDown { node, link, cause } => fleet.link_down(&node, link, &cause),
        Event::Heard { node, link, message } => fleet.heard(&node, link, message),
        Event::Order { order, reply } => fleet.order(order, reply),
        Event::Subscribe { audience, last, reply } => drop(reply.send(fleet.subscribe(*audience, last))),
        Event::Visit(look) => look(fleet),
        Event::Stop => {}
    }
}

impl Fleet {
    fn subscribe(&mut self, audience: Audience, last: Option<EventId>) -> Stream {
        let console = audience.console.clone();
        // Told in one piece with the stream's first id: there is no moment between the two that could be missed.
        // The state it borrows lives beside the broadcast, which steps out for that long.
        let mut broadcast = std::mem::take(&mut self.broadcast);
        let stream = broadcast.subscribe(audience, last, |audience| Snapshot {
            epoch: self.store.epoch(),
            version: crate::version::VERSION,
            nodes: match audience.sees_all() {
                true => Nodes::Whole(self.node_views().collect()),
                false => Nodes::Glimpses(self.node_glimpses().collect()),
            },
            servers: self
                .server_views()
                .filter(|view| audience.sees_server(&(view.node.clone(), view.id.clone())))
                .collect(),
        });
        self.broadcast = broadcast;
        if let Some(key) = console.filter(|_| stream.is_ok()) {
            self.follow_output(&key);
        }
        stream.map_err(|_| {
            Problem::new(503, "TOO_MANY_STREAMS", "Too many pages are open. Close one and reload.")
        })
    }
}

/// The next moment at which something is to be done although nobody asks.
fn wake_up(fleet: &Fleet, others: [Option<Instant>; 4]) -> Receiver<Instant> {
    let deadline = fleet.next_deadline().map(|deadline| Instant::now() + deadline.since(Time::now()));
    let next = others.into_iter().flatten().chain(deadline).min();
    next.map_or_else(never, at)
}

/// Writes what has changed soon after it did.
fn flush(fleet: &mut Fleet, due: Option<Instant>, now: Instant) -> Option<Instant> {
    if !fleet.store.is_changed() {
        return None;
    }
    let within = if fleet.store.has_uses() { FLUSH_USES } else { FLUSH };
    let due = due.unwrap_or(now + FLUSH).min(now + within);
    if due > now {
        return Some(due);
    }
    match fleet.store.commit() {
        Ok(()) => None,
        Err(cause) => {
            warn!("the state could not be stored, trying again: {cause}");
            Some(now + FLUSH)
        }
    }
}

/// Keeps streams alive while there are any.
fn tick(fleet: &mut Fleet, due: Option<Instant>, now: Instant) -> Option<Instant> {
    if !fleet.broadcast.has_streams() {
        return None;
    }
    match due {
        Some(due) if due > now => Some(due),
        Some(_) => {
            let now_is = Time::now();
            fleet.broadcast.publish_passing("tick", |_| Some(now_is));
            Some(now + TICK)
        }
        None => Some(now + TICK),
    }
}

/// Gathers measurements and tells them once a second: with a thousand nodes each page would be told of each.
fn usage(fleet: &mut Fleet, due: Option<Instant>, now: Instant) -> Option<Instant> {
    if !fleet.measured.is_untold() || !fleet.broadcast.has_streams() {
        return None;
    }
    let due = due.unwrap_or(now + USAGE);
    if due > now {
        return Some(due);
    }
    fleet.tell_usage();
    None
}

/// Hands to pages what was gathered for them.
fn tell(fleet: &mut Fleet, due: Option<Instant>, now: Instant) -> Option<Instant> {
    if !fleet.broadcast.has_gathered() {
        return None;
    }
    let due = due.unwrap_or(now + GATHER);
    if due > now {
        return Some(due);
    }
    fleet.broadcast.deliver();
    None
}

/// Ends the hub. What still waits is dropped with the channels, and the askers' reply channels with it: nobody hangs.
fn stop(mut fleet: Fleet) {
    fleet.settle();
    fleet.broadcast.deliver();
    fleet.close_links();
    if let Err(cause) = fleet.store.commit() {
        error!("the state could not be stored at the end: {cause}");
    }
}

#[derive(Serialize)]
struct Snapshot<'a> {
    epoch: u64,
    version: &'static str,
    nodes: Nodes<'a>,
    servers: Vec<views::ServerView<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Nodes<'a> {
    Whole(Vec<views::NodeView<'a>>),
    Glimpses(Vec<views::NodeGlimpse<'a>>),
}
