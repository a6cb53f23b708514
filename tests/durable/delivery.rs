//! What the Panel has not heard waits on disk: answers and changes of status, over kill -9, in order, until it is heard.

use serde_json::{Value, json};

use crate::support::*;

/// The events and responses of a connection until its `agent_connected`, which is the last of them.
fn until_connected(link: &Connection) -> Vec<Value> {
    link.wait_event("agent_connected", |_| true);
    let mut messages = link.messages();
    messages.retain(|message| matches!(message["type"].as_str(), Some("event" | "response")));
    let end = messages.iter().position(|message| message["event"] == "agent_connected");
    messages.truncate(end.expect("it has come") + 1);
    messages
}

/// The statuses that were told of what happened in a boot.
fn changes<'a>(messages: &'a [Value], boot: &Value) -> Vec<&'a Value> {
    let changes = messages.iter().filter(|message| message["event"] == "server_status_changed");
    let in_boot = changes.filter(|message| message["bootId"] == *boot);
    in_boot.map(|message| &message["data"]["currentStatus"]).collect()
}

/// An Agent with a stopped server `s`, whose Panel is away; with its boot.
fn alone(panel: &FakePanel) -> (AgentProcess, Value) {
    let agent = AgentProcess::start(panel);
    let link = panel.accept();
    let boot = link.wait_event("agent_connected", |_| true)["bootId"].clone();
    link.must("create_server", "s", demo(json!({})));
    panel.go_away();
    link.cut();
    agent.wait_log("next dial in");
    (agent, boot)
}

#[test]
fn what_happened_while_the_panel_was_away_is_told_after_a_kill_with_the_boot_it_happened_in() {
    let panel = FakePanel::start();
    let (mut agent, boot) = alone(&panel);
    for (id, action) in [("a", "start_server"), ("b", "kill_server")] {
        let answer = agent.http(&json!({"id": id, "action": action, "serverId": "s"}));
        assert_eq!(answer["success"], true, "{answer}");
    }
    agent.kill();
    panel.come_back();
    agent.start_again();
    let link = panel.accept();
    let told = until_connected(&link);
    let expected = ["starting", "running", "stopping", "stopped"].map(Value::from);
    let expected: Vec<_> = expected.iter().collect();
    let changes = changes(&told, &boot);
    // What was told before may be told again when its pong was lost with the Agent.
    assert!(changes.ends_with(&expected), "{told:#?}");
    let seqs: Vec<_> = told.iter().filter(|m| m["bootId"] == boot).map(|m| m["seq"].as_u64()).collect();
    assert!(seqs.is_sorted(), "{seqs:?}");
    assert!(told.iter().all(|message| message["type"] == "event"), "HTTP was answered: {told:#?}");
    link.wait("ping behind it", |seen| matches!(seen, Seen::Ping(_)).then_some(()));
    link.must("system.ping", "", json!({}));

    // Heard, and not told again.
    agent.wait_delivered();
    agent.kill();
    agent.start_again();
    let told = until_connected(&panel.accept());
    assert!(!told.iter().any(|message| message["bootId"] == boot), "{told:#?}");
}

#[test]
fn an_answer_that_no_pong_has_confirmed_is_sent_by_the_next_agent() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.answer_pings(false);
    let id = link.command("create_server", "s", demo(json!({})));
    let answer = link.response(&id);
    agent.kill();
    agent.start_again();
    let link = panel.accept();
    let told = until_connected(&link);
    let answers: Vec<_> = told.iter().filter(|message| message["id"] == id).collect();
    assert_eq!(answers, [&answer]);
}

#[test]
fn a_panel_that_acknowledges_keeps_what_it_has_ponged_and_not_taken_in() {
    let panel = FakePanel::start();
    let (mut agent, _) = alone(&panel);
    panel.come_back();
    let link = panel.accept();
    let connected = link.wait_event("agent_connected", |_| true);
    let can = connected["data"]["capabilities"].as_array().unwrap();
    assert!(can.contains(&json!("event_ack")));
    let ack = |event: &Value| {
        link.send(&json!({"type": "ack", "bootId": event["bootId"], "seq": event["seq"]}));
    };
    ack(&connected);
    link.must("start_server", "s", json!({}));
    let running = link.wait_event("server_status_changed", |data| data["currentStatus"] == "running");
    ack(&running);
    link.must("kill_server", "s", json!({}));
    let stopped = link.wait_event("server_status_changed", |data| data["currentStatus"] == "stopped");
    // Its pong comes behind all of it, and would do for another Panel.
    let mark = link.mark();
    link.wait_from(mark, SOON * 4, "ping behind it", |seen| matches!(seen, Seen::Ping(_)).then_some(()));
    link.must("system.ping", "", json!({}));
    agent.kill();
    agent.start_again();
    let link = panel.accept();
    let told = until_connected(&link);
    let old = |message: &&Value| message["bootId"] == stopped["bootId"];
    let statuses: Vec<_> = told.iter().filter(old).map(|m| m["data"]["currentStatus"].clone()).collect();
    assert_eq!(statuses, ["stopping", "stopped"], "{told:#?}");
}
