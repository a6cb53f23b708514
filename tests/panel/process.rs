//! The built Panel as a process, with a data directory of its own, and plain calls to its API.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, unbounded};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a test waits for what should happen at once: generous, since two cores may run several tests.
pub const SOON: Duration = Duration::from_secs(15);

const PROGRAM: &str = env!("CARGO_BIN_EXE_longshore-panel");

pub struct Panel {
    /// Of an admin's API token, sent with every call that does not say who asks.
    pub token: String,
    _dir: tempfile::TempDir,
    data: PathBuf,
    child: Option<Child>,
    pub http: String,
    pub agents: String,
    log: Arc<Mutex<String>>,
    ended: Option<Receiver<()>>,
    /// What comes on standard output, line by line.
    printed: Option<Receiver<String>>,
}

/// An answer to a call.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Panel {
    /// A Panel with these nodes, running. Their secrets are [`Panel::secret`].
    pub fn start(nodes: &[&str]) -> Panel {
        Panel::start_in(Path::new("data"), nodes)
    }

    /// With its data in this directory; one that is relative is its own.
    pub fn start_in(data: &Path, nodes: &[&str]) -> Panel {
        let mut panel = Panel::unstarted(data);
        for node in nodes {
            let added = panel.run(&["node", "add", node]);
            assert!(added.status.success(), "{added:?}");
        }
        panel.token = panel.user("admin", true, "read,console,power,files,settings,admin,metrics");
        panel.start_again(&[]);
        panel
    }

    /// A Panel in which nobody and nothing is yet.
    pub fn fresh() -> Panel {
        let mut panel = Panel::unstarted(Path::new("data"));
        panel.start_again(&[]);
        panel
    }

    /// Its directory alone; what is added to it there is what it finds.
    fn unstarted(data: &Path) -> Panel {
        let dir = tempfile::tempdir().unwrap();
        Panel {
            token: String::new(),
            data: dir.path().join(data),
            _dir: dir,
            child: None,
            http: String::new(),
            agents: String::new(),
            log: Arc::default(),
            ended: None,
            printed: None,
        }
    }

    /// Makes a user and an API token of theirs.
    pub fn user(&self, name: &str, admin: bool, scopes: &str) -> String {
        let role: &[&str] = if admin { &["--admin"] } else { &[] };
        let added = self.run(&[&["user", "add", name], role].concat());
        assert!(added.status.success(), "{added:?}");
        let token = self.run(&["token", "add", name, "test", "--scopes", scopes]);
        assert!(token.status.success(), "{token:?}");
        String::from_utf8(token.stdout).unwrap().trim().to_owned()
    }

    /// Runs a subcommand on the same data directory.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM).args(arguments).env("DATA_DIR", self.data_dir()).output().unwrap()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.data.clone()
    }

    pub fn secret(&self, node: &str) -> String {
        let file = self.data_dir().join(format!("{node}.secret"));
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// Starts it on free ports, the first time or after its end, and waits until it says that it is ready.
    pub fn start_again(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "it runs already");
        let mut command = Command::new(PROGRAM);
        command.env("HTTP_ADDR", "127.0.0.1:0").env("AGENT_ADDR", "127.0.0.1:0").env("LOG_LEVEL", "trace");
        command.env("DATA_DIR", self.data_dir()).envs(environment.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (log, errors) = (self.log.clone(), child.stderr.take().unwrap());
        let (end, ended) = bounded::<()>(0);
        thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                *log.lock().unwrap() += &format!("{line}\n");
            }
            drop(end);
        });
        let (lines, printed) = unbounded();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .take_while(|line| lines.send(line.clone()).is_ok())
                .for_each(drop);
        });
        let line = printed.recv_timeout(SOON).unwrap_or_default();
        (self.child, self.ended, self.printed) = (Some(child), Some(ended), Some(printed));
        let part = |name: &str| {
            let after = line.split(name).nth(1).unwrap_or_else(|| panic!("{line:?}: {}", self.log()));
            after.split("://").nth(1).unwrap().split('/').next().unwrap().to_owned()
        };
        (self.http, self.agents) = (part("page "), part("agents "));
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.id().cast_signed();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits for its end, which the end of its log tells.
    pub fn wait(&mut self) -> ExitStatus {
        let ended = self.ended.take().unwrap();
        assert_eq!(ended.recv_timeout(SOON), Err(RecvTimeoutError::Disconnected), "it does not end");
        self.child.take().unwrap().wait().unwrap()
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait().signal(), Some(9));
    }

    /// The link that the Panel prints while there is no user: its token.
    pub fn setup_token(&self) -> String {
        let lines = self.printed.as_ref().unwrap();
        let line = lines.iter().find(|line| line.contains("/setup#")).expect("no link was printed");
        line.split('#').nth(1).unwrap().trim().to_owned()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    // ---- calls

    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], None)
    }

    /// A call with a JSON body that waits for the outcome.
    pub fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        self.call(method, path, &[("Content-Type", "application/json"), ("Prefer", "wait=15")], Some(body))
    }

    /// A call that waits for its outcome, and what happens while it does.
    pub fn send_while(&self, method: &str, path: &str, body: &str, meanwhile: impl FnOnce()) -> Answer {
        thread::scope(|scope| {
            let call = scope.spawn(|| self.send(method, path, body));
            meanwhile();
            call.join().unwrap()
        })
    }

    /// A call that does not wait; the command's id.
    pub fn order(&self, method: &str, path: &str, body: &str) -> String {
        let headers = [("Content-Type", "application/json"), ("Prefer", "respond-async")];
        let answer = self.call(method, path, &headers, Some(body));
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["command"]["id"].as_str().unwrap().to_owned()
    }

    /// The command once it is not pending any more; asked for again each time something else is known to have come.
    pub fn command(&self, id: &str) -> Value {
        self.get(&format!("/api/v1/commands/{id}")).json()["command"].take()
    }

    /// A raw HTTP/1.1 request. A `Host` among the headers replaces the right one.
    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request += &format!("Host: {}\r\n", self.http);
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if !headers.iter().any(|(name, _)| matches!(*name, "Authorization" | "Cookie")) {
            request += &format!("Authorization: Bearer {}\r\n", self.token);
        }
        if let Some(body) = body {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        request += &format!("\r\n{}", body.unwrap_or_default());
        ask(&self.http, &request)
    }

    /// An event stream, from `last` on.
    pub fn events(&self, last: Option<&str>) -> Events {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let last = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        // HTTP/1.0 has no chunks, so that the body is the stream itself.
        let token = &self.token;
        write!(
            stream,
            "GET /api/v1/events HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n{last}\r\n",
            self.http
        )
        .unwrap();
        let mut lines = BufReader::new(stream).lines();
        let head: Vec<String> =
            lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
        assert!(head[0].contains(" 200 "), "{head:?}");
        assert!(head.iter().any(|line| line.to_lowercase() == "content-type: text/event-stream"), "{head:?}");
        Events {
            lines: Box::new(lines.map_while(|line| match line {
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                    panic!("neither an event nor the end came")
                }
                line => line.ok(), // a reset is an end too
            })),
        }
    }
}

impl Drop for Panel {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if thread::panicking() {
                eprintln!("---- the Panel's log\n{}", self.log());
            }
        }
    }
}

/// Sends a raw request and reads the whole answer.
pub fn ask(address: &str, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(2 * SOON)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{text:?}"));
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|cause| panic!("{cause}: {self:?}"))
    }

    /// Status and error code in one, such as `409 NODE_OFFLINE`.
    pub fn error(&self) -> String {
        format!("{} {}", self.status, self.json()["error"]["code"].as_str().unwrap_or("no code"))
    }
}

pub struct Events {
    lines: Box<dyn Iterator<Item = String>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub name: String,
    pub data: Value,
}

impl Events {
    /// The next event; `None` at the end of the stream.
    pub fn next(&mut self) -> Option<Event> {
        let mut event = Event { id: None, name: String::new(), data: Value::Null };
        loop {
            let line = self.lines.next()?;
            match line.split_once(": ") {
                Some(("id", id)) => event.id = Some(id.to_owned()),
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                _ if line.is_empty() && !event.name.is_empty() => return Some(event),
                _ => {}
            }
        }
    }

    /// The first of these events that fits; what comes before is left out.
    pub fn wait(&mut self, name: &str, fits: impl Fn(&Value) -> bool) -> Event {
        loop {
            let event = self.next().unwrap_or_else(|| panic!("the stream ended without the {name}"));
            if event.name == name && fits(&event.data) {
                return event;
            }
        }
    }
}
