//! The journal's file: appended to, made durable, compacted. Used by the journal's thread alone; after a failure nothing
//! of what was in the way is believed, and the file is brought back to what it is known to hold.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::crash;
use super::live::Live;
use super::record::Reader;

/// The file is compacted when it has grown by this much, and by as much as was live.
const GROWTH: u64 = 4 << 20;
/// The most that the file may hold when it cannot be compacted.
pub const MAX_BYTES: u64 = 32 << 20;

/// See the module's description.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    file: Option<File>,
    /// Bytes that are whole and durable.
    length: u64,
    /// The length at which it is compacted.
    ripe: u64,
    /// What stands in the file beyond `length` is not known.
    torn: bool,
    /// The kernel may have forgotten what it could not write, so that only a new file is good.
    spoilt: bool,
}

impl Log {
    /// Opens the journal in `dir`, which is made with mode 0700 when it is missing, and tells what it amounts to. A torn
    /// tail is no error. A disk that cannot be written is none either: it is told when something is to be written.
    ///
    /// # Errors
    /// When what there is cannot be read: without it commands might be run twice.
    pub fn open(dir: &Path) -> io::Result<(Log, Live)> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut log =
            Log { dir: dir.to_owned(), file: None, length: 0, ripe: GROWTH, torn: true, spoilt: true };
        let live = log.read()?;
        if let Err(error) = log.compact(&live) {
            log::error!("journal: compacting: {error}");
        }
        Ok((log, live))
    }

    fn path(&self) -> PathBuf {
        self.dir.join("commands")
    }

    /// What the file amounts to, which is then as long as its whole records.
    fn read(&mut self) -> io::Result<Live> {
        let (mut bytes, mut live) = (Vec::new(), Live::default());
        match File::open(self.path()) {
            Ok(file) => drop(file.take(2 * MAX_BYTES).read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut reader = Reader::new(&bytes);
        reader.by_ref().for_each(|record| live.apply(record));
        if reader.whole < bytes.len() {
            log::warn!("journal: {} bytes at its end were torn and are ignored", bytes.len() - reader.whole);
        }
        self.length = reader.whole as u64;
        live.expire(now());
        Ok(live)
    }

    /// Appends whole records, and makes them durable when `sync` says so.
    ///
    /// # Errors
    /// Nothing of them counts, and they may be given again.
    pub fn append(&mut self, records: &[u8], sync: bool) -> io::Result<()> {
        if self.torn || self.length >= self.ripe {
            self.mend()?;
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        if cfg!(debug_assertions) && records.len() > 1 {
            // A crash between the two writes leaves a torn tail.
            let (head, tail) = records.split_at(records.len() / 2);
            self.torn = true;
            file.write_all(head)?;
            crash::here("torn");
            file.write_all(tail)?;
        } else {
            self.torn = true;
            file.write_all(records)?;
        }
        if sync && let Err(error) = file.sync_data() {
            self.spoilt = true;
            return Err(error);
        }
        self.torn = false;
        self.length += records.len() as u64;
        Ok(())
    }

    /// Makes the file good and short again.
    fn mend(&mut self) -> io::Result<()> {
        let compacted = self.read().and_then(|live| self.compact(&live));
        match (&self.file, compacted) {
            (_, Ok(())) => Ok(()),
            // There may be no room for a second file, but for one more record.
            (Some(file), Err(error)) if !self.spoilt => {
                if self.length >= MAX_BYTES {
                    return Err(error);
                }
                file.set_len(self.length)?;
                self.torn = false;
                self.ripe = self.length + GROWTH;
                Ok(())
            }
            (_, Err(error)) => Err(error),
        }
    }

    /// Writes what is live into a new file, which takes the old one's place whole or not at all.
    fn compact(&mut self, live: &Live) -> io::Result<()> {
        let temporary = self.dir.join("commands.tmp");
        let records = live.write();
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(&records)?;
        file.sync_all()?;
        crash::here("compacting");
        fs::rename(&temporary, self.path())?;
        crash::here("compacted");
        File::open(&self.dir)?.sync_all()?;
        self.file = Some(OpenOptions::new().append(true).open(self.path())?);
        self.length = records.len() as u64;
        self.ripe = 2 * self.length + GROWTH;
        (self.torn, self.spoilt) = (false, false);
        Ok(())
    }

    pub fn length(&self) -> u64 {
        self.length
    }
}

/// Milliseconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;

    fn record(number: u64) -> Vec<u8> {
        let mut log = Vec::new();
        Record::Gone { numbers: vec![number] }.write(&mut log);
        log
    }

    fn said(number: u64, bytes: usize) -> Vec<u8> {
        let (boot, text) = ("b".to_owned(), "x".repeat(bytes));
        let said = super::super::record::Said { number, at: now(), boot, seq: 1, server: None, text };
        let mut log = Vec::new();
        Record::Said(said).write(&mut log);
        log
    }

    #[test]
    fn what_was_torn_is_gone_and_what_follows_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path()).unwrap();
        log.append(&said(1, 10), true).unwrap();
        log.append(&said(2, 10), true).unwrap();
        drop(log);
        let path = dir.path().join("commands");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let (mut log, live) = Log::open(dir.path()).unwrap();
        assert_eq!(live.said().map(|said| said.number).collect::<Vec<_>>(), [1]);
        log.append(&said(3, 10), true).unwrap();
        let (_, live) = Log::open(dir.path()).unwrap();
        assert_eq!(live.said().map(|said| said.number).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn keeps_to_what_is_live_however_much_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path()).unwrap();
        let mut longest = 0;
        for number in 0..40 {
            log.append(&said(number, 1 << 20), false).unwrap();
            log.append(&record(number), true).unwrap();
            longest = longest.max(fs::metadata(dir.path().join("commands")).unwrap().len());
        }
        assert!(longest < 2 * GROWTH, "{longest}");
        assert_eq!(Log::open(dir.path()).unwrap().1.said().count(), 0);
    }
}
