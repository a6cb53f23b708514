//! What the Engine says of containers, images and itself: the answers to inspect, list, version and info.
//!
//! Only the fields that are used. Everything that some Engine leaves out or answers as null has a default, since
//! API 1.40 to 1.52 and Podman differ in what they send.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::container::{ContainerId, PortBinding};

/// The answer to `GET /containers/{id}/json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    pub id: ContainerId,
    /// Without the leading slash.
    #[serde(deserialize_with = "without_slash")]
    pub name: String,
    /// Nanoseconds since 1970.
    #[serde(default, rename = "Created", deserialize_with = "super::time::deserialize")]
    pub created_ns: Option<u64>,
    /// `sha256:…` of the image it was made from.
    #[serde(rename = "Image")]
    pub image_id: String,
    pub state: State,
    /// How often Docker's own restart policy restarted it.
    #[serde(default)]
    pub restart_count: u64,
    pub config: Config,
    pub host_config: HostSide,
    #[serde(default, deserialize_with = "null_as_default")]
    pub mounts: Vec<MountPoint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct State {
    pub status: Status,
    /// True also while `restarting`, and while `paused`.
    pub running: bool,
    pub paused: bool,
    pub restarting: bool,
    /// Advisory: a child process may have been the one, and some kernels never set it.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    pub dead: bool,
    /// 0 when it does not run.
    pub pid: u32,
    /// Of the last run; 128 + n for an end by signal n.
    pub exit_code: i64,
    /// Why the last start failed; empty if it did not.
    #[serde(deserialize_with = "null_as_default")]
    pub error: String,
    /// Nanoseconds since 1970; `None` if it never ran.
    #[serde(rename = "StartedAt", deserialize_with = "super::time::deserialize")]
    pub started_ns: Option<u64>,
    /// Nanoseconds since 1970; `None` if it never ended.
    #[serde(rename = "FinishedAt", deserialize_with = "super::time::deserialize")]
    pub finished_ns: Option<u64>,
}

/// Docker's word for a container's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    /// A word that is not Docker's; Podman has some. `State`'s flags hold all the same.
    #[default]
    #[serde(other)]
    Other,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// The reference it was made from.
    pub image: String,
    #[serde(deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
    /// Whether output comes raw instead of in frames; no header says so reliably.
    pub tty: bool,
    pub open_stdin: bool,
    #[serde(deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub user: String,
    /// The signal that `stop` would send; empty is SIGTERM.
    #[serde(deserialize_with = "null_as_default")]
    pub stop_signal: String,
}

/// What the host grants it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostSide {
    pub network_mode: String,
    /// Bytes; 0 is unlimited.
    pub memory: u64,
    /// Bytes of memory and swap together; -1 is unlimited, 0 the Engine's default.
    pub memory_swap: i64,
    /// Billionths of a core; 0 is unlimited.
    pub nano_cpus: u64,
    #[serde(deserialize_with = "null_as_default")]
    pub blkio_weight: u16,
    /// `None`, 0 and -1 are unlimited.
    pub pids_limit: Option<i64>,
    pub privileged: bool,
    pub readonly_rootfs: bool,
    #[serde(deserialize_with = "null_as_default")]
    pub init: bool,
    #[serde(deserialize_with = "null_as_default")]
    pub cap_add: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub cap_drop: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub security_opt: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    #[serde(deserialize_with = "null_as_default")]
    pub tmpfs: BTreeMap<String, String>,
    pub restart_policy: RestartPolicyName,
    pub log_config: LogDriver,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicyName {
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LogDriver {
    #[serde(rename = "Type")]
    pub driver: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountPoint {
    #[serde(rename = "Type")]
    pub kind: String,
    /// On the host.
    pub source: String,
    /// In the container.
    pub destination: String,
    #[serde(rename = "RW")]
    pub writable: bool,
}

/// One entry of `GET /containers/json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Summary {
    pub id: ContainerId,
    /// Without leading slashes.
    #[serde(default, deserialize_with = "names_without_slash")]
    pub names: Vec<String>,
    #[serde(default)]
    pub image: String,
    #[serde(default, rename = "ImageID")]
    pub image_id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, rename = "State")]
    pub status: Status,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: i64,
}

/// The answer to `GET /images/{name}/json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Image {
    /// `sha256:…`
    pub id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub repo_tags: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub repo_digests: Vec<String>,
    pub architecture: String,
    pub os: String,
    /// Bytes.
    pub size: u64,
    #[serde(deserialize_with = "null_as_default")]
    pub config: ImageConfig,
}

/// What a container has when it does not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    #[serde(deserialize_with = "null_as_default")]
    pub user: String,
    #[serde(deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "null_as_default")]
    pub stop_signal: String,
}

/// The answer to `GET /version`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Version {
    /// Of the Engine, such as `20.10.24+dfsg1`.
    pub version: String,
    /// The newest it speaks.
    pub api_version: String,
    #[serde(rename = "MinAPIVersion")]
    pub min_api_version: String,
    pub os: String,
    pub arch: String,
    pub kernel_version: String,
}

/// The answer to `GET /info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Info {
    /// Differs between Engines and is kept by each.
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    pub server_version: String,
    pub operating_system: String,
    /// The storage driver, such as `overlay2`.
    pub driver: String,
    pub docker_root_dir: String,
    /// `systemd`, `cgroupfs` or `none`.
    pub cgroup_driver: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    #[serde(rename = "NCPU")]
    pub cpus: u32,
    /// Bytes.
    pub mem_total: u64,
    pub live_restore_enabled: bool,
    #[serde(deserialize_with = "null_as_default")]
    pub security_options: Vec<String>,
    /// What the Engine has to say about its host.
    #[serde(deserialize_with = "null_as_default")]
    pub warnings: Vec<String>,
}

/// Go writes an empty list or map as null.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn without_slash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    Ok(name.strip_prefix('/').map(str::to_owned).unwrap_or(name))
}

fn names_without_slash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let mut names: Vec<String> = null_as_default(deserializer)?;
    for name in &mut names {
        if name.starts_with('/') {
            name.remove(0);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inspect_of_nulls_and_gaps_still_reads() {
        let id = "a".repeat(64);
        let json = format!(
            r#"{{"Id":"{id}","Name":"/x","Image":"sha256:1","State":{{"Status":"configured","Error":null,
            "StartedAt":"0001-01-01T00:00:00Z","FinishedAt":""}},"Config":{{"Labels":null,"Cmd":null}},
            "HostConfig":{{"PidsLimit":null,"Init":null,"CapAdd":null,"PortBindings":null}},"Mounts":null}}"#
        );
        let container: Container = serde_json::from_str(&json).unwrap();
        assert_eq!(container.name, "x");
        assert_eq!(container.state, State::default());
        assert_eq!((container.created_ns, container.mounts.len()), (None, 0));
    }

    #[test]
    fn a_list_entry_reads_with_nulls() {
        let json = format!(
            r#"[{{"Id":"{}","Names":["/a","/b/c"],"Labels":null,"State":"exited"}}]"#,
            "b".repeat(64)
        );
        let list: Vec<Summary> = serde_json::from_str(&json).unwrap();
        assert_eq!(list[0].names, ["a", "b/c"]);
        assert_eq!(list[0].status, Status::Exited);
    }
}
