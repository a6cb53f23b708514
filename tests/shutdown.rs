//! How the Agent ends: every command is answered, the Panel is told, the servers go on, and it does not take long.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::*;

/// A door before the Engine that holds every start back while it is shut.
fn door() -> (EngineProxy, Arc<Watched<bool>>) {
    let open = Arc::new(Watched::new(true));
    let held = Arc::clone(&open);
    let guard = move |request: &str| {
        if request.ends_with("/start") {
            held.wait(SOON, |open| open.then_some(()));
        }
        None
    };
    (EngineProxy::start(engine(), "1.41", guard), open)
}

/// The place of the first message in `seen` that fits.
fn place(seen: &[Seen], fits: impl Fn(&Value) -> bool) -> usize {
    let found = seen.iter().position(|seen| matches!(seen, Seen::Json(message) if fits(message)));
    found.expect("the message came")
}

#[test]
fn every_command_is_answered_and_the_servers_go_on() {
    let (proxy, open) = door();
    let registry = Registry::start("");
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start_with(&panel, proxy.engine(), &[]);
    let link = panel.accept();
    let names = ["stubborn", "slow-1", "slow-2", "slow-3", "slow-4", "queued-1", "queued-2"];
    for server in names {
        link.must("create_server", server, demo(json!({"environment": {"IGNORE_TERM": "1"}})));
    }
    link.must("start_server", "stubborn", json!({}));
    let stubborn = agent.container("stubborn");
    engine().wait_output(&stubborn, "Demo server ready");

    // Under way when the signal comes: a stop that waits, a pull, four starts in work and two that wait for a worker.
    let stop = link.command("stop_server", "stubborn", json!({"timeout": 60}));
    engine().wait_output(&stubborn, "Signal ignored");
    let before = engine().inspect(&stubborn).expect("it runs")["State"].clone();
    let image = registry.image(Image::Hangs, "1");
    let pull = link.command("create_server", "pulled", demo(json!({"image": image})));
    assert!(registry.wait_hanging(1, SOON));
    open.update(|open| *open = false);
    let mark = proxy.requests().len();
    let starts =
        ["slow-1", "slow-2", "slow-3", "slow-4"].map(|name| link.command("start_server", name, json!({})));
    proxy.wait_requests(mark, "/start", 4);
    let queued = ["queued-1", "queued-2"].map(|name| link.command("start_server", name, json!({})));
    link.must("system.ping", "", json!({}));

    let begun = Instant::now();
    agent.signal(Signal::TERM);
    agent.wait_log("signal 15");
    for (action, server) in [("start_server", "queued-1"), ("kill_server", "stubborn"), ("list_servers", "")]
    {
        let answer = link.call(action, server, json!({}));
        assert_eq!(code(&answer), "SHUTTING_DOWN", "{action}: {answer}");
    }
    assert_eq!(code(&link.response(&pull)), "INTERRUPTED");
    assert!(registry.wait_given_up(1, SOON), "the pull goes on");
    // What the workers had begun is waited for, and what they had not is not begun any more.
    for id in &queued {
        assert_eq!(code(&link.response(id)), "INTERRUPTED");
    }
    open.update(|open| *open = true);
    let status = agent.wait(Duration::from_secs(20));
    let took = begun.elapsed();
    println!("ended after {took:.2?}");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(11), "{took:?}");

    assert_eq!(code(&link.response(&stop)), "INTERRUPTED");
    for id in starts.iter().chain(&queued).chain([&stop, &pull]) {
        assert_eq!(link.responses(id).len(), 1, "{id}");
    }
    link.wait_end(SOON);
    let seen = link.seen();
    let stopping = place(&seen, |message| message["event"] == "agent_stopping");
    let last =
        seen.iter().rposition(|s| matches!(s, Seen::Json(m) if m["type"] == "response")).expect("some");
    let close = seen.iter().position(|seen| *seen == Seen::Close(Some(1001))).expect("it said goodbye");
    assert!(last < stopping && stopping < close, "{last} {stopping} {close}");

    assert_eq!(engine().inspect(&stubborn).expect("it is there")["State"], before);
    for name in ["queued-1", "queued-2"] {
        assert_eq!(engine().state(&agent.container(name)), "created", "{name}");
    }
}

#[test]
fn a_start_in_work_is_answered_as_it_went() {
    let (proxy, open) = door();
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start_with(&panel, proxy.engine(), &[]);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({})));
    open.update(|open| *open = false);
    let start = link.command("start_server", "s", json!({}));
    proxy.wait_requests(0, "/start", 1);
    agent.signal(Signal::INT);
    agent.wait_log("signal 2");
    open.update(|open| *open = true);
    let answer = link.response(&start);
    assert_eq!(
        (&answer["success"], &answer["data"]["status"]),
        (&json!(true), &json!("running")),
        "{answer}"
    );
    assert_eq!(agent.wait(SOON).code(), Some(0));
    assert_eq!(engine().state(&agent.container("s")), "running");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (proxy, open) = door();
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start_with(&panel, proxy.engine(), &[]);
    let link = panel.accept();
    for name in ["runs", "starts"] {
        link.must("create_server", name, demo(json!({})));
    }
    link.must("start_server", "runs", json!({}));
    open.update(|open| *open = false);
    link.command("start_server", "starts", json!({}));
    proxy.wait_requests(0, "/start", 2);
    agent.signal(Signal::TERM);
    agent.wait_log("signal 15");
    let begun = Instant::now();
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait(SOON).code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(engine().state(&agent.container("runs")), "running");
    open.update(|open| *open = true);
}

#[test]
fn a_hangup_of_the_terminal_changes_nothing() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({})));
    link.must("start_server", "s", json!({}));
    agent.signal(Signal::HUP);
    agent.wait_log("the policy was read again: it is the same");
    assert_eq!(link.must("get_status", "s", json!({}))["status"], "running");
    assert!(!link.has_ended() && panel.accept_within(Duration::from_millis(10)).is_none());
    assert_eq!(agent.terminate().code(), Some(0));
}

#[test]
fn it_ends_soon_whatever_the_panel_does() {
    let no_answer = [Behaviour::Hang, Behaviour::Refuse(503, vec![("retry-after", "60".into())])];
    for behaviour in no_answer {
        let panel = FakePanel::start();
        panel.behave(behaviour);
        let mut agent = AgentProcess::start(&panel);
        assert!(panel.wait_attempts(1, SOON));
        let begun = Instant::now();
        assert_eq!(agent.terminate().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.wait_event("agent_connected", |_| true);
    link.stop_reading();
    let begun = Instant::now();
    assert_eq!(agent.terminate().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}
