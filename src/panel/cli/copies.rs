//! `backup` and `restore`: whole copies of the database.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::{print, record};
use crate::panel::PanelError;
use crate::panel::store::{StoreError, database, lock};
use crate::panel::time::Time;

/// Writes a consistent copy to a new file, while the Panel runs.
pub fn backup(dir: &Path, to: &Path) -> Result<(), PanelError> {
    let connection = database::open(dir)?;
    database::copy_to(&connection, to)?;
    record(dir, "backup", None, &to.display().to_string())?;
    print(&format!("the database was copied to {}\n", to.display()))
}

/// Puts a copy in the database's place; the Panel must not run. What was there is kept beside it.
pub fn restore(dir: &Path, from: &Path) -> Result<(), PanelError> {
    let at = |what, path: &Path| {
        let path = path.to_owned();
        move |cause| StoreError::Io { what, path, cause }
    };
    // Makes the directory when the machine is a new one.
    let newest = epoch(&database::open(dir)?).map_err(database::sql("restore"))?;
    let _stopped = lock(dir)?;
    let fresh = dir.join("panel.db.restored");
    let _ = fs::remove_file(&fresh); // of a restore that was interrupted
    database::write_private(&fresh, "")?;
    fs::copy(from, &fresh).map_err(at("copy", from))?;
    {
        // Checked before anything is replaced, and its own log folded in.
        let copy = database::connect(&fresh)?;
        database::check(&copy, from)?;
        let older = epoch(&copy).map_err(|_| StoreError::Damaged {
            path: from.into(),
            what: "it is no copy of a Panel's database".into(),
        })?;
        // Nodes obey no Panel of an older epoch than they have seen, and they have seen what is replaced here.
        copy.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", [older.max(newest)])
            .map_err(database::sql("restore"))?;
        copy.execute_batch("PRAGMA journal_mode = DELETE").map_err(database::sql("restore"))?;
    }
    database::sync(&fresh)?;
    let current = dir.join(database::FILE);
    let kept = dir.join(format!("panel.db.before-restore.{}", Time::now().millis()));
    {
        let connection = database::open(dir)?;
        database::copy_to(&connection, &kept)?;
    }
    for suffix in ["-wal", "-shm"] {
        let log = dir.join(format!("{}{suffix}", database::FILE));
        if let Err(cause) = fs::remove_file(&log)
            && cause.kind() != std::io::ErrorKind::NotFound
        {
            return Err(at("remove", &log)(cause).into());
        }
    }
    fs::rename(&fresh, &current).map_err(at("replace", &current))?;
    database::sync(&current)?;
    // An older copy is brought up to date at once, so that a fault shows now.
    drop(database::open(dir)?);
    record(dir, "restore", None, &from.display().to_string())?;
    print(&format!("restored; what was there before is in {}\n", kept.display()))
}

fn epoch(database: &Connection) -> rusqlite::Result<i64> {
    database.query_row("SELECT value FROM meta WHERE key = 'epoch'", [], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_panel_is_no_older_than_the_one_that_nodes_have_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (home, copy) = (dir.path().join("home"), dir.path().join("copy"));
        fs::create_dir(&home).unwrap();
        let set = |value: i64| {
            database::open(&home)
                .unwrap()
                .execute("UPDATE meta SET value = ? WHERE key = 'epoch'", [value])
                .unwrap()
        };
        // Far ahead of any clock, as after one that was wrong.
        let ahead = 1 << 40;
        set(5);
        backup(&home, &copy).unwrap();
        set(ahead);
        restore(&home, &copy).unwrap();
        assert_eq!(epoch(&database::open(&home).unwrap()), Ok(ahead));
        set(7);
        restore(&home, &copy).unwrap();
        assert_eq!(epoch(&database::open(&home).unwrap()), Ok(7));
    }
}
