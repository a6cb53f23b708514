//! What `make run` promises: one command brings everything up, one signal ends it in order, and no way out leaves
//! anything behind.
#![cfg(feature = "panel")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::{SOON, Watched, engine, unique_name};
use tempfile::TempDir;

const UP: &str = "Longshore runs. Open";

/// A place for `make run` of its own: directory, node and ports.
struct Place {
    dir: TempDir,
    node: String,
    http: String,
    agents: String,
}

/// One running `make run`; dropping it ends it as Ctrl-C does.
struct Run {
    child: Child,
    printed: Arc<Watched<Vec<String>>>,
}

#[test]
fn one_command_brings_everything_up_and_one_signal_ends_it() {
    let (engine, place) = (engine(), Place::new());
    let container = format!("longshore-{}-demo", place.node);
    let mut run = place.run();
    run.wait_for(UP);
    assert_eq!(engine.state(&container), "running");
    assert!(place.get("/api/v1/servers").contains(r#""status":"running""#));
    let link =
        run.printed.lock().iter().find_map(|line| line.split("/login#").nth(1).map(str::to_owned)).unwrap();
    let body = format!(r#"{{"link":"{}"}}"#, link.trim());
    assert!(place.post("/api/v1/session", &body).starts_with("HTTP/1.1 201"), "the link logs in");
    assert!(place.post("/api/v1/session", &body).starts_with("HTTP/1.1 401"), "once");
    assert_eq!(place.processes(), ["longshore-agent", "longshore-panel"]);

    let mut second = place.run();
    second.wait_for(&format!("runs already in this directory: http://{}", place.http));
    assert!(second.wait().success());
    assert_eq!(place.processes().len(), 2, "a second one leaves the first alone");

    run.signal(Signal::INT);
    assert!(run.wait().success());
    assert_eq!(place.processes(), [""; 0]);
    assert_eq!(engine.state(&container), "gone");
    let world = place.dir.path().join("agent/servers/demo/world.txt");
    assert!(world.exists(), "the server was stopped in good order, and its files stay");
    let agent_log = fs::read_to_string(place.dir.path().join("agent.log")).unwrap();
    assert!(agent_log.lines().last().unwrap().contains("stopped"), "{agent_log}");
    assert!(!agent_log.contains(" ERROR "), "{agent_log}");

    let mut again = place.run();
    again.wait_for(UP);
    assert_eq!(engine.state(&container), "running");
    again.signal(Signal::TERM);
    assert!(again.wait().success());
    assert_eq!((place.processes().len(), engine.state(&container).as_str()), (0, "gone"));
}

#[test]
fn a_dead_agent_ends_everything_with_one_line() {
    let (engine, place) = (engine(), Place::new());
    let mut run = place.run();
    run.wait_for(UP);
    let agent = place.pids().into_iter().find(|(_, name)| name == "longshore-agent").unwrap().0;
    kill_process(Pid::from_raw(agent).unwrap(), Signal::KILL).unwrap();
    run.wait_for("run: the agent ended");
    assert!(!run.wait().success());
    assert_eq!(place.processes(), [""; 0]);
    assert_eq!(engine.state(&format!("longshore-{}-demo", place.node)), "gone");
}

#[test]
fn a_taken_port_is_told_in_one_line_and_nothing_stays() {
    let place = Place::new();
    let _taken = TcpListener::bind(&place.http).unwrap();
    let mut run = place.run();
    run.wait_for(&format!(
        "run: the panel ended: longshore-panel: HTTP_ADDR={}: Address already in use",
        place.http
    ));
    assert!(!run.wait().success());
    assert_eq!(place.processes(), [""; 0]);
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Place { dir, node: unique_name(), http: free_address(), agents: free_address() }
    }

    fn run(&self) -> Run {
        let bin = Path::new(env!("CARGO_BIN_EXE_longshore-agent")).parent().unwrap();
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/run.sh"));
        command.env("RUN_DIR", self.dir.path()).env("RUN_BIN", bin).env("NODE_ID", &self.node);
        command
            .env("HTTP_ADDR", &self.http)
            .env("AGENT_ADDR", &self.agents)
            .env("HEALTH_ADDR", "127.0.0.1:0");
        command.env("DOCKER_HOST", engine().host());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let printed = Arc::new(Watched::new(Vec::new()));
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let printed = Arc::clone(&printed);
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    printed.update(|lines| lines.push(line));
                }
            });
        }
        Run { child, printed }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let token = fs::read_to_string(self.dir.path().join("token")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n{}\r\n\r\n", self.http, token.trim()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn post(&self, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let (host, length) = (&self.http, body.len());
        let head = format!("Host: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}");
        write!(stream, "POST {path} HTTP/1.1\r\n{head}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The names of the Longshore processes that work in this place, sorted.
    fn processes(&self) -> Vec<String> {
        let mut names: Vec<String> = self.pids().into_iter().map(|(_, name)| name).collect();
        names.sort();
        names
    }

    fn pids(&self) -> Vec<(i32, String)> {
        let marker = self.dir.path().to_str().unwrap().as_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
            let name = fs::read_link(entry.path().join("exe")).unwrap_or_default();
            let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("longshore-")
                && environment.windows(marker.len()).any(|window| window == marker)
            {
                found.push((pid, name));
            }
        }
        found
    }
}

impl Run {
    fn wait_for(&self, text: &str) {
        let within = Duration::from_secs(60);
        let found =
            self.printed.wait(within, |lines| lines.iter().any(|line| line.contains(text)).then_some(()));
        found.unwrap_or_else(|| panic!("{text:?} was not printed:\n{}", self.printed.lock().join("\n")));
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; the script's own deadlines bound it.
    fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(Signal::TERM);
            let _ = self.wait();
        }
    }
}

/// An address of loopback that is free now. Another process may take it before it is used, which no test here does.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
