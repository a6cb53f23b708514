//! The jobs of the workers: what a [`Job`] does to the Engine and to the disk. Runs on worker threads; holds no
//! state of its own beside the client. It only touches containers whose labels name this node and the server.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::blueprint;
use super::console::{self, Consoles, Inputs, Receipt, Target};
use super::facts::{Facts, LABEL_NODE, LABEL_SERVER};
use super::faults;
use super::files::{Desk, Trouble};
use super::machine::{Job, JobResult};
use super::mods::ModRecords;
use super::record::{Record, Records};
use crate::docker::{self, Client, Closer, Container, ContainerId, Error, Reference, RegistryAuth};
use crate::protocol::{Code, ConsoleReply, Fault, NodeId, Outcome, Reply, ServerId, Spec};

/// The Engine's sign of life must come within this on a new connection.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Docker's own limit is 127; a registry that names more must not make the Agent remember them.
const MAX_LAYERS: usize = 512;
/// Pull progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// One job with all that it needs.
#[derive(Clone, Debug)]
pub struct Order {
    pub server: ServerId,
    pub job: Job,
    pub spec: Arc<Spec>,
    /// The container as it is known, seen with our labels.
    pub container: Option<Facts>,
    /// What to store along with it.
    pub record: Option<Record>,
    /// Ends a pull early.
    pub closer: Closer,
    /// Names the command in log lines.
    pub label: String,
}

/// How far a pull is, in bytes over all layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullProgress {
    pub current: u64,
    pub total: u64,
}

/// The layers of a pull: the Engine tells of each alone.
#[derive(Default)]
struct Layers(BTreeMap<String, (u64, u64)>);

impl Layers {
    fn step(&mut self, step: &docker::PullProgress<'_>) {
        if step.layer.is_empty() || self.0.len() >= MAX_LAYERS {
            return;
        }
        let layer = self.0.entry(step.layer.to_owned()).or_default();
        match (step.current, step.total) {
            // Extracting counts the same bytes again, so it does not move the sum back.
            (Some(current), Some(total)) if step.status == "Downloading" => *layer = (current, total),
            (None, _) if matches!(step.status, "Download complete" | "Pull complete") => layer.0 = layer.1,
            _ => {}
        }
    }

    fn sum(&self) -> PullProgress {
        let sum = |part: fn(&(u64, u64)) -> u64| self.0.values().map(part).fold(0, u64::saturating_add);
        PullProgress { current: sum(|layer| layer.0), total: sum(|layer| layer.1) }
    }
}

/// What the jobs share.
pub struct Lifecycle {
    pub client: Client,
    pub node: NodeId,
    /// `DATA_DIR/servers`
    pub servers_dir: PathBuf,
    pub server_user: (u32, u32),
    /// Bytes of one server's output on disk.
    pub log_disk: u64,
    pub registry_auth_file: Option<PathBuf>,
    pub records: Records,
    pub consoles: Consoles,
    pub inputs: Inputs,
    pub desk: Desk,
    pub mod_records: ModRecords,
}

/// Why a job stopped half-way.
enum Stopped {
    Engine(Error),
    Told(Fault),
    ImageMissing,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Stopped {
        Stopped::Engine(error)
    }
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Stopped {
        Stopped::Told(fault)
    }
}

impl Lifecycle {
    /// Does one job. Takes as long as the Engine takes, at most the bounds of the client's calls. `None` when the
    /// thread of the server's input will say how it ended.
    pub fn perform(&self, order: &Order, tell: &dyn Fn(PullProgress)) -> Option<JobResult> {
        Some(match &order.job {
            Job::Create { keep_data } => self.create(order, *keep_data),
            Job::Pull => self.pull(order, tell),
            Job::Start => self.start(order),
            Job::Signal(signal) => self.signal(order, signal),
            Job::Kill => self.signal(order, "SIGKILL"),
            Job::Console(line) => return self.console(order, line),
            Job::Inspect => self.inspect(order),
            Job::Apply(spec) => self.apply(order, spec),
            Job::Store(_) | Job::Save => self.store(order),
            Job::Remove { data } => self.remove(order, *data),
            Job::Probe => match self.client.ping_fresh(PROBE_LIMIT) {
                Ok(_) => JobResult::Ok(None),
                Err(error) => self.failed(order, &error),
            },
        })
    }

    /// Sends a container SIGINT.
    pub fn interrupt(&self, server: &ServerId, container: &ContainerId) -> Outcome {
        match self.client.kill(container, "SIGINT") {
            Ok(()) => {
                let message = "Interrupt sent";
                Ok(Reply::Console(Box::new(ConsoleReply::Sent { server: None, message })))
            }
            Err(error) if error.is_conflict() || error.is_not_found() => Err(console::input::not_running()),
            Err(error) => {
                log::warn!("{server}: interrupt: {error}");
                Err(faults::of_engine(&error))
            }
        }
    }

    fn create(&self, order: &Order, keep_data: bool) -> JobResult {
        let fresh = match self.make_directory(order, keep_data) {
            Ok(fresh) => fresh,
            Err(fault) => return JobResult::Failed { fault, facts: None },
        };
        let made = self.make_container(order).map_err(|stopped| self.told(order, stopped));
        let result = match made {
            Ok(id) => self.look(&id, &order.server).map(Some).map_err(|e| self.failed(order, &e)),
            Err(result) => Err(result),
        };
        let result = match result {
            Ok(facts) => match self.save(order) {
                Ok(()) => return JobResult::Ok(facts),
                Err(fault) => {
                    if let Some(facts) = facts {
                        let _ = self.client.remove(&facts.id, true);
                    }
                    JobResult::Failed { fault, facts: None }
                }
            },
            Err(result) => result,
        };
        // Only what this job made, and only while it is empty.
        if fresh {
            let _ = fs::remove_dir(self.servers_dir.join(order.server.as_str()));
        }
        result
    }

    /// Makes the server's directory, owned by the server's user. True when it was not there.
    fn make_directory(&self, order: &Order, keep_data: bool) -> Result<bool, Fault> {
        let server = &order.server;
        let path = self.servers_dir.join(server.as_str());
        match fs::DirBuilder::new().mode(0o750).create(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let empty = fs::read_dir(&path).map_err(|e| self.disk_fault(server, &e))?.next().is_none();
                if !empty && !keep_data {
                    let text = "There are files of an earlier server with this id. Create it with keepData to use them.";
                    return Err(Fault::new(Code::FileExists, text));
                }
                return Ok(false);
            }
            Err(e) => return Err(self.disk_fault(server, &e)),
        }
        if let Err(fault) = self.desk.give(&order.label, server, &order.spec) {
            let _ = fs::remove_dir(&path);
            return Err(fault);
        }
        Ok(true)
    }

    fn disk_fault(&self, server: &ServerId, error: &io::Error) -> Fault {
        log::error!("{server}: the server's directory: {error}");
        Fault::new(
            Code::InsufficientResources,
            "The server's files could not be stored on this node. The node's owner finds the cause in the Agent's log.",
        )
    }

    fn make_container(&self, order: &Order) -> Result<ContainerId, Stopped> {
        let directory = self.servers_dir.join(order.server.as_str());
        let config = blueprint::container(
            &self.node,
            &order.server,
            &order.spec,
            &directory,
            self.server_user,
            self.log_disk,
        )?;
        let name = blueprint::container_name(&self.node, &order.server);
        let made = match self.client.create(&name, &config) {
            Err(error) if error.is_not_found() => return Err(Stopped::ImageMissing),
            Err(error) if error.is_conflict() => {
                // One of ours that was left over, or somebody else's: the labels tell.
                let found = self.client.inspect(&name)?;
                if !self.is_ours(&found, &order.server) {
                    let text = "A container that is not this server's has its name. Rename or remove that container.";
                    return Err(Fault::new(Code::Conflict, text).into());
                }
                if found.state.running {
                    let text = "A container of this server runs already. Look at the node's servers again in a moment.";
                    return Err(Fault::new(Code::Conflict, text).into());
                }
                self.remove_container(&found.id)?;
                self.client.create(&name, &config)?
            }
            result => result?,
        };
        for warning in &made.warnings {
            log::warn!("{}: {}: create: {warning}", order.label, order.server);
        }
        Ok(made.id)
    }

    fn is_ours(&self, container: &Container, server: &ServerId) -> bool {
        let label = |name| container.config.labels.get(name).map(String::as_str);
        label(LABEL_NODE) == Some(self.node.as_str()) && label(LABEL_SERVER) == Some(server.as_str())
    }

    /// Inspects a container of ours; one that is not is as good as not there.
    fn look(&self, id: &str, server: &ServerId) -> Result<Facts, Error> {
        let container = self.client.inspect(id)?;
        if self.is_ours(&container, server) {
            return Ok(Facts::from(&container));
        }
        Err(Error::Status { status: 404, message: "not a container of this server".into() })
    }

    fn pull(&self, order: &Order, tell: &dyn Fn(PullProgress)) -> JobResult {
        let image = &order.spec.image;
        log::info!("{}: {}: pulling {image}", order.label, order.server);
        let reference: Reference = match image.parse() {
            Ok(reference) => reference,
            Err(error) => return JobResult::Failed { fault: Fault::field("image", error), facts: None },
        };
        let auth = self.registry_auth(order, &reference);
        let (mut layers, mut told) = (Layers::default(), None::<Instant>);
        let mut progress = |step: &docker::PullProgress<'_>| {
            layers.step(step);
            if told.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
                told = Some(Instant::now());
                tell(layers.sum());
            }
        };
        match self.client.image_pull(&reference, auth.as_ref(), &mut progress, &order.closer) {
            Ok(_) => JobResult::Ok(None),
            Err(error) => {
                log::warn!("{}: {}: pulling {image}: {error}", order.label, order.server);
                JobResult::Failed { fault: faults::of_pull(&error), facts: None }
            }
        }
    }

    fn registry_auth(&self, order: &Order, reference: &Reference) -> Option<RegistryAuth> {
        let found = RegistryAuth::from_file(self.registry_auth_file.as_deref()?, &reference.registry);
        found.unwrap_or_else(|error| {
            log::warn!("{}: {}: pulling without a login: {error}", order.label, order.server);
            None
        })
    }

    fn start(&self, order: &Order) -> JobResult {
        if let Err(fault) = self.save(order) {
            return JobResult::Failed { fault, facts: order.container.clone() };
        }
        match self.started(order) {
            Ok(facts) => JobResult::Ok(Some(facts)),
            Err(Stopped::ImageMissing) => JobResult::ImageMissing,
            Err(stopped) => {
                let result = self.told(order, stopped);
                match result {
                    JobResult::Failed { fault, .. } => JobResult::Failed { fault, facts: self.found(order) },
                    other => other,
                }
            }
        }
    }

    fn started(&self, order: &Order) -> Result<Facts, Stopped> {
        let current = order.container.as_ref().filter(|c| c.spec_hash == order.spec.hash());
        let mut id = match current {
            Some(container) => container.id.clone(),
            None => self.replace(order)?,
        };
        match self.client.start(&id) {
            Err(error) if error.is_not_found() => {
                id = self.replace(order)?;
                self.client.start(&id)?;
            }
            Err(error) if error.is_not_modified() => {}
            result => result?,
        }
        Ok(self.look(&id, &order.server)?)
    }

    /// Makes the container anew. What is in the server's directory stays, and so does the old container while the
    /// new one's image is missing: it tells how the server ended, and an update back to its image still finds it.
    fn replace(&self, order: &Order) -> Result<ContainerId, Stopped> {
        match self.client.image_inspect(&order.spec.image) {
            Err(error) if error.is_not_found() => return Err(Stopped::ImageMissing),
            found => drop(found?),
        }
        self.make_directory(order, true)?;
        if let Some(old) = &order.container {
            self.remove_container(&old.id)?;
        }
        self.make_container(order)
    }

    fn signal(&self, order: &Order, signal: &str) -> JobResult {
        // A stop must work on a full disk too, so that a failure to store is told in the log only.
        let _ = self.save(order);
        let Some(container) = &order.container else { return JobResult::NotRunning };
        match self.client.kill(&container.id, signal) {
            Ok(()) => {
                self.note_signal(order);
                JobResult::Ok(None)
            }
            Err(error) if error.is_conflict() || error.is_not_found() => JobResult::NotRunning,
            Err(error) => self.failed(order, &error),
        }
    }

    /// Stores that the signal of a stop was sent, so that no later Agent sends it again.
    fn note_signal(&self, order: &Order) {
        let Some(mut record) = order.record.clone() else { return };
        let signal = record.supervision.stop.as_mut().and_then(|stop| stop.signal.take());
        if signal.is_some() {
            let _ = self.save(&Order { record: Some(record), ..order.clone() });
        }
    }

    fn console(&self, order: &Order, line: &str) -> Option<JobResult> {
        let _ = self.save(order);
        let Some(Facts { id, started_ns, .. }) = &order.container else { return Some(JobResult::NotRunning) };
        let target = Target { server: order.server.clone(), container: id.clone(), started_ns: *started_ns };
        match self.inputs.send(&target, format!("{line}\n").into_bytes(), Receipt::Job) {
            Ok(()) => None,
            Err(refused) => Some(JobResult::from(refused)),
        }
    }

    fn inspect(&self, order: &Order) -> JobResult {
        let name = blueprint::container_name(&self.node, &order.server);
        let id = order.container.as_ref().map_or(name.as_str(), |c| c.id.as_str());
        match self.look(id, &order.server) {
            Ok(facts) => JobResult::Ok(Some(facts)),
            Err(error) if error.is_not_found() => JobResult::NotRunning,
            Err(error) => self.failed(order, &error),
        }
    }

    /// [`Lifecycle::inspect`] after a failure, when Docker still answers.
    fn found(&self, order: &Order) -> Option<Facts> {
        match self.inspect(order) {
            JobResult::Ok(facts) => facts,
            _ => None,
        }
    }

    fn apply(&self, order: &Order, spec: &Spec) -> JobResult {
        let Some(container) = &order.container else { return self.store(order) };
        match self.client.update(&container.id, &blueprint::resources(&spec.limits)) {
            Ok(warnings) => {
                for warning in warnings {
                    log::warn!("{}: {}: update: {warning}", order.label, order.server);
                }
                self.store(order)
            }
            Err(error) => self.failed(order, &error),
        }
    }

    fn store(&self, order: &Order) -> JobResult {
        match self.save(order) {
            Ok(()) => JobResult::Ok(None),
            Err(fault) => JobResult::Failed { fault, facts: None },
        }
    }

    fn save(&self, order: &Order) -> Result<(), Fault> {
        let Some(record) = &order.record else { return Ok(()) };
        self.records.save(record).map_err(|error| {
            log::error!("{}: {}: storing its state: {error}", order.label, order.server);
            Fault::new(
                Code::InsufficientResources,
                "The Agent could not store this: its disk is full or read-only.",
            )
        })
    }

    fn remove(&self, order: &Order, data: bool) -> JobResult {
        let name = blueprint::container_name(&self.node, &order.server);
        let id = match &order.container {
            Some(container) => Some(container.id.clone()),
            None => match self.client.inspect(&name) {
                Ok(found) => self.is_ours(&found, &order.server).then_some(found.id),
                Err(error) if error.is_not_found() => None,
                Err(error) => return self.failed(order, &error),
            },
        };
        if let Some(id) = id
            && let Err(error) = self.remove_container(&id)
        {
            return self.failed(order, &error);
        }
        // The record goes last: after a crash half-way the delete can be repeated.
        let removed = match data {
            true => self.desk.remove(&order.label, &order.server, &order.spec),
            false => Ok(()),
        };
        let removed = match removed {
            Err(Trouble::Told(fault)) => return JobResult::Failed { fault, facts: None },
            Err(Trouble::Io(error)) => Err(error),
            Ok(()) if data => self.mod_records.remove(&order.server),
            Ok(()) => Ok(()),
        };
        match removed.and_then(|()| self.records.remove(&order.server)) {
            Ok(()) => JobResult::Ok(None),
            Err(error) => JobResult::Failed { fault: self.disk_fault(&order.server, &error), facts: None },
        }
    }

    /// Removes a container that was seen with our labels, running or not. One that is gone already is no error.
    fn remove_container(&self, id: &str) -> Result<(), Error> {
        match self.client.remove(id, true) {
            Err(error) if error.is_not_found() || error.is_removal_in_progress() => Ok(()),
            result => result,
        }
    }

    fn told(&self, order: &Order, stopped: Stopped) -> JobResult {
        match stopped {
            Stopped::Engine(error) => self.failed(order, &error),
            Stopped::Told(fault) => JobResult::Failed { fault, facts: None },
            Stopped::ImageMissing => JobResult::ImageMissing,
        }
    }

    /// The full cause goes to the log under the command's id, the Panel gets a sentence.
    fn failed(&self, order: &Order, error: &Error) -> JobResult {
        log::warn!("{}: {}: {}: {error}", order.label, order.server, order.job.name());
        JobResult::Failed { fault: faults::of_engine(error), facts: None }
    }
}
