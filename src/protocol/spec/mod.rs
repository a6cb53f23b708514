//! A server's specification: what the Panel asked for, checked field by field and in one canonical form.
//!
//! `parse` reads it, `canonical` writes it, `startup` fills its placeholders, `patch` changes it. A [`Spec`] that
//! was read has passed every check; nothing here knows Docker or the disk.

mod canonical;
mod limits;
mod parse;
mod patch;
mod place;
mod ports;
mod startup;
mod stop;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use patch::{Change, Effect, Patched, SpecPatch};
pub use startup::Resolved;
pub(super) use stop::signal;

/// What the node's owner lets a spec ask for. The Panel cannot change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Capabilities that may be added to the default set, without `CAP_`.
    pub capabilities: Vec<String>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { capabilities: vec!["DAC_OVERRIDE".into(), "FOWNER".into()] }
    }
}

/// All that defines a server. Serialises to the canonical JSON that is stored, and parses back from it. Reading with
/// serde is for what this side has stored itself: it checks everything but [`Rules`], which may have become narrower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub image: String,
    /// For people; the container is not named after it.
    pub name: Option<String>,
    /// `None` leaves the image's own `Cmd`.
    pub startup: Option<Startup>,
    /// As the Panel gave it; [`Spec::resolve`] tells what the container gets.
    pub environment: BTreeMap<String, String>,
    pub limits: Limits,
    pub ports: Vec<Port>,
    /// The ports came as a map, which decides what `SERVER_PORT` is.
    pub ports_as_map: bool,
    /// The container port that `SERVER_PORT` names; `None` without ports.
    pub server_port: Option<u16>,
    pub stop: Stop,
    /// Any one of these in the output means that the server is up: a part of a line, or `regex:` and a pattern.
    pub done: Vec<String>,
    pub restart: Restart,
    pub restart_policy: RestartPolicy,
    /// Seconds over the disk limit before something is done about it.
    pub disk_grace: u32,
    pub tty: bool,
    /// Where the server's directory is mounted: absolute, normalised, no system directory.
    pub mount_path: String,
    /// Where mods go, relative to the server's directory.
    pub mod_dir: String,
    /// `None` is the node's own choice.
    pub user: Option<User>,
    /// Added to the default set, sorted, without `CAP_`.
    pub capabilities: Vec<String>,
}

/// Docker's `Cmd`, placeholders still in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Startup {
    /// Run as it is.
    Exec(Vec<String>),
    /// Run by `/bin/sh -c`.
    Shell(String),
}

/// Limits in the Engine's own units; `None` is unlimited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes on top of `memory`; -1 is unlimited and `None` is none at all.
    pub swap: Option<i64>,
    /// Bytes.
    pub disk: Option<u64>,
    /// Billionths of a core.
    pub nano_cpus: Option<u64>,
    /// Block weight, 10 to 1000; `None` leaves the Engine's default.
    pub io: Option<u16>,
    /// Never unlimited: one fork bomb would take the node with it.
    pub pids: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    pub internal: u16,
    pub external: u16,
    pub protocol: Protocol,
    /// The node's address to publish on; `None` is all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// How the server is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    #[serde(flatten)]
    pub method: StopMethod,
    /// Seconds until SIGKILL, 0 to 3600.
    pub timeout: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "value", rename_all = "lowercase")]
pub enum StopMethod {
    /// A name such as `SIGTERM`.
    Signal(String),
    /// A line for the server's standard input.
    Command(String),
}

/// When the Agent starts a server again that ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    Never,
    /// Every end but exit 0.
    OnFailure,
    Always,
}

/// How often that may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartPolicy {
    /// Seconds in which crashes are counted.
    pub window: u32,
    /// Crashes within `window` after which it is given up.
    pub max: u32,
    /// Seconds that the wait between two starts grows to at most.
    pub backoff_cap: u32,
}

/// Whom the server's processes run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The image's own user, written `image`.
    Image,
    Ids {
        uid: u32,
        gid: u32,
    },
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Image => f.write_str("image"),
            User::Ids { uid, gid } => write!(f, "{uid}:{gid}"),
        }
    }
}

/// Without an image, which a spec from the wire always has.
impl Default for Spec {
    fn default() -> Spec {
        Spec {
            image: String::new(),
            name: None,
            startup: None,
            environment: BTreeMap::new(),
            limits: Limits::default(),
            ports: Vec::new(),
            ports_as_map: false,
            server_port: None,
            stop: Stop::default(),
            done: Vec::new(),
            restart: Restart::OnFailure,
            restart_policy: RestartPolicy::default(),
            disk_grace: 60,
            tty: false,
            mount_path: "/home/container".into(),
            mod_dir: "mods".into(),
            user: None,
            capabilities: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { memory: None, swap: None, disk: None, nano_cpus: None, io: None, pids: 512 }
    }
}

impl Default for Stop {
    fn default() -> Stop {
        Stop { method: StopMethod::Signal("SIGTERM".into()), timeout: 30 }
    }
}

impl Default for RestartPolicy {
    fn default() -> RestartPolicy {
        RestartPolicy { window: 600, max: 5, backoff_cap: 60 }
    }
}

impl Stop {
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}
