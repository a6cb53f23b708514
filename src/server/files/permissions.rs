//! Permission bits of files and directories, read and set on what a path leads to as long as that is inside.

use cap_std::fs::OpenOptions;
use rustix::fs::{Mode, Stat, fchmod, fstat};

use super::look::{follow, mode};
use super::{Root, Trouble};
use crate::protocol::{FileReply, RelPath};

pub fn get(root: &Root, path: &RelPath, reply: FileReply) -> Result<FileReply, Trouble> {
    Ok(tell(&follow(root, path.as_str())?, reply))
}

/// Sets the bits through an open handle, so that nothing can be put in the file's place between two looks.
pub fn set(root: &Root, path: &RelPath, bits: u32, reply: FileReply) -> Result<FileReply, Trouble> {
    let (file, _) = root.open(path, OpenOptions::new().read(true))?;
    fchmod(&file, Mode::from_raw_mode(bits))?;
    Ok(tell(&fstat(&file)?, reply))
}

fn tell(stat: &Stat, reply: FileReply) -> FileReply {
    let (permissions, owner, group) = (Some(mode(stat)), Some(stat.st_uid), Some(stat.st_gid));
    FileReply { permissions, owner, group, ..reply }
}
