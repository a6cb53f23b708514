//! What an Agent without root may not do itself: give files to a server's user, touch what a container's root made. A
//! container that lives for one question does it, from an image of the Agent's own static executable, as root over that
//! one server's directory, without a network and with no more capabilities than that takes. It runs the same code as the
//! Agent, beneath the same kind of root.
//!
//! Both sides are here: [`Helper`] asks, on the thread of whoever needs it; [`serve`] is the program in the container.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use cap_std::fs::Dir;
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use serde::{Deserialize, Serialize};

use super::{Owner, Quota, Root, Stop, Trouble, perform, tree};
use crate::docker::{Client, Closer, ContainerConfig, Error, HostConfig, LogConfig, Mount, Resources};
use crate::protocol::spec::Rules;
use crate::protocol::{
    Action, Code, Command, Decoder, Fault, FileAction, FileReply, NodeId, ServerAction, ServerId, panel_side,
};
use crate::server::stats::Disks;

/// The word on the command line of the program in the container.
pub const WORD: &str = "beneath";
/// On the image and on every container.
const LABEL: &str = "longshore.helper";
const IMAGE: &str = "longshore/helper";
/// Where the program and the server's directory are in the container.
const PROGRAM: &str = "longshore-agent";
const DIRECTORY: &str = "/server";
/// No tree is as large as this takes; a disk that hangs must not hold a thread for ever.
const LIMIT: Duration = Duration::from_secs(600);
/// 16 MiB as base64, and what is around it.
const MAX_ANSWER: usize = 24 << 20;
/// A use from which it can go down and up: what the other side counts is only the difference.
const BASE: u64 = 1 << 62;

/// Whoever asks.
#[derive(Debug)]
pub struct Helper {
    pub client: Client,
    pub node: NodeId,
    /// `DATA_DIR/servers`, as the Engine sees it.
    pub servers: PathBuf,
    /// The image's name once it is there.
    pub image: Mutex<Option<String>>,
}

/// What a container is to do.
#[derive(Debug, PartialEq)]
pub enum Work<'a> {
    /// An action, of which one answer carries so many bytes.
    Act(&'a FileAction, u64),
    /// Give the directory itself to its user.
    Give,
    /// Delete all that is in it.
    Empty,
}

/// A question, as one line of JSON; an action is a command of the unified dialect.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Question {
    command: Option<String>,
    give: bool,
    most: u64,
    /// `None` is whoever has the directory.
    owner: Option<(u32, u32)>,
    /// Bytes that may be taken; `None` is no limit.
    room: Option<u64>,
}

/// The answer.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Answer {
    message: String,
    reply: Option<FileReply>,
    fault: Option<(Code, String)>,
    /// Bytes taken less those given back.
    change: i64,
}

impl Helper {
    /// Has a container do something with a server's files.
    ///
    /// # Errors
    /// What the work itself says, or `PERMISSION_DENIED` when there can be no such container; the log has the cause.
    pub fn run(
        &self,
        label: &str,
        server: &ServerId,
        owner: Option<Owner>,
        quota: &Quota,
        work: &Work,
    ) -> Result<FileReply, Fault> {
        let (command, most) = match work {
            Work::Act(action, most) => {
                let action = Action::Server(server.clone(), ServerAction::File(Box::new((*action).clone())));
                (Some(panel_side::action("", None, &action, SystemTime::UNIX_EPOCH)), *most)
            }
            Work::Give | Work::Empty => (None, 0),
        };
        let question = Question {
            command,
            give: *work == Work::Give,
            most,
            owner: owner.map(|owner| (owner.uid, owner.gid)),
            room: quota.room(),
        };
        let answer = self.ask(server, &question).map_err(|cause| {
            log::warn!("{label}: {server}: without root this needs a container of its own: {cause}");
            Fault::new(
                Code::PermissionDenied,
                "The Agent may not do this to the server's files, and could not have it done either. Its log says why.",
            )
        })?;
        match u64::try_from(answer.change) {
            Ok(taken) => quota.retake(taken),
            Err(_) => quota.give_back(answer.change.unsigned_abs()),
        }
        match (answer.reply, answer.fault) {
            (_, Some((code, message))) => Err(Fault::new(code, message)),
            (reply, None) => Ok(FileReply { message: answer.message.into(), ..reply.unwrap_or_default() }),
        }
    }

    fn ask(&self, server: &ServerId, question: &Question) -> Result<Answer, String> {
        let name = super::temporary::unused_name().map_err(|e| e.to_string())?;
        let name = format!(
            "longshore-helper{}",
            name.to_string_lossy().trim_start_matches(super::temporary::PREFIX)
        );
        let made = match self.client.create(&name, &self.container(self.image()?, server)) {
            // Somebody has removed the image.
            Err(error) if error.is_not_found() => {
                *self.known_image() = None;
                self.client.create(&name, &self.container(self.image()?, server))
            }
            made => made,
        };
        let made = made.map_err(|e| format!("create: {e}"))?;
        let asked = self.exchange(&made.id, question);
        match self.client.remove(&made.id, true) {
            Err(error) if !error.is_not_found() && !error.is_removal_in_progress() => {
                log::warn!("{server}: {name} stays behind: {error}");
            }
            _ => {}
        }
        asked
    }

    fn exchange(&self, container: &str, question: &Question) -> Result<Answer, String> {
        let tell = |what: &str, error: Error| format!("{what}: {error}");
        let attached =
            self.client.attach_exchange(container, &Closer::new()).map_err(|e| tell("attach", e))?;
        self.client.start(container).map_err(|e| tell("start", e))?;
        let mut line = serde_json::to_vec(question).map_err(|e| e.to_string())?;
        line.push(b'\n');
        let said = attached.ask(&line, MAX_ANSWER, LIMIT).map_err(|e| tell("answer", e))?;
        serde_json::from_slice(&said.output)
            .map_err(|error| format!("answer: {error}; it said {:?}", String::from_utf8_lossy(&said.errors)))
    }

    fn container(&self, image: String, server: &ServerId) -> ContainerConfig {
        ContainerConfig {
            image,
            cmd: Some(vec![format!("/{PROGRAM}"), WORD.to_owned()]),
            labels: [(LABEL.to_owned(), self.node.to_string())].into(),
            user: Some("0:0".to_owned()),
            open_stdin: true,
            stdin_once: true,
            host_config: HostConfig {
                resources: Resources {
                    memory: Some(128 << 20),
                    memory_swap: Some(128 << 20),
                    pids_limit: Some(16),
                    ..Resources::default()
                },
                network_mode: Some("none".to_owned()),
                mounts: vec![Mount {
                    kind: "bind",
                    source: self.servers.join(server.as_str()).to_string_lossy().into_owned(),
                    target: DIRECTORY.to_owned(),
                    read_only: false,
                }],
                cap_drop: vec!["ALL".into()],
                cap_add: ["CHOWN", "DAC_OVERRIDE", "FOWNER"].map(str::to_owned).into(),
                security_opt: vec!["no-new-privileges".into()],
                readonly_rootfs: true,
                auto_remove: true,
                log_config: Some(LogConfig::none()),
                ..HostConfig::default()
            },
            ..ContainerConfig::default()
        }
    }

    /// The image of this very executable, imported when the Engine does not hold it.
    fn image(&self) -> Result<String, String> {
        // Held meanwhile, so that it is imported once.
        let mut known = self.known_image();
        if let Some(name) = &*known {
            return Ok(name.clone());
        }
        let program = std::fs::read("/proc/self/exe").map_err(|e| format!("the Agent's executable: {e}"))?;
        let sum = ring::digest::digest(&ring::digest::SHA256, &program);
        let tag: String = sum.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{IMAGE}:{tag}");
        match self.client.image_inspect(&name) {
            Err(error) if error.is_not_found() => {
                let archive = archive(&program).map_err(|e| format!("archive: {e}"))?;
                drop(program);
                let made = self.client.image_import(IMAGE, &tag, (LABEL, &tag), archive);
                made.map_err(|e| format!("import: {e}"))?;
                log::info!("{name} was made of the Agent's executable");
            }
            found => drop(found.map_err(|e| format!("image: {e}"))?),
        }
        *known = Some(name.clone());
        Ok(name)
    }

    fn known_image(&self) -> MutexGuard<'_, Option<String>> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One file, in an archive.
fn archive(program: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::with_capacity(program.len() + 4096));
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o555);
    archive.append_data(&mut header, PROGRAM, program)?;
    archive.into_inner()
}

/// The program in the container: one question from `input`, its answer to `output`.
///
/// # Errors
/// What keeps it from answering at all.
pub fn serve(input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    io::BufRead::read_until(&mut io::BufReader::new(input), b'\n', &mut line)?;
    let question: Question = serde_json::from_slice(&line)?;
    let answer = answer(question)?;
    serde_json::to_writer(&mut output, &answer)?;
    output.flush()
}

fn answer(question: Question) -> io::Result<Answer> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = File::from(openat(CWD, DIRECTORY, flags, Mode::empty())?);
    let stat = fstat(&directory)?;
    let (uid, gid) = question.owner.unwrap_or((stat.st_uid, stat.st_gid));
    let server: ServerId = "server".parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    let (disks, _) = Disks::new(PathBuf::new());
    disks.measured(&server, BASE);
    let limit = question.room.map(|room| BASE.saturating_add(room));
    let root = Root {
        dir: Dir::from_std_file(directory),
        owner: Owner { uid, gid },
        quota: Quota::new(disks.clone(), server.clone(), limit),
    };
    let done = work(&root, &question);
    let mut answer = Answer {
        change: disks.known(&server).unwrap_or(BASE).wrapping_sub(BASE).cast_signed(),
        ..Answer::default()
    };
    match done {
        Ok(reply) => (answer.message, answer.reply) = (reply.message.to_string(), Some(reply)),
        Err(trouble) => {
            let fault = trouble.fault();
            answer.fault = Some((fault.code, fault.message));
        }
    }
    Ok(answer)
}

fn work(root: &Root, question: &Question) -> Result<FileReply, Trouble> {
    if question.give {
        root.owner.give(&root.dir)?;
        return Ok(FileReply::default());
    }
    let Some(command) = &question.command else {
        tree::empty(super::place::readable(&root.dir)?, &root.quota, &Stop::default())?;
        return Ok(FileReply::default());
    };
    let node: NodeId = "node".parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // The form with the larger bound.
    match Decoder::new(node, Rules::default()).http(command.as_bytes()) {
        Ok(Ok(Command { action: Action::Server(_, ServerAction::File(action)), .. })) => {
            perform(root, &action, question.most, &Stop::default())
        }
        Ok(Err(rejected)) => Err(rejected.fault.into()),
        _ => Err(Trouble::told(Code::Internal, "This is no action on files.")),
    }
}
