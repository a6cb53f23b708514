//! The `docker-events` thread: follows the Engine's events about this node's containers, and after every gap looks
//! at all of them again, so that the agent loop's state is Docker's. Owns the stream; never changes anything.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::{Arc, Mutex, PoisonError};

use super::crew::Crew;
use super::event::Event;
use crate::docker::{Action, Client, Closer, ContainerEvent, Error, EventCursor, EventQuery};
use crate::protocol::{NodeId, ServerId, Spec};
use crate::server::facts::{LABEL_DEFINITION, LABEL_NODE, LABEL_SERVER};
use crate::server::{Died, Facts, Input};

/// Wait between two attempts to reach an Engine that is away: doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);
/// An Engine whose stream broke must give a sign of life within this to count as one that is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// The actions that matter here. Without the filter, health checks would flood the stream with `exec_*`.
const ACTIONS: [&str; 5] = ["start", "die", "kill", "oom", "destroy"];

/// What the thread tells the loop.
#[derive(Debug)]
pub enum EngineEvent {
    /// The Engine cannot be asked.
    Lost { cause: String },
    /// Only the stream of events broke, as behind a proxy with a time limit; what there is follows soon.
    Missed { cause: String },
    /// It can be asked (again), and this is what there is.
    Found { version: String, api_version: String, containers: Vec<Seen> },
    /// Something happened to a container of ours.
    Container { server: ServerId, input: Input },
}

/// A container with this node's labels.
#[derive(Debug)]
pub struct Seen {
    pub server: ServerId,
    pub facts: Facts,
    /// From its label, where that can be read.
    pub spec: Option<Spec>,
}

/// The loop's handle: what is known of the Engine, and the means to have it looked at again.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    stop_tx: Option<Sender<()>>,
    /// Engine and API version while it can be asked.
    known: Option<(String, String)>,
    /// The last known version, for telling it while the Engine is away.
    version: Option<String>,
}

/// The closer of the current stream. Behind a lock because the loop ends the stream that the thread opens.
#[derive(Debug, Default)]
struct Shared {
    closer: Mutex<Closer>,
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        client: Client,
        node: NodeId,
        events_tx: Sender<Event>,
        crew: &mut Crew,
    ) -> std::io::Result<Engine> {
        let (stop_tx, stop_rx) = bounded(0);
        let shared = Arc::new(Shared::default());
        let follower = Follower {
            client,
            node,
            events_tx,
            stop_rx,
            shared: shared.clone(),
            cursor: EventCursor::default(),
            lost: false,
        };
        crew.spawn("docker-events", 512 << 10, move || follower.run())?;
        Ok(Engine { shared, stop_tx: Some(stop_tx), known: None, version: None })
    }

    /// The Engine may have gone: the stream is made anew and everything is looked at again.
    pub fn doubt(&self) {
        self.shared.closer().close();
    }

    /// Ends the thread.
    pub fn stop(&mut self) {
        self.stop_tx = None;
        self.shared.closer().close();
    }

    pub fn found(&mut self, version: String, api_version: String) {
        self.version = Some(version.clone());
        self.known = Some((version, api_version));
    }

    pub fn lost(&mut self) {
        self.known = None;
    }

    pub fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// Engine and API version, while the Engine answers.
    pub fn known_version(&self) -> Option<(&str, &str)> {
        self.known.as_ref().map(|(version, api)| (version.as_str(), api.as_str()))
    }

    /// The Engine's version as last heard.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }
}

impl Shared {
    fn closer(&self) -> Closer {
        self.closer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new closer for the next stream.
    fn renew(&self) -> Closer {
        let mut closer = self.closer.lock().unwrap_or_else(PoisonError::into_inner);
        *closer = Closer::new();
        closer.clone()
    }
}

/// The thread's side.
struct Follower {
    client: Client,
    node: NodeId,
    events_tx: Sender<Event>,
    stop_rx: Receiver<()>,
    shared: Arc<Shared>,
    /// Where the stream goes on after a gap, without an event twice.
    cursor: EventCursor,
    /// Whether the loop was told that the Engine is away.
    lost: bool,
}

/// The loop is gone; so is the thread's reason to be.
struct LoopGone;

impl Follower {
    fn run(mut self) {
        let mut wait = RETRY_FIRST;
        loop {
            let closer = self.shared.renew();
            let (followed, result) = self.follow(&closer);
            let Ok(error) = result else { return };
            if followed {
                wait = RETRY_FIRST;
            }
            if self.is_stopped() {
                return;
            }
            // What was ended from here says nothing about the Engine: it is asked again at once.
            if matches!(error, Error::Cancelled) {
                continue;
            }
            let cause = error.to_string();
            let told = match followed && self.client.ping_fresh(SIGN_OF_LIFE).is_ok() {
                true => self.tell(EngineEvent::Missed { cause }),
                false if !std::mem::replace(&mut self.lost, true) => self.tell(EngineEvent::Lost { cause }),
                false => Ok(()),
            };
            if told.is_err() {
                return;
            }
            match self.stop_rx.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => wait = (wait * 2).min(RETRY_CAP),
                _ => return,
            }
        }
    }

    fn is_stopped(&self) -> bool {
        matches!(self.stop_rx.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }

    fn tell(&self, event: EngineEvent) -> Result<(), LoopGone> {
        self.events_tx.send(Event::Engine(event)).map_err(|_| LoopGone)
    }

    /// Subscribes, looks at all containers, then passes on what happens. Gives why it ended, and whether the Engine
    /// answered at all. Subscribing comes first, so that nothing happens unseen between the two; an event from
    /// before the look is told apart by its time.
    fn follow(&mut self, closer: &Closer) -> (bool, Result<Error, LoopGone>) {
        let label = format!("{LABEL_NODE}={}", self.node);
        let query = EventQuery { since_ns: self.cursor.since_ns(), labels: &[&label], actions: &ACTIONS };
        let mut events = match self.client.events(&query, closer) {
            Ok(events) => events,
            Err(error) => return (false, Ok(error)),
        };
        let found = match self.look(&label) {
            Ok(found) => found,
            Err(error) => return (false, Ok(error)),
        };
        self.lost = false;
        if self.tell(found).is_err() {
            return (true, Err(LoopGone));
        }
        loop {
            match events.next() {
                Ok(event) => {
                    if !self.cursor.is_new(&event) {
                        continue;
                    }
                    if let Some((server, input)) = self.translate(&event)
                        && self.tell(EngineEvent::Container { server, input }).is_err()
                    {
                        return (true, Err(LoopGone));
                    }
                }
                Err(error) => return (true, Ok(error)),
            }
        }
    }

    fn look(&self, label: &str) -> Result<EngineEvent, Error> {
        let version = self.client.version()?;
        let mut containers = Vec::new();
        for summary in self.client.list(&[label])? {
            let container = match self.client.inspect(&summary.id) {
                Ok(container) => container,
                // Removed between the two calls.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let labels = &container.config.labels;
            let Some(server) = labels.get(LABEL_SERVER).and_then(|id| id.parse().ok()) else { continue };
            if labels.get(LABEL_NODE).map(String::as_str) != Some(self.node.as_str()) {
                continue;
            }
            let spec = labels.get(LABEL_DEFINITION).and_then(|text| Spec::stored(text).ok());
            containers.push(Seen { server, facts: Facts::from(&container), spec });
        }
        Ok(EngineEvent::Found {
            version: version.version,
            api_version: version.api_version.to_string(),
            containers,
        })
    }

    fn translate(&self, event: &ContainerEvent) -> Option<(ServerId, Input)> {
        let server = event.attributes.get(LABEL_SERVER)?.parse().ok()?;
        let input = match event.action {
            Action::Start => Input::Started { at_ns: event.time_ns },
            Action::Die => Input::Died(Died { exit_code: event.exit_code?, at_ns: event.time_ns }),
            Action::Kill => Input::Signalled { signal: event.signal? },
            Action::Oom => Input::OutOfMemory,
            Action::Destroy => Input::Destroyed { container: event.id.clone() },
            _ => return None,
        };
        Some((server, input))
    }
}
