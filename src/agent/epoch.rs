//! The Panel's epoch: a Panel that says `hello` with a number fences off every older one. Kept on disk, so that a
//! Panel restored from an old backup cannot command a node that a newer one has taken over.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::protocol::{Code, Fault};

/// How often what is stored is looked at again while commands are refused.
const LOOK: Duration = Duration::from_secs(1);

/// The highest epoch seen, and the one of the current connection.
#[derive(Debug)]
pub struct Epoch {
    path: PathBuf,
    seen: Option<u64>,
    current: Option<u64>,
    /// What was seen could not be stored: it holds until the Agent ends, whatever the disk says.
    unsaved: bool,
    looked_at: Option<Instant>,
}

impl Epoch {
    /// Reads what was stored; nothing stored is no error.
    ///
    /// # Errors
    /// When the file is there and cannot be read: without it an old Panel would not be told from a new one.
    pub fn open(path: PathBuf) -> io::Result<Epoch> {
        let seen = stored(&path)?;
        Ok(Epoch { path, seen, current: None, unsaved: false, looked_at: None })
    }

    /// Forgets the epoch that is stored in `path`; gives it, when there was one. A running Agent sees that at the next
    /// `hello`, and before it refuses a command, so it need not be stopped or told.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn reset(path: &Path) -> io::Result<Option<u64>> {
        // One that cannot be read keeps the Agent from starting, and is removed for that very reason.
        let seen = stored(path).unwrap_or_default();
        match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            removed => {
                removed?;
                path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?;
                Ok(seen)
            }
        }
    }

    /// A new connection has said nothing yet.
    pub fn connected(&mut self) {
        self.current = None;
    }

    /// Takes a `hello`. A newer epoch is stored before any command of its connection is taken. The one fsync of the
    /// agent loop: it happens once in the life of a Panel's epoch.
    pub fn hello(&mut self, epoch: u64) {
        self.look();
        self.current = Some(epoch);
        if self.seen.is_none_or(|seen| epoch > seen) {
            self.seen = Some(epoch);
            let stored = self.store(epoch);
            self.unsaved = stored.is_err();
            if let Err(error) = stored {
                log::error!("storing the Panel's epoch {epoch}: {error}; it holds until the Agent ends");
            }
        }
    }

    /// Takes what is stored now, which the node's owner may have cleared.
    fn look(&mut self) {
        match stored(&self.path) {
            Ok(seen) if !self.unsaved => self.seen = seen,
            Ok(_) => {}
            Err(error) => log::error!("reading the Panel's epoch: {error}; {:?} holds", self.seen),
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

    /// Whether the current connection may command. Before it is refused what is stored is read again, at most once a
    /// second.
    ///
    /// # Errors
    /// `WRONG_EPOCH` for an older Panel than one seen, and for one that has not said which it is.
    pub fn admit(&mut self, now: Instant) -> Result<(), Fault> {
        let Err(fault) = self.judge() else { return Ok(()) };
        if self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK) {
            return Err(fault);
        }
        self.looked_at = Some(now);
        match self.current {
            // When it was cleared, this is the first Panel after that.
            Some(current) => self.hello(current),
            None => self.look(),
        }
        self.judge()
    }

    fn judge(&self) -> Result<(), Fault> {
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

fn stored(path: &Path) -> io::Result<Option<u64>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            text.trim().parse().map(Some).map_err(|_| io::Error::other("the stored epoch is not a number"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Later each time than what is looked at once a second.
    fn now() -> Instant {
        static CALLS: AtomicU32 = AtomicU32::new(1);
        Instant::now() + LOOK * CALLS.fetch_add(1, Ordering::Relaxed)
    }

    #[test]
    fn fences_off_older_panels_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Epoch::open(dir.path().join("epoch")).unwrap();
        let mut epoch = open();
        assert!(epoch.admit(now()).is_ok(), "no epoch yet");
        epoch.hello(7);
        assert!(epoch.admit(now()).is_ok());
        let mut epoch = open();
        assert_eq!(epoch.admit(now()).unwrap_err().code, Code::WrongEpoch, "no hello yet");
        epoch.hello(6);
        assert_eq!(epoch.admit(now()).unwrap_err().code, Code::WrongEpoch, "older");
        epoch.connected();
        epoch.hello(8);
        assert!(epoch.admit(now()).is_ok(), "newer");
        fs::write(dir.path().join("epoch"), "x").unwrap();
        assert!(Epoch::open(dir.path().join("epoch")).is_err());
    }

    #[test]
    fn what_is_cleared_is_forgotten_by_who_runs_already() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("epoch");
        let mut epoch = Epoch::open(path.clone()).unwrap();
        epoch.hello(7);
        epoch.connected();
        epoch.hello(6);
        let at = now();
        assert!(epoch.admit(at).is_err());
        assert_eq!(Epoch::reset(&path).unwrap(), Some(7));
        assert!(epoch.admit(at).is_err(), "not looked at again within the second");
        assert!(epoch.admit(at + LOOK).is_ok());
        assert_eq!(fs::read_to_string(&path).unwrap(), "6\n", "who came first after that owns the node");
        epoch.connected();
        assert!(epoch.admit(now()).is_err(), "no hello yet");
        assert_eq!(Epoch::reset(&path).unwrap(), Some(6));
        assert!(epoch.admit(now()).is_ok(), "and none is needed");
        assert_eq!(Epoch::reset(&path).unwrap(), None);
    }
}
