//! What a container is made from: the body of `POST /containers/create` and `…/update`, with the Engine's own
//! field names (API 1.40 to 1.52). What is `None` or empty is left out, so that the Engine's default stands.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// A container's full id: 64 lower-case hex digits. Derefs to the text, which every call takes. Many know it of each
/// container, so a clone is the same text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct ContainerId(Arc<str>);

impl ContainerId {
    /// `None` for anything but a full id.
    pub fn new(id: &str) -> Option<ContainerId> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (id.len() == 64 && id.bytes().all(is_hex)).then(|| ContainerId(id.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 11 digits, for a thread's name.
    pub fn short(&self) -> &str {
        &self.0[..11]
    }
}

impl TryFrom<String> for ContainerId {
    type Error = &'static str;

    fn try_from(id: String) -> Result<ContainerId, &'static str> {
        ContainerId::new(&id).ok_or("a container id is 64 hex digits")
    }
}

impl Serialize for ContainerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl Deref for ContainerId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The body of a create.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    pub image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The exec form; the image's own when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// `NAME=value`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `uid:gid`; the image's own when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    pub tty: bool,
    /// Keeps standard input open for attaches to come.
    pub open_stdin: bool,
    /// Whether standard input ends with the first attach.
    pub stdin_once: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
    /// Keys are `25565/tcp`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    pub host_config: HostConfig,
}

/// The `{}` that Docker writes as the value of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// What the host grants a container, in a create.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostConfig {
    #[serde(flatten)]
    pub resources: Resources,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_mode: Option<String>,
    /// Keys are `25565/tcp`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    /// `/host/path:/container/path[:ro]`. A missing host path is made, owned by root; `mounts` refuse instead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub binds: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// From path to mount options, such as `rw,nosuid,nodev,size=64m`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tmpfs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_opt: Vec<String>,
    /// `name:address`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    pub readonly_rootfs: bool,
    /// Whether the Engine removes the container once it ends.
    pub auto_remove: bool,
    pub restart_policy: RestartPolicy,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_config: Option<LogConfig>,
    /// Bytes of `/dev/shm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
}

/// Limits, for a create and for an update. In an update the Engine takes 0 as "leave as it is", so a limit
/// cannot be taken away from a running container (except `memory_swap` and `pids_limit`, by -1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Resources {
    /// Bytes, at least 6 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; -1 is unlimited swap, as much as `memory` is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap: Option<i64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<u64>,
    /// Billionths of a core. An update takes it from 1.40 on.
    #[serde(skip_serializing_if = "Option::is_none", rename = "NanoCpus")]
    pub nano_cpus: Option<u64>,
    /// 10 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blkio_weight: Option<u16>,
    /// -1 is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// Empty is every address of the host.
    pub host_ip: String,
    /// A number as text; empty is any free port.
    pub host_port: String,
}

/// The form of a mount that fails when its source does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Mount {
    /// `bind`, `volume` or `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    pub source: String,
    pub target: String,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RestartPolicy {
    pub name: &'static str,
    pub maximum_retry_count: u32,
}

impl Default for RestartPolicy {
    /// `no`: Docker never restarts the container by itself.
    fn default() -> RestartPolicy {
        RestartPolicy { name: "no", maximum_retry_count: 0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct LogConfig {
    #[serde(rename = "Type")]
    pub driver: &'static str,
    pub config: BTreeMap<&'static str, String>,
}

impl LogConfig {
    /// Nothing is kept.
    pub fn none() -> LogConfig {
        LogConfig { driver: "none", config: BTreeMap::new() }
    }

    /// `json-file`, the driver whose follow loses nothing, with `files` files of at most `max_bytes` each.
    pub fn json_file(max_bytes: u64, files: u32) -> LogConfig {
        let config = [("max-size", max_bytes.to_string()), ("max-file", files.to_string())];
        LogConfig { driver: "json-file", config: config.into() }
    }
}

/// The answer to a create.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Created {
    pub id: ContainerId,
    /// What the Engine left out, such as a limit that the kernel does not have; for the log.
    #[serde(default, deserialize_with = "super::inspect::null_as_default")]
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_body_holds_only_what_must_be_said() {
        let config = ContainerConfig { image: "a:b".into(), ..ContainerConfig::default() };
        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            r#"{"Image":"a:b","Tty":false,"OpenStdin":false,"StdinOnce":false,"HostConfig":{"ReadonlyRootfs":false,"AutoRemove":false,"RestartPolicy":{"Name":"no","MaximumRetryCount":0}}}"#
        );
    }

    #[test]
    fn fields_bear_the_engines_names() {
        let host_config = HostConfig {
            resources: Resources {
                memory: Some(1),
                memory_swap: Some(-1),
                nano_cpus: Some(2),
                blkio_weight: Some(10),
                pids_limit: Some(3),
                memory_reservation: None,
            },
            port_bindings: [(
                "1/udp".into(),
                vec![PortBinding { host_ip: "".into(), host_port: "2".into() }],
            )]
            .into(),
            mounts: vec![Mount { kind: "bind", source: "/a".into(), target: "/b".into(), read_only: true }],
            log_config: Some(LogConfig::json_file(1024, 2)),
            ..HostConfig::default()
        };
        let json = serde_json::to_value(&host_config).unwrap();
        let expected = serde_json::json!({
            "Memory": 1, "MemorySwap": -1, "NanoCpus": 2, "BlkioWeight": 10, "PidsLimit": 3,
            "PortBindings": {"1/udp": [{"HostIp": "", "HostPort": "2"}]},
            "Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true}],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1024", "max-file": "2"}},
            "ReadonlyRootfs": false, "AutoRemove": false,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn an_id_is_64_hex_digits() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(ContainerId::new(&id).unwrap().short(), "0123456789a");
        for bad in ["", &id[1..], &id.to_uppercase(), &format!("{id}0"), &id.replace('0', "/")] {
            assert_eq!(ContainerId::new(bad), None, "{bad:?}");
        }
    }
}
