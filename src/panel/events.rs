//! Server-sent events: what every open page is told, in one order, with ids to resume from.
//!
//! Owned by the hub's thread. Each stream has a bounded queue that the gate empties; a stream that does not keep up is
//! dropped and comes back with its last id, so that it never slows the hub or another page.
//! The format is the one of the HTML standard, "Server-sent events".

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::warn;
use serde::Serialize;

use super::limit::LogLimit;

/// Streams open at the same time.
pub const MAX_STREAMS: usize = 256;
/// Events that wait for one stream. They are small (one node, server or command; 1 KiB is a large one).
const QUEUE: usize = 512;
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

#[derive(Default)]
pub struct Broadcast {
    epoch: u64,
    /// Number of the newest event; 0 before the first.
    newest: u64,
    /// The newest events, without a gap.
    ring: VecDeque<String>,
    ring_bytes: usize,
    streams: Vec<Sender<Vec<u8>>>,
    dropped: u64,
    log: LogLimit,
}

impl Broadcast {
    pub fn new(epoch: u64) -> Broadcast {
        Broadcast { epoch, ..Broadcast::default() }
    }

    /// Tells every stream, and keeps the event for those that are away.
    pub fn publish(&mut self, event: &str, data: &impl Serialize) {
        self.newest += 1;
        let id = EventId { epoch: self.epoch, number: self.newest };
        let frame = format!("id: {id}\nevent: {event}\ndata: {}\n\n", json(data));
        self.send(&frame);
        self.ring_bytes += frame.len();
        self.ring.push_back(frame);
        while self.ring_bytes > RING_BYTES
            && let Some(oldest) = self.ring.pop_front()
        {
            self.ring_bytes -= oldest.len();
        }
    }

    /// Tells every stream what is worth knowing now and stale soon, such as measurements: nothing is kept.
    pub fn publish_passing(&mut self, event: &str, data: &impl Serialize) {
        if !self.streams.is_empty() {
            self.send(&format!("event: {event}\ndata: {}\n\n", json(data)));
        }
    }

    /// Opens a stream that begins after `last` when everything since then is still here, and with `snapshot`, the
    /// whole state, when it is not. The receiver is disconnected when the stream was dropped or the Panel ends.
    pub fn subscribe<S: Serialize>(
        &mut self,
        last: Option<EventId>,
        snapshot: impl FnOnce() -> S,
    ) -> Result<Receiver<Vec<u8>>, TooMany> {
        if self.streams.len() >= MAX_STREAMS {
            // A sender learns only by sending that its page has left; a comment says nothing to those that have not.
            self.send(":\n\n");
        }
        if self.streams.len() >= MAX_STREAMS {
            return Err(TooMany);
        }
        let first = match self.since(last) {
            Some(missed) => format!("retry: 1000\n\n{missed}"),
            None => {
                let id = EventId { epoch: self.epoch, number: self.newest };
                format!("retry: 1000\nid: {id}\nevent: snapshot\ndata: {}\n\n", json(&snapshot()))
            }
        };
        let (to_stream, pieces) = bounded(QUEUE);
        let _ = to_stream.try_send(first.into_bytes()); // a new queue has room
        self.streams.push(to_stream);
        Ok(pieces)
    }

    pub fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    fn since(&self, last: Option<EventId>) -> Option<String> {
        let last = last.filter(|last| last.epoch == self.epoch)?;
        let missed = usize::try_from(self.newest.checked_sub(last.number)?).ok()?;
        let from = self.ring.len().checked_sub(missed)?;
        Some(self.ring.range(from..).map(String::as_str).collect())
    }

    fn send(&mut self, frame: &str) {
        let before = self.dropped;
        self.streams.retain(|stream| match stream.try_send(frame.as_bytes().to_vec()) {
            Ok(()) => true,
            Err(TrySendError::Disconnected(_)) => false,
            Err(TrySendError::Full(_)) => {
                self.dropped += 1;
                false
            }
        });
        if self.dropped > before && self.log.pass().is_some() {
            warn!("an event stream was dropped because its page does not keep up ({} in all)", self.dropped);
        }
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
    use super::*;

    fn drain(stream: &Receiver<Vec<u8>>) -> String {
        stream.try_iter().map(|piece| String::from_utf8(piece).unwrap()).collect()
    }

    fn last_id(text: &str) -> EventId {
        text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap().parse().unwrap()
    }

    #[test]
    fn a_stream_resumes_without_a_hole() {
        let mut broadcast = Broadcast::new(3);
        let stream = broadcast.subscribe(None, || "all").unwrap();
        broadcast.publish("server", &1);
        let seen = drain(&stream);
        assert_eq!(
            seen,
            "retry: 1000\nid: 3.0\nevent: snapshot\ndata: \"all\"\n\nid: 3.1\nevent: server\ndata: 1\n\n"
        );
        drop(stream);
        broadcast.publish("server", &2);
        broadcast.publish_passing("usage", &0);
        broadcast.publish("server", &3);
        let again = broadcast.subscribe(Some(last_id(&seen)), || unreachable!() as u8).unwrap();
        broadcast.publish("server", &4);
        let events = |text: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
        };
        assert_eq!(events(&drain(&again)), ["2", "3", "4"]);
    }

    #[test]
    fn what_cannot_be_resumed_begins_with_a_snapshot() {
        let mut broadcast = Broadcast::new(3);
        let big = "x".repeat(RING_BYTES / 3);
        (0..4).for_each(|_| broadcast.publish("server", &big));
        for stale in ["3.0", "3.1", "2.4", "3.5", "", "x", "3.-1"] {
            let stream = broadcast.subscribe(stale.parse().ok(), || "all").unwrap();
            assert!(drain(&stream).contains("snapshot"), "{stale}");
        }
        let stream = broadcast.subscribe("3.4".parse().ok(), || "all").unwrap();
        assert_eq!(drain(&stream), "retry: 1000\n\n");
    }

    #[test]
    fn a_stream_that_does_not_read_is_dropped_alone() {
        let mut broadcast = Broadcast::new(1);
        let slow = broadcast.subscribe(None, || 0).unwrap();
        for number in 0..QUEUE {
            let reading = broadcast.subscribe(None, || 0).unwrap();
            broadcast.publish("server", &number);
            assert!(drain(&reading).ends_with(&format!("data: {number}\n\n")));
        }
        assert_eq!(broadcast.dropped, 1);
        let received = slow.iter().count(); // ends, since the stream is disconnected
        assert_eq!(received, QUEUE);
    }

    #[test]
    fn streams_are_bounded_and_those_that_left_make_room() {
        let mut broadcast = Broadcast::new(1);
        let mut open: Vec<_> = (0..MAX_STREAMS).map(|_| broadcast.subscribe(None, || 0).unwrap()).collect();
        assert_eq!(broadcast.subscribe(None, || 0).err(), Some(TooMany));
        open.pop();
        assert!(broadcast.subscribe(None, || 0).is_ok());
    }
}
