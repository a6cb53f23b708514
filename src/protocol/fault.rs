//! What can go wrong, as the Panel is told: a code and a plain sentence.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Error codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    InvalidMessage,
    UnknownAction,
    InvalidPayload,
    WrongAgent,
    WrongEpoch,
    ServerNotFound,
    ServerExists,
    ContainerNotFound,
    ImageNotFound,
    ImagePullFailed,
    PortConflict,
    InsufficientResources,
    ServerNotRunning,
    ServerSuspended,
    Conflict,
    Superseded,
    Timeout,
    DockerUnavailable,
    DockerError,
    PermissionDenied,
    FileNotFound,
    FileExists,
    NotText,
    PathInvalid,
    TooLarge,
    QuotaExceeded,
    InstallFailed,
    DownloadFailed,
    ChecksumMismatch,
    Busy,
    ShuttingDown,
    Interrupted,
    Internal,
}

/// A failure as the Panel is told. The message says what to do in plain words and never holds a host path, an
/// environment value, a secret, an internal address or a debug string; the full cause goes to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: Code,
    pub message: String,
}

impl Fault {
    pub fn new(code: Code, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into() }
    }

    /// `INVALID_PAYLOAD` naming the field at fault, as `field: what is expected`.
    pub fn field(field: &str, expected: impl fmt::Display) -> Fault {
        Fault::new(Code::InvalidPayload, format!("{field}: {expected}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl std::error::Error for Fault {}
