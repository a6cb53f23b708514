//! What an Agent without root may not do itself: give files to a server's user, touch what a container's root made. A
//! container that lives for one errand does it, from an image of the Agent's own static executable, as root over that
//! one server's directory, without a network and with no more capabilities than that takes. It runs the same code as the
//! Agent, beneath the same kind of root.
//!
//! | module | holds |
//! |---|---|
//! | here | [`Helper`], which asks, on the thread of whoever needs it |
//! | [`image`] | what the container is made of |
//! | [`talk`] | what the two say to each other |
//! | [`serve`](mod@serve) | the program in the container |
//!
//! The container's input is its lease of life: it ends by itself, and undoes what is half done, as soon as that ends,
//! because the work was called off or because there is no Agent any more.

pub mod image;
pub mod serve;
pub mod talk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use self::talk::{Done, Line, Question, Refused, Word, Work};
use super::abort::{Abort, Aborted};
use super::files::{Owner, Quota, Trouble, temporary};
use super::mods::records::Mods;
use super::progress::Step;
use crate::docker::{Client, ContainerConfig, Error, Exchange, HostConfig, LogConfig, Mount, Resources};
use crate::protocol::{Code, NodeId, ServerId};

/// On the image and on every container, with the node's id.
const LABEL: &str = "longshore.helper";
/// Where the program, the server's directory and a download are in the container.
const PROGRAM: &str = "longshore-agent";
const DIRECTORY: &str = "/server";
const DOWNLOAD: &str = "/download";
/// Nothing that it does is silent for so long; a disk that hangs must not hold a thread for ever.
const SILENCE: Duration = Duration::from_secs(600);
/// Bytes of a line: what a server's record of mods may have, which is more than 16 MiB as base64.
const MAX_LINE: usize = 64 << 20;
/// Bytes of memory, of which a container without a large record of mods takes a few.
const MEMORY: u64 = 256 << 20;

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

/// For whom a container works, and what it may ask meanwhile.
pub struct Errand<'a> {
    pub server: &'a ServerId,
    /// `None` is whoever has the directory.
    pub owner: Option<Owner>,
    pub quota: &'a Quota,
    pub abort: &'a Abort,
    pub tell: &'a dyn Fn(Step),
    pub save: &'a dyn Fn(&Mods) -> io::Result<()>,
    /// A file of the Agent's own that it may read.
    pub download: Option<&'a Path>,
}

impl<'a> Errand<'a> {
    /// Of one that has nothing to tell.
    pub fn new(server: &'a ServerId, owner: Option<Owner>, quota: &'a Quota, abort: &'a Abort) -> Errand<'a> {
        let save: &dyn Fn(&Mods) -> io::Result<()> = &|_| Err(io::ErrorKind::Unsupported.into());
        Errand { server, owner, quota, abort, tell: &|_| {}, save, download: None }
    }
}

/// Why there is no answer.
enum Failed {
    Aborted,
    /// For the log.
    Cause(String),
}

impl From<Aborted> for Failed {
    fn from(Aborted: Aborted) -> Failed {
        Failed::Aborted
    }
}

impl From<String> for Failed {
    fn from(cause: String) -> Failed {
        Failed::Cause(cause)
    }
}

impl Helper {
    /// Has a container do some work.
    ///
    /// # Errors
    /// What the work itself says, with its cause; `INTERRUPTED` when it was called off before there was a container; or
    /// `PERMISSION_DENIED` when there can be none.
    pub fn run(&self, errand: &Errand, work: Work) -> Result<Done, Refused> {
        let quota = errand.quota;
        let owner = errand.owner.map(|owner| (owner.uid, owner.gid));
        let question = Question { owner, limited: quota.is_limited(), work };
        let mut lent = 0;
        let answer = self.ask(errand, &question, &mut lent);
        // What was lent and not taken goes back, and what was freed beside it.
        let change = answer.as_ref().map_or(0, |answer| answer.change);
        match u64::try_from(i128::from(change) - i128::from(lent)) {
            Ok(more) => quota.retake(more),
            Err(_) => quota.give_back(lent.saturating_add_signed(change.saturating_neg())),
        }
        match answer {
            Ok(answer) => answer.result,
            Err(Failed::Aborted) => Err(Trouble::from(Aborted).fault().into()),
            Err(Failed::Cause(cause)) => Err(Refused {
                code: Code::PermissionDenied,
                message:
                    "The Agent may not do this to the server's files, and could not have it done either. Its log says why."
                        .into(),
                cause: format!("without root this needs a container of its own: {cause}"),
            }),
        }
    }

    fn ask(&self, errand: &Errand, question: &Question, lent: &mut u64) -> Result<talk::Answer, Failed> {
        errand.abort.check()?;
        let name = temporary::unused_name().map_err(|e| e.to_string())?;
        let name =
            format!("longshore-helper{}", name.to_string_lossy().trim_start_matches(temporary::PREFIX));
        let create = || -> Result<_, Failed> { Ok(self.client.create(&name, &self.container(errand)?)) };
        let made = match create()? {
            // Somebody has removed the image.
            Err(error) if error.is_not_found() => {
                self.forget_image();
                create()?
            }
            made => made,
        };
        let made = made.map_err(|e| format!("create: {e}"))?;
        let asked = self.talk(&made.id, errand, question, lent);
        match self.client.remove(&made.id, true) {
            Err(error) if !error.is_not_found() && !error.is_removal_in_progress() => {
                log::warn!("{}: {name} stays behind: {error}", errand.server);
            }
            _ => {}
        }
        asked
    }

    /// The whole conversation, up to the answer and the container's end.
    fn talk(
        &self,
        container: &str,
        errand: &Errand,
        question: &Question,
        lent: &mut u64,
    ) -> Result<talk::Answer, Failed> {
        let failed = |what: &'static str| move |error: Error| format!("{what}: {error}");
        let mut exchange = self.client.attach_exchange(container).map_err(failed("attach"))?;
        errand.abort.watch(exchange.input_end())?;
        self.client.start(container).map_err(failed("start"))?;
        say(&mut exchange, question)?;
        let mut answer = None;
        while let Some(line) = exchange.hear(MAX_LINE, SILENCE).map_err(failed("answer"))? {
            let line: Line = serde_json::from_slice(&line).map_err(|e| format!("answer: {e}"))?;
            match line {
                Line::Step(step) => (errand.tell)(step),
                Line::Lend(bytes) => {
                    let more = errand.quota.lend(bytes);
                    *lent = lent.saturating_add(more);
                    say(&mut exchange, &Word::Lent(more))?;
                }
                Line::Save(mods) => {
                    let saved = (errand.save)(&mods).map_err(|error| {
                        log::error!("{}: the record of mods: {error}", errand.server);
                    });
                    say(&mut exchange, &Word::Saved(saved.is_ok()))?;
                }
                Line::Done(done) => answer = Some(*done),
            }
        }
        match answer {
            Some(answer) => Ok(answer),
            None if errand.abort.is_asked() => Err(Failed::Aborted),
            None => {
                let said = String::from_utf8_lossy(exchange.errors());
                Err(Failed::Cause(format!("it ended without an answer; it said {said:?}")))
            }
        }
    }

    fn container(&self, errand: &Errand) -> Result<ContainerConfig, String> {
        let mount = |source: &Path, target: &str, read_only| Mount {
            kind: "bind",
            source: source.to_string_lossy().into_owned(),
            target: target.to_owned(),
            read_only,
        };
        let mut mounts = vec![mount(&self.servers.join(errand.server.as_str()), DIRECTORY, false)];
        mounts.extend(errand.download.map(|path| mount(path, DOWNLOAD, true)));
        Ok(ContainerConfig {
            image: self.image()?,
            cmd: Some(vec![format!("/{PROGRAM}"), serve::WORD.to_owned()]),
            labels: [(LABEL.to_owned(), self.node.to_string())].into(),
            user: Some("0:0".to_owned()),
            open_stdin: true,
            stdin_once: true,
            host_config: HostConfig {
                resources: Resources {
                    memory: Some(MEMORY),
                    memory_swap: Some(MEMORY.cast_signed()),
                    pids_limit: Some(16),
                    ..Resources::default()
                },
                network_mode: Some("none".to_owned()),
                mounts,
                cap_drop: vec!["ALL".into()],
                cap_add: ["CHOWN", "DAC_OVERRIDE", "FOWNER"].map(str::to_owned).into(),
                security_opt: vec!["no-new-privileges".into()],
                readonly_rootfs: true,
                auto_remove: true,
                log_config: Some(LogConfig::none()),
                ..HostConfig::default()
            },
            ..ContainerConfig::default()
        })
    }
}

fn say(exchange: &mut Exchange, word: &impl serde::Serialize) -> Result<(), String> {
    let line = serde_json::to_vec(word).map_err(|e| e.to_string())?;
    exchange.say(line).map_err(|e| format!("question: {e}"))
}
