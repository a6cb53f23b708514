//! Section 2 of the contract on the built Agent: every response and every event of the unified dialect, field by
//! field, against a real Engine.

mod support;

use serde_json::{Value, json};
use support::*;

/// Sends a command that has to succeed and compares the whole response; `data` is what the contract promises.
fn answers(link: &Connection, action: &str, server: &str, payload: Value, data: Value) -> Value {
    let id = link.command(action, server, payload);
    let response = link.response(&id);
    let mut shape =
        json!({"id": id, "type": "response", "timestamp": "<time>", "success": true, "data": data});
    // A sentence comes with what was done, not with what was only looked at.
    if !action.starts_with("get_") && !matches!(action, "list_servers" | "docker.list" | "docker.inspect") {
        shape["message?"] = json!("<text>");
    }
    assert_shape(action, &response, &shape);
    response["data"].clone()
}

fn resources() -> Value {
    json!({
        "cpu": "<number>", "memory": {"used": "<whole>", "limit": "<whole>", "percentage": "<number>"},
        "network": {"rx": "<whole>", "tx": "<whole>"}, "disk": {"used": "<whole>"}, "pids": "<whole>",
    })
}

fn report(status: &str) -> Value {
    json!({
        "serverId": "s", "status": status, "containerId": "<id64>", "uptime": "<whole>", "exitCode?": "<whole>",
        "resources": resources(), "name": "Demo", "image": DEMO_IMAGE,
        "ports": [{"internal": 25565, "external": "<positive>", "protocol": "tcp"}],
    })
}

fn status(status: &str) -> Value {
    let mut shape = json!({"serverId": "s", "status": status, "containerId": "<id64>", "uptime": "<whole>"});
    shape["exitCode?"] = json!("<whole>");
    shape["resources"] = resources();
    shape["server"] = report(status);
    shape
}

fn metrics(servers: usize, running: usize) -> Value {
    let share = json!({"total": "<positive>", "used": "<positive>", "percentage": "<percent>"});
    json!({
        "cpu": "<percent>", "memory": share, "disk": share, "load": ["<number>", "<number>", "<number>"],
        "network": {"rx": "<whole>", "tx": "<whole>"}, "uptime": "<positive>",
        "servers": {"total": servers, "running": running},
    })
}

#[test]
fn every_response_has_the_fields_of_its_action() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let port = free_port();
    let spec = demo(json!({"name": "Demo", "ports": [{"internal": 25565, "external": port}]}));
    let none = || json!({});
    let done = |status: &str| json!({"serverId": "s", "status": status});
    let with = |status: &str, more: Value| {
        let mut data = done(status);
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        data
    };

    let made = answers(&link, "create_server", "s", spec, with("created", json!({"containerId": "<id64>"})));
    let name = agent.container("s");
    let container = engine().inspect(&name).expect("it was made");
    assert_eq!(made["containerId"], container["Id"]);
    let started = with("running", json!({"containerId": made["containerId"], "pid": "<positive>"}));
    let start = answers(&link, "start_server", "s", none(), started.clone());
    assert_eq!(start["pid"], engine().inspect(&name).unwrap()["State"]["Pid"]);
    answers(&link, "start_server", "s", none(), started.clone());

    let told = answers(&link, "get_status", "s", none(), status("running"));
    assert_eq!(
        (&told["containerId"], &told["server"]["ports"][0]["external"]),
        (&made["containerId"], &json!(port))
    );
    answers(&link, "get_server_status", "s", none(), status("running"));
    let all = json!({"servers": [report("running")], "count": 1});
    answers(&link, "list_servers", "", none(), all.clone());
    answers(&link, "docker.list", "", none(), all);
    answers(&link, "get_system_metrics", "", none(), metrics(1, 1));
    answers(&link, "system.status", "", none(), metrics(1, 1));
    answers(&link, "system.ping", "", none(), json!({"message": "pong", "timestamp": "<time>"}));

    let update = json!({"limits": {"memory": "96m"}, "environment": {"QUIET": "1", "NEW": "x"}});
    let updated = answers(
        &link,
        "update_server",
        "s",
        update,
        with("running", json!({"applied": ["limits.memory"], "needsRestart": true})),
    );
    assert_eq!(engine().inspect(&name).unwrap()["HostConfig"]["Memory"], 96 << 20, "{updated}");
    answers(&link, "restart_server", "s", json!({"timeout": 5}), done("running"));
    let environment = engine().inspect(&name).unwrap()["Config"]["Env"].clone();
    assert!(environment.as_array().unwrap().contains(&json!("NEW=x")), "{environment}");

    let stopped = with("stopped", json!({"exitCode": 0, "killed": false}));
    answers(&link, "stop_server", "s", json!({"signal": "SIGINT"}), stopped.clone());
    answers(&link, "stop_server", "s", none(), stopped);
    let told = answers(&link, "get_status", "s", none(), status("stopped"));
    assert_eq!((&told["exitCode"], &told["uptime"]), (&json!(0), &json!(0)));
    answers(&link, "kill_server", "s", none(), with("stopped", json!({"exitCode": 0})));

    answers(
        &link,
        "docker.start",
        "",
        json!({"containerId": name}),
        with("running", json!({"containerId": "<id64>", "pid": "<positive>"})),
    );
    let id = engine().inspect(&name).unwrap()["Id"].as_str().unwrap().to_owned();
    for container in [id.as_str(), &id[..12], &name, &format!("/{name}")] {
        answers(&link, "docker.inspect", "", json!({"containerId": container}), status("running"));
    }
    let stopped = with("stopped", json!({"exitCode": 0, "killed": false}));
    engine().wait_output(&name, "Demo server ready");
    answers(&link, "docker.stop", "", json!({"containerId": &id[..12]}), stopped);
    link.must("start_server", "s", none());
    answers(&link, "kill_server", "s", none(), with("stopped", json!({"exitCode": 137})));
    answers(&link, "suspend_server", "s", none(), done("suspended"));
    answers(&link, "unsuspend_server", "s", none(), done("stopped"));
    answers(&link, "docker.remove", "", json!({"containerId": name}), done("deleted"));
    link.must("create_server", "s", demo(json!({"keepData": true})));
    answers(&link, "delete_server", "s", json!({"removeData": true}), done("deleted"));
    answers(&link, "list_servers", "", none(), json!({"servers": [], "count": 0}));
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_envelope_is_echoed_and_forgiving() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let long = "x".repeat(128);
    let check = |message: Value, shape: Value| {
        let mark = link.mark();
        link.send(&message);
        let found = link.wait_from(mark, SOON, "response", |seen| match seen {
            Seen::Json(message) if message["type"] == "response" => Some(message.clone()),
            _ => None,
        });
        assert_shape(&message.to_string(), &found, &shape);
    };
    let pong = |id: Option<&str>| {
        let data = json!({"message": "pong", "timestamp": "<time>"});
        let mut shape = json!({"type": "response", "timestamp": "<time>", "success": true, "data": data});
        id.into_iter().for_each(|id| shape["id"] = id.into());
        shape
    };
    let ping = |more: Value| {
        let mut message = json!({"type": "command", "action": "system.ping"});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        message
    };
    check(ping(json!({})), pong(None));
    check(ping(json!({"id": null})), pong(None));
    check(ping(json!({"id": ""})), pong(Some("")));
    check(ping(json!({"id": long})), pong(Some(&long)));
    check(ping(json!({"id": "a\"\u{7}\u{1f600}"})), pong(Some("a\"\u{7}\u{1f600}")));
    check(ping(json!({"id": "1", "agentId": agent.node_id, "timestamp": "yesterday"})), pong(Some("1")));
    check(
        ping(json!({"id": "2", "agentId": null, "timestamp": 7, "payload": null, "other": [1]})),
        pong(Some("2")),
    );

    let refused = |id: Option<&str>, code: &str| {
        let error = json!({"code": code, "message": "<text>"});
        let mut shape = json!({"type": "response", "timestamp": "<time>", "success": false, "error": error});
        id.into_iter().for_each(|id| shape["id"] = id.into());
        shape
    };
    for (message, id, code) in [
        (ping(json!({"id": "x".repeat(129)})), None, "INVALID_MESSAGE"),
        (ping(json!({"id": 7})), None, "INVALID_MESSAGE"),
        (ping(json!({"id": "3", "agentId": "another"})), Some("3"), "WRONG_AGENT"),
        (ping(json!({"id": "4", "agentId": 7})), Some("4"), "INVALID_MESSAGE"),
        (ping(json!({"id": "5", "action": null})), Some("5"), "INVALID_MESSAGE"),
        (ping(json!({"id": "6", "action": 6})), Some("6"), "INVALID_MESSAGE"),
        (ping(json!({"id": "7", "action": "make_coffee"})), Some("7"), "UNKNOWN_ACTION"),
        (ping(json!({"id": "8", "payload": "x"})), Some("8"), "INVALID_PAYLOAD"),
        (ping(json!({"id": "9", "action": "start_server"})), Some("9"), "INVALID_PAYLOAD"),
        (
            ping(json!({"id": "10", "action": "start_server", "serverId": "../x"})),
            Some("10"),
            "INVALID_PAYLOAD",
        ),
        (
            ping(json!({"id": "11", "action": "start_server", "serverId": "s"})),
            Some("11"),
            "SERVER_NOT_FOUND",
        ),
        (ping(json!({"id": "12", "action": "docker.stop"})), Some("12"), "INVALID_PAYLOAD"),
    ] {
        check(message, refused(id, code));
    }
}

#[test]
fn a_bad_payload_names_its_field_and_changes_nothing() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    for (action, payload, field) in [
        ("create_server", json!({}), "image"),
        ("create_server", demo(json!({"limits": {"memory": "much"}})), "limits.memory"),
        ("create_server", demo(json!({"limits": {"memory": "1b"}})), "limits.memory"),
        ("create_server", demo(json!({"limits": {"cpu": -1}})), "limits.cpu"),
        ("create_server", demo(json!({"ports": [{"internal": 0, "external": 1}]})), "ports"),
        ("create_server", demo(json!({"startup": "run {{NOBODY}}"})), "startup"),
        ("create_server", demo(json!({"environment": {"A": "x\ny"}, "startup": "run {{A}}"})), "environment"),
        ("create_server", demo(json!({"stop": {"type": "signal", "value": "SIGFOO"}})), "stop"),
        ("create_server", demo(json!({"capabilities": ["SYS_ADMIN"]})), "capabilities"),
        ("create_server", demo(json!({"user": "root"})), "user"),
        ("create_server", demo(json!({"user": "2147483648:1"})), "user"),
        ("create_server", demo(json!({"mountPath": "/"})), "mountPath"),
        ("create_server", demo(json!({"keepData": "yes"})), "keepData"),
        ("stop_server", json!({"timeout": 3601}), "timeout"),
        ("stop_server", json!({"signal": "SIGFOO"}), "signal"),
        ("stop_server", json!({"serverId": "other"}), "serverId"),
        ("delete_server", json!({"removeData": 1}), "removeData"),
    ] {
        let response = link.call(action, "s", payload.clone());
        assert_eq!(code(&response), "INVALID_PAYLOAD", "{action} {payload}: {response}");
        let message = response["error"]["message"].as_str().unwrap_or_default();
        assert!(message.starts_with(field), "{action} {payload}: {message}");
    }
    assert_eq!(engine().inspect(&agent.container("s")), None);
    assert!(!agent.data_dir.join("servers/s").exists());
    assert_eq!(link.must("list_servers", "", json!({}))["count"], 0);
}

/// The status events of a server so far, as `[previous, current]`.
fn steps(link: &Connection, command: Option<&str>) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let messages = link.messages();
    let changes = messages.iter().filter(|message| message["event"] == "server_status_changed");
    let changes = changes.map(|message| &message["data"]);
    let changes = changes.filter(|data| command.is_none_or(|id| data["commandId"] == id));
    changes.map(|data| (word(&data["previousStatus"]), word(&data["currentStatus"]))).collect()
}

#[test]
fn events_tell_each_step_of_a_command_before_its_response() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({})));
    for (action, payload, expected) in [
        ("start_server", json!({}), &[("created", "starting"), ("starting", "running")][..]),
        (
            "restart_server",
            json!({}),
            &[("running", "restarting"), ("restarting", "starting"), ("starting", "running")],
        ),
        ("stop_server", json!({"timeout": 0}), &[("running", "stopping"), ("stopping", "stopped")]),
        ("suspend_server", json!({}), &[("stopped", "suspended")]),
        ("unsuspend_server", json!({}), &[("suspended", "stopped")]),
        ("delete_server", json!({}), &[("stopped", "deleting"), ("deleting", "deleted")]),
    ] {
        let id = link.command(action, "s", payload);
        link.response(&id);
        let told = steps(&link, Some(&id));
        let told: Vec<_> = told.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
        assert_eq!(told, expected, "{action}");
        let messages = link.messages();
        let response = messages.iter().position(|message| message["id"] == *id).expect("it came");
        let last = messages.iter().rposition(|message| message["data"]["commandId"] == *id).expect("it came");
        assert!(last < response, "{action} was answered before its last event");
    }
    let events: Vec<_> = link.messages().into_iter().filter(|message| message["seq"].is_u64()).collect();
    let boot = events[0]["bootId"].clone();
    for (n, event) in events.iter().enumerate() {
        let data = if event["event"] == "agent_connected" {
            json!({"version": env!("CARGO_PKG_VERSION"), "bootId": boot, "capabilities": "<texts>", "servers": []})
        } else {
            json!({
                "serverId": "s", "previousStatus": "<text>", "currentStatus": "<text>", "commandId?": "<text>",
                "reason?": "command", "pid?": "<positive>", "exitCode?": "<whole>",
            })
        };
        let shape = json!({
            "type": "event", "timestamp": "<time>", "event": event["event"], "seq": n + 1, "bootId": "<hex32>", "data": data,
        });
        assert_shape("event", event, &shape);
        let (current, data) = (event["data"]["currentStatus"].as_str().unwrap_or_default(), &event["data"]);
        assert_eq!(data["pid"].is_u64(), current == "running", "{event}");
        assert!(current != "stopped" || data["exitCode"].is_u64(), "{event}");
    }
    let metrics = link.wait_event("system_metrics", |_| true);
    let shape = json!({"type": "event", "timestamp": "<time>", "event": "system_metrics", "data": self::metrics(0, 0)});
    assert_shape("a figure has no number", &metrics, &shape);
    drop(agent);
}

#[test]
fn events_tell_what_nobody_commanded() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let crash =
        json!({"environment": {"QUIET": "1", "CRASH_AFTER_MS": "200", "EXIT_CODE": "3"}, "restart": "never"});
    let hoard = json!({
        "startup": ["/demo-server", "alloc", "64"], "limits": {"memory": "16m"}, "restart": "never",
        "environment": {"START_DELAY_MS": "300"},
    });
    let changed = |server: &'static str, status: &'static str| {
        let event = link.wait_event("server_status_changed", |data| {
            data["serverId"] == server && data["currentStatus"] == status
        });
        event["data"].clone()
    };
    for (server, spec) in [("crash", demo(crash)), ("hoard", demo(hoard)), ("killed", demo(json!({})))] {
        link.must("create_server", server, spec);
        link.command("start_server", server, json!({}));
    }
    let shape = json!({"serverId": "crash", "previousStatus": "running", "currentStatus": "crashed", "reason": "crash", "exitCode": 3});
    assert_shape("crash", &changed("crash", "crashed"), &shape);
    let shape = json!({
        "serverId": "hoard", "previousStatus": "running", "currentStatus": "crashed", "reason": "oom",
        "exitCode": 137, "oomKilled": true,
    });
    assert_shape("out of memory", &changed("hoard", "crashed"), &shape);
    changed("killed", "running");
    engine().wait_output(&agent.container("killed"), "Demo server ready");
    engine().must("POST", &format!("/containers/{}/kill", agent.container("killed")), None);
    let shape = json!({"serverId": "killed", "previousStatus": "running", "currentStatus": "stopped", "reason": "operator", "exitCode": 137});
    assert_shape("operator", &changed("killed", "stopped"), &shape);

    let mark = link.mark();
    link.send(&json!({"id": "hb_1", "type": "ping"}));
    link.send(&json!({"type": "ping"}));
    let load = json!({"cpu": "<percent>", "memory": "<percent>", "disk": "<percent>"});
    let data = json!({"agentStatus": "healthy", "activeServers": 0, "systemLoad": load});
    for id in [Some("hb_1"), None] {
        let pong = link.wait_from(mark, SOON, "pong", |seen| match seen {
            Seen::Json(message) if message["type"] == "pong" && message["id"].as_str() == id => {
                Some(message.clone())
            }
            _ => None,
        });
        let mut shape = json!({"type": "pong", "timestamp": "<time>", "data": data});
        id.into_iter().for_each(|id| shape["id"] = id.into());
        assert_shape("pong", &pong, &shape);
    }

    assert_eq!(agent.terminate().code(), Some(0));
    let messages = link.messages();
    let last = messages.last().expect("much was said");
    let seq = messages.iter().filter(|message| message["seq"].is_u64()).count();
    let shape = json!({"type": "event", "timestamp": "<time>", "event": "agent_stopping", "seq": seq, "bootId": "<hex32>", "data": {}});
    assert_shape("last words", last, &shape);
    link.wait("Close", |seen| (*seen == Seen::Close(Some(1001))).then_some(()));
}

#[test]
fn a_pull_tells_how_far_it_is() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let registry = Registry::start("");
    let image = registry.image(Image::Good, &agent.node_id);
    let id = link.command("create_server", "s", demo(json!({"image": image})));
    let response = link.response(&id);
    engine().call("DELETE", &format!("/images/{image}"), None);
    assert_eq!(response["success"], true, "{response}");
    let progress = link.wait_event("command_progress", |data| data["commandId"] == *id);
    let data = json!({"commandId": id, "serverId": "s", "stage": "pulling", "current": "<whole>", "total": "<whole>"});
    let shape = json!({
        "type": "event", "timestamp": "<time>", "event": "command_progress", "seq": "<positive>", "bootId": "<hex32>", "data": data,
    });
    assert_shape("progress", &progress, &shape);
}

#[test]
fn a_command_that_waits_does_not_hold_up_the_next() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({"environment": {"QUIET": "1", "IGNORE_TERM": "1"}})));
    link.must("start_server", "s", json!({}));
    engine().wait_output(&agent.container("s"), "Demo server ready");
    let stop = link.command("stop_server", "s", json!({"timeout": 600}));
    link.wait_event("server_status_changed", |data| data["currentStatus"] == "stopping");
    assert_eq!(link.must("get_status", "s", json!({}))["status"], "stopping");
    link.must("system.ping", "", json!({}));
    assert_eq!(link.responses(&stop), [Value::Null; 0]);
    let kill = link.command("kill_server", "s", json!({}));
    for (id, killed) in [(stop, json!(true)), (kill, Value::Null)] {
        let response = link.response(&id);
        assert_eq!(
            (&response["success"], &response["data"]["killed"]),
            (&json!(true), &killed),
            "{response}"
        );
    }
}
