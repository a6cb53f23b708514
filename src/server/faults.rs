//! An Engine error as the Panel is told: a code and a plain sentence. The Engine's own text may hold host paths,
//! addresses and environment values, so it goes to the log only, never into a [`Fault`].

use crate::docker;
use crate::protocol::{Code, Fault};

/// Words of the Engine's, in lower case, and what they mean.
type Cause = (&'static [&'static str], Code, &'static str);

const DISK_FULL: Cause = (
    &["no space left on device", "disk quota exceeded"],
    Code::InsufficientResources,
    "The node's disk is full. Free some space and try again.",
);

/// What a container cannot be made, started or updated for. The first that fits is taken, so what says more stands
/// before what says less: a mount that fails also ends in `no such file or directory: unknown`.
const CAUSES: &[Cause] = &[
    (
        &["port is already allocated", "address already in use", "ports are not available"],
        Code::PortConflict,
        "One of the server's ports is in use on this node. Choose another port or stop what uses it.",
    ),
    (
        &["cannot assign requested address"],
        Code::PortConflict,
        "One of the server's ports is at an address that this node does not have. Choose another one or leave it out.",
    ),
    DISK_FULL,
    (
        &[
            "range of cpus is from",
            "minimum memory limit",
            "memory limit can not be less",
            "is higher than the memory",
            "unable to set memory limit",
        ],
        Code::InsufficientResources,
        "A limit does not fit this node or the use of the running server. Choose another memory or cpu limit.",
    ),
    (
        &["cannot allocate memory", "not enough memory", "out of memory"],
        Code::InsufficientResources,
        "The node has not enough memory for this. Stop another server or lower the limit.",
    ),
    (
        &["invalid mount config", "bind source path does not exist"],
        Code::DockerError,
        "Docker could not find the server's files. The node's owner finds the cause in the Agent's log.",
    ),
    (
        &["error mounting", "mount a directory onto a file"],
        Code::DockerError,
        "The server's files could not be put at its mountPath in this image. Choose another mountPath.",
    ),
    (
        &["unable to find user", "unable to find group", "uids and gids must be in range"],
        Code::DockerError,
        "The user that the image is to run as is not in it. Set the server's user or choose another image.",
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
];

const NOT_FOUND: Cause = (
    &["not found", "manifest unknown", "does not exist", "repository name not known"],
    Code::ImageNotFound,
    "The image could not be found in its registry. Check its name and tag.",
);

/// What an image cannot be pulled for.
const PULL_CAUSES: &[Cause] = &[
    DISK_FULL,
    (
        &["no matching manifest"],
        Code::ImagePullFailed,
        "The image is not made for this node's kind of machine. Choose another image or tag.",
    ),
    (
        &["toomanyrequests", "rate limit"],
        Code::ImagePullFailed,
        "The registry allows no more pulls for now. Try again later, or give the node a registry login.",
    ),
    // A registry that wants a login says `denied` for what it does not have, too.
    NOT_FOUND,
    (
        &["denied", "unauthorized", "authentication required", "no basic auth credentials"],
        Code::ImagePullFailed,
        "The registry refused access to the image. Check its name and the node's registry login.",
    ),
    (
        &["verification failed", "unknown blob", "unexpected eof"],
        Code::ImagePullFailed,
        "The image in its registry is damaged or incomplete. Push it again or choose another one.",
    ),
];

/// Tells a pull's failure.
pub fn of_pull(error: &docker::Error) -> Fault {
    let text = error.to_string().to_ascii_lowercase();
    match error {
        docker::Error::Unavailable(_) => unavailable(),
        // Whoever was overtaken has had its answer: only an Agent that ends leaves anybody to hear this.
        docker::Error::Cancelled => Fault::new(
            Code::Interrupted,
            "The Agent was stopped while the image was pulled. Try again when it is back.",
        ),
        docker::Error::Timeout(_) => Fault::new(
            Code::ImagePullFailed,
            "The image could not be pulled: its registry gave no answer in time. Try again later.",
        ),
        _ => find(PULL_CAUSES, &text).unwrap_or_else(|| match error.is_not_found() {
            true => Fault::new(NOT_FOUND.1, NOT_FOUND.2),
            false => Fault::new(
                Code::ImagePullFailed,
                "The image could not be pulled. Check its name and whether the node reaches its registry.",
            ),
        }),
    }
}

fn find(causes: &[Cause], text: &str) -> Option<Fault> {
    let fits = |(words, ..): &&Cause| words.iter().any(|words| text.contains(words));
    causes.iter().find(fits).map(|(_, code, sentence)| Fault::new(*code, *sentence))
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
            find(CAUSES, &message.to_ascii_lowercase()).unwrap_or_else(|| refused(error))
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
