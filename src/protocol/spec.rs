//! A server's specification: what the Panel asked for, checked field by field and in one canonical form.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// All that defines a server. Serialises to the canonical JSON that is stored and hashed, and parses back from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub image: String,
    pub name: Option<String>,
    pub startup: Option<Startup>,
    pub environment: BTreeMap<String, String>,
    pub limits: Limits,
    pub ports: Vec<Port>,
    /// Container port that `SERVER_PORT` names.
    pub server_port: Option<u16>,
    pub stop: Stop,
    /// Any one of these in the output means that the server is up.
    pub done: Vec<String>,
    pub restart: Restart,
    pub restart_policy: RestartPolicy,
    pub disk_grace: u32,
    pub tty: bool,
    pub mount_path: String,
    pub mod_dir: String,
    pub user: Option<User>,
    /// Added to the default set.
    pub capabilities: Vec<String>,
}

/// Docker's `Cmd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Startup {
    /// Run as it is.
    Exec(Vec<String>),
    /// Run by `/bin/sh -c`.
    Shell(String),
}

/// Limits in the Engine's own units; `None` is unlimited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes on top of `memory`; -1 is unlimited.
    pub swap: Option<i64>,
    /// Bytes.
    pub disk: Option<u64>,
    /// Billionths of a core.
    pub nano_cpus: Option<u64>,
    /// Block weight, 10 to 1000.
    pub io: Option<u16>,
    pub pids: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub internal: u16,
    pub external: u16,
    pub protocol: Protocol,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// How the server is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stop {
    pub method: StopMethod,
    /// Seconds until SIGKILL, 0 to 3600.
    pub timeout: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "lowercase")]
pub enum StopMethod {
    Signal(String),
    /// A line for the server's standard input.
    Command(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    Never,
    OnFailure,
    Always,
}

/// Seconds, crashes and seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestartPolicy {
    pub window: u32,
    pub max: u32,
    pub backoff_cap: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum User {
    /// The image's own user, written `image`.
    #[serde(with = "image_user")]
    Image,
    /// `uid:gid`
    Ids(String),
}

mod image_user {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str("image")
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
        match String::deserialize(d)?.as_str() {
            "image" => Ok(()),
            _ => Err(serde::de::Error::custom("expected image")),
        }
    }
}

/// The fields an update names; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecPatch {
    /// Field names as they came, in the contract's order.
    pub fields: Vec<&'static str>,
    /// The raw values, merged over the stored spec's canonical JSON and parsed as a whole again.
    pub values: serde_json::Map<String, serde_json::Value>,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            image: String::new(),
            name: None,
            startup: None,
            environment: BTreeMap::new(),
            limits: Limits::default(),
            ports: Vec::new(),
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
