//! `longshore-agent doctor` and `status`: what they find with everything in order, and for each check a fault that is
//! provoked for it. Nothing that they print holds a secret.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use support::*;
use tempfile::TempDir;

const SECRET: &str = "hunter2-hunter2-hunter2";
const AGENT: &str = env!("CARGO_BIN_EXE_longshore-agent");

/// A node where everything is in order but for what a test changes.
struct Node {
    dir: TempDir,
    environment: Vec<(String, String)>,
    /// Runs the Agent, as its arguments: `setpriv …`.
    through: Vec<String>,
}

impl Node {
    fn new(panel_url: &str) -> Node {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut node = Node { dir, environment: Vec::new(), through: Vec::new() };
        let secret = node.file("secret", SECRET, 0o600);
        let data = node.dir.path().join("data").to_str().unwrap().to_owned();
        for (key, value) in [
            ("PANEL_URL", panel_url),
            ("NODE_ID", "node-1"),
            ("AGENT_SECRET_FILE", &secret),
            ("DATA_DIR", &data),
            ("HEALTH_ADDR", "127.0.0.1:0"),
            ("DOCKER_HOST", engine().host()),
        ] {
            node.set(key, value);
        }
        node
    }

    fn set(&mut self, key: &str, value: &str) -> &mut Node {
        self.environment.retain(|(have, _)| have != key);
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// From now on the Agent is run by nobody.
    fn as_nobody(&mut self) -> &mut Node {
        self.through =
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned).into();
        self
    }

    /// What is printed, and the exit code.
    fn run(&self, arguments: &[&str]) -> (String, i32) {
        let line: Vec<&str> =
            self.through.iter().map(String::as_str).chain([AGENT]).chain(arguments.iter().copied()).collect();
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        let output = command.envs(self.environment.iter().cloned()).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!told.contains("hunter2") && !errors.contains("hunter2"), "{told}{errors}");
        (told + &errors, output.status.code().unwrap())
    }

    /// The checks, by `--json`, and the exit code.
    fn checks(&self) -> (Vec<Value>, i32) {
        let (told, code) = self.run(&["doctor", "--json"]);
        let told: Value = serde_json::from_str(&told).unwrap_or_else(|e| panic!("{told}: {e}"));
        assert_eq!(told["ok"], json!(code == 0), "{told}");
        (told["checks"].as_array().unwrap().clone(), code)
    }

    /// One check has this verdict, with these words in what was found.
    #[track_caller]
    fn finds(&self, check: &str, verdict: &str, words: &str) {
        let (checks, code) = self.checks();
        let found = checks.iter().find(|found| found["check"] == check);
        let found = found.unwrap_or_else(|| panic!("no {check} in {checks:?}"));
        assert_eq!(found["verdict"], verdict, "{found}");
        assert!(found["found"].as_str().unwrap().contains(words), "{found}");
        match verdict {
            "failure" => assert_eq!(code, 1, "a failure is told by the exit code"),
            "warning" => {}
            _ => return,
        }
        assert!(found["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "what to do: {found}");
    }
}

/// Where nobody listens.
const NOBODY: &str = "ws://127.0.0.1:1/agent";

#[test]
fn everything_is_told_in_order_when_all_is_well() {
    let panel = FakePanel::start();
    let node = Node::new(&panel.url());
    let (told, code) = node.run(&["doctor"]);
    assert_eq!(code, 0, "{told}");
    let names = [
        "config",
        "secret",
        "dns",
        "tcp",
        "proxy",
        "tls",
        "upgrade",
        "clock",
        "authentication",
        "engine",
        "api version",
        "storage driver",
        "cgroup",
        "disk space",
        "data directory",
        "health port",
        "policy",
        "confinement",
        "kernel",
    ];
    assert_eq!(told.lines().count(), names.len(), "{told}");
    for (line, name) in told.lines().zip(names) {
        let words = line.split_at(9).1;
        assert!(words.starts_with(name), "{name} is expected in {line}");
    }
    assert!(!told.contains("FAILURE"), "{told}");
    assert!(!node.dir.path().join("data").exists(), "nothing is made");
}

#[test]
fn a_link_that_stands_is_not_disturbed() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    agent.wait_health("the link", |health| health["connected"] == true);
    let mut node = Node::new(&panel.url());
    node.set("NODE_ID", &agent.node_id).set("HEALTH_ADDR", &agent.health_address().to_string());
    node.finds("authentication", "ok", "linked");
    node.finds("upgrade", "skipped", "stays so");
    node.finds("health port", "ok", "of the Agent that runs");
    assert!(!link.has_ended());
    assert!(panel.accept_within(std::time::Duration::ZERO).is_none(), "no second connection");

    let (told, code) = node.run(&["status"]);
    assert_eq!(code, 0, "{told}");
    for words in [&agent.node_id, "healthy", "linked", "API 1.", "0 of 0 run"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let (told, code) = node.run(&["status", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["connected"], true);
    panel.go_away();
    link.cut();
    agent.wait_health("the loss", |health| health["connected"] == false);
    let (told, code) = node.run(&["status"]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("degraded") && told.contains("no link: "), "{told}");
    drop(agent);
    let (told, code) = node.run(&["status"]);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("no Agent answers"), "{told}");
}

#[test]
fn faults_of_the_configuration() {
    let mut node = Node::new(NOBODY);
    node.set("WORKERS", "many").finds("config", "failure", "WORKERS: \"many\"");
    let (checks, _) = node.checks();
    assert_eq!(checks.len(), 3, "the rest depends on it: {checks:?}");
    node.set("WORKERS", "");
    let wrong = node.file("agent.env", "PANNEL_URL=x\n", 0o644);
    let (told, code) = node.run(&["doctor", "--config", &wrong]);
    assert!(code == 1 && told.contains("unknown key \"PANNEL_URL\""), "{told}");
    let (told, code) = node.run(&["status", "--config", &wrong]);
    assert!(code == 2 && told.contains("PANNEL_URL"), "{told}");
    let (told, code) = node.run(&["doctor", "--config", "/nonexistent/agent.env"]);
    assert!(code == 1 && told.contains("cannot be read"), "{told}");
}

#[test]
fn faults_of_the_secret() {
    let mut node = Node::new(NOBODY);
    let open = node.file("open", SECRET, 0o644);
    node.set("AGENT_SECRET_FILE", &open).finds("secret", "failure", "others may read");
    node.set("AGENT_SECRET_FILE", "/nonexistent/secret").finds("secret", "failure", "cannot be opened");
    let empty = node.file("empty", "\n", 0o600);
    node.set("AGENT_SECRET_FILE", &empty).finds("secret", "failure", "empty");
    node.set("AGENT_SECRET_FILE", "").finds("secret", "failure", "not set");
    node.set("AGENT_SECRET", SECRET).finds("secret", "warning", "from the environment");
    let mut node = Node::new(NOBODY);
    node.as_nobody().finds("secret", "failure", "Permission denied");
}

#[test]
fn faults_on_the_way_to_the_panel() {
    let panel = FakePanel::start();
    Node::new("wss://panel.invalid/agent").finds("dns", "failure", "panel.invalid");
    Node::new(NOBODY).finds("tcp", "failure", "refused");
    Node::new(NOBODY).finds("upgrade", "skipped", "not reached");

    let mut node = Node::new("ws://192.0.2.1/agent");
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("http://u:hunter2@{}", proxy.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = proxy.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n");
    });
    node.set("ALLOW_INSECURE", "1").set("HTTP_PROXY", &at);
    node.finds("proxy", "failure", "407");

    panel.behave(Behaviour::Refuse(404, Vec::new()));
    Node::new(&panel.url()).finds("upgrade", "failure", "404");
    panel.behave(Behaviour::Refuse(401, Vec::new()));
    Node::new(&panel.url()).finds("upgrade", "ok", "401");
    Node::new(&panel.url()).finds("authentication", "failure", "node-1 with 401");
    for (offset, verdict) in [(3600, "failure"), (60, "warning"), (0, "ok")] {
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(offset);
        panel.behave(Behaviour::Refuse(403, vec![("Date", httpdate::fmt_http_date(then))]));
        Node::new(&panel.url()).finds("clock", verdict, "differs from the Panel's by");
    }
}

/// A certificate for 127.0.0.1 that ends in so many days and vouches for itself, with its key.
fn certificate(dir: &Path, days: &str) -> (PathBuf, PathBuf) {
    let at = |name: &str| dir.join(format!("{name}{days}"));
    let extensions = "subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n";
    fs::write(at("extensions"), extensions).unwrap();
    let openssl = |arguments: &str| {
        let words = arguments.split(' ').map(|word| match word.strip_prefix('@') {
            Some(name) => at(name).into_os_string(),
            None => word.into(),
        });
        let output = Command::new("openssl").args(words).output().unwrap();
        assert!(output.status.success(), "{arguments}: {output:?}");
    };
    openssl(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout @key -out @request -subj /CN=panel",
    );
    // This form takes days of the past.
    openssl(&format!(
        "x509 -req -in @request -signkey @key -days {days} -extfile @extensions -out @certificate"
    ));
    (at("certificate"), at("key"))
}

/// A TLS server that refuses every upgrade.
fn tls_server(certificate: &Path, key: &Path) -> String {
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://{}/agent", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let tls = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, stream.unwrap());
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    url
}

#[test]
fn faults_of_certificates() {
    need(&["openssl:openssl"]);
    let dir = tempfile::tempdir().unwrap();
    let (short, key) = certificate(dir.path(), "3");
    let mut node = Node::new(&tls_server(&short, &key));
    node.finds("tls", "failure", "certificate");
    node.set("CA_FILE", short.to_str().unwrap());
    node.finds("tls", "ok", "trusted");
    node.finds("certificate", "warning", "valid until");
    node.finds("authentication", "failure", "401");
    let (over, key) = certificate(dir.path(), "-1");
    let mut node = Node::new(&tls_server(&over, &key));
    node.set("CA_FILE", over.to_str().unwrap()).finds("tls", "failure", "Expired");
    let (long, key) = certificate(dir.path(), "90");
    let mut node = Node::new(&tls_server(&long, &key));
    node.set("CA_FILE", long.to_str().unwrap()).finds("certificate", "ok", "valid until");
}

#[test]
fn faults_of_the_engine() {
    let mut node = Node::new(NOBODY);
    let at = |node: &Node, name: &str| format!("unix://{}", node.dir.path().join(name).display());
    node.set("DOCKER_HOST", NO_ENGINE).finds("engine", "failure", "no socket");
    node.finds("api version", "skipped", "no Engine answers");
    let dead = at(&node, "dead.sock");
    drop(UnixListener::bind(node.dir.path().join("dead.sock")).unwrap());
    node.set("DOCKER_HOST", &dead).finds("engine", "failure", "refused");
    let silent = at(&node, "silent.sock");
    let _listener = UnixListener::bind(node.dir.path().join("silent.sock")).unwrap();
    node.set("DOCKER_HOST", &silent).finds("engine", "failure", "does not answer");
    fs::set_permissions(node.dir.path().join("silent.sock"), fs::Permissions::from_mode(0o600)).unwrap();
    node.as_nobody().finds("engine", "failure", "permission denied, it belongs to the group root");

    let info = |change: Value| {
        EngineProxy::start(engine(), "1.41", move |request| {
            let (_, mut info) = engine().call("GET", "/info", None);
            for (key, value) in change.as_object().unwrap() {
                info[key] = value.clone();
            }
            request.ends_with("/info").then(|| Passage::Answer(200, info.to_string()))
        })
    };
    let mut node = Node::new(NOBODY);
    let old = EngineProxy::start(engine(), "1.24", |_| None);
    node.set("DOCKER_HOST", old.engine().host()).finds("api version", "failure", "1.24");
    for (change, check, verdict, words) in [
        (json!({"Driver": "vfs"}), "storage driver", "warning", "vfs"),
        (json!({"Driver": "devicemapper"}), "storage driver", "warning", "devicemapper"),
        (json!({"CgroupDriver": "none"}), "cgroup", "failure", "no limits"),
        (
            json!({"Warnings": ["WARNING: No swap limit support"]}),
            "cgroup",
            "warning",
            "No swap limit support",
        ),
        (json!({"Warnings": null}), "cgroup", "ok", "v"),
    ] {
        let proxy = info(change);
        node.set("DOCKER_HOST", proxy.engine().host()).finds(check, verdict, words);
    }
    let broken = EngineProxy::start(engine(), "1.41", |request| {
        request.ends_with("/info").then(|| Passage::Answer(500, "{\"message\":\"broken\"}".into()))
    });
    node.set("DOCKER_HOST", broken.engine().host()).finds("engine info", "failure", "broken");
}

#[test]
fn faults_of_the_machine() {
    let mut node = Node::new(NOBODY);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    node.set("HEALTH_ADDR", &taken.local_addr().unwrap().to_string());
    node.finds("health port", "failure", "taken by another program");
    node.set("HEALTH_ADDR", "192.0.2.1:80").set("ALLOW_INSECURE", "1");
    node.finds("health port", "failure", "192.0.2.1:80");

    let file = node.file("file", "", 0o644);
    node.set("DATA_DIR", &file).finds("data directory", "failure", "no directory");
    let open = node.dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    node.set("DATA_DIR", open.to_str().unwrap()).finds("data directory", "warning", "everybody");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o711)).unwrap();
    node.finds("data directory", "ok", "mode 0711");
    node.as_nobody().finds("data directory", "failure", "user 65534 cannot write");
    let missing = node.dir.path().join("missing/data").to_str().unwrap().to_owned();
    node.set("DATA_DIR", &missing).finds("data directory", "failure", "cannot be made in");

    // A file system of its own, in a mount namespace of its own.
    let small = open.to_str().unwrap().to_owned();
    for (size, verdict) in [("2m", "failure"), ("500m", "warning"), ("4g", "ok")] {
        let mut node = Node::new(NOBODY);
        let script = r#"mount -t tmpfs -o size="$0" longshore "$1" && shift && exec "$@""#;
        node.through = ["unshare", "-m", "sh", "-c", script, size, &small].map(str::to_owned).into();
        node.set("DATA_DIR", &small).finds("disk space", verdict, "MiB free");
    }
    // Without /proc and cgroups.
    let mut node = Node::new(NOBODY);
    let script = r#"mount -t tmpfs none /sys && mount -t tmpfs none /proc && exec "$0" "$@""#;
    node.through = ["unshare", "-m", "sh", "-c", script].map(str::to_owned).into();
    node.finds("kernel", "warning", "without /proc");
    node.finds("kernel", "warning", "/sys/fs/cgroup");
}
