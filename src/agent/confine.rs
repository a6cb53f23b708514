//! What the Agent takes from itself before it begins, for the day on which somebody makes it run code of theirs: new
//! privileges, capabilities, files that are not its own, programs, and system calls that it never makes. Called once by the
//! main thread while there is no other one: threads inherit it. What a kernel does not have is left out and told.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules,
};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use super::config::{Config, SecretSource};

/// What an Agent that is root keeps: to give servers' files to their users, as its helper container does without root.
const KEPT_BY_ROOT: CapabilitySet =
    CapabilitySet::CHOWN.union(CapabilitySet::DAC_OVERRIDE).union(CapabilitySet::FOWNER);

/// The newest whose rights are known here.
const ABI_KNOWN: ABI = ABI::V5;

/// Where there may be authorities, names of hosts, and figures of this machine, and what random numbers come from without
/// getrandom(2): read, never written.
const READ: [&str; 10] =
    ["/etc", "/run", "/proc", "/sys", "/usr", "/lib", "/lib64", "/dev/random", "/dev/urandom", "/dev/null"];

/// What holds from now on.
#[derive(Clone, Debug)]
pub struct Confinement {
    no_new_privileges: bool,
    capabilities: String,
    landlock: String,
    calls: String,
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let privileges = if self.no_new_privileges { "no new privileges" } else { "new privileges possible" };
        write!(f, "{privileges}, {}, {}, {}", self.capabilities, self.landlock, self.calls)
    }
}

/// Takes all of it away. Nothing of it is needed to work, so a failure is told and no reason to end.
pub fn confine(config: &Config) -> Confinement {
    let no_new_privileges = rustix::thread::set_no_new_privs(true).is_ok();
    let confinement = Confinement {
        no_new_privileges,
        capabilities: drop_capabilities(),
        landlock: if config.landlock { restrict_files(config) } else { "Landlock off by LANDLOCK=0".into() },
        calls: refuse_calls(),
    };
    log::info!("confined: {confinement}");
    confinement
}

fn drop_capabilities() -> String {
    let is_root = rustix::process::geteuid().is_root();
    let wanted = if is_root { KEPT_BY_ROOT } else { CapabilitySet::empty() };
    let dropped = rustix::thread::capabilities(None).and_then(|own| {
        // Whoever is not root has none in the ambient set once they are neither permitted nor inheritable.
        let kept = own.permitted & wanted;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets).map(|()| kept)
    });
    match dropped {
        Ok(kept) if kept.is_empty() => "no capabilities".into(),
        Ok(kept) => {
            let names = kept.iter_names().map(|(name, _)| name).collect::<Vec<_>>();
            format!("capabilities {}", names.join(" "))
        }
        Err(error) => format!("capabilities as they were ({error})"),
    }
}

/// The rights that are ruled. Fails where the kernel has none of it, or one that would forbid every move of a file from one
/// directory to another (before Linux 5.19).
fn ruled() -> Result<Ruleset, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI_KNOWN))?
        .handle_access(AccessNet::BindTcp)
}

/// Whether the kernel has the Landlock that it takes. Restricts nothing.
pub fn has_landlock() -> bool {
    ruled().and_then(Ruleset::create).is_ok()
}

/// Nothing but the data directory can be written, nothing but that and the system's own configuration be read, no program
/// be run, and no further TCP port be listened at.
fn restrict_files(config: &Config) -> String {
    let Ok(ruled) = ruled() else { return "no Landlock (it takes Linux 5.19 with it enabled)".into() };
    match restrict(ruled, config) {
        Err(error) => format!("no Landlock ({error})"),
        Ok(RestrictionStatus { ruleset: RulesetStatus::NotEnforced, .. }) => {
            "no Landlock (the kernel refused it)".into()
        }
        Ok(RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, .. }) => {
            format!("Landlock {}", effective_abi as i32)
        }
        Ok(_) => "Landlock".into(),
    }
}

fn restrict(ruled: Ruleset, config: &Config) -> Result<RestrictionStatus, RulesetError> {
    let read = AccessFs::from_read(ABI_KNOWN) & !AccessFs::Execute;
    let own = AccessFs::from_all(ABI_KNOWN) & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar);
    let put: BitFlags<AccessFs> =
        AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::RemoveFile;
    ruled
        .create()?
        .add_rules(path_beneath_rules(READ, read))?
        .add_rules(path_beneath_rules(read_by(config), read))?
        // Once more for a directory that is a link to another disk.
        .add_rules(path_beneath_rules([config.data_dir.clone(), config.data_dir.join("servers")], own))?
        .add_rules(path_beneath_rules(config.pid_file.as_deref().and_then(Path::parent), put))?
        .restrict_self()
}

/// What the configuration has read again later. Directories, since a file that is replaced is another file.
fn read_by(config: &Config) -> Vec<PathBuf> {
    let secret = match &config.secret {
        SecretSource::File(path) => Some(path.clone()),
        SecretSource::Value(_) => None,
    };
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let files = [
        secret,
        config.ca_file.clone(),
        config.registry_auth_file.clone(),
        Some(config.policy_file.path.clone()),
        variable("SSL_CERT_FILE"),
        // Its helper containers are made from it.
        std::env::current_exe().ok(),
    ];
    let directories = files.into_iter().flatten().filter_map(|path| path.parent().map(Path::to_owned));
    directories.chain(variable("SSL_CERT_DIR")).collect()
}

/// System calls that the Agent never makes and that break out of what was taken from it, or take the machine along.
fn refuse_calls() -> String {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return "every system call".into();
    };
    let rules: BTreeMap<i64, _> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let errno = rustix::io::Errno::PERM.raw_os_error() as u32;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch).and_then(
        |filter| {
            let program: BpfProgram = filter.try_into()?;
            Ok(program)
        },
    );
    match filter
        .map_err(|e| e.to_string())
        .and_then(|program| apply_filter(&program).map_err(|e| e.to_string()))
    {
        Ok(()) => format!("{} system calls refused", REFUSED.len()),
        Err(error) => format!("every system call ({error})"),
    }
}

const REFUSED: &[libc::c_long] = &[
    // Other programs and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_syslog,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Another user.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
];
