//! The link to the Panel over its lifetimes: waiting, dialling, up, ending. Owned by the agent loop, which is told
//! of each step by an [`Event`] and never waits for one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use super::config::SecretSource;
use super::event::Event;
use super::voice::AgentOutbox;
use crate::link::dial::Phase;
use crate::link::{Backoff, Cause, Connection, DialError, Dialer, Duplex, Ended, Inbound, Setback, Threads};
use crate::protocol::{Decoder, Skip};

/// Close codes of the contract: a newer connection of this node took over, or the node was revoked.
const REPLACED: u16 = 4001;
const REVOKED: u16 = 4003;
/// The longest that one message may take: several times what a Panel may take to accept it.
const STUCK: Duration = Duration::from_secs(300);
/// A log line for a fault of the Panel's at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// See the module's description.
pub struct PanelLink {
    dialer: Arc<Dialer>,
    secret: SecretSource,
    decoder: Decoder,
    outbox: Arc<AgentOutbox>,
    /// Messages of the Panel; bounded at one, so that a flood waits in the kernel.
    messages_tx: Sender<Event>,
    events_tx: Sender<Event>,
    backoff: Backoff,
    generation: u64,
    state: State,
    /// How often a connection or a dial ended, by its cause in a word.
    setbacks: BTreeMap<&'static str, u64>,
    /// Why the last connection or dial ended, for /health and the log.
    trouble: Option<String>,
}

enum State {
    Waiting {
        until: Instant,
    },
    Dialing(JoinHandle<()>),
    Up {
        duplex: Duplex,
        since: Instant,
    },
    /// One half has ended; the other is to tell so too.
    Ending {
        duplex: Duplex,
        since: Instant,
    },
    /// Nothing is dialled any more.
    Over,
}

impl PanelLink {
    /// Nothing is dialled before `first_dial` or [`PanelLink::release`].
    pub fn new(
        dialer: Dialer,
        secret: SecretSource,
        decoder: Decoder,
        outbox: Arc<AgentOutbox>,
        messages_tx: Sender<Event>,
        events_tx: Sender<Event>,
        first_dial: Instant,
    ) -> PanelLink {
        PanelLink {
            dialer: Arc::new(dialer),
            secret,
            decoder,
            outbox,
            messages_tx,
            events_tx,
            backoff: Backoff::new(seed()),
            generation: 0,
            state: State::Waiting { until: first_dial },
            setbacks: BTreeMap::new(),
            trouble: None,
        }
    }

    /// Makes a first dial that waits due now; later ones keep to their backoff.
    pub fn release(&mut self, now: Instant) {
        if let (State::Waiting { until }, 0, None) = (&mut self.state, self.generation, &self.trouble) {
            *until = now;
        }
    }

    /// When [`PanelLink::dial`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            _ => None,
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Whether there is a connection, even one that is ending.
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Up { .. } | State::Ending { .. })
    }

    /// Number of the current connection, or of the last one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The name of a thread of the connection that has been at one message for longer than any takes.
    pub fn stuck(&self) -> Option<String> {
        match &self.state {
            State::Up { duplex, .. } | State::Ending { duplex, .. } => {
                duplex.busy().into_iter().find(|(_, busy)| *busy > STUCK).map(|(name, _)| name.to_owned())
            }
            _ => None,
        }
    }

    /// How often a connection or a dial ended, by cause. The words are few and fixed.
    pub fn setbacks(&self) -> &BTreeMap<&'static str, u64> {
        &self.setbacks
    }

    /// Starts a dial when its time has come. The secret is read now, so that a changed one is used.
    pub fn dial(&mut self, now: Instant) {
        let State::Waiting { until } = self.state else { return };
        if now < until {
            return;
        }
        let secret = match self.secret.read() {
            Ok(secret) => secret,
            Err(bad) => {
                return self.failed(
                    "secret",
                    format!("the secret cannot be read: {bad}"),
                    Setback::Failed { retry_after: None },
                    now,
                );
            }
        };
        let (dialer, events_tx) = (self.dialer.clone(), self.events_tx.clone());
        let builder = thread::Builder::new().name("panel-dial".into()).stack_size(256 << 10);
        let spawned = builder.spawn(move || {
            let _ = events_tx.send(Event::Dialed(Box::new(dialer.dial(&secret))));
        });
        match spawned {
            Ok(thread) => self.state = State::Dialing(thread),
            Err(e) => self.failed(
                "thread",
                format!("no thread to dial with: {e}"),
                Setback::Failed { retry_after: None },
                now,
            ),
        }
    }

    /// Takes a dial's result. With a connection it gives its generation: the caller begins the outbox with it and
    /// then calls [`PanelLink::start`].
    pub fn dialed(
        &mut self,
        result: Result<Connection, DialError>,
        now: Instant,
    ) -> Option<(u64, Connection)> {
        match std::mem::replace(&mut self.state, State::Waiting { until: now }) {
            // It sent its result as its last act.
            State::Dialing(thread) => drop(thread.join()),
            other => {
                self.state = other;
                return None;
            }
        }
        match result {
            Ok(connection) => {
                self.generation += 1;
                self.warn_of_clock(connection.server_date());
                Some((self.generation, connection))
            }
            Err(error) => {
                let setback = error.setback();
                self.failed(word_of_dial(&error), error.to_string(), setback, now);
                None
            }
        }
    }

    /// Starts the threads of a connection whose outbox has begun.
    pub fn start(&mut self, connection: Connection, now: Instant) {
        let (generation, peer) = (self.generation, connection.peer());
        let mut ear = Ear {
            generation,
            decoder: self.decoder.clone(),
            messages_tx: self.messages_tx.clone(),
            skipped: 0,
            complained: None,
        };
        let events_tx = self.events_tx.clone();
        let started = Duplex::start(
            connection,
            generation,
            self.outbox.clone(),
            Threads::default(),
            move |inbound| ear.hear(inbound),
            // A loop that has ended needs to be told nothing.
            move |ended| drop(events_tx.send(Event::LinkEnded(ended))),
        );
        match started {
            Ok(duplex) => {
                log::info!("link {generation}: connected to {peer}");
                self.trouble = None;
                self.state = State::Up { duplex, since: now };
            }
            Err(e) => {
                self.outbox.end(generation);
                self.failed(
                    "thread",
                    format!("no thread for the link: {e}"),
                    Setback::Failed { retry_after: None },
                    now,
                );
            }
        }
    }

    /// A half has ended. True when the connection is over now, with both halves.
    pub fn ended(&mut self, ended: &Ended, now: Instant) -> bool {
        if ended.generation != self.generation {
            return false;
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Up { duplex, since } => {
                self.outbox.end(ended.generation);
                self.state = State::Ending { duplex, since };
                false
            }
            State::Ending { mut duplex, since } => {
                // Both have told their end as their last act, so this does not wait.
                if let Err(stuck) = duplex.join(now + Duration::from_secs(1)) {
                    log::error!("link: {stuck}");
                }
                let setback = match ended.cause {
                    Cause::Closed { code: REPLACED | REVOKED, .. } => Setback::Unwelcome,
                    _ => Setback::Lost { held: now.saturating_duration_since(since) },
                };
                self.failed(word_of_end(&ended.cause), ended.cause.to_string(), setback, now);
                true
            }
            other => {
                self.state = other;
                false
            }
        }
    }

    fn failed(&mut self, cause: &'static str, trouble: String, setback: Setback, now: Instant) {
        *self.setbacks.entry(cause).or_default() += 1;
        let wait = self.backoff.wait_after(setback, now);
        log::warn!("link: {trouble}; next dial in {:.1} s", wait.as_secs_f64());
        self.trouble = Some(trouble);
        self.state = State::Waiting { until: now + wait };
    }

    fn warn_of_clock(&self, date: Option<SystemTime>) {
        let Some(date) = date else { return };
        let now = SystemTime::now();
        let offset = now.duration_since(date).unwrap_or_else(|e| e.duration());
        if offset > Duration::from_secs(30) {
            log::warn!("link: this node's clock and the Panel's differ by {} s", offset.as_secs());
        }
    }

    /// Cuts the connection, and ends dialling for good.
    ///
    /// Gives the names of threads that did not end in time.
    pub fn finish(self, deadline: Instant) -> Vec<String> {
        match self.state {
            State::Up { mut duplex, .. } | State::Ending { mut duplex, .. } => {
                duplex.kill();
                match duplex.join(deadline) {
                    Ok(_) => Vec::new(),
                    Err(stuck) => stuck.0.into_iter().map(str::to_owned).collect(),
                }
            }
            // A dial has its own bounds and touches nothing of ours; it is left to end with the process.
            State::Dialing(_) | State::Waiting { .. } | State::Over => Vec::new(),
        }
    }
}

/// What the reader thread does with a message: decodes it and hands it to the loop. What cannot be answered is
/// counted and told in the log now and then, since the Panel could fill the disk with it.
struct Ear {
    generation: u64,
    decoder: Decoder,
    messages_tx: Sender<Event>,
    skipped: u64,
    complained: Option<Instant>,
}

impl Ear {
    fn hear(&mut self, inbound: Inbound) {
        let decoded = match &inbound {
            Inbound::Text(text) => self.decoder.message(text),
            Inbound::Binary(_) => Err(Skip::Binary),
        };
        drop(inbound);
        let message = match decoded {
            Ok(message) => Box::new(message),
            Err(skip) => return self.complain(&skip),
        };
        // Waits while the loop is busy: a flood is held back by TCP. A loop that has gone ends the connection too.
        let _ = self.messages_tx.send(Event::Panel { generation: self.generation, message });
    }

    fn complain(&mut self, skip: &Skip) {
        self.skipped += 1;
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            log::warn!(
                "link {}: {} messages skipped so far, this one: {skip}",
                self.generation,
                self.skipped
            );
        }
    }
}

fn word_of_end(cause: &Cause) -> &'static str {
    match cause {
        Cause::Closed { code: REPLACED, .. } => "replaced",
        Cause::Closed { code: REVOKED, .. } => "revoked",
        Cause::Closed { .. } => "closed",
        Cause::ClosedByUs => "closed_by_us",
        Cause::Silent => "silent",
        Cause::TooBig => "too_big",
        Cause::Protocol(_) => "protocol",
        Cause::Reset(_) => "reset",
        Cause::WriteStalled => "stalled",
        Cause::Killed => "killed",
        Cause::Panicked => "panicked",
    }
}

fn word_of_dial(error: &DialError) -> &'static str {
    match error.phase() {
        _ if error.refusal().is_some() => "refused",
        Phase::Dns => "dns",
        Phase::Connect => "connect",
        Phase::Proxy => "proxy",
        Phase::Tls => "tls",
        Phase::Upgrade => "upgrade",
    }
}

/// Differs between nodes and starts.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
