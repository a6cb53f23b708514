//! Failures of the Engine, provoked for real: each reaches the Panel as a code and a plain sentence, with nothing of the
//! machine's inside in it, while the log has the full cause under the command's id.

mod support;

use std::net::TcpListener;

use serde_json::{Value, json};
use support::*;

/// A value that must not come back in any message.
const ENV_VALUE: &str = "hunter2-of-the-environment";

/// Panics when a message to the Panel holds what is nobody's business there.
fn is_discreet(agent: &AgentProcess, link: &Connection, more: &[&str]) {
    let data_dir = agent.data_dir.to_str().expect("a readable path");
    let inside = [
        ENV_VALUE,
        &agent.secret,
        data_dir,
        "/var/",
        "/run/",
        "/home/",
        "/proc/",
        "127.0.0.1",
        ".sock",
        "overlay",
        "runc",
        "OCI",
        "dial tcp",
        "http://",
        "Error {",
        "Os {",
        "Status {",
    ];
    for message in link.messages() {
        // The node's description and a server's own spec are meant to be told.
        if message["type"] == "system_info" || message["success"] == true {
            continue;
        }
        let text = message.to_string();
        let found = inside.iter().chain(more).find(|inside| text.contains(**inside));
        assert_eq!(found, None, "in {text}");
    }
}

/// A command that has to fail with this code; its message must hold `says`, and the log `cause` under its id.
fn fails(
    (agent, link): (&AgentProcess, &Connection),
    (action, server, payload): (&str, &str, Value),
    expected: &str,
    says: &str,
    cause: &str,
) {
    let id = link.command(action, server, payload);
    let response = link.response(&id);
    assert_eq!(code(&response), expected, "{action} of {server}: {response}");
    let message = response["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(says) && message.ends_with('.'), "{action} of {server}: {message}");
    assert!(agent.has_logged(&format!("{id}: "), cause), "{action} of {server}: no {cause:?} under {id}");
}

fn demo_with_secret(extra: Value) -> Value {
    let mut spec = demo(extra);
    spec["environment"]["TOKEN"] = ENV_VALUE.into();
    spec
}

#[test]
fn an_image_that_cannot_be_had() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let registry = Registry::start("user:password");
    let open = Registry::start("");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let image = |registry: &Registry, image| registry.image(image, &agent.node_id);
    for (image, code, says, cause) in [
        (format!("{nobody}/x:1"), "IMAGE_PULL_FAILED", "reach", "connection refused"),
        ("no-such-registry.invalid/x:1".into(), "IMAGE_PULL_FAILED", "reach", "no-such-registry.invalid"),
        (format!("{}/nothing:1", open.host()), "IMAGE_NOT_FOUND", "name", "manifest unknown"),
        (image(&registry, Image::Private), "IMAGE_PULL_FAILED", "login", "basic auth"),
        (image(&open, Image::Damaged), "IMAGE_PULL_FAILED", "damaged", "verification failed"),
        (image(&open, Image::WithoutLayer), "IMAGE_PULL_FAILED", "damaged", "unknown"),
    ] {
        let command = ("create_server", "s", demo_with_secret(json!({"image": image})));
        fails((&agent, &link), command, code, says, cause);
    }
    assert_eq!(link.must("list_servers", "", json!({}))["count"], 0, "nothing was made");
    assert!(!agent.data_dir.join("servers/s").exists());
    is_discreet(&agent, &link, &[]);
}

#[test]
fn what_the_engine_refuses_on_create_and_start() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let door = (&agent, &link);
    let none = || json!({});
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let with_port = |port: u16, ip: &str| json!({"ports": [{"internal": 80, "external": port, "ip": ip}], "restart": "never"});

    let greedy = demo_with_secret(json!({"limits": {"cpu": "1000"}}));
    fails(door, ("create_server", "cpu", greedy), "INSUFFICIENT_RESOURCES", "cpu limit", "Range of CPUs");
    // In use by a program of the node, by another container, and at an address that the node does not have.
    link.must("create_server", "host", demo_with_secret(with_port(port, "127.0.0.1")));
    fails(door, ("start_server", "host", none()), "PORT_CONFLICT", "in use", "address already in use");
    drop(taken);
    link.must("start_server", "host", none());
    link.must("create_server", "twice", demo_with_secret(with_port(port, "127.0.0.1")));
    fails(door, ("start_server", "twice", none()), "PORT_CONFLICT", "in use", "port is already allocated");
    link.must("create_server", "nowhere", demo_with_secret(with_port(0x7fff, "203.0.113.7")));
    fails(
        door,
        ("start_server", "nowhere", none()),
        "PORT_CONFLICT",
        "address",
        "cannot assign requested address",
    );

    // A command that is not there: told by the container's own first process.
    for (server, startup, exit_code) in
        [("missing", json!(["/nothing"]), "127"), ("directory", json!(["/bin"]), "126")]
    {
        link.must("create_server", server, demo_with_secret(json!({"startup": startup, "restart": "never"})));
        link.command("start_server", server, none());
        let crash = link.wait_event("server_status_changed", |data| {
            data["serverId"] == server && data["currentStatus"] == "crashed"
        });
        assert_eq!(crash["data"]["exitCode"].to_string(), exit_code);
    }
    let over = demo_with_secret(json!({"mountPath": "/demo-server", "restart": "never"}));
    link.must("create_server", "over", over);
    fails(door, ("start_server", "over", none()), "DOCKER_ERROR", "mountPath", "not a directory");
    for server in ["host", "twice", "nowhere", "over"] {
        let expected = if server == "host" { "running" } else { "created" };
        assert_eq!(link.must("get_status", server, none())["status"], expected, "{server}");
    }

    // A limit that the running server does not fit in, and one that no node has.
    fails(
        door,
        ("update_server", "host", json!({"limits": {"cpu": "1000"}})),
        "INSUFFICIENT_RESOURCES",
        "cpu limit",
        "Range of CPUs",
    );
    let kept = engine().inspect(&agent.container("host")).unwrap()["HostConfig"]["NanoCpus"].clone();
    assert_eq!(kept, 0, "nothing was changed");
    let hoard = json!({"startup": ["/demo-server", "alloc", "32"], "restart": "never"});
    link.must("create_server", "hoard", demo_with_secret(hoard));
    link.must("start_server", "hoard", none());
    engine().wait_output(&agent.container("hoard"), "Demo server ready");
    fails(
        door,
        ("update_server", "hoard", json!({"limits": {"memory": "8m"}})),
        "INSUFFICIENT_RESOURCES",
        "memory",
        "",
    );
    is_discreet(&agent, &link, &["203.0.113.7"]);
}

#[test]
fn an_image_whose_user_is_not_in_it() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let image = format!("longshore-test/{}:latest", agent.node_id);
    let name = agent.node_id.clone();
    engine().must("POST", &format!("/containers/create?name={name}"), Some(&json!({"Image": DEMO_IMAGE})));
    let (repo, tag) = image.split_once(':').unwrap();
    let change = format!("/commit?container={name}&repo={repo}&tag={tag}&changes=USER%20nobody-here");
    engine().must("POST", &change, Some(&json!({})));
    engine().remove(&name);
    let spec = demo_with_secret(json!({"image": image, "user": "image", "restart": "never"}));
    let created = link.call("create_server", "s", spec);
    let started = link.command("start_server", "s", json!({}));
    let response = link.response(&started);
    link.call("delete_server", "s", json!({}));
    engine().call("DELETE", &format!("/images/{image}?force=1"), None);
    assert_eq!(created["success"], true, "{created}");
    assert_eq!(code(&response), "DOCKER_ERROR", "{response}");
    let message = response["error"]["message"].as_str().unwrap();
    assert!(message.contains("user"), "{message}");
    assert!(agent.has_logged(&started, "unable to find user"));
    is_discreet(&agent, &link, &["nobody-here"]);
}

/// What a test cannot bring about on a healthy node, in the Engine's own words.
#[test]
fn what_only_a_sick_node_says() {
    let layer = "/var/lib/docker/overlay2/c5a2/merged";
    for (route, status, told, expected, says) in [
        ("/create", 500, format!("failed to mkdir {layer}: no space left on device"), "INSUFFICIENT_RESOURCES", "disk is full"),
        ("/create", 500, format!("open {layer}: disk quota exceeded"), "INSUFFICIENT_RESOURCES", "disk is full"),
        ("/create", 500, format!("mkdir {layer}: read-only file system"), "DOCKER_ERROR", "owner"),
        ("/create", 400, "invalid mount config for type \"bind\": bind source path does not exist: /srv/longshore/servers/s".into(), "DOCKER_ERROR", "files"),
        ("/start", 500, "OCI runtime create failed: runc: write /proc/self/attr: cannot allocate memory: unknown".into(), "INSUFFICIENT_RESOURCES", "memory"),
        ("/start", 400, "failed to create shim task: exec: \"/usr/bin/java\": stat /usr/bin/java: no such file or directory: unknown".into(), "DOCKER_ERROR", "start command"),
        ("/start", 400, "exec: \"./run.sh\": permission denied: unknown".into(), "DOCKER_ERROR", "start command"),
        ("/start", 500, "exec /bin/x: exec format error: unknown".into(), "DOCKER_ERROR", "start command"),
        ("/start", 409, "Container 0123 is marked for removal and cannot be started".into(), "CONFLICT", "Try again"),
        ("/start", 500, "something at 10.9.8.7 with TOKEN=x nobody has ever seen".into(), "DOCKER_ERROR", "owner"),
    ] {
        let panel = FakePanel::start();
        let text = json!({"message": told}).to_string();
        let proxy = EngineProxy::start(engine(), "1.41", move |line: &str| {
            (line.starts_with("POST") && line.contains(route)).then(|| Passage::Answer(status, text.clone()))
        });
        let agent = AgentProcess::start_with(&panel, proxy.engine(), &[]);
        let link = panel.accept();
        let spec = demo_with_secret(json!({"restart": "never"}));
        if route == "/create" {
            fails((&agent, &link), ("create_server", "s", spec), expected, says, &told);
            assert_eq!(link.must("list_servers", "", json!({}))["count"], 0, "nothing was made");
        } else {
            link.must("create_server", "s", spec);
            fails((&agent, &link), ("start_server", "s", json!({})), expected, says, &told);
        }
        is_discreet(&agent, &link, &["10.9.8.7", "/srv", "/usr", "TOKEN"]);
    }
}

#[test]
fn an_engine_that_is_away_is_told_as_such() {
    let panel = FakePanel::start();
    let dir = tempfile::tempdir().unwrap();
    let host = format!("unix://{}/docker.sock", dir.path().display());
    let agent = AgentProcess::start_with(&panel, engine(), &[("DOCKER_HOST", &host)]);
    let link = panel.accept();
    let create = ("create_server", "s", demo_with_secret(json!({})));
    fails(
        (&agent, &link),
        create,
        "DOCKER_UNAVAILABLE",
        "Docker on this node does not answer",
        "No such file",
    );
    is_discreet(&agent, &link, &[host.as_str()]);
}
