//! Whom new files and directories belong to: the user that the server runs as.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Uid, chownat, fchown, fstat};

/// A user and its group, as the kernel knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// Gives an open file or directory to this user. Does nothing where it is the user's already.
    ///
    /// # Errors
    /// `EPERM` where the Agent may not, which takes root.
    pub fn give(self, file: impl AsFd) -> io::Result<()> {
        let stat = fstat(&file)?;
        if (stat.st_uid, stat.st_gid) == (self.uid, self.gid) {
            return Ok(());
        }
        Ok(fchown(&file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?)
    }

    /// The same for a link itself.
    ///
    /// # Errors
    /// `EPERM` where the Agent may not, which takes root.
    pub fn give_link(self, dir: impl AsFd, name: &CStr) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        Ok(chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}
