//! One table of what can be asked of servers, consoles and the node, asked in every dialect against a real Engine: each
//! means the same and tells the same. Files have their own table in `tests/files`.

mod support;

use serde_json::{Value, json};
use support::*;

#[derive(Clone, Copy, Debug)]
enum Dialect {
    Unified,
    Legacy,
    /// With `serverId` and `payload`.
    Http,
    /// With everything under `data`.
    OlderHttp,
}

/// What has the demo server take no notice of signals.
const IGNORE: &str = "ignore-term";

/// A legacy message of its own for the action, and the status or the code in its reply.
type Legacy = Option<(&'static str, &'static str)>;

/// What is asked of the server and what comes of it: the whole of `data` as a shape, or the error's code.
struct Case {
    action: &'static str,
    payload: Value,
    expected: Result<Value, &'static str>,
    legacy: Legacy,
}

/// In this order, on a server that is not there at first and not any more in the end.
fn cases(server: &str, container: &str) -> Vec<Case> {
    let case = |action, payload, expected, legacy| Case { action, payload, expected, legacy };
    let none = || json!({});
    let with = |status: &str, more: Value| {
        let mut data = json!({"serverId": server, "status": status});
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Ok(data)
    };
    let done = |status: &str| with(status, json!({}));
    let started = || with("running", json!({"containerId": "<id64>", "pid": "<positive>"}));
    let resources = json!({
        "cpu": "<number>", "memory": {"used": "<whole>", "limit": "<whole>", "percentage": "<number>"},
        "network": {"rx": "<whole>", "tx": "<whole>"}, "disk": {"used": "<whole>"}, "pids": "<whole>",
    });
    let report = |status: &str| {
        json!({
            "serverId": server, "status": status, "containerId": "<id64>", "uptime": "<whole>", "exitCode?": "<whole>",
            "resources": resources, "name": null, "image": DEMO_IMAGE, "ports": [],
        })
    };
    let told = |status: &str| {
        let mut told = report(status);
        for name in ["name", "image", "ports"] {
            told.as_object_mut().unwrap().remove(name);
        }
        told["server"] = report(status);
        Ok(told)
    };
    let servers = |status: &str| Ok(json!({"servers": [report(status)], "count": 1}));
    let figures = json!({
        "cpu": "<number>", "memory": "<whole>", "disk": "<whole>", "network": {"in": "<whole>", "out": "<whole>"},
        "pids": "<whole>", "uptime": "<whole>",
    });
    let mut metrics = figures.clone();
    metrics["metrics"] = figures;
    metrics["timestamp"] = "<time>".into();
    let share = json!({"total": "<positive>", "used": "<positive>", "percentage": "<percent>"});
    let system = json!({
        "cpu": "<percent>", "memory": share, "disk": share, "load": ["<number>", "<number>", "<number>"],
        "network": {"rx": "<whole>", "tx": "<whole>"}, "uptime": "<positive>", "servers": {"total": 1, "running": 1},
    });
    let sent = || Ok(json!({"serverId": server, "sent": true}));
    let stopped = |code: i64, killed: bool| with("stopped", json!({"exitCode": code, "killed": killed}));
    let exited = |code: i64| with("stopped", json!({"exitCode": code}));
    let console = |connected: bool| Ok(json!({"connected": connected}));
    let name = || json!({"containerId": container});
    vec![
        case("start_server", none(), Err("SERVER_NOT_FOUND"), Some(("server_start", ""))),
        case("get_status", none(), Err("SERVER_NOT_FOUND"), None),
        case("create_server", none(), Err("INVALID_PAYLOAD"), Some(("server_create", ""))),
        case(
            "create_server",
            demo(none()),
            with("created", json!({"containerId": "<id64>"})),
            Some(("server_create", "created")),
        ),
        case("create_server", demo(none()), Err("SERVER_EXISTS"), Some(("server_create", ""))),
        case("get_status", none(), told("created"), None),
        case("start_server", none(), started(), Some(("server_start", "running"))),
        case("get_server_status", none(), told("running"), None),
        case("list_servers", none(), servers("running"), None),
        case("docker.list", none(), servers("running"), None),
        case("docker.inspect", name(), told("running"), None),
        case("get_server_metrics", none(), Ok(metrics), None),
        case("get_system_metrics", none(), Ok(system.clone()), None),
        case("system.status", none(), Ok(system), None),
        case("system.ping", none(), Ok(json!({"message": "pong", "timestamp": "<time>"})), None),
        case("send_server_command", json!({"command": "say one"}), sent(), Some(("server_command", ""))),
        case("console:command", json!({"command": "say two"}), sent(), None),
        case("console:input", json!({"input": "say three\n"}), Ok(json!({"sent": true})), None),
        case(
            "send_server_command",
            json!({"command": "a\nb"}),
            Err("INVALID_PAYLOAD"),
            Some(("server_command", "")),
        ),
        case("console:connect", none(), console(true), None),
        case(
            "console:status",
            none(),
            Ok(json!({"connected": true, "lastActivity": "<any>", "bufferSize": "<whole>"})),
            None,
        ),
        case(
            "get_server_logs",
            json!({"lines": 50}),
            Ok(json!({"logs": "<texts>", "lines": "<positive>"})),
            None,
        ),
        case(
            "console:history",
            none(),
            Ok(
                json!({"history": "<texts>", "lines": "<positive>", "firstSeq": "<positive>", "lastSeq": "<positive>"}),
            ),
            None,
        ),
        case("console:download", none(), Ok(json!({"content": "<text>"})), None),
        case("console:download", json!({"format": "json"}), Ok(json!({"content": "<text>"})), None),
        case("console:clear", none(), Ok(json!({"cleared": true})), None),
        case("console:disconnect", none(), console(false), None),
        case(
            "update_server",
            json!({"limits": {"memory": "96m"}}),
            with("running", json!({"applied": ["limits.memory"], "needsRestart": false})),
            Some(("server_update", "running")),
        ),
        case(
            "update_server",
            json!({"limits": {"cpu": -1}}),
            Err("INVALID_PAYLOAD"),
            Some(("server_update", "")),
        ),
        case("restart_server", json!({"timeout": 5}), done("running"), Some(("server_restart", "running"))),
        case(
            "stop_server",
            json!({"signal": "SIGKILL"}),
            stopped(137, false),
            Some(("server_stop", "stopped")),
        ),
        case("stop_server", json!({"timeout": 3601}), Err("INVALID_PAYLOAD"), None),
        case("console:input", json!({"input": "x"}), Err("SERVER_NOT_RUNNING"), None),
        case(
            "send_server_command",
            json!({"command": "x"}),
            Err("SERVER_NOT_RUNNING"),
            Some(("server_command", "")),
        ),
        case("console:interrupt", none(), Err("SERVER_NOT_RUNNING"), None),
        case("docker.start", name(), started(), None),
        case("console:command", json!({"command": IGNORE}), sent(), None),
        case("console:interrupt", none(), Ok(json!({"sent": true})), None),
        case(
            "docker.stop",
            json!({"containerId": container, "signal": "SIGKILL"}),
            stopped(137, false),
            None,
        ),
        case("docker.stop", json!({"containerId": "nobody"}), Err("CONTAINER_NOT_FOUND"), None),
        case("start_server", none(), started(), Some(("server_start", "running"))),
        case("kill_server", none(), exited(137), None),
        case("suspend_server", none(), done("suspended"), Some(("server_suspend", "suspended"))),
        case("start_server", none(), Err("SERVER_SUSPENDED"), Some(("server_start", ""))),
        case("unsuspend_server", none(), done("stopped"), Some(("server_unsuspend", "stopped"))),
        case(
            "delete_server",
            json!({"removeData": true}),
            done("deleted"),
            Some(("server_delete", "deleted")),
        ),
        case("docker.remove", name(), Err("CONTAINER_NOT_FOUND"), None),
        case("list_servers", none(), Ok(json!({"servers": [], "count": 0})), None),
        case("make_coffee", none(), Err("UNKNOWN_ACTION"), None),
    ]
}

/// Asks in one dialect and compares all of the answer.
fn check(agent: &AgentProcess, link: &Connection, dialect: Dialect, server: &str, case: &Case) {
    let Case { action, payload, expected, legacy } = case;
    let what = format!("{action} {payload} in {dialect:?}");
    let (answer, shape) = match dialect {
        Dialect::Unified => {
            let answer = link.call(action, server, payload.clone());
            let mut shape = json!({"id": "<text>", "type": "response", "timestamp": "<time>", "success": expected.is_ok()});
            match expected {
                Ok(data) => (shape["data"], shape["message?"]) = (data.clone(), "<text>".into()),
                Err(code) => shape["error"] = json!({"code": code, "message": "<text>"}),
            }
            (answer, shape)
        }
        Dialect::Http | Dialect::OlderHttp => {
            let mut command = json!({"action": action, "id": unique_name()});
            if matches!(dialect, Dialect::Http) {
                (command["serverId"], command["payload"]) = (server.into(), payload.clone());
            } else {
                command["data"] = payload.clone();
                command["data"]["serverId"] = server.into();
            }
            let shape = match expected {
                Ok(data) => json!({"success": true, "message?": "<text>", "data": data}),
                Err(code) => json!({"success": false, "error": "<text>", "code": code}),
            };
            (agent.http(&command), shape)
        }
        Dialect::Legacy => {
            return check_legacy(link, server, case, legacy.as_ref().map(|legacy| (&what, *legacy)));
        }
    };
    assert_shape(&what, &answer, &shape);
    read_as_panels_do(&what, action, &answer["data"]);
}

/// The legacy dialect has a message for some actions; the others are asked in the unified one, since a panel in the middle of its
/// migration speaks both.
fn check_legacy(link: &Connection, server: &str, case: &Case, legacy: Option<(&String, (&str, &str))>) {
    let Some((what, (kind, status))) = legacy else {
        link.call(case.action, server, case.payload.clone());
        return;
    };
    let mut data = case.payload.clone();
    data["serverId"] = server.into();
    let id = unique_name();
    link.send(&json!({"type": kind, "data": data, "messageId": id}));
    let mut shape = json!({"messageId": id, "timestamp": "<time>", "data": {"serverId": server}});
    match case.expected {
        // Success of a console command is its output.
        Ok(_) if status.is_empty() => return,
        Ok(_) => (shape["type"], shape["data"]["status"]) = ("server_status".into(), status.into()),
        Err(code) => {
            (shape["type"], shape["data"]["code"]) = ("error".into(), code.into());
            (shape["data"]["message"], shape["data"]["details?"]) = ("<text>".into(), "<any>".into());
        }
    }
    let reply = link.wait_json(what, |message| message["messageId"] == *id);
    assert_shape(what, &reply, &shape);
}

/// What the panels that call take out of `data`, where they look for it.
fn read_as_panels_do(what: &str, action: &str, data: &Value) {
    let lines = |name: &str| {
        let lines = data[name].as_array().unwrap_or_else(|| panic!("{what}: {data}"));
        assert!(
            lines.iter().any(|line| line.as_str().is_some_and(|line| line.contains("ready"))),
            "{what}: {data}"
        );
    };
    match action {
        "get_server_logs" => lines("logs"),
        "console:history" => lines("history"),
        "get_server_metrics" => {
            assert!(data["cpu"].is_number() && data["cpu"] == data["metrics"]["cpu"], "{what}: {data}");
        }
        _ => {}
    }
}

#[test]
fn every_action_means_the_same_in_every_dialect() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    for (dialect, server) in [
        (Dialect::Unified, "unified"),
        (Dialect::Http, "http"),
        (Dialect::OlderHttp, "older"),
        (Dialect::Legacy, "legacy"),
    ] {
        let container = agent.container(server);
        for case in cases(server, &container) {
            check(&agent, &link, dialect, server, &case);
            // An interrupt, which would end it, finds it ignoring that.
            if case.payload["command"] == IGNORE {
                engine().wait_output(&container, "SIGTERM and SIGINT are ignored");
            }
            // What it prints is there before it is looked for.
            if case.action == "start_server" && case.expected.is_ok() {
                engine().wait_output(&container, "Demo server ready");
                link.wait_event("server_log", |data| {
                    data["serverId"] == server
                        && data["message"].as_str().is_some_and(|text| text.contains("ready"))
                });
            }
        }
        assert_eq!(engine().inspect(&container), None, "{dialect:?}");
        assert!(!agent.data_dir.join("servers").join(server).exists(), "{dialect:?} left files");
    }
}

#[test]
fn the_table_has_every_action_but_those_on_files() {
    let known = longshore::protocol::capabilities();
    let elsewhere = ["file", "directory", "archive", "mod", "install"];
    let tested = cases("s", "c");
    let untested: Vec<_> = known
        .iter()
        // What a Panel may say beside commands.
        .filter(|name| **name != "event_ack")
        .filter(|name| !tested.iter().any(|case| case.action == **name))
        .filter(|name| !elsewhere.iter().any(|subject| name.contains(subject)))
        .collect();
    assert!(untested.is_empty(), "{untested:?}");
}
