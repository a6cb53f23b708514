//! Server-sent events: what every open page is told, in one order, with ids to resume from.
//!
//! Owned by the hub's thread. Events are gathered for a moment and go out as one piece, which pages share: each piece
//! wakes a thread for every page. Each stream has a bounded queue that the gate empties; a stream that does not keep up
//! is dropped and comes back with its last id, so that it never slows the hub or another page.
//! The format is the one of the HTML standard, "Server-sent events".

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::warn;
use serde::Serialize;

use super::accounts::{Principal, Rights, Via};
use super::limit::LogLimit;
use super::store::ServerKey;

/// Streams open at the same time.
pub const MAX_STREAMS: usize = 256;
/// Pieces that wait for one stream. Each is at most [`PIECE`] long, unless one event is longer, and shared by streams.
const QUEUE: usize = 128;
/// Bytes of events that are gathered into one piece.
const PIECE: usize = 64 << 10;
/// What can be resumed from.
const RING_BYTES: usize = 512 << 10;

/// Where a page is in the order of events. The epoch tells ids of an earlier run of the Panel apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    epoch: u64,
    number: u64,
}

/// All streams are taken.
#[derive(Debug, PartialEq)]
pub struct TooMany;

/// Whom a stream belongs to, and the one server whose output it carries.
#[derive(Clone, Debug)]
pub struct Audience {
    pub who: Principal,
    pub console: Option<ServerKey>,
}

impl Audience {
    pub fn sees_server(&self, key: &ServerKey) -> bool {
        self.who.rights(key).has(Rights::VIEW)
    }

    pub fn sees_all(&self) -> bool {
        self.who.is_admin() && self.who.scopes().has(Rights::VIEW)
    }

    fn sees(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Admins => self.sees_all(),
            Subject::Server(key) => self.sees_server(key),
        }
    }

    fn session(&self) -> Option<&str> {
        match &self.who.via {
            Via::Session { hash, .. } => Some(hash),
            Via::Token { .. } => None,
        }
    }
}

/// Whom an event concerns.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// Those who see everything.
    Admins,
    /// Those who may see this server.
    Server(ServerKey),
}

/// Which streams an event goes to.
enum Whom {
    Subject(Subject),
    /// Those that carry this server's output.
    Console(ServerKey),
}

impl Whom {
    fn takes_in(&self, audience: &Audience) -> bool {
        match self {
            Whom::Subject(subject) => audience.sees(subject),
            Whom::Console(key) => audience.console.as_ref() == Some(key) && audience.sees_server(key),
        }
    }
}

#[derive(Default)]
pub struct Broadcast {
    epoch: u64,
    /// Number of the newest event; 0 before the first.
    newest: u64,
    /// The newest events, without a gap.
    ring: VecDeque<(Subject, Arc<[u8]>)>,
    ring_bytes: usize,
    streams: Vec<Stream>,
    /// What was published and is not with the streams yet.
    gathered: Vec<(Whom, Arc<[u8]>)>,
    gathered_bytes: usize,
    /// The whole state as those who see everything are told it, until something changes: after a restart hundreds of
    /// pages come back at once.
    whole: Option<Arc<[u8]>>,
    dropped: u64,
    log: LogLimit,
}

struct Stream {
    audience: Audience,
    pieces: Sender<Arc<[u8]>>,
}

impl Broadcast {
    pub fn new(epoch: u64) -> Broadcast {
        Broadcast { epoch, ..Broadcast::default() }
    }

    /// Tells every stream that may hear of it, with the next [`Broadcast::deliver`], and keeps the event for those that
    /// are away.
    pub fn publish(&mut self, subject: Subject, event: &str, data: &impl Serialize) {
        self.newest += 1;
        let id = EventId { epoch: self.epoch, number: self.newest };
        let text = format!("id: {id}\nevent: {event}\ndata: {}\n\n", json(data));
        let frame: Arc<[u8]> = text.into_bytes().into();
        self.whole = None;
        self.gather(Whom::Subject(subject.clone()), frame.clone());
        self.ring_bytes += frame.len();
        self.ring.push_back((subject, frame));
        while self.ring_bytes > RING_BYTES
            && let Some((_, oldest)) = self.ring.pop_front()
        {
            self.ring_bytes -= oldest.len();
        }
    }

    /// Tells each stream what is worth knowing now and stale soon, such as measurements: nothing is kept. `data` makes
    /// it for one audience, or nothing; those who see everything are told the same.
    pub fn publish_passing<D: Serialize>(&mut self, event: &str, data: impl Fn(&Audience) -> Option<D>) {
        self.deliver();
        self.whole = None;
        let mut for_all: Option<Option<Arc<[u8]>>> = None;
        let frame = |data: Option<D>| {
            data.map(|data| format!("event: {event}\ndata: {}\n\n", json(&data)).into_bytes().into())
        };
        self.send(|audience| match audience.sees_all() {
            true => for_all.get_or_insert_with(|| frame(data(audience))).clone(),
            false => frame(data(audience)),
        });
    }

    /// Tells the streams that carry a server's output, with the next [`Broadcast::deliver`].
    pub fn publish_console(&mut self, key: &ServerKey, data: impl FnOnce() -> String) {
        if self.has_console(key) {
            let frame = format!("event: console\ndata: {}\n\n", data());
            self.gather(Whom::Console(key.clone()), frame.into_bytes().into());
        }
    }

    /// Whether something waits for [`Broadcast::deliver`].
    pub fn has_gathered(&self) -> bool {
        !self.gathered.is_empty()
    }

    /// Hands what was gathered to the streams.
    pub fn deliver(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        if gathered.is_empty() {
            return;
        }
        let is_output = |whom: &Whom| matches!(whom, Whom::Console(_));
        // Most pages are told the same.
        let mut for_all = None;
        self.send(|audience| {
            let of_console = gathered.iter().any(|(whom, _)| is_output(whom) && whom.takes_in(audience));
            if audience.sees_all() && !of_console {
                let all = || joined(gathered.iter().filter(|(whom, _)| !is_output(whom)));
                return for_all.get_or_insert_with(all).clone();
            }
            joined(gathered.iter().filter(|(whom, _)| whom.takes_in(audience)))
        });
    }

    fn gather(&mut self, whom: Whom, frame: Arc<[u8]>) {
        if self.streams.is_empty() {
            return;
        }
        if self.gathered_bytes + frame.len() > PIECE {
            self.deliver();
        }
        self.gathered_bytes += frame.len();
        self.gathered.push((whom, frame));
    }

    /// Whether a stream carries this server's output.
    pub fn has_console(&self, key: &ServerKey) -> bool {
        self.streams.iter().any(|stream| stream.audience.console.as_ref() == Some(key))
    }

    /// Ends a session's streams, telling them why.
    pub fn end_session(&mut self, ended: impl Fn(i64, &str) -> bool) {
        let over =
            |audience: &Audience| audience.session().is_some_and(|hash| ended(audience.who.user, hash));
        self.end(over, b"event: logout\ndata: {}\n\n");
    }

    /// Ends a user's streams, which come back and are then heard with what the user may by then.
    pub fn end_user(&mut self, user: i64) {
        self.end(|audience| audience.who.user == user, b":\n\n");
    }

    fn end(&mut self, ends: impl Fn(&Audience) -> bool, farewell: &[u8]) {
        self.deliver();
        self.streams.retain(|stream| {
            let stays = !ends(&stream.audience);
            if !stays {
                let _ = stream.pieces.try_send(farewell.into()); // full or gone: it ends all the same
            }
            stays
        });
    }

    /// Opens a stream that begins after `last` when everything since then is still here, and with `snapshot`, the
    /// whole state, when it is not. The receiver is disconnected when the stream was dropped or the Panel ends.
    pub fn subscribe<S: Serialize>(
        &mut self,
        audience: Audience,
        last: Option<EventId>,
        snapshot: impl FnOnce(&Audience) -> S,
    ) -> Result<Receiver<Arc<[u8]>>, TooMany> {
        // What a stream begins with has all of it already.
        self.deliver();
        if self.streams.len() >= MAX_STREAMS {
            // A sender learns only by sending that its page has left; a comment says nothing to those that have not.
            self.send(|_| Some(b":\n\n"[..].into()));
        }
        if self.streams.len() >= MAX_STREAMS {
            return Err(TooMany);
        }
        let whole = self.whole.as_ref().filter(|_| audience.sees_all());
        let first: Arc<[u8]> = match (self.since(last, &audience), whole) {
            (Some(missed), _) => missed.into(),
            (None, Some(whole)) => whole.clone(),
            (None, None) => {
                let id = EventId { epoch: self.epoch, number: self.newest };
                let state = json(&snapshot(&audience));
                let text = format!("retry: 1000\nid: {id}\nevent: snapshot\ndata: {state}\n\n");
                let whole: Arc<[u8]> = text.into_bytes().into();
                if audience.sees_all() {
                    self.whole = Some(whole.clone());
                }
                whole
            }
        };
        let (to_stream, pieces) = bounded(QUEUE);
        let _ = to_stream.try_send(first); // a new queue has room
        self.streams.push(Stream { audience, pieces: to_stream });
        Ok(pieces)
    }

    pub fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    fn since(&self, last: Option<EventId>, audience: &Audience) -> Option<Vec<u8>> {
        let last = last.filter(|last| last.epoch == self.epoch)?;
        let missed = usize::try_from(self.newest.checked_sub(last.number)?).ok()?;
        let from = self.ring.len().checked_sub(missed)?;
        let frames = self.ring.range(from..).filter(|(subject, _)| audience.sees(subject));
        let mut missed = b"retry: 1000\n\n".to_vec();
        frames.for_each(|(_, frame)| missed.extend_from_slice(frame));
        Some(missed)
    }

    fn send(&mut self, mut frame: impl FnMut(&Audience) -> Option<Arc<[u8]>>) {
        let before = self.dropped;
        self.streams.retain(|stream| {
            let Some(frame) = frame(&stream.audience) else { return true };
            match stream.pieces.try_send(frame) {
                Ok(()) => true,
                Err(TrySendError::Disconnected(_)) => false,
                Err(TrySendError::Full(_)) => {
                    self.dropped += 1;
                    false
                }
            }
        });
        if self.dropped > before && self.log.pass().is_some() {
            warn!("an event stream was dropped because its page does not keep up ({} in all)", self.dropped);
        }
    }
}

/// One piece of several; nothing of none.
fn joined<'a>(frames: impl Iterator<Item = &'a (Whom, Arc<[u8]>)>) -> Option<Arc<[u8]>> {
    let frames: Vec<&Arc<[u8]>> = frames.map(|(_, frame)| frame).collect();
    match frames[..] {
        [] => None,
        [one] => Some(Arc::clone(one)),
        _ => Some(frames.into_iter().flat_map(|frame| frame.iter().copied()).collect()),
    }
}

/// Data is one line: JSON escapes line breaks, which would end a field.
fn json(data: &impl Serialize) -> String {
    // The Panel's own types have string keys and no failing serialiser; an empty object is what a page can bear.
    serde_json::to_string(data).unwrap_or_else(|_| "{}".into())
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

impl FromStr for EventId {
    type Err = ();

    /// Anything else than one of our ids is no id: the stream then begins with a snapshot.
    fn from_str(text: &str) -> Result<EventId, ()> {
        let (epoch, number) = text.split_once('.').ok_or(())?;
        Ok(EventId { epoch: epoch.parse().map_err(drop)?, number: number.parse().map_err(drop)? })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::accounts::Role;
    use super::*;

    fn admin() -> Audience {
        audience(Role::Admin, &[])
    }

    fn audience(role: Role, granted: &[&str]) -> Audience {
        let grants = granted.iter().map(|id| (key(id), Rights::VIEW)).collect::<HashMap<_, _>>();
        let via = Via::Session { hash: "h".into(), csrf: String::new() };
        let who = Principal { user: 1, name: "a".into(), role, grants: Arc::new(grants), via };
        Audience { who, console: None }
    }

    fn key(id: &str) -> ServerKey {
        ("n".parse().unwrap(), id.parse().unwrap())
    }

    fn publish(broadcast: &mut Broadcast, data: &impl Serialize) {
        broadcast.publish(Subject::Admins, "server", data);
        broadcast.deliver();
    }

    fn drain(stream: &Receiver<Arc<[u8]>>) -> String {
        stream.try_iter().map(|piece| String::from_utf8(piece.to_vec()).unwrap()).collect()
    }

    fn last_id(text: &str) -> EventId {
        text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap().parse().unwrap()
    }

    #[test]
    fn a_stream_resumes_without_a_hole() {
        let mut broadcast = Broadcast::new(3);
        let stream = broadcast.subscribe(admin(), None, |_| "all").unwrap();
        publish(&mut broadcast, &1);
        let seen = drain(&stream);
        assert_eq!(
            seen,
            "retry: 1000\nid: 3.0\nevent: snapshot\ndata: \"all\"\n\nid: 3.1\nevent: server\ndata: 1\n\n"
        );
        drop(stream);
        publish(&mut broadcast, &2);
        broadcast.publish_passing("usage", |_| Some(0));
        publish(&mut broadcast, &3);
        let again = broadcast.subscribe(admin(), Some(last_id(&seen)), |_| unreachable!() as u8).unwrap();
        publish(&mut broadcast, &4);
        let events = |text: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
        };
        assert_eq!(events(&drain(&again)), ["2", "3", "4"]);
    }

    #[test]
    fn what_cannot_be_resumed_begins_with_a_snapshot() {
        let mut broadcast = Broadcast::new(3);
        let big = "x".repeat(RING_BYTES / 3);
        (0..4).for_each(|_| publish(&mut broadcast, &big));
        for stale in ["3.0", "3.1", "2.4", "3.5", "", "x", "3.-1"] {
            let stream = broadcast.subscribe(admin(), stale.parse().ok(), |_| "all").unwrap();
            assert!(drain(&stream).contains("snapshot"), "{stale}");
        }
        let stream = broadcast.subscribe(admin(), "3.4".parse().ok(), |_| "all").unwrap();
        assert_eq!(drain(&stream), "retry: 1000\n\n");
    }

    #[test]
    fn a_stream_that_does_not_read_is_dropped_alone() {
        let mut broadcast = Broadcast::new(1);
        let slow = broadcast.subscribe(admin(), None, |_| 0).unwrap();
        for number in 0..QUEUE {
            let reading = broadcast.subscribe(admin(), None, |_| 0).unwrap();
            publish(&mut broadcast, &number);
            assert!(drain(&reading).ends_with(&format!("data: {number}\n\n")));
        }
        assert_eq!(broadcast.dropped, 1);
        let received = slow.iter().count(); // ends, since the stream is disconnected
        assert_eq!(received, QUEUE);
    }

    #[test]
    fn streams_are_bounded_and_those_that_left_make_room() {
        let mut broadcast = Broadcast::new(1);
        let mut open: Vec<_> =
            (0..MAX_STREAMS).map(|_| broadcast.subscribe(admin(), None, |_| 0).unwrap()).collect();
        assert_eq!(broadcast.subscribe(admin(), None, |_| 0).err(), Some(TooMany));
        open.pop();
        assert!(broadcast.subscribe(admin(), None, |_| 0).is_ok());
    }

    #[test]
    fn members_hear_of_their_own_servers_only_also_when_they_resume() {
        let mut broadcast = Broadcast::new(1);
        let member = || audience(Role::Member, &["mine"]);
        let live = broadcast.subscribe(member(), None, |_| 0).unwrap();
        broadcast.publish(Subject::Server(key("mine")), "server", &1);
        broadcast.publish(Subject::Server(key("other")), "server", &2);
        broadcast.publish(Subject::Admins, "node", &3);
        broadcast.publish_passing("usage", |audience| audience.sees_all().then_some(4));
        broadcast.publish_console(&key("mine"), || "5".into());
        broadcast.deliver();
        let told = drain(&live);
        assert!(told.ends_with("id: 1.1\nevent: server\ndata: 1\n\n"), "{told}");
        let again = broadcast.subscribe(member(), "1.0".parse().ok(), |_| 0).unwrap();
        assert_eq!(drain(&again), "retry: 1000\n\nid: 1.1\nevent: server\ndata: 1\n\n");
        let watching = Audience { console: Some(key("mine")), ..member() };
        let stream = broadcast.subscribe(watching, "1.3".parse().ok(), |_| 0).unwrap();
        broadcast.publish_console(&key("mine"), || "6".into());
        broadcast.publish_console(&key("other"), || unreachable!());
        broadcast.deliver();
        assert!(drain(&stream).ends_with("event: console\ndata: 6\n\n"));
    }

    #[test]
    fn what_comes_together_goes_out_in_one_piece_and_in_order() {
        let mut broadcast = Broadcast::new(1);
        let all = broadcast.subscribe(admin(), None, |_| 0).unwrap();
        let watching = Audience { console: Some(key("mine")), ..audience(Role::Member, &["mine"]) };
        let member = broadcast.subscribe(watching, None, |_| 0).unwrap();
        assert_eq!((all.try_iter().count(), member.try_iter().count()), (1, 1));
        broadcast.publish(Subject::Server(key("mine")), "server", &1);
        broadcast.publish_console(&key("mine"), || "2".into());
        broadcast.publish(Subject::Admins, "node", &3);
        assert!(broadcast.has_gathered() && all.is_empty());
        broadcast.deliver();
        let (first, last) = ("id: 1.1\nevent: server\ndata: 1\n\n", "id: 1.2\nevent: node\ndata: 3\n\n");
        assert_eq!((all.len(), drain(&all)), (1, format!("{first}{last}")));
        assert_eq!((member.len(), drain(&member)), (1, format!("{first}event: console\ndata: 2\n\n")));
        // One that begins in between is not told twice, and what is long does not wait.
        broadcast.publish(Subject::Admins, "node", &4);
        let late = broadcast.subscribe(admin(), "1.3".parse().ok(), |_| 0).unwrap();
        broadcast.deliver();
        assert_eq!(drain(&late), "retry: 1000\n\n");
        (0..2).for_each(|_| broadcast.publish(Subject::Admins, "node", &"x".repeat(PIECE)));
        assert!(!drain(&late).is_empty());
    }

    #[test]
    fn the_end_of_a_session_ends_its_streams() {
        let mut broadcast = Broadcast::new(1);
        let stream = broadcast.subscribe(admin(), None, |_| 0).unwrap();
        broadcast.end_session(|_, hash| hash == "other");
        assert!(broadcast.has_streams());
        broadcast.end_session(|_, hash| hash == "h");
        assert!(drain(&stream).ends_with("event: logout\ndata: {}\n\n"));
        assert!(!broadcast.has_streams());
    }
}
