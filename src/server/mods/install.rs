//! Installs, uninstalls and lists mods.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use ring::digest::{Context, SHA256};
use rustix::fs::Mode;

use super::records::{Keep, ModFile, ModRecord, Mods, Stamp};
use crate::protocol::mods::{InstallMod, ModView};
use crate::protocol::{Code, Fault};
use crate::server::abort::Abort;
use crate::server::archive::walk::Walk;
use crate::server::archive::{self, Job, Room, Staging, open_regular, place};
use crate::server::download::{self, Downloaded, Fetch};
use crate::server::files::Trouble;
use crate::server::files::place::{open_dir, open_entry};
use crate::server::progress::{Meter, Stage};

/// Most mods of a server, and most files of one.
const MAX_MODS: usize = 1024;
const MAX_FILES: usize = 10_000;
/// Names in the job's own directory.
const DOWNLOAD: &str = "download";
const CONTENT: &str = "content";

/// Where a server's mods are and are known.
pub struct Place<'a> {
    pub keep: &'a dyn Keep,
    /// The mod directory, from the server's own.
    pub mod_dir: &'a str,
    pub job: &'a Job<'a>,
}

/// Why it was not done.
#[derive(Debug)]
pub enum Error {
    Archive(archive::Error),
    Download(download::Error),
    Told(Fault),
    /// The Agent's own record of mods.
    Record(io::Error),
}

/// What is to be installed, in the job's own directory.
struct Content {
    /// Size and hash of each file, by its path from the mod directory.
    files: BTreeMap<String, (u64, String)>,
    directories: BTreeSet<String>,
}

/// Downloads and installs a mod; an older version of it is replaced.
pub fn install(
    place: &Place,
    wanted: &InstallMod,
    from: &dyn Fetch,
    staging: &Staging,
) -> Result<ModView, Error> {
    let job = place.job;
    let mut mods = place.keep.load().map_err(Error::Record)?;
    let older = mods.mods.iter().position(|known| known.id == wanted.id).map(|at| mods.mods.remove(at));
    if mods.mods.len() >= MAX_MODS {
        return Err(told(
            Code::TooLarge,
            format!("A server has at most {MAX_MODS} mods. Uninstall one first."),
        ));
    }
    place::check_target(&job.root.dir, Path::new(place.mod_dir))?;
    let mut room = Room::new(job.root);
    let content = fetch(wanted, from, staging, &mut room, job)?;
    job.meter.stage(Stage::Installing);
    check_free(place, &mods, older.as_ref(), &content)?;

    let below = |path: &String| join(place.mod_dir, path);
    let files: Vec<ModFile> = content
        .files
        .iter()
        .map(|(path, (size, sha256))| ModFile {
            path: below(path),
            size: *size,
            sha256: sha256.clone(),
            stamp: None,
        })
        .collect();
    let made = content.directories.iter().map(below);
    let directories: Vec<String> = made.filter(|path| job.root.dir.symlink_metadata(path).is_err()).collect();
    let mut record = ModRecord {
        id: wanted.id.clone(),
        name: wanted.name.clone(),
        version: wanted.version.clone(),
        files,
        directories,
    };
    let (old_files, old_directories) = older.map(|o| (o.files, o.directories)).unwrap_or_default();
    // The old and the new are known before anything moves: whatever ends this, each file belongs to somebody.
    let mut both = record.clone();
    both.files
        .extend(old_files.iter().filter(|old| !record.files.iter().any(|new| new.path == old.path)).cloned());
    both.directories.extend(old_directories.iter().filter(|old| !record.directories.contains(old)).cloned());
    both.directories.sort_unstable();
    both.directories.dedup();
    mods.mods.push(both.clone());
    place.keep.save(&mods).map_err(Error::Record)?;

    let from = open_dir(staging.dir(), CONTENT)?;
    let placed = place::place(&from, Path::new(place.mod_dir), job)?;
    room.keep();
    job.root.quota.give_back(placed.freed);
    let new: BTreeSet<&str> = record.files.iter().map(|file| file.path.as_str()).collect();
    let stale = old_files.iter().filter(|old| !new.contains(old.path.as_str()));
    remove_files(place, stale)?;
    // What was made for the old version and is still used is the new one's.
    record.directories = remove_directories(&job.root.dir, &both.directories);
    for file in &mut record.files {
        let found = open_regular(&job.root.dir, Path::new(&file.path)).and_then(|file| Ok(file.metadata()?));
        file.stamp = found.ok().map(|found| Stamp::of(&found));
    }
    let view = plain_view(&record);
    mods.mods.pop();
    mods.mods.push(record);
    place.keep.save(&mods).map_err(Error::Record)?;
    Ok(view)
}

/// Removes exactly what a mod brought, changed or not. Gives the mods that are left and how many files went.
pub fn uninstall(place: &Place, id: &str) -> Result<(Mods, u64), Error> {
    let mut mods = place.keep.load().map_err(Error::Record)?;
    let Some(at) = mods.mods.iter().position(|known| known.id == id) else {
        return Err(told(Code::FileNotFound, "There is no such mod on this server."));
    };
    let removed = remove_files(place, &mods.mods[at].files)?;
    remove_directories(&place.job.root.dir, &mods.mods[at].directories);
    // Last, so that after a crash half-way it can be repeated.
    mods.mods.remove(at);
    place.keep.save(&mods).map_err(Error::Record)?;
    Ok((mods, removed))
}

/// The mods of a server, with what is no longer as it was installed.
pub fn list(place: &Place) -> Result<Vec<ModView>, Error> {
    let mods = place.keep.load().map_err(Error::Record)?;
    mods.mods.iter().map(|known| view(place, known)).collect()
}

/// The same with what has changed since.
pub fn view(place: &Place, known: &ModRecord) -> Result<ModView, Error> {
    let mut view = plain_view(known);
    for file in &known.files {
        place.job.abort.check().map_err(archive::Error::from)?;
        match standing(place, file)? {
            Standing::Same => {}
            Standing::Changed => view.changed.push(file.path.clone()),
            Standing::Missing => view.missing.push(file.path.clone()),
        }
    }
    Ok(view)
}

enum Standing {
    Same,
    Changed,
    Missing,
}

/// Its content is read only when the file system says that something was done to it.
fn standing(place: &Place, known: &ModFile) -> Result<Standing, Error> {
    let opened = match open_regular(&place.job.root.dir, Path::new(&known.path)) {
        Ok(file) => file,
        Err(archive::Error::NotFound(_)) => return Ok(Standing::Missing),
        // Something else stands in its place.
        Err(archive::Error::InTheWay(_)) => return Ok(Standing::Changed),
        Err(archive::Error::Files(trouble)) if trouble.fault().code == Code::PathInvalid => {
            return Ok(Standing::Changed);
        }
        Err(error) => return Err(error.into()),
    };
    let found = opened.metadata().map_err(archive::Error::from)?;
    if known.stamp == Some(Stamp::of(&found)) {
        return Ok(Standing::Same);
    }
    if found.len() != known.size {
        return Ok(Standing::Changed);
    }
    let same = hash(opened, place.job)? == known.sha256;
    Ok(if same { Standing::Same } else { Standing::Changed })
}

fn plain_view(known: &ModRecord) -> ModView {
    ModView {
        id: known.id.clone(),
        name: known.name.clone(),
        version: known.version.clone(),
        files: known.files.iter().map(|file| file.path.clone()).collect(),
        changed: Vec::new(),
        missing: Vec::new(),
    }
}

/// Downloads into the job's own directory, checks, unpacks, and takes stock.
fn fetch(
    wanted: &InstallMod,
    from: &dyn Fetch,
    staging: &Staging,
    room: &mut Room,
    job: &Job,
) -> Result<Content, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = staging.dir().open_with(DOWNLOAD, &options).map_err(archive::Error::from)?.into_std();
    let fetched = download(wanted, from, &file, room, job.abort, job.meter)?;
    staging.dir().create_dir(CONTENT).map_err(archive::Error::from)?;
    let content = open_dir(staging.dir(), CONTENT)?;
    if wanted.unpack {
        archive::unpack(file, content.try_clone().map_err(archive::Error::from)?, room, job)?;
        staging.dir().remove_file(DOWNLOAD).map_err(archive::Error::from)?;
        room.give_back(fetched.size);
        return take_stock(&content, job);
    }
    let Some(name) = fetched.name else {
        let text = "modUrl: the address and its server's answer name no file that could be used";
        return Err(told(Code::InvalidPayload, text));
    };
    job.root.owner.give(&file).map_err(archive::Error::from)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).map_err(archive::Error::from)?;
    file.sync_all().map_err(archive::Error::from)?;
    staging.dir().rename(DOWNLOAD, &content, &name).map_err(archive::Error::from)?;
    let files = BTreeMap::from([(name, (fetched.size, hex(&fetched.sha256)))]);
    Ok(Content { files, directories: BTreeSet::new() })
}

/// Downloads into a file, and makes sure that it is what was meant.
///
/// # Errors
/// Why nothing came, or `CHECKSUM_MISMATCH`.
pub fn download(
    wanted: &InstallMod,
    from: &dyn Fetch,
    mut to: &File,
    room: &mut Room,
    abort: &Abort,
    meter: &Meter,
) -> Result<Downloaded, Error> {
    let fetched = from.fetch(&wanted.url, &mut to, &mut |bytes| room.take(bytes), abort, meter);
    let fetched = fetched.map_err(Error::Download)?;
    if wanted.sha256.is_some_and(|wanted| wanted != fetched.sha256) {
        let text =
            "The download is not the file that was meant: its SHA-256 is another. Nothing was installed.";
        return Err(told(Code::ChecksumMismatch, text));
    }
    Ok(fetched)
}

/// What an archive has brought.
fn take_stock(content: &Dir, job: &Job) -> Result<Content, Error> {
    let mut found = Content { files: BTreeMap::new(), directories: BTreeSet::new() };
    let walk = Walk { dir: content, roots: &[String::new()], except: None, abort: job.abort };
    let mut failed = None;
    let walked = walk.run(&mut |item| {
        if item.is_dir {
            found.directories.insert(item.name.to_owned());
            return Ok(());
        }
        let file = open_entry(item.parent, item.own)?;
        let size = file.metadata()?.len();
        match hash(file, job) {
            Ok(sum) => drop(found.files.insert(item.name.to_owned(), (size, sum))),
            Err(error) => failed = Some(error),
        }
        let full = found.files.len() > MAX_FILES;
        if full || failed.is_some() { Err(archive::Error::TooMany) } else { Ok(()) }
    });
    match (failed, walked) {
        (Some(error), _) => Err(error),
        (None, Err(archive::Error::TooMany)) => {
            Err(told(Code::TooLarge, format!("A mod has at most {MAX_FILES} files.")))
        }
        (None, walked) => walked.map(|_| found).map_err(Error::from),
    }
}

/// A file that is there and not this mod's own older one is never written over: uninstalling would remove it.
fn check_free(
    place: &Place,
    others: &Mods,
    older: Option<&ModRecord>,
    content: &Content,
) -> Result<(), Error> {
    let own: BTreeSet<&str> =
        older.into_iter().flat_map(|older| &older.files).map(|file| file.path.as_str()).collect();
    let owners: BTreeMap<&str, &str> = others
        .mods
        .iter()
        .flat_map(|known| known.files.iter().map(|file| (file.path.as_str(), known.id.as_str())))
        .collect();
    for path in content.files.keys().map(|path| join(place.mod_dir, path)) {
        if own.contains(path.as_str()) {
            continue;
        }
        if let Some(owner) = owners.get(path.as_str()) {
            let text = format!("{path}: the mod {owner} has this file. Uninstall that one first.");
            return Err(told(Code::Conflict, text));
        }
        if place.job.root.dir.symlink_metadata(&path).is_ok() {
            let text = format!(
                "{path}: there is a file of this name that no mod brought. Rename or delete it first."
            );
            return Err(told(Code::FileExists, text));
        }
    }
    Ok(())
}

/// Removes files by their names, and nothing else that may stand there now.
fn remove_files<'a>(place: &Place, files: impl IntoIterator<Item = &'a ModFile>) -> Result<u64, Error> {
    let (root, mut removed) = (place.job.root, 0);
    for file in files {
        place.job.abort.check().map_err(archive::Error::from)?;
        match root.dir.remove_file(&file.path) {
            Ok(()) => {
                removed += 1;
                root.quota.give_back(file.size);
            }
            Err(e) if is_no_file(&e) => {}
            Err(e) => return Err(archive::Error::at(&file.path, e).into()),
        }
    }
    Ok(removed)
}

/// Not there, or something that no mod has brought.
fn is_no_file(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

/// Removes those of the directories that are empty, and gives the others.
fn remove_directories(dir: &Dir, directories: &[String]) -> Vec<String> {
    let mut left: Vec<String> = directories.to_vec();
    left.sort_unstable();
    let mut kept: Vec<String> = left
        .into_iter()
        .rev()
        .filter(|path| matches!(dir.remove_dir(path), Err(e) if !is_no_file(&e)))
        .collect();
    kept.reverse();
    kept
}

fn join(mod_dir: &str, path: &str) -> String {
    PathBuf::from(mod_dir).join(path).to_string_lossy().into_owned()
}

fn hash(file: File, job: &Job) -> Result<String, Error> {
    let (mut sum, mut buffer) = (Context::new(&SHA256), vec![0; 64 << 10]);
    let mut file = io::BufReader::with_capacity(0, file);
    loop {
        job.abort.check().map_err(archive::Error::from)?;
        match file.read(&mut buffer).map_err(archive::Error::from)? {
            0 => return Ok(hex(sum.finish().as_ref())),
            count => sum.update(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn told(code: Code, message: impl Into<String>) -> Error {
    Error::Told(Fault::new(code, message))
}

impl From<archive::Error> for Error {
    fn from(error: archive::Error) -> Error {
        Error::Archive(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Archive(error.into())
    }
}

impl Error {
    /// As the Panel is told.
    pub fn fault(&self) -> Fault {
        match self {
            Error::Archive(error) => error.fault("modUrl"),
            Error::Download(error) => error.fault("modUrl"),
            Error::Told(fault) => fault.clone(),
            Error::Record(error) => Trouble::from(io::Error::from(error.kind())).fault(),
        }
    }

    /// Whether the kernel denied it to this user.
    pub fn is_denied(&self) -> bool {
        match self {
            Error::Archive(error) | Error::Download(download::Error::Write(error)) => error.is_denied(),
            _ => false,
        }
    }

    /// For the log.
    pub fn cause(&self) -> String {
        match self {
            Error::Archive(error) => error.cause(),
            Error::Download(error) => error.cause(),
            Error::Told(fault) => fault.to_string(),
            Error::Record(error) => format!("the record of mods: {error}"),
        }
    }
}
