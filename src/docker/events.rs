//! The Engine's event stream, for containers: subscribe, read one by one, resume without loss or repetition.
//!
//! [`EventStream::next`] blocks the caller's thread until something happens; its [`Closer`] ends that. The Engine keeps
//! only its last 256 events and none over its own restart, so a subscriber lists and inspects after each (re)connect.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use ureq::BodyReader;

use super::call::{Call, READ_LIMIT};
use super::client::Client;
use super::closer::Closer;
use super::container::ContainerId;
use super::error::Error;
use super::json_lines::JsonLines;
use super::time::unix_seconds;

/// Which events are wanted. Filters are the Engine's: what they leave out is never sent.
#[derive(Clone, Debug, Default)]
pub struct EventQuery<'a> {
    /// Nanoseconds since 1970; events of that very nanosecond come again. `None` is from now on.
    pub since_ns: Option<u64>,
    /// Labels that the container must have, all of them, each `name` or `name=value`.
    pub labels: &'a [&'a str],
    /// Actions in the Engine's words, such as `die`; empty is all, with two for each run of a health check.
    pub actions: &'a [&'a str],
}

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    pub action: Action,
    /// What follows the action's word: the command of an exec, the state of a health check.
    pub detail: String,
    pub id: ContainerId,
    /// Nanoseconds since 1970, by the Engine's clock.
    pub time_ns: u64,
    /// Of a `Die`.
    pub exit_code: Option<i64>,
    /// The number of the signal of a `Kill`.
    pub signal: Option<i32>,
    /// The container's labels, its `name` and `image`, and what belongs to the action.
    pub attributes: BTreeMap<String, String>,
}

impl ContainerEvent {
    /// The container's name.
    pub fn name(&self) -> &str {
        self.attributes.get("name").map(String::as_str).unwrap_or_default()
    }
}

/// The Engine's word for what happened. In order a stop is `Kill`, `Die`, `Stop`; a crash is `Die` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Create,
    Start,
    Die,
    Kill,
    Stop,
    Restart,
    /// The kernel killed a process for its memory; the container may live on.
    Oom,
    Pause,
    Unpause,
    Destroy,
    Rename,
    Update,
    HealthStatus,
    ExecCreate,
    ExecStart,
    ExecDie,
    Attach,
    Detach,
    Other,
}

impl Action {
    fn parse(word: &str) -> Action {
        match word {
            "create" => Action::Create,
            "start" => Action::Start,
            // Podman's words for the same are died and remove.
            "die" | "died" => Action::Die,
            "kill" => Action::Kill,
            "stop" => Action::Stop,
            "restart" => Action::Restart,
            "oom" => Action::Oom,
            "pause" => Action::Pause,
            "unpause" => Action::Unpause,
            "destroy" | "remove" => Action::Destroy,
            "rename" => Action::Rename,
            "update" => Action::Update,
            "health_status" => Action::HealthStatus,
            "exec_create" => Action::ExecCreate,
            "exec_start" => Action::ExecStart,
            "exec_die" => Action::ExecDie,
            "attach" => Action::Attach,
            "detach" => Action::Detach,
            _ => Action::Other,
        }
    }
}

impl Client {
    /// Subscribes to the events of containers. Returns once the Engine has answered, and from then on nothing that
    /// the query wants is missed while the stream lives.
    pub fn events(&self, query: &EventQuery<'_>, closer: &Closer) -> Result<EventStream, Error> {
        let mut filters = BTreeMap::from([("type", &["container"][..])]);
        for (name, values) in [("label", query.labels), ("event", query.actions)] {
            if !values.is_empty() {
                filters.insert(name, values);
            }
        }
        let filters = serde_json::to_string(&filters).expect("a map of texts always serialises");
        let mut call = Call::get("/events").query("filters", filters);
        if let Some(since) = query.since_ns {
            call = call.query("since", unix_seconds(since));
        }
        let response = self.http().open(call, closer, READ_LIMIT)?;
        let lines = JsonLines::new(response.into_body().into_reader());
        Ok(EventStream { lines, closer: closer.clone() })
    }
}

/// An open subscription. Dropping it ends it.
pub struct EventStream {
    lines: JsonLines<BodyReader<'static>>,
    closer: Closer,
}

impl EventStream {
    /// Blocks until the next event.
    ///
    /// An error is final: `Cancelled` after a close, `Unavailable` when the Engine ended the stream or the
    /// connection broke, `Malformed` for what is no event. Then subscribe again with [`EventCursor::since_ns`].
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<ContainerEvent, Error> {
        loop {
            match self.lines.next() {
                Ok(Some(line)) => {
                    if let Some(event) = parse(line)? {
                        return Ok(event);
                    }
                }
                Ok(None) => {
                    return Err(self.closer.explain(Error::Unavailable("the event stream ended".into())));
                }
                Err(error) => return Err(self.closer.explain(Error::from_reader(error))),
            }
        }
    }

    /// How many events were thrown away because one was over 1 MiB.
    pub fn skipped(&self) -> u64 {
        self.lines.skipped()
    }
}

/// Engines before 1.52 repeat `Action`, `Actor.ID` and the image as `status`, `id` and `from`; 1.52 does not, and
/// some compatible ones send only those.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Wire {
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(rename = "Action")]
    action: Option<String>,
    status: Option<String>,
    #[serde(rename = "Actor")]
    actor: Actor,
    id: Option<String>,
    time: u64,
    #[serde(rename = "timeNano")]
    time_nano: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes", deserialize_with = "super::inspect::null_as_default")]
    attributes: BTreeMap<String, String>,
}

fn parse(line: &[u8]) -> Result<Option<ContainerEvent>, Error> {
    let wire: Wire = serde_json::from_slice(line).map_err(|e| Error::Malformed(format!("event: {e}")))?;
    if wire.kind.is_some_and(|kind| kind != "container") {
        return Ok(None);
    }
    let (Some(action), Some(id)) = (
        wire.action.or(wire.status),
        ContainerId::new(&wire.actor.id).or_else(|| wire.id.as_deref().and_then(ContainerId::new)),
    ) else {
        return Err(Error::Malformed("event: without an action or a container's id".into()));
    };
    let (word, detail) = action.split_once(':').unwrap_or((&action, ""));
    let attributes = wire.actor.attributes;
    let number = |name: &str| attributes.get(name).and_then(|text| text.parse::<i64>().ok());
    let time_ns = if wire.time_nano > 0 { wire.time_nano } else { wire.time.saturating_mul(1_000_000_000) };
    Ok(Some(ContainerEvent {
        action: Action::parse(word),
        detail: detail.trim().into(),
        id,
        time_ns,
        exit_code: number("exitCode").or_else(|| number("containerExitCode")),
        signal: number("signal").and_then(|signal| signal.try_into().ok()),
        attributes,
    }))
}

/// Where a subscription stands: which events were seen, and from when to ask again. Pure.
///
/// A resumed stream repeats what `since` covers, and the Engine may send an event both from its buffer and live. Events
/// may come slightly out of the order of their times, since each is stamped before it is queued; so the resumption
/// goes back one second behind the newest, and what was seen in that second is remembered.
#[derive(Clone, Debug, Default)]
pub struct EventCursor {
    newest: u64,
    /// Time and a hash of id, action and detail. A collision takes the same nanosecond and the same 64 bits.
    seen: BTreeSet<(u64, u64)>,
}

impl EventCursor {
    const OVERLAP: u64 = 1_000_000_000;
    /// 16 bytes each. The Engine itself keeps 256 events.
    const MEMORY: usize = 4096;

    /// Whether the event was not seen before; it counts as seen from then on.
    pub fn is_new(&mut self, event: &ContainerEvent) -> bool {
        let mut hasher = DefaultHasher::new();
        (&event.id, event.action, &event.detail).hash(&mut hasher);
        let is_new = self.seen.insert((event.time_ns, hasher.finish()));
        self.newest = self.newest.max(event.time_ns);
        let floor = self.newest.saturating_sub(Self::OVERLAP);
        while self.seen.len() > Self::MEMORY || self.seen.first().is_some_and(|(time, _)| *time < floor) {
            self.seen.pop_first();
        }
        is_new
    }

    /// What to ask for in the next [`EventQuery`]; `None` before the first event.
    ///
    /// INVARIANT: everything seen at or after this time is remembered, so nothing that comes again passes as new.
    pub fn since_ns(&self) -> Option<u64> {
        let floor = self.newest.saturating_sub(Self::OVERLAP);
        match self.seen.first() {
            // Within a full memory, only what is after its oldest nanosecond is known in full.
            Some((oldest, _)) if self.seen.len() == Self::MEMORY => Some(floor.max(oldest + 1)),
            Some(_) => Some(floor),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn event(json: &str) -> ContainerEvent {
        parse(json.replace("$ID", ID).as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn reads_the_shape_of_20_10_and_that_of_1_52_alike() {
        let old = event(
            r#"{"status":"die","id":"$ID","from":"a:b","Type":"container","Action":"die","Actor":{"ID":"$ID",
            "Attributes":{"exitCode":"137","image":"a:b","name":"x","l":"v"}},"scope":"local","time":17,"timeNano":17000000042}"#,
        );
        let new = event(
            r#"{"Type":"container","Action":"die","Actor":{"ID":"$ID",
            "Attributes":{"exitCode":"137","image":"a:b","name":"x","l":"v"}},"scope":"local","time":17,"timeNano":17000000042}"#,
        );
        assert_eq!(old, new);
        assert_eq!((old.action, old.exit_code, old.time_ns), (Action::Die, Some(137), 17_000_000_042));
        assert_eq!((old.name(), &*old.attributes["l"], &*old.id), ("x", "v", ID));
    }

    #[test]
    fn reads_signals_suffixes_and_the_oldest_shape() {
        let kill = event(
            r#"{"Type":"container","Action":"kill","Actor":{"ID":"$ID","Attributes":{"signal":"15"}}}"#,
        );
        assert_eq!((kill.action, kill.signal), (Action::Kill, Some(15)));
        let exec = event(r#"{"Type":"container","Action":"exec_create: sh -c 'a: b'","Actor":{"ID":"$ID"}}"#);
        assert_eq!((exec.action, &*exec.detail), (Action::ExecCreate, "sh -c 'a: b'"));
        let health = event(
            r#"{"Type":"container","Action":"health_status: healthy","Actor":{"ID":"$ID","Attributes":null}}"#,
        );
        assert_eq!((health.action, &*health.detail), (Action::HealthStatus, "healthy"));
        let oldest = event(r#"{"status":"start","id":"$ID","from":"a","time":5}"#);
        assert_eq!((oldest.action, oldest.time_ns), (Action::Start, 5_000_000_000));
        assert_eq!(event(r#"{"Action":"top","id":"$ID"}"#).action, Action::Other);
    }

    #[test]
    fn what_is_no_event_is_told() {
        assert_eq!(parse(br#"{"Type":"network","Action":"connect","Actor":{"ID":"n"}}"#), Ok(None));
        for bad in [&b"x"[..], b"[]", b"{}", br#"{"Action":"die","Actor":{"ID":"short"}}"#, &[b'['; 100_000]]
        {
            assert!(matches!(parse(bad), Err(Error::Malformed(_))), "{:?}", &bad[..bad.len().min(40)]);
        }
    }

    fn at(time_ns: u64, action: Action) -> ContainerEvent {
        let id = ContainerId::new(ID).unwrap();
        let attributes = BTreeMap::new();
        ContainerEvent {
            action,
            detail: String::new(),
            id,
            time_ns,
            exit_code: None,
            signal: None,
            attributes,
        }
    }

    #[test]
    fn a_resumed_stream_repeats_nothing_and_loses_nothing() {
        const S: u64 = 1_000_000_000;
        let mut cursor = EventCursor::default();
        assert_eq!(cursor.since_ns(), None);
        assert!(cursor.is_new(&at(10 * S, Action::Kill)));
        assert!(cursor.is_new(&at(10 * S, Action::Die)), "another action in the same nanosecond");
        assert!(cursor.is_new(&at(10 * S - 5, Action::Oom)), "out of order");
        assert_eq!(cursor.since_ns(), Some(9 * S));
        for seen in [at(10 * S, Action::Kill), at(10 * S, Action::Die), at(10 * S - 5, Action::Oom)] {
            assert!(!cursor.is_new(&seen), "{seen:?}");
        }
        assert!(cursor.is_new(&at(20 * S, Action::Start)));
        assert_eq!(cursor.seen.len(), 1, "what no resumption can bring again is forgotten");
    }

    #[test]
    fn memory_stays_bounded_in_a_storm() {
        let mut cursor = EventCursor::default();
        for n in 0..10_000 {
            assert!(cursor.is_new(&at(n, Action::Die)));
        }
        assert_eq!(cursor.seen.len(), EventCursor::MEMORY);
        let since = cursor.since_ns().unwrap();
        for n in since..10_000 {
            assert!(!cursor.is_new(&at(n, Action::Die)), "{n} is at or after {since}");
        }
    }
}
