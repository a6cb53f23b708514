//! Archives of a server's files: packing and unpacking zip, tar and tar.gz.
//!
//! What an archive says of itself is never believed. Its entries are written beneath a [`staging`] directory inside the
//! server's own, which is hidden, has nothing in it but what the job puts there, and goes away with the job. Only a whole
//! archive moves on from there, entry by entry by rename ([`place`]), so that each file is the old one or the new one.
//!
//! | module | holds |
//! |---|---|
//! | [`name`] | the rule for an entry's name; pure |
//! | [`staging`] | the directory that a job works in |
//! | [`intake`] | writes entries beneath a directory, within all bounds |
//! | [`unzip`], [`untar`] | read an archive into an intake |
//! | [`place`] | moves what was unpacked to where it belongs |
//! | [`walk`], [`mod@pack`] | find what goes into an archive and write it |
//!
//! Everything is relative to an open directory and follows no link on the way down. It runs on the thread of a job, owns
//! none, and never writes outside of the directory that it is given.

pub mod error;
pub mod intake;
pub mod name;
pub mod pack;
pub mod place;
pub mod staging;
pub mod untar;
pub mod unzip;
pub mod walk;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;

pub use error::Error;
pub use intake::{Intake, Room, Unpacked};
pub use pack::{Packed, pack};
pub use staging::Staging;

use super::abort::Abort;
use super::files::Root;
use super::progress::{Meter, Stage};
use crate::protocol::archive::Format;

/// Most files and directories that an archive may have.
pub const MAX_ENTRIES: u64 = 100_000;

/// What an archive job needs to know beside its files.
pub struct Job<'a> {
    pub root: &'a Root,
    pub abort: &'a Abort,
    pub meter: &'a Meter<'a>,
}

/// Unpacks the archive at `archive` into `target`, both beneath the server's directory. Nothing outside of `staging` is
/// touched before the whole archive has been read and found good.
pub fn extract(staging: &Staging, archive: &Path, target: &Path, job: &Job) -> Result<Unpacked, Error> {
    let file = open_regular(&job.root.dir, archive)?;
    place::check_target(&job.root.dir, target)?;
    let mut room = Room::new(job.root);
    let unpacked = unpack(file, staging.dir().try_clone()?, &mut room, job)?;
    job.meter.stage(Stage::Moving);
    let placed = place::place(staging.dir(), target, job)?;
    room.keep();
    job.root.quota.give_back(placed.freed);
    Ok(unpacked)
}

/// Unpacks an archive beneath `into`, an empty directory of the caller's.
pub fn unpack(file: File, into: Dir, room: &mut Room<'_>, job: &Job) -> Result<Unpacked, Error> {
    let size = file.metadata()?.len();
    let format = recognise(&file)?.ok_or(Error::Unknown)?;
    let mut intake = Intake::new(into, room, job);
    if format == Format::Zip {
        unzip::unpack(file, &mut intake)?;
    } else {
        job.meter.begin(Stage::Extracting, Some(size));
        let source = BufReader::with_capacity(64 << 10, job.meter.reader(file));
        match format {
            Format::TarGz => untar::unpack(flate2::bufread::MultiGzDecoder::new(source), &mut intake)?,
            _ => untar::unpack(source, &mut intake)?,
        }
    }
    Ok(intake.finish())
}

/// What kind of archive it is, by its own first bytes: names lie.
fn recognise(file: &File) -> io::Result<Option<Format>> {
    let mut head = [0; 512];
    let mut length = 0;
    while length < head.len() {
        match file.read_at(&mut head[length..], length as u64)? {
            0 => break,
            n => length += n,
        }
    }
    Ok(match &head[..length] {
        // The first entry, or the end of an archive without any.
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Format::Zip),
        [0x1f, 0x8b, ..] => Some(Format::TarGz),
        block if length == 512 && untar::is_header(block) => Some(Format::Tar),
        // An archive without any entry is zeros alone.
        block if length == 512 && block.iter().all(|byte| *byte == 0) => Some(Format::Tar),
        _ => None,
    })
}

/// Opens a regular file for reading and nothing else: a pipe would block, a device may do anything.
pub(super) fn open_regular(dir: &Dir, path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = dir.open_with(path, &options).map_err(|e| Error::at(path.display(), e))?.into_std();
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(Error::InTheWay(path.display().to_string())),
    }
}

/// Reads on until the end and throws away, at most `most` bytes.
fn drain(reader: &mut impl Read, most: u64) -> io::Result<()> {
    io::copy(&mut reader.take(most), &mut io::sink()).map(drop)
}
