//! This machine: the secret's file, disk, directory, port and kernel.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::Check;
use crate::agent::config::{self, SecretSource};
use crate::agent::confine;
use crate::agent::policy::PolicyFile;
use crate::agent::settings::{Settings, Source};
use crate::agent::status::Health;
use crate::link::Secret;

const MIB: u64 = 1 << 20;

/// Gives the secret too, for the dial.
pub(super) fn secret(settings: &Settings) -> (Check, Option<Secret>) {
    let name = "secret";
    let read = config::secret(settings).and_then(|source| source.read().map(|secret| (source, secret)));
    match read {
        Ok((SecretSource::File(path), secret)) => {
            let mode = fs::metadata(&path).map(|meta| meta.permissions().mode() & 0o777).unwrap_or_default();
            (Check::ok(name, format!("{}, mode {mode:04o}", path.display())), Some(secret))
        }
        Ok((SecretSource::Value(_), secret)) => {
            let place = settings.source("AGENT_SECRET").unwrap_or(Source::Default);
            let found = format!("in AGENT_SECRET, from the {place}");
            (
                Check::warning(name, found, "keep it in a file of mode 0600 and set AGENT_SECRET_FILE"),
                Some(secret),
            )
        }
        Err(bad) => {
            let advice = "the file belongs to the Agent's user or group, with mode 0600 or 0640";
            (Check::failure(name, bad.to_string(), advice), None)
        }
    }
}

pub(super) fn disk_space(data_dir: &Path) -> Check {
    let name = "disk space";
    // What is not there yet will be made in the nearest directory that is.
    let Some(stat) = data_dir.ancestors().find_map(|dir| statvfs(dir).ok()) else {
        return Check::failure(name, format!("{}: cannot be asked", data_dir.display()), "check DATA_DIR");
    };
    let (free, total) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
    let found = format!("{} of {} MiB free below {}", free / MIB, total / MIB, data_dir.display());
    let advice = "make room: servers that cannot write lose what they would save";
    match free {
        _ if free < 64 * MIB => Check::failure(name, found, advice),
        _ if free < 1024 * MIB || free < total / 20 => Check::warning(name, found, advice),
        _ if stat.f_files > 0 && stat.f_favail < 1000 => {
            Check::warning(name, format!("{found}, and room for {} files", stat.f_favail), advice)
        }
        _ => Check::ok(name, found),
    }
}

pub(super) fn data_dir(dir: &Path) -> Check {
    let (name, shown) = ("data directory", dir.display());
    let own = rustix::process::geteuid();
    let meta = match fs::metadata(dir) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let above = dir.ancestors().skip(1).find(|above| above.exists()).unwrap_or(Path::new("/"));
            return match access(above, Access::WRITE_OK) {
                Ok(()) => Check::ok(name, format!("{shown} will be made at the first start")),
                Err(e) => Check::failure(
                    name,
                    format!("{shown} is not there and cannot be made in {}: {e}", above.display()),
                    "make it and give it to the Agent's user, or run this as that user",
                ),
            };
        }
        Err(e) => return Check::failure(name, format!("{shown}: {e}"), "check DATA_DIR"),
    };
    let mode = meta.permissions().mode() & 0o777;
    let found = format!("{shown}, owner {}, mode {mode:04o}", meta.uid());
    let writable = access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    match (meta.is_dir(), writable) {
        (false, _) => {
            Check::failure(name, format!("{shown} is no directory"), "move it away, or change DATA_DIR")
        }
        (_, false) => Check::failure(
            name,
            format!("{found}: user {} cannot write there", own.as_raw()),
            "give it to the Agent's user, or run this as that user",
        ),
        _ if mode & 0o002 != 0 => {
            Check::warning(name, format!("{found}: everybody may write there"), "chmod 0711 it")
        }
        _ if meta.uid() != own.as_raw() && !own.is_root() => {
            Check::warning(name, format!("{found}, not of this user"), "give it to the Agent's user")
        }
        _ => Check::ok(name, found),
    }
}

pub(super) fn health_port(address: SocketAddr, running: Option<&Health>) -> Check {
    let name = "health port";
    if let Some(health) = running {
        return Check::ok(name, format!("{address}, of the Agent that runs: {}", health.status));
    }
    match TcpListener::bind(address) {
        Ok(_) => Check::ok(name, format!("{address} is free")),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Check::failure(
            name,
            format!("{address} is taken by another program"),
            "set HEALTH_ADDR to another port",
        ),
        Err(e) => Check::failure(name, format!("{address}: {e}"), "correct HEALTH_ADDR"),
    }
}

/// The owner's policy.
pub(super) fn policy(file: &PolicyFile) -> Check {
    let name = "policy";
    match file.read() {
        Ok(None) => Check::ok(name, format!("there is no {}: nothing is ruled", file.path.display())),
        Ok(Some(policy)) => {
            let rules = policy.to_string().lines().count();
            Check::ok(name, format!("{}, {rules} rules", file.path.display()))
        }
        Err(bad) => {
            let advice = "correct it; `longshore-agent policy check` explains it";
            Check::failure(name, bad.to_string(), advice)
        }
    }
}

/// What the Agent takes from itself: of one that runs, as it tells; else what the kernel has for it.
pub(super) fn confinement(landlock: bool, running: Option<&Health>) -> Check {
    let name = "confinement";
    if let Some(found) = running.and_then(|health| health.confinement.as_deref()) {
        return Check::ok(name, found);
    }
    match confine::has_landlock() {
        _ if !landlock => {
            Check::warning(name, "Landlock is off by LANDLOCK=0", "take that key away once it works")
        }
        true => {
            Check::ok(name, "no new privileges, no capabilities without root, Landlock, refused system calls")
        }
        false => Check::warning(
            name,
            "the kernel has no Landlock, or one before 5.19: the Agent can reach every file that its user may",
            "nothing, or a newer kernel: the Agent works without it",
        ),
    }
}

/// What the Agent uses of newer kernels, with what it does without.
pub(super) fn kernel() -> Check {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
    use rustix::process::{PidfdFlags, getpid, pidfd_open};
    let name = "kernel";
    let mut missing = Vec::new();
    let beneath = openat2(CWD, ".", OFlags::PATH, Mode::empty(), ResolveFlags::BENEATH);
    if beneath.is_err_and(|e| e == rustix::io::Errno::NOSYS) {
        missing.push("openat2 (paths are walked step by step)");
    }
    if pidfd_open(getpid(), PidfdFlags::empty()).is_err() {
        missing.push("pidfd_open (readiness by descriptor needs /proc)");
    }
    if File::open("/proc/self/stat").is_err() {
        missing.push("/proc (the machine's use is not measured)");
    }
    if fs::read_dir("/sys/fs/cgroup").map_or(0, Iterator::count) == 0 {
        missing.push("/sys/fs/cgroup (servers are measured through the Engine)");
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match missing.is_empty() {
        true => Check::ok(name, release),
        false => Check::warning(
            name,
            format!("{release}, without {}", missing.join(", ")),
            "nothing, or a newer kernel: the Agent works without them",
        ),
    }
}
