//! From a path to what the system calls need: an open directory and one name in it. What follows a path goes through
//! [`cap_std`]; from there on every call names a single entry of an open directory and follows nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, OpenOptions, OpenOptionsExt};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::{Root, Trouble};
use crate::protocol::{Code, RelPath};

/// A name in an open directory. The entry need not exist.
pub struct Place<'a> {
    pub dir: Dir,
    pub name: &'a str,
}

impl Root {
    /// The place that a path names; its directory must exist.
    ///
    /// # Errors
    /// `PATH_INVALID` for the server's directory itself, and whatever leads out of it.
    pub fn place<'a>(&self, path: &'a RelPath) -> Result<Place<'a>, Trouble> {
        let (parent, name) = split(path)?;
        Ok(Place { dir: self.dir.open_dir(parent)?, name })
    }

    /// The same, with the directories on the way made where they are missing.
    ///
    /// # Errors
    /// As [`Root::place`], and those of making them.
    pub fn make_place<'a>(&self, path: &'a RelPath) -> Result<Place<'a>, Trouble> {
        let (parent, name) = split(path)?;
        match self.dir.open_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Place { dir: self.make_directories(parent)?, name })
            }
            dir => Ok(Place { dir: dir?, name }),
        }
    }

    /// Makes a directory and those on the way to it, each where it is missing.
    fn make_directories(&self, path: &str) -> Result<Dir, Trouble> {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let mut made = None;
        for end in ends {
            let prefix = &path[..end];
            made = Some(match self.dir.open_dir(prefix) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_directory(prefix)?;
                    self.dir.open_dir(prefix)?
                }
                dir => dir?,
            });
        }
        made.ok_or_else(|| Errno::NOENT.into())
    }

    /// Makes one directory, which belongs to the server's user.
    pub(super) fn make_directory(&self, path: &str) -> Result<(), Trouble> {
        let cost = super::Quota::blocks(0);
        self.quota.take(cost)?;
        if let Err(error) = self.dir.create_dir_with(path, DirBuilder::new().mode(0o755)) {
            self.quota.give_back(cost);
            return Err(error.into());
        }
        let given =
            self.dir.open_with(path, OpenOptions::new().read(true)).and_then(|dir| self.owner.give(dir));
        given.map_err(|error| {
            // Empty, unless somebody was very quick: then it stays.
            let _ = self.dir.remove_dir(path);
            self.quota.give_back(cost);
            error.into()
        })
    }

    /// Opens a regular file or a directory, through links as long as they stay inside. Nothing else is ever opened: it
    /// is looked at before, so that no device is touched, and after, since it may have been swapped meanwhile.
    pub(super) fn open(&self, path: &RelPath, options: &mut OpenOptions) -> Result<(File, Stat), Trouble> {
        let before = self.dir.metadata(path.as_str())?.file_type();
        if !(before.is_file() || before.is_dir()) {
            return Err(special());
        }
        let calm = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
        let opened = self.dir.open_with(path.as_str(), options.custom_flags(calm.cast_signed()));
        // What a pipe without a reader, or a socket, says to being opened.
        let file = opened.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NXIO) => special(),
            _ => error.into(),
        })?;
        let file = file.into_std();
        let stat = rustix::fs::fstat(&file)?;
        match kind(&stat) {
            FileType::RegularFile | FileType::Directory => Ok((file, stat)),
            _ => Err(special()),
        }
    }

    /// [`Root::open`] for a file.
    pub(super) fn open_file(
        &self,
        path: &RelPath,
        options: &mut OpenOptions,
    ) -> Result<(File, Stat), Trouble> {
        match self.open(path, options)? {
            (_, stat) if kind(&stat) == FileType::Directory => Err(Errno::ISDIR.into()),
            file => Ok(file),
        }
    }
}

impl Place<'_> {
    /// What is there, not following a link; `None` when nothing is.
    pub fn look(&self) -> Result<Option<Stat>, Trouble> {
        match statat(&self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes what happened to the directory's entries last.
    pub fn sync(&self) -> io::Result<()> {
        sync(&self.dir)
    }
}

/// Opens a directory that an open one holds; a link in its place is not followed.
pub fn enter(dir: impl AsFd, name: impl Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// The same as a root of its own.
pub fn open_dir(dir: impl AsFd, name: impl Arg) -> io::Result<Dir> {
    Ok(Dir::from_std_file(File::from(enter(dir, name)?)))
}

/// Opens the directory at a path beneath `dir`, through links that stay there. Unlike [`Dir::open_dir`] not with
/// `O_PATH`, so that it can be given away and synced.
pub fn open_below(dir: &Dir, path: &Path) -> io::Result<Dir> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::DIRECTORY.bits().cast_signed());
    Ok(Dir::from_std_file(dir.open_with(path, &options)?.into_std()))
}

/// Opens what should be a regular file that an open directory holds, without following a link or waiting for the other
/// end of a pipe. The caller looks at what it is.
pub fn open_entry(dir: impl AsFd, name: impl Arg) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(File::from(openat(dir, name, flags, Mode::empty())?))
}

/// A handle for reading the entries of a directory whose own handle may only stand for it.
pub fn readable(dir: impl AsFd) -> rustix::io::Result<OwnedFd> {
    enter(dir, c".")
}

/// Writes a directory's entries to the disk. Where it may not be read that is left to the kernel.
pub fn sync(dir: impl AsFd) -> io::Result<()> {
    match readable(dir) {
        Err(Errno::ACCESS) => Ok(()),
        dir => Ok(rustix::fs::fsync(dir?)?),
    }
}

pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Bytes of disk that go when this name does.
pub fn freed(stat: &Stat) -> u64 {
    let last = kind(stat) == FileType::Directory || stat.st_nlink <= 1;
    if last { (stat.st_blocks as u64).saturating_mul(512) } else { 0 }
}

pub fn special() -> Trouble {
    Trouble::told(Code::PathInvalid, "This is a device, socket or pipe, which is never opened.")
}

fn split(path: &RelPath) -> Result<(&str, &str), Trouble> {
    path.split().ok_or_else(|| {
        Trouble::told(Code::PathInvalid, "This is the server's directory itself. Give a path in it.")
    })
}
