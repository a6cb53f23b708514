//! The Engine: its socket, its version, and what it runs on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::Check;
use crate::agent::config::Config;
use crate::docker::{Client, Endpoint, Error, Info};

/// Bound on the first call, which tells whether anybody answers.
const PING: Duration = Duration::from_secs(5);

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let endpoint = config.docker.clone().unwrap_or_else(crate::agent::probe_engine);
    let client = match Client::new(endpoint.clone(), config.docker_api_version) {
        Ok(client) => client,
        Err(e) => return vec![Check::failure("engine", e.to_string(), "correct the setting")],
    };
    if let Err(error) = client.ping_fresh(PING) {
        let rest = ["api version", "storage driver", "cgroup"];
        let rest = rest.map(|name| Check::skipped(name, "no Engine answers"));
        return [vec![unreachable(&endpoint, &error)], rest.into()].concat();
    }
    let mut checks = vec![Check::ok("engine", endpoint.to_string())];
    checks.push(match client.api_version() {
        Ok(version) => Check::ok("api version", version.to_string()),
        Err(e) => {
            Check::failure("api version", e.to_string(), "update the Engine, or unset DOCKER_API_VERSION")
        }
    });
    match client.info() {
        Ok(info) => checks.extend([storage(&info), cgroup(&info)]),
        Err(e) => checks.push(Check::failure("engine info", e.to_string(), "look into the Engine's log")),
    }
    checks
}

/// Why the Engine does not answer, as far as its socket tells.
fn unreachable(endpoint: &Endpoint, error: &Error) -> Check {
    let name = "engine";
    let Endpoint::Unix(path) = endpoint else {
        let advice = "check that the Engine runs and listens there, and DOCKER_HOST, DOCKER_CERT_PATH";
        return Check::failure(name, format!("{endpoint}: {error}"), advice);
    };
    match access(path, Access::WRITE_OK) {
        Err(Errno::NOENT | Errno::NOTDIR) => Check::failure(
            name,
            format!("{endpoint}: there is no socket"),
            "install and start Docker, or set DOCKER_HOST to where its socket is",
        ),
        Err(Errno::ACCESS) => denied(endpoint, path),
        _ if error.to_string().contains("denied") => denied(endpoint, path),
        _ if matches!(error, Error::Timeout(_)) => Check::failure(
            name,
            format!("{endpoint}: takes connections and does not answer"),
            "look into the Engine's log, and restart it",
        ),
        _ => Check::failure(
            name,
            format!("{endpoint}: {error}"),
            "start the Engine: the socket is there and nobody listens, or another program does",
        ),
    }
}

fn denied(endpoint: &Endpoint, path: &Path) -> Check {
    let group = fs::metadata(path).map(|meta| group_name(meta.gid())).unwrap_or_else(|_| "docker".into());
    let enforcing = fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1");
    let hint =
        if enforcing { "; SELinux is enforcing, and may be what denies it (ausearch -m avc)" } else { "" };
    Check::failure(
        "engine",
        format!("{endpoint}: permission denied, it belongs to the group {group}{hint}"),
        "put the Agent's user into that group and restart the Agent",
    )
}

fn group_name(gid: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid.to_string()).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| gid.to_string())
}

fn storage(info: &Info) -> Check {
    let (name, driver) = ("storage driver", info.driver.clone());
    match driver.as_str() {
        "vfs" => Check::warning(name, "vfs, which copies every layer whole", "use overlay2, on ext4 or xfs"),
        "aufs" | "devicemapper" | "overlay" => {
            Check::warning(name, format!("{driver}, which later Engines lack"), "use overlay2")
        }
        _ => Check::ok(name, driver),
    }
}

fn cgroup(info: &Info) -> Check {
    let name = "cgroup";
    let found = format!("v{}, by {}", info.cgroup_version, info.cgroup_driver);
    if info.cgroup_driver == "none" {
        return Check::failure(
            name,
            "the Engine uses none, so that servers have no limits",
            "rootless Engines need cgroup v2 with delegation",
        );
    }
    let limits = ["No memory limit", "No swap limit", "No cpu cfs", "No pids limit"];
    let missing: Vec<&str> = info
        .warnings
        .iter()
        .map(|warning| warning.trim_start_matches("WARNING: "))
        .filter(|warning| limits.iter().any(|limit| warning.starts_with(limit)))
        .collect();
    match missing.is_empty() {
        true => Check::ok(name, found),
        false => Check::warning(
            name,
            format!("{found}; the Engine says: {}", missing.join(", ")),
            "boot with cgroup_enable=memory swapaccount=1, else such limits do not hold",
        ),
    }
}
