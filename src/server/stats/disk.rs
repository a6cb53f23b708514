//! How much disk a server's directory takes: walked in small pieces by a thread of the lowest priority, remembered, and
//! never on the path of a command.
//!
//! The walk goes from directory handle to directory handle and follows no link, so that a server that swaps a directory
//! for a link cannot lead it elsewhere; it stays on the file system where it began.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

/// Deeper than this nothing is counted, and it is told: each level holds a descriptor.
const MAX_DEPTH: usize = 64;
/// Files with several names are counted once, as long as no more than these are remembered.
const MAX_LINKED: usize = 100_000;

/// A walk under way.
pub struct Walk {
    device: u64,
    open: Vec<Dir>,
    linked: HashSet<u64>,
    /// Bytes of disk, in whole blocks as the file system counts them.
    bytes: u64,
    too_deep: bool,
}

/// What a finished walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub bytes: u64,
    /// Something lay deeper than is looked at.
    pub incomplete: bool,
}

impl Walk {
    /// Begins at `directory`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn begin(directory: &Path) -> io::Result<Walk> {
        Walk::at(openat(CWD, directory, directory_only(), Mode::empty())?)
    }

    /// Begins at an open directory.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn at(root: OwnedFd) -> io::Result<Walk> {
        let device = rustix::fs::fstat(&root)?.st_dev;
        let open = vec![Dir::new(root)?];
        Ok(Walk { device, open, linked: HashSet::new(), bytes: 0, too_deep: false })
    }

    /// All of it at once, for whoever cannot go on without.
    pub fn finish(mut self) -> Found {
        loop {
            if let Some(found) = self.advance(usize::MAX) {
                return found;
            }
        }
    }

    /// Looks at up to `entries` names. `Some` when there are no more.
    pub fn advance(&mut self, entries: usize) -> Option<Found> {
        for _ in 0..entries {
            let Some(dir) = self.open.last_mut() else {
                return Some(Found { bytes: self.bytes, incomplete: self.too_deep });
            };
            match dir.read() {
                Some(Ok(entry)) => {
                    let name = entry.file_name();
                    if name != c"." && name != c".." {
                        let name = name.to_owned();
                        self.look(&name);
                    }
                }
                // The end, or a directory that went away meanwhile.
                Some(Err(_)) | None => drop(self.open.pop()),
            }
        }
        None
    }

    /// What vanishes between its name being read and its being looked at counts nothing.
    fn look(&mut self, name: &CStr) {
        let Some(dir) = self.open.last() else { return };
        let Ok(fd) = dir.fd() else { return };
        let Ok(stat) = statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        if stat.st_dev != self.device {
            return;
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 && self.linked.len() < MAX_LINKED {
            let first = self.linked.insert(stat.st_ino);
            if !first {
                return;
            }
        }
        self.bytes = self.bytes.saturating_add((stat.st_blocks as u64).saturating_mul(512));
        if kind != FileType::Directory {
            return;
        }
        if self.open.len() >= MAX_DEPTH {
            self.too_deep = true;
            return;
        }
        let opened: rustix::io::Result<OwnedFd> = openat(fd, name, directory_only(), Mode::empty());
        if let Ok(Ok(dir)) = opened.map(Dir::new) {
            self.open.push(dir);
        }
    }
}

fn directory_only() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn walk(directory: &Path) -> Found {
        let mut walk = Walk::begin(directory).unwrap();
        loop {
            if let Some(found) = walk.advance(3) {
                return found;
            }
        }
    }

    #[test]
    fn counts_blocks_once_and_leaves_links_alone() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("large"), vec![1; 1 << 20]).unwrap();
        fs::create_dir_all(inside.path().join("a/b")).unwrap();
        fs::write(inside.path().join("a/b/world"), vec![1; 100_000]).unwrap();
        let before = walk(inside.path());
        assert!((100_000..200_000).contains(&before.bytes) && !before.incomplete, "{before:?}");
        fs::hard_link(inside.path().join("a/b/world"), inside.path().join("same")).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("out")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("large"), inside.path().join("file")).unwrap();
        let after = walk(inside.path());
        assert!(after.bytes < before.bytes + 50_000, "{after:?}");
    }

    #[test]
    fn says_when_it_stopped_at_a_depth() {
        let root = tempfile::tempdir().unwrap();
        let deep = (0..MAX_DEPTH + 5).fold(root.path().to_owned(), |path, _| path.join("d"));
        fs::create_dir_all(deep).unwrap();
        assert!(walk(root.path()).incomplete);
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", root.path().join("s")).unwrap();
        assert!(Walk::begin(&root.path().join("s")).is_err());
    }
}
