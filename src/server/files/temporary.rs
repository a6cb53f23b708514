//! A file under a name of its own beside the one it will replace, so that there is either the old or the new one, whole.
//! What is not published goes with the handle.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime};

use cap_std::fs::Dir;
use rustix::fs::{
    AtFlags, Dir as Entries, FileType, Mode, OFlags, RenameFlags, openat, renameat, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::place::{enter, kind, readable, sync};
use super::tree::remove_entry;
use super::{Quota, Trouble};
use crate::server::abort::Abort;

/// What every such name begins with.
pub const PREFIX: &str = ".longshore-";

/// The same of the directories that long jobs work in.
pub const JOB: &str = ".longshore-job-";
/// See [`sweep`].
const MAX_LOOKED: u64 = 2_000_000;
const MAX_DEPTH: usize = 64;

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

/// Whether a name is one of [`unused_name`].
pub fn is_ours(name: &[u8]) -> bool {
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    name.strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| rest.len() == 16 && rest.iter().all(is_hex))
}

/// Removes what was made under such a name and never got its own, all before `before`: files, and copies of whole
/// directories. It looks at `MAX_LOOKED` entries and `MAX_DEPTH` levels, and follows no link.
///
/// # Errors
/// What could not be looked at or removed, after all the rest was.
pub fn sweep(top: &Dir, before: SystemTime, quota: &Quota, abort: &Abort) -> Result<(), Trouble> {
    let (mut open, mut looked, mut failed) = (vec![Entries::new(readable(top)?)?], 0, None);
    while let (depth, Some(entries)) = (open.len(), open.last_mut()) {
        abort.check()?;
        let Some(entry) = entries.read() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        looked += 1;
        if looked > MAX_LOOKED {
            log::info!("what lies behind {MAX_LOOKED} entries is not looked at for what was left");
            break;
        }
        let dir = entries.fd()?;
        if is_ours(name.to_bytes()) && is_left(dir, name, before) {
            failed = remove_entry(dir, name, Some(quota), abort).err().or(failed);
            continue;
        }
        let may_be_directory = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        if !may_be_directory || matches!(name.to_bytes(), b"." | b"..") || depth >= MAX_DEPTH {
            continue;
        }
        match enter(dir, name).and_then(Entries::new) {
            Ok(inner) => open.push(inner),
            Err(error @ Errno::ACCESS) => failed = Some(error.into()),
            // It went away, or is something else by now.
            Err(_) => {}
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Whether it is of a kind that is made here, and nothing was done to it since `before`.
fn is_left(dir: BorrowedFd, name: &CStr, before: SystemTime) -> bool {
    let Ok(stat) = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::new(u64::try_from(stat.st_ctime).unwrap_or(0), stat.st_ctime_nsec as u32);
    matches!(kind(&stat), FileType::RegularFile | FileType::Directory) && changed < since(before)
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
