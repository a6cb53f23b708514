//! Makes archives as nobody should: entry by entry, and with what no writer would write.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use rawzip::path::EntryPath;
use rawzip::{CompressionMethod, DataDescriptorOutput, ZipArchiveWriter};

/// One entry. `mode` has the kind of file for zip.
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    pub mode: u32,
    pub content: &'a [u8],
}

pub fn file<'a>(name: &'a str, content: &'a [u8]) -> Entry<'a> {
    Entry { name: name.as_bytes(), kind: b'0', mode: 0o644, content }
}

pub fn special(name: &str, kind: u8, mode: u32) -> Entry<'_> {
    Entry { name: name.as_bytes(), kind, mode, content: b"" }
}

/// A tar of these, with its end.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        tar_entry(&mut bytes, entry, entry.content.len() as u64);
    }
    bytes.extend([0; 1024]);
    bytes
}

/// One entry that says that it has `size` bytes, whatever it has.
pub fn tar_entry(bytes: &mut Vec<u8>, entry: &Entry, size: u64) {
    let mut header = tar::Header::new_gnu();
    let raw = header.as_mut_bytes();
    let length = entry.name.len().min(100);
    raw[..length].copy_from_slice(&entry.name[..length]);
    header.set_entry_type(tar::EntryType::new(entry.kind));
    header.set_mode(entry.mode);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    if matches!(entry.kind, b'1' | b'2') {
        header.as_old_mut().linkname[..11].copy_from_slice(b"/etc/passwd");
    }
    header.set_cksum();
    bytes.extend(header.as_bytes());
    bytes.extend(entry.content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A zip of these, stored as they are, as a Unix writer makes it.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let mut archive = ZipArchiveWriter::new(Vec::new());
    for entry in entries {
        let file = archive.new_file(EntryPath::verbatim(entry.name)).unix_permissions(entry.mode);
        let (mut file, config) = file.start().unwrap();
        let mut writer = config.wrap(&mut file);
        writer.write_all(entry.content).unwrap();
        let (_, descriptor) = writer.finish().unwrap();
        file.finish(descriptor).unwrap();
    }
    archive.finish().unwrap()
}

/// A zip with one file of zeros that says that it has `claimed` bytes.
pub fn zip_of_zeros(zeros: usize, claimed: u64) -> Vec<u8> {
    let mut archive = ZipArchiveWriter::new(Vec::new());
    let (mut file, _) =
        archive.new_file("zeros").compression_method(CompressionMethod::DEFLATE).start().unwrap();
    let mut encoder = flate2::write::DeflateEncoder::new(&mut file, Compression::best());
    let (piece, mut sum) = (vec![0; 1 << 20], flate2::Crc::new());
    for _ in 0..zeros >> 20 {
        encoder.write_all(&piece).unwrap();
        sum.update(&piece);
    }
    encoder.finish().unwrap();
    file.finish(DataDescriptorOutput::new(sum.sum(), claimed)).unwrap();
    archive.finish().unwrap()
}

/// The same with a field of the only entry in its directory written over. Offsets as in APPNOTE 4.3.12.
pub fn patched(mut zip: Vec<u8>, offset: usize, value: &[u8]) -> Vec<u8> {
    let at = zip.windows(4).rposition(|window| window == b"PK\x01\x02").expect("a directory entry");
    zip[at + offset..at + offset + value.len()].copy_from_slice(value);
    zip
}
