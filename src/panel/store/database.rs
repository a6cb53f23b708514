//! The database file: how it is opened, brought up to date and copied.
//!
//! SQLite in WAL mode with `synchronous=FULL`: a transaction that has been committed is on the disk, and one that was
//! interrupted by a crash never was. Every part of the Panel that stores something has a connection of its own; SQLite
//! orders their transactions. Runs on whichever thread opens one.

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction};

use super::import;
use crate::panel::time::Time;

pub const FILE: &str = "panel.db";

/// How long a transaction waits for another one; the longest writes some thousand rows.
const BUSY: Duration = Duration::from_secs(5);
/// The log is folded into the file when it has grown to so many pages of 4 KiB.
const CHECKPOINT: u32 = 1_000;

/// What each version adds to the one before it. Never changed once released: the next version is another entry.
const MIGRATIONS: [&str; 2] = [include_str!("schema-1.sql"), include_str!("schema-2.sql")];

#[derive(Debug)]
pub enum StoreError {
    Io {
        what: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    /// The database, with the operation that failed.
    Sql {
        what: &'static str,
        cause: rusqlite::Error,
    },
    /// The file that earlier versions kept cannot be read.
    Import {
        path: PathBuf,
        cause: serde_json::Error,
    },
    /// The file was written by a newer Panel.
    Version {
        path: PathBuf,
        found: usize,
    },
    /// SQLite's own check has found damage.
    Damaged {
        path: PathBuf,
        what: String,
    },
    InUse {
        dir: PathBuf,
    },
    /// A name or id that has to be unique is taken.
    Exists(String),
    Unknown(String),
}

impl StoreError {
    /// The disk, or what this user may have of it, is full.
    pub fn is_full(&self) -> bool {
        matches!(self, StoreError::Sql { cause, .. } if cause.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }
}

/// Opens the database under `dir`, making both when they are missing and migrating an older one after copying it.
pub fn open(dir: &Path) -> Result<Connection, StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("create directory", dir))?;
    let path = dir.join(FILE);
    // SQLite would make it with the umask's rights; its log files take the rights of this one.
    private(OpenOptions::new().write(true).create(true).truncate(false))
        .open(&path)
        .map_err(at("open", &path))?;
    let mut connection = connect(&path)?;
    migrate(&mut connection, dir)?;
    Ok(connection)
}

/// Opens a database that is there already, whatever is in it.
pub fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sql("open"))?;
    connection.busy_timeout(BUSY).map_err(sql("open"))?;
    let pragmas = format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF; PRAGMA wal_autocheckpoint = {CHECKPOINT}; PRAGMA cache_size = -2048;"
    );
    connection.execute_batch(&pragmas).map_err(sql("set up"))?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(FILE);
    if version(connection)? == MIGRATIONS.len() {
        return Ok(());
    }
    // One at a time: a subcommand and the Panel may both find an old file.
    let lock = private(OpenOptions::new().write(true).create(true).truncate(false))
        .open(dir.join("migrate.lock"))
        .map_err(at("open lock in", dir))?;
    lock.lock().map_err(at("lock", dir))?;
    let found = version(connection)?;
    if found > MIGRATIONS.len() {
        return Err(StoreError::Version { path, found });
    }
    if found > 0 && found < MIGRATIONS.len() {
        let copy = dir.join(format!("panel.db.v{found}.{}", Time::now().millis()));
        copy_to(connection, &copy)?;
        log::info!("the database is of version {found}: it was copied to {} first", copy.display());
    }
    for (number, text) in (1..).zip(MIGRATIONS).skip(found) {
        let step = connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(sql("migrate"))?;
        step.execute_batch(text).map_err(sql("migrate"))?;
        if number == 1 {
            import::old_file(&step, dir)?;
        }
        step.pragma_update(None, "user_version", number).map_err(sql("migrate"))?;
        step.commit().map_err(sql("migrate"))?;
    }
    import::put_away(dir)
}

fn version(connection: &Connection) -> Result<usize, StoreError> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sql("read the version"))
}

/// Writes a whole and consistent copy to a new file that only its owner can read, while others go on writing.
///
/// # Errors
/// Also when the file exists.
pub fn copy_to(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    write_private(path, "")?;
    let copied = (|| {
        let mut copy = Connection::open(path).map_err(sql("copy"))?;
        let backup = rusqlite::backup::Backup::new(connection, &mut copy).map_err(sql("copy"))?;
        backup.run_to_completion(1_000, Duration::ZERO, None).map_err(sql("copy"))?;
        drop(backup);
        copy.close().map_err(|(_, cause)| sql("copy")(cause))?;
        sync(path)
    })();
    copied.inspect_err(|_| drop(fs::remove_file(path))) // half a copy is none
}

/// Makes a written file and its name durable.
pub fn sync(path: &Path) -> Result<(), StoreError> {
    let sync = |path: &Path| fs::File::open(path).and_then(|file| file.sync_all());
    sync(path).map_err(at("sync", path))?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => sync(dir).map_err(at("sync directory", dir)),
        _ => Ok(()),
    }
}

/// What SQLite finds wrong with the file; nothing when all is well.
pub fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let found: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sql("check"))?;
    if found == "ok" { Ok(()) } else { Err(StoreError::Damaged { path: path.into(), what: found }) }
}

/// A transaction that writes, and so waits for its turn at once instead of failing half-way.
pub fn begin(connection: &mut Connection) -> Result<Transaction<'_>, StoreError> {
    connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(sql("begin"))
}

/// Writes `text` to a new file that only its owner can read.
///
/// # Errors
/// Also when the file exists: a secret never overwrites what someone else keeps there.
pub fn write_private(path: &Path, text: &str) -> Result<(), StoreError> {
    let mut file =
        private(OpenOptions::new().write(true).create_new(true)).open(path).map_err(at("create", path))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(at("write", path))
}

pub fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

pub fn at<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + use<'a> {
    move |cause| StoreError::Io { what, path: path.into(), cause }
}

pub fn sql(what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |cause| StoreError::Sql { what, cause }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Io { what, path, cause } => write!(f, "{what} {}: {cause}", path.display()),
            StoreError::Sql { what, cause } => write!(f, "database: {what}: {cause}"),
            StoreError::Import { path, cause } => write!(f, "{} is damaged: {cause}", path.display()),
            StoreError::Version { path, found } => write!(
                f,
                "{} is of version {found}, newer than this Panel, which knows {}",
                path.display(),
                MIGRATIONS.len()
            ),
            StoreError::Damaged { path, what } => write!(f, "{} is damaged: {what}", path.display()),
            StoreError::InUse { dir } => write!(f, "{} is in use by another Panel", dir.display()),
            StoreError::Exists(what) => write!(f, "{what} exists already"),
            StoreError::Unknown(what) => write!(f, "{what} does not exist"),
        }
    }
}

impl std::error::Error for StoreError {}
