//! The built Agent and its configuration: what it refuses and in which words, what wins over what, and what it shows.

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use support::*;
use tempfile::TempDir;

const SECRET: &str = "hunter2-hunter2-hunter2";

/// A directory with a secret file, and the smallest configuration that is complete.
struct Setup {
    dir: TempDir,
}

impl Setup {
    fn new() -> Setup {
        let setup = Setup { dir: tempfile::tempdir().unwrap() };
        setup.file("secret", SECRET, 0o600);
        setup
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs the Agent to its end with these arguments and this environment; an empty value leaves a key out.
    fn run(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-agent"));
        command.env_clear().args(args);
        let (secret, data) = (self.path("secret"), self.path("data"));
        let usual = [
            ("PANEL_URL", "ws://127.0.0.1:1/agent"),
            ("NODE_ID", "node-1"),
            ("AGENT_SECRET_FILE", secret.as_str()),
            ("DATA_DIR", data.as_str()),
            ("HEALTH_ADDR", "127.0.0.1:0"),
        ];
        let chosen = |name: &str| environment.iter().find(|(have, _)| have.eq_ignore_ascii_case(name));
        let usual = usual.into_iter().filter(|(name, _)| chosen(name).is_none());
        command.envs(usual.chain(environment.iter().copied()).filter(|(_, value)| !value.is_empty()));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let (ended_tx, ended) = channel::<()>();
        // One that accepts what it should refuse would run on.
        let watch = thread::spawn(move || {
            if ended.recv_timeout(SOON) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::TERM);
            }
        });
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        drop(ended_tx);
        watch.join().unwrap();
        Output { status: child.wait().unwrap(), stdout, stderr }
    }

    /// What `config` prints.
    fn shown(&self, args: &[&str], environment: &[(&str, &str)]) -> String {
        let output = self.run(&[&["config"], args].concat(), environment);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The one line on standard error, after the program's name.
#[track_caller]
fn refusal(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let line = told.strip_suffix('\n').unwrap_or(&told);
    assert!(!line.contains('\n'), "one line is wanted: {told}");
    assert!(!told.contains("hunter2"), "{told}");
    line.strip_prefix("longshore-agent: ").unwrap_or_else(|| panic!("no name in {told:?}")).to_owned()
}

#[test]
fn a_wrong_value_is_one_line_with_the_key_the_value_and_what_is_expected() {
    let setup = Setup::new();
    let missing = setup.path("missing");
    let no_pem = setup.file("no.pem", "nothing", 0o644).to_str().unwrap().to_owned();
    for (key, value, expected) in [
        ("PANEL_URL", "", "not set"),
        ("PANEL_URL", "http://panel", "ws:// or wss://"),
        ("PANEL_URL", "wss://", "host"),
        ("PANEL_URL", "wss://panel:0/", "port"),
        ("PANEL_URL", "wss://panel:65536/", "port"),
        ("PANEL_URL", "wss://panel/#x", "#"),
        ("PANEL_URL", "wss://pa nel/", "host"),
        ("PANEL_URL", "ws://panel.example/", "ALLOW_INSECURE"),
        ("PANEL_URL", "ws://10.0.0.1/", "ALLOW_INSECURE"),
        ("PANEL_URL", "ws://localhost.example/", "ALLOW_INSECURE"),
        ("NODE_ID", "a b", "A-Z a-z 0-9"),
        ("NODE_ID", ".a", "A-Z a-z 0-9"),
        ("NODE_ID", "../../etc", "A-Z a-z 0-9"),
        ("AGENT_SECRET_FILE", "", "not set"),
        ("AGENT_SECRET_FILE", "secret", "absolute path"),
        ("AGENT_SECRET_FILE", &missing, "cannot be opened"),
        ("HEALTH_ADDR", "8081", "127.0.0.1:8081"),
        ("HEALTH_ADDR", "localhost:8081", "127.0.0.1:8081"),
        ("HEALTH_ADDR", "0.0.0.0:8081", "ALLOW_INSECURE"),
        ("HEALTH_ADDR", "[::]:8081", "ALLOW_INSECURE"),
        ("HEALTH_ADDR", "192.0.2.1:8081", "ALLOW_INSECURE"),
        ("HEALTH_PORT", "65536", "0 to 65535"),
        ("HEALTH_PORT", "-1", "0 to 65535"),
        ("DATA_DIR", "data", "absolute path"),
        ("DOCKER_HOST", "/var/run/docker.sock", "unix://"),
        ("DOCKER_HOST", "ssh://host", "unix://"),
        ("DOCKER_HOST", "unix://docker.sock", "unix:///path"),
        ("DOCKER_CERT_PATH", &missing, "ca.pem"),
        ("DOCKER_API_VERSION", "new", "1.41"),
        ("REGISTRY_AUTH_FILE", "config.json", "absolute path"),
        ("SERVER_USER", "games", "uid:gid"),
        ("SERVER_USER", "1000", "uid:gid"),
        ("SERVER_USER", "1000:-1", "uid:gid"),
        ("SERVER_USER", "2147483648:1000", "uid:gid"),
        ("PROTOCOL", "Legacy", "auto, unified, legacy"),
        ("START_PARALLEL", "0", "1 to 64"),
        ("READY_TIMEOUT", "0", "1 to 3600"),
        ("READY_TIMEOUT", "5m", "1 to 3600"),
        ("WORKERS", "0", "1 to 64"),
        ("WORKERS", "65", "1 to 64"),
        ("WORKERS", "four", "1 to 64"),
        ("CA_FILE", "ca.pem", "absolute path"),
        ("CA_FILE", &missing, "PEM"),
        ("CA_FILE", &no_pem, "PEM"),
        ("ALLOW_INSECURE", "maybe", "1 or 0"),
        ("LOG_LEVEL", "loud", "error, warn, info, debug or trace"),
    ] {
        let mut environment = vec![(key, value)];
        match key {
            // Only then is it looked at.
            "HEALTH_PORT" => environment.push(("HEALTH_ADDR", "")),
            "DOCKER_CERT_PATH" => environment.push(("DOCKER_HOST", "tcp://127.0.0.1:1")),
            "CA_FILE" => environment.push(("PANEL_URL", "wss://127.0.0.1:1/")),
            _ => {}
        }
        let line = refusal(&setup.run(&[], &environment));
        assert!(line.starts_with(&format!("{key}: ")), "{key}={value}: {line}");
        assert!(value.is_empty() || line.contains(&format!("{value:?}")), "{key}={value}: {line}");
        assert!(line.contains(expected), "{key}={value}: {line}");
    }
    assert!(!Path::new(&setup.path("data")).exists(), "nothing was begun");
}

#[test]
fn a_value_that_holds_a_secret_is_never_shown() {
    let setup = Setup::new();
    let file = |name, text: &str| setup.file(name, text, 0o600).to_str().unwrap().to_owned();
    let no_file = ("AGENT_SECRET_FILE", "");
    let far = [("PANEL_URL", "ws://panel/"), ("ALLOW_INSECURE", "1")];
    for (environment, key) in [
        (vec![("AGENT_SECRET", "hunter2 with\u{7f}")], "AGENT_SECRET: "),
        (vec![("AGENT_SECRET", SECRET)], "AGENT_SECRET: "),
        (vec![("AGENT_SECRET", "hunter2\nhunter2"), no_file], "AGENT_SECRET: "),
        (vec![("AGENT_SECRET_FILE", &file("empty", ""))], "AGENT_SECRET_FILE: "),
        (vec![("AGENT_SECRET_FILE", &file("two", "hunter2\nhunter2"))], "AGENT_SECRET_FILE: "),
        (vec![("AGENT_SECRET_FILE", &file("long", &"hunter2".repeat(1000)))], "AGENT_SECRET_FILE: "),
        // The machine itself is never reached through a proxy.
        (vec![("HTTP_PROXY", "http://user:hunter2@"), far[0], far[1]], "HTTP_PROXY: "),
        (vec![("http_proxy", "ftp://user:hunter2@proxy"), far[0], far[1]], "HTTP_PROXY: "),
        (vec![("DOCKER_HOST", "tcp://user:hunter2@engine")], "DOCKER_HOST: "),
        (vec![("HTTPS_PROXY", "http://user:hunter2@proxy:x"), ("PANEL_URL", "wss://panel")], "HTTPS_PROXY: "),
        (vec![("PANEL_URL", "wss://user:hunter2@panel/")], "PANEL_URL: "),
        (vec![("PANEL_URL", "ws://panel/?token=hunter2")], "PANEL_URL: "),
    ] {
        let line = refusal(&setup.run(&[], &environment));
        assert!(line.starts_with(key), "{line}");
    }
    // A process list is public: no flag takes a secret.
    let line = refusal(&setup.run(&["--agent-secret", SECRET], &[]));
    assert!(line.starts_with("--agent-secret: unknown flag"), "{line}");
    refusal(&setup.run(&[&format!("--agent-secret={SECRET}")], &[]));

    let proxies = [("HTTPS_PROXY", "http://user:hunter2@proxy:3128"), ("HTTP_PROXY", "http://proxy:3128")];
    let panel =
        [("AGENT_SECRET", SECRET), ("AGENT_SECRET_FILE", ""), ("PANEL_URL", "wss://panel/?token=hunter2")];
    let shown = setup.shown(&[], &[&panel[..], &proxies].concat());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("AGENT_SECRET=<redacted>"), "{shown}");
    assert!(shown.contains("HTTP_PROXY=http://proxy:3128  # environment"), "{shown}");
    assert!(shown.contains("PANEL_URL=wss://panel/"), "{shown}");
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let setup = Setup::new();
    for (mode, refused) in
        [(0o600, false), (0o400, false), (0o640, false), (0o644, true), (0o604, true), (0o602, true)]
    {
        let path = setup.file("moded", SECRET, mode);
        let path = path.to_str().unwrap();
        let link = setup.path(&format!("link-{mode:o}"));
        symlink(path, &link).unwrap();
        for path in [path, &link] {
            let shown = setup.shown(&[], &[("AGENT_SECRET_FILE", path)]);
            assert_eq!(shown.contains("not usable: AGENT_SECRET_FILE"), refused, "{mode:o}: {shown}");
        }
        // A secret in the config file is as much of one.
        let config = setup.file("agent.env", &format!("AGENT_SECRET={SECRET}\n"), mode);
        let output =
            setup.run(&["config", "--config", config.to_str().unwrap()], &[("AGENT_SECRET_FILE", "")]);
        assert_eq!(output.status.code() == Some(2), refused, "{mode:o}: {output:?}");
        if refused {
            let line = refusal(&output);
            assert!(line.contains("AGENT_SECRET") && line.contains("0600"), "{line}");
        }
    }
    let open = setup.file("open.env", "NODE_ID=from-file\n", 0o644);
    let shown = setup.shown(&["--config", open.to_str().unwrap()], &[("NODE_ID", "")]);
    assert!(shown.contains("NODE_ID=from-file"), "a file without a secret may be open: {shown}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let setup = Setup::new();
    let text = "# a comment\n\n  WORKERS = 7 \nNODE_ID='from-file'\nPROTOCOL=\"legacy\"\nLOG_LEVEL=debug\r\n";
    let file = setup.file("agent.env", text, 0o600);
    let file = file.to_str().unwrap();
    let expects = |args: &[&str], environment: &[(&str, &str)], lines: &[&str]| {
        let shown = setup.shown(args, environment);
        for line in lines {
            assert!(shown.lines().any(|have| have == *line), "{line:?} is not in\n{shown}");
        }
    };
    let no_id = ("NODE_ID", "");
    expects(
        &["--config", file],
        &[no_id],
        &[
            "WORKERS=7  # config file",
            "NODE_ID=from-file  # config file",
            "PROTOCOL=legacy  # config file",
            "LOG_LEVEL=debug  # config file",
            "READY_TIMEOUT=300  # default",
            "# node from-file: this configuration is complete",
        ],
    );
    expects(&["--config", file], &[("NODE_ID", "from-env")], &["NODE_ID=from-env  # environment"]);
    expects(
        &["--config", file, "--node-id", "from-flag"],
        &[("NODE_ID", "from-env")],
        &["NODE_ID=from-flag  # flag"],
    );
    expects(&["--node-id=from-flag", "--workers", "2"], &[("WORKERS", "3")], &["WORKERS=2  # flag"]);
    // Set to nothing is not set.
    expects(&["--config", file], &[no_id, ("WORKERS", "")], &["WORKERS=7  # config file"]);
    // The small letters of a proxy's name win, as in curl.
    let both = [("HTTP_PROXY", "http://big:1"), ("http_proxy", "http://small:1")];
    expects(&[], &both, &["HTTP_PROXY=http://small:1  # environment"]);

    for (text, told) in [
        ("WORKRES=4\n", "line 1: unknown key \"WORKRES\""),
        ("\nNODE_ID node-1\n", "line 2: expected KEY=value"),
    ] {
        let file = setup.file("wrong.env", text, 0o600);
        let line = refusal(&setup.run(&["--config", file.to_str().unwrap()], &[]));
        assert!(line.contains(told), "{line}");
    }
    for (args, told) in [
        (&["--config", "/nowhere/agent.env"][..], "/nowhere/agent.env"),
        (&["--config"][..], "--config"),
        (&["--no-such-key", "x"][..], "--no-such-key: unknown flag"),
        (&["--node-id"][..], "--node-id"),
        (&["start"][..], "start"),
        (&["config", "config"][..], "config"),
    ] {
        let line = refusal(&setup.run(args, &[]));
        assert!(line.contains(told), "{args:?}: {line}");
    }
}

/// Which of two keys of one meaning counts is decided by where they come from first.
#[test]
fn the_health_port_of_a_flag_wins_over_the_address_of_the_environment() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let setup = Setup::new();
    // Both would listen; where it does is told by the failure.
    let output = setup.run(&["--health-port", &port], &[("HEALTH_ADDR", "127.0.0.1:0")]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("127.0.0.1:{port}")), "{told}");
}

#[test]
fn what_is_asked_of_the_program_itself_is_answered() {
    let setup = Setup::new();
    for flag in ["--version", "-V"] {
        let output = setup.run(&[flag], &[]);
        let expected = format!("longshore-agent {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
            (Some(0), expected.as_str())
        );
    }
    let help = setup.run(&["--help"], &[("PANEL_URL", "nonsense")]);
    let text = String::from_utf8(help.stdout).unwrap();
    assert_eq!(help.status.code(), Some(0));
    for key in longshore::agent::config::KEYS {
        assert!(text.contains(key.name), "--help does not tell of {}", key.name);
    }
    // An incomplete configuration is shown too, with what is missing.
    let shown = setup.shown(&[], &[("PANEL_URL", "")]);
    assert!(shown.contains("# not usable: PANEL_URL: not set"), "{shown}");
}

#[test]
fn clear_text_beyond_loopback_is_allowed_on_demand_and_told() {
    let setup = Setup::new();
    for (url, allowed) in [
        ("ws://localhost:1/", true),
        ("ws://a.localhost:1/", true),
        ("ws://127.8.9.1:1/", true),
        ("ws://[::1]:1/", true),
        ("ws://192.0.2.1/", false),
        ("wss://192.0.2.1/", true),
    ] {
        let complete = |insecure| {
            setup.shown(&[], &[("PANEL_URL", url), ("ALLOW_INSECURE", insecure)]).contains("is complete")
        };
        assert_eq!((complete(""), complete("0"), complete("1")), (allowed, allowed, true), "{url}");
    }
    let panel = FakePanel::start();
    let mut agent = AgentProcess::prepare(
        "ws://192.0.2.1/",
        engine(),
        &[("ALLOW_INSECURE", "1"), ("HEALTH_ADDR", "0.0.0.0:0")],
    );
    agent.start_again();
    let warning = agent.wait_log("in clear");
    assert!(warning.contains("WARN"), "{warning}");
    drop(panel);
}
