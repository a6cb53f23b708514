//! [`Staging`]: the directory that a job works in, inside the server's own so that what is done moves on by rename.
//!
//! Its name is hidden and tells which run of the Agent made it: what a killed one left is found by that and removed, by
//! the next job on the server or at the next start, and no run removes its own.

use std::ffi::{CStr, CString};

use cap_std::fs::Dir;
use rustix::fs::{Mode, mkdirat};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::server::abort::Abort;
use crate::server::files::look::names;
use crate::server::files::place::open_dir;
use crate::server::files::temporary::JOB;
use crate::server::files::tree::remove_entry;

/// Removed with all that is in it on drop, after a panic too.
pub struct Staging {
    parent: Dir,
    name: CString,
    dir: Dir,
}

/// Names of one run of the Agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run(String);

impl Run {
    /// `boot_id` is the Agent's own for this run.
    pub fn new(boot_id: &str) -> Run {
        Run(format!("{JOB}{}-", boot_id.chars().take(16).collect::<String>()))
    }

    /// Makes a directory beneath `server` that only the Agent enters. `number` is one that no other job has.
    pub fn staging(&self, server: &Dir, number: u64) -> Result<Staging, Error> {
        for name in self.left(server)? {
            if let Err(error) = remove(server, &name) {
                log::warn!("removing what an interrupted job has left: {error}");
            }
        }
        let name = CString::new(format!("{}{number}", self.0)).map_err(std::io::Error::from)?;
        mkdirat(server, &name, Mode::RWXU)?;
        Ok(Staging { parent: server.try_clone()?, dir: open_dir(server, &name)?, name })
    }

    /// Removes what other runs have left in `server`.
    ///
    /// # Errors
    /// What cannot be looked at or removed.
    pub fn sweep(&self, server: &Dir) -> Result<(), Error> {
        self.left(server)?.iter().try_for_each(|name| remove(server, name))
    }

    /// The names of what other runs have left.
    fn left(&self, server: &Dir) -> Result<Vec<CString>, Error> {
        let is_left = |name: &CString| {
            let name = name.to_string_lossy();
            name.starts_with(JOB) && !name.starts_with(&self.0)
        };
        let names = names(server).map_err(Error::Files)?;
        Ok(names.filter(|name| name.as_ref().map_or(true, is_left)).collect::<Result<_, _>>()?)
    }
}

impl Staging {
    pub fn dir(&self) -> &Dir {
        &self.dir
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.parent, &self.name) {
            log::warn!("removing the directory of a job: {error}");
        }
    }
}

/// What was in it was never more than lent by the quota.
fn remove(parent: &Dir, name: &CStr) -> Result<(), Error> {
    remove_entry(parent, name, None, &Abort::default()).map_err(Error::Files)
}
