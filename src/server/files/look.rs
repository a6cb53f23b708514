//! Looking at entries without opening them: listings, information, searches.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use cap_std::fs::{OpenOptions, OpenOptionsExt};
use rustix::fs::{AtFlags, Dir as Entries, FileType, OFlags, Stat, statat};

use super::place::{enter, kind, readable};
use super::temporary::{self, JOB};
use super::{Root, Trouble};
use crate::protocol::file::{FileEntry, FileKind, Modified, SearchKind};
use crate::protocol::{FileReply, RelPath};
use crate::server::abort::Abort;

/// Entries in one listing.
const MAX_ENTRIES: usize = 10_000;
/// Results of one search, how long it may take, and how deep it goes: each level holds a descriptor.
const MAX_FOUND: usize = 1000;
const SEARCH_TIME: Duration = Duration::from_secs(5);
const SEARCH_DEPTH: usize = 32;

/// The entries of a directory, directories first, each group by name.
pub fn list(root: &Root, path: &RelPath, abort: &Abort, reply: FileReply) -> Result<FileReply, Trouble> {
    let dir = root.dir.open_dir(path.as_str())?;
    let (mut files, mut truncated) = (Vec::new(), false);
    for name in names(&dir)? {
        abort.check()?;
        let name = name?;
        if is_hidden(name.to_bytes()) {
            continue;
        }
        if files.len() == MAX_ENTRIES {
            truncated = true;
            break;
        }
        // What vanished since its name was read is not there.
        let Ok(stat) = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let shown = name.to_string_lossy();
        let target = (kind(&stat) == FileType::Symlink).then(|| inside(root, path, &shown)).flatten();
        files.push(entry(&shown, &stat, target.as_ref(), None));
    }
    files.sort_unstable_by(|a, b| {
        let is_file = |entry: &FileEntry| entry.kind != FileKind::Directory;
        is_file(a).cmp(&is_file(b)).then_with(|| a.name.cmp(&b.name))
    });
    Ok(FileReply { files: Some(files), truncated: truncated.then_some(true), ..reply })
}

/// What is known of one entry.
pub fn info(root: &Root, path: &RelPath, reply: FileReply) -> Result<FileReply, Trouble> {
    let (name, stat) = match path.split() {
        None => ("/", rustix::fs::fstat(&root.dir)?),
        Some((_, name)) => (name, root.place(path)?.look()?.ok_or(rustix::io::Errno::NOENT)?),
    };
    let target = match kind(&stat) {
        FileType::Symlink => Some(follow(root, path.as_str())?),
        _ => None,
    };
    let entry = entry(name, &stat, target.as_ref(), None);
    let real = target.as_ref().unwrap_or(&stat);
    Ok(FileReply {
        name: Some(entry.name),
        kind: Some(entry.kind),
        size: Some(entry.size),
        modified: Some(entry.modified),
        permissions: Some(entry.mode.clone()),
        mode: Some(entry.mode),
        extension: entry.extension,
        owner: Some(real.st_uid),
        group: Some(real.st_gid),
        ..reply
    })
}

/// Entries below a directory whose names fit, for as long as a search may take.
pub fn search(
    root: &Root,
    path: &RelPath,
    query: &str,
    wanted: Option<&SearchKind>,
    abort: &Abort,
    reply: FileReply,
) -> Result<FileReply, Trouble> {
    let deadline = Instant::now() + SEARCH_TIME;
    let query = query.to_lowercase();
    let start = if path.is_root() { String::new() } else { format!("{}/", path.as_str()) };
    let mut open = vec![(names(&root.dir.open_dir(path.as_str())?)?, start)];
    let (mut files, mut truncated) = (Vec::new(), false);
    loop {
        abort.check()?;
        let depth = open.len();
        let Some((entries, prefix)) = open.last_mut() else { break };
        let Some(name) = entries.next() else {
            open.pop();
            continue;
        };
        if files.len() == MAX_FOUND || Instant::now() >= deadline {
            truncated = true;
            break;
        }
        let Ok(name) = name else { continue };
        if is_hidden(name.to_bytes()) {
            continue;
        }
        let Ok(dir) = entries.dir.fd() else { continue };
        let Ok(stat) = statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let shown = name.to_string_lossy();
        if fits(&shown.to_lowercase(), &query) && is_wanted(&shown, &stat, wanted) {
            files.push(entry(&shown, &stat, None, Some(format!("{prefix}{shown}"))));
        }
        if kind(&stat) != FileType::Directory {
            continue;
        }
        match enter(dir, &name).and_then(Entries::new) {
            _ if depth >= SEARCH_DEPTH => truncated = true,
            Ok(dir) => {
                let prefix = format!("{prefix}{shown}/");
                open.push((Names { dir }, prefix));
            }
            // It went away, or may not be looked into.
            Err(_) => {}
        }
    }
    Ok(FileReply { files: Some(files), truncated: Some(truncated), ..reply })
}

/// The names in a directory, without its own two.
pub struct Names {
    pub dir: Entries,
}

pub fn names(dir: impl AsFd) -> Result<Names, Trouble> {
    Ok(Names { dir: Entries::new(readable(dir)?)? })
}

impl Iterator for Names {
    type Item = rustix::io::Result<CString>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.dir.read()? {
                Ok(entry) if is_own(entry.file_name()) => {}
                entry => return Some(entry.map(|entry| entry.file_name().to_owned())),
            }
        }
    }
}

/// What the Agent itself works on, and what a crash of it has left until that is swept.
fn is_hidden(name: &[u8]) -> bool {
    temporary::is_ours(name) || name.starts_with(JOB.as_bytes())
}

fn is_own(name: &CStr) -> bool {
    name == c"." || name == c".."
}

/// What a link leads to, as long as it stays inside.
fn inside(root: &Root, path: &RelPath, name: &str) -> Option<Stat> {
    let path = if path.is_root() { name.to_owned() } else { format!("{}/{name}", path.as_str()) };
    follow(root, &path).ok()
}

/// Looks at what a path leads to, without opening it.
pub fn follow(root: &Root, path: &str) -> Result<Stat, Trouble> {
    let only_stand_for_it = OFlags::PATH.bits().cast_signed();
    let opened = root.dir.open_with(path, OpenOptions::new().read(true).custom_flags(only_stand_for_it))?;
    Ok(rustix::fs::fstat(opened)?)
}

/// `target` is what a link leads to, where it stays inside.
fn entry(name: &str, stat: &Stat, target: Option<&Stat>, path: Option<String>) -> FileEntry {
    let real = target.unwrap_or(stat);
    let kind = match kind(real) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Special,
    };
    FileEntry {
        name: name.to_owned(),
        path,
        kind,
        size: if kind == FileKind::File { u64::try_from(real.st_size).unwrap_or(0) } else { 0 },
        modified: modified(real),
        mode: mode(real),
        extension: (kind == FileKind::File).then(|| extension(name)).flatten(),
        link: self::kind(stat) == FileType::Symlink,
    }
}

/// What follows the last dot, in lower case; a name that begins with its only dot has none.
fn extension(name: &str) -> Option<String> {
    let (stem, extension) = name.rsplit_once('.')?;
    (!stem.is_empty() && !extension.is_empty()).then(|| extension.to_lowercase())
}

/// Nine permission bits, as three octal digits.
pub fn mode(stat: &Stat) -> String {
    format!("{:03o}", stat.st_mode & 0o777)
}

pub fn modified(stat: &Stat) -> Modified {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    Modified(seconds.saturating_mul(1000).saturating_add(stat.st_mtime_nsec / 1_000_000))
}

fn is_wanted(name: &str, stat: &Stat, wanted: Option<&SearchKind>) -> bool {
    match wanted {
        None => true,
        Some(SearchKind::File) => kind(stat) == FileType::RegularFile,
        Some(SearchKind::Directory) => kind(stat) == FileType::Directory,
        Some(SearchKind::Extension(wanted)) => {
            kind(stat) == FileType::RegularFile && extension(name).as_ref() == Some(wanted)
        }
    }
}

/// Whether a name holds the query, or fits it as a whole where it has `*` or `?` in it. Both are in lower case. Takes at
/// most as many steps as the product of their lengths.
fn fits(name: &str, query: &str) -> bool {
    if !query.contains(['*', '?']) {
        return name.contains(query);
    }
    let (name, query): (Vec<char>, Vec<char>) = (name.chars().collect(), query.chars().collect());
    let (mut n, mut q) = (0, 0);
    // Where to go on when what follows the last star does not fit: one character later.
    let mut back = None;
    while n < name.len() {
        match query.get(q) {
            Some('*') => {
                back = Some((q + 1, n));
                q += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (n, q) = (n + 1, q + 1),
            _ => match back {
                None => return false,
                Some((after, from)) => {
                    back = Some((after, from + 1));
                    (n, q) = (from + 1, after);
                }
            },
        }
    }
    query[q..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_by_part_or_by_pattern() {
        for (name, query, want) in [
            ("server.properties", "prop", true),
            ("server.properties", "prup", false),
            ("server.properties", "*.properties", true),
            ("server.properties", "*.prop", false),
            ("server.properties", "s?rver.*", true),
            ("server.properties", "*r*r*r*s", true),
            ("a", "?*?", false),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaab", "*a*a*a*a*a*a*c", false),
            ("", "*", true),
        ] {
            assert_eq!(fits(name, query), want, "{name} {query}");
        }
    }

    #[test]
    fn extensions() {
        for (name, want) in [("a.JAR", Some("jar")), (".env", None), ("a.", None), ("a.tar.gz", Some("gz"))] {
            assert_eq!(extension(name).as_deref(), want, "{name}");
        }
    }
}
