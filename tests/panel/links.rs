//! Who is let in as a node, which of its connections counts, and what the Panel shows of it.

use rustix::process::Signal;
use serde_json::json;

use super::fake_agent::{FakeAgent, dial};
use super::process::{Panel, ask};

#[test]
fn a_node_is_let_in_with_its_own_secret_only() {
    let mut panel = Panel::start(&["n1", "n2"]);
    let good = format!("Bearer {}", panel.secret("n1"));
    let lower = format!("bearer {}", panel.secret("n1"));
    let others = format!("Bearer {}", panel.secret("n2"));
    let cut = &good[..good.len() - 1];
    let basic = format!("Basic {}", panel.secret("n1"));
    let check = |path: &str, id: Option<&str>, bearer: Option<&str>, expected: Result<(), u16>| {
        let headers: Vec<_> = [("X-Node-Id", id), ("Authorization", bearer)]
            .into_iter()
            .filter_map(|(n, v)| Some((n, v?)))
            .collect();
        let got = dial(&panel, path, &headers).map(drop);
        assert_eq!(got, expected, "{path} {id:?}");
    };
    check("/", Some("n1"), Some(&good), Ok(()));
    check("/any/path", Some("n1"), Some(&lower), Ok(()));
    check("/?nodeId=n1", None, Some(&good), Ok(()));
    check("/?nodeId=n1", Some("n1"), Some(&good), Ok(()));
    check("/?nodeId=n2", Some("n1"), Some(&good), Err(400));
    check("/", Some("n1"), Some(&others), Err(401));
    check("/", Some("n1"), Some(cut), Err(401));
    check("/", Some("n1"), Some(&basic), Err(401));
    check("/", Some("n1"), Some("Bearer "), Err(401));
    check("/", Some("n1"), None, Err(401));
    check("/", Some("n3"), Some(&good), Err(401));
    check("/", Some("../n1"), Some(&good), Err(400));
    check("/", None, Some(&good), Err(400));

    let plain = ask(&panel.agents, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(plain.status, 426);
    panel.signal(Signal::TERM);
    panel.wait();
    let log = panel.log();
    for secret in [panel.secret("n1"), panel.secret("n2")] {
        assert!(!log.contains(&secret[..16]), "a secret is in the log");
    }
    assert!(log.contains("was not let in"), "{log}");
}

#[test]
fn events_are_acknowledged_to_an_agent_that_can_be_told_once_they_are_stored() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect(&panel, "n1");
    let servers = json!([{"serverId": "s1", "status": "stopped"}]);
    let told = json!({"version": "9", "bootId": "b", "capabilities": ["event_ack"], "servers": servers});
    agent = agent.boot("b");
    agent.event("agent_connected", told);
    let list = agent.command("list_servers");
    agent.succeed(&list, json!({"servers": []}));
    assert_eq!(agent.next(), json!({"type": "ack", "bootId": "b", "seq": 1}));
    agent.status("s1", "running");
    agent.status("s1", "stopping");
    let mut acknowledged = 0;
    while acknowledged < 3 {
        let ack = agent.next();
        assert_eq!((&ack["type"], &ack["bootId"]), (&json!("ack"), &json!("b")), "{ack}");
        acknowledged = ack["seq"].as_u64().unwrap();
    }
}

#[test]
fn the_newest_connection_of_a_node_wins() {
    let panel = Panel::start(&["n1"]);
    let mut older = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    let mut newer = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    assert_eq!(older.closed(), 4001);
    let id = panel.order("POST", "/api/v1/servers/n1/s1/start", "{}");
    assert_eq!(newer.command("start_server")["id"], json!(id));
    // The end of the older one does not make the node offline.
    drop(older);
    newer.is_quiet(&panel, "n1");
    assert_eq!(panel.get("/api/v1/nodes").json()["items"][0]["online"], json!(true));
}

#[test]
fn nodes_and_servers_are_shown_as_they_tell() {
    let panel = Panel::start(&["n1", "n2"]);
    let mut events = panel.events(None);
    let mut agent = FakeAgent::connect(&panel, "n1");
    agent.say(&json!({"type": "system_info", "data": {"nodeId": "n1", "os": "Debian", "totalMemory": 5}}));
    agent.introduce(&[("s1", "running"), ("s2", "crashed")]);
    events.wait("server", |server| server["id"] == "s2" && server["image"] == "demo:1");
    let nodes = panel.get("/api/v1/nodes").json();
    let node = &nodes["items"][0];
    assert_eq!(
        (&node["online"], &node["version"], &node["servers"]),
        (&json!(true), &json!("9.9"), &json!(2))
    );
    assert_eq!(node["system"]["os"], json!("Debian"));
    assert_eq!(nodes["items"][1]["online"], json!(false));

    agent.event("resource_update", json!({"serverId": "s1", "cpu": 12.5, "memory": {"used": 7, "limit": 9}}));
    events.wait("usage", |told| {
        let server = &told["servers"][0];
        server["id"] == "s1" && server["usage"]["memory"]["used"] == 7
    });
    drop(agent);
    events.wait("node", |node| node["online"] == json!(false));
    let server = panel.get("/api/v1/servers/n1/s1").json();
    let shown = ["status", "lastStatus", "online", "usage"].map(|field| &server[field]);
    assert_eq!(shown, [&json!("unknown"), &json!("running"), &json!(false), &json!(null)]);

    // A node that comes back without a server says so; nothing else does.
    let _agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    events.wait("server", |server| server["id"] == "s2" && server["missing"] == json!(true));
}

#[test]
fn what_a_node_says_twice_is_taken_once() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    let mut events = panel.events(None);
    agent.status("s1", "starting");
    agent.status("s1", "running");
    // Sent again after a reconnect, say: the older of the two must not come back.
    let data = json!({"serverId": "s1", "previousStatus": "stopped", "currentStatus": "starting"});
    agent.event_again(2, "server_status_changed", data);
    agent.status("s1", "stopping");
    let mut seen = Vec::new();
    while seen.last() != Some(&json!("stopping")) {
        // What the list said at first may be told after the stream began.
        seen.push(events.wait("server", |server| server["status"] != "stopped").data["status"].clone());
    }
    assert_eq!(seen, [json!("starting"), json!("running"), json!("stopping")]);

    // Numbers begin anew with another boot.
    let mut agent = FakeAgent::connect(&panel, "n1").boot("boot-2");
    agent.introduce(&[("s1", "stopped")]);
    agent.status("s1", "crashed");
    events.wait("server", |server| server["status"] == "crashed");
}

#[test]
fn nonsense_from_a_node_is_skipped_and_the_link_stays() {
    let mut panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    agent.say_binary(vec![0; 100]);
    let deep = "[".repeat(10_000);
    for text in ["", "{", "[]", "null", r#"{"type":"never heard of"}"#, r#"{"type":"response"}"#, &deep] {
        agent.say_text(text);
    }
    agent.say(&json!({"type": "event", "event": "server_status_changed", "data": {"serverId": "../etc"}}));
    agent.is_quiet(&panel, "n1");
    // Its end is the end of its log; before, a line may still be on its way here.
    panel.signal(Signal::TERM);
    panel.wait();
    let log = panel.log();
    assert_eq!(log.matches("skipped").count(), 1, "one line in each interval:\n{log}");
}

#[test]
fn a_node_that_floods_does_not_hold_up_another() {
    let panel = Panel::start(&["n1", "n2"]);
    let mut good = FakeAgent::connect_with(&panel, "n2", &[("s1", "stopped")]);
    let mut flood = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    let (stop, stopping) = std::sync::mpsc::channel::<()>();
    let flooding = std::thread::spawn(move || {
        // It writes until its own socket is full or the test is over.
        for turn in 0.. {
            if stopping.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected) || turn == 1_000_000 {
                break;
            }
            flood.status("s1", if turn % 2 == 0 { "running" } else { "stopped" });
        }
    });
    let began = std::time::Instant::now();
    for _ in 0..20 {
        good.is_quiet(&panel, "n2");
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    drop(stop);
    drop(panel); // which ends a write that blocks
    let _ = flooding.join();
}
