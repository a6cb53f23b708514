//! A spec as the container that Docker is asked for: hardened the same way for every server, with nothing of the
//! host but the server's own directory. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use super::facts::{LABEL_DEFINITION, LABEL_NODE, LABEL_SERVER, LABEL_SPEC};
use crate::docker::container::Empty;
use crate::docker::{ContainerConfig, HostConfig, LogConfig, Mount, PortBinding, Resources, RestartPolicy};
use crate::protocol::spec::{Limits, User};
use crate::protocol::{Fault, NodeId, ServerId, Spec};

/// What a server may do as root inside its container: enough for the usual "fix the owner, then drop to a user"
/// start scripts, and nothing that reaches out of it.
const CAPABILITIES: [&str; 5] = ["CHOWN", "SETUID", "SETGID", "KILL", "NET_BIND_SERVICE"];
/// Java unpacks native libraries into /tmp and runs them there, so `exec`; the size counts as memory.
const TMP_OPTIONS: &str = "rw,exec,nosuid,nodev,size=256m,mode=1777";
/// Docker's log files, which share what a server's output may take on disk. With one it would be cut, with more of them
/// each is smaller: Docker skips what a reader had not read when a file was put away and the next one too.
const LOG_FILES: u32 = 2;
/// Docker sends a container's labels along with each of its events, so a larger spec is not kept in one.
const MAX_DEFINITION: usize = 32 << 10;

/// The container's name, by which a person finds it.
pub fn container_name(node: &NodeId, server: &ServerId) -> String {
    format!("longshore-{node}-{server}")
}

/// What to ask Docker for. `directory` is the server's own on the host, `log_disk` the bytes that Docker keeps of its
/// output.
///
/// # Errors
/// `INVALID_PAYLOAD` when a placeholder of the startup command has no value.
pub fn container(
    node: &NodeId,
    server: &ServerId,
    spec: &Spec,
    directory: &Path,
    server_user: (u32, u32),
    log_disk: u64,
) -> Result<ContainerConfig, Fault> {
    let resolved = spec.resolve(server)?;
    Ok(ContainerConfig {
        image: spec.image.clone(),
        cmd: resolved.cmd,
        env: resolved.environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        labels: labels(node, server, spec),
        user: match &spec.user {
            None => Some(format!("{}:{}", server_user.0, server_user.1)),
            Some(User::Image) => None,
            Some(ids) => Some(ids.to_string()),
        },
        tty: spec.tty,
        open_stdin: true,
        stdin_once: false,
        exposed_ports: spec.ports.iter().map(|port| (port.key(), Empty {})).collect(),
        host_config: host_config(spec, directory, log_disk),
        ..ContainerConfig::default()
    })
}

fn labels(node: &NodeId, server: &ServerId, spec: &Spec) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (LABEL_NODE.to_owned(), node.to_string()),
        (LABEL_SERVER.to_owned(), server.to_string()),
        (LABEL_SPEC.to_owned(), spec.hash()),
    ]);
    let definition = spec.to_json();
    if definition.len() <= MAX_DEFINITION {
        labels.insert(LABEL_DEFINITION.to_owned(), definition);
    }
    labels
}

fn host_config(spec: &Spec, directory: &Path, log_disk: u64) -> HostConfig {
    let added = spec.capabilities.iter().map(String::as_str);
    let mut bindings: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for port in &spec.ports {
        bindings.entry(port.key()).or_default().push(PortBinding {
            host_ip: port.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            host_port: port.external.to_string(),
        });
    }
    HostConfig {
        resources: resources(&spec.limits),
        port_bindings: bindings,
        // Not a bind: that would make a missing directory, owned by root, instead of failing.
        mounts: vec![Mount {
            kind: "bind",
            source: directory.to_string_lossy().into_owned(),
            target: spec.mount_path.clone(),
            read_only: false,
        }],
        tmpfs: [("/tmp".to_owned(), TMP_OPTIONS.to_owned())].into(),
        cap_drop: vec!["ALL".into()],
        cap_add: CAPABILITIES.into_iter().chain(added).map(str::to_owned).collect(),
        security_opt: vec!["no-new-privileges".into()],
        init: Some(true),
        restart_policy: RestartPolicy::default(),
        log_config: Some(LogConfig::json_file(log_disk / u64::from(LOG_FILES), LOG_FILES)),
        ..HostConfig::default()
    }
}

/// The limits in the Engine's terms. Without `swap`, none on top of a memory limit: the Engine's own default would
/// be as much again.
pub fn resources(limits: &Limits) -> Resources {
    let memory_swap = limits.memory.map(|memory| match limits.swap {
        None => memory as i64,
        Some(-1) => -1,
        Some(swap) => (memory as i64).saturating_add(swap),
    });
    Resources {
        memory: limits.memory,
        memory_swap,
        nano_cpus: limits.nano_cpus,
        blkio_weight: limits.io,
        pids_limit: Some(limits.pids.into()),
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_hardened_whatever_the_spec_says() {
        let spec = Spec {
            image: "demo:1".into(),
            capabilities: vec!["DAC_OVERRIDE".into()],
            limits: Limits { memory: Some(64 << 20), ..Limits::default() },
            ..Spec::default()
        };
        let (node, server) = ("n".parse().unwrap(), "s".parse().unwrap());
        let directory = Path::new("/data/servers/s");
        let config = container(&node, &server, &spec, directory, (1000, 1000), 4096).unwrap();
        let host = &config.host_config;
        assert_eq!(host.cap_drop, ["ALL"]);
        assert_eq!(host.cap_add, ["CHOWN", "SETUID", "SETGID", "KILL", "NET_BIND_SERVICE", "DAC_OVERRIDE"]);
        assert_eq!(host.security_opt, ["no-new-privileges"]);
        assert_eq!(host.mounts.len(), 1);
        assert_eq!((host.mounts[0].target.as_str(), host.binds.len()), ("/home/container", 0));
        assert_eq!((host.resources.memory_swap, host.resources.pids_limit), (Some(64 << 20), Some(512)));
        assert_eq!((host.restart_policy.name, host.network_mode.as_deref()), ("no", None));
        assert_eq!(host.log_config, Some(LogConfig::json_file(2048, 2)));
        assert_eq!(config.user.as_deref(), Some("1000:1000"));
        assert_eq!(config.labels[LABEL_SERVER], "s");
    }
}
