//! Reads a tar into an [`Intake`].
//!
//! Entries are taken raw and what describes the next one (GNU long names, pax) is read here, since the crate reads such
//! an entry whole, however large it says it is. Where two of them disagree about a name or a size the archive is
//! refused: parsers that pick differently are how files are smuggled.

use std::io::Read;
use std::time::{Duration, SystemTime};

use tar::{Archive, Entry, EntryType, Header, PaxExtensions};

use super::error::Refusal;
use super::intake::{Intake, Traits, reading};
use super::name::EntryName;
use super::{Error, drain};

/// Longest description of a next entry: the longest name with room for the rest that pax has.
const MAX_DESCRIPTION: u64 = 64 << 10;
/// What may follow the last entry and is read, to see that the compressed data ends as it says: more than any writer's
/// padding.
const MAX_TAIL: u64 = 1 << 20;

/// What stands before an entry and is about it.
#[derive(Default)]
struct Description {
    long_name: Option<Vec<u8>>,
    pax: Option<Vec<u8>>,
}

/// Unpacks all of it.
pub fn unpack(source: impl Read, intake: &mut Intake) -> Result<(), Error> {
    let mut archive = Archive::new(source);
    let mut next = Description::default();
    for entry in archive.entries().map_err(reading)?.raw(true) {
        intake.job.abort.check()?;
        let mut entry =
            entry.map_err(|e| intake.job.abort.check().map_or_else(Error::from, |()| reading(e)))?;
        match entry.header().entry_type() {
            EntryType::GNULongName => set(&mut next.long_name, describe(&mut entry)?)?,
            EntryType::XHeader => set(&mut next.pax, describe(&mut entry)?)?,
            // The target of a link, which is refused when it comes.
            EntryType::GNULongLink => drop(describe(&mut entry)?),
            EntryType::XGlobalHeader => global(&describe(&mut entry)?)?,
            _ => take(&mut entry, std::mem::take(&mut next), intake)?,
        }
    }
    if next.long_name.is_some() || next.pax.is_some() {
        return Err(Error::damaged("it ends before the entry that is described"));
    }
    drain(&mut archive.into_inner(), MAX_TAIL).map_err(reading)
}

/// Whether a block is the head of an entry: its checksum tells.
pub fn is_header(block: &[u8]) -> bool {
    let Ok(block) = <&[u8; 512]>::try_from(block) else { return false };
    let mut header = Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    let claimed = header.cksum().ok();
    header.set_cksum();
    claimed.is_some() && header.cksum().ok() == claimed
}

fn set(place: &mut Option<Vec<u8>>, description: Vec<u8>) -> Result<(), Error> {
    match place.replace(description) {
        None => Ok(()),
        Some(_) => Err(Error::damaged("an entry is described twice")),
    }
}

fn describe<R: Read>(entry: &mut Entry<R>) -> Result<Vec<u8>, Error> {
    if entry.size() > MAX_DESCRIPTION {
        return Err(Error::damaged("the description of an entry is too long"));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).map_err(reading)?;
    if text.len() as u64 != entry.size() {
        return Err(Error::damaged("it ends within the description of an entry"));
    }
    Ok(text)
}

/// Descriptions of all entries that follow. Writers put a comment there; what would change names or sizes is refused.
fn global(text: &[u8]) -> Result<(), Error> {
    for field in PaxExtensions::new(text) {
        let field = field.map_err(Error::damaged)?;
        let key = field.key_bytes();
        if matches!(key, b"path" | b"size" | b"linkpath") || key.starts_with(b"GNU.sparse.") {
            return Err(Error::Unsupported("names or sizes that are meant for all entries"));
        }
    }
    Ok(())
}

fn take<R: Read>(entry: &mut Entry<R>, about: Description, intake: &mut Intake) -> Result<(), Error> {
    let size = entry.size();
    let mut name = about.long_name.map(|mut name| {
        // GNU writes the C string with its end.
        if name.last() == Some(&0) {
            name.pop();
        }
        name
    });
    for field in PaxExtensions::new(about.pax.as_deref().unwrap_or_default()) {
        let field = field.map_err(Error::damaged)?;
        let value = field.value_bytes();
        match field.key_bytes() {
            b"path" if name.as_deref().is_some_and(|long| long != value) => {
                return Err(Error::damaged("an entry has two names"));
            }
            b"path" => name = Some(value.to_vec()),
            b"size" if value != size.to_string().as_bytes() => {
                return Err(Error::Unsupported("a file whose size is told in two ways"));
            }
            key if key.starts_with(b"GNU.sparse.") => return Err(Error::Unsupported("sparse files")),
            _ => {}
        }
    }
    let header = entry.header();
    let bytes = name.unwrap_or_else(|| header.path_bytes().into_owned());
    let refused = |why| Error::entry(&bytes, why);
    let kind = header.entry_type();
    match kind {
        EntryType::Symlink | EntryType::Link => return Err(refused(Refusal::Link)),
        EntryType::Block | EntryType::Char | EntryType::Fifo => return Err(refused(Refusal::Special)),
        EntryType::GNUSparse => return Err(Error::Unsupported("sparse files")),
        EntryType::Regular | EntryType::Continuous | EntryType::Directory => {}
        _ => return Err(Error::Unsupported("an entry of a kind that is not known")),
    }
    let mode = header.mode().map_err(Error::damaged)?;
    if mode & 0o6000 != 0 {
        return Err(refused(Refusal::SetId));
    }
    let modified = header.mtime().ok().map(Duration::from_secs);
    let modified = modified.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    let traits = Traits { mode: Some(mode), modified };
    let name = EntryName::parse(&bytes).map_err(|bad| refused(Refusal::Name(bad)))?;
    // Writers of before 1988 tell a directory by its name alone.
    let is_directory = kind == EntryType::Directory || bytes.ends_with(b"/");
    match name {
        _ if is_directory && size > 0 => Err(Error::damaged("a directory has content")),
        Some(name) if is_directory => intake.directory(&name, traits),
        Some(name) => intake.file(&name, traits, size, entry),
        None if is_directory => Ok(()),
        None => Err(Error::damaged("a file has no name")),
    }
}
