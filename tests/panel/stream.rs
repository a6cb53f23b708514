//! The event stream: the whole state first, everything after it in order, and no hole after a loss.

use serde_json::json;

use super::fake_agent::FakeAgent;
use super::process::Panel;

#[test]
fn a_stream_resumes_without_a_hole() {
    let mut panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    agent.is_quiet(&panel, "n1");
    let mut events = panel.events(None);
    let first = events.next().unwrap();
    assert_eq!((first.name.as_str(), &first.data["servers"][0]["status"]), ("snapshot", &json!("stopped")));
    agent.status("s1", "starting");
    let last = events.wait("server", |_| true);
    drop(events);

    let words = ["running", "stopping", "stopped", "crashed"];
    words.iter().for_each(|word| agent.status("s1", word));
    let mut resumed = panel.events(last.id.as_deref());
    for word in words {
        let event = resumed.next().unwrap();
        assert_eq!((event.name.as_str(), &event.data["status"]), ("server", &json!(word)));
    }

    // After a restart the ids of before mean nothing, and the state comes whole.
    panel.kill();
    assert_eq!(resumed.next(), None);
    panel.start_again(&[]);
    let snapshot = panel.events(last.id.as_deref()).next().unwrap();
    assert_eq!(
        (snapshot.name.as_str(), &snapshot.data["servers"][0]["lastStatus"]),
        ("snapshot", &json!("stopped"))
    );
}

#[test]
fn a_page_that_does_not_read_is_dropped_and_costs_the_others_nothing() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    let mut slow = panel.events(None);
    slow.next().unwrap();
    let mut events = panel.events(None);
    // A name of 60 KB goes with each event, so that sockets and queue are soon full, while the other stream reads.
    let payload = format!(r#"{{"image":"x","name":"{}"}}"#, "x".repeat(60_000));
    let body = format!(r#"{{"action":"create_server","serverId":"big","payload":{payload}}}"#);
    panel.order("POST", "/api/v1/nodes/n1/command", &body);
    agent.command("create_server");
    let mut told = 0;
    while !panel.log().contains("stream was dropped") {
        assert!(told < 5_000, "after {told} events the stream that does not read is still kept");
        for _ in 0..50 {
            told += 1;
            agent.status("big", if told % 2 == 0 { "running" } else { "stopped" });
            events.wait("server", |server| server["status"] != "unknown");
        }
    }
    // It holds a part of what was told, without a hole, and then it ends.
    let mut previous = None;
    while let Some(event) = slow.next() {
        if event.name == "server" && event.data["status"] != "unknown" {
            assert_ne!(previous.as_ref(), Some(&event.data["status"]));
            previous = Some(event.data["status"].clone());
        }
    }
}
