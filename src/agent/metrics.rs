//! `GET /metrics`: the Prometheus text format (version 0.0.4). The agent loop counts in plain integers; everything else
//! is asked for where it is kept when a request comes, and written out then, on one of the gate's threads.
//!
//! Every label has a small, fixed set of values but `server`; servers are told by id until the answer has 1 MB, and how
//! many were left out is told too.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::journal::Journal;
use super::voice::AgentOutbox;
use crate::gate::Response;
use crate::protocol::{Code, ServerId};
use crate::server::Consoles;
use crate::server::stats::{DiskUse, Disks, Stats, Usage};

/// Bytes of an answer, and of it what is left for everything that is not about one server.
const MAX_BYTES: usize = 1 << 20;
const RESERVE: usize = 128 << 10;
/// Upper bounds of the latency buckets in seconds: a read, a signal, a start, a stop with its time, a pull.
const BUCKETS: [f64; 7] = [0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];
/// Ticks a second in /proc/<pid>/stat: what user space is shown on every architecture that Rust has a musl target for.
const USER_HZ: f64 = 100.0;

/// What the loop counts, and the API what it refuses. Behind a lock, since the gate's threads read it, for microseconds,
/// when they are asked.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<Tally>>);

/// Plain integers.
#[derive(Debug, Default)]
pub struct Tally {
    pub link_up: bool,
    pub connections: u64,
    /// Ends of connections and dials, by cause.
    pub setbacks: BTreeMap<&'static str, u64>,
    pub commands_waiting: usize,
    pub jobs_running: usize,
    pub servers: usize,
    pub servers_running: usize,
    /// By kind.
    pub engine_errors: BTreeMap<&'static str, u64>,
    /// By action and result.
    commands: BTreeMap<(&'static str, &'static str), u64>,
    /// By action.
    latencies: BTreeMap<&'static str, Histogram>,
}

/// Not cumulative; it is summed up when it is written.
#[derive(Debug, Default)]
struct Histogram {
    counts: [u64; BUCKETS.len() + 1],
    sum: Duration,
}

impl Counters {
    pub fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command was answered. `action` is a name of the contract's table.
    pub fn command(&self, action: &'static str, fault: Option<Code>, took: Duration) {
        let mut tally = self.lock();
        *tally.commands.entry((action, fault.map_or("ok", word))).or_default() += 1;
        let histogram = tally.latencies.entry(action).or_default();
        let at = BUCKETS.iter().position(|&bound| took.as_secs_f64() <= bound).unwrap_or(BUCKETS.len());
        histogram.counts[at] += 1;
        histogram.sum += took;
    }

    pub fn engine_error(&self, kind: &'static str) {
        *self.lock().engine_errors.entry(kind).or_default() += 1;
    }
}

/// A failure's code as a label.
pub fn word(code: Code) -> &'static str {
    match code {
        Code::InvalidMessage => "invalid_message",
        Code::UnknownAction => "unknown_action",
        Code::InvalidPayload => "invalid_payload",
        Code::WrongAgent => "wrong_agent",
        Code::WrongEpoch => "wrong_epoch",
        Code::ServerNotFound => "server_not_found",
        Code::ServerExists => "server_exists",
        Code::ContainerNotFound => "container_not_found",
        Code::ImageNotFound => "image_not_found",
        Code::ImagePullFailed => "image_pull_failed",
        Code::PortConflict => "port_conflict",
        Code::InsufficientResources => "insufficient_resources",
        Code::ServerSuspended => "server_suspended",
        Code::ServerNotRunning => "server_not_running",
        Code::Conflict => "conflict",
        Code::Superseded => "superseded",
        Code::Timeout => "timeout",
        Code::DockerUnavailable => "docker_unavailable",
        Code::DockerError => "docker_error",
        Code::PermissionDenied => "permission_denied",
        Code::QuotaExceeded => "quota_exceeded",
        Code::Busy => "busy",
        Code::ShuttingDown => "shutting_down",
        Code::Interrupted => "interrupted",
        Code::Internal => "internal",
        _ => "other",
    }
}

/// Answers `/metrics`.
pub struct Metrics {
    pub node: String,
    pub started: Instant,
    pub counters: Counters,
    pub outbox: Arc<AgentOutbox>,
    pub journal: Journal,
    pub stats: Stats,
    pub disks: Disks,
    pub consoles: Consoles,
}

impl Metrics {
    /// The whole page; who may see it is asked before.
    pub fn page(&self) -> Response {
        Response::bytes(200, "text/plain; version=0.0.4; charset=utf-8", self.render().into_bytes())
    }

    fn render(&self) -> String {
        let mut page = Page::default();
        self.agent(&mut page);
        self.tally(&mut page);
        servers(&mut page, self.stats.all(), self.disks.all());
        page.0
    }

    fn agent(&self, page: &mut Page) {
        let version = crate::version::VERSION;
        page.head("longshore_info", "gauge", "The Agent's version and node.");
        page.line("longshore_info", &[("version", version), ("node", &self.node)], 1);
        let uptime = self.started.elapsed().as_secs_f64();
        page.one("longshore_uptime_seconds", "gauge", "Since the Agent started.", uptime);
        let own = Own::measure();
        page.one("process_resident_memory_bytes", "gauge", "The Agent's own memory.", own.resident);
        page.one("process_threads", "gauge", "The Agent's own threads.", own.threads);
        page.one("process_cpu_seconds_total", "counter", "The Agent's own processor time.", own.cpu);
        let ((messages, bytes), dropped) = (self.outbox.waiting(), self.outbox.dropped_in_all());
        let help = "Answers and events that are not delivered.";
        page.one("longshore_outbox_messages", "gauge", help, messages);
        page.one("longshore_outbox_bytes", "gauge", "The same in bytes.", bytes);
        let help = "Messages that a full outbox or the end of a connection has cost.";
        page.one("longshore_outbox_dropped_messages_total", "counter", help, dropped.messages);
        page.one("longshore_outbox_dropped_bytes_total", "counter", "The same in bytes.", dropped.bytes);
        let journal = self.journal.figures();
        let help =
            "Writes of the journal of commands that were made durable, each for all that had gathered.";
        page.one("longshore_journal_commits_total", "counter", help, journal.commits);
        page.one("longshore_journal_bytes", "gauge", "Bytes of it on disk.", journal.bytes);
        let help = "Bytes of it that are not on disk yet.";
        page.one("longshore_journal_waiting_bytes", "gauge", help, journal.waiting);
        let consoles = self.consoles.totals();
        let help = "Memory of the servers' newest lines of output.";
        page.one("longshore_console_memory_bytes", "gauge", help, consoles.memory);
        let help = "The part of it whose lines wait to go to the Panel.";
        page.one("longshore_console_waiting_bytes", "gauge", help, consoles.waiting);
        let help = "Lines of output that a flood or a slow link has cost, each told to the Panel as a gap.";
        page.one("longshore_console_dropped_lines_total", "counter", help, consoles.dropped_lines);
        let help = "The same in bytes.";
        page.one("longshore_console_dropped_bytes_total", "counter", help, consoles.dropped_bytes);
        let help = "Stats asked of the Engine where the kernel's files cannot be read.";
        page.one("longshore_stats_engine_calls_total", "counter", help, self.stats.engine_calls());
    }

    fn tally(&self, page: &mut Page) {
        let tally = self.counters.lock();
        let link_up = u8::from(tally.link_up);
        page.one("longshore_link_up", "gauge", "1 while there is a link to the Panel.", link_up);
        let help = "Connections to the Panel that were made.";
        page.one("longshore_link_connections_total", "counter", help, tally.connections);
        let help = "Ends of connections and of dials, each followed by another dial.";
        page.family("longshore_link_setbacks_total", "counter", help, "cause", &tally.setbacks);
        let help = "Commands that wait for their outcome.";
        page.one("longshore_commands_waiting", "gauge", help, tally.commands_waiting);
        page.one("longshore_jobs_running", "gauge", "Jobs in the workers' hands.", tally.jobs_running);
        page.one("longshore_servers", "gauge", "Servers on this node.", tally.servers);
        page.one("longshore_servers_running", "gauge", "Servers that run.", tally.servers_running);
        page.family(
            "longshore_engine_errors_total",
            "counter",
            "Failures of the Engine.",
            "kind",
            &tally.engine_errors,
        );
        page.head("longshore_commands_total", "counter", "Commands answered, by action and result.");
        for ((action, result), count) in &tally.commands {
            page.line("longshore_commands_total", &[("action", action), ("result", result)], count);
        }
        let name = "longshore_command_seconds";
        page.head(name, "histogram", "From a command's arrival to its answer.");
        for (action, histogram) in &tally.latencies {
            let mut below = 0;
            for (at, count) in histogram.counts.iter().enumerate() {
                below += count;
                let bound = BUCKETS.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
                page.line("longshore_command_seconds_bucket", &[("action", action), ("le", &bound)], below);
            }
            page.line("longshore_command_seconds_sum", &[("action", action)], histogram.sum.as_secs_f64());
            page.line("longshore_command_seconds_count", &[("action", action)], below);
        }
    }
}

/// Name, type and help of what is told of each server.
const SERVER: [(&str, &str, &str); 10] = [
    ("longshore_server_cpu_seconds_total", "counter", "Processor time since the server started."),
    ("longshore_server_memory_bytes", "gauge", "Memory without page cache that can be taken back."),
    ("longshore_server_memory_limit_bytes", "gauge", "Memory it may use; left out without a limit."),
    ("longshore_server_pids", "gauge", "Processes and threads."),
    ("longshore_server_network_receive_bytes_total", "counter", "Bytes received since it started."),
    ("longshore_server_network_transmit_bytes_total", "counter", "Bytes sent since it started."),
    ("longshore_server_block_read_bytes_total", "counter", "Bytes read from block devices."),
    ("longshore_server_block_written_bytes_total", "counter", "Bytes written to block devices."),
    ("longshore_server_disk_bytes", "gauge", "Bytes that its directory takes, as last walked."),
    ("longshore_server_disk_over_limit", "gauge", "1 while that is more than its limit."),
];

/// A family's lines stand together in the format, so all families are filled side by side, server by server.
fn servers(page: &mut Page, usages: Vec<(ServerId, Usage)>, disks: Vec<(ServerId, DiskUse)>) {
    let mut figures: BTreeMap<ServerId, (Option<Usage>, Option<DiskUse>)> = BTreeMap::new();
    for (server, usage) in usages {
        figures.entry(server).or_default().0 = Some(usage);
    }
    for (server, disk) in disks {
        figures.entry(server).or_default().1 = Some(disk);
    }
    let mut families = SERVER.map(|(name, kind, help)| {
        let mut family = Page::default();
        family.head(name, kind, help);
        family
    });
    let (mut left, mut omitted) = (MAX_BYTES.saturating_sub(RESERVE + page.0.len()), 0);
    for (server, (usage, disk)) in figures {
        let values = values(usage, disk);
        let lines = SERVER.iter().zip(values).map(|((name, ..), value)| {
            let mut line = Page::default();
            if let Some(value) = value {
                line.line(name, &[("server", server.as_str())], value);
            }
            line.0
        });
        let lines: Vec<String> = lines.collect();
        let bytes: usize = lines.iter().map(String::len).sum();
        if bytes > left {
            omitted += 1;
            continue;
        }
        left -= bytes;
        for (family, line) in families.iter_mut().zip(lines) {
            family.0 += &line;
        }
    }
    for family in families {
        page.0 += &family.0;
    }
    page.one("longshore_servers_omitted", "gauge", "Servers left out, for the answer's size.", omitted);
}

fn values(usage: Option<Usage>, disk: Option<DiskUse>) -> [Option<f64>; SERVER.len()] {
    let counters = usage.map(|usage| usage.counters);
    let traffic = usage.map(|usage| usage.traffic);
    [
        counters.map(|c| c.cpu_ns as f64 / 1e9),
        counters.map(|c| c.memory as f64),
        counters.and_then(|c| c.memory_limit).map(|limit| limit as f64),
        counters.map(|c| c.pids as f64),
        traffic.map(|t| t.rx as f64),
        traffic.map(|t| t.tx as f64),
        counters.map(|c| c.read as f64),
        counters.map(|c| c.written as f64),
        disk.map(|disk| disk.used as f64),
        disk.map(|disk| f64::from(u8::from(disk.over_limit))),
    ]
}

/// The text as it grows.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let mark = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{mark}{label}=\"{}\"", Escaped(text));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }

    fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        counts: &BTreeMap<&'static str, u64>,
    ) {
        self.head(name, kind, help);
        for (word, count) in counts {
            self.line(name, &[(label, word)], count);
        }
    }
}

/// A label's value: backslash, quote and line feed are written with a backslash.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

/// What the Agent itself uses; zeros where `/proc` is not there.
#[derive(Default)]
struct Own {
    resident: u64,
    threads: u64,
    /// Seconds.
    cpu: f64,
}

impl Own {
    fn measure() -> Own {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| -> Option<u64> {
            status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
        };
        // The name in parentheses may hold anything, so it is counted from behind it: user and system time are the
        // 14th and 15th of proc(5), the state right behind the name the third.
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let times = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
        let ticks: u64 = times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Own {
            resident: field("VmRSS:").unwrap_or(0) * 1024,
            threads: field("Threads:").unwrap_or(0),
            cpu: ticks as f64 / USER_HZ,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_would_end_a_label() {
        let mut page = Page::default();
        page.line("m", &[("a", "x\\y\"z\nq"), ("b", "é")], 1.5);
        assert_eq!(page.0, "m{a=\"x\\\\y\\\"z\\nq\",b=\"é\"} 1.5\n");
    }

    #[test]
    fn too_many_servers_are_left_out_and_counted() {
        let id = |n: usize| format!("{n:064}").parse::<ServerId>().unwrap();
        let usage = Usage { cpu: 1.0, ..Usage::default() };
        let mut page = Page::default();
        let many = || (0..4096).map(id);
        servers(
            &mut page,
            many().map(|id| (id, usage)).collect(),
            many().map(|id| (id, DiskUse::default())).collect(),
        );
        assert!(page.0.len() <= MAX_BYTES, "{}", page.0.len());
        let told = page.0.matches("longshore_server_disk_bytes{").count();
        assert_eq!(page.0.matches("longshore_server_pids{").count(), told, "a server is told whole");
        assert!(told > 500, "{told}");
        assert!(page.0.ends_with(&format!("longshore_servers_omitted {}\n", 4096 - told)));
    }

    #[test]
    fn buckets_are_summed_up() {
        let counters = Counters::default();
        for millis in [5, 5, 200, 400_000] {
            counters.command("start_server", None, Duration::from_millis(millis));
        }
        let tally = counters.lock();
        assert_eq!(tally.latencies["start_server"].counts, [2, 0, 1, 0, 0, 0, 0, 1]);
        assert_eq!(tally.commands[&("start_server", "ok")], 4);
    }

    #[test]
    fn the_agent_measures_itself() {
        let own = Own::measure();
        assert!(own.resident > 100_000 && own.threads > 0 && own.cpu < 1e6, "{}", own.resident);
    }
}
