//! A file of the kernel's that is read every few seconds for as long as a container runs, and kept open in between where
//! there are descriptors to spare: to open one costs several times as much as to read it.
//!
//! Such a file makes its text anew whenever it is read from its beginning (proc(5), cgroups(7)).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longer texts are cut: none of those that are read here comes near.
const MAX_BYTES: usize = 64 << 10;
/// A read gives whole records up to a page, and a record is a line, or all there is. So one that leaves this much of a
/// page has given everything.
const PAGE: usize = 4 << 10;
const LEFT: usize = 1 << 10;

/// See the module's description.
#[derive(Debug)]
pub struct KernelFile {
    place: Place,
    open: Option<File>,
}

/// Where a file lies: beneath one of a few mounts, in a directory that it shares with others. In parts, since each of a
/// thousand servers has several.
#[derive(Clone, Debug)]
pub struct Place {
    pub mount: Arc<Path>,
    /// Relative to the mount.
    pub dir: Arc<str>,
    pub name: &'static str,
}

impl Place {
    fn path(&self) -> PathBuf {
        [&self.mount, Path::new(&*self.dir), Path::new(self.name)].iter().collect()
    }
}

impl KernelFile {
    /// Opens nothing yet.
    pub fn new(place: Place) -> KernelFile {
        KernelFile { place, open: None }
    }

    /// Its whole text, read through `buffer`, which is kept between calls. What is not UTF-8 is no file of the kernel's
    /// and reads as empty. The file stays open if `keep` says so.
    ///
    /// # Errors
    /// When what it tells of is gone.
    pub fn read<'a>(&mut self, buffer: &'a mut Vec<u8>, keep: bool) -> io::Result<&'a str> {
        let file = match self.open.take() {
            Some(file) => file,
            None => File::open(self.place.path())?,
        };
        let length = read_all(&file, buffer)?;
        // Closed otherwise, so that a container that has gone holds nothing.
        self.open = keep.then_some(file);
        Ok(std::str::from_utf8(&buffer[..length]).unwrap_or_default())
    }
}

fn read_all(file: &File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut length = 0;
    loop {
        if buffer.len() < length + PAGE {
            buffer.resize(length + PAGE, 0);
        }
        let count = match file.read_at(&mut buffer[length..], length as u64) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        length += count;
        if count < PAGE - LEFT || length >= MAX_BYTES {
            return Ok(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_now_and_lets_go_of_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = KernelFile::new(Place { mount: dir.path().into(), dir: "".into(), name: "file" });
        let mut buffer = Vec::new();
        assert!(file.read(&mut buffer, true).is_err());
        for text in ["12\n".to_owned(), "x".repeat(10_000), String::new(), "3\n".to_owned()] {
            std::fs::write(&path, &text).unwrap();
            assert_eq!(file.read(&mut buffer, true).unwrap(), text);
            assert!(file.open.is_some());
        }
        assert_eq!(file.read(&mut buffer, false).unwrap(), "3\n");
        assert!(file.open.is_none());
    }

    #[test]
    fn a_kept_file_of_the_kernels_tells_news() {
        let mut file =
            KernelFile::new(Place { mount: Path::new("/proc").into(), dir: "self".into(), name: "stat" });
        let mut buffer = Vec::new();
        let first = file.read(&mut buffer, true).unwrap().to_owned();
        let begun = std::time::Instant::now();
        // Its time grows by one in each hundredth of a second that the process works.
        while file.read(&mut buffer, true).unwrap() == first {
            assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{first}");
        }
    }
}
