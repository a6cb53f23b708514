//! Why an archive was not packed or unpacked, and how the Panel is told.

use std::fmt;
use std::io;

use rustix::io::Errno;

use super::name::BadName;
use crate::protocol::{Code, Fault};
use crate::server::abort::Aborted;
use crate::server::files::Trouble;

/// The situations. Paths in it are relative to the server's directory.
#[derive(Debug)]
pub enum Error {
    Aborted,
    /// An entry that is never unpacked, and why.
    Entry {
        name: String,
        why: Refusal,
    },
    /// More entries than [`super::MAX_ENTRIES`].
    TooMany,
    /// Deeper than [`super::name::MAX_DEPTH`].
    TooDeep,
    /// No zip, tar or tar.gz.
    Unknown,
    /// It breaks its own rules; the cause is for the log.
    Damaged(String),
    Unsupported(&'static str),
    NotFound(String),
    /// A file stands where a directory has to go, or the other way round.
    InTheWay(String),
    /// Whatever else goes wrong with files, the disk limit too.
    Files(Trouble),
}

/// Why an entry is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Name(BadName),
    Link,
    Special,
    SetId,
    Twice,
}

impl Error {
    pub fn entry(name: &[u8], why: Refusal) -> Error {
        // Shown to a person: bounded, and harmless on a terminal.
        let shown = String::from_utf8_lossy(name);
        let shown = shown.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
        Error::Entry { name: shown.take(128).collect(), why }
    }

    /// For the log: what [`fmt::Display`] keeps from the Panel too.
    pub fn cause(&self) -> String {
        match self {
            Error::Damaged(cause) => format!("{self}: {cause}"),
            _ => self.to_string(),
        }
    }

    /// Whether the kernel denied it to this user: somebody with more rights might do it.
    pub fn is_denied(&self) -> bool {
        matches!(self, Error::Files(trouble) if trouble.is_denied())
    }

    /// For what knows no archives.
    pub fn into_trouble(self) -> Trouble {
        match self {
            Error::Files(trouble) => trouble,
            error => error.fault("path").into(),
        }
    }

    pub fn damaged(cause: impl fmt::Display) -> Error {
        Error::Damaged(cause.to_string())
    }

    /// A failure of the system at `path`.
    pub fn at(path: impl fmt::Display, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound(path.to_string()),
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Error::InTheWay(path.to_string()),
            _ => error.into(),
        }
    }

    /// As the Panel is told. `field` names where the archive came from.
    pub fn fault(&self, field: &str) -> Fault {
        match self {
            Error::Aborted => Fault::new(
                Code::Interrupted,
                "This was ended before it was done, and what it had made is removed. Send it again.",
            ),
            Error::Entry { .. } => Fault::new(Code::PathInvalid, self.to_string()),
            Error::TooMany | Error::TooDeep => Fault::new(Code::TooLarge, self.to_string()),
            Error::Unknown | Error::Damaged(_) | Error::Unsupported(_) => Fault::field(field, self),
            Error::NotFound(_) => Fault::new(Code::FileNotFound, self.to_string()),
            Error::InTheWay(_) => Fault::new(Code::FileExists, self.to_string()),
            Error::Files(trouble) => trouble.fault(),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Files(error.into())
    }
}

impl From<Errno> for Error {
    fn from(error: Errno) -> Error {
        Error::Files(error.into())
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        Error::Files(fault.into())
    }
}

impl From<Aborted> for Error {
    fn from(Aborted: Aborted) -> Error {
        Error::Aborted
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Aborted => f.write_str("ended before it was done"),
            Error::Entry { name, why } => write!(f, "the entry {name:?} is refused: {why}"),
            Error::TooMany => write!(f, "more than {} files and directories", super::MAX_ENTRIES),
            Error::TooDeep => write!(f, "deeper than {} directories", super::name::MAX_DEPTH),
            Error::Unknown => f.write_str("expected a zip, tar or tar.gz archive"),
            Error::Damaged(_) => f.write_str("the archive is damaged or cut off"),
            Error::Unsupported(what) => write!(f, "the archive has {what}, which is not supported"),
            Error::NotFound(path) => write!(f, "{path}: there is no such file or directory"),
            Error::InTheWay(path) => {
                write!(f, "{path}: there is a file where a directory is needed, or the other way round")
            }
            Error::Files(trouble) => trouble.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Name(bad) => bad.fmt(f),
            Refusal::Link => f.write_str("it is a link"),
            Refusal::Special => f.write_str("it is a device, a socket or a pipe"),
            Refusal::SetId => f.write_str("it has a setuid or setgid bit"),
            Refusal::Twice => f.write_str("it comes twice, or as a file and as a directory"),
        }
    }
}
