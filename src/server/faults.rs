//! An Engine error as the Panel is told: a code and a plain sentence. The Engine's own text may hold host paths,
//! addresses and environment values, so it goes to the log only, never into a [`Fault`].

use crate::docker;
use crate::protocol::{Code, Fault};

/// The Engine's wording of a cause, in lower case, and what it means. The first that fits is taken.
const CAUSES: &[(&[&str], Code, &str)] = &[
    (
        &["port is already allocated", "address already in use", "ports are not available"],
        Code::PortConflict,
        "One of the server's ports is in use on this node. Choose another port or stop what uses it.",
    ),
    (
        &["no space left on device", "disk quota exceeded"],
        Code::InsufficientResources,
        "The node's disk is full. Free some space and try again.",
    ),
    (
        &["cannot allocate memory", "not enough memory", "out of memory"],
        Code::InsufficientResources,
        "The node has not enough memory for this. Stop another server or lower the limit.",
    ),
    (
        &[
            "range of cpus is from",
            "minimum memory limit",
            "memory limit can not be less",
            "is higher than the memory",
        ],
        Code::InsufficientResources,
        "A limit does not fit this node or the use of the running server. Choose another memory or cpu limit.",
    ),
    (
        &["executable file not found", "no such file or directory: unknown", "exec format error"],
        Code::DockerError,
        "The server's start command could not be run in its image. Check the startup command and the image.",
    ),
    (
        &["permission denied: unknown"],
        Code::DockerError,
        "The server's start command may not be run in its image. Check the startup command and the user.",
    ),
    (
        &["invalid mount config", "bind source path does not exist", "mount"],
        Code::DockerError,
        "Docker could not mount the server's files. The node's owner finds the cause in the Agent's log.",
    ),
];

/// Tells a pull's failure.
pub fn of_pull(error: &docker::Error) -> Fault {
    let text = error.to_string().to_ascii_lowercase();
    let missing = ["not found", "manifest unknown", "does not exist", "repository name not known"];
    if error.is_not_found() || missing.iter().any(|words| text.contains(words)) {
        return Fault::new(
            Code::ImageNotFound,
            "The image could not be found in its registry. Check its name and tag.",
        );
    }
    match error {
        docker::Error::Unavailable(_) => unavailable(),
        // Whoever was overtaken has had its answer: only an Agent that ends leaves anybody to hear this.
        docker::Error::Cancelled => Fault::new(
            Code::Interrupted,
            "The Agent was stopped while the image was pulled. Try again when it is back.",
        ),
        _ if text.contains("denied") || text.contains("unauthorized") => Fault::new(
            Code::ImagePullFailed,
            "The registry refused access to the image. Check its name and the node's registry login.",
        ),
        docker::Error::Timeout(_) => Fault::new(
            Code::ImagePullFailed,
            "The image could not be pulled: its registry gave no answer in time. Try again later.",
        ),
        _ => Fault::new(
            Code::ImagePullFailed,
            "The image could not be pulled. Check its name and whether the node reaches its registry.",
        ),
    }
}

/// Tells any other call's failure.
pub fn of_engine(error: &docker::Error) -> Fault {
    match error {
        docker::Error::Unavailable(_) => unavailable(),
        docker::Error::Unsupported(_) => Fault::new(
            Code::DockerUnavailable,
            "Docker on this node is too old for this Agent. Its owner has to update it.",
        ),
        docker::Error::Timeout(_) => Fault::new(
            Code::Timeout,
            "Docker on this node did not answer in time. Look at the server's state.",
        ),
        docker::Error::Status { message, .. } => {
            let text = message.to_ascii_lowercase();
            CAUSES
                .iter()
                .find(|(words, ..)| words.iter().any(|w| text.contains(w)))
                .map(|(_, code, sentence)| Fault::new(*code, *sentence))
                .unwrap_or_else(|| refused(error))
        }
        _ => refused(error),
    }
}

fn refused(error: &docker::Error) -> Fault {
    if error.is_conflict() {
        return Fault::new(
            Code::Conflict,
            "Docker is busy with this server's container or its name is taken. Try again in a moment.",
        );
    }
    Fault::new(Code::DockerError, "Docker refused this. The node's owner finds the cause in the Agent's log.")
}

fn unavailable() -> Fault {
    Fault::new(Code::DockerUnavailable, "Docker on this node does not answer. Try again when it is back.")
}
