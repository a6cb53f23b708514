//! Delivery and repeats, section 2 of the contract: each receipt of a command is answered once, no command is run
//! twice, nothing is lost, whatever happens to the link. What was run is read off the Engine, not off the Agent.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use support::*;

/// A command with an id of the test's choice.
fn send(link: &Connection, id: &str, action: &str, server: &str, payload: Value) {
    link.send(
        &json!({"id": id, "type": "command", "action": action, "serverId": server, "payload": payload}),
    );
}

/// Everything that came before is dealt with when this is answered: reads are answered in order.
fn fence(link: &Connection) {
    link.must("system.ping", "", json!({}));
}

/// Waits until so many responses to `id` have come, and gives them.
fn responses(link: &Connection, id: &str, count: usize) -> Vec<Value> {
    let mut seen = 0;
    link.wait(&format!("{count} responses to {id}"), |found| {
        seen += usize::from(matches!(found, Seen::Json(m) if m["type"] == "response" && m["id"] == id));
        (seen == count).then_some(())
    });
    link.responses(id)
}

fn started_at(agent: &AgentProcess, server: &str) -> Value {
    engine().inspect(&agent.container(server)).expect("it is there")["State"]["StartedAt"].clone()
}

fn stubborn() -> Value {
    demo(json!({"environment": {"QUIET": "1", "IGNORE_TERM": "1"}}))
}

/// How often the demo server of this container was started, in its own words.
fn starts(agent: &AgentProcess, server: &str) -> usize {
    let path = format!("/containers/{}/logs?stdout=1", agent.container(server));
    let log = engine().must("GET", &path, None);
    log.as_str().unwrap_or_default().matches("Starting demo server").count()
}

#[test]
fn each_receipt_is_answered_once_and_the_command_is_run_once() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    for server in ["s", "t"] {
        link.must("create_server", server, stubborn());
        link.must("start_server", server, json!({}));
    }
    engine().wait_output(&agent.container("s"), "Demo server ready");

    // Three receipts while it runs.
    for _ in 0..3 {
        send(&link, "stop", "stop_server", "s", json!({"timeout": 1}));
    }
    let answers = responses(&link, "stop", 3);
    assert!(
        answers.iter().all(|answer| *answer == answers[0] && answer["data"]["killed"] == true),
        "{answers:?}"
    );

    // A repeat of what was answered: the same answer, and nothing is done.
    send(&link, "restart", "restart_server", "s", json!({"timeout": 5, "signal": "SIGKILL"}));
    let first = responses(&link, "restart", 1);
    let started = started_at(&agent, "s");
    link.send_text(r#"{"serverId":"s","payload":{"signal":"SIGKILL","timeout":5},"timestamp":"2026-01-01T00:00:00Z","action":"restart_server","type":"command","id":"restart"}"#);
    assert_eq!(responses(&link, "restart", 2)[1], first[0], "with its own timestamp");
    assert_eq!(started_at(&agent, "s"), started);

    // Other content under the same id is another command.
    send(&link, "restart", "restart_server", "s", json!({"timeout": 0}));
    assert_eq!(responses(&link, "restart", 3)[2]["success"], true);
    let again = started_at(&agent, "s");
    assert_ne!(again, started);
    let other = started_at(&agent, "t");
    send(&link, "restart", "restart_server", "t", json!({"timeout": 0}));
    responses(&link, "restart", 4);
    assert_ne!(started_at(&agent, "t"), other);
    send(&link, "restart", "kill_server", "t", json!({}));
    responses(&link, "restart", 5);
    assert_eq!(
        (engine().state(&agent.container("t")), started_at(&agent, "s")),
        ("exited".into(), again.clone())
    );

    // A refusal is remembered too; what has no id, or an empty one, runs each time.
    for _ in 0..2 {
        send(&link, "nobody", "start_server", "nobody", json!({}));
    }
    responses(&link, "nobody", 2);
    let mut before = again;
    for count in 1..=2 {
        send(&link, "", "restart_server", "s", json!({"timeout": 0}));
        responses(&link, "", count);
        let now = started_at(&agent, "s");
        assert_ne!(now, before);
        before = now;
    }
    fence(&link);
    for (id, count) in [("stop", 3), ("restart", 5), ("nobody", 2), ("", 2)] {
        assert_eq!(link.responses(id).len(), count, "{id}");
    }
}

#[test]
fn an_answer_finds_its_way_to_a_new_connection() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "s", stubborn());
    link.must("start_server", "s", json!({}));
    engine().wait_output(&agent.container("s"), "Demo server ready");

    // Running when the link is cut, and repeated on the new one: one answer serves both.
    send(&link, "running", "stop_server", "s", json!({"timeout": 2}));
    link.wait_event("server_status_changed", |data| data["currentStatus"] == "stopping");
    link.cut();
    let link = panel.accept();
    send(&link, "running", "stop_server", "s", json!({"timeout": 2}));
    assert_eq!(responses(&link, "running", 1)[0]["data"]["killed"], true);

    // Answered twice for two receipts, and neither known as delivered: sent again once, which answers the first
    // repeat; the second one is answered anew.
    link.answer_pings(false);
    for _ in 0..2 {
        send(&link, "answered", "start_server", "s", json!({}));
    }
    let first = responses(&link, "answered", 2)[0].clone();
    let started = started_at(&agent, "s");
    link.cut();
    let link = panel.accept();
    assert_eq!(responses(&link, "answered", 1)[0], first, "before anybody asks");
    send(&link, "answered", "start_server", "s", json!({}));
    fence(&link);
    assert_eq!(link.responses("answered").len(), 1, "never twice on one connection");
    send(&link, "answered", "start_server", "s", json!({}));
    assert_eq!(responses(&link, "answered", 2)[1], first);

    // Delivered: not sent again by itself. The pong is on its way before the fence is asked for.
    link.wait("ping behind the answer", |seen| matches!(seen, Seen::Ping(_)).then_some(()));
    fence(&link);
    fence(&link);
    link.cut();
    let link = panel.accept();
    link.wait_event("agent_connected", |_| true);
    assert_eq!(link.responses("answered"), [Value::Null; 0]);
    send(&link, "answered", "start_server", "s", json!({}));
    assert_eq!(responses(&link, "answered", 1), [first]);
    assert_eq!(started_at(&agent, "s"), started, "run once");
}

/// The commands of a busy Panel: creates, starts, restarts and stops, fifty in all, by id.
fn fifty() -> BTreeMap<String, (&'static str, String, Value)> {
    let mut commands = BTreeMap::new();
    let mut add = |action: &'static str, server: String, payload: Value| {
        commands.insert(format!("{action}-{server}"), (action, server, payload));
    };
    for n in 0..38 {
        add("create_server", format!("new-{n}"), demo(json!({})));
    }
    for n in 0..4 {
        add("start_server", format!("resting-{n}"), json!({}));
        add("restart_server", format!("obeying-{n}"), json!({"timeout": 20}));
        add("stop_server", format!("stubborn-{n}"), json!({"timeout": 1}));
    }
    commands
}

/// Sends fifty commands; `interrupt` ends the connection in its own way once they are on their way and gives what came
/// on it. Then the Panel is away for a moment, comes back, and repeats all of them or none.
fn interrupted(repeat: bool, interrupt: impl FnOnce(Connection, &AgentProcess) -> Vec<Seen>) {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    for n in 0..4 {
        for (kind, spec) in
            [("resting", demo(json!({}))), ("obeying", demo(json!({}))), ("stubborn", stubborn())]
        {
            link.command("create_server", &format!("{kind}-{n}"), spec);
            if kind != "resting" {
                link.command("start_server", &format!("{kind}-{n}"), json!({}));
            }
        }
    }
    let is_running = |data: &Value| data["currentStatus"] == "running";
    let mut running = 0;
    link.wait_event("server_status_changed", |data| {
        running += usize::from(is_running(data));
        running == 8
    });
    for server in ["obeying", "stubborn"] {
        for n in 0..4 {
            engine().wait_output(&agent.container(&format!("{server}-{n}")), "Demo server ready");
        }
    }
    fence(&link);
    let commands = fifty();
    let send_all = |link: &Connection| {
        commands
            .iter()
            .for_each(|(id, (action, server, payload))| send(link, id, action, server, payload.clone()));
    };
    send_all(&link);
    let first = interrupt(link, &agent);
    panel.go_away();
    agent.wait_log("next dial in");
    panel.come_back();
    let link = panel.accept();
    if repeat {
        send_all(&link);
    }
    let answered = |seen: &[Seen], id: &str| {
        let is_answer =
            |seen: &&Seen| matches!(seen, Seen::Json(m) if m["type"] == "response" && m["id"] == id);
        seen.iter().filter(is_answer).count()
    };
    for id in commands.keys() {
        if repeat || answered(&first, id) == 0 {
            responses(&link, id, 1);
        }
    }
    fence(&link);
    let second = link.seen();
    for (id, (action, server, _)) in &commands {
        for seen in [&first, &second] {
            assert!(answered(seen, id) <= 1, "{id} was answered twice on one connection");
        }
        let all = first.iter().chain(&second);
        let success =
            all.filter(|seen| matches!(seen, Seen::Json(m) if m["id"] == *id && m["success"] == true));
        assert!(success.count() > 0, "{id} did not succeed");
        let (state, expected) = match *action {
            "create_server" => ("created", 0),
            "start_server" => ("running", 1),
            "restart_server" => ("running", 2),
            _ => ("exited", 1),
        };
        let container = agent.container(server);
        if state == "running" {
            engine().wait_output(&container, "Demo server ready");
        }
        assert_eq!(engine().state(&container), state, "{id}");
        assert_eq!(starts(&agent, server), expected, "{id} was run another number of times than once");
    }
    assert_eq!(engine().list(&format!("longshore.node={}", agent.node_id)).len(), 38 + 12);
    check_seqs(&[&first, &second]);
}

/// Over all connections, the events of each boot are numbered from one without a hole, and on one connection they
/// come in order.
fn check_seqs(connections: &[&[Seen]]) {
    let mut boots: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for seen in connections {
        let mut last = BTreeMap::new();
        for seen in *seen {
            let Seen::Json(message) = seen else { continue };
            let (Some(seq), Some(boot)) = (message["seq"].as_u64(), message["bootId"].as_str()) else {
                continue;
            };
            let before = last.insert(boot.to_owned(), seq);
            assert!(before.is_none_or(|before| before < seq), "{before:?}, then {seq}");
            boots.entry(boot.to_owned()).or_default().insert(seq);
        }
    }
    assert!(!boots.is_empty());
    for seqs in boots.values() {
        assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
    }
}

#[test]
fn a_panel_that_dies_amid_fifty_commands_and_repeats_them_gets_each_answer_once() {
    interrupted(true, |link, _| {
        link.wait("an answer", |seen| {
            matches!(seen, Seen::Json(m) if m["id"].as_str().is_some_and(|id| id.starts_with("create_server-"))).then_some(())
        });
        link.cut()
    });
}

#[test]
fn answers_that_were_still_in_the_kernel_are_sent_again_to_one_that_repeats_nothing() {
    interrupted(false, |link, agent| {
        // From here on the answers go as far as the kernel's buffers, and no pong comes.
        link.stop_reading();
        for id in ["create_server-new-37", "start_server-resting-3", "stop_server-stubborn-3"] {
            agent.wait_log(&format!("{id}: "));
        }
        link.cut()
    });
}

#[test]
fn events_keep_their_numbers_over_connections_and_get_new_ones_with_a_new_start() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let mut connections = Vec::new();
    for n in 0..3 {
        let link = panel.accept();
        link.answer_pings(n == 1);
        link.must("create_server", &format!("s{n}"), demo(json!({})));
        connections.push(link.cut());
    }
    let link = panel.accept();
    link.must("delete_server", "s0", json!({}));
    assert_eq!(agent.terminate().code(), Some(0));
    connections.push(link.seen());
    agent.start_again();
    let link = panel.accept();
    link.must("delete_server", "s1", json!({}));
    let seen = link.seen();
    let boots = |seen: &[Seen]| {
        let boot = |seen: &Seen| match seen {
            Seen::Json(message) => message["bootId"].as_str().map(str::to_owned),
            _ => None,
        };
        seen.iter().filter_map(boot).collect::<BTreeSet<_>>()
    };
    assert!(boots(&seen).is_disjoint(&boots(&connections[0])));
    connections.push(seen);
    check_seqs(&connections.iter().map(Vec::as_slice).collect::<Vec<_>>());
}
