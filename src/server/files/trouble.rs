//! What goes wrong with a file, and how the Panel is told: a code and a plain sentence without any path of the node's.

use std::io;

use rustix::io::Errno;

use crate::protocol::{Code, Fault};
use crate::server::abort::Aborted;

/// Why something was not done.
#[derive(Debug)]
pub enum Trouble {
    /// The system call that failed.
    Io(io::Error),
    /// Already in words.
    Told(Fault),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Trouble {
        Trouble::Io(error.into())
    }
}

impl From<Aborted> for Trouble {
    fn from(Aborted: Aborted) -> Trouble {
        let text = "The Agent was stopped while this was under way. Look at the files when it is back.";
        Trouble::told(Code::Interrupted, text)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        Trouble::Told(fault)
    }
}

impl Trouble {
    /// Shorthand for a situation in words.
    pub fn told(code: Code, message: impl Into<String>) -> Trouble {
        Trouble::Told(Fault::new(code, message))
    }

    /// Whether the kernel denied it to this user: somebody with more rights might do it.
    pub fn is_denied(&self) -> bool {
        matches!(self, Trouble::Io(error) if is(error, &[Errno::ACCESS, Errno::PERM]))
    }

    /// As the Panel is told. The caller logs the cause.
    pub fn fault(&self) -> Fault {
        match self {
            Trouble::Told(fault) => fault.clone(),
            Trouble::Io(error) => of_io(error),
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Io(error) => error.fmt(f),
            Trouble::Told(fault) => fault.fmt(f),
        }
    }
}

fn is(error: &io::Error, errnos: &[Errno]) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| errnos.contains(&errno))
}

/// Whether a path led out of the directory it began in: cap-std says so in an error of its own that no system call made.
pub fn is_escape(error: &io::Error) -> bool {
    error.raw_os_error().is_none() && error.kind() == io::ErrorKind::PermissionDenied
}

fn of_io(error: &io::Error) -> Fault {
    let (code, text) = match Errno::from_io_error(error) {
        None if is_escape(error) => {
            (Code::PathInvalid, "The path leads out of the server's directory through a link.")
        }
        Some(Errno::NOENT) => (Code::FileNotFound, "There is no such file or directory."),
        Some(Errno::EXIST) => (Code::FileExists, "There is a file or directory of that name already."),
        Some(Errno::NOTEMPTY) => (Code::FileExists, "The directory is not empty."),
        Some(Errno::NOTDIR) => (Code::PathInvalid, "A part of the path is not a directory."),
        Some(Errno::ISDIR) => (Code::PathInvalid, "The path names a directory; expected a file."),
        Some(Errno::LOOP) => (Code::PathInvalid, "The path leads through too many links."),
        Some(Errno::NAMETOOLONG) => (Code::PathInvalid, "A name in the path is longer than the disk allows."),
        Some(Errno::INVAL) => (Code::PathInvalid, "The path cannot be used for this."),
        Some(Errno::ACCESS | Errno::PERM) => {
            (Code::PermissionDenied, "The Agent may not do this to the server's files.")
        }
        Some(Errno::ROFS) => (Code::PermissionDenied, "The server's files are on a read-only disk."),
        Some(Errno::TXTBSY) => (Code::Conflict, "The file is being run. Stop the server first."),
        Some(Errno::NOSPC | Errno::DQUOT) => {
            (Code::InsufficientResources, "The node's disk is full. Free some space and try again.")
        }
        Some(Errno::FBIG) => (Code::TooLarge, "The file would be larger than the disk allows."),
        _ => (Code::Internal, "The Agent could not finish this. Its log says why."),
    };
    Fault::new(code, text)
}
