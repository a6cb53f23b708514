//! What the Engine says a container uses: one sample of `GET /containers/{id}/stats`. For whoever cannot read the
//! kernel's own files, since a sample takes the Engine up to a second (measured on 20.10).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::call::Call;
use super::client::{Client, container_path};
use super::endpoint::ApiVersion;
use super::error::Error;
use super::inspect::null_as_default;

/// `one-shot` is known from this version on; before it the Engine takes two samples, a second apart.
const ONE_SHOT: ApiVersion = ApiVersion { major: 1, minor: 41 };
/// An answer that takes longer is not waited for. Without `one-shot` 2 s are usual.
const LIMIT: Duration = Duration::from_millis(2500);

/// One sample. Counters since the container started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// When it was taken, nanoseconds since 1970.
    pub read_ns: u64,
    /// Nanoseconds of processor time.
    pub cpu_ns: u64,
    /// Nanoseconds of all processors together since boot; 0 where the Engine does not say (Podman).
    pub system_ns: u64,
    /// Processors that are online; 0 where the Engine does not say.
    pub cpus: u64,
    /// Bytes, without the page cache that the kernel can take back at once.
    pub memory: u64,
    /// Bytes; 0 is none. A container without a limit has the machine's memory here.
    pub memory_limit: u64,
    pub pids: u64,
    /// Bytes over all interfaces; 0 with the host's network.
    pub rx: u64,
    pub tx: u64,
    /// Bytes of block devices.
    pub read: u64,
    pub written: u64,
}

impl Client {
    /// One sample, within 2.5 s. `None` for a container that does not run, of which the Engine gives zeros and no
    /// time. 404: no such container.
    pub fn stats(&self, container: &str) -> Result<Option<ContainerStats>, Error> {
        let mut call = Call::get(container_path(container, "/stats")?).query("stream", false);
        if self.api_version()? >= ONE_SHOT {
            call = call.query("one-shot", true);
        }
        call.limit = LIMIT;
        let answer: Answer = self.http().json(call)?;
        Ok(answer.sample())
    }
}

impl ContainerStats {
    /// Percent of one core since the sample before. The Engine's own formula where it gives the machine's time, else
    /// by the time between the samples. A one-shot answer has no sample before of its own.
    pub fn cpu_percent(&self, before: &ContainerStats) -> f64 {
        let used = self.cpu_ns.saturating_sub(before.cpu_ns) as f64;
        let system = self.system_ns.saturating_sub(before.system_ns) as f64;
        if before.system_ns > 0 && system > 0.0 && self.cpus > 0 {
            return used / system * self.cpus as f64 * 100.0;
        }
        match self.read_ns.saturating_sub(before.read_ns) {
            0 => 0.0,
            wall => used / wall as f64 * 100.0,
        }
    }
}

/// As the Engine writes it. Everything may be missing or null.
#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "super::time::deserialize")]
    read: Option<u64>,
    #[serde(default, deserialize_with = "null_as_default")]
    cpu_stats: Cpu,
    #[serde(default, deserialize_with = "null_as_default")]
    memory_stats: Memory,
    #[serde(default, deserialize_with = "null_as_default")]
    pids_stats: Pids,
    #[serde(default, deserialize_with = "null_as_default")]
    networks: BTreeMap<String, Interface>,
    #[serde(default, deserialize_with = "null_as_default")]
    blkio_stats: Blkio,
}

#[derive(Default, Deserialize)]
struct Cpu {
    #[serde(default, deserialize_with = "null_as_default")]
    cpu_usage: CpuUsage,
    #[serde(default, deserialize_with = "null_as_default")]
    system_cpu_usage: u64,
    #[serde(default, deserialize_with = "null_as_default")]
    online_cpus: u64,
}

#[derive(Default, Deserialize)]
struct CpuUsage {
    #[serde(default, deserialize_with = "null_as_default")]
    total_usage: u64,
    #[serde(default, deserialize_with = "null_as_default")]
    percpu_usage: Vec<u64>,
}

#[derive(Default, Deserialize)]
struct Memory {
    #[serde(default, deserialize_with = "null_as_default")]
    usage: u64,
    #[serde(default, deserialize_with = "null_as_default")]
    limit: u64,
    #[serde(default, deserialize_with = "null_as_default")]
    stats: MemoryStats,
}

/// Of some forty figures the two that matter: the first is version 1's, the second also has another meaning there.
#[derive(Default, Deserialize)]
struct MemoryStats {
    total_inactive_file: Option<u64>,
    inactive_file: Option<u64>,
}

#[derive(Default, Deserialize)]
struct Pids {
    #[serde(default, deserialize_with = "null_as_default")]
    current: u64,
}

#[derive(Default, Deserialize)]
struct Interface {
    #[serde(default)]
    rx_bytes: u64,
    #[serde(default)]
    tx_bytes: u64,
}

#[derive(Default, Deserialize)]
struct Blkio {
    #[serde(default, deserialize_with = "null_as_default")]
    io_service_bytes_recursive: Vec<BlkioEntry>,
}

#[derive(Deserialize)]
struct BlkioEntry {
    #[serde(default)]
    op: String,
    #[serde(default)]
    value: u64,
}

impl Answer {
    fn sample(self) -> Option<ContainerStats> {
        let Answer { cpu_stats: cpu, memory_stats: memory, networks, blkio_stats: blkio, .. } = self;
        let cache = memory.stats.total_inactive_file.or(memory.stats.inactive_file).unwrap_or(0);
        let sum = |values: &mut dyn Iterator<Item = u64>| values.fold(0, u64::saturating_add);
        // `Read` by version 1, `read` by version 2.
        let moved = |op: &str| {
            let entries = blkio.io_service_bytes_recursive.iter();
            sum(&mut entries.filter(|e| e.op.eq_ignore_ascii_case(op)).map(|e| e.value))
        };
        Some(ContainerStats {
            read_ns: self.read?,
            cpu_ns: cpu.cpu_usage.total_usage,
            system_ns: cpu.system_cpu_usage,
            cpus: match cpu.online_cpus {
                0 => cpu.cpu_usage.percpu_usage.len() as u64,
                cpus => cpus,
            },
            // As Docker's CLI does: a cache that is larger than the use is not taken off.
            memory: if cache < memory.usage { memory.usage - cache } else { memory.usage },
            memory_limit: memory.limit,
            pids: self.pids_stats.current,
            rx: sum(&mut networks.values().map(|i| i.rx_bytes)),
            tx: sum(&mut networks.values().map(|i| i.tx_bytes)),
            read: moved("read"),
            written: moved("write"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(json: &str) -> Option<ContainerStats> {
        serde_json::from_str::<Answer>(json).unwrap().sample()
    }

    #[test]
    fn reads_version_1_and_version_2() {
        let expected = ContainerStats {
            read_ns: 1_000_000_005,
            cpu_ns: 700,
            system_ns: 9000,
            cpus: 2,
            memory: 600,
            memory_limit: 4096,
            pids: 3,
            rx: 11,
            tx: 22,
            read: 5,
            written: 6,
        };
        let v1 = r#"{"read":"1970-01-01T00:00:01.000000005Z","pids_stats":{"current":3},
            "precpu_stats":{"cpu_usage":{"total_usage":0}},
            "cpu_stats":{"cpu_usage":{"total_usage":700,"percpu_usage":[300,400]},"system_cpu_usage":9000},
            "memory_stats":{"usage":1000,"limit":4096,"max_usage":1,"stats":{"inactive_file":7,"total_inactive_file":400}},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"Read","value":5},{"op":"Write","value":6},{"op":"Total","value":11}]},
            "networks":{"eth0":{"rx_bytes":1,"tx_bytes":2},"eth1":{"rx_bytes":10,"tx_bytes":20}}}"#;
        assert_eq!(sample(v1), Some(expected));
        let v2 = r#"{"read":"1970-01-01T00:00:01.000000005Z","pids_stats":{"current":3},
            "cpu_stats":{"cpu_usage":{"total_usage":700},"system_cpu_usage":9000,"online_cpus":2},
            "memory_stats":{"usage":1000,"limit":4096,"stats":{"inactive_file":400}},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"read","value":5},{"op":"write","value":6}]},
            "networks":{"eth0":{"rx_bytes":11,"tx_bytes":22}}}"#;
        assert_eq!(sample(v2), Some(expected));
    }

    #[test]
    fn zeros_without_a_time_are_no_sample() {
        assert_eq!(sample(r#"{"read":"0001-01-01T00:00:00Z","cpu_stats":{},"memory_stats":{}}"#), None);
        let nulls = r#"{"read":"1970-01-01T00:00:01Z","cpu_stats":null,"memory_stats":{"stats":null},
            "networks":null,"blkio_stats":{"io_service_bytes_recursive":null}}"#;
        let read_ns = 1_000_000_000;
        assert_eq!(sample(nulls), Some(ContainerStats { read_ns, ..ContainerStats::default() }));
    }

    #[test]
    fn percent_by_the_machines_time_or_by_the_clock() {
        let before =
            ContainerStats { read_ns: 1000, cpu_ns: 100, system_ns: 5000, cpus: 4, ..Default::default() };
        let check = |now: ContainerStats, before: ContainerStats, expected: f64| {
            assert!((now.cpu_percent(&before) - expected).abs() < 1e-9, "{now:?}");
        };
        let now = ContainerStats { read_ns: 2000, cpu_ns: 350, system_ns: 9000, cpus: 4, ..before };
        check(now, before, 25.0);
        // Podman: no machine's time.
        check(ContainerStats { system_ns: 0, ..now }, ContainerStats { system_ns: 0, ..before }, 25.0);
        check(ContainerStats { cpus: 0, ..now }, before, 25.0);
        check(before, before, 0.0);
        check(ContainerStats { cpu_ns: 5, ..now }, before, 0.0);
    }
}
