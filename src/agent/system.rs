//! Measures the node: processor, memory, disk, load and network, from `/proc` and `statvfs`. Called by the
//! `stats` thread, because a file system that hangs must not hold up the agent loop. What cannot be read is
//! zero or left out, never invented.

use std::fs;
use std::path::{Path, PathBuf};

use crate::protocol::outcome::{Network, ServerCount, Share, SystemInfo, SystemMetrics};

/// One measurement.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Percent of all cores since the sample before.
    pub cpu: f64,
    pub memory: Share,
    pub disk: Share,
    pub load: [f64; 3],
    pub network: Network,
    /// Seconds since boot.
    pub uptime: u64,
}

/// Takes samples; keeps the processor's counters between two of them.
#[derive(Debug)]
pub struct Sampler {
    disk: PathBuf,
    cpu: Option<CpuTime>,
}

#[derive(Clone, Copy, Debug)]
struct CpuTime {
    busy: u64,
    total: u64,
}

impl Sampler {
    /// `disk` is a path on the file system whose space is told.
    pub fn new(disk: &Path) -> Sampler {
        Sampler { disk: disk.to_owned(), cpu: None }
    }

    pub fn sample(&mut self) -> Sample {
        let now = fs::read_to_string("/proc/stat").ok().and_then(|text| cpu_time(&text));
        // The first sample tells the average since boot.
        let before = self.cpu.unwrap_or(CpuTime { busy: 0, total: 0 });
        let cpu = now.map_or(0.0, |now| {
            percentage(now.busy.saturating_sub(before.busy), now.total.saturating_sub(before.total))
        });
        self.cpu = now.or(self.cpu);
        Sample {
            cpu,
            memory: fs::read_to_string("/proc/meminfo").map_or_else(|_| Share::default(), |t| memory(&t)),
            disk: disk(&self.disk),
            load: fs::read_to_string("/proc/loadavg").map_or([0.0; 3], |t| load(&t)),
            network: fs::read_to_string("/proc/net/dev").map_or_else(|_| Network::default(), |t| network(&t)),
            uptime: fs::read_to_string("/proc/uptime").map_or(0, |t| uptime(&t)),
        }
    }
}

impl Sample {
    pub fn metrics(&self, servers: ServerCount) -> SystemMetrics {
        SystemMetrics {
            cpu: self.cpu,
            memory: self.memory.clone(),
            disk: self.disk.clone(),
            load: self.load,
            network: self.network.clone(),
            uptime: self.uptime,
            servers,
        }
    }
}

/// What does not change while the Agent runs.
#[derive(Clone, Debug, Default)]
pub struct Host {
    os: String,
    arch: String,
    platform: String,
    cpu: String,
    cpu_count: u32,
    interfaces: Vec<String>,
}

impl Host {
    pub fn measure() -> Host {
        let uname = rustix::system::uname();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Host {
            os: os_name().unwrap_or_else(|| uname.sysname().to_string_lossy().into_owned()),
            arch: uname.machine().to_string_lossy().into_owned(),
            platform: "linux".into(),
            cpu: field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
            cpu_count: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
            interfaces: interfaces(),
        }
    }

    pub fn info(
        &self,
        node: &str,
        sample: &Sample,
        docker: Option<&str>,
        capabilities: Vec<&'static str>,
    ) -> SystemInfo {
        SystemInfo {
            node_id: node.to_owned(),
            os: self.os.clone(),
            arch: self.arch.clone(),
            memory: sample.memory.total,
            cpu: self.cpu.clone(),
            docker_version: docker.map(str::to_owned),
            capabilities,
            networks: self.interfaces.clone(),
            cpu_count: self.cpu_count,
            total_memory: sample.memory.total,
            free_memory: sample.memory.total.saturating_sub(sample.memory.used),
            total_disk: sample.disk.total,
            free_disk: sample.disk.total.saturating_sub(sample.disk.used),
            uptime: sample.uptime,
            platform: self.platform.clone(),
        }
    }
}

fn share(total: u64, used: u64) -> Share {
    Share { total, used, percentage: percentage(used, total) }
}

/// In percent, one decimal.
fn percentage(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 1000.0).round() / 10.0 }
}

/// The first line of `/proc/stat`: user nice system idle iowait irq softirq steal (proc(5)).
fn cpu_time(stat: &str) -> Option<CpuTime> {
    let times: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .take(8)
        .map_while(|n| n.parse().ok())
        .collect();
    let total = times.iter().sum();
    let idle = times.get(3)? + times.get(4).unwrap_or(&0);
    Some(CpuTime { busy: total - idle, total })
}

/// `MemAvailable` is what can be had without swapping; kernels before 3.14 have only the older figures.
fn memory(meminfo: &str) -> Share {
    let bytes = |name| {
        let kib = field(meminfo, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        kib.checked_mul(1024)
    };
    let total = bytes("MemTotal").unwrap_or(0);
    let available = bytes("MemAvailable")
        .unwrap_or_else(|| ["MemFree", "Buffers", "Cached"].into_iter().filter_map(bytes).sum());
    share(total, total.saturating_sub(available))
}

fn disk(path: &Path) -> Share {
    let Ok(stat) = rustix::fs::statvfs(path) else { return Share::default() };
    let total = stat.f_blocks.saturating_mul(stat.f_frsize);
    share(total, total.saturating_sub(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

fn load(loadavg: &str) -> [f64; 3] {
    let mut values = loadavg.split_whitespace().map_while(|n| n.parse().ok());
    [(); 3].map(|()| values.next().unwrap_or(0.0))
}

fn uptime(text: &str) -> u64 {
    text.split(['.', ' ']).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Bytes over all interfaces but loopback and those of containers, whose traffic would count twice.
fn network(dev: &str) -> Network {
    let mut sum = Network::default();
    for line in dev.lines() {
        let Some((name, counters)) = line.split_once(':') else { continue };
        let name = name.trim();
        if name == "lo" || ["veth", "docker", "br-"].iter().any(|p| name.starts_with(p)) {
            continue;
        }
        let values: Vec<u64> = counters.split_whitespace().map_while(|n| n.parse().ok()).collect();
        sum.rx = sum.rx.saturating_add(*values.first().unwrap_or(&0));
        sum.tx = sum.tx.saturating_add(*values.get(8).unwrap_or(&0));
    }
    sum
}

fn interfaces() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).take(64).collect();
    names.sort();
    names
}

fn os_name() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// The value of a `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_recorded_files() {
        let cpu = cpu_time("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n").unwrap();
        assert_eq!((cpu.busy, cpu.total), (200, 1000));
        let with = memory("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  250 kB\n");
        assert_eq!((with.total, with.used, with.percentage), (1_024_000, 768_000, 75.0));
        let old = memory("MemTotal:  1000 kB\nMemFree: 100 kB\nBuffers: 50 kB\nCached: 50 kB\n");
        assert_eq!(old.used, 819_200);
        assert_eq!(load("0.25 1.5 2 1/2 3"), [0.25, 1.5, 2.0]);
        assert_eq!(load(""), [0.0; 3]);
        assert_eq!(uptime("123.45 6.7"), 123);
        let dev =
            "Inter-| Receive\n lo: 9 0 0 0 0 0 0 0 9\neth0: 5 0 0 0 0 0 0 0 7\nveth1: 9 0 0 0 0 0 0 0 9\n";
        assert_eq!(network(dev), Network { rx: 5, tx: 7 });
    }

    #[test]
    fn measures_this_machine() {
        let mut sampler = Sampler::new(Path::new("/"));
        let sample = sampler.sample();
        assert!(sample.memory.total > sample.memory.used && sample.disk.total > 0 && sample.uptime > 0);
        assert!((0.0..=100.0).contains(&sampler.sample().cpu));
        let info = Host::measure().info("n", &sample, None, vec![]);
        assert!(info.cpu_count > 0 && !info.arch.is_empty() && info.total_memory == sample.memory.total);
    }
}
