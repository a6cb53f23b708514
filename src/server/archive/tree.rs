//! Directories by handle, one plain name at a time and never through a link, and the removal of a whole tree.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt, ReadDir};
use rustix::fs::{Mode, OFlags, openat};

use super::name::{MAX_DEPTH, RESERVED};

/// A tree that grows while it is removed is given up after so many rounds.
const MAX_ROUNDS: u32 = 10_000;

/// Opens the directory `name` in `dir`; a link is no directory.
pub fn open_dir(dir: &Dir, name: &OsStr) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(Dir::from_std_file(File::from(openat(dir, name, flags, Mode::empty())?)))
}

/// Opens the directory at a path beneath `dir`, through links that stay there. Unlike [`Dir::open_dir`] not with
/// `O_PATH`, so that it can be given away and synced.
pub fn open_below(dir: &Dir, path: &Path) -> io::Result<Dir> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::DIRECTORY.bits().cast_signed());
    Ok(Dir::from_std_file(dir.open_with(path, &options)?.into_std()))
}

/// Opens what should be the regular file `name` in `dir`, without waiting for the other end of a pipe.
pub fn open_file(dir: &Dir, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(File::from(openat(dir, name, flags, Mode::empty())?))
}

/// A directory on the way down.
struct Level {
    dir: Dir,
    entries: ReadDir,
    /// Its name in the level above.
    name: OsString,
}

/// Removes `name` in `parent` with all that is in it; what is not there is removed.
///
/// It holds no more than a bounded number of descriptors and no stack, however deep a tree is: what lies too deep is
/// moved up first. A container can make trees that no walk from name to name gets to the bottom of.
pub fn remove(parent: &Dir, name: &OsStr) -> io::Result<()> {
    let mut moved = 0;
    for _ in 0..MAX_ROUNDS {
        match parent.remove_file(name) {
            Err(e) if matches!(e.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::PermissionDenied) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => return removed,
        }
        empty(open_dir(parent, name)?, &mut moved)?;
        match parent.remove_dir(name) {
            // Something was moved up, or made meanwhile.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => return Ok(()),
        }
    }
    Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty))
}

/// One round of [`remove`] over what is in `top`.
fn empty(top: Dir, moved: &mut u64) -> io::Result<()> {
    let entries = top.entries()?;
    let mut levels = vec![Level { dir: top, entries, name: OsString::new() }];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            let Some(done) = levels.pop() else { break };
            if let Some(above) = levels.last() {
                gone(above.dir.remove_dir(&done.name))?;
            }
            continue;
        };
        let name = entry?.file_name();
        match level.dir.remove_file(&name) {
            Err(e) if matches!(e.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::PermissionDenied) => {}
            removed => {
                gone(removed)?;
                continue;
            }
        }
        if levels.len() < MAX_DEPTH {
            let Some(level) = levels.last() else { break };
            let dir = open_dir(&level.dir, &name)?;
            levels.push(Level { entries: dir.entries()?, dir, name });
        } else if let [top, .., deep] = levels.as_slice() {
            *moved += 1;
            deep.dir.rename(&name, &top.dir, format!("{RESERVED}deep-{moved}"))?;
        }
    }
    Ok(())
}

/// What went away by itself is gone as well, and what is not empty is left for the next round.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use cap_std::ambient_authority;
    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn cve_2023_25168_a_removal_follows_no_link_and_gets_to_any_depth() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("kept"), "x").unwrap();
        fs::create_dir_all(inside.path().join("tree/a/b")).unwrap();
        fs::write(inside.path().join("tree/a/file"), "x").unwrap();
        symlink(outside.path(), inside.path().join("tree/a/out")).unwrap();
        symlink(outside.path().join("kept"), inside.path().join("tree/kept")).unwrap();
        // Deeper than any path that the kernel takes, and than descriptors go round.
        let parent = Dir::open_ambient_dir(inside.path(), ambient_authority()).unwrap();
        let mut deep = open_dir(&parent, "tree".as_ref()).unwrap();
        for _ in 0..3000 {
            mkdirat(&deep, "d", Mode::RWXU).unwrap();
            deep = open_dir(&deep, "d".as_ref()).unwrap();
        }
        drop(deep);
        remove(&parent, "tree".as_ref()).unwrap();
        assert_eq!(fs::read_dir(inside.path()).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(outside.path().join("kept")).unwrap(), "x");
        remove(&parent, "tree".as_ref()).unwrap();
        symlink(outside.path(), inside.path().join("link")).unwrap();
        remove(&parent, "link".as_ref()).unwrap();
        assert!(outside.path().join("kept").exists() && !inside.path().join("link").exists());
    }
}
