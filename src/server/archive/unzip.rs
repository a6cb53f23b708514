//! Reads a zip into an [`Intake`].
//!
//! Its directory is the truth, as for most readers. It is looked at twice: once to refuse what must not be unpacked
//! before anything is written, and once to unpack. Neither holds more of it in memory than a window.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, SystemTime};

use flate2::read::DeflateDecoder;
use rawzip::time::{UtcDateTime, ZipDateTimeKind};
use rawzip::{
    CompressionMethod, CreatorSystem, ErrorKind, FileReader, RECOMMENDED_BUFFER_SIZE, ZipArchive,
    ZipFileHeaderRecord,
};

use super::error::Refusal;
use super::intake::{Intake, Traits};
use super::name::EntryName;
use super::{Error, MAX_ENTRIES};
use crate::server::progress::Stage;

/// What every entry takes in the file before its data, at least.
const LOCAL_HEADER: u64 = 30;

/// An entry that may be unpacked.
struct Fit {
    /// `None` is the top directory itself.
    name: Option<EntryName>,
    is_directory: bool,
    traits: Traits,
}

/// Unpacks all of it.
pub fn unpack(file: File, intake: &mut Intake) -> Result<(), Error> {
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive = ZipArchive::from_file(file, &mut buffer).map_err(of_zip)?;
    look(&archive, &mut buffer, intake)?;
    let mut entries = archive.entries(&mut buffer);
    // One decoder for all entries: each would take some 40 KB anew.
    let mut decoder = None;
    while let Some(header) = entries.next_entry().map_err(of_zip)? {
        let Fit { name, is_directory, traits } = check(&header)?;
        let Some(name) = name else { continue };
        if is_directory {
            intake.directory(&name, traits)?;
            continue;
        }
        let (size, method) = (header.uncompressed_size_hint(), header.compression_method());
        let entry = archive.get_entry(header.wayfinder()).map_err(of_zip)?;
        if method == CompressionMethod::STORE {
            let content = entry.verifying_reader(entry.reader());
            intake.file(&name, traits, size, &mut intake.job.meter.reader(content))?;
        } else {
            let decoder = match &mut decoder {
                Some(decoder) => {
                    DeflateDecoder::reset(decoder, entry.reader());
                    decoder
                }
                none => none.insert(DeflateDecoder::new(entry.reader())),
            };
            let content = entry.verifying_reader(Read::by_ref(decoder));
            intake.file(&name, traits, size, &mut intake.job.meter.reader(content))?;
        }
    }
    Ok(())
}

/// The first look: every entry is fit to be unpacked, there are not too many, they are not too large together, and no
/// two share their data, which is how a small zip becomes petabytes.
fn look(archive: &ZipArchive<FileReader>, buffer: &mut [u8], intake: &mut Intake) -> Result<(), Error> {
    let (mut spans, mut bytes) = (Vec::new(), 0_u64);
    let mut entries = archive.entries(buffer);
    while let Some(header) = entries.next_entry().map_err(of_zip)? {
        intake.job.abort.check()?;
        check(&header)?;
        if spans.len() as u64 >= MAX_ENTRIES {
            return Err(Error::TooMany);
        }
        let end = header.compressed_size_hint().checked_add(LOCAL_HEADER);
        let end = end.and_then(|length| length.checked_add(header.local_header_offset()));
        spans.push((header.local_header_offset(), end.ok_or_else(|| Error::damaged("a size overflows"))?));
        bytes = bytes
            .checked_add(header.uncompressed_size_hint())
            .ok_or_else(|| Error::damaged("a size overflows"))?;
    }
    if spans.len() as u64 != archive.entries_hint() {
        return Err(Error::damaged("it has another number of entries than it says"));
    }
    intake.expect(spans.len() as u64, bytes)?;
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(Error::damaged("two entries share their data"));
    }
    intake.job.meter.begin(Stage::Extracting, Some(bytes));
    Ok(())
}

fn check(header: &ZipFileHeaderRecord) -> Result<Fit, Error> {
    let path = header.file_path();
    let bytes = path.as_bytes();
    let refused = |why| Error::entry(bytes, why);
    let from_unix =
        matches!(header.version_made_by().creator_system(), CreatorSystem::UNIX | CreatorSystem::MACOS);
    let name = if from_unix { EntryName::parse(bytes) } else { EntryName::parse_dos(bytes) };
    let name = name.map_err(|bad| refused(Refusal::Name(bad)))?;
    let mode = header.mode().value();
    let is_directory = match mode & 0o170_000 {
        0o120_000 => return Err(refused(Refusal::Link)),
        0o040_000 => true,
        0o100_000 | 0 => bytes.ends_with(b"/") || (!from_unix && bytes.ends_with(b"\\")),
        _ => return Err(refused(Refusal::Special)),
    };
    if mode & 0o6000 != 0 {
        return Err(refused(Refusal::SetId));
    }
    if header.flags().is_encrypted() || header.flags().has_strong_encryption() {
        return Err(Error::Unsupported("encrypted files"));
    }
    if !matches!(header.compression_method(), CompressionMethod::STORE | CompressionMethod::DEFLATE) {
        return Err(Error::Unsupported("a compression other than deflate"));
    }
    if name.is_none() && !is_directory {
        return Err(Error::damaged("a file has no name"));
    }
    // Writers that know no modes leave zero.
    let mode = Some(mode & 0o777).filter(|mode| from_unix && *mode != 0);
    Ok(Fit { name, is_directory, traits: Traits { mode, modified: modified(header) } })
}

/// A time without a zone is taken as UTC: what the writer's zone was nobody knows.
fn modified(header: &ZipFileHeaderRecord) -> Option<SystemTime> {
    let time = match header.last_modified() {
        ZipDateTimeKind::Utc(time) => time,
        ZipDateTimeKind::Local(t) => {
            UtcDateTime::from_components(t.year(), t.month(), t.day(), t.hour(), t.minute(), t.second(), 0)?
        }
    };
    let seconds = u64::try_from(time.to_unix()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn of_zip(error: rawzip::Error) -> Error {
    match error.into_kind() {
        ErrorKind::IO(error) if error.raw_os_error().is_some() => error.into(),
        kind => Error::damaged(kind),
    }
}
