//! Engines of other versions than the one at hand, and Engines that are slow, refuse a version or break connections:
//! the Agent agrees with each on a version and does its work.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::*;

/// The minor versions that requests came with, without repetition.
fn versions(requests: &[String]) -> Vec<u32> {
    let minor = |request: &String| request.split_once(" /v1.")?.1.split('/').next()?.parse().ok();
    let mut found: Vec<u32> = requests.iter().filter_map(minor).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// A server's whole life, with a crash and an operator in it, so that events matter.
fn live(link: &Connection, agent: &AgentProcess) {
    link.must("create_server", "s", demo(json!({})));
    link.must("start_server", "s", json!({}));
    engine().wait_output(&agent.container("s"), "Demo server ready");
    assert_eq!(link.must("stop_server", "s", json!({}))["exitCode"], 0);
    link.must("start_server", "s", json!({}));
    engine().must("POST", &format!("/containers/{}/kill", agent.container("s")), None);
    link.wait_event("server_status_changed", |data| data["reason"] == "operator" && data["exitCode"] == 137);
    assert_eq!(link.must("restart_server", "s", json!({}))["status"], "running");
    assert_eq!(link.must("kill_server", "s", json!({}))["exitCode"], 137);
    assert_eq!(link.must("delete_server", "s", json!({}))["status"], "deleted");
    assert_eq!(engine().state(&agent.container("s")), "gone");
}

#[test]
fn each_version_from_1_40_up_is_spoken_to_in_its_own_and_no_newer_than_is_known() {
    let check = |claimed: &str, spoken: u32| {
        let proxy = EngineProxy::start(engine(), claimed, |_| None);
        let panel = FakePanel::start();
        let agent = AgentProcess::start_with(&panel, proxy.engine(), &[]);
        live(&panel.accept(), &agent);
        assert_eq!(versions(&proxy.requests()), [spoken], "{claimed}");
    };
    thread::scope(|scope| {
        for (claimed, spoken) in
            [("1.40", 40), ("1.41", 41), ("1.44", 44), ("1.47", 47), ("1.52", 52), ("1.99", 52)]
        {
            scope.spawn(move || check(claimed, spoken));
        }
    });
}

#[test]
fn an_engine_that_is_too_old_is_told_of() {
    let proxy = EngineProxy::start(engine(), "1.39", |_| None);
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start_with(&panel, proxy.engine(), &[]);
    let link = panel.accept();
    let answer = link.call("create_server", "s", demo(json!({})));
    assert_eq!(code(&answer), "DOCKER_UNAVAILABLE", "{answer}");
    let line = agent.wait_log("engine: lost");
    assert!(line.contains("1.39") && line.contains("1.40"), "{line}");
    assert!(versions(&proxy.requests()).is_empty(), "nothing is asked of it");
    // Replaced by one that is not.
    proxy.claim("1.41");
    agent.wait_log("engine: version");
    link.must("create_server", "s", demo(json!({})));
    assert_eq!(agent.terminate().code(), Some(0));
}

#[test]
fn a_version_that_is_refused_is_agreed_on_anew() {
    // An Engine that was exchanged under the Agent: what was right is too new or too old from one call to the next.
    for (from, to, refusal) in [
        ("1.52", 41, "client version 1.52 is too new. Maximum supported API version is 1.41"),
        ("1.41", 52, "client version 1.41 is too old. Minimum supported API version is 1.44, please upgrade"),
    ] {
        let exchanged = Arc::new(AtomicBool::new(false));
        let refuses = Arc::clone(&exchanged);
        let old = format!("/v{from}/");
        let proxy = EngineProxy::start(engine(), from, move |request| {
            let refused = refuses.load(Ordering::Relaxed) && request.contains(&old);
            refused.then(|| Passage::Answer(400, json!({"message": refusal}).to_string()))
        });
        let panel = FakePanel::start();
        let agent = AgentProcess::start_with(&panel, proxy.engine(), &[]);
        let link = panel.accept();
        link.must("create_server", "s", demo(json!({})));
        exchanged.store(true, Ordering::Relaxed);
        proxy.claim(&format!("1.{to}"));
        let mark = proxy.requests().len();
        assert_eq!(link.must("start_server", "s", json!({}))["status"], "running");
        // The event stream stands since before; when it breaks, the new version holds for it too.
        proxy.cut();
        proxy.wait_requests(mark, &format!("GET /v1.{to}/events"), 1);
        engine().wait_output(&agent.container("s"), "Demo server ready");
        assert_eq!(link.must("stop_server", "s", json!({}))["status"], "stopped");
    }
}

#[test]
fn broken_connections_bring_no_false_word() {
    // Every third call is lost on its way in, every third on its way out.
    let (count, breaks) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, broken) = (Arc::clone(&count), Arc::clone(&breaks));
    let proxy = EngineProxy::start(engine(), "1.41", move |request| {
        if !broken.load(Ordering::Relaxed) || !request.starts_with("POST") {
            return None;
        }
        match counted.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => Some(Passage::CutBefore),
            1 => Some(Passage::CutAfter),
            _ => None,
        }
    });
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, proxy.engine(), &[]);
    let link = panel.accept();
    for server in ["s", "other"] {
        link.must("create_server", server, demo(json!({})));
        link.must("start_server", server, json!({}));
        engine().wait_output(&agent.container(server), "Demo server ready");
    }
    breaks.store(true, Ordering::Relaxed);
    for action in
        ["restart_server", "stop_server", "start_server", "kill_server", "start_server", "stop_server"]
    {
        // Whatever is answered, what is said to be is what is.
        let begun = Instant::now();
        let answer = link.call(action, "s", json!({"timeout": 12}));
        let state = engine().state(&agent.container("s"));
        let status = match answer["success"] == true {
            true => answer["data"]["status"].as_str().expect("a word").to_owned(),
            false => wait_known(&link),
        };
        assert_eq!(status == "running", state == "running", "{action}: {answer}, in truth {state}");
        assert!(matches!(status.as_str(), "running" | "stopped"), "{action}: {answer}");
        // A signal that was lost is sent again, before any deadline has come.
        assert!(begun.elapsed() < Duration::from_secs(9), "{action} took {:?}", begun.elapsed());
    }
    assert!(count.load(Ordering::Relaxed) >= 6, "some calls were broken");
    breaks.store(false, Ordering::Relaxed);

    // The stream of events breaks while things happen.
    for _ in 0..3 {
        proxy.cut();
        engine().must("POST", &format!("/containers/{}/restart?t=5", agent.container("other")), None);
    }
    wait_known(&link);
    assert_eq!(link.must("stop_server", "other", json!({}))["status"], "stopped");
    let lies = |message: &serde_json::Value| {
        message["event"] == "server_status_changed" && message["data"]["currentStatus"] == "crashed"
    };
    assert!(!link.messages().iter().any(lies), "nothing has crashed");
}

/// Waits until Docker was asked again, and gives what the server is then.
fn wait_known(link: &Connection) -> String {
    let status = |link: &Connection| {
        link.must("get_status", "s", json!({}))["status"].as_str().expect("a word").to_owned()
    };
    loop {
        let mark = link.mark();
        let known = status(link);
        if !matches!(known.as_str(), "unknown" | "starting" | "stopping" | "restarting") {
            return known;
        }
        link.wait_from(mark, SOON, "a change of s", |seen| match seen {
            Seen::Json(m) if m["event"] == "server_status_changed" && m["data"]["serverId"] == "s" => {
                Some(())
            }
            _ => None,
        });
    }
}

#[test]
fn a_slow_engine_is_waited_for() {
    let proxy = EngineProxy::start(engine(), "1.41", |request| {
        // The delay is what is tested.
        if !request.contains("/events") {
            thread::sleep(Duration::from_millis(150));
        }
        None
    });
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, proxy.engine(), &[]);
    live(&panel.accept(), &agent);
}
