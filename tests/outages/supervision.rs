//! Who is started again and who is not: crashes, backoff, giving up, exits without a fault, lack of memory, and what
//! a person's word changes.

use std::time::{Duration, SystemTime};

use crate::support::*;
use serde_json::{Value, json};

/// A demo server that ends by itself after `ms`.
fn dies(ms: u32, extra: Value) -> Value {
    let mut spec = demo(extra);
    spec["environment"]["CRASH_AFTER_MS"] = ms.to_string().into();
    spec
}

/// One that ends without a fault after half a second.
fn finishes(extra: Value) -> Value {
    let mut spec = demo(extra);
    spec["startup"] = json!(["/demo-server", "stop"]);
    spec["environment"]["START_DELAY_MS"] = "500".into();
    spec
}

/// The next status change of a server after the `mark`, with its time and the mark behind it.
fn next(link: &Connection, server: &str, mark: &mut usize) -> (Value, SystemTime) {
    let mut at = *mark;
    let found = link.wait_from(*mark, SOON, &format!("change of {server}"), |seen| {
        at += 1;
        match seen {
            Seen::Json(message)
                if message["event"] == "server_status_changed" && message["data"]["serverId"] == server =>
            {
                Some(message.clone())
            }
            _ => None,
        }
    });
    *mark = at;
    let time = humantime::parse_rfc3339(found["timestamp"].as_str().expect("a text")).expect("a time");
    (found["data"].clone(), time)
}

/// Follows a server that crashes until it is given up, and gives the waits before each restart.
fn waits(link: &Connection, server: &str, mark: &mut usize) -> Vec<Duration> {
    let (mut crashed, mut waits) = (None, Vec::new());
    loop {
        let (change, at) = next(link, server, mark);
        match (change["currentStatus"].as_str(), change["reason"].as_str()) {
            (Some("crashed"), Some("crash")) => crashed = Some(at),
            (Some("crashed"), Some("gave_up")) => return waits,
            (Some("starting"), reason) => {
                let crashed = crashed.take();
                assert_eq!(reason, Some(if crashed.is_some() { "crash" } else { "command" }), "{change}");
                waits.extend(crashed.map(|crashed| at.duration_since(crashed).expect("in order")));
            }
            (Some("running" | "created"), _) => {}
            _ => panic!("{change}"),
        }
    }
}

/// Whether each wait is the second that was promised, or the one that it doubled to; a busy machine makes it longer.
fn check_waits(found: &[Duration], seconds: &[u64]) {
    assert_eq!(found.len(), seconds.len(), "{found:?}");
    for (found, &seconds) in found.iter().zip(seconds) {
        let promised = Duration::from_secs(seconds);
        assert!(*found >= promised - Duration::from_millis(5) && *found < promised * 19 / 10, "{found:?}");
    }
}

#[test]
fn a_crash_is_followed_by_restarts_ever_further_apart_until_it_is_given_up() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let environment = json!({"EXIT_CODE": "3"});
    link.must(
        "create_server",
        "d",
        dies(700, json!({"restartPolicy": {"max": 4}, "environment": environment})),
    );
    link.must("create_server", "c", dies(700, json!({"restartPolicy": {"max": 4, "backoffCap": 1}})));
    for server in ["c", "d"] {
        link.command("start_server", server, json!({}));
    }
    let mut mark = 0;
    check_waits(&waits(&link, "d", &mut mark), &[1, 2, 4]);
    let last = link
        .wait_event("server_status_changed", |data| data["serverId"] == "d" && data["reason"] == "gave_up");
    assert_eq!(last["data"]["exitCode"], 3, "{last}");
    let mut capped = 0;
    check_waits(&waits(&link, "c", &mut capped), &[1, 1, 1]);

    // A person's start counts from the beginning again, and so does a restart, also between two crashes.
    for action in ["start_server", "restart_server"] {
        mark = link.mark();
        link.command("start_server", "c", json!({}));
        while next(&link, "c", &mut mark).0["currentStatus"] != "crashed" {}
        link.command(action, "c", json!({}));
        check_waits(&waits(&link, "c", &mut mark), &[1, 1, 1]);
    }

    // Who was given up stays so when the Agent comes back.
    assert_eq!(agent.terminate().code(), Some(0));
    agent.start_again();
    let link = panel.accept();
    let connected = link.wait_event("agent_connected", |_| true);
    let servers = connected["data"]["servers"].as_array().expect("a list");
    assert!(servers.iter().all(|server| server["status"] == "stopped"), "{connected}");
    assert_eq!(engine().state(&agent.container("c")), "exited");
    assert_eq!(link.must("start_server", "c", json!({}))["status"], "running");
}

#[test]
fn the_restart_rule_says_which_ends_are_faults() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let servers = [
        ("never-crash", dies(700, json!({"restart": "never"}))),
        ("never-finish", finishes(json!({"restart": "never"}))),
        ("fault-finish", finishes(json!({"restart": "on-failure"}))),
        ("always-finish", finishes(json!({"restart": "always"}))),
        ("max-1", dies(700, json!({"restartPolicy": {"max": 1}}))),
    ];
    for (server, spec) in &servers {
        link.must("create_server", server, spec.clone());
        assert_eq!(link.must("start_server", server, json!({}))["status"], "running");
    }
    let end = |server: &str| {
        let event = link.wait_event("server_status_changed", |data| {
            data["serverId"] == server
                && matches!(data["currentStatus"].as_str(), Some("stopped" | "crashed"))
        });
        let data = &event["data"];
        json!([data["currentStatus"], data["reason"], data["exitCode"]])
    };
    assert_eq!(end("never-crash"), json!(["crashed", "crash", 1]));
    assert_eq!(end("never-finish")[0], "stopped");
    assert_eq!(end("fault-finish")[0], "stopped");
    assert_eq!(end("fault-finish")[2], 0);
    assert_eq!(end("max-1"), json!(["crashed", "gave_up", 1]));
    // The one that is started again has had its second start when the others have had all the time for theirs.
    let starts = |server: &str| {
        let is_start = |m: &&Value| {
            m["event"] == "server_status_changed"
                && m["data"]["serverId"] == server
                && m["data"]["currentStatus"] == "running"
        };
        link.messages().iter().filter(is_start).count()
    };
    let mut count = 0;
    link.wait_event("server_status_changed", |data| {
        count += u32::from(data["serverId"] == "always-finish" && data["currentStatus"] == "running");
        count == 3
    });
    for (server, _) in servers.iter().filter(|(server, _)| *server != "always-finish") {
        assert_eq!(
            (starts(server), engine().state(&agent.container(server))),
            (1, "exited".into()),
            "{server}"
        );
    }
}

#[test]
fn a_word_ends_the_wait_for_a_restart() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    for server in ["stop", "kill", "suspend", "delete", "start"] {
        link.must("create_server", server, dies(500, json!({"restartPolicy": {"max": 9}})));
    }
    for server in ["stop", "kill", "suspend", "delete", "start"] {
        link.command("start_server", server, json!({}));
    }
    for server in ["stop", "kill", "suspend", "delete", "start"] {
        let action = format!("{server}_server");
        link.wait_event("server_status_changed", |data| {
            data["serverId"] == server && data["currentStatus"] == "crashed"
        });
        let answer = link.must(&action, server, json!({}));
        let status = match server {
            "start" => "running",
            "suspend" => "suspended",
            "delete" => "deleted",
            _ => "stopped",
        };
        assert_eq!(answer["status"], status, "{server}");
    }
    // By now the first wait of each, one second, would have passed twice over.
    let mut starts = 0;
    link.wait_event("server_status_changed", |data| {
        starts += u32::from(data["serverId"] == "start" && data["currentStatus"] == "running");
        starts == 4
    });
    for server in ["stop", "kill", "suspend"] {
        assert_eq!(engine().state(&agent.container(server)), "exited", "{server}");
    }
    assert_eq!(engine().state(&agent.container("delete")), "gone");
}

#[test]
fn a_server_that_took_too_much_memory_is_told_from_one_that_crashed() {
    let panel = FakePanel::start();
    let _agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let mut spec = demo(json!({"limits": {"memory": "24m"}, "restart": "never"}));
    spec["startup"] = json!(["/demo-server", "alloc 200"]);
    spec["environment"]["START_DELAY_MS"] = "500".into();
    link.must("create_server", "s", spec);
    link.must("start_server", "s", json!({}));
    let event = link.wait_event("server_status_changed", |data| data["currentStatus"] == "crashed");
    let data = &event["data"];
    assert_eq!(
        (&data["reason"], &data["oomKilled"], &data["exitCode"]),
        (&json!("oom"), &json!(true), &json!(137)),
        "{event}"
    );
}

#[test]
fn a_suspended_server_stays_so_through_every_end_of_the_agent() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let mut link = panel.accept();
    link.must("create_server", "s", demo(json!({})));
    link.must("start_server", "s", json!({}));
    assert_eq!(link.must("suspend_server", "s", json!({}))["status"], "suspended");
    for end in [AgentProcess::kill, |agent: &mut AgentProcess| assert_eq!(agent.terminate().code(), Some(0))]
    {
        end(&mut agent);
        agent.start_again();
        link = panel.accept();
        let connected = link.wait_event("agent_connected", |_| true);
        assert_eq!(connected["data"]["servers"][0]["status"], "suspended", "{connected}");
        assert_eq!(code(&link.call("start_server", "s", json!({}))), "SERVER_SUSPENDED");
        assert_eq!(link.must("get_status", "s", json!({}))["status"], "suspended");
        assert_eq!(engine().state(&agent.container("s")), "exited");
    }
    // Whoever starts it by hand, or ends the Agent in the middle of it: suspended is stopped.
    engine().must("POST", &format!("/containers/{}/start", agent.container("s")), None);
    let mut seen = link.mark();
    while next(&link, "s", &mut seen).0["currentStatus"] != "suspended" {}
    assert_eq!(engine().state(&agent.container("s")), "exited");

    let environment = json!({"IGNORE_TERM": "1"});
    link.must(
        "create_server",
        "slow",
        demo(
            json!({"environment": environment, "stop": {"type": "signal", "value": "SIGTERM", "timeout": 2}}),
        ),
    );
    link.must("start_server", "slow", json!({}));
    engine().wait_output(&agent.container("slow"), "Demo server ready");
    link.command("suspend_server", "slow", json!({}));
    engine().wait_output(&agent.container("slow"), "Signal ignored");
    agent.kill();
    assert_eq!(engine().state(&agent.container("slow")), "running");
    agent.start_again();
    link = panel.accept();
    let mut seen = 0;
    while next(&link, "slow", &mut seen).0["currentStatus"] != "suspended" {}
    assert_eq!(engine().state(&agent.container("slow")), "exited");

    assert_eq!(link.must("unsuspend_server", "s", json!({}))["status"], "stopped");
    assert_eq!(link.must("start_server", "s", json!({}))["status"], "running");
}
