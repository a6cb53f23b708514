//! Where each server's output was read to, kept on disk over a restart of the Agent: one short file a server, written
//! in place by its follower.
//!
//! What is lost with a power cut costs at most a few lines that are read again, so nothing is synchronised.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use super::cursor::Cursor;
use crate::docker::ContainerId;
use crate::protocol::ServerId;

/// The directory of the files.
#[derive(Clone, Debug)]
pub struct Saved {
    dir: PathBuf,
}

impl Saved {
    /// Opens `dir`, made with mode 0700 when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: PathBuf) -> io::Result<Saved> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Saved { dir })
    }

    /// A server's container and the cursor of its output; `None` when they cannot be read.
    pub fn load(&self, server: &ServerId) -> Option<(ContainerId, Cursor)> {
        let text = fs::read_to_string(self.dir.join(server.as_str())).ok()?;
        // A line that was not written to its end could name another time.
        let (line, _) = text.split_once('\n')?;
        let (container, cursor) = line.split_once(' ')?;
        Some((ContainerId::new(container)?, cursor.parse().ok()?))
    }

    /// # Errors
    /// The system call that failed.
    pub fn store(&self, server: &ServerId, container: &ContainerId, cursor: &Cursor) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        // In one write and without truncating, so that a crash leaves the old line or the new one; a shorter one
        // leaves the end of the old behind its own.
        options.open(self.dir.join(server.as_str()))?.write_all(format!("{container} {cursor}\n").as_bytes())
    }

    pub fn remove(&self, server: &ServerId) {
        // One that is not there was never written.
        let _ = fs::remove_file(self.dir.join(server.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::console::Stream;

    #[test]
    fn gives_back_what_was_stored_last() {
        let dir = tempfile::tempdir().unwrap();
        let saved = Saved::open(dir.path().join("console")).unwrap();
        let id: ServerId = "s".parse().unwrap();
        let [one, other] = ["a", "b"].map(|digit| ContainerId::new(&digit.repeat(64)).unwrap());
        let mut cursor = Cursor::default();
        assert_eq!(saved.load(&id), None);
        cursor.note(Stream::Stdout, 1_700_000_000_000_000_000);
        saved.store(&id, &one, &cursor).unwrap();
        assert_eq!(saved.load(&id), Some((one.clone(), cursor)));
        let shorter = Cursor::default();
        saved.store(&id, &other, &shorter).unwrap();
        assert_eq!(saved.load(&id), Some((other, shorter)));
        fs::write(dir.path().join("console/s"), format!("{one} 1:1 2:")).unwrap();
        assert_eq!(saved.load(&id), None, "a torn line says nothing");
        saved.remove(&id);
        saved.remove(&id);
    }
}
