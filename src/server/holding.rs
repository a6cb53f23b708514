//! [`Holding`]: where an Agent without root keeps a download until a container takes it into the server's directory. It is
//! the Agent's own, and what an ended one has left is gone before anything else is put there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cap_std::fs::Dir;

use super::abort::Abort;
use super::archive::{self, Room};
use super::download::{Downloaded, Fetch};
use super::files::Quota;
use super::mods::install::{self, Error};
use super::progress::Meter;
use crate::protocol::mods::InstallMod;

/// `DATA_DIR/downloads`.
#[derive(Debug)]
pub struct Holding {
    path: PathBuf,
    dir: Dir,
}

/// One download, which goes with this.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    pub what: Downloaded,
}

impl Holding {
    /// Opens the directory, made with mode 0700 when it is missing, and empties it.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn open(path: PathBuf) -> io::Result<Holding> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        for entry in fs::read_dir(&path)? {
            fs::remove_file(entry?.path())?;
        }
        let dir = Dir::from_std_file(File::open(&path)?);
        Ok(Holding { path, dir })
    }

    /// Downloads what is wanted and makes sure that it is that. It has to fit into `quota`, of which it takes nothing in
    /// the end. `number` is one that no other job has.
    ///
    /// # Errors
    /// Why nothing came.
    pub fn download(
        &self,
        number: u64,
        wanted: &InstallMod,
        from: &dyn Fetch,
        quota: &Quota,
        abort: &Abort,
        meter: &Meter,
    ) -> Result<Held, Error> {
        let path = self.path.join(number.to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(archive::Error::from)?;
        // From here on it goes with what holds it.
        let mut held = Held { path, what: Downloaded::default() };
        let mut room = Room::at(&self.dir, quota);
        held.what = install::download(wanted, from, &file, &mut room, abort, meter)?;
        Ok(held)
    }
}

impl Held {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("a download stays behind: {error}");
        }
    }
}
