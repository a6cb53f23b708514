//! Finds what goes into an archive: files and directories, by handle, without following a link below the paths that were
//! asked for. Links and special files are left out and counted: an archive that holds a link could not be unpacked
//! again, and opening a device may do anything.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use cap_std::fs::{Dir, ReadDir};
use rustix::fs::{AtFlags, FileType, Stat, statat};
use rustix::io::Errno;

use super::Error;
use super::name::{EntryName, MAX_DEPTH, RESERVED};
use crate::server::abort::Abort;
use crate::server::files::place::open_dir;

/// One thing that goes in. `name` is its path from the server's directory, `own` the one in `parent`.
pub struct Item<'a> {
    pub name: &'a str,
    pub parent: &'a Dir,
    pub own: &'a OsStr,
    pub stat: &'a Stat,
    pub is_dir: bool,
}

/// What to walk.
pub struct Walk<'a> {
    pub dir: &'a Dir,
    /// From [`roots`].
    pub roots: &'a [String],
    /// Device and inode of a file that is left out without being counted: the archive's own older version.
    pub except: Option<(u64, u64)>,
    pub abort: &'a Abort,
}

/// The paths that were asked for, without those that lie beneath others: every file goes in once. The empty path is the
/// whole directory.
pub fn roots<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, Error> {
    let parse = |path: &str| match EntryName::parse(path.as_bytes()) {
        Ok(name) => Ok(name.map(|name| name.as_str().to_owned()).unwrap_or_default()),
        Err(bad) => Err(Error::entry(path.as_bytes(), super::error::Refusal::Name(bad))),
    };
    let mut paths = paths.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    paths.sort_unstable();
    let all = paths.clone();
    let above =
        |path: &str| path.rmatch_indices('/').map(|(at, _)| path[..at].to_owned()).collect::<Vec<_>>();
    paths.retain(|path| {
        path.is_empty() || (!all[0].is_empty() && !above(path).iter().any(|up| all.binary_search(up).is_ok()))
    });
    paths.dedup();
    Ok(paths)
}

impl Walk<'_> {
    /// Visits every item, a directory before what is in it. Gives how many were left out.
    pub fn run(&self, visit: &mut dyn FnMut(Item) -> Result<(), Error>) -> Result<u64, Error> {
        let mut left_out = 0;
        for root in self.roots {
            if root.is_empty() {
                self.descend(self.dir.try_clone()?, String::new(), &mut left_out, visit)?;
                continue;
            }
            let (above, own) = root.rsplit_once('/').unwrap_or(("", root));
            let parent = match above {
                "" => self.dir.try_clone()?,
                above => self.dir.open_dir(above).map_err(|e| Error::at(root, e))?,
            };
            let stat = statat(&parent, own, AtFlags::SYMLINK_NOFOLLOW);
            let stat = stat.map_err(|e| Error::at(root, e.into()))?;
            let below = self.visit(root, &parent, OsStr::new(own), &stat, &mut left_out, visit)?;
            if let Some(below) = below {
                self.descend(below, root.clone(), &mut left_out, visit)?;
            }
        }
        Ok(left_out)
    }

    /// Everything below a directory, without recursion: each level holds two descriptors and no stack.
    fn descend(
        &self,
        top: Dir,
        name: String,
        left_out: &mut u64,
        visit: &mut dyn FnMut(Item) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut levels: Vec<(Dir, ReadDir, String)> = vec![(top.try_clone()?, top.entries()?, name)];
        while let Some((dir, entries, path)) = levels.last_mut() {
            self.abort.check()?;
            let Some(entry) = entries.next() else {
                levels.pop();
                continue;
            };
            let own: OsString = entry?.file_name();
            // What vanishes between its name being read and its being looked at was not there.
            let Ok(stat) = statat(&*dir, &own, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let name = own.to_str().filter(|own| !own.starts_with(RESERVED));
            let Some(name) =
                name.map(|own| if path.is_empty() { own.to_owned() } else { format!("{path}/{own}") })
            else {
                *left_out += u64::from(own.to_str().is_none());
                continue;
            };
            if let Some(below) = self.visit(&name, dir, &own, &stat, left_out, visit)? {
                if levels.len() >= MAX_DEPTH {
                    return Err(Error::TooDeep);
                }
                levels.push((below.try_clone()?, below.entries()?, name));
            }
        }
        Ok(())
    }

    /// Shows one item to the visitor; a directory is opened to go on in it.
    fn visit(
        &self,
        name: &str,
        parent: &Dir,
        own: &OsStr,
        stat: &Stat,
        left_out: &mut u64,
        visit: &mut dyn FnMut(Item) -> Result<(), Error>,
    ) -> Result<Option<Dir>, Error> {
        if self.except == Some((stat.st_dev, stat.st_ino)) {
            return Ok(None);
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_dir = kind == FileType::Directory;
        let fit = matches!(EntryName::parse(name.as_bytes()), Ok(Some(parsed)) if parsed.as_str() == name);
        if !fit || !(is_dir || kind == FileType::RegularFile) {
            *left_out += 1;
            return Ok(None);
        }
        let below = if is_dir { if_still_there(open_dir(parent, own), name)? } else { None };
        if is_dir && below.is_none() {
            *left_out += 1;
            return Ok(None);
        }
        visit(Item { name, parent, own, stat, is_dir })?;
        Ok(below)
    }
}

/// What became a link or something else, or went away meanwhile, is left out as such. What may not be read is not: a
/// backup that lacks it would look like a whole one.
pub fn if_still_there<T>(opened: io::Result<T>, name: &str) -> Result<Option<T>, Error> {
    match opened.map_err(|e| (Errno::from_io_error(&e), e)) {
        Ok(opened) => Ok(Some(opened)),
        Err((Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO), _)) => Ok(None),
        Err((_, error)) => Err(Error::at(name, error)),
    }
}

/// The device and inode of a file that may be there.
pub fn identity(dir: &Dir, path: &Path) -> Option<(u64, u64)> {
    use cap_std::fs::MetadataExt;
    dir.symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_asked_for_once() {
        for (paths, expected) in [
            (&["b", "a"][..], &["a", "b"][..]),
            (&["a/b", "a", "a-b", "a/b/c"], &["a", "a-b"]),
            (&["a", "./a/", "ab"], &["a", "ab"]),
            (&["x", "."], &[""]),
        ] {
            assert_eq!(roots(paths.iter().copied()).unwrap(), expected);
        }
        assert!(roots(["../x"]).is_err());
    }
}
