//! What the Agent says: answers, events and heartbeats, each in the dialects that the Panel on the current
//! connection speaks, through the outbox that keeps them until they are delivered. Owned by the agent loop.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::config::Unasked;
use super::journal::Journal;
use super::journal::record::Said;
use super::tongues::Tongues;
use crate::link::{Drops, Entry, Outbox, Refused, Stamp, Text};
use crate::protocol::event::KnownServer;
use crate::protocol::outcome::{SystemInfo, SystemMetrics};
use crate::protocol::{
    self, Code, CommandKey, Dialect, Envelope, Event, Fault, NodeId, Outcome, Reply, legacy, unified,
};

use crate::server::console::Gap;

/// The outbox of the Agent: an answer is tagged with its command, so that its repeat is recognised.
pub type AgentOutbox = Outbox<CommandKey>;

/// See the module's description.
pub struct Voice {
    node: NodeId,
    boot_id: Arc<str>,
    unasked: Unasked,
    outbox: Arc<AgentOutbox>,
    /// Keeps what must not be lost with the process.
    journal: Journal,
    /// The same choice of dialects, for the streams of the data lane.
    tongues: Tongues,
    /// Number of the last control event.
    seq: u64,
    heard: Heard,
    /// Whether every state was told in the unified dialect on this connection.
    unified_complete: bool,
}

/// The dialects that the Panel has spoken on this connection.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    unified: bool,
    legacy: bool,
}

impl Voice {
    pub fn new(
        node: NodeId,
        boot_id: String,
        unasked: Unasked,
        outbox: Arc<AgentOutbox>,
        journal: Journal,
        tongues: Tongues,
    ) -> Voice {
        let (heard, boot_id) = (Heard::default(), boot_id.into());
        let voice = Voice {
            node,
            boot_id,
            unasked,
            outbox,
            journal,
            tongues,
            seq: 0,
            heard,
            unified_complete: false,
        };
        voice.outbox.on_gone({
            let journal = voice.journal.clone();
            move |numbers| journal.forget(numbers)
        });
        voice.share_tongues();
        voice
    }

    pub fn outbox(&self) -> &Arc<AgentOutbox> {
        &self.outbox
    }

    fn speaks_legacy(&self) -> bool {
        match self.unasked {
            Unasked::Auto => self.heard.legacy,
            Unasked::Legacy => true,
            Unasked::Unified => false,
        }
    }

    fn speaks_unified(&self) -> bool {
        match self.unasked {
            Unasked::Auto => self.heard.unified || !self.heard.legacy,
            Unasked::Unified => true,
            Unasked::Legacy => false,
        }
    }

    fn share_tongues(&self) {
        self.tongues.set(self.speaks_unified(), self.speaks_legacy());
    }

    /// A connection begins: `system_info`, what is undelivered, then who is here. Gives the commands whose answers
    /// are sent again.
    pub fn begin(
        &mut self,
        generation: u64,
        info: &SystemInfo,
        servers: Vec<KnownServer>,
    ) -> Vec<CommandKey> {
        self.heard = Heard::default();
        self.share_tongues();
        self.unified_complete = self.speaks_unified();
        let now = SystemTime::now();
        let begin = self.outbox.begin(generation, vec![legacy::encode_system_info(info, now)]);
        self.tell_drops(begin.dropped);
        self.emit(&Event::AgentConnected {
            version: crate::version::VERSION.into(),
            boot_id: self.boot_id.to_string(),
            capabilities: protocol::capabilities(),
            servers: servers.clone(),
        });
        if self.unasked == Unasked::Legacy {
            self.tell_states_in_legacy(&servers);
        }
        begin.resent
    }

    /// The Panel spoke `dialect`. When that is new on this connection, every server's state is told in it.
    pub fn heard(&mut self, dialect: Dialect, servers: impl FnOnce() -> Vec<KnownServer>) {
        if self.unasked != Unasked::Auto {
            return;
        }
        match dialect {
            Dialect::Unified if !self.heard.unified => {
                self.heard.unified = true;
                self.share_tongues();
                if !self.unified_complete {
                    self.unified_complete = true;
                    self.tell_states_in_unified(&servers());
                }
            }
            Dialect::Legacy if !self.heard.legacy => {
                self.heard.legacy = true;
                self.share_tongues();
                self.unified_complete &= self.heard.unified;
                self.tell_states_in_legacy(&servers());
            }
            _ => {}
        }
    }

    fn tell_states_in_legacy(&mut self, servers: &[KnownServer]) {
        let now = SystemTime::now();
        for server in servers {
            let text = legacy::encode_status(&server.server_id, server.status, now);
            self.push(Entry::now(text));
        }
    }

    fn tell_states_in_unified(&mut self, servers: &[KnownServer]) {
        for server in servers {
            let state = Event::ServerStatusChanged(protocol::event::StatusChange {
                server_id: server.server_id.clone(),
                previous_status: server.status,
                current_status: server.status,
                reason: None,
                exit_code: server.exit_code,
                oom_killed: None,
                pid: None,
                command_id: None,
            });
            self.say(&state, false);
        }
    }

    /// Says again what an Agent before this one has said and the Panel may not have heard.
    pub fn restore(&mut self, event: Said) {
        let Said { number, boot, seq, server, text, .. } = event;
        let (stamp, topic) = (Some(Stamp { boot: boot.into(), seq }), server.map(Into::into));
        let entry = Entry { number: Some(number), stamp, topic, ..Entry::kept(text).droppable() };
        self.push(entry);
    }

    /// Messages that were lost before they came here; the Panel is told how many.
    pub fn lose(&self, drops: Drops) {
        self.outbox.lose(drops);
    }

    /// Answers a command of the link. `at` is when its outcome was known, so that a repeated answer is the same text;
    /// `number` what the journal calls the answer.
    pub fn answer(
        &mut self,
        envelope: &Envelope,
        key: Option<CommandKey>,
        outcome: &Outcome,
        at: SystemTime,
        number: Option<u64>,
    ) {
        let Some(text) = protocol::encode_outcome(envelope, outcome, at) else { return };
        let content = matches!(outcome, Ok(Reply::File(reply)) if reply.content.is_some());
        let pushed = match content {
            true => self.outbox.push_bulk(text, key),
            false => self.outbox.push(Entry { tag: key, number, ..Entry::kept(text) }),
        };
        let fault = match pushed {
            Err(Refused::TooLong { bytes }) => {
                self.journal.forget(number.into_iter().collect());
                log::error!("an answer of {bytes} bytes is over what one message may hold");
                Fault::new(Code::TooLarge, "The answer is larger than one message may be.")
            }
            Err(Refused::Full) if content => {
                let text = "Too many files are on their way already. Try again when some have arrived.";
                Fault::new(Code::Busy, text)
            }
            // Counted by the outbox and told with the next heartbeat.
            Err(Refused::Full) | Ok(()) => return,
        };
        if let Some(text) = protocol::encode_outcome(envelope, &Err(fault), at) {
            self.push(Entry::kept(text));
        }
    }

    /// Bytes of files' contents that the link would still take.
    pub fn bulk_room(&self) -> usize {
        self.outbox.bulk_room()
    }

    /// Answers a unified `ping`. A pong that is late is worth nothing, so it is not kept.
    pub fn pong(&mut self, id: Option<&str>, healthy: bool, metrics: &SystemMetrics) {
        let text = unified::encode_pong(id, healthy, metrics, SystemTime::now());
        self.push(Entry::now(text));
    }

    /// Says a control event, with the next `seq`.
    pub fn emit(&mut self, event: &Event) {
        self.say(event, true);
    }

    /// Tells a change that a legacy reply tells too: such a reply is the status message, and there is no second one.
    pub fn emit_beside_legacy_reply(&mut self, event: &Event) {
        self.say(event, false);
    }

    /// `in_legacy`: in that dialect too, where the Panel speaks it.
    fn say(&mut self, event: &Event, in_legacy: bool) {
        self.seq += 1;
        let at = SystemTime::now();
        // PROTOCOL=legacy means that the other form is never said, not on a later connection either.
        let unified = (self.unasked != Unasked::Legacy)
            .then(|| Text::from(unified::encode_event(event, self.seq, &self.boot_id, at)));
        let legacy = (in_legacy && self.speaks_legacy()).then(|| legacy::encode_event(event, at));
        let legacy = legacy.flatten().map(Text::from);
        let now = unified.iter().filter(|_| self.speaks_unified()).chain(&legacy).cloned().collect();
        // The legacy dialect has no word for some events.
        let Some(kept) = unified.or(legacy) else { return };
        let stamp = Some(Stamp { boot: self.boot_id.clone(), seq: self.seq });
        let topic = match event {
            Event::ServerStatusChanged(change) => Some(change.server_id.as_str()),
            _ => None,
        };
        // What else there is tells of this process or of work that ends with it.
        let number = matches!(event, Event::ServerStatusChanged(_) | Event::StreamGap { .. })
            .then(|| self.journal.said(&self.boot_id, self.seq, topic, &kept));
        let topic = topic.map(Into::into);
        self.push(Entry { now, kept: Some(kept), droppable: true, tag: None, number, stamp, topic });
    }

    /// The heartbeat, a ping with it, and word of what had to be dropped since the last.
    pub fn heartbeat(&mut self) {
        self.push(Entry::now(legacy::encode_heartbeat(&self.node, SystemTime::now())));
        self.outbox.ping();
        let drops = self.outbox.take_dropped();
        self.tell_drops(drops);
    }

    /// Lines of a server that could not be sent.
    pub fn tell_gap(&mut self, gap: Gap) {
        let Gap { server, lines, bytes, seqs } = gap;
        let server_id = Some(server);
        self.emit(&Event::StreamGap { server_id, stream: "console", lines, bytes, seqs: Some(seqs) });
    }

    fn tell_drops(&mut self, drops: Drops) {
        if drops.messages > 0 {
            log::warn!(
                "{} messages of {} bytes were dropped from a full outbox",
                drops.messages,
                drops.bytes
            );
            let (lines, bytes) = (drops.messages, drops.bytes);
            self.emit(&Event::StreamGap { server_id: None, stream: "control", lines, bytes, seqs: None });
        }
    }

    /// The last words: why no more will come, then Close 1001.
    pub fn end(&mut self, flush: Duration) {
        self.emit(&Event::AgentStopping);
        self.outbox.close(1001, "agent stopping", flush);
    }

    /// The Panel has taken in the events up to this one.
    pub fn acknowledged(&self, generation: u64, boot_id: &str, seq: u64) {
        self.outbox.acknowledged(generation, boot_id, seq);
    }

    fn push(&self, entry: Entry<CommandKey>) {
        // Full is counted by the outbox and told with the next heartbeat; too long cannot be, all these are short.
        if let Err(Refused::TooLong { bytes }) = self.outbox.push(entry) {
            log::error!("a message of {bytes} bytes is over what one message may hold and was not sent");
        }
    }
}
