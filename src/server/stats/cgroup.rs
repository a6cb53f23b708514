//! The control groups of a container, found through one of its processes whatever the cgroup driver, and what they
//! count. Version 1, version 2 and the hybrid of both (cgroups(7)). Reads files and, if told to, keeps them open.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::kernel_file::{KernelFile, Place};

/// From where a limit of memory stands for none: the kernel rounds "unlimited" to its page size.
const UNLIMITED: u64 = 1 << 60;

/// Where the hierarchies are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    /// `/` but in tests, which read a recorded tree.
    root: PathBuf,
    v1: Vec<(&'static str, Arc<Path>)>,
    v2: Option<Arc<Path>>,
}

/// The controllers whose counters are read.
const CONTROLLERS: [&str; 4] = ["cpuacct", "memory", "pids", "blkio"];

/// Files of a group, of both versions.
pub const FILES: usize = 5;

/// The files of one container's groups. A controller that is not mounted has none.
#[derive(Debug)]
pub enum Group {
    V1 {
        cpu: Option<KernelFile>,
        /// What is used, and the parts of it together with the limit.
        memory: Option<[KernelFile; 2]>,
        pids: Option<KernelFile>,
        blkio: Option<KernelFile>,
    },
    V2 {
        cpu: KernelFile,
        memory: [KernelFile; 2],
        /// Version 2 has no limit among the parts.
        limit: KernelFile,
        pids: KernelFile,
        io: KernelFile,
    },
}

/// Counters since the container started, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Nanoseconds of processor time.
    pub cpu_ns: u64,
    /// Bytes, without the page cache that the kernel can take back at once.
    pub memory: u64,
    /// Bytes; `None` is unlimited.
    pub memory_limit: Option<u64>,
    pub pids: u64,
    /// Bytes read from and written to block devices.
    pub read: u64,
    pub written: u64,
}

impl Mounts {
    /// Reads `/proc/self/mountinfo` (proc(5)). A machine without any cgroup has none.
    pub fn find(root: &Path) -> Mounts {
        let text = std::fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
        let mut mounts = Mounts { root: root.to_owned(), ..Mounts::default() };
        for line in text.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let (Some(point), Some(kind)) = (before.split(' ').nth(4), after.split(' ').next()) else {
                continue;
            };
            match kind {
                "cgroup2" => mounts.v2 = Some(mounts.inside(point)),
                "cgroup" => {
                    let options = after.split(' ').nth(2).unwrap_or_default();
                    for controller in CONTROLLERS.into_iter().filter(|c| options.split(',').any(|o| o == *c))
                    {
                        let point = mounts.inside(point);
                        mounts.v1.push((controller, point));
                    }
                }
                _ => {}
            }
        }
        mounts
    }

    /// Whether nothing can be read here at all.
    pub fn is_empty(&self) -> bool {
        self.v1.is_empty() && self.v2.is_none()
    }

    fn inside(&self, path: &str) -> Arc<Path> {
        self.root.join(path.trim_start_matches('/')).into()
    }

    /// The groups of the process `pid`, if it belongs to the container `id`: a pid may have been given to another
    /// process since it was told.
    pub fn group(&self, pid: u32, id: &str) -> Option<Group> {
        let text = std::fs::read_to_string(self.root.join(format!("proc/{pid}/cgroup"))).ok()?;
        let mut v1: [Option<Directory>; 4] = Default::default();
        let mut v2 = None;
        // Nearly always the same in every hierarchy.
        let mut last: Arc<str> = "".into();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if !path.contains(id) {
                continue;
            }
            let path = path.trim_start_matches('/');
            if path != &*last {
                last = path.into();
            }
            let directory = |mount: &Arc<Path>| Directory { mount: mount.clone(), path: last.clone() };
            if controllers.is_empty() {
                v2 = self.v2.as_ref().map(directory);
            }
            for (slot, name) in v1.iter_mut().zip(CONTROLLERS) {
                if controllers.split(',').any(|c| c == name) {
                    *slot = self.v1.iter().find(|(c, _)| *c == name).map(|(_, mount)| directory(mount));
                }
            }
        }
        let [cpu, memory, pids, blkio] = v1;
        // In a hybrid the second version's tree has no controllers.
        if cpu.is_some() || memory.is_some() {
            return Some(Group::V1 {
                cpu: cpu.map(|dir| dir.file("cpuacct.usage")),
                memory: memory.map(|dir| ["memory.usage_in_bytes", "memory.stat"].map(|name| dir.file(name))),
                pids: pids.map(|dir| dir.file("pids.current")),
                blkio: blkio.map(|dir| dir.file("blkio.throttle.io_service_bytes_recursive")),
            });
        }
        let dir = v2?;
        Some(Group::V2 {
            cpu: dir.file("cpu.stat"),
            memory: ["memory.current", "memory.stat"].map(|name| dir.file(name)),
            limit: dir.file("memory.max"),
            pids: dir.file("pids.current"),
            io: dir.file("io.stat"),
        })
    }
}

/// A group in one hierarchy.
struct Directory {
    mount: Arc<Path>,
    path: Arc<str>,
}

impl Directory {
    fn file(&self, name: &'static str) -> KernelFile {
        KernelFile::new(Place { mount: self.mount.clone(), dir: self.path.clone(), name })
    }
}

impl Group {
    /// Reads the counters through `buffer`, which is kept between calls, as the files are if `keep` says so.
    ///
    /// # Errors
    /// When the group is gone, which is what happens when the container ends.
    pub fn read(&mut self, buffer: &mut Vec<u8>, keep: bool) -> io::Result<Counters> {
        let mut counters = Counters::default();
        match self {
            Group::V1 { cpu, memory, pids, blkio } => {
                if let Some(file) = cpu {
                    counters.cpu_ns = number(file.read(buffer, keep)?);
                }
                if let Some([used, parts]) = memory {
                    counters.memory = number(used.read(buffer, keep)?);
                    let parts = parts.read(buffer, keep)?;
                    counters.memory = counters.memory.saturating_sub(field(parts, "total_inactive_file "));
                    counters.memory_limit = limit(after(parts, "hierarchical_memory_limit "));
                }
                if let Some(file) = pids {
                    counters.pids = number(file.read(buffer, keep)?);
                }
                // Not on every kernel, and never worth failing for.
                if let Some(Ok(text)) = blkio.as_mut().map(|file| file.read(buffer, keep)) {
                    add_blkio(&mut counters, text);
                }
            }
            Group::V2 { cpu, memory: [used, parts], limit: most, pids, io } => {
                counters.cpu_ns = field(cpu.read(buffer, keep)?, "usage_usec ").saturating_mul(1000);
                // Each of the others is there only when its controller is delegated.
                if let Ok(used) = used.read(buffer, keep).map(number) {
                    let cache = parts.read(buffer, keep).map_or(0, |text| field(text, "inactive_file "));
                    counters.memory = used.saturating_sub(cache);
                    counters.memory_limit = most.read(buffer, keep).ok().and_then(limit);
                }
                counters.pids = pids.read(buffer, keep).map_or(0, number);
                if let Ok(text) = io.read(buffer, keep) {
                    add_io(&mut counters, text);
                }
            }
        }
        Ok(counters)
    }
}

/// Lines of device, kind and bytes.
fn add_blkio(counters: &mut Counters, text: &str) {
    for line in text.lines() {
        let mut words = line.split(' ').skip(1);
        match (words.next(), words.next().map(number)) {
            (Some("Read"), Some(bytes)) => counters.read = counters.read.saturating_add(bytes),
            (Some("Write"), Some(bytes)) => counters.written = counters.written.saturating_add(bytes),
            _ => {}
        }
    }
}

/// Lines of a device and its figures.
fn add_io(counters: &mut Counters, text: &str) {
    for word in text.split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("rbytes", bytes)) => counters.read = counters.read.saturating_add(number(bytes)),
            Some(("wbytes", bytes)) => counters.written = counters.written.saturating_add(number(bytes)),
            _ => {}
        }
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    number(after(text, name))
}

/// What is behind `name` at the start of a line.
fn after<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default()
}

fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < UNLIMITED)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ID: &str = "1e3af29937f0ea4a0c18145b5d1815cb1a5d20ba384ef4afc3e55111c94314c5";

    /// A recorded tree: paths below the root, with their texts.
    fn tree(files: &[(String, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn counters(root: &Path) -> Counters {
        let mut group = Mounts::find(root).group(7, ID).expect("the group is found");
        group.read(&mut Vec::new(), true).unwrap()
    }

    fn expected() -> Counters {
        Counters {
            cpu_ns: 3_000_000,
            memory: 4_000_000,
            memory_limit: Some(134_217_728),
            pids: 3,
            read: 30,
            written: 5,
        }
    }

    #[test]
    fn reads_version_1_beside_an_empty_version_2() {
        let group = |controller: &str, file: &str| format!("sys/fs/cgroup/{controller}/docker/{ID}/{file}");
        let root = tree(&[
            (
                "proc/self/mountinfo".into(),
                "33 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                 35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                 38 31 0:35 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
                 39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
            ),
            (
                "proc/7/cgroup".into(),
                &format!(
                    "8:pids:/docker/{ID}\n7:blkio:/docker/{ID}\n4:memory:/docker/{ID}\n\
                     2:cpu,cpuacct:/docker/{ID}\n0::/docker/{ID}\n"
                ),
            ),
            (group("cpuacct", "cpuacct.usage"), "3000000\n"),
            (group("memory", "memory.usage_in_bytes"), "5000000\n"),
            (
                group("memory", "memory.stat"),
                "inactive_file 9\nhierarchical_memory_limit 134217728\ntotal_cache 1\ntotal_inactive_file 1000000\n",
            ),
            (group("pids", "pids.current"), "3\n"),
            (
                group("blkio", "blkio.throttle.io_service_bytes_recursive"),
                "8:0 Read 10\n8:0 Write 5\n8:0 Total 15\n8:16 Read 20\nTotal 35\n",
            ),
        ]);
        assert_eq!(counters(root.path()), expected());
    }

    #[test]
    fn reads_version_2_with_the_systemd_driver() {
        let group = |file: &str| format!("sys/fs/cgroup/system.slice/docker-{ID}.scope/{file}");
        let root = tree(&[
            (
                "proc/self/mountinfo".into(),
                "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
            ),
            ("proc/7/cgroup".into(), &format!("0::/system.slice/docker-{ID}.scope\n")),
            (group("cpu.stat"), "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\n"),
            (group("memory.current"), "5000000\n"),
            (group("memory.stat"), "anon 1\nactive_file 7\ninactive_file 1000000\n"),
            (group("memory.max"), "134217728\n"),
            (group("pids.current"), "3\n"),
            (
                group("io.stat"),
                "8:0 rbytes=10 wbytes=5 rios=1 wios=1\n8:16 rbytes=20 wbytes=0 rios=2 wios=0\n",
            ),
        ]);
        assert_eq!(counters(root.path()), expected());
        fs::write(root.path().join(group("memory.max")), "max\n").unwrap();
        assert_eq!(counters(root.path()).memory_limit, None);
    }

    #[test]
    fn a_reused_pid_or_no_cgroup_is_no_group() {
        let root = tree(&[
            ("proc/self/mountinfo".into(), "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("proc/7/cgroup".into(), "0::/system.slice/cron.service\n"),
        ]);
        let mounts = Mounts::find(root.path());
        assert!(mounts.group(7, ID).is_none());
        assert!(mounts.group(8, ID).is_none());
        assert!(Mounts::find(&root.path().join("nothing")).group(7, ID).is_none());
    }
}
