//! The main job: over a real link and on a real Engine a server is created, started, stopped, restarted, updated,
//! suspended, killed and deleted, with the outcomes that section 5 of the contract promises.

mod support;

use serde_json::{Value, json};
use support::*;

/// Sends a command, waits for its one response and gives its data; panics when it failed.
fn ok(panel: &Connection, action: &str, server: &str, payload: Value) -> Value {
    let response = run(panel, action, server, payload);
    assert_eq!(response["success"], true, "{action}: {response}");
    response["data"].clone()
}

fn run(panel: &Connection, action: &str, server: &str, payload: Value) -> Value {
    let id = panel.command(action, server, payload);
    panel.response(&id)
}

#[test]
fn a_server_lives_and_ends() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let connected = link.wait_event("agent_connected", |_| true);
    assert_eq!(connected["data"]["servers"], json!([]));

    let made = ok(&link, "create_server", "s", demo(json!({})));
    assert_eq!(made["status"], "created");
    assert_eq!(engine().state(&agent.container("s")), "created");
    assert_eq!(code(&run(&link, "create_server", "s", demo(json!({})))), "SERVER_EXISTS");

    let started = ok(&link, "start_server", "s", json!({}));
    assert_eq!((&started["status"], started["pid"].is_u64()), (&json!("running"), true));
    assert_eq!(engine().state(&agent.container("s")), "running");
    let again = ok(&link, "start_server", "s", json!({}));
    assert_eq!(again["status"], "running");

    let status = ok(&link, "get_status", "s", json!({}));
    assert_eq!((&status["status"], &status["server"]["image"]), (&json!("running"), &json!(DEMO_IMAGE)));
    assert_eq!(ok(&link, "list_servers", "", json!({}))["count"], 1);

    let restarted = ok(&link, "restart_server", "s", json!({}));
    assert_eq!(restarted["status"], "running");
    link.wait_event("server_status_changed", |data| data["currentStatus"] == "restarting");

    let stopped = ok(&link, "stop_server", "s", json!({}));
    assert_eq!(stopped, json!({"serverId": "s", "status": "stopped", "exitCode": 0, "killed": false}));
    let again = ok(&link, "stop_server", "s", json!({}));
    assert_eq!((&again["status"], &again["exitCode"]), (&json!("stopped"), &json!(0)));

    ok(&link, "start_server", "s", json!({}));
    let killed = ok(&link, "kill_server", "s", json!({}));
    assert_eq!(killed, json!({"serverId": "s", "status": "stopped", "exitCode": 137}));

    let suspended = ok(&link, "suspend_server", "s", json!({}));
    assert_eq!(suspended["status"], "suspended");
    assert_eq!(code(&run(&link, "start_server", "s", json!({}))), "SERVER_SUSPENDED");
    assert_eq!(ok(&link, "unsuspend_server", "s", json!({}))["status"], "stopped");

    let deleted = ok(&link, "delete_server", "s", json!({"removeData": true}));
    assert_eq!(deleted, json!({"serverId": "s", "status": "deleted"}));
    assert_eq!(engine().inspect(&agent.container("s")), None);
    assert!(!agent.data_dir.join("servers/s").exists());
    assert_eq!(code(&run(&link, "get_status", "s", json!({}))), "SERVER_NOT_FOUND");
    assert_eq!(agent.terminate().code(), Some(0));
}
