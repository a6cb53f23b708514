//! What a killed Agent leaves to the next: what is remembered, what is owed, what was queued.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::support::*;

fn send(link: &Connection, id: &str, action: &str, server: &str, payload: Value) {
    link.send(
        &json!({"id": id, "type": "command", "action": action, "serverId": server, "payload": payload}),
    );
}

#[test]
fn answers_are_remembered_over_kills_and_restarts_in_every_dialect() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    send(&link, "make", "create_server", "s", demo(json!({})));
    let made = link.response("make");
    send(&link, "nobody", "start_server", "nobody", json!({}));
    let nobody = link.response("nobody");
    let started = json!({"id": "http", "action": "start_server", "serverId": "s"});
    let begun = agent.http(&started);
    assert_eq!((&made["success"], &begun["success"]), (&json!(true), &json!(true)));
    let witness = Witness::of(engine(), &agent.node_id);
    for kill in [true, false] {
        if kill {
            agent.kill();
        } else {
            assert_eq!(agent.terminate().code(), Some(0));
        }
        agent.start_again();
        let link = panel.accept();
        link.wait_event("agent_connected", |_| true);
        for (id, action, server, payload, answer) in [
            ("make", "create_server", "s", demo(json!({})), &made),
            ("nobody", "start_server", "nobody", json!({}), &nobody),
        ] {
            send(&link, id, action, server, payload);
            assert_eq!(link.response(id), *answer);
        }
        assert_eq!(agent.http(&started), begun);
    }
    assert_eq!(witness.count("s", "start") + witness.count("s", "create"), 0);
}

#[test]
fn what_waited_in_the_queue_of_a_killed_agent_is_answered_and_not_begun() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({"environment": {"IGNORE_TERM": "1"}})));
    link.must("start_server", "s", json!({}));
    engine().wait_output(&agent.container("s"), "Demo server ready");
    send(&link, "first", "restart_server", "s", json!({"timeout": 3600}));
    link.wait_event("server_status_changed", |data| data["currentStatus"] == "restarting");
    for n in 0..20 {
        send(&link, &format!("queued-{n}"), "unsuspend_server", "s", json!({}));
    }
    link.must("system.ping", "", json!({}));
    agent.wait_journal("queued-19");
    agent.kill();
    agent.start_again();
    let link = panel.accept();
    for n in 0..20 {
        let answer = link.response(&format!("queued-{n}"));
        assert_eq!(code(&answer), "INTERRUPTED", "before anybody asks: {answer}");
    }
}

#[test]
fn a_torn_journal_is_read_as_far_as_it_is_whole() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    for n in 0..5 {
        send(&link, &format!("nobody-{n}"), "start_server", "nobody", json!({}));
        link.response(&format!("nobody-{n}"));
    }
    agent.kill();
    let path = agent.data_dir.join("journal/commands");
    let mut journal = fs::read(&path).unwrap();
    journal.truncate(journal.len() - 3);
    fs::write(&path, journal).unwrap();
    agent.set("LONGSHORE_CRASH", "torn");
    agent.start_again();
    let link = panel.accept();
    agent.wait_log("were torn and are ignored");
    send(&link, "torn", "start_server", "nobody", json!({}));
    agent.wait_killed();
    agent.set("LONGSHORE_CRASH", "");
    agent.start_again();
    let link = panel.accept();
    send(&link, "torn", "start_server", "nobody", json!({}));
    assert_eq!(code(&link.response("torn")), "SERVER_NOT_FOUND");
    send(&link, "nobody-0", "start_server", "nobody", json!({}));
    assert_eq!(code(&link.response("nobody-0")), "SERVER_NOT_FOUND");
}

#[test]
fn a_thousand_commands_cost_few_writes_to_the_disk_and_reads_cost_none() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({})));
    let before = agent.metric("longshore_journal_commits_total");
    for n in 0..1000 {
        send(&link, &format!("stop-{n}"), "stop_server", "s", json!({}));
    }
    let mut left: BTreeSet<String> = (0..1000).map(|n| format!("stop-{n}")).collect();
    link.wait("a thousand answers", |seen| {
        if let Seen::Json(message) = seen {
            left.remove(message["id"].as_str().unwrap_or_default());
        }
        left.is_empty().then_some(())
    });
    let commits = agent.metric("longshore_journal_commits_total") - before;
    // Of each there are three records; how many share a write depends on how slow the disk is.
    assert!((1.0..2000.0).contains(&commits), "{commits} for 1000 commands");
    let before = agent.metric("longshore_journal_commits_total");
    for _ in 0..100 {
        link.must("get_status", "s", json!({}));
        link.must("list_servers", "", json!({}));
    }
    assert_eq!(agent.metric("longshore_journal_commits_total"), before);
}
