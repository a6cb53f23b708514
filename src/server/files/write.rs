//! Writing files: as a whole, or more at the end of one; and making directories.

use std::fs::File;
use std::io::Write;

use cap_std::fs::OpenOptions;
use rustix::fs::{FileType, Mode, Stat, fchmod, fstat};
use rustix::io::Errno;

use super::place::{Place, freed, kind, special};
use super::temporary::Temporary;
use super::{Owner, Quota, Root, Trouble};
use crate::protocol::{Code, FileReply, RelPath};

/// Of new files.
const MODE: u32 = 0o644;

/// A file as a whole: a temporary one in the same directory, which takes the old one's place, owner and permissions.
/// Where the name is a link, what it leads to is replaced.
pub fn whole(root: &Root, path: &RelPath, bytes: &[u8], reply: FileReply) -> Result<FileReply, Trouble> {
    let place = root.make_place(path)?;
    let size = Some(bytes.len() as u64);
    let old = place.look()?;
    match old.as_ref().map(kind) {
        None | Some(FileType::RegularFile) => replace(root, &place, old.as_ref(), bytes)?,
        Some(FileType::Directory) => return Err(Errno::ISDIR.into()),
        Some(FileType::Symlink) => {
            let real = root.dir.canonicalize(path.as_str())?;
            let real = RelPath::parse("path", &real.to_string_lossy())?;
            let place = root.place(&real)?;
            match place.look()? {
                Some(old) if kind(&old) == FileType::RegularFile => {
                    replace(root, &place, Some(&old), bytes)?;
                }
                Some(old) if kind(&old) == FileType::Directory => return Err(Errno::ISDIR.into()),
                Some(old) if kind(&old) != FileType::Symlink => return Err(special()),
                _ => return Err(Trouble::told(Code::Conflict, "The link was changed meanwhile. Try again.")),
            }
        }
        Some(_) => return Err(special()),
    }
    Ok(FileReply { size, ..reply })
}

fn replace(root: &Root, place: &Place, old: Option<&Stat>, bytes: &[u8]) -> Result<(), Trouble> {
    let taken = Taken::take(&root.quota, Quota::blocks(bytes.len() as u64), old.map_or(0, freed))?;
    let mut new = Temporary::new(&place.dir)?;
    new.file.write_all(bytes)?;
    dress(&new.file, old, root.owner)?;
    new.replace(place.name)?;
    taken.keep();
    Ok(())
}

/// Owner and permissions of the file that is replaced, or those of new ones. Never setuid or setgid: whoever could make
/// such a file could not choose what is in it.
pub fn dress(file: &File, old: Option<&Stat>, owner: Owner) -> Result<(), Trouble> {
    let owner = old.map_or(owner, |old| Owner { uid: old.st_uid, gid: old.st_gid });
    owner.give(file)?;
    fchmod(file, Mode::from_raw_mode(old.map_or(MODE, |old| old.st_mode & 0o777)))?;
    Ok(())
}

/// More bytes at the end of a file, which is made when there is none. In place: a copy for every piece would make a large
/// upload take the square of its time. What cannot be written as a whole is taken back.
pub fn append(root: &Root, path: &RelPath, bytes: &[u8], reply: FileReply) -> Result<FileReply, Trouble> {
    let opened = root.open_file(path, OpenOptions::new().append(true));
    let (mut file, stat) = match opened {
        Err(Trouble::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return whole(root, path, bytes, reply);
        }
        opened => opened?,
    };
    let before = u64::try_from(stat.st_size).unwrap_or(0);
    let after = before.checked_add(bytes.len() as u64).ok_or(Errno::FBIG)?;
    let taken = Taken::take(&root.quota, Quota::blocks(after) - Quota::blocks(before), 0)?;
    if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_data()) {
        // Only where nobody else wrote behind it.
        if fstat(&file).is_ok_and(|now| u64::try_from(now.st_size).is_ok_and(|now| now <= after)) {
            let _ = file.set_len(before);
        }
        return Err(error.into());
    }
    taken.keep();
    Ok(FileReply { size: Some(after), ..reply })
}

pub fn directory(root: &Root, path: &RelPath, reply: FileReply) -> Result<FileReply, Trouble> {
    let place = root.make_place(path)?;
    if place.look()?.is_some() {
        return Err(Errno::EXIST.into());
    }
    root.make_directory(path.as_str())?;
    place.sync()?;
    Ok(reply)
}

/// Bytes taken from a quota, given back unless they are kept.
pub struct Taken<'a> {
    quota: &'a Quota,
    bytes: u64,
    /// What is freed once they are kept.
    frees: u64,
}

impl<'a> Taken<'a> {
    /// Takes `bytes`, of which `frees` are in use already by what will be replaced.
    ///
    /// # Errors
    /// `QUOTA_EXCEEDED`.
    pub fn take(quota: &'a Quota, bytes: u64, frees: u64) -> Result<Taken<'a>, Trouble> {
        quota.give_back(frees);
        match quota.take(bytes) {
            Ok(()) => Ok(Taken { quota, bytes, frees }),
            Err(fault) => {
                quota.retake(frees);
                Err(fault.into())
            }
        }
    }

    /// Takes more.
    ///
    /// # Errors
    /// `QUOTA_EXCEEDED`.
    pub fn more(&mut self, bytes: u64) -> Result<(), Trouble> {
        self.quota.take(bytes)?;
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// They were written.
    pub fn keep(mut self) {
        (self.bytes, self.frees) = (0, 0);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 || self.frees > 0 {
            self.quota.give_back(self.bytes);
            self.quota.retake(self.frees);
        }
    }
}
