//! `/health` on the built Agent, section 4 of the contract: what it says to this machine and to others, and that it
//! answers whatever is away.

mod support;

use std::os::unix::net::UnixListener;

use serde_json::{Value, json};
use support::*;

fn shape(agent: &AgentProcess, status: &str, connected: bool, docker: Value) -> Value {
    json!({
        "status": status, "timestamp": "<time>", "version": env!("CARGO_PKG_VERSION"), "nodeId": agent.node_id,
        "uptime": "<whole>", "connected": connected, "trouble?": "<text>", "docker": docker,
        "system": {"cpu": "<percent>", "memory": "<percent>", "disk": "<percent>"},
        "servers": {"total": "<whole>", "running": "<whole>"}, "confinement": "<text>",
        "policyFault?": "<text>", "journal?": "<text>",
    })
}

fn docker() -> Value {
    json!({"available": true, "version": "<text>", "apiVersion": "<text>"})
}

#[test]
fn a_linked_node_is_healthy_and_one_without_a_panel_is_not() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let (status, health) = agent.wait_health("healthy", |health| health["status"] == "healthy");
    assert_eq!(status, 200);
    assert_shape("healthy", &health, &shape(&agent, "healthy", true, docker()));
    assert_eq!((health.get("trouble"), &health["servers"]), (None, &json!({"total": 0, "running": 0})));
    for server in ["a", "b"] {
        link.must("create_server", server, demo(json!({})));
    }
    link.must("start_server", "a", json!({}));
    agent.wait_health("its servers", |health| health["servers"] == json!({"total": 2, "running": 1}));

    panel.go_away();
    link.cut();
    let (status, health) = agent.wait_health("the loss", |health| health["connected"] == false);
    assert_eq!(status, 503);
    assert_shape("unlinked", &health, &shape(&agent, "degraded", false, docker()));
    assert!(health["trouble"].is_string(), "{health}");
    panel.come_back();
    panel.accept();
    let (status, health) = agent.wait_health("the link", |health| health["connected"] == true);
    assert_eq!((status, health.get("trouble")), (200, None));
}

#[test]
fn an_engine_that_is_away_or_hangs_does_not_hold_up_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (nobody, silent) = (dir.path().join("nobody.sock"), dir.path().join("silent.sock"));
    // Connections are queued by the kernel and nobody ever takes them.
    let _listener = UnixListener::bind(&silent).unwrap();
    for socket in [nobody, silent] {
        let host = format!("unix://{}", socket.display());
        let panel = FakePanel::start();
        let agent = AgentProcess::start_with(&panel, engine(), &[("DOCKER_HOST", &host)]);
        let link = panel.accept();
        let away = json!({"available": false, "version": null, "apiVersion": null});
        let (status, health) = agent.wait_health("the link", |health| health["connected"] == true);
        assert_eq!(status, 503);
        assert_shape("without Docker", &health, &shape(&agent, "degraded", true, away.clone()));
        link.send(&json!({"id": "p", "type": "ping"}));
        let pong = link.wait_json("pong", |message| message["type"] == "pong");
        assert_eq!(pong["data"]["agentStatus"], "degraded");
        panel.go_away();
        link.cut();
        let (status, health) = agent.wait_health("the loss", |health| health["connected"] == false);
        assert_eq!(status, 503);
        assert_shape("with nothing", &health, &shape(&agent, "unhealthy", false, away));
    }
}

#[test]
fn others_are_told_the_status_alone_unless_they_know_the_secret() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let _link = panel.accept();
    agent.wait_health("healthy", |health| health["status"] == "healthy");
    let address = agent.health_address();
    let alone = json!({"status": "healthy"});
    let whole = shape(&agent, "healthy", true, docker());
    let bearer = format!("Bearer {}", agent.secret);
    for proxied in ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Via"] {
        let through = (proxied, "203.0.113.9");
        for (headers, expected) in [
            (vec![through], &alone),
            (vec![through, ("Authorization", "Bearer wrong")], &alone),
            (vec![through, ("X-API-Key", "")], &alone),
            (vec![through, ("Authorization", &bearer)], &whole),
            (vec![through, ("X-API-Key", &agent.secret)], &whole),
        ] {
            let (status, health) = get(address, "/health", &headers);
            assert_eq!(status, 200);
            assert_shape(&format!("{headers:?}"), &health, expected);
        }
    }
    // A header that only the gate itself may set.
    for forged in ["X-Longshore-Peer", "X-Gate-Peer", "X-Real-Ip"] {
        let (_, health) = get(address, "/health", &[("Via", "1.1 x"), (forged, "127.0.0.1:1")]);
        assert_eq!(health, alone);
    }
    // The secret is read anew here too.
    agent.change_secret("another-secret-0123456789");
    let through = |key: &str| get(address, "/health", &[("Via", "1.1 x"), ("X-API-Key", key)]).1;
    assert_shape("new secret", &through("another-secret-0123456789"), &whole);
    assert_eq!(through(bearer.trim_start_matches("Bearer ")), alone);

    for (method, path, expected) in [
        ("HEAD", "/health", 200),
        ("GET", "/health?verbose=1", 200),
        ("POST", "/health", 405),
        ("DELETE", "/health", 405),
        ("GET", "/", 404),
        ("GET", "/healthz", 404),
    ] {
        assert_eq!(request(address, method, path, &[]).unwrap().0, expected, "{method} {path}");
    }
}
