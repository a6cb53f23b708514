//! kill -9 of the Agent at every step between a command's receipt and the delivery of its answer. The Panel repeats what
//! has no answer, as Panels do. Each command is answered once, with the truth, and done at most once.

use serde_json::{Value, json};

use crate::support::*;

/// What a command is to do, and how it shows that it was done more than once.
struct Case {
    server: &'static str,
    action: &'static str,
    payload: Value,
    /// What the Engine tells when it is done, and how often.
    event: (&'static str, u32),
    /// The server's state once it is done.
    state: &'static str,
}

fn cases() -> Vec<Case> {
    let case = |server, action, payload, event, state| Case { server, action, payload, event, state };
    vec![
        case("made", "create_server", demo(json!({})), ("create", 1), "created"),
        case("begun", "start_server", json!({}), ("start", 1), "running"),
        case("again", "restart_server", json!({}), ("start", 1), "running"),
        case("ended", "stop_server", json!({}), ("kill", 1), "exited"),
        case("killed", "kill_server", json!({}), ("kill", 1), "exited"),
        case("deleted", "delete_server", json!({}), ("destroy", 1), "gone"),
        case("quiet", "suspend_server", json!({}), ("kill", 1), "exited"),
    ]
}

fn send(link: &Connection, id: &str, case: &Case) {
    let Case { server, action, payload, .. } = case;
    link.send(
        &json!({"id": id, "type": "command", "action": action, "serverId": server, "payload": payload}),
    );
}

/// An Agent that has a server for each case, and is not linked any more.
fn prepared(panel: &FakePanel) -> AgentProcess {
    let mut agent = AgentProcess::start(panel);
    let link = panel.accept();
    for Case { server, action, .. } in cases() {
        if action == "create_server" {
            continue;
        }
        let spec = demo(json!({"limits": {"memory": "64m"}, "restart": "never"}));
        link.must("create_server", server, spec);
        if !matches!(action, "start_server" | "delete_server") {
            link.must("start_server", server, json!({}));
            engine().wait_output(&agent.container(server), "Demo server ready");
        }
    }
    assert_eq!(agent.terminate().code(), Some(0));
    agent
}

/// What came of one command.
struct Outcome<'a> {
    case: &'a Case,
    answer: Value,
    /// How often the Engine has done it.
    done: u32,
}

/// Ends the Agent at `step` of each command in turn, has it come back, and repeats the command.
fn crashed_at(step: &str, check: impl Fn(&Outcome)) {
    let panel = FakePanel::start();
    let mut agent = prepared(&panel);
    for case in &cases() {
        let witness = Witness::of(engine(), &agent.node_id);
        agent.set("LONGSHORE_CRASH", step);
        agent.start_again();
        let link = panel.accept();
        // Known, so that a start or a stop finds it as it is.
        link.must("list_servers", "", json!({}));
        let id = format!("{step}-{}", case.action);
        send(&link, &id, case);
        link.wait_end(SOON);
        let before = link.responses(&id);
        agent.wait_killed();
        drop(link);

        agent.set("LONGSHORE_CRASH", "");
        agent.start_again();
        let link = panel.accept();
        send(&link, &id, case);
        let answer = link.response(&id);
        // Both the answer that was owed and the one to the repeat would be here now.
        link.must("system.ping", "", json!({}));
        let after = link.responses(&id);
        assert_eq!(after.len(), 1, "{step}: {after:?}");
        assert!(before.is_empty() || before == after, "{step}: {before:?}, then {after:?}");
        let state = engine().state(&agent.container(case.server));
        if answer["success"] == true {
            assert_eq!(state, case.state, "{step}: {answer}");
            assert_eq!(answer["data"]["serverId"], case.server);
        } else {
            assert_eq!(code(&answer), "INTERRUPTED", "{step}: {answer}");
        }
        let (event, most) = case.event;
        let done = witness.count(case.server, event);
        assert!(done <= most, "{step}: {} was done {done} times", case.action);
        check(&Outcome { case, answer, done });
        assert_eq!(agent.terminate().code(), Some(0));
    }
}

fn must_succeed(outcome: &Outcome) {
    let Outcome { case, answer, done } = outcome;
    assert_eq!((&answer["success"], *done), (&json!(true), case.event.1), "{}: {answer}", case.action);
}

#[test]
fn received_and_not_on_disk_it_is_done_once_or_not_at_all() {
    crashed_at("received", |outcome| {
        let expected = if outcome.answer["success"] == true { outcome.case.event.1 } else { 0 };
        assert_eq!(outcome.done, expected, "{}: {}", outcome.case.action, outcome.answer);
    });
}

#[test]
fn on_disk_and_not_done_nothing_is_done_for_it_any_more() {
    crashed_at("begun", |outcome| {
        assert_eq!(code(&outcome.answer), "INTERRUPTED", "{}: {}", outcome.case.action, outcome.answer);
        assert_eq!(outcome.done, 0, "{}", outcome.case.action);
    });
}

#[test]
fn done_and_not_on_disk_its_true_outcome_is_found() {
    crashed_at("worked", must_succeed);
}

#[test]
fn its_answer_on_disk_and_not_sent_it_is_the_answer() {
    crashed_at("answered", must_succeed);
}

#[test]
fn sent_and_not_delivered_it_is_sent_again() {
    crashed_at("told", must_succeed);
}
