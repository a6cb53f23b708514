//! [`Intake`]: writes an archive's entries beneath a directory, within all bounds.
//!
//! The directory is new and empty, so a name that is there already came twice. Every entry is made, never opened: what
//! a server's own process may put in the way is not written to.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::SystemTime;

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, OpenOptions, OpenOptionsExt};

use rustix::io::Errno;

use super::error::Refusal;
use super::name::EntryName;
use super::{Error, Job, MAX_ENTRIES};
use crate::server::files::place::open_dir;
use crate::server::files::{Quota, Root};

/// Bytes read and written at once.
const PIECE: usize = 64 << 10;
/// So many files are on the disk before they move on, thus plugins and settings always. A whole world is left to the
/// kernel, which writes it within half a minute: to sync tens of thousands of files, or all that the node has to write,
/// takes minutes that nobody can end.
const MAX_SYNCED: u64 = 64;
/// However much a server may take, so much of the node's disk stays free: an archive of zeros must not end every other
/// server on the node.
const RESERVE: u64 = 256 << 20;
/// How free the disk is, is asked after so many bytes.
const ASK_AFTER: u64 = 16 << 20;

/// The room for what a job writes. What was taken is given back on drop, unless it is kept.
pub struct Room<'a> {
    dir: &'a Dir,
    quota: &'a Quota,
    taken: u64,
    unasked: u64,
}

impl<'a> Room<'a> {
    /// On a server's own directory.
    pub fn new(root: &'a Root) -> Room<'a> {
        Room::at(&root.dir, &root.quota)
    }

    /// The same for what is written to the disk that `dir` is on.
    pub fn at(dir: &'a Dir, quota: &'a Quota) -> Room<'a> {
        Room { dir, quota, taken: 0, unasked: ASK_AFTER }
    }

    /// Takes bytes that are about to be written.
    ///
    /// # Errors
    /// When the server's disk limit or the node's disk has no room for them. Sizes out of an archive may be anything: no
    /// sum overflows.
    pub fn take(&mut self, bytes: u64) -> Result<(), Error> {
        self.unasked = self.unasked.saturating_add(bytes);
        if self.unasked >= ASK_AFTER {
            let disk = rustix::fs::fstatvfs(self.dir)?;
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            if free < bytes.saturating_add(RESERVE) {
                return Err(Errno::NOSPC.into());
            }
            self.unasked = 0;
        }
        self.quota.take(bytes)?;
        self.taken = self.taken.saturating_add(bytes);
        Ok(())
    }

    /// Of what was taken, so much was not needed.
    pub fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.taken);
        self.taken -= bytes;
        self.quota.give_back(bytes);
    }

    /// What was written stays.
    pub fn keep(&mut self) {
        self.taken = 0;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.quota.give_back(self.taken);
        }
    }
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    pub files: u64,
    /// Of the files' contents.
    pub bytes: u64,
}

/// An entry beside its name and its content.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// Permission bits; `None` where the archive has none.
    pub mode: Option<u32>,
    pub modified: Option<SystemTime>,
}

/// See the module's description.
pub struct Intake<'a, 'r> {
    root: Dir,
    /// The directory that the entry before went into: most entries follow their neighbours.
    last: Option<(String, Dir)>,
    pub(super) job: &'a Job<'a>,
    room: &'a mut Room<'r>,
    made: u64,
    unpacked: Unpacked,
    buffer: Vec<u8>,
}

impl<'a, 'r> Intake<'a, 'r> {
    pub fn new(root: Dir, room: &'a mut Room<'r>, job: &'a Job<'a>) -> Intake<'a, 'r> {
        let unpacked = Unpacked::default();
        Intake { root, last: None, job, room, made: 0, unpacked, buffer: vec![0; PIECE] }
    }

    /// Refuses early what says itself that it is too large.
    pub fn expect(&mut self, entries: u64, bytes: u64) -> Result<(), Error> {
        if entries > MAX_ENTRIES {
            return Err(Error::TooMany);
        }
        self.room.take(bytes)?;
        self.room.give_back(bytes);
        Ok(())
    }

    /// Makes a directory; one that is there already came as the parent of an entry, and is given its mode.
    pub fn directory(&mut self, name: &EntryName, traits: Traits) -> Result<(), Error> {
        let dir = self.enter(name.as_str())?;
        if let Some(mode) = traits.mode {
            // Its owner can always look after it.
            let mode = rustix::fs::Mode::from_raw_mode(mode & 0o777 | 0o700);
            rustix::fs::fchmod(&dir, mode)?;
        }
        self.last = Some((name.as_str().to_owned(), dir));
        Ok(())
    }

    /// Writes a file of exactly `size` bytes out of `content`, which has to end there.
    pub fn file(
        &mut self,
        name: &EntryName,
        traits: Traits,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), Error> {
        self.count()?;
        self.room.take(Quota::blocks(size))?;
        let (parent, own) = name.split();
        let dir = match &self.last {
            Some((path, dir)) if path == parent => dir,
            _ => {
                let dir = self.enter(parent)?;
                &self.last.insert((parent.to_owned(), dir)).1
            }
        };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = match dir.open_with(own, &options) {
            Ok(file) => file.into_std(),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::entry(name.as_str().as_bytes(), Refusal::Twice));
            }
            Err(e) => return Err(e.into()),
        };
        self.copy(content, &mut file, size)?;
        self.job.root.owner.give(&file)?;
        let mode = traits.mode.map_or(0o644, |mode| mode & 0o777 | 0o600);
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))?;
        if let Some(modified) = traits.modified {
            // A time that the file system cannot hold is no reason to lose the file.
            let _ = file.set_modified(modified);
        }
        if self.unpacked.files < MAX_SYNCED {
            file.sync_data()?;
        }
        self.unpacked.files += 1;
        self.unpacked.bytes += size;
        Ok(())
    }

    fn copy(&mut self, content: &mut dyn Read, file: &mut File, size: u64) -> Result<(), Error> {
        let mut left = size;
        loop {
            self.job.abort.check()?;
            let count = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    self.job.abort.check()?;
                    return Err(reading(e));
                }
            };
            left = left
                .checked_sub(count as u64)
                .ok_or_else(|| Error::damaged("an entry is longer than it says"))?;
            file.write_all(&self.buffer[..count])?;
        }
        match left {
            0 => Ok(()),
            _ => Err(Error::damaged("an entry is shorter than it says")),
        }
    }

    /// Opens a directory beneath the root, made part by part where it is missing.
    fn enter(&mut self, path: &str) -> Result<Dir, Error> {
        let mut dir = self.root.try_clone()?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let mut builder = DirBuilder::new();
            builder.mode(0o755);
            match dir.create_dir_with(part, &builder) {
                Ok(()) => {
                    self.count()?;
                    self.room.take(Quota::blocks(0))?;
                    let made = open_dir(&dir, part)?;
                    self.job.root.owner.give(&made)?;
                    // The umask took from the mode that it was made with.
                    rustix::fs::fchmod(&made, rustix::fs::Mode::from_raw_mode(0o755))?;
                    dir = made;
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let twice = |_| Error::entry(path.as_bytes(), Refusal::Twice);
                    dir = open_dir(&dir, part).map_err(twice)?;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(dir)
    }

    fn count(&mut self) -> Result<(), Error> {
        self.job.abort.check()?;
        self.made += 1;
        if self.made > MAX_ENTRIES { Err(Error::TooMany) } else { Ok(()) }
    }

    pub fn finish(self) -> Unpacked {
        self.unpacked
    }
}

/// A failure to read an archive's content: the archive's own fault, unless the system says otherwise.
pub(super) fn reading(error: io::Error) -> Error {
    if error.raw_os_error().is_some() { error.into() } else { Error::damaged(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::spec::{Limits, Spec};
    use crate::server::files::Files;
    use crate::server::stats::Disks;

    #[test]
    fn ghsa_hfvm_879c_xgmm_and_ghsa_5mgr_9frx_2rh7_sizes_that_overflow_are_over_the_limit() {
        let servers = tempfile::tempdir().unwrap();
        std::fs::create_dir(servers.path().join("s")).unwrap();
        let (disks, _) = Disks::new(servers.path().to_owned());
        let files = Files::open(servers.path(), (0, 0), disks).unwrap();
        for limit in [None, Some(1 << 20)] {
            let spec = Spec { limits: Limits { disk: limit, ..Limits::default() }, ..Spec::default() };
            let root = files.root(&"s".parse().unwrap(), &spec).unwrap();
            let mut room = Room::new(&root);
            for size in [u64::MAX, u64::MAX - 4095, u64::MAX - 4096, 1 << 63] {
                assert!(room.take(size).is_err() && room.take(Quota::blocks(size)).is_err(), "{size}");
            }
            room.take(512 << 10).unwrap();
            assert_eq!(room.take(600 << 10).is_err(), limit.is_some());
        }
        // All of it was given back.
        let spec = Spec { limits: Limits { disk: Some(1 << 20), ..Limits::default() }, ..Spec::default() };
        let root = files.root(&"s".parse().unwrap(), &spec).unwrap();
        Room::new(&root).take(1000 << 10).unwrap();
    }
}
