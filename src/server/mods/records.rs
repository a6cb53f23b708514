//! Which files each mod brought: one file a server in the Agent's own state, which no server can write.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::protocol::ServerId;
use crate::server::record::write_whole;

/// Larger records are not ours: the bounds on mods and their files keep them far below.
const MAX_RECORD: u64 = 64 << 20;

/// The directory of records.
#[derive(Clone, Debug)]
pub struct ModRecords {
    dir: PathBuf,
}

/// Keeps the mods of one server, wherever that is.
pub trait Keep {
    /// # Errors
    /// When they cannot be read: what is not known must not be written over.
    fn load(&self) -> io::Result<Mods>;
    /// # Errors
    /// When they cannot be kept; what is kept is then what was.
    fn save(&self, mods: &Mods) -> io::Result<()>;
}

/// In the Agent's own state.
pub struct Kept<'a> {
    pub records: &'a ModRecords,
    pub server: &'a ServerId,
}

impl Keep for Kept<'_> {
    fn load(&self) -> io::Result<Mods> {
        self.records.load(self.server)
    }

    fn save(&self, mods: &Mods) -> io::Result<()> {
        self.records.save(self.server, mods)
    }
}

/// All mods of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mods {
    pub mods: Vec<ModRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModRecord {
    pub id: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub files: Vec<ModFile>,
    /// Directories that were made for it, each before those in it.
    pub directories: Vec<String>,
}

/// One file of a mod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModFile {
    /// From the server's directory.
    pub path: String,
    pub size: u64,
    /// Hexadecimal.
    pub sha256: String,
    /// What the file system said of it right after; the same again means that nothing has touched it.
    #[serde(default)]
    pub stamp: Option<Stamp>,
}

/// The kernel sets the change time itself, so that nobody can write to a file and leave all of this as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(file: &fs::Metadata) -> Stamp {
        Stamp { inode: file.ino(), size: file.size(), changed: (file.ctime(), file.ctime_nsec()) }
    }
}

impl ModRecords {
    /// Opens `dir`, made with mode 0700 when it is missing.
    ///
    /// # Errors
    /// When it cannot be made or looked at.
    pub fn open(dir: PathBuf) -> io::Result<ModRecords> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(ModRecords { dir })
    }

    fn path(&self, server: &ServerId) -> PathBuf {
        self.dir.join(format!("{server}.json"))
    }

    /// The mods of a server; none where there is no record.
    ///
    /// # Errors
    /// When the record cannot be read or is damaged: what is not known must not be written over.
    pub fn load(&self, server: &ServerId) -> io::Result<Mods> {
        let file = match File::open(self.path(server)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Mods::default()),
            file => file?,
        };
        let mut text = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Stores them so that after a power cut there is either the old record or the new one, whole.
    ///
    /// # Errors
    /// The first system call that failed; the stored record is then the old one.
    pub fn save(&self, server: &ServerId, mods: &Mods) -> io::Result<()> {
        if mods.mods.is_empty() {
            return self.remove(server);
        }
        write_whole(&self.dir, server, &serde_json::to_vec(mods)?)
    }

    /// Forgets a server's mods. A record that is not there is no error.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self, server: &ServerId) -> io::Result<()> {
        match fs::remove_file(self.path(server)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Err(_) => Ok(()),
            Ok(()) => File::open(&self.dir)?.sync_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_forgets_and_never_takes_damage_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let records = ModRecords::open(dir.path().join("mods")).unwrap();
        let server: ServerId = "s".parse().unwrap();
        assert_eq!(records.load(&server).unwrap(), Mods::default());
        let file = ModFile { path: "mods/x.jar".into(), size: 1, sha256: "00".into(), stamp: None };
        let record = ModRecord {
            id: "x".into(),
            name: "X".into(),
            version: Some("1".into()),
            files: vec![file],
            directories: vec!["mods/x".into()],
        };
        let mods = Mods { mods: vec![record] };
        records.save(&server, &mods).unwrap();
        assert_eq!(records.load(&server).unwrap(), mods);
        fs::write(dir.path().join("mods/s.json"), "{\"mods\":[").unwrap();
        assert!(records.load(&server).is_err());
        records.save(&server, &Mods::default()).unwrap();
        assert!(!dir.path().join("mods/s.json").exists());
        records.remove(&server).unwrap();
    }
}
