//! Long jobs on a server's files: archives and mods. It runs on the thread of a job, one at a time for each server, and
//! holds no state of its own; whatever a job has begun is undone when it fails.
//!
//! What the kernel denies to an Agent without root is done by a container instead, by the same [`work`]: all but
//! the download, which needs the network, and the record of mods, which is the Agent's own.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::abort::Abort;
use super::archive::staging::Run;
use super::archive::{self, Job, Staging};
use super::download::{Fetch, Internet};
use super::files::{Files, Trouble, temporary};
use super::helper::talk::{Tools, Work};
use super::helper::{Errand, Helper};
use super::holding::{Held, Holding};
use super::mods::install::{self, Place};
use super::mods::records::{Keep, Kept, ModRecords};
use super::progress::{Meter, Step};
use crate::protocol::{
    ArchiveAction, ArchiveReply, Code, Fault, ModAction, ModReply, Outcome, Reply, ServerId, Spec,
};

/// What the jobs share.
pub struct Workshop {
    pub files: Arc<Files>,
    /// Names what this run of the Agent makes.
    pub run: Run,
    pub records: ModRecords,
    pub internet: Internet,
    /// Where the Agent is not root.
    pub helper: Option<(Arc<Helper>, Holding)>,
}

/// One job with all that it needs.
#[derive(Clone, Debug)]
pub struct LongJob {
    pub server: ServerId,
    pub spec: Arc<Spec>,
    pub wants: Wants,
    /// No other job of this run has it.
    pub number: u64,
    /// Ends it early.
    pub abort: Abort,
    /// Names the command in log lines.
    pub label: String,
}

#[derive(Clone, Debug)]
pub enum Wants {
    Archive(ArchiveAction),
    Mod(ModAction),
}

impl Wants {
    /// Whether no other such job may run on the server at the same time.
    pub fn is_exclusive(&self) -> bool {
        !matches!(self, Wants::Mod(ModAction::List))
    }
}

/// What a job is done with, by whichever process does it.
pub struct Bench<'a> {
    pub run: &'a Run,
    pub number: u64,
    /// From the server's directory.
    pub mod_dir: &'a str,
    pub keep: &'a dyn Keep,
    pub fetch: &'a dyn Fetch,
    pub job: &'a Job<'a>,
}

/// Why a job was not done.
pub struct Failed {
    /// For the log.
    pub cause: String,
    pub fault: Fault,
    /// The kernel denied it to this user: somebody with more rights might do it.
    pub denied: bool,
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Failed {
        Failed { cause: trouble.to_string(), fault: trouble.fault(), denied: trouble.is_denied() }
    }
}

impl From<archive::Error> for Failed {
    fn from(error: archive::Error) -> Failed {
        Failed { cause: error.cause(), fault: error.fault("archivePath"), denied: error.is_denied() }
    }
}

impl From<install::Error> for Failed {
    fn from(error: install::Error) -> Failed {
        Failed { cause: error.cause(), fault: error.fault(), denied: error.is_denied() }
    }
}

impl Workshop {
    /// Does one job; `tell` hears how far it is.
    pub fn perform(&self, job: &LongJob, tell: &dyn Fn(Step)) -> Outcome {
        let here = self.here(job, tell);
        let done = match (here, &self.helper) {
            (Err(failed), Some((helper, holding))) if failed.denied => {
                self.by_helper(helper, holding, job, tell)
            }
            (here, _) => here,
        };
        done.map_err(|failed| {
            log::warn!("{}: {}: {}", job.label, job.server, failed.cause);
            failed.fault
        })
    }

    fn here(&self, job: &LongJob, tell: &dyn Fn(Step)) -> Result<Reply, Failed> {
        let root = self.files.root(&job.server, &job.spec)?;
        let bench = Bench {
            run: &self.run,
            number: job.number,
            mod_dir: job.spec.mod_dir.as_str(),
            keep: &Kept { records: &self.records, server: &job.server },
            fetch: &self.internet,
            job: &Job { root: &root, abort: &job.abort, meter: &Meter::new(&job.abort, tell) },
        };
        work(&job.wants, &bench)
    }

    /// The same by a container. What it downloads it gets from the Agent, which tells it nothing of the address.
    fn by_helper(
        &self,
        helper: &Helper,
        holding: &Holding,
        job: &LongJob,
        tell: &dyn Fn(Step),
    ) -> Result<Reply, Failed> {
        let LongJob { server, spec, abort, number, .. } = job;
        let quota = self.files.quota(server, spec);
        let (mut wants, mut held): (_, Option<Held>) = (job.wants.clone(), None);
        if let Wants::Mod(ModAction::Install(wanted)) = &mut wants {
            let meter = Meter::new(abort, tell);
            held = Some(holding.download(*number, wanted, &self.internet, &quota, abort, &meter)?);
            wanted.url = "https://brought.invalid/".to_owned();
        }
        let keep = Kept { records: &self.records, server };
        let tools = Tools {
            run: self.run.clone(),
            number: *number,
            mod_dir: spec.mod_dir.as_str().to_owned(),
            mods: match &wants {
                Wants::Archive(_) => Default::default(),
                Wants::Mod(_) => keep.load().map_err(install::Error::Record)?,
            },
            download: held.as_ref().map(|held| held.what.clone()),
        };
        let save = |mods: &_| keep.save(mods);
        let errand = Errand {
            tell,
            save: &save,
            download: held.as_ref().map(Held::path),
            ..Errand::new(server, self.files.owner(spec), &quota, abort)
        };
        let done = helper.run(&errand, Work::long(server, &wants, tools)).map_err(|refused| {
            let fault = match refused.code {
                // The same end is told in the same words, wherever it was noticed.
                Code::Interrupted => archive::Error::Aborted.fault("archivePath"),
                code => Fault::new(code, refused.message),
            };
            Failed { cause: refused.cause, fault, denied: true }
        })?;
        done.reply().ok_or_else(|| Failed {
            cause: "the container gave no answer to this".into(),
            fault: Fault::new(Code::Internal, "The Agent could not finish this. Its log says why."),
            denied: true,
        })
    }

    /// Removes what earlier runs, which all ended before `before`, have left in the directories of these servers.
    pub fn sweep(&self, servers: &[ServerId], before: SystemTime, abort: &Abort) {
        // Without its limit, which would have the whole directory walked once more.
        let spec = Spec::default();
        for server in servers {
            let swept = self.files.root(server, &spec).and_then(|root| {
                self.run.sweep(&root.dir).map_err(archive::Error::into_trouble)?;
                temporary::sweep(&root.dir, before, &root.quota, abort)
            });
            let swept = match (swept, &self.helper) {
                (Err(trouble), Some((helper, _))) if trouble.is_denied() => {
                    let quota = self.files.quota(server, &spec);
                    let errand = Errand::new(server, None, &quota, abort);
                    helper
                        .run(&errand, Work::Sweep { run: self.run.clone(), before })
                        .map(drop)
                        .map_err(|refused| refused.fault("sweep", server))
                }
                (swept, _) => swept.map_err(|trouble| trouble.fault()),
            };
            match swept {
                Err(fault) if fault.code == Code::Interrupted => return,
                Err(fault) if fault.code != Code::FileNotFound => {
                    log::warn!("{server}: looking for what an earlier run has left: {fault}");
                }
                _ => {}
            }
        }
    }
}

/// Does one job.
///
/// # Errors
/// Why not. What was begun is undone.
pub fn work(wants: &Wants, bench: &Bench) -> Result<Reply, Failed> {
    match wants {
        Wants::Archive(action) => Ok(Reply::Archive(archive_work(action, bench)?)),
        Wants::Mod(action) => Ok(Reply::Mod(Box::new(mod_work(action, bench)?))),
    }
}

fn archive_work(action: &ArchiveAction, bench: &Bench) -> Result<ArchiveReply, archive::Error> {
    let job = bench.job;
    let staging = bench.run.staging(&job.root.dir, bench.number)?;
    match action {
        ArchiveAction::Create { files, archive, format } => {
            let paths = files.iter().map(|path| path.as_str());
            let packed = archive::pack(&staging, paths, Path::new(archive.as_str()), *format, job)?;
            Ok(ArchiveReply::Created {
                path: archive.sent().to_owned(),
                size: packed.size,
                files: packed.files,
                skipped: packed.skipped,
            })
        }
        ArchiveAction::Extract { archive, into } => {
            let beside = archive.split().map_or(".", |(above, _)| above);
            let target = Path::new(into.as_ref().map_or(beside, |into| into.as_str()));
            let unpacked = archive::extract(&staging, Path::new(archive.as_str()), target, job)?;
            Ok(ArchiveReply::Extracted { files: unpacked.files, bytes: unpacked.bytes })
        }
    }
}

fn mod_work(action: &ModAction, bench: &Bench) -> Result<ModReply, install::Error> {
    let Bench { keep, mod_dir, job, .. } = *bench;
    let place = Place { keep, mod_dir, job };
    match action {
        ModAction::Install(wanted) => {
            let staging: Staging = bench.run.staging(&job.root.dir, bench.number)?;
            install::install(&place, wanted, bench.fetch, &staging).map(ModReply::Installed)
        }
        ModAction::Uninstall { id } => {
            let (mods, removed) = install::uninstall(&place, id)?;
            let mods =
                mods.mods.iter().map(|known| install::view(&place, known)).collect::<Result<_, _>>()?;
            Ok(ModReply::Uninstalled { mods, removed })
        }
        ModAction::List => install::list(&place).map(ModReply::List),
    }
}
