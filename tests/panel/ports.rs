//! Host ports: no two servers of a node are given the same, however many are made at once, and what belongs together
//! stays together.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::fake_agent::FakeAgent;
use super::process::Panel;

/// What the node is told for each server that is made.
fn given(command: &Value) -> Vec<(u64, u64, String)> {
    let ports = command["payload"]["ports"].as_array().unwrap().iter();
    ports
        .map(|port| {
            assert!(port.get("offset").is_none() && port.get("preferred").is_none(), "{port}");
            let kind = port["protocol"].as_str().unwrap().to_owned();
            (port["internal"].as_u64().unwrap(), port["external"].as_u64().unwrap(), kind)
        })
        .collect()
}

fn range(panel: &Panel, first: u16, last: u16) {
    let body = json!({"ports": {"first": first, "last": last}}).to_string();
    assert_eq!(panel.send("PATCH", "/api/v1/nodes/n1", &body).status, 200);
}

#[test]
fn servers_that_are_made_at_once_get_ports_of_their_own() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("told", "running")]);
    range(&panel, 30_000, 30_039);
    let body = |id: usize| {
        let ports = json!([{"internal": 7777, "protocol": "tcp"}, {"internal": 7777, "protocol": "udp"}]);
        json!({"node": "n1", "id": format!("s{id}"), "name": "x", "image": "x", "ports": ports}).to_string()
    };
    let taken: BTreeSet<u64> = std::thread::scope(|scope| {
        let panel = &panel;
        for id in 0..40 {
            scope.spawn(move || panel.order("POST", "/api/v1/servers", &body(id)));
        }
        let mut taken = BTreeSet::new();
        for _ in 0..40 {
            let ports = given(&agent.command("create_server"));
            assert_eq!(
                ports[0].1, ports[1].1,
                "the same port inside for both is one port outside: {ports:?}"
            );
            assert!(taken.insert(ports[0].1), "{ports:?} was given before");
        }
        taken
    });
    assert_eq!(taken, (30_000..=30_039).collect::<BTreeSet<u64>>());
    let full = panel.send("POST", "/api/v1/servers", &body(40));
    assert_eq!(full.error(), "409 PORT_CONFLICT");
    assert!(full.json()["error"]["message"].as_str().unwrap().contains("30000"), "{full:?}");
    // One that is asked for and taken is named.
    let asked = json!({"node": "n1", "id": "t", "name": "x", "image": "x",
        "ports": [{"internal": 1, "external": 40_000}, {"internal": 2, "external": 30_005}]});
    let refused = panel.send("POST", "/api/v1/servers", &asked.to_string());
    assert_eq!(refused.error(), "409 PORT_CONFLICT");
    assert_eq!(refused.json()["error"]["field"], json!("ports[1].external"));
}

#[test]
fn ports_at_a_fixed_distance_are_given_together() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[]);
    range(&panel, 30_000, 30_007);
    let template = |ports: Value| {
        json!({"id": "joint", "name": "Joint", "summary": "Query is one above", "image": "x", "variables": [], "ports": ports})
            .to_string()
    };
    let query = json!([
        {"internal": 2456, "protocol": "udp"},
        {"internal": 2457, "protocol": "udp", "offset": 1},
        {"internal": 2458, "protocol": "tcp", "offset": 2}
    ]);
    assert_eq!(panel.send("POST", "/api/v1/templates", &template(query)).status, 201);
    let wrong = json!([{"internal": 1, "protocol": "udp", "offset": 1}]);
    let refused = panel.send("POST", "/api/v1/templates", &template(wrong));
    assert_eq!(
        (refused.error(), &refused.json()["error"]["field"]),
        ("422 INVALID_PAYLOAD".into(), &json!("ports[0].offset"))
    );
    let create = |id: &str, ports: Value| {
        let mut body = json!({"node": "n1", "id": id, "name": "x", "template": "joint"});
        if !ports.is_null() {
            body["ports"] = ports;
        }
        panel.call(
            "POST",
            "/api/v1/servers",
            &[("Content-Type", "application/json"), ("Prefer", "respond-async")],
            Some(&body.to_string()),
        )
    };
    let outside = |agent: &mut FakeAgent| -> Vec<u64> {
        given(&agent.command("create_server")).into_iter().map(|(_, port, _)| port).collect()
    };
    // 30001 is gone, so the first three in a row begin behind it.
    let single = json!({"node": "n1", "id": "one", "name": "x", "image": "x", "ports": [{"internal": 1, "external": 30_001, "protocol": "udp"}]});
    panel.order("POST", "/api/v1/servers", &single.to_string());
    agent.command("create_server");
    assert_eq!(create("a", Value::Null).status, 202);
    assert_eq!(outside(&mut agent), [30_002, 30_003, 30_004]);
    assert_eq!(create("b", Value::Null).status, 202);
    assert_eq!(outside(&mut agent), [30_004, 30_005, 30_006], "tcp and udp are apart");
    assert_eq!(create("c", Value::Null).error(), "409 PORT_CONFLICT");
    // A first port that was chosen takes the others along, and fails with them.
    let chosen = |port: u16| json!([{"internal": 2456, "protocol": "udp", "external": port}]);
    assert_eq!(create("d", chosen(30_500)).status, 202);
    assert_eq!(outside(&mut agent), [30_500, 30_501, 30_502]);
    assert_eq!(create("e", chosen(30_499)).error(), "409 PORT_CONFLICT");
    assert_eq!(create("f", chosen(65_535)).error(), "409 PORT_CONFLICT");
}
