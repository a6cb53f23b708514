//! [`Root`]: one server's directory as an open handle, with what every change in it has to heed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use cap_std::fs::Dir;
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use super::{Owner, Quota, Trouble};
use crate::protocol::spec::User;
use crate::protocol::{Code, Fault, ServerId, Spec};
use crate::server::stats::{DiskWalk, Disks};

/// `DATA_DIR/servers`, open.
#[derive(Debug)]
pub struct Files {
    servers: OwnedFd,
    server_user: (u32, u32),
    disks: Disks,
}

/// What a task on a server's files works with.
#[derive(Debug)]
pub struct Root {
    /// The server's directory. Nothing outside of it can be reached through this.
    pub dir: Dir,
    /// Whom new files and directories belong to.
    pub owner: Owner,
    /// To be asked before anything grows.
    pub quota: Quota,
}

impl Files {
    /// Opens the directory that holds one directory for each server. `server_user` is the node's `SERVER_USER`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(servers: &Path, server_user: (u32, u32), disks: Disks) -> io::Result<Files> {
        let servers =
            openat(CWD, servers, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Files { servers, server_user, disks })
    }

    /// Opens the directory of a server. Its use of the disk is measured when it has a limit and nobody knows it yet,
    /// which takes as long as a walk through all of it.
    ///
    /// # Errors
    /// [`Trouble::Io`] with `EACCES` where the Agent may not open it; a link in its place is none of ours.
    pub fn root(&self, server: &ServerId, spec: &Spec) -> Result<Root, Trouble> {
        let opened = openat(&self.servers, server.as_str(), directory(), Mode::empty());
        let opened = opened.map_err(|error| match error {
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => {
                let text =
                    "The server's directory is missing on this node. Start the server to have it made again.";
                Trouble::Told(Fault::new(Code::FileNotFound, text))
            }
            error => Trouble::Io(error.into()),
        })?;
        let quota = self.quota(server, spec);
        if spec.limits.disk.is_some() && self.disks.known(server).is_none() {
            let used = DiskWalk::at(opened.try_clone()?)?.finish().bytes;
            self.disks.measured(server, used);
        }
        let owner = match self.owner(spec) {
            Some(owner) => owner,
            None => {
                let stat = fstat(&opened).map_err(io::Error::from)?;
                Owner { uid: stat.st_uid, gid: stat.st_gid }
            }
        };
        Ok(Root { dir: Dir::from_std_file(File::from(opened)), owner, quota })
    }

    /// Whom a server's files belong to. `None` with the image's own user, which is not known here: then it is whoever
    /// has the directory.
    pub fn owner(&self, spec: &Spec) -> Option<Owner> {
        match spec.user {
            Some(User::Ids { uid, gid }) => Some(Owner { uid, gid }),
            Some(User::Image) => None,
            None => Some(Owner { uid: self.server_user.0, gid: self.server_user.1 }),
        }
    }

    /// Whom a new server's directory belongs to. The image's own user may give itself the directory as root, having CHOWN.
    pub fn directory_owner(&self, spec: &Spec) -> Owner {
        self.owner(spec).unwrap_or(Owner { uid: self.server_user.0, gid: self.server_user.1 })
    }

    /// The disk limit of a server.
    pub fn quota(&self, server: &ServerId, spec: &Spec) -> Quota {
        Quota::new(self.disks.clone(), server.clone(), spec.limits.disk)
    }

    /// The directory of all servers.
    pub(super) fn servers(&self) -> &OwnedFd {
        &self.servers
    }
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::protocol::spec::Limits;

    fn files(servers: &Path) -> Files {
        let (disks, _) = Disks::new(servers.to_owned());
        Files::open(
            servers,
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            disks,
        )
        .unwrap()
    }

    fn code(result: Result<Root, Trouble>) -> Code {
        result.map(drop).unwrap_err().fault().code
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_not_followed() {
        let (servers, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), servers.path().join("s")).unwrap();
        let files = files(servers.path());
        assert_eq!(code(files.root(&"s".parse().unwrap(), &Spec::default())), Code::FileNotFound);
        assert_eq!(code(files.root(&"none".parse().unwrap(), &Spec::default())), Code::FileNotFound);
    }

    #[test]
    fn what_is_there_already_counts_for_the_limit() {
        let servers = tempfile::tempdir().unwrap();
        fs::create_dir(servers.path().join("s")).unwrap();
        fs::write(servers.path().join("s/world"), vec![1; 1 << 20]).unwrap();
        let spec = Spec { limits: Limits { disk: Some(2 << 20), ..Limits::default() }, ..Spec::default() };
        let root = files(servers.path()).root(&"s".parse().unwrap(), &spec).unwrap();
        assert!(root.quota.take(900 << 10).is_ok());
        assert_eq!(root.quota.take(200 << 10).unwrap_err().code, Code::QuotaExceeded);
        root.quota.give_back(900 << 10);
        assert!(root.quota.take(200 << 10).is_ok());
    }
}
