//! What processes cost: processor time and memory as the kernel counts them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::engine::{Engine, script};

/// Processor time of all threads that a process has, to the nanosecond. Threads that have ended are not in it.
pub fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// The same with threads that have ended, in hundredths of a second.
pub fn cpu_in_all(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; user and system time are the 14th and 15th field (proc(5)).
    let times = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    let ticks: u64 = times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// Of a core, in percent, over so long.
pub fn share(used: Duration, over: Duration) -> f64 {
    used.as_secs_f64() / over.as_secs_f64() * 100.0
}

/// The median. Panics without values.
pub fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}

impl Engine {
    /// The process behind the socket.
    pub fn pid(&self) -> u32 {
        let path = self.host().strip_prefix("unix://").expect("the tests' Engine has a Unix socket");
        let stream = UnixStream::connect(path).expect("the Engine answered before");
        let peer = rustix::net::sockopt::socket_peercred(&stream).expect("an option of every Unix socket");
        peer.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Docker's own command line for this Engine, installed when it is missing. It reads nothing.
    pub fn docker(&self) -> Command {
        script("engine.sh", &["need", "docker:docker.io"], None);
        let mut command = Command::new("docker");
        command.args(["-H", self.host()]).stdin(Stdio::null());
        command
    }

    /// `docker logs -f`, its output thrown away, until the line that the server prints last, on the other output. How long it
    /// took, and its processor time.
    pub fn docker_logs(&self, container: &str, last: &str) -> (Duration, Duration) {
        let begun = Instant::now();
        let mut command = self.docker();
        command.args(["logs", "-f", container]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it was installed");
        let errors = BufReader::new(child.stderr.take().expect("piped"));
        assert!(errors.lines().map_while(Result::ok).any(|line| line.contains(last)), "{last:?} never came");
        let (took, used) = (begun.elapsed(), cpu_in_all(child.id()));
        let _ = child.kill();
        let _ = child.wait();
        (took, used)
    }
}
