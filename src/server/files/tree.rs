//! Files and directories with all that is in them: deleting, copying, moving. Each step goes from an open directory to an
//! entry by its name and follows no link, so that what is swapped meanwhile leads nowhere.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cap_std::fs::OpenOptions;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, readlinkat, renameat, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;

use super::look::{Names, names};
use super::place::{Place, enter, freed, kind, open_entry, special};
use super::temporary::{Temporary, rename_to_free, unused_name};
use super::write::{Taken, dress};
use super::{Quota, Root, Trouble};
use crate::protocol::{Code, FileReply, RelPath};
use crate::server::abort::Abort;

/// Each level of a directory under way holds descriptors.
const MAX_DEPTH: usize = 64;
/// A directory that somebody else keeps filling is not deleted for ever.
const ROUNDS: usize = 8;
/// Bytes copied before the limit and the end are looked at again.
const PIECE: u64 = 8 << 20;

/// Deletes a file, a link (never what it leads to), or a directory with all that is in it.
pub fn delete(root: &Root, path: &RelPath, abort: &Abort, reply: FileReply) -> Result<FileReply, Trouble> {
    let place = root.place(path)?;
    let stat = place.look()?.ok_or(Errno::NOENT)?;
    remove(&place.dir, &CString::new(place.name).map_err(io::Error::from)?, &stat, Some(&root.quota), abort)?;
    place.sync()?;
    Ok(reply)
}

/// Deletes one entry of an open directory, as [`delete`] does. One that is not there is deleted. What goes is given back
/// to `quota`.
///
/// # Errors
/// What could not be deleted; what was deleted before stays so.
pub fn remove_entry(
    dir: impl AsFd,
    name: &CStr,
    quota: Option<&Quota>,
    abort: &Abort,
) -> Result<(), Trouble> {
    match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        stat => remove(&dir, name, &stat?, quota, abort),
    }
}

fn remove(
    dir: impl AsFd,
    name: &CStr,
    stat: &Stat,
    quota: Option<&Quota>,
    abort: &Abort,
) -> Result<(), Trouble> {
    if kind(stat) != FileType::Directory {
        unlinkat(&dir, name, AtFlags::empty())?;
        give_back(quota, stat);
        return Ok(());
    }
    for _ in 0..ROUNDS {
        empty(enter(&dir, name)?, quota, abort)?;
        match unlinkat(&dir, name, AtFlags::REMOVEDIR) {
            // Somebody has put something into it since.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            result => {
                result?;
                give_back(quota, stat);
                return Ok(());
            }
        }
    }
    Err(Trouble::told(Code::Conflict, "The server keeps writing there. Stop it and try again."))
}

fn give_back(quota: Option<&Quota>, stat: &Stat) {
    if let Some(quota) = quota {
        quota.give_back(freed(stat));
    }
}

/// Deletes all that is in a directory. What lies deeper than `MAX_DEPTH` is first moved up to it: no depth that
/// somebody made takes more descriptors than that.
pub fn empty(top: OwnedFd, quota: Option<&Quota>, abort: &Abort) -> Result<(), Trouble> {
    let mut moved = true;
    while std::mem::take(&mut moved) {
        let mut open: Vec<(OwnedFd, Names, CString)> = vec![level(top.try_clone()?, CString::default())?];
        loop {
            abort.check()?;
            let depth = open.len();
            let Some((dir, entries, _)) = open.last_mut() else { break };
            let Some(name) = entries.next() else {
                let Some((_, _, name)) = open.pop() else { break };
                if let Some((parent, ..)) = open.last() {
                    match unlinkat(parent, &name, AtFlags::REMOVEDIR) {
                        Err(Errno::NOENT) => {}
                        // Filled again meanwhile, or swapped for something else: the next round sees.
                        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                        result => result?,
                    }
                }
                continue;
            };
            let name = name?;
            let stat = match statat(&*dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            if kind(&stat) != FileType::Directory {
                match unlinkat(&*dir, &name, AtFlags::empty()) {
                    // Gone, or swapped for a directory.
                    Err(Errno::NOENT | Errno::ISDIR) => {}
                    result => {
                        result?;
                        give_back(quota, &stat);
                    }
                }
                continue;
            }
            if depth >= MAX_DEPTH {
                renameat(&*dir, &name, &top, &unused_name()?)?;
                moved = true;
                continue;
            }
            match enter(&*dir, &name) {
                // Gone, or swapped for a link.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                inner => {
                    let inner = level(inner?, name)?;
                    give_back(quota, &stat);
                    open.push(inner);
                }
            }
        }
    }
    Ok(())
}

fn level(dir: OwnedFd, name: CString) -> Result<(OwnedFd, Names, CString), Trouble> {
    let entries = names(&dir)?;
    Ok((dir, entries, name))
}

/// Gives an entry another name, which must be free, in a directory that is made where it is missing.
pub fn rename(root: &Root, from: &RelPath, to: &RelPath, reply: FileReply) -> Result<FileReply, Trouble> {
    let old = root.place(from)?;
    old.look()?.ok_or(Errno::NOENT)?;
    let new = root.make_place(to)?;
    rename_to_free(&old.dir, old.name, &new.dir, new.name)?;
    old.sync()?;
    new.sync()?;
    Ok(reply)
}

/// Copies a file or a directory to a name that must be free. The copy belongs to the server's user, links are copied as
/// they are, and it has its name only once it is whole.
pub fn copy(
    root: &Root,
    from: &RelPath,
    to: &RelPath,
    abort: &Abort,
    reply: FileReply,
) -> Result<FileReply, Trouble> {
    let (source, stat) = root.open(from, OpenOptions::new().read(true))?;
    let new = root.make_place(to)?;
    if new.look()?.is_some() {
        return Err(Errno::EXIST.into());
    }
    let mut taken = Taken::take(&root.quota, 0, 0)?;
    let mut left_out = 0;
    if kind(&stat) == FileType::RegularFile {
        let copy = Temporary::new(&new.dir)?;
        copy_file(&source, &stat, &copy.file, root, &mut taken, abort)?;
        copy.publish(new.name)?;
    } else {
        left_out = copy_directory(root, source.into(), &stat, &new, &mut taken, abort)?;
    }
    taken.keep();
    let message = match left_out {
        0 => reply.message,
        n => format!("Copied without {n} devices, sockets or pipes").into(),
    };
    Ok(FileReply { message, ..reply })
}

/// Copies below a temporary name, which then becomes the right one, or goes with all that was copied.
fn copy_directory(
    root: &Root,
    source: OwnedFd,
    stat: &Stat,
    new: &Place,
    taken: &mut Taken,
    abort: &Abort,
) -> Result<u64, Trouble> {
    let name = unused_name()?;
    taken.more(Quota::blocks(0))?;
    mkdirat(&new.dir, &name, Mode::RWXU)?;
    let copied = enter(&new.dir, &name).map_err(Trouble::from).and_then(|copy| {
        let left_out = copy_entries(root, source, stat, copy, taken, abort)?;
        rename_to_free(&new.dir, &*name, &new.dir, new.name)?;
        Ok(left_out)
    });
    if copied.is_err() {
        // What was copied is given back by whoever took it, so not here a second time.
        if let Err(error) = remove_entry(&new.dir, &name, None, &Abort::default()) {
            log::warn!("an unfinished copy stays behind: {error}");
        }
    } else {
        new.sync()?;
    }
    copied
}

/// Copies what is in one directory to another. Gives how many entries are of no kind that can be copied.
fn copy_entries(
    root: &Root,
    source: OwnedFd,
    stat: &Stat,
    copy: OwnedFd,
    taken: &mut Taken,
    abort: &Abort,
) -> Result<u64, Trouble> {
    let target = fstat(&copy)?;
    let mut left_out = 0;
    let mut open = vec![(names(&source)?, source, *stat, copy)];
    loop {
        abort.check()?;
        let depth = open.len();
        let Some((entries, from, stat, to)) = open.last_mut() else { break };
        let Some(name) = entries.next() else {
            // Last, for it may take away the right to write into it.
            let file = File::from(to.try_clone()?);
            root.owner.give(&file)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(stat.st_mode & 0o777))?;
            file.sync_all()?;
            open.pop();
            continue;
        };
        let name = name?;
        let found = match statat(&*from, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            found => found?,
        };
        match kind(&found) {
            FileType::RegularFile => {
                let file = open_entry(&*from, &name)?;
                let stat = fstat(&file)?;
                if kind(&stat) != FileType::RegularFile {
                    return Err(special());
                }
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let new = File::from(openat(&*to, &name, flags, Mode::RUSR | Mode::WUSR)?);
                copy_file(&file, &stat, &new, root, taken, abort)?;
                new.sync_all()?;
            }
            FileType::Symlink => {
                taken.more(Quota::blocks(0))?;
                let target = readlinkat(&*from, &name, Vec::new())?;
                symlinkat(&target, &*to, &name)?;
                root.owner.give_link(&*to, &name)?;
            }
            FileType::Directory => {
                if (found.st_dev, found.st_ino) == (target.st_dev, target.st_ino) {
                    let text = "The copy would lie in what is copied. Choose another destination.";
                    return Err(Trouble::told(Code::PathInvalid, text));
                }
                if depth >= MAX_DEPTH {
                    let text =
                        format!("Directories are nested deeper than {MAX_DEPTH}, which is not copied.");
                    return Err(Trouble::told(Code::TooLarge, text));
                }
                taken.more(Quota::blocks(0))?;
                let inner = enter(&*from, &name)?;
                mkdirat(&*to, &name, Mode::RWXU)?;
                let copy = enter(&*to, &name)?;
                open.push((names(&inner)?, inner, found, copy));
            }
            _ => left_out += 1,
        }
    }
    Ok(left_out)
}

fn copy_file(
    source: &File,
    stat: &Stat,
    copy: &File,
    root: &Root,
    taken: &mut Taken,
    abort: &Abort,
) -> Result<(), Trouble> {
    use std::io::Read;
    // Half of it may be a hole, but what is copied has none.
    let mut left = u64::try_from(stat.st_size).unwrap_or(0);
    taken.more(Quota::blocks(0))?;
    while left > 0 {
        abort.check()?;
        let piece = left.min(PIECE);
        taken.more(piece)?;
        let copied = io::copy(&mut source.take(piece), &mut &*copy)?;
        if copied == 0 {
            break;
        }
        left -= copied;
    }
    dress(copy, None, root.owner)?;
    rustix::fs::fchmod(copy, Mode::from_raw_mode(stat.st_mode & 0o777))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use cap_std::ambient_authority;
    use cap_std::fs::Dir;

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
        let mut deep = enter(&parent, c"tree").unwrap();
        for _ in 0..3000 {
            mkdirat(&deep, "d", Mode::RWXU).unwrap();
            deep = enter(&deep, c"d").unwrap();
        }
        drop(deep);
        let remove = |name| remove_entry(&parent, name, None, &Abort::default()).unwrap();
        remove(c"tree");
        assert_eq!(fs::read_dir(inside.path()).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(outside.path().join("kept")).unwrap(), "x");
        remove(c"tree");
        symlink(outside.path(), inside.path().join("link")).unwrap();
        remove(c"link");
        assert!(outside.path().join("kept").exists() && !inside.path().join("link").exists());
    }
}
