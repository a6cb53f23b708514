//! A file under a name of its own beside the one it will replace, so that there is either the old or the new one, whole.
//! What is not published goes with the handle.

use std::ffi::CString;
use std::fs::File;
use std::io;

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, openat, renameat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use super::place::sync;

/// What every such name begins with.
pub const PREFIX: &str = ".longshore-";

/// See the module's description.
pub struct Temporary<'a> {
    dir: &'a Dir,
    name: CString,
    pub file: File,
    published: bool,
}

impl<'a> Temporary<'a> {
    /// Makes one that nobody but its owner may read yet.
    pub fn new(dir: &'a Dir) -> io::Result<Temporary<'a>> {
        let name = unused_name()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(dir, &name, flags, Mode::RUSR | Mode::WUSR)?);
        Ok(Temporary { dir, name, file, published: false })
    }

    /// Writes it to the disk and gives it its name, in place of what has it.
    pub fn replace(mut self, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        renameat(self.dir, &self.name, self.dir, name)?;
        self.published = true;
        sync(self.dir)
    }

    /// The same under a name that must be free.
    pub fn publish(mut self, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        rename_to_free(self.dir, &self.name, self.dir, name)?;
        self.published = true;
        sync(self.dir)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = unlinkat(self.dir, &self.name, AtFlags::empty())
        {
            log::warn!("a temporary file stays behind: {error}");
        }
    }
}

/// A name that nobody guesses.
pub fn unused_name() -> io::Result<CString> {
    let random = ring::rand::generate::<[u8; 8]>(&ring::rand::SystemRandom::new());
    let random = random.map_err(|_| io::Error::other("no random numbers"))?.expose();
    Ok(CString::new(format!("{PREFIX}{:016x}", u64::from_ne_bytes(random)))?)
}

/// Renames to a name that must be free, also where the file system cannot promise that: then whoever takes the name in
/// between loses what is there, as with any rename.
pub fn rename_to_free(
    from: &Dir,
    old: impl rustix::path::Arg + Copy,
    to: &Dir,
    new: impl rustix::path::Arg + Copy,
) -> io::Result<()> {
    match renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => match statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(Errno::NOENT) => Ok(renameat(from, old, to, new)?),
            Err(error) => Err(error.into()),
        },
        result => Ok(result?),
    }
}
