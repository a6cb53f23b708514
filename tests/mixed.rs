//! Panels in the middle of their migration: both dialects on one connection, and the dialect of what is said unasked.

mod support;

use serde_json::{Value, json};
use support::*;

/// A control message in short: what it is of, and its word. Figures, heartbeats, system_info and responses to pings are
/// left out.
fn told(seen: &Seen) -> Option<String> {
    let Seen::Json(message) = seen else { return None };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, data) = (text(&message["type"]), &message["data"]);
    match kind.as_str() {
        "event" if message["event"] == "server_status_changed" => {
            Some(format!("unified {} {}", text(&data["serverId"]), text(&data["currentStatus"])))
        }
        "event" if message["seq"].is_u64() => Some(text(&message["event"])),
        "server_status" if data.get("stats").is_none() => {
            Some(format!("legacy {} {}", text(&data["serverId"]), text(&data["status"])))
        }
        "response" if data["message"] != "pong" => Some(format!("response {}", text(&data["status"]))),
        _ => None,
    }
}

/// What was told after `mark`, up to now: a read is answered behind it, in a dialect that was spoken before.
fn since(link: &Connection, mark: usize) -> Vec<String> {
    link.legacy("system_info_request", json!({}));
    link.wait_from(mark, SOON, "system_info", |seen| match seen {
        Seen::Json(message) if message["type"] == "system_info" => Some(()),
        _ => None,
    });
    link.seen()[mark..].iter().filter_map(told).collect()
}

/// An Agent with the servers `a` (created) and `b` (running), whose Panel is connected anew and has said nothing yet.
fn with_two_servers(environment: &[(&str, &str)]) -> (FakePanel, AgentProcess, Connection) {
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), environment);
    let link = panel.accept();
    for server in ["a", "b"] {
        link.must("create_server", server, demo(json!({})));
    }
    link.must("start_server", "b", json!({}));
    // The pong that tells of the delivery of everything comes before this is answered.
    link.must("system.ping", "", json!({}));
    link.cut();
    let link = panel.accept();
    link.wait_event("agent_connected", |data| data["servers"].as_array().is_some_and(|all| all.len() == 2));
    (panel, agent, link)
}

/// Ends a server's process from outside, of which the Agent tells unasked, and waits for the word in `told`'s form.
fn stop_from_outside(agent: &AgentProcess, link: &Connection, server: &str, expected: &[&str]) {
    let container = agent.container(server);
    engine().wait_output(&container, "Demo server ready");
    engine().must("POST", &format!("/containers/{container}/kill"), None);
    for expected in expected {
        link.wait(expected, |seen| told(seen).filter(|told| told == expected));
    }
}

#[test]
fn a_dialect_is_spoken_once_it_is_heard() {
    let (panel, agent, link) = with_two_servers(&[]);
    // Nothing was said, and this says nothing: the unified dialect it is.
    let mark = link.mark();
    assert_eq!(since(&link, mark), Vec::<String>::new());

    // The first legacy message brings every state in it, before its own reply.
    let mark = link.mark();
    link.legacy("server_start", json!({"serverId": "a"}));
    link.wait_from(mark, SOON, "reply", |seen| told(seen).filter(|told| told == "legacy a running"));
    let expected = ["legacy a created", "legacy b running", "legacy a starting", "legacy a running"];
    assert_eq!(since(&link, mark), expected, "and from now on nothing unasked is unified");

    // So does the first unified one, even one that is refused.
    let mark = link.mark();
    assert_eq!(code(&link.call("make_coffee", "", json!({}))), "UNKNOWN_ACTION");
    assert_eq!(since(&link, mark), ["unified a running", "unified b running", "response "]);

    // Both are told of what happens, and each command is answered in its own.
    let mark = link.mark();
    link.must("stop_server", "a", json!({}));
    let expected = [
        "unified a stopping",
        "legacy a stopping",
        "unified a stopped",
        "legacy a stopped",
        "response stopped",
    ];
    assert_eq!(since(&link, mark), expected);
    let mark = link.mark();
    link.legacy("server_start", json!({"serverId": "a"}));
    link.wait_from(mark, SOON, "reply", |seen| told(seen).filter(|told| told == "legacy a running"));
    let expected = ["unified a starting", "legacy a starting", "unified a running", "legacy a running"];
    assert_eq!(since(&link, mark), expected, "the reply is the legacy word, and there is no second one");
    stop_from_outside(&agent, &link, "b", &["unified b stopped", "legacy b stopped"]);

    // A new connection starts anew.
    link.cut();
    let link = panel.accept();
    link.wait_event("agent_connected", |_| true);
    stop_from_outside(&agent, &link, "a", &["unified a stopped"]);
    let mark = link.mark();
    assert_eq!(since(&link, mark), Vec::<String>::new());
    assert!(!link.seen().iter().filter_map(told).any(|told| told.starts_with("legacy")));
}

#[test]
fn the_unified_dialect_first_and_the_legacy_one_after_it() {
    let (_panel, agent, link) = with_two_servers(&[]);
    let mark = link.mark();
    link.must("get_status", "a", json!({}));
    assert_eq!(since(&link, mark), ["response created"], "agent_connected has told the states already");
    let mark = link.mark();
    link.legacy("server_stop", json!({"serverId": "nobody"}));
    assert_eq!(since(&link, mark), ["legacy a created", "legacy b running"]);
    stop_from_outside(&agent, &link, "b", &["unified b stopped", "legacy b stopped"]);
}

#[test]
fn the_owner_can_decide_the_dialect() {
    let (_panel, agent, link) = with_two_servers(&[("PROTOCOL", "unified")]);
    link.legacy("server_start", json!({"serverId": "a"}));
    link.wait("reply", |seen| told(seen).filter(|told| told == "legacy a running"));
    let legacy: Vec<_> =
        link.seen().iter().filter_map(told).filter(|told| told.starts_with("legacy")).collect();
    assert_eq!(legacy, ["legacy a running"], "the reply alone");
    stop_from_outside(&agent, &link, "b", &["unified b stopped"]);
    drop(agent);
}

#[test]
fn a_node_that_is_told_to_speak_legacy_never_says_anything_else_unasked() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), &[("PROTOCOL", "legacy")]);
    let link = panel.accept();
    link.answer_pings(false);
    for server in ["a", "b"] {
        link.must("create_server", server, demo(json!({})));
    }
    link.must("start_server", "b", json!({}));
    stop_from_outside(&agent, &link, "b", &["legacy b stopped"]);
    let first = link.cut();
    let link = panel.accept();
    // What was not delivered comes again; the system_info of a new connection comes unasked, and may come before it.
    link.wait("legacy b stopped", |seen| told(seen).filter(|told| told == "legacy b stopped"));
    let mark = link.mark();
    since(&link, mark);
    for seen in [first, link.seen()] {
        let told: Vec<_> = seen.iter().filter_map(told).collect();
        assert!(
            told.iter().all(|told| told.starts_with("legacy") || told.starts_with("response")),
            "{told:?}"
        );
        assert!(told.contains(&"legacy b stopped".to_owned()), "{told:?}");
    }
}
