//! Reading a file: as text, or as bytes from somewhere in it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use cap_std::fs::OpenOptions;
use rustix::fs::Stat;

use super::look::modified;
use super::{Root, Trouble};
use crate::protocol::file::{FileContent, MAX_TEXT};
use crate::protocol::{Code, FileReply, RelPath};

/// A file as text.
pub fn text(root: &Root, path: &RelPath, reply: FileReply) -> Result<FileReply, Trouble> {
    let (file, stat) = root.open_file(path, OpenOptions::new().read(true))?;
    let size = size(&stat);
    let too_large = || {
        Trouble::told(
            Code::TooLarge,
            "The file is larger than the 1 MiB that is read as text. Download it in pieces.",
        )
    };
    if size > MAX_TEXT {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(too_large());
    }
    let size = bytes.len() as u64;
    let text = String::from_utf8(bytes)
        .map_err(|_| Trouble::told(Code::NotText, "The file is no UTF-8 text. Download it instead."))?;
    Ok(FileReply {
        content: Some(FileContent::Text(text)),
        size: Some(size),
        modified: Some(modified(&stat)),
        ..reply
    })
}

/// Bytes of a file from `offset` on, at most `most` of them in one answer.
pub fn bytes(
    root: &Root,
    path: &RelPath,
    offset: u64,
    length: Option<u64>,
    most: u64,
    reply: FileReply,
) -> Result<FileReply, Trouble> {
    let (file, stat) = root.open_file(path, OpenOptions::new().read(true))?;
    let size = size(&stat);
    let left = size.saturating_sub(offset);
    if length.unwrap_or(left) > most {
        let text = format!(
            "One answer carries at most {} MiB. Ask for less with length, and for the rest with offset.",
            most >> 20
        );
        return Err(Trouble::told(Code::TooLarge, text));
    }
    let bytes = read_at(&file, offset, length.unwrap_or(left).min(left) as usize)?;
    Ok(FileReply {
        encoding: Some("base64".to_owned()),
        offset: Some(offset),
        length: Some(bytes.len() as u64),
        size: Some(size),
        modified: Some(modified(&stat)),
        content: Some(FileContent::Bytes(bytes)),
        ..reply
    })
}

/// Up to `length` bytes; fewer where the file has shrunk meanwhile.
fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let (mut bytes, mut filled) = (vec![0; length], 0);
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}
