//! What an Agent has to see to and the next one takes over: stops that wait, restarts that wait, many servers at once.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::*;

fn stubborn() -> Value {
    demo(json!({"environment": {"IGNORE_TERM": "1"}}))
}

/// An Agent whose server `s` takes no notice of a stop that is under way, killed and started again.
fn killed_while_stopping(
    panel: &FakePanel,
    action: &str,
    timeout: u32,
) -> (AgentProcess, Connection, String, Witness) {
    let mut agent = AgentProcess::start(panel);
    let link = panel.accept();
    link.must("create_server", "s", stubborn());
    link.must("start_server", "s", json!({}));
    engine().wait_output(&agent.container("s"), "Demo server ready");
    let witness = Witness::of(engine(), &agent.node_id);
    let id = link.command(action, "s", json!({"timeout": timeout}));
    engine().wait_output(&agent.container("s"), "Signal ignored");
    agent.wait_state("s", |record| record["supervision"]["stop"]["signal"].is_null());
    agent.kill();
    agent.start_again();
    let link = panel.accept();
    (agent, link, id, witness)
}

#[test]
fn a_stop_keeps_its_deadline_and_says_its_word_once() {
    let panel = FakePanel::start();
    let (agent, link, id, witness) = killed_while_stopping(&panel, "stop_server", 8);
    let connected = link.wait_event("agent_connected", |_| true);
    assert_eq!(connected["data"]["servers"][0]["status"], "stopping", "{connected}");
    assert_eq!(engine().state(&agent.container("s")), "running");
    let answer = link.response(&id);
    assert_eq!((&answer["success"], &answer["data"]["killed"]), (&json!(true), &json!(true)), "{answer}");
    assert_eq!(answer["data"]["exitCode"], 137);
    assert_eq!(witness.count("s", "kill"), 2, "SIGTERM and SIGKILL");
    assert_eq!(witness.count("s", "start"), 0);
}

#[test]
fn a_restart_that_was_in_its_first_half_is_brought_to_its_end() {
    let panel = FakePanel::start();
    let (agent, link, id, witness) = killed_while_stopping(&panel, "restart_server", 3);
    let answer = link.response(&id);
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(engine().state(&agent.container("s")), "running");
    assert_eq!((witness.count("s", "kill"), witness.count("s", "start")), (2, 1));
}

#[test]
fn a_crashed_server_waits_its_time_and_is_given_up_as_if_nothing_had_been() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let policy =
        json!({"restartPolicy": {"max": 4}, "environment": {"CRASH_AFTER_MS": "300", "EXIT_CODE": "3"}});
    link.must("create_server", "s", demo(policy));
    link.command("start_server", "s", json!({}));
    let mut crashes = 0;
    link.wait_event("server_status_changed", |data| {
        crashes += usize::from(data["currentStatus"] == "crashed");
        crashes == 3
    });
    agent.wait_state("s", |record| record["supervision"]["crashes"].as_array().is_some_and(|c| c.len() == 3));
    let witness = Witness::of(engine(), &agent.node_id);
    agent.kill();
    agent.start_again();
    let link = panel.accept();
    let connected = link.wait_event("agent_connected", |_| true);
    let boot = connected["bootId"].clone();
    assert_eq!(connected["data"]["servers"][0]["status"], "crashed", "it waits: {connected}");
    let change = |status: &str, reason: &str| {
        link.wait_json(&format!("{status} for {reason}"), |message| {
            let data = &message["data"];
            message["bootId"] == boot && data["currentStatus"] == status && data["reason"] == reason
        });
    };
    change("starting", "crash");
    change("crashed", "gave_up");
    assert_eq!(witness.count("s", "start"), 1);
}

#[test]
fn the_agents_own_starts_take_turns_and_hold_up_no_command() {
    const SERVERS: usize = 5;
    let gate = Arc::new(Watched::new((false, 0)));
    let guard = gate.clone();
    let proxy = EngineProxy::start(engine(), "1.41", move |request| {
        if request.ends_with("/start") {
            guard.update(|(_, seen)| *seen += 1);
            guard.wait(SOON * 4, |(open, _)| open.then_some(()));
        }
        None
    });
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start_with(&panel, engine(), &[]);
    let link = panel.accept();
    for n in 0..SERVERS {
        link.must("create_server", &format!("s{n}"), demo(json!({})));
        link.must("start_server", &format!("s{n}"), json!({}));
    }
    link.must("create_server", "other", demo(json!({})));
    agent.kill();
    for n in 0..SERVERS {
        engine().must("POST", &format!("/containers/{}/kill", agent.container(&format!("s{n}"))), None);
    }
    agent.set("DOCKER_HOST", proxy.engine().host());
    agent.set("START_PARALLEL", "2");
    agent.start_again();
    let link = panel.accept();
    gate.wait(SOON, |(_, seen)| (*seen == 2).then_some(())).expect("two are started");
    // A command's start comes through beside them, and what is no start goes on.
    let id = link.command("start_server", "other", json!({}));
    gate.wait(SOON, |(_, seen)| (*seen == 3).then_some(())).expect("the command's start is begun");
    link.must("create_server", "new", demo(json!({})));
    assert_eq!(gate.lock().1, 3, "the others wait for their turn");
    gate.update(|(open, _)| *open = true);
    assert_eq!(link.response(&id)["success"], true);
    let running = |health: &Value| health["servers"]["running"] == SERVERS + 1;
    agent.wait_health("all of them", running);
}

#[test]
fn every_server_is_attached_again_without_the_panel() {
    const SERVERS: usize = 12;
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    for n in 0..SERVERS {
        link.must("create_server", &format!("s{n}"), demo(json!({})));
        link.must("start_server", &format!("s{n}"), json!({}));
    }
    let witness = Witness::of(engine(), &agent.node_id);
    panel.go_away();
    agent.kill();
    agent.start_again();
    agent.wait_log_count("health at", 2);
    let (_, health) = agent.wait_health("all of them", |health| health["servers"]["running"] == SERVERS);
    assert_eq!((&health["connected"], &health["servers"]["total"]), (&json!(false), &json!(SERVERS)));
    for n in 0..SERVERS {
        assert_eq!(witness.count(&format!("s{n}"), "start"), 0);
    }
    let stopped = agent.http(&json!({"action": "stop_server", "serverId": "s0"}));
    assert_eq!(stopped["success"], true, "commands are taken: {stopped}");
}
