//! What goes into the outbox and what it says back.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use crate::link::Text;

/// The longest message in bytes. Whoever has more to say shortens it.
pub const MAX_MESSAGE: usize = 2 << 20;

/// How many bytes may wait, the texts plus [`ENTRY_COST`] for each entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Over this the oldest droppable control entries go.
    pub control: usize,
    /// Over this a control entry is refused, after everything droppable and everything already written went.
    pub control_hard: usize,
    /// Over this a bulk message is refused. What the Panel has read counts until its pong has come, so there is room for
    /// several messages on their way at once; whoever makes them asks for [`super::Outbox::bulk_room`] before.
    pub bulk: usize,
}

/// What an entry counts beside its texts, so that many tiny ones are bounded too.
pub const ENTRY_COST: usize = 64;

/// A control entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Written on the current connection, in this order. With none the entry counts as written on it.
    pub now: Vec<Text>,
    /// Written on each later connection until it is delivered. Without it the entry ends with its connection.
    pub kept: Option<Text>,
    /// May be dropped when the lane is full.
    pub droppable: bool,
    /// Given back by [`super::Outbox::begin`] when the entry is written again. Entries with the same tag are the same
    /// message: however often it was written on one connection, it is written again once.
    pub tag: Option<T>,
    /// Names what is kept of it elsewhere, over restarts; given to [`super::Outbox::on_gone`] when it need not be any more.
    pub number: Option<u64>,
    /// What a peer that acknowledges events names it by.
    pub stamp: Option<Stamp>,
    /// A later entry of the same topic tells all that this one does of the present.
    pub topic: Option<Arc<str>>,
}

/// An event's name: its number within the boot that it was made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    pub boot: Arc<str>,
    pub seq: u64,
}

/// What can name an entry.
pub trait Tag: Clone + Eq + Hash {}

impl<T: Clone + Eq + Hash> Tag for T {}

/// The data lane: asked for one message at a time, when nothing of the control lane waits.
pub trait Source: Send {
    /// The next message, at most `max_bytes` long, or `None` when there is nothing. Whoever makes new data
    /// available calls [`super::Outbox::wake`] after it. Called on the write thread: it must not block, and must not call
    /// the outbox.
    fn next(&mut self, max_bytes: usize) -> Option<String>;

    /// When to ask again although nobody wakes the outbox, after there was nothing: for what waits for its time.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// A ping with this number was written behind everything that was given out until now. Numbers grow over all
    /// connections.
    fn pinged(&mut self, _number: u64) {}

    /// That ping was answered, so everything given out before it has arrived. Called on the read thread.
    fn ponged(&mut self, _number: u64) {}
}

/// A data lane that is always empty.
#[derive(Debug, Clone, Copy)]
pub struct NoSource;

impl Source for NoSource {
    fn next(&mut self, _max_bytes: usize) -> Option<String> {
        None
    }
}

/// What was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops {
    pub messages: u64,
    /// Of their texts.
    pub bytes: u64,
}

/// How a connection starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin<T> {
    /// The tags of the entries that will be written from the start, in order.
    pub resent: Vec<T>,
    /// What ended with the connection before, or was pushed between the two, without a `kept` text.
    pub dropped: Drops,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// One text is longer than [`MAX_MESSAGE`].
    TooLong { bytes: usize },
    /// The lane is full. The control entry is counted as dropped; a bulk message may be tried again.
    Full,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { control: 4 << 20, control_hard: 8 << 20, bulk: 8 << 20 }
    }
}

impl<T> Default for Entry<T> {
    /// Says nothing.
    fn default() -> Entry<T> {
        Entry {
            now: Vec::new(),
            kept: None,
            droppable: false,
            tag: None,
            number: None,
            stamp: None,
            topic: None,
        }
    }
}

impl<T> Entry<T> {
    /// A text for this connection only.
    pub fn now(text: impl Into<Text>) -> Entry<T> {
        Entry { now: vec![text.into()], ..Entry::default() }
    }

    /// The same text for this connection and, until it is delivered, for later ones. It is stored once.
    pub fn kept(text: impl Into<Text>) -> Entry<T> {
        let text = text.into();
        Entry { now: vec![text.clone()], kept: Some(text), ..Entry::default() }
    }

    pub fn droppable(self) -> Entry<T> {
        Entry { droppable: true, ..self }
    }

    pub fn tagged(self, tag: T) -> Entry<T> {
        Entry { tag: Some(tag), ..self }
    }
}

impl Drops {
    pub(super) fn one(bytes: usize) -> Drops {
        Drops { messages: 1, bytes: bytes as u64 }
    }
}

impl std::ops::AddAssign for Drops {
    fn add_assign(&mut self, other: Drops) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::TooLong { bytes } => {
                write!(f, "message: {bytes} bytes are over the limit of {MAX_MESSAGE}")
            }
            Refused::Full => f.write_str("message: its lane is full"),
        }
    }
}

impl std::error::Error for Refused {}
