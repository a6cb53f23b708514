//! The owner's policy against a Panel that asks for more, on a real Engine: in every dialect, on every way that a spec comes
//! in, over a SIGHUP and over restarts. What is refused changes nothing.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::*;
use tempfile::TempDir;

/// A policy in a directory of its own.
struct Rules {
    dir: TempDir,
}

impl Rules {
    fn new(text: &str) -> Rules {
        let rules = Rules { dir: tempfile::tempdir().unwrap() };
        rules.write(text);
        rules
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("policy.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn agent(&self, panel: &FakePanel) -> AgentProcess {
        AgentProcess::start_with(panel, engine(), &[("POLICY_FILE", self.path().to_str().unwrap())])
    }

    /// Writes other rules and has the Agent take them.
    fn change(&self, agent: &AgentProcess, text: &str) {
        self.write(text);
        let taken = "the policy was read again";
        let before = agent.log().iter().filter(|line| line.contains(taken)).count();
        agent.signal(Signal::HUP);
        agent.wait_log_count(taken, before + 1);
    }
}

#[track_caller]
fn refused(response: &Value, rule: &str, field: &str) {
    assert_eq!(code(response), "PERMISSION_DENIED", "{response}");
    let message = response["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("(policy: {rule})")), "{message}");
    assert!(field.is_empty() || message.starts_with(&format!("{field}: ")), "{message}");
}

/// Waits for a response to `id`, counted from 1.
fn nth_response(link: &Connection, id: &str, number: usize) -> Value {
    let mut seen = 0;
    link.wait(&format!("response {number} to {id}"), |found| match found {
        Seen::Json(message) if message["type"] == "response" && message["id"] == id => {
            seen += 1;
            (seen == number).then(|| message.clone())
        }
        _ => None,
    })
}

/// The status messages that the Panel was told.
fn told(link: &Connection) -> usize {
    link.messages().iter().filter(|message| message["event"] == "server_status_changed").count()
}

const RULES: &str = "
images = ['longshore/*']
ports = ['25000-25100']
mounts = ['/home/container']
users = ['1000:1000']
capabilities = []

[limits]
memory = '64m'
pids = 512
";

#[test]
fn what_the_owner_forbids_is_refused_in_every_dialect_and_changes_nothing() {
    let (panel, rules) = (FakePanel::start(), Rules::new(RULES));
    let agent = rules.agent(&panel);
    let link = panel.accept();
    let cases = [
        (json!({"image": "debian:12"}), "images", "image"),
        (json!({"image": "ghcr.io/longshore/demo"}), "images", "image"),
        (json!({"ports": [{"internal": 1, "external": 22}]}), "ports", "ports[0].external"),
        (json!({"ports": {"25000": 80}}), "ports", "ports.25000/tcp"),
        (json!({"limits": {"memory": "65m"}}), "limits.memory", "limits.memory"),
        (json!({"limits": {"memory": 0}}), "limits.memory", "limits.memory"),
        (json!({"limits": {"pids": 513}}), "limits.pids", "limits.pids"),
        (json!({"mountPath": "/data"}), "mounts", "mountPath"),
        (json!({"user": "image"}), "users", "user"),
        (json!({"capabilities": ["FOWNER"]}), "capabilities", "capabilities[0]"),
    ];
    link.must("create_server", "good", demo(json!({"ports": {"25000": 25099}})));
    let before = engine().inspect(&agent.container("good"));
    let spec_file = agent.data_dir.join("state");
    let stored = || {
        let mut files: Vec<_> =
            fs::read_dir(&spec_file).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| (fs::read(&path).ok(), path)).collect::<Vec<_>>()
    };
    let (records, events) = (stored(), told(&link));
    for (extra, rule, field) in &cases {
        refused(&link.call("create_server", "bad", demo(extra.clone())), rule, field);
        refused(&link.call("create_server", "bad", json!({"eggConfig": demo(extra.clone())})), rule, field);
        let id = unique_name();
        let mut data = demo(extra.clone());
        data["serverId"] = "bad".into();
        link.send(&json!({"type": "server_create", "data": data, "messageId": id}));
        let error = link.wait_json("error", |message| message["messageId"] == *id);
        assert_eq!((&error["type"], &error["data"]["code"]), (&json!("error"), &json!("PERMISSION_DENIED")));
        let answer = agent
            .http(&json!({"action": "create_server", "serverId": "bad", "payload": demo(extra.clone())}));
        assert_eq!(
            (&answer["success"], &answer["code"]),
            (&json!(false), &json!("PERMISSION_DENIED")),
            "{answer}"
        );
        assert!(answer["error"].as_str().unwrap().contains(&format!("(policy: {rule})")), "{answer}");
        refused(&link.call("update_server", "good", extra.clone()), rule, field);
    }
    // A repeat is answered again, and taken once the owner allows it.
    let again = json!({"id": "same", "type": "command", "action": "create_server", "serverId": "later",
                       "payload": demo(json!({"mountPath": "/data"}))});
    for count in 1..=2 {
        link.send(&again);
        assert_eq!(code(&nth_response(&link, "same", count)), "PERMISSION_DENIED");
    }
    assert_eq!(link.must("list_servers", "", json!({}))["count"], 1);
    assert_eq!((stored(), told(&link)), (records, events));
    assert_eq!(engine().inspect(&agent.container("good")), before);
    assert_eq!(engine().list(&format!("longshore.node={}", agent.node_id)).len(), 1);
    for server in ["bad", "later"] {
        assert!(!agent.data_dir.join("servers").join(server).exists());
    }
    rules.change(&agent, "");
    link.send(&again);
    assert_eq!(nth_response(&link, "same", 3)["success"], true);
}

#[test]
fn a_stored_spec_is_not_started_once_the_policy_is_stricter() {
    let (panel, rules) = (FakePanel::start(), Rules::new(""));
    let mut agent = rules.agent(&panel);
    let link = panel.accept();
    for server in ["rests", "runs", "crashes"] {
        let extra = json!({"ports": [], "limits": {"memory": "64m"}, "mountPath": "/data"});
        link.must("create_server", server, demo(extra));
    }
    link.must("start_server", "runs", json!({}));
    link.must("start_server", "crashes", json!({}));
    engine().wait_output(&agent.container("runs"), "Demo server ready");
    engine().wait_output(&agent.container("crashes"), "Demo server ready");
    rules.change(&agent, "mounts = ['/home/container']");

    refused(&link.call("start_server", "rests", json!({})), "mounts", "mountPath");
    refused(&link.call("restart_server", "runs", json!({})), "mounts", "mountPath");
    refused(
        &link.call("docker.start", "", json!({"containerId": agent.container("rests")})),
        "mounts",
        "mountPath",
    );
    let id = unique_name();
    link.send(&json!({"type": "server_start", "data": {"serverId": "rests"}, "messageId": id}));
    let error = link.wait_json("error", |message| message["messageId"] == *id);
    assert_eq!(error["data"]["code"], "PERMISSION_DENIED");
    assert_eq!(engine().state(&agent.container("runs")), "running", "what runs runs on");
    assert_eq!(engine().state(&agent.container("rests")), "created");

    // The Agent's own start after a crash: not tried, and given up at once.
    link.must("send_server_command", "crashes", json!({"command": "crash"}));
    let gave_up = |data: &Value| data["serverId"] == "crashes" && data["reason"] == "gave_up";
    link.wait_event("server_status_changed", gave_up);
    assert_eq!(link.must("get_status", "crashes", json!({}))["status"], "crashed");
    assert_eq!(engine().state(&agent.container("crashes")), "exited");

    // And after a restart of the Agent while the server is down.
    assert_eq!(agent.terminate().code(), Some(0));
    engine().must("POST", &format!("/containers/{}/kill", agent.container("runs")), None);
    agent.start_again();
    let link = panel.accept();
    link.wait_event("server_status_changed", |data| {
        data["serverId"] == "runs" && data["reason"] == "gave_up"
    });
    assert_eq!(engine().state(&agent.container("runs")), "exited");

    // Other fields may still be changed, and so may the one that is in the way.
    link.must("update_server", "rests", json!({"name": "n", "environment": {"A": "1"}}));
    refused(&link.call("update_server", "rests", json!({"mountPath": "/srv/x"})), "mounts", "mountPath");
    link.must("update_server", "rests", json!({"mountPath": null}));
    link.must("start_server", "rests", json!({}));
}

#[test]
fn features_are_switched_off_and_the_number_of_commands_is_bounded() {
    let features = "[features]\nfiles = false\nmods = false\nconsole-input = false\ndelete = false";
    let (panel, rules) = (FakePanel::start(), Rules::new(features));
    let agent = rules.agent(&panel);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({})));
    link.must("start_server", "s", json!({}));
    for (action, payload, rule) in [
        ("list_files", json!({}), "features.files"),
        ("read_file", json!({"path": "world.txt"}), "features.files"),
        ("write_file", json!({"path": "a", "content": "x"}), "features.files"),
        ("delete_file", json!({"path": "a"}), "features.files"),
        (
            "create_archive",
            json!({"files": ["a"], "archivePath": "a.zip", "format": "zip"}),
            "features.files",
        ),
        ("extract_archive", json!({"archivePath": "a.zip"}), "features.files"),
        ("list_mods", json!({}), "features.mods"),
        ("install_mod", json!({"modId": "m", "modUrl": "https://example.com/m.jar"}), "features.mods"),
        ("send_server_command", json!({"command": "stop"}), "features.console-input"),
        ("console:input", json!({"input": "x"}), "features.console-input"),
        ("console:interrupt", json!({}), "features.console-input"),
        ("delete_server", json!({}), "features.delete"),
        ("delete_server", json!({"removeData": true}), "features.delete"),
    ] {
        refused(&link.call(action, "s", payload), rule, "");
    }
    refused(
        &link.call("docker.remove", "", json!({"containerId": agent.container("s")})),
        "features.delete",
        "",
    );
    // What only looks at the console is no input.
    link.must("console:history", "s", json!({}));
    link.must("stop_server", "s", json!({"timeout": 0}));
    rules.change(&agent, "features.create = false");
    refused(&link.call("create_server", "t", demo(json!({}))), "features.create", "");
    link.must("delete_server", "s", json!({"removeData": true}));

    rules.change(&agent, "commands-per-minute = 20");
    let responses: Vec<Value> = (0..60).map(|_| link.call("system.ping", "", json!({}))).collect();
    let taken = responses.iter().filter(|response| response["success"] == true).count();
    assert!((20..55).contains(&taken), "{taken}: those at once, and what a slow minute adds");
    refused(
        responses.iter().find(|response| response["success"] == false).unwrap(),
        "commands-per-minute",
        "",
    );
    let answer = agent.http(&json!({"action": "system.ping"}));
    assert_eq!(answer["code"], "PERMISSION_DENIED", "one count for every side: {answer}");
}

#[test]
fn a_wrong_policy_is_never_taken_in_part() {
    let panel = FakePanel::start();
    let rules = Rules::new("features.create = false\nimages = 'debian'\n");
    let path = rules.path();
    let mut agent = AgentProcess::prepare(&panel.url(), engine(), &[("POLICY_FILE", path.to_str().unwrap())]);
    let mut start = |part: &str| {
        agent.start_again();
        assert_eq!(agent.wait(SOON).code(), Some(2));
        let line = agent.log().last().cloned().unwrap_or_default();
        assert!(line.contains(part) && line.contains(path.to_str().unwrap()), "{part}: {line}");
    };
    start("line 2: images: ");
    rules.write("imges = []");
    start("line 1: imges: ");
    rules.write("images = [");
    start("line 1");
    fs::write(&path, b"images = ['\xff']").unwrap();
    start("cannot be read");
    rules.write("");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    start("others may write it (mode 0666)");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    chown(&path, Some(1234), Some(1234)).unwrap();
    start("belongs to user 1234");
    chown(&path, Some(0), Some(0)).unwrap();
    fs::set_permissions(rules.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    start("its directory: others may write it");
    fs::set_permissions(rules.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(&path).unwrap();
    start("cannot be opened");

    // With one that is right it starts; a wrong one later leaves it as it is, and is told.
    rules.write("features.create = false");
    agent.start_again();
    let link = panel.accept();
    rules.write("features.create = true\nports = ['x']");
    agent.signal(Signal::HUP);
    agent.wait_log("so the one before holds on");
    let (_, health) = agent.wait_health("the fault", |health| health["policyFault"].is_string());
    assert!(health["policyFault"].as_str().unwrap().contains("line 2: ports: "), "{health}");
    refused(&link.call("create_server", "t", demo(json!({}))), "features.create", "");
    rules.change(&agent, "features.create = true");
    agent.wait_health("no fault", |health| health["policyFault"].is_null());
    link.must("create_server", "t", demo(json!({})));
}

#[test]
fn policy_check_explains_and_judges() {
    let rules = Rules::new(RULES);
    let check = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-agent"));
        command.env_clear().env("POLICY_FILE", rules.path()).args(["policy", "check"]).args(more);
        let output = command.output().unwrap();
        let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), told)
    };
    let (code, told) = check(&[]);
    assert_eq!(code, 0, "{told}");
    for line in [
        "images: longshore/*",
        "ports: published is 25000-25100",
        "limits.memory: at most 64 MiB for each server, and not unlimited",
        "users: SERVER_USER, or 1000:1000",
        "capabilities: added is none",
    ] {
        assert!(told.lines().any(|have| have == line), "{line}:\n{told}");
    }
    let spec = |value: Value| {
        let path = rules.dir.path().join("spec.json");
        fs::write(&path, value.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    assert_eq!(check(&[&spec(demo(json!({})))]), (0, "allowed\n".into()));
    let (code, told) = check(&[&spec(
        json!({"action": "create_server", "payload": demo(json!({"image": "x", "user": "0:0"}))}),
    )]);
    assert_eq!((code, told.lines().count()), (1, 2), "{told}");
    assert!(
        told.contains("image: ") && told.contains("(policy: images)") && told.contains("(policy: users)"),
        "{told}"
    );
    assert_eq!(check(&[&spec(json!({"image": 1}))]).0, 1);
    let (code, told) = check(&["/nonexistent/spec.json"]);
    assert!(code == 2 && told.contains("/nonexistent/spec.json"), "{told}");
    rules.write("digests-only = 3");
    let (code, told) = check(&[]);
    assert!(code == 2 && told.contains("line 1: digests-only: expected true or false"), "{told}");
    assert!(
        !Path::new("/etc/longshore/policy.toml").exists(),
        "no other test may be ruled by this machine's owner"
    );
}

#[test]
fn an_older_panel_commands_again_once_its_owner_says_so() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.send(&json!({"type": "hello", "epoch": 8}));
    link.must("create_server", "s", demo(json!({})));
    link.cut();
    let link = panel.accept();
    link.send(&json!({"type": "hello", "epoch": 7}));
    assert_eq!(code(&link.call("start_server", "s", json!({}))), "WRONG_EPOCH");
    let reset = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-agent"));
        command.env_clear().env("DATA_DIR", &agent.data_dir).args(["policy", "reset-epoch"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(reset().starts_with("epoch 8 is forgotten"));
    // The Agent runs on and looks once a second while it refuses.
    let begun = std::time::Instant::now();
    while code(&link.call("start_server", "s", json!({}))) == "WRONG_EPOCH" {
        assert!(begun.elapsed() < SOON, "the Agent never saw that the epoch was cleared");
    }
    assert_eq!(engine().state(&agent.container("s")), "running");
    // It is this Panel's node now, over a restart, and a newer one's as ever.
    assert_eq!(agent.terminate().code(), Some(0));
    agent.start_again();
    let link = panel.accept();
    assert_eq!(code(&link.call("stop_server", "s", json!({}))), "WRONG_EPOCH");
    link.send(&json!({"type": "hello", "epoch": 7}));
    link.must("stop_server", "s", json!({"timeout": 0}));
}
