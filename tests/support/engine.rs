//! A Docker Engine for tests: the shared one, and private ones that may be stopped and killed.
//!
//! The client here is the smallest that assertions need, one connection per request, and shares no code with
//! `longshore::docker`, so that a fault there cannot hide itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::DEMO_IMAGE;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support");

/// A `DOCKER_HOST` where nothing answers.
pub const NO_ENGINE: &str = "unix:///nonexistent/docker.sock";

/// An Engine that holds the demo image.
#[derive(Clone)]
pub struct Engine {
    host: String,
}

/// The shared Engine of the test run, with the demo image in it; started when none answers. Tests fail without one.
pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let engine = Engine { host: script("engine.sh", &["up"], None) };
        script("image.sh", &[], Some(&engine.host));
        engine.sweep();
        engine
    })
}

impl Engine {
    /// The one at this `DOCKER_HOST`, whatever it holds.
    pub fn at(host: &str) -> Engine {
        Engine { host: host.to_owned() }
    }

    /// The value for `DOCKER_HOST`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// One call: method, path without a version, JSON body. The answer is the status and the body, which is a JSON
    /// value, a string when it is not JSON, or null. Panics when the Engine cannot be reached.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let (status, body) = self.exchange(method, path, body).unwrap_or_else(|error| {
            panic!("the Engine at {} did not answer {method} {path}: {error}", self.host)
        });
        let value = serde_json::from_slice(&body).unwrap_or_else(|_| match body.is_empty() {
            true => Value::Null,
            false => Value::String(String::from_utf8_lossy(&body).into_owned()),
        });
        (status, value)
    }

    /// The same for tests that expect success.
    pub fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, value) = self.call(method, path, body);
        assert!(status < 400, "{method} {path} was answered {status}: {value}");
        value
    }

    /// Whether `/_ping` is answered.
    pub fn answers(&self) -> bool {
        self.exchange("GET", "/_ping", None).is_ok_and(|(status, _)| status == 200)
    }

    /// A container by id or name, as inspect shows it.
    pub fn inspect(&self, container: &str) -> Option<Value> {
        let (status, value) = self.call("GET", &format!("/containers/{container}/json"), None);
        (status == 200).then_some(value)
    }

    /// `State.Status` of a container, or `gone`.
    pub fn state(&self, container: &str) -> String {
        let found = self.inspect(container);
        found.and_then(|c| Some(c["State"]["Status"].as_str()?.to_owned())).unwrap_or("gone".into())
    }

    /// All containers, running or not, that carry `label` (`name` or `name=value`).
    pub fn list(&self, label: &str) -> Vec<Value> {
        let filter = format!("%7B%22label%22%3A%5B%22{label}%22%5D%7D");
        let found = self.must("GET", &format!("/containers/json?all=1&filters={filter}"), None);
        found.as_array().cloned().unwrap_or_default()
    }

    /// Creates and starts a demo server that is nobody's; `extra` is merged over the top level of the create body.
    pub fn run_foreign(&self, name: &str, extra: Value) -> String {
        let mut body = json!({"Image": DEMO_IMAGE, "OpenStdin": true, "Labels": {"longshore.test": name}});
        if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
            body.extend(extra);
        }
        let id = self.must("POST", &format!("/containers/create?name={name}"), Some(&body))["Id"].clone();
        let id = id.as_str().expect("a created container has an id").to_owned();
        self.must("POST", &format!("/containers/{id}/start"), None);
        id
    }

    /// Follows a container's output until `text` comes and gives all of it until then. A stop that comes before the demo server is ready would find a
    /// first process without a signal handler, which the kernel does not let a signal end.
    pub fn wait_output(&self, container: &str, text: &str) -> String {
        let mut stream = self.connect().expect("the Engine answered before");
        let path = format!("/containers/{container}/logs?stdout=1&stderr=1&follow=1");
        write!(stream, "GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n").expect("the Engine reads its requests");
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !seen.windows(text.len()).any(|window| window == text.as_bytes()) {
            let length = stream.read(&mut buffer).unwrap_or_default();
            assert!(length > 0, "{container} ended without {text:?}: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..length]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Removes a container whatever its state; one that is not there is fine.
    pub fn remove(&self, container: &str) {
        let _ = self.exchange("DELETE", &format!("/containers/{container}?force=1&v=1"), None);
    }

    /// Removes all containers of one node, and what its Agent was made into.
    pub fn remove_node(&self, node_id: &str) {
        // Where no Engine can be, nothing was made.
        if self.host == NO_ENGINE {
            return;
        }
        let is_of = |thing: &Value| {
            thing["Labels"]["longshore.node"] == node_id || thing["Labels"]["longshore.helper"] == node_id
        };
        self.remove_where(is_of);
        self.remove_images(is_of);
    }

    /// Removes what test processes left that were killed before they could clean up.
    fn sweep(&self) {
        self.remove_where(|container| {
            let labels = &container["Labels"];
            is_left(labels["longshore.node"].as_str().or(labels["longshore.test"].as_str()))
        });
        self.remove_images(|image| is_left(image["Labels"]["longshore.helper"].as_str()));
    }

    fn remove_images(&self, chosen: impl Fn(&Value) -> bool) {
        let Ok((200, body)) = self.exchange("GET", "/images/json", None) else { return };
        let Ok(Value::Array(images)) = serde_json::from_slice(&body) else { return };
        for image in images.iter().filter(|image| chosen(image)) {
            let id = image["Id"].as_str().unwrap_or_default();
            let _ = self.exchange("DELETE", &format!("/images/{id}?force=1"), None);
        }
    }

    fn remove_where(&self, chosen: impl Fn(&Value) -> bool) {
        // Also called on drop, where the Engine may be gone and a second panic would abort.
        let Ok((200, body)) = self.exchange("GET", "/containers/json?all=1", None) else { return };
        let Ok(Value::Array(containers)) = serde_json::from_slice(&body) else { return };
        for container in containers.iter().filter(|container| chosen(container)) {
            self.remove(container["Id"].as_str().unwrap_or_default());
        }
    }

    pub(super) fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> std::io::Result<(u16, Vec<u8>)> {
        converse(self.connect()?, method, path, body)
    }

    fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let timeout = Some(Duration::from_secs(60));
        match self.host.strip_prefix("unix://") {
            Some(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(timeout)?;
                Ok(Box::new(stream))
            }
            None => {
                let stream = TcpStream::connect(self.host.trim_start_matches("tcp://"))?;
                stream.set_read_timeout(timeout)?;
                Ok(Box::new(stream))
            }
        }
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Whether a name is of a test process that is no more.
fn is_left(name: Option<&str>) -> bool {
    let pid = name.and_then(|name| name.strip_prefix("test-")).and_then(|rest| rest.split('-').next());
    pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
}

/// One HTTP/1.0 exchange: without chunks, and the end of the connection is the end of the body.
fn converse(
    mut stream: Box<dyn Stream>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> std::io::Result<(u16, Vec<u8>)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    match (head_end, status) {
        (Some(end), Some(status)) => Ok((status, answer.split_off(end + 4))),
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// An Engine of a test's own, with the demo image in it, to be stopped, killed and started again. Dropping it ends
/// its containers and removes its data.
pub struct PrivateEngine {
    engine: Engine,
    dir: TempDir,
}

impl PrivateEngine {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("engine-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.expect("cargo's directory for tests is writable");
        let engine = Engine { host: script("engine.sh", &["start", dir.path().to_str().unwrap()], None) };
        let private = PrivateEngine { engine, dir };
        script("image.sh", &[], Some(private.host()));
        private
    }

    /// SIGTERM to dockerd, which stops the containers; returns when it has ended.
    pub fn terminate(&self) {
        self.control("term");
    }

    /// SIGKILL to dockerd alone: its containers run on until the next start finds them.
    pub fn kill(&self) {
        self.control("kill");
    }

    /// Everything ends at once, containers too, as in a power cut or a reboot.
    pub fn cut(&self) {
        self.control("cut");
    }

    /// Starts it again after any of these, at the same socket.
    pub fn start_again(&self) {
        self.control("start");
    }

    fn control(&self, command: &str) {
        script("engine.sh", &[command, self.dir.path().to_str().unwrap()], None);
    }
}

impl Deref for PrivateEngine {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        // The data may be root's, which the directory's own drop could not remove.
        self.control("remove");
    }
}

/// Installs what is missing of `program:package`, on Debian and its kin; a test fails without.
pub fn need(programs: &[&str]) {
    script("engine.sh", &[&["need"], programs].concat(), None);
}

/// Runs one of the scripts beside this file and returns the last line it prints; panics with what it complained of.
pub fn script(name: &str, args: &[&str], docker_host: Option<&str>) -> String {
    let mut command = Command::new(Path::new(SCRIPTS).join(name));
    command.args(args).stdin(Stdio::null());
    if let Some(host) = docker_host {
        command.env("DOCKER_HOST", host);
    }
    let output = command.output().unwrap_or_else(|error| panic!("{name} cannot be run: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the test cannot be set up: {}", complaint.trim());
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}
