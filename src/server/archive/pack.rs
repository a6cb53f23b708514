//! Writes an archive of a server's files: into the job's own directory first, then by rename to where it belongs.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::rc::Rc;

use cap_std::fs::{MetadataExt, OpenOptions, OpenOptionsExt};
use flate2::{Compression, Crc};
use rawzip::time::UtcDateTime;
use rawzip::{CompressionMethod, DataDescriptorOutput, ZipArchiveWriter};
use rustix::fs::Mode;

use super::walk::{self, Item, Walk};
use super::{Error, Job, MAX_ENTRIES, Room, Staging, place};
use crate::protocol::archive::Format;
use crate::server::files::place::open_entry;
use crate::server::progress::{Metered, Stage};

/// Its name while it is written.
const UNFINISHED: &str = "archive";

/// What was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the archive.
    pub size: u64,
    pub files: u64,
    /// Links, special files and files whose names no archive can hold.
    pub skipped: u64,
}

/// Packs what is at `paths` into `archive`, all beneath the server's directory. An older archive of that name is replaced, and no archive
/// holds itself.
pub fn pack<'a>(
    staging: &Staging,
    paths: impl IntoIterator<Item = &'a str>,
    archive: &Path,
    format: Format,
    job: &Job,
) -> Result<Packed, Error> {
    let dir = &job.root.dir;
    let roots = walk::roots(paths)?;
    if dir.metadata(archive).is_ok_and(|found| found.is_dir()) {
        return Err(Error::InTheWay(archive.display().to_string()));
    }
    let above = archive.parent().unwrap_or(Path::new(""));
    place::check_target(dir, above)?;
    let walk = Walk { dir, roots: &roots, except: walk::identity(dir, archive), abort: job.abort };
    job.meter.stage(Stage::Looking);
    let (mut entries, mut bytes) = (0_u64, 0_u64);
    walk.run(&mut |item| {
        entries += 1;
        bytes = bytes.saturating_add(if item.is_dir { 0 } else { size_of(&item) });
        if entries > MAX_ENTRIES { Err(Error::TooMany) } else { Ok(()) }
    })?;
    job.meter.begin(Stage::Packing, Some(bytes));

    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let file = staging.dir().open_with(UNFINISHED, &options)?.into_std();
    let limit = Rc::new(RefCell::new(Limit { room: Room::new(job.root), over: None }));
    let written = write(&walk, Output { file, limit: limit.clone(), job }, format, job);
    let (file, files, skipped) = written.map_err(|error| limit.borrow_mut().over.take().unwrap_or(error))?;
    job.root.owner.give(&file)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
    file.sync_all()?;
    let size = file.metadata()?.len();
    job.abort.check()?;
    let above = place::make_dirs(dir, above, job.root.owner)?;
    let older = dir.symlink_metadata(archive).map_or(0, |older| older.blocks().saturating_mul(512));
    staging.dir().rename(UNFINISHED, dir, archive).map_err(|e| Error::at(archive.display(), e))?;
    rustix::fs::fsync(&above)?;
    limit.borrow_mut().room.keep();
    job.root.quota.give_back(older);
    Ok(Packed { size, files, skipped })
}

fn write<'a>(
    walk: &Walk,
    output: Output<'a>,
    format: Format,
    job: &'a Job<'a>,
) -> Result<(File, u64, u64), Error> {
    let output = BufWriter::with_capacity(64 << 10, output);
    let mut sink = match format {
        Format::Zip => Sink::Zip(Box::new(Zip { writer: ZipArchiveWriter::new(output), encoder: None })),
        Format::Tar => Sink::Tar(Box::new(tar::Builder::new(output))),
        Format::TarGz => {
            let encoder = flate2::write::GzEncoder::new(output, Compression::default());
            Sink::TarGz(Box::new(tar::Builder::new(encoder)))
        }
    };
    let (mut files, mut vanished) = (0, 0);
    let left_out = walk.run(&mut |item| {
        if item.is_dir {
            return sink.directory(&item);
        }
        // Opened without following a link, and looked at again: it may have been exchanged.
        let opened = walk::if_still_there(open_entry(item.parent, item.own), item.name)?;
        let Some(file) = opened.filter(is_regular) else {
            vanished += 1;
            return Ok(());
        };
        let size = file.metadata()?.len();
        sink.file(&item, size, Exactly { inner: job.meter.reader(file), left: size })?;
        files += 1;
        Ok(())
    })?;
    let output = sink.finish()?.into_inner().map_err(|e| Error::from(e.into_error()))?;
    Ok((output.file, files, left_out + vanished))
}

fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file())
}

fn size_of(item: &Item) -> u64 {
    u64::try_from(item.stat.st_size).unwrap_or(0)
}

/// Where the archive's bytes go: within the room, and no further once the job's end is asked for.
struct Output<'a> {
    file: File,
    limit: Rc<RefCell<Limit<'a>>>,
    job: &'a Job<'a>,
}

struct Limit<'a> {
    room: Room<'a>,
    /// Why it went no further, kept here since the crates between carry an I/O error only.
    over: Option<Error>,
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let checked = self.job.abort.check().map_err(Error::from);
        let mut limit = self.limit.borrow_mut();
        if let Err(error) = checked.and_then(|()| limit.room.take(bytes.len() as u64)) {
            limit.over = Some(error);
            return Err(io::Error::other("no further"));
        }
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file of the size that its entry tells, whatever its writer does meanwhile: cut off where it has grown, filled up
/// with zeros where it has shrunk, as tar does it.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = match self.inner.read(&mut buffer[..most])? {
            0 => {
                buffer[..most].fill(0);
                most
            }
            count => count,
        };
        self.left -= count as u64;
        Ok(count)
    }
}

type Content<'a> = Exactly<Metered<'a, File>>;
type Buffered<'a> = BufWriter<Output<'a>>;

enum Sink<'a> {
    Zip(Box<Zip<'a>>),
    Tar(Box<tar::Builder<Buffered<'a>>>),
    TarGz(Box<tar::Builder<flate2::write::GzEncoder<Buffered<'a>>>>),
}

impl<'a> Sink<'a> {
    fn directory(&mut self, item: &Item) -> Result<(), Error> {
        match self {
            Sink::Zip(zip) => zip.directory(item),
            Sink::Tar(tar) => {
                tar.append_data(&mut header(item, 0), item.name, io::empty()).map_err(Error::from)
            }
            Sink::TarGz(tar) => {
                tar.append_data(&mut header(item, 0), item.name, io::empty()).map_err(Error::from)
            }
        }
    }

    fn file(&mut self, item: &Item, size: u64, content: Content<'a>) -> Result<(), Error> {
        match self {
            Sink::Zip(zip) => zip.file(item, size, content),
            Sink::Tar(tar) => {
                tar.append_data(&mut header(item, size), item.name, content).map_err(Error::from)
            }
            Sink::TarGz(tar) => {
                tar.append_data(&mut header(item, size), item.name, content).map_err(Error::from)
            }
        }
    }

    fn finish(self) -> Result<Buffered<'a>, Error> {
        match self {
            Sink::Zip(zip) => zip.writer.finish().map_err(of_zip),
            Sink::Tar(tar) => Ok(tar.into_inner()?),
            Sink::TarGz(tar) => Ok(tar.into_inner()?.finish()?),
        }
    }
}

fn header(item: &Item, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(if item.is_dir { tar::EntryType::Directory } else { tar::EntryType::Regular });
    header.set_size(size);
    header.set_mode(item.stat.st_mode & 0o777);
    header.set_uid(item.stat.st_uid.into());
    header.set_gid(item.stat.st_gid.into());
    header.set_mtime(u64::try_from(item.stat.st_mtime).unwrap_or(0));
    header
}

struct Zip<'a> {
    writer: ZipArchiveWriter<Buffered<'a>>,
    /// One for all files: each would take some 300 KB anew.
    encoder: Option<flate2::read::DeflateEncoder<Summed<Content<'a>>>>,
}

impl<'a> Zip<'a> {
    fn directory(&mut self, item: &Item) -> Result<(), Error> {
        let name = format!("{}/", item.name);
        let entry =
            self.writer.new_dir(name.as_str()).unix_permissions(0o040_000 | item.stat.st_mode & 0o777);
        entry.last_modified(modified(item)).create().map(drop).map_err(of_zip)
    }

    fn file(&mut self, item: &Item, size: u64, content: Content<'a>) -> Result<(), Error> {
        // Deflate makes something of nothing.
        let method = if size == 0 { CompressionMethod::STORE } else { CompressionMethod::DEFLATE };
        let entry = self.writer.new_file(item.name).compression_method(method);
        let entry =
            entry.unix_permissions(0o100_000 | item.stat.st_mode & 0o777).last_modified(modified(item));
        let (mut entry, _) = entry.start().map_err(of_zip)?;
        if size == 0 {
            return entry.finish(DataDescriptorOutput::new(0, 0)).map(drop).map_err(of_zip);
        }
        let content = Summed { inner: content, crc: Crc::new(), size: 0 };
        let encoder = match &mut self.encoder {
            Some(encoder) => {
                encoder.reset(content);
                encoder
            }
            none => none.insert(flate2::read::DeflateEncoder::new(content, Compression::default())),
        };
        io::copy(encoder, &mut entry)?;
        let Summed { crc, size, .. } = encoder.get_ref();
        entry.finish(DataDescriptorOutput::new(crc.sum(), *size)).map(drop).map_err(of_zip)
    }
}

fn modified(item: &Item) -> UtcDateTime {
    UtcDateTime::from_unix(item.stat.st_mtime)
}

/// Counts and sums what is read, before it is compressed.
struct Summed<R> {
    inner: R,
    crc: Crc,
    size: u64,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.crc.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

fn of_zip(error: rawzip::Error) -> Error {
    match error.into_kind() {
        rawzip::ErrorKind::IO(error) => error.into(),
        kind => io::Error::other(kind.to_string()).into(),
    }
}
