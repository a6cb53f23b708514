//! What the built Agent tells whoever started it: systemd's notify socket, s6's readiness descriptor, the PID file, and
//! log lines in the form that their reader wants.

mod support;

use std::fs;
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::*;

/// A service manager that listens.
struct Manager(UnixDatagram);

impl Manager {
    fn at(address: &SocketAddr) -> Manager {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Manager(socket)
    }

    /// The next message.
    #[track_caller]
    fn hear(&self) -> String {
        let mut text = [0; 4096];
        let length = self.0.recv(&mut text).expect("the Agent tells more");
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    /// Waits for a message with this in it.
    #[track_caller]
    fn wait(&self, wanted: &str) -> String {
        let begun = Instant::now();
        loop {
            let told = self.hear();
            if told.contains(wanted) {
                return told;
            }
            assert!(begun.elapsed() < SOON, "never told {wanted:?}");
        }
    }
}

/// Neither a Panel nor an Engine is there.
fn alone(environment: &[(&str, &str)]) -> AgentProcess {
    let nobody = Engine::at(NO_ENGINE);
    AgentProcess::prepare("ws://127.0.0.1:1/agent", &nobody, environment)
}

#[test]
fn ready_needs_neither_panel_nor_engine_and_the_stop_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let by_path = (path.to_str().unwrap().to_owned(), SocketAddr::from_pathname(&path).unwrap());
    let name = unique_name();
    let abstract_one = (format!("@{name}"), SocketAddr::from_abstract_name(name.as_bytes()).unwrap());
    for (text, address) in [by_path, abstract_one] {
        let manager = Manager::at(&address);
        let mut agent = alone(&[("NOTIFY_SOCKET", &text)]);
        agent.start_again();
        assert_eq!(manager.hear(), "READY=1\n", "{text}");
        manager.wait("STATUS=not linked yet, no Engine, 0 of 0 servers run");
        manager.wait("STATUS=no link to the Panel");
        agent.signal(Signal::TERM);
        let told = manager.wait("STOPPING=1");
        let asked = told.lines().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
        assert!(asked.is_some_and(|usec| usec.parse::<u64>().unwrap() >= 11_000_000), "{told}");
        assert_eq!(agent.wait(SOON).code(), Some(0));
    }
}

#[test]
fn the_status_tells_of_the_link_the_engine_and_the_servers() {
    let name = unique_name();
    let manager = Manager::at(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap());
    let panel = FakePanel::start();
    let socket = format!("@{name}");
    let agent = AgentProcess::start_with(&panel, engine(), &[("NOTIFY_SOCKET", &socket)]);
    let link = panel.accept();
    manager.wait("STATUS=linked to the Panel, with an Engine, 0 of 0 servers run");
    link.must("create_server", "s", demo(json!({})));
    link.must("start_server", "s", json!({}));
    manager.wait("1 of 1 servers run");
    drop(agent);
}

#[test]
fn the_watchdog_is_fed_without_a_panel_and_not_by_a_loop_that_hangs() {
    let name = unique_name();
    let manager = Manager::at(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap());
    let panel = FakePanel::start();
    // Its own log is what it will hang on: nobody reads the pipe. Set for another process, a watchdog is none of its.
    let mut agent = alone(&[("NOTIFY_SOCKET", &format!("@{name}")), ("WATCHDOG_USEC", "200000")]);
    agent.start_again();
    manager.wait("WATCHDOG=1");
    let first = Instant::now();
    for _ in 0..3 {
        manager.wait("WATCHDOG=1");
    }
    let took = first.elapsed();
    assert!(took > Duration::from_millis(150), "fed at half of the time, not faster: {took:?}");
    drop(agent);

    let foreign = [("NOTIFY_SOCKET", format!("@{name}")), ("WATCHDOG_USEC", "200000".into())];
    let foreign: Vec<(&str, &str)> = foreign.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let mut agent = alone(&[&foreign[..], &[("WATCHDOG_PID", "1")]].concat());
    agent.start_again();
    manager.wait("READY=1");
    agent.wait_log("next dial");
    agent.signal(Signal::TERM);
    assert!(!drain(&manager, "STOPPING=1").contains("WATCHDOG"), "it is another's watchdog");
    agent.wait(SOON);

    let mut hung = Hung::start(&panel, &foreign);
    manager.wait("WATCHDOG=1");
    let link = panel.accept();
    // Each is told in the log; the pipe takes 64 KiB.
    for n in 0..3000 {
        link.send(&json!({"id": format!("{n:0>100}"), "type": "command", "action": "none", "payload": {}}));
    }
    manager.0.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let begun = Instant::now();
    while manager.0.recv(&mut [0; 4096]).is_ok() {
        assert!(begun.elapsed() < SOON, "fed although the loop hangs");
    }
    hung.child.kill().unwrap();
    hung.child.wait().unwrap();
}

/// Everything until a message with `last` in it.
fn drain(manager: &Manager, last: &str) -> String {
    let mut all = String::new();
    while !all.contains(last) {
        all += &manager.hear();
    }
    all
}

/// An Agent whose log nobody reads.
struct Hung {
    child: std::process::Child,
    _dir: tempfile::TempDir,
}

impl Hung {
    fn start(panel: &FakePanel, environment: &[(&str, &str)]) -> Hung {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-agent"));
        command.env_clear().env("PANEL_URL", panel.url()).env("NODE_ID", unique_name());
        command.env("AGENT_SECRET", "hunter2-hunter2").env("DATA_DIR", dir.path().join("data"));
        command.env("HEALTH_ADDR", "127.0.0.1:0").env("DOCKER_HOST", NO_ENGINE);
        command.env("LOG_LEVEL", "debug").envs(environment.iter().copied());
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Hung { child, _dir: dir }
    }
}

#[test]
fn the_readiness_descriptor_gets_its_newline() {
    let dir = tempfile::tempdir().unwrap();
    // The shell opens descriptor 3 as s6-supervise does: as one end of a pipe.
    let mut child = Command::new("sh")
        .args(["-c", r#"exec "$0" -d 3 3>&1 >/dev/null 2>&1"#, env!("CARGO_BIN_EXE_longshore-agent")])
        .env_clear()
        .envs([("PANEL_URL", "ws://127.0.0.1:1/agent"), ("NODE_ID", "n"), ("AGENT_SECRET", "hunter2")])
        .envs([("HEALTH_ADDR", "127.0.0.1:0"), ("DOCKER_HOST", NO_ENGINE)])
        .env("DATA_DIR", dir.path().join("data"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut told).unwrap();
    assert_eq!(told, *b"\n");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_pid_file_is_there_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.pid");
    let name = unique_name();
    let manager = Manager::at(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap());
    let socket = format!("@{name}");
    let mut agent = alone(&[("NOTIFY_SOCKET", &socket), ("PID_FILE", path.to_str().unwrap())]);
    agent.start_again();
    manager.wait("READY=1");
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", agent.pid()));
    assert_eq!(agent.terminate().code(), Some(0));
    assert!(!path.exists(), "it is removed at the end");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing else is left");

    let mut agent = alone(&[("PID_FILE", "/nonexistent/agent.pid")]);
    agent.start_again();
    assert_eq!(agent.wait(SOON).code(), Some(1));
    agent.wait_log("PID_FILE /nonexistent/agent.pid");
}

#[test]
fn lines_are_json_for_a_collector() {
    let mut agent = alone(&[("LOG_FORMAT", "json")]);
    agent.start_again();
    agent.wait_log("next dial");
    agent.terminate();
    let lines = agent.log();
    assert!(lines.len() > 3);
    for line in lines {
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(value["time"].is_string() && value["message"].is_string(), "{line}");
        assert!(["warn", "info", "debug"].contains(&value["level"].as_str().unwrap()), "{line}");
    }
}

#[test]
fn lines_have_a_priority_and_no_time_only_where_the_journal_reads() {
    // A file stands for the journal's socket: what counts is that the variable names it.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let run = |journal: &str| {
        let file = fs::File::create(&path).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let own = format!("{}:{}", stat.st_dev, stat.st_ino);
        let status = Command::new(env!("CARGO_BIN_EXE_longshore-agent"))
            .env_clear()
            .envs([("PANEL_URL", "ws://127.0.0.1:1/agent"), ("NODE_ID", "n"), ("AGENT_SECRET", "hunter2")])
            .envs([("HEALTH_ADDR", "127.0.0.1:0"), ("DATA_DIR", "/proc/nowhere")])
            .env("JOURNAL_STREAM", if journal == "own" { &own } else { journal })
            .stderr(file)
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(1));
        fs::read_to_string(&path).unwrap()
    };
    let told = run("own");
    assert!(told.starts_with("<3>DATA_DIR /proc/nowhere: "), "{told}");
    let told = run("1:2");
    assert!(!told.contains('<') && told.contains("Z ERROR DATA_DIR"), "{told}");
}
