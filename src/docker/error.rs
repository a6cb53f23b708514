//! What can go wrong between this client and the Engine, as situations a caller can act on.
//!
//! The Engine's own words are kept, since only they say what is wrong; they may hold host paths and are for
//! the log, not for a Panel.

use std::fmt;
use std::io;

/// Bytes of an error answer that are kept.
pub(super) const MESSAGE_CAP: usize = 4 * 1024;

/// Why a call or a stream failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The Engine could not be reached, or the connection broke before the whole answer was there. The request
    /// may or may not have been carried out: inspect, do not assume.
    Unavailable(String),
    /// The call's bound in time passed. As with `Unavailable`, the request may have been carried out.
    Timeout(&'static str),
    /// The Engine answered with anything but success. 304 is one of these.
    Status {
        status: u16,
        /// The Engine's own text, cut at 4 KiB.
        message: String,
    },
    /// The answer could not be understood, or was larger than any answer should be.
    Malformed(String),
    /// The Engine is too old for this client.
    Unsupported(String),
    /// The caller closed the stream or gave the call up.
    Cancelled,
}

impl Error {
    /// 304: the container is already in the state that was asked for.
    pub fn is_not_modified(&self) -> bool {
        self.status() == Some(304)
    }

    /// 404: no such container or image.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// 409: the container's state, or a name in use, forbids it.
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }

    /// 409 because the container is being removed: the `destroy` event says when it is gone.
    pub fn is_removal_in_progress(&self) -> bool {
        matches!(self, Error::Status { status: 409, message } if message.contains("already in progress"))
    }

    /// The Engine did not give a whole answer, so that what became of the request is not known.
    pub fn is_unknown_outcome(&self) -> bool {
        matches!(self, Error::Unavailable(_) | Error::Timeout(_) | Error::Malformed(_) | Error::Cancelled)
    }

    /// The Engine could not be asked, in contrast to having said no.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Error::Unavailable(_) | Error::Timeout(_))
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Makes the error of an answer that is not a success: JSON `{"message":…}`, or plain text, which Engines
    /// before 24 send for some faults and any proxy in between may send.
    pub(super) fn from_answer(status: u16, body: &[u8]) -> Error {
        #[derive(serde::Deserialize)]
        struct Answer {
            message: String,
        }
        let message = match serde_json::from_slice::<Answer>(body) {
            Ok(answer) => answer.message,
            Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
        };
        Error::status_of(status, &message)
    }

    pub(super) fn status_of(status: u16, message: &str) -> Error {
        let mut message = message.to_owned();
        truncate(&mut message, MESSAGE_CAP);
        Error::Status { status, message }
    }

    /// What reading a body failed with: ureq wraps its own errors into I/O errors there.
    pub(super) fn from_reader(error: io::Error) -> Error {
        Error::from(ureq::Error::from(error))
    }

    pub(super) fn from_io(error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::Timeout("no answer in time"),
            _ => Error::Unavailable(error.to_string()),
        }
    }
}

impl From<ureq::Error> for Error {
    fn from(error: ureq::Error) -> Error {
        match error {
            ureq::Error::Timeout(_) => Error::Timeout("no answer in time"),
            ureq::Error::Io(error) => Error::from_io(&error),
            other => Error::Malformed(other.to_string()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unavailable(cause) => write!(f, "engine unavailable: {cause}"),
            Error::Timeout(what) => write!(f, "engine timeout: {what}"),
            Error::Status { status, message } => write!(f, "engine answered {status}: {message}"),
            Error::Malformed(cause) => write!(f, "engine answer not understood: {cause}"),
            Error::Unsupported(cause) => write!(f, "engine not supported: {cause}"),
            Error::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for Error {}

/// Cuts at `cap` bytes or just before, never inside a character.
pub(super) fn truncate(text: &mut String, cap: usize) {
    if text.len() > cap {
        text.truncate(text.floor_char_boundary(cap));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_engines_words_from_json_and_from_plain_text() {
        let check = |body: &str, expected: &str| {
            let error = Error::from_answer(404, body.as_bytes());
            assert_eq!(error, Error::Status { status: 404, message: expected.into() });
            assert!(error.is_not_found());
        };
        check(r#"{"message":"No such container: x"}"#, "No such container: x");
        check("client version 1.12 is too old.\n", "client version 1.12 is too old.");
        check("", "");
        check(r#"{"other":1}"#, r#"{"other":1}"#);
    }

    #[test]
    fn cuts_a_long_text_between_characters() {
        let Error::Status { message, .. } = Error::from_answer(500, "é".repeat(5000).as_bytes()) else {
            panic!("expected a status")
        };
        assert_eq!(message.len(), MESSAGE_CAP);
        let Error::Status { message, .. } =
            Error::from_answer(500, format!("a{}", "é".repeat(5000)).as_bytes())
        else {
            panic!("expected a status")
        };
        assert_eq!(message.len(), MESSAGE_CAP - 1);
    }
}
