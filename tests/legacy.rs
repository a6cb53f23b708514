//! Section 3 of the contract on the built Agent: every message of the legacy dialect, field by field, each answered by
//! the status message itself and by no second one.

mod support;

use serde_json::{Value, json};
use support::*;

/// Sends a legacy message with a `messageId` of its own and gives the reply that echoes it.
fn ask(link: &Connection, kind: &str, data: Value) -> Value {
    let id = unique_name();
    link.send(&json!({"type": kind, "data": data, "messageId": id, "timestamp": "2025-07-24T10:00:00Z"}));
    link.wait_json(&format!("reply to {kind}"), |message| message["messageId"] == *id)
}

fn status(link: &Connection, kind: &str, data: Value, expected: &str) {
    let reply = ask(link, kind, data.clone());
    let shape = json!({
        "type": "server_status", "messageId": "<text>", "timestamp": "<time>",
        "data": {"serverId": data["serverId"], "status": expected},
    });
    assert_shape(&format!("{kind} {data}"), &reply, &shape);
}

/// The status words of a server so far, in order.
fn words(link: &Connection, server: &str) -> Vec<String> {
    let messages = link.messages();
    // Figures come under the same name.
    let told = messages.iter().filter(|m| m["type"] == "server_status" && m["data"].get("stats").is_none());
    let told = told.filter(|message| message["data"]["serverId"] == server);
    told.filter_map(|message| message["data"]["status"].as_str().map(str::to_owned)).collect()
}

#[test]
fn every_message_is_answered_with_its_status() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let s = || json!({"serverId": "s"});
    let container = agent.container("s");
    let power = |action: &str| json!({"serverId": "s", "action": action});
    let mut create =
        demo(json!({"startup": "/demo-server", "ports": {}, "limits": {"memory": 64, "cpu": 100}}));
    create["serverId"] = "s".into();
    status(&link, "server_create", create, "created");
    let made = engine().inspect(&container).expect("it was made");
    assert_eq!(made["HostConfig"]["Memory"], 64 << 20, "small numbers are MiB");
    status(&link, "server_start", s(), "running");
    assert_eq!(engine().state(&container), "running");
    status(&link, "server_restart", s(), "running");
    status(&link, "server_stop", s(), "stopped");
    for (action, expected) in
        [("start", "running"), ("restart", "running"), ("kill", "stopped"), ("stop", "stopped")]
    {
        status(&link, "server_power", power(action), expected);
    }
    status(&link, "server_update", json!({"serverId": "s", "limits": {"memory": 96}}), "stopped");
    status(&link, "server_suspend", s(), "suspended");
    status(&link, "server_unsuspend", s(), "stopped");
    status(&link, "server_delete", s(), "deleted");
    assert_eq!(engine().inspect(&container), None);
}

#[test]
fn the_reply_is_the_status_message_and_there_is_no_second_one() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let mut create = demo(json!({}));
    create["serverId"] = "s".into();
    link.legacy("server_create", create);
    for (kind, last) in
        [("server_start", "running"), ("server_stop", "stopped"), ("server_delete", "deleted")]
    {
        link.legacy(kind, json!({"serverId": "s"}));
        link.wait_json(last, |m| m["type"] == "server_status" && m["data"]["status"] == last);
    }
    // Answered after everything that the commands led to.
    ask(&link, "server_start", json!({"serverId": "s"}));
    let expected = ["created", "starting", "running", "stopping", "stopped", "deleting", "deleted"];
    assert_eq!(words(&link, "s"), expected);
    let replies = link.messages().into_iter().filter(|m| m["type"] == "response").count();
    assert_eq!(replies, 0, "nothing of the other dialect");
    drop(agent);
}

#[test]
fn what_fails_is_answered_with_error() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let mut create = demo(json!({}));
    create["serverId"] = "s".into();
    link.legacy("server_create", create.clone());
    link.wait_json("created", |m| m["type"] == "server_status" && m["data"]["status"] == "created");
    let mut bad_create = create.clone();
    (bad_create["serverId"], bad_create["image"]) = ("new".into(), 7.into());
    for (kind, data, code) in [
        ("server_create", create, "SERVER_EXISTS"),
        ("server_create", bad_create, "INVALID_PAYLOAD"),
        ("server_start", json!({"serverId": "nobody"}), "SERVER_NOT_FOUND"),
        ("server_stop", json!({"serverId": "nobody"}), "SERVER_NOT_FOUND"),
        ("server_restart", json!({"serverId": "nobody"}), "SERVER_NOT_FOUND"),
        ("server_delete", json!({"serverId": "nobody"}), "SERVER_NOT_FOUND"),
        ("server_update", json!({"serverId": "nobody", "limits": {}}), "SERVER_NOT_FOUND"),
        ("server_suspend", json!({"serverId": "nobody"}), "SERVER_NOT_FOUND"),
        ("server_unsuspend", json!({"serverId": "nobody"}), "SERVER_NOT_FOUND"),
        ("server_power", json!({"serverId": "s", "action": "explode"}), "INVALID_PAYLOAD"),
        ("server_power", json!({"serverId": "s"}), "INVALID_PAYLOAD"),
        ("server_power", json!({"serverId": "nobody", "action": "kill"}), "SERVER_NOT_FOUND"),
        ("server_start", json!({"serverId": "../s"}), "INVALID_PAYLOAD"),
        ("server_start", json!({}), "INVALID_PAYLOAD"),
        ("server_start", json!("s"), "INVALID_PAYLOAD"),
        ("server_start", json!(null), "INVALID_PAYLOAD"),
    ] {
        let reply = ask(&link, kind, data.clone());
        let mut shape = json!({
            "type": "error", "messageId": "<text>", "timestamp": "<time>",
            "data": {"code": code, "message": "<text>", "details?": "<any>"},
        });
        let known = data["serverId"].as_str().filter(|id| !id.contains('/'));
        known.into_iter().for_each(|id| shape["data"]["serverId"] = id.into());
        assert_shape(&format!("{kind} {data}"), &reply, &shape);
    }
    let mark = link.mark();
    link.send(&json!({"type": "server_start", "data": {"serverId": "s"}, "messageId": 7}));
    link.legacy("server_start", json!({"serverId": "nobody"}));
    for code in ["INVALID_MESSAGE", "SERVER_NOT_FOUND"] {
        let error = link.wait_from(mark, SOON, code, |seen| match seen {
            Seen::Json(message) if message["data"]["code"] == code => Some(message.clone()),
            _ => None,
        });
        assert_eq!(error.get("messageId"), None, "none came");
    }
    assert_eq!(engine().state(&agent.container("s")), "created");
}

#[test]
fn a_message_id_is_echoed_and_never_used_to_recognise_a_repeat() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let mut create = demo(json!({}));
    create["serverId"] = "s".into();
    link.legacy("server_create", create);
    link.legacy("server_start", json!({"serverId": "s"}));
    link.wait_json("running", |m| m["type"] == "server_status" && m["data"]["status"] == "running");
    let started = || engine().inspect(&agent.container("s")).unwrap()["State"]["StartedAt"].clone();
    let mut starts = vec![started()];
    for _ in 0..2 {
        let mark = link.mark();
        link.send(&json!({"type": "server_restart", "data": {"serverId": "s"}, "messageId": "same"}));
        link.wait_from(mark, SOON, "reply", |seen| match seen {
            Seen::Json(message) if message["messageId"] == "same" => Some(()),
            _ => None,
        });
        starts.push(started());
    }
    assert!(starts[0] != starts[1] && starts[1] != starts[2], "it ran each time: {starts:?}");
}

#[test]
fn system_info_is_measured_and_the_same_asked_and_unasked() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    // By then the Engine has told its version.
    agent.wait_log("engine: version");
    let asked = ask(&link, "system_info_request", json!({}));
    let data = json!({
        "nodeId": agent.node_id, "os": "<text>", "arch": "<text>", "memory": "<positive>", "cpu": "<any>",
        "dockerVersion": engine().must("GET", "/version", None)["Version"], "capabilities": "<texts>",
        "networks": "<texts>", "cpuCount": "<positive>", "totalMemory": "<positive>", "freeMemory": "<positive>",
        "totalDisk": "<positive>", "freeDisk": "<positive>", "uptime": "<positive>", "platform": "linux",
    });
    let shape = json!({"type": "system_info", "timestamp": "<time>", "data": data, "messageId?": "<text>"});
    assert_shape("asked for", &asked, &shape);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = meminfo.lines().next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(
        (&asked["data"]["memory"], &asked["data"]["totalMemory"]),
        (&json!(total << 10), &json!(total << 10))
    );
    let mut unasked = link.messages()[0].clone();
    // It may have been sent before the Engine was asked.
    unasked["data"]["dockerVersion"] = asked["data"]["dockerVersion"].clone();
    assert_shape("unasked", &unasked, &shape);
    assert_eq!(unasked.get("messageId"), None);
}

#[test]
fn a_crash_is_told_with_its_reason_and_without_a_second_word() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let mut create = demo(json!({
        "environment": {"QUIET": "1", "CRASH_AFTER_MS": "300", "EXIT_CODE": "3"}, "restart": "never",
    }));
    create["serverId"] = "s".into();
    status(&link, "server_create", create, "created");
    link.legacy("server_start", json!({"serverId": "s"}));
    let crashed =
        link.wait_json("crash", |m| m["type"] == "server_status" && m["data"]["status"] == "crashed");
    let data = json!({"serverId": "s", "status": "crashed", "error": "<text>"});
    assert_shape("crash", &crashed, &json!({"type": "server_status", "timestamp": "<time>", "data": data}));
    assert!(crashed["data"]["error"].as_str().unwrap().contains("exit code 3"), "{crashed}");
    assert_eq!(words(&link, "s"), ["created", "starting", "running", "crashed"]);
    drop(agent);
}
