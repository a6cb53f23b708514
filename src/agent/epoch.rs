//! The Panel's epoch: a Panel that says `hello` with a number fences off every older one. Kept on disk, so that a
//! Panel restored from an old backup cannot command a node that a newer one has taken over.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::protocol::{Code, Fault};

/// The highest epoch seen, and the one of the current connection.
#[derive(Debug)]
pub struct Epoch {
    path: PathBuf,
    seen: Option<u64>,
    current: Option<u64>,
}

impl Epoch {
    /// Reads what was stored; nothing stored is no error.
    ///
    /// # Errors
    /// When the file is there and cannot be read: without it an old Panel would not be told from a new one.
    pub fn open(path: PathBuf) -> io::Result<Epoch> {
        let seen = match fs::read_to_string(&path) {
            Ok(text) => {
                Some(text.trim().parse().map_err(|_| io::Error::other("the stored epoch is not a number"))?)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        Ok(Epoch { path, seen, current: None })
    }

    /// A new connection has said nothing yet.
    pub fn connected(&mut self) {
        self.current = None;
    }

    /// Takes a `hello`. A newer epoch is stored before any command of its connection is taken. The one fsync of the
    /// agent loop: it happens once in the life of a Panel's epoch.
    pub fn hello(&mut self, epoch: u64) {
        self.current = Some(epoch);
        if self.seen.is_none_or(|seen| epoch > seen) {
            self.seen = Some(epoch);
            if let Err(error) = self.store(epoch) {
                log::error!("storing the Panel's epoch {epoch}: {error}; it holds until the Agent ends");
            }
        }
    }

    fn store(&self, epoch: u64) -> io::Result<()> {
        let temporary = self.path.with_extension("tmp");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{epoch}")?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    /// Whether the current connection may command.
    ///
    /// # Errors
    /// `WRONG_EPOCH` for an older Panel than one seen, and for one that has not said which it is.
    pub fn admit(&self) -> Result<(), Fault> {
        match (self.seen, self.current) {
            (None, _) => Ok(()),
            (Some(seen), Some(current)) if current >= seen => Ok(()),
            (Some(_), Some(_)) => Err(Fault::new(
                Code::WrongEpoch,
                "A newer Panel has taken over this node. This one may not command it.",
            )),
            (Some(_), None) => Err(Fault::new(
                Code::WrongEpoch,
                "This node belongs to a Panel with an epoch. Send hello with it before any command.",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_off_older_panels_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Epoch::open(dir.path().join("epoch")).unwrap();
        let mut epoch = open();
        assert!(epoch.admit().is_ok(), "no epoch yet");
        epoch.hello(7);
        assert!(epoch.admit().is_ok());
        let mut epoch = open();
        assert_eq!(epoch.admit().unwrap_err().code, Code::WrongEpoch, "no hello yet");
        epoch.hello(6);
        assert_eq!(epoch.admit().unwrap_err().code, Code::WrongEpoch, "older");
        epoch.connected();
        epoch.hello(8);
        assert!(epoch.admit().is_ok(), "newer");
        fs::write(dir.path().join("epoch"), "x").unwrap();
        assert!(Epoch::open(dir.path().join("epoch")).is_err());
    }
}
