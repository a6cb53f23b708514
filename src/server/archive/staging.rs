//! [`Staging`]: the directory that a job works in, inside the server's own so that what is done moves on by rename.
//!
//! Its name is hidden and tells which run of the Agent made it: what a killed one left is found by that and removed, by
//! the next job on the server or at the next start, and no run removes its own.

use std::ffi::OsStr;
use std::io;

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt};

use super::name::RESERVED;
use super::{Error, tree};

/// Removed with all that is in it on drop, after a panic too.
pub struct Staging {
    parent: Dir,
    name: String,
    dir: Dir,
}

/// Names of one run of the Agent.
#[derive(Clone, Debug)]
pub struct Run(String);

impl Run {
    /// `boot_id` is the Agent's own for this run.
    pub fn new(boot_id: &str) -> Run {
        Run(format!("{RESERVED}job-{}-", boot_id.chars().take(16).collect::<String>()))
    }

    /// Makes a directory beneath `server` that only the Agent enters. `number` is one that no other job has.
    pub fn staging(&self, server: &Dir, number: u64) -> Result<Staging, Error> {
        self.sweep(server)?;
        let name = format!("{}{number}", self.0);
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        server.create_dir_with(&name, &builder)?;
        let dir = tree::open_dir(server, OsStr::new(&name))?;
        Ok(Staging { parent: server.try_clone()?, name, dir })
    }

    /// Removes what other runs have left in `server`. What cannot be removed is told in the log and left.
    pub fn sweep(&self, server: &Dir) -> io::Result<()> {
        for entry in server.entries()? {
            let name = entry?.file_name();
            let text = name.to_string_lossy();
            if text.starts_with(&format!("{RESERVED}job-"))
                && !text.starts_with(&self.0)
                && let Err(error) = tree::remove(server, &name)
            {
                log::warn!("removing what an interrupted job has left: {error}");
            }
        }
        Ok(())
    }
}

impl Staging {
    pub fn dir(&self) -> &Dir {
        &self.dir
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = tree::remove(&self.parent, OsStr::new(&self.name)) {
            log::warn!("removing the directory of a job: {error}");
        }
    }
}
