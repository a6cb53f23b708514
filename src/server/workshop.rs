//! Long jobs on a server's files: archives and mods. It runs on the thread of a job, one at a time for each server, and
//! holds no state of its own; whatever a job has begun is undone when it fails.

use std::path::Path;
use std::sync::Arc;

use super::abort::Abort;
use super::archive::staging::Run;
use super::archive::{self, Staging};
use super::download::Internet;
use super::files::{Files, Root};
use super::mods::ModRecords;
use super::mods::install::{self, Place};
use super::progress::{Meter, Step};
use crate::protocol::{
    ArchiveAction, ArchiveReply, Fault, ModAction, ModReply, Outcome, Reply, ServerId, Spec,
};

/// What the jobs share.
pub struct Workshop {
    pub files: Arc<Files>,
    /// Names what this run of the Agent makes.
    pub run: Run,
    pub records: ModRecords,
    pub internet: Internet,
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

impl Workshop {
    /// Does one job; `tell` hears how far it is.
    pub fn perform(&self, job: &LongJob, tell: &dyn Fn(Step)) -> Outcome {
        let failed = |cause: String, fault: Fault| {
            log::warn!("{}: {}: {cause}", job.label, job.server);
            fault
        };
        let root = self.files.root(&job.server, &job.spec);
        let root = root.map_err(|trouble| failed(trouble.to_string(), trouble.fault()))?;
        let meter = Meter::new(&job.abort, tell);
        let work = archive::Job { root: &root, abort: &job.abort, meter: &meter };
        match &job.wants {
            Wants::Archive(action) => {
                let done = self.archive(action, job, &root, &work);
                done.map(Reply::Archive).map_err(|e| failed(e.cause(), e.fault("archivePath")))
            }
            Wants::Mod(action) => {
                let done = self.mods(action, job, &root, &work);
                done.map(|reply| Reply::Mod(Box::new(reply))).map_err(|e| failed(e.cause(), e.fault()))
            }
        }
    }

    fn archive(
        &self,
        action: &ArchiveAction,
        job: &LongJob,
        root: &Root,
        work: &archive::Job,
    ) -> Result<ArchiveReply, archive::Error> {
        let staging = self.run.staging(&root.dir, job.number)?;
        match action {
            ArchiveAction::Create { files, archive, format } => {
                let paths = files.iter().map(|path| path.as_str());
                let packed = archive::pack(&staging, paths, Path::new(archive.as_str()), *format, work)?;
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
                let unpacked = archive::extract(&staging, Path::new(archive.as_str()), target, work)?;
                Ok(ArchiveReply::Extracted { files: unpacked.files, bytes: unpacked.bytes })
            }
        }
    }

    fn mods(
        &self,
        action: &ModAction,
        job: &LongJob,
        root: &Root,
        work: &archive::Job,
    ) -> Result<ModReply, install::Error> {
        let (server, records, mod_dir) = (&job.server, &self.records, job.spec.mod_dir.as_str());
        let place = Place { server, records, mod_dir, job: work };
        match action {
            ModAction::Install(wanted) => {
                let staging: Staging = self.run.staging(&root.dir, job.number)?;
                install::install(&place, wanted, &self.internet, &staging).map(ModReply::Installed)
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

    /// Removes what jobs of an earlier run have left in the directories of these servers.
    pub fn sweep(&self, servers: &[ServerId]) {
        // Without its limit, which would have the whole directory walked.
        let spec = Spec::default();
        for server in servers {
            let Ok(root) = self.files.root(server, &spec) else { continue };
            if let Err(error) = self.run.sweep(&root.dir) {
                log::warn!("{server}: looking for what was left by a job: {error}");
            }
        }
    }
}
