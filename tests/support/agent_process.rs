//! The built `longshore-agent` as a process of its own, with a data directory, a node id and a secret of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, Engine, FakePanel, Network, SOON, Watched, engine, exchange, get, unique_name};

/// A running Agent. Dropping it kills the process, removes the node's containers and the data directory.
pub struct AgentProcess {
    pub node_id: String,
    pub secret: String,
    /// `DATA_DIR`.
    pub data_dir: PathBuf,
    engine: Engine,
    command: Command,
    running: Option<Running>,
    log: Arc<Watched<Vec<String>>>,
    dir: TempDir,
}

struct Running {
    child: Child,
    readers: Vec<JoinHandle<()>>,
}

impl AgentProcess {
    /// Starts an Agent that dials `panel` and works on the shared Engine.
    pub fn start(panel: &FakePanel) -> Self {
        Self::start_with(panel, engine(), &[])
    }

    /// The same with an Engine of the caller's and more environment, which wins over the usual one.
    pub fn start_with(panel: &FakePanel, engine: &Engine, environment: &[(&str, &str)]) -> Self {
        let mut agent = Self::prepare(&panel.url(), engine, environment);
        agent.start_again();
        agent
    }

    /// An Agent that is not started yet.
    pub fn prepare(panel_url: &str, engine: &Engine, environment: &[(&str, &str)]) -> Self {
        Self::prepare_command(Command::new(program()), panel_url, engine, environment)
    }

    /// The same inside a network that can lose everything.
    pub fn prepare_in(
        network: &Network,
        panel_url: &str,
        engine: &Engine,
        environment: &[(&str, &str)],
    ) -> Self {
        Self::prepare_command(network.command(program()), panel_url, engine, environment)
    }

    /// The same of another executable, as another user.
    pub fn prepare_as(
        program: &Path,
        (uid, gid): (u32, u32),
        panel_url: &str,
        engine: &Engine,
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(program);
        command.uid(uid).gid(gid);
        let agent = Self::prepare_command(command, panel_url, engine, environment);
        for path in [agent.dir.path(), &agent.dir.path().join("secret")] {
            chown(path, Some(uid), Some(gid)).expect("tests run as root");
        }
        agent
    }

    fn prepare_command(
        mut command: Command,
        panel_url: &str,
        engine: &Engine,
        environment: &[(&str, &str)],
    ) -> Self {
        let dir = tempfile::Builder::new().prefix("agent-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.expect("cargo's directory for tests is writable");
        let (node_id, data_dir, secret_file) =
            (unique_name(), dir.path().join("data"), dir.path().join("secret"));
        let secret = format!("secret-of-{node_id}-0123456789abcdef");
        write_secret(&secret_file, &secret);
        // Nothing of the developer's own environment may decide a test.
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.env("PANEL_URL", panel_url).env("NODE_ID", &node_id).env("AGENT_SECRET_FILE", secret_file);
        command
            .env("HEALTH_ADDR", "127.0.0.1:0")
            .env("DATA_DIR", &data_dir)
            .env("DOCKER_HOST", engine.host());
        command.env("LOG_LEVEL", "debug").env("RUST_BACKTRACE", "1").envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let log = Arc::new(Watched::new(Vec::new()));
        AgentProcess { node_id, secret, data_dir, engine: engine.clone(), command, running: None, log, dir }
    }

    /// Starts it, the first time or after its end, with the same node and the same data.
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "{} runs already", self.node_id);
        let mut child = self.command.spawn().expect("the built Agent can be started");
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        let readers = outputs.into_iter().map(|output| record(output, Arc::clone(&self.log))).collect();
        self.running = Some(Running { child, readers });
    }

    /// Another setting for the next start.
    pub fn set(&mut self, key: &str, value: &str) {
        self.command.env(key, value);
    }

    /// Writes another secret into the secret file; the Agent reads it again at each dial.
    pub fn change_secret(&mut self, secret: &str) {
        self.secret = secret.to_owned();
        write_secret(&self.dir.path().join("secret"), secret);
    }

    /// The name of a server's container.
    pub fn container(&self, server_id: &str) -> String {
        format!("longshore-{}-{server_id}", self.node_id)
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().map(|running| running.child.id()).expect("the Agent runs")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a child's pid is not zero");
        kill_process(pid, signal).expect("a child that was not waited for may be signalled");
    }

    /// Asks it to end, and waits.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(Duration::from_secs(30))
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait(SOON).signal(), Some(9));
    }

    /// Waits for it to be killed by itself, at a step that `LONGSHORE_CRASH` names.
    pub fn wait_killed(&mut self) {
        assert_eq!(self.wait(SOON).signal(), Some(9));
    }

    /// Waits until the journal holds this text; a killed Agent's journal holds what was written, on disk or not.
    pub fn wait_journal(&self, text: &str) {
        let (path, begun) = (self.data_dir.join("journal/commands"), Instant::now());
        let holds = |bytes: Vec<u8>| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        while !fs::read(&path).is_ok_and(holds) {
            assert!(begun.elapsed() < SOON, "the journal of {} never held {text:?}", self.node_id);
            thread::yield_now();
        }
    }

    /// Waits until what is stored of a server is as wanted.
    pub fn wait_state(&self, server: &str, wanted: impl Fn(&Value) -> bool) {
        let (path, begun) = (self.data_dir.join(format!("state/{server}.json")), Instant::now());
        let read = || serde_json::from_slice(&fs::read(&path).ok()?).ok();
        while !read().is_some_and(|record: Value| wanted(&record)) {
            assert!(begun.elapsed() < SOON, "never as wanted: {:?}", read());
            thread::yield_now();
        }
    }

    /// Waits until nothing waits for its delivery any more, and the journal knows it.
    pub fn wait_delivered(&self) {
        let begun = Instant::now();
        while self.metric("longshore_outbox_messages") > 0.0
            || self.metric("longshore_journal_waiting_bytes") > 0.0
        {
            assert!(begun.elapsed() < SOON, "something is never delivered");
            thread::yield_now();
        }
    }

    /// One figure of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let answer = exchange(self.health_address(), "GET", "/metrics", &[], None, SOON);
        let page = String::from_utf8(answer.expect("the Agent runs").body).expect("it is a text");
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{name} is not in /metrics"))
    }

    /// Waits for its end, which the end of its output tells; panics when it does not come.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let ended = self.log.wait(within, |lines| lines.iter().any(|line| line == END).then_some(()));
        assert!(ended.is_some(), "{} did not end within {within:?}", self.node_id);
        self.reap()
    }

    fn reap(&mut self) -> ExitStatus {
        let Running { mut child, readers } = self.running.take().expect("the Agent was started");
        let status = child.wait().expect("a child can be waited for");
        readers.into_iter().for_each(|reader| reader.join().expect("a reader does not panic"));
        self.log.lock().retain(|line| line != END);
        status
    }

    /// What it has printed until now, over all its starts.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    /// Waits for a line that holds `text` and returns the last such line.
    pub fn wait_log(&self, text: &str) -> String {
        self.wait_log_within(text, SOON)
    }

    pub fn wait_log_within(&self, text: &str, within: Duration) -> String {
        let found =
            self.log.wait(within, |lines| lines.iter().rev().find(|line| line.contains(text)).cloned());
        found.unwrap_or_else(|| panic!("{} did not log {text:?} within {within:?}", self.node_id))
    }

    /// Waits until so many lines hold `text`.
    pub fn wait_log_count(&self, text: &str, count: usize) {
        let enough = |lines: &mut Vec<String>| {
            (lines.iter().filter(|line| line.contains(text)).count() >= count).then_some(())
        };
        let found = self.log.wait(SOON, enough);
        assert!(found.is_some(), "{} did not log {text:?} {count} times", self.node_id);
    }

    /// Waits for a line that holds both: a response may be there before the log's reader is.
    pub fn has_logged(&self, text: &str, other: &str) -> bool {
        let holds = |line: &String| line.contains(text) && line.contains(other);
        self.log.wait(SOON, |lines| lines.iter().any(holds).then_some(())).is_some()
    }

    /// Where it answers `/health`, as it logged it.
    pub fn health_address(&self) -> SocketAddr {
        let line = self.wait_log("health");
        let mut addresses = line
            .split_whitespace()
            .filter_map(|word| word.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok());
        addresses.next_back().unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    /// What `/health` says to this machine.
    pub fn health(&self) -> (u16, Value) {
        get(self.health_address(), "/health", &[])
    }

    /// A command over HTTP with this node's secret; gives the whole body of a 200. Patient enough for one that goes on.
    pub fn http(&self, command: &Value) -> Value {
        let answer = self.post(command.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{command}: {answer:?}");
        answer.json()
    }

    /// The same with any body and any answer.
    pub fn post(&self, body: &[u8]) -> Answer {
        let key = [("X-API-Key", self.secret.as_str()), ("Content-Type", "application/json")];
        let within = Duration::from_secs(40);
        exchange(self.health_address(), "POST", "/api/command", &key, Some(body), within)
            .unwrap_or_else(|error| panic!("POST /api/command of {}: {error}", self.node_id))
    }

    /// Asks `/health` until it says what is wanted; there is nothing that would tell of a change.
    pub fn wait_health(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> (u16, Value) {
        let begun = Instant::now();
        loop {
            let (status, health) = self.health();
            if wanted(&health) {
                return (status, health);
            }
            assert!(begun.elapsed() < SOON, "/health of {} never told {what}: {health}", self.node_id);
            thread::yield_now();
        }
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most it ever was.
    pub fn peak_resident_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// How often its threads have gone to sleep by themselves, summed: each time is one wake-up.
    pub fn voluntary_switches(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the Agent runs");
        let tasks = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
        tasks.filter_map(|status| field(&status, "voluntary_ctxt_switches:")).sum()
    }

    /// The scheduling policy of the thread of this name, as sched(7) numbers them.
    pub fn scheduling(&self, thread: &str) -> u32 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the Agent runs");
        let stats = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        let found = stats.into_iter().find_map(|stat| {
            let (name, rest) = stat.split_once(") ")?;
            // Field 41 of proc_pid_stat(5); the rest begins with the third.
            name.ends_with(&format!("({thread}")).then(|| rest.split(' ').nth(41 - 3)?.parse().ok())?
        });
        found.unwrap_or_else(|| panic!("no thread {thread}"))
    }

    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the Agent runs");
        field(&status, name).unwrap_or_else(|| panic!("the kernel tells no {name}"))
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            let _ = running.child.kill();
            self.reap();
        }
        self.engine.remove_node(&self.node_id);
        if thread::panicking() {
            eprintln!("--- the log of {}:\n{}", self.node_id, self.log().join("\n"));
        }
    }
}

/// Put into the log when an output ends; no Agent prints it.
const END: &str = "\0end of output";

fn record(output: impl Read + Send + 'static, log: Arc<Watched<Vec<String>>>) -> JoinHandle<()> {
    let read = move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            log.update(|lines| lines.push(line));
        }
        log.update(|lines| lines.push(END.to_owned()));
    };
    thread::Builder::new().name("agent-log".into()).spawn(read).expect("a test may have one more thread")
}

/// The Agent as one static file, which the one beside the tests is not. Built once.
pub fn static_agent() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/static-agent.sh");
    let built = Command::new(script).stderr(Stdio::inherit()).output().expect("a script of this repository");
    assert!(built.status.success(), "the static Agent does not build");
    String::from_utf8(built.stdout).expect("a path of ours").trim().into()
}

/// The Agent to test: `LONGSHORE_AGENT` (the release build, for the bench) or the one built beside the tests.
fn program() -> PathBuf {
    std::env::var_os("LONGSHORE_AGENT")
        .map_or_else(|| env!("CARGO_BIN_EXE_longshore-agent").into(), PathBuf::from)
}

fn write_secret(path: &Path, secret: &str) {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    std::io::Write::write_all(&mut file.expect("the test's own directory"), secret.as_bytes())
        .expect("space for a line");
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
