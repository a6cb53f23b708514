//! Moves what was unpacked to where it belongs, entry by entry by rename: a file that is there is replaced in one step,
//! a directory that is there keeps what else is in it.

use std::io;
use std::path::{Component, Path, PathBuf};

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, MetadataExt};

use super::{Error, Job};
use crate::server::files::Owner;
use crate::server::files::place::open_below;

/// Refuses a target that is there and no directory, before anything is done.
pub fn check_target(dir: &Dir, target: &Path) -> Result<(), Error> {
    if target.as_os_str().is_empty() {
        return Ok(());
    }
    match dir.metadata(target) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::InTheWay(target.display().to_string())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::at(target.display(), e)),
    }
}

/// What is moved.
#[derive(Debug, Default)]
pub struct Placed {
    /// Each a file or a whole directory, relative to the target.
    pub moves: Vec<PathBuf>,
    /// Bytes of disk that the replaced files took.
    pub freed: u64,
}

/// Moves all that is in `from` into `target` beneath the server's directory, which is made where it is missing. Whether
/// everything fits is looked at before the first move.
pub fn place(from: &Dir, target: &Path, job: &Job) -> Result<Placed, Error> {
    let dir = &job.root.dir;
    check_target(dir, target)?;
    let to = make_dirs(dir, target, job.root.owner)?;
    let placed = plan(from, &to, job)?;
    for path in &placed.moves {
        from.rename(path, &to, path).map_err(|e| Error::at(path.display(), e))?;
    }
    rustix::fs::fsync(&to)?;
    Ok(placed)
}

/// What has to be renamed: what is not there whole, and file by file what is.
fn plan(from: &Dir, to: &Dir, job: &Job) -> Result<Placed, Error> {
    let (mut placed, mut waiting) = (Placed::default(), vec![PathBuf::new()]);
    while let Some(below) = waiting.pop() {
        let entries = if below.as_os_str().is_empty() { from.entries()? } else { from.read_dir(&below)? };
        for entry in entries {
            job.abort.check()?;
            let entry = entry?;
            let path = below.join(entry.file_name());
            let is_dir = entry.file_type()?.is_dir();
            match to.symlink_metadata(&path) {
                Ok(there) if there.is_dir() && is_dir => waiting.push(path),
                Ok(there) if there.is_dir() || is_dir => {
                    return Err(Error::InTheWay(path.display().to_string()));
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::at(path.display(), e)),
                there => {
                    placed.freed += there.map_or(0, |there| there.blocks().saturating_mul(512));
                    placed.moves.push(path);
                }
            }
        }
    }
    Ok(placed)
}

/// Opens the directory `path` beneath `dir`; the parts that are missing are made and given to `owner`.
pub fn make_dirs(dir: &Dir, path: &Path, owner: Owner) -> Result<Dir, Error> {
    let mut at = dir.try_clone()?;
    let mut builder = DirBuilder::new();
    builder.mode(0o755);
    let mut below = PathBuf::new();
    for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        below.push(part);
        // From the top each time, so that a link inside the directory may lead anywhere inside it.
        match dir.create_dir_with(&below, &builder) {
            Ok(()) => {
                at = open_below(dir, &below)?;
                owner.give(&at)?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                at = open_below(dir, &below).map_err(|e| Error::at(below.display(), e))?;
            }
            Err(e) => return Err(Error::at(below.display(), e)),
        }
    }
    Ok(at)
}
