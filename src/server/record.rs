//! What the Agent keeps on disk of each server: its spec and what should be true of it, one file a server.
//! Written by the worker that carries out the change, read once at start.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::machine::Desired;
use super::supervision::Supervision;
use crate::protocol::{ServerId, Spec};

/// Larger records are not ours: a spec's own bounds keep it far below.
const MAX_RECORD: u64 = 4 << 20;

/// One server as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub server_id: ServerId,
    pub desired: Desired,
    pub suspended: bool,
    #[serde(default)]
    pub supervision: Supervision,
    pub spec: Arc<Spec>,
}

/// The directory of records.
#[derive(Clone, Debug)]
pub struct Records {
    dir: PathBuf,
}

impl Records {
    /// Opens `dir`, made with mode 0700 when it is missing.
    ///
    /// # Errors
    /// When it cannot be made or looked at.
    pub fn open(dir: PathBuf) -> io::Result<Records> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Records { dir })
    }

    fn path(&self, id: &ServerId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Stores `record` so that after a power cut there is either the old one or the new one, whole.
    ///
    /// # Errors
    /// The first system call that failed; the stored record is then the old one.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        write_whole(&self.dir, &record.server_id, &serde_json::to_vec(record)?)
    }

    /// Forgets a server. A record that is not there is no error.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self, id: &ServerId) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => File::open(&self.dir)?.sync_all(),
        }
    }

    /// All records that can be read, and one line for each file that cannot: a damaged one must not keep the
    /// other servers from being looked after.
    ///
    /// # Errors
    /// When the directory itself cannot be read.
    pub fn load(&self) -> io::Result<(Vec<Record>, Vec<String>)> {
        let (mut records, mut damaged) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            if hidden || path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match read_record(&path) {
                Ok(record) => records.push(record),
                Err(cause) => damaged.push(format!("{}: {cause}", path.display())),
            }
        }
        Ok((records, damaged))
    }
}

/// Stores `text` as the file of a server in `dir`, so that after a power cut there is the old one or the new one, whole.
pub(super) fn write_whole(dir: &Path, server: &ServerId, text: &[u8]) -> io::Result<()> {
    // An id never starts with a dot, so this is no other server's file.
    let temporary = dir.join(format!(".{server}.tmp"));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(format!("{server}.json")))?;
    File::open(dir)?.sync_all()
}

fn read_record(path: &Path) -> io::Result<Record> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_RECORD).read_to_end(&mut text)?;
    let record: Record = serde_json::from_slice(&text)?;
    if path.file_stem().is_none_or(|stem| stem != record.server_id.as_str()) {
        return Err(io::Error::other("the name and the id inside differ"));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_and_forgets_and_tells_of_damage() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().join("state")).unwrap();
        let id: ServerId = "a.b-c".parse().unwrap();
        let record = Record {
            server_id: id.clone(),
            desired: Desired::Running,
            suspended: false,
            supervision: Supervision::default(),
            spec: Arc::new(Spec { image: "demo:1".into(), ..Spec::default() }),
        };
        records.save(&record).unwrap();
        records.save(&Record { suspended: true, ..record.clone() }).unwrap();
        fs::write(dir.path().join("state/torn.json"), "{\"serverId\":").unwrap();
        fs::write(dir.path().join("state/.left.tmp"), "x").unwrap();
        let (found, damaged) = records.load().unwrap();
        assert_eq!(found, [Record { suspended: true, ..record }]);
        assert_eq!(damaged.len(), 1, "{damaged:?}");
        records.remove(&id).unwrap();
        records.remove(&id).unwrap();
        assert_eq!(records.load().unwrap().0, []);
    }
}
