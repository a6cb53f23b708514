//! Clients and nodes that mean harm: they are slow, too large, too many, or say what is not theirs to say.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::browser::{Browser, grant};
use super::fake_agent::FakeAgent;
use super::process::{Panel, SOON, ask};

/// The gate's bound on a head is 10 s; what is slower is cut, and a test that waits for it does not wait for ever.
const CUT: Duration = Duration::from_secs(60);

fn connect(panel: &Panel) -> TcpStream {
    let stream = TcpStream::connect(&panel.http).unwrap();
    stream.set_read_timeout(Some(CUT)).unwrap();
    stream
}

/// What comes until the other side ends it.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(cause) if cause.kind() == ErrorKind::ConnectionReset => {}
        Err(cause) => panic!("it was not cut: {cause}"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn slow_clients_are_cut_and_hold_nobody_up() {
    let panel = Panel::start(&[]);
    let mut heads = Vec::new();
    // As many as may be connected at all, and more: each has sent a part of a head and sends no more.
    for _ in 0..1_400 {
        let mut stream = connect(&panel);
        let _ = stream.write_all(b"GET /api/v1/nodes HTTP/1.1\r\nHost: ");
        heads.push(stream);
    }
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(panel.get("/api/v1/nodes").status, 200);
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let last = rest(heads.pop().unwrap());
    assert!(last.is_empty() || last.starts_with("HTTP/1.1 408 "), "{last}");

    // A body that is announced and does not come.
    let mut stream = connect(&panel);
    let token = &panel.token;
    write!(
        stream,
        "POST /api/v1/nodes HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{",
        panel.http
    )
    .unwrap();
    let answer = rest(stream);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(panel.get("/api/v1/nodes").json()["items"], json!([]));
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    let panel = Panel::start(&["n1"]);
    let host = &panel.http;
    let json = "Content-Type: application/json";
    let bearer = format!("Authorization: Bearer {}", panel.token);
    let check = |what: &str, request: String, statuses: &[u16]| {
        let answer = ask(host, &request);
        assert!(statuses.contains(&answer.status), "{what}: {answer:?}");
        // One form for all errors, whoever of the Panel gives them.
        assert!(answer.json()["error"]["message"].is_string(), "{what}: {answer:?}");
    };
    let length = "Content-Length: 999999999999";
    let post = |path: &str, lines: &str| format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n\r\n");
    // None of these bodies is ever sent: whoever waited for one would hang here.
    check("a huge body", post("/api/v1/nodes", &format!("{bearer}\r\n{json}\r\n{length}")), &[413]);
    check("a huge body of a stranger", post("/api/v1/nodes", &format!("{json}\r\n{length}")), &[401]);
    check("a huge log-in", post("/api/v1/session", &format!("{json}\r\n{length}")), &[413]);
    check("a body for a page", post("/", &format!("{json}\r\n{length}")), &[413]);
    check(
        "two lengths",
        post("/api/v1/session", &format!("{json}\r\nContent-Length: 2\r\n{length}")),
        &[400],
    );
    let both = format!("{json}\r\nContent-Length: 2\r\nTransfer-Encoding: chunked");
    check("two framings", post("/api/v1/session", &both), &[400]);
    check("a long head", post("/", &format!("X-A: {}", "x".repeat(20_000))), &[431]);
    check(
        "a long path",
        format!("GET /{} HTTP/1.1\r\nHost: {host}\r\n\r\n", "x".repeat(20_000)),
        &[414, 431],
    );
    let name = "n".repeat(2_000);
    let body = json!({"id": "n2", "name": name}).to_string();
    let long = panel.send("POST", "/api/v1/nodes", &body);
    assert_eq!(
        (long.error(), &long.json()["error"]["field"]),
        ("422 INVALID_PAYLOAD".into(), &json!("name"))
    );
    let deep = format!(r#"{{"id":{}1{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    assert_eq!(panel.send("POST", "/api/v1/nodes", &deep).error(), "400 INVALID_JSON");
    // A smuggled second request is never read as one.
    let smuggled = "GET /api/v1/users HTTP/1.1\r\nHost: x\r\n\r\n";
    let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n{smuggled}");
    assert_eq!(ask(host, &request).body.matches("HTTP/1.1").count(), 0);
    assert_eq!(panel.get("/api/v1/nodes/n1").status, 200);
}

#[test]
fn a_node_speaks_for_its_own_servers_only() {
    let panel = Panel::start(&["n1", "n2"]);
    let mut good = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    let mut bad = FakeAgent::connect_with(&panel, "n2", &[("s9", "stopped")]);
    let (id, member) = Browser::user(&panel, "ben", "member");
    grant(&panel, &id, "s1", &["view", "console"]);
    // The same id, as its own: it is another server, and nobody who may see the first one may see it.
    bad.status("s1", "running");
    let list = bad.command("list_servers");
    bad.succeed(&list, json!({"servers": []}));
    for (name, value) in [("nodeId", "n1"), ("node", "n1"), ("agentId", "n1")] {
        let data =
            json!({"serverId": "s1", name: value, "currentStatus": "crashed", "previousStatus": "running"});
        bad.event("server_status_changed", data);
        let mut message = json!({"type": "event", "event": "resource_update",
            "data": {"serverId": "s1", "cpu": 99.0, "memory": {"used": 1, "limit": 2}, name: value}});
        message[name] = json!(value);
        bad.say(&message);
    }
    let line = json!({"serverId": "s1", "stream": "stdout", "message": "you were had", "seq": 1, "count": 1,
        "time": "2026-01-01T00:00:00Z", "bootId": "boot-1", "dt": [0], "ordinal": 0});
    bad.say(&json!({"type": "event", "event": "server_log", "agentId": "n1", "data": line}));
    bad.is_quiet(&panel, "n2");
    let server = panel.get("/api/v1/servers/n1/s1").json();
    assert_eq!((&server["status"], &server["usage"]), (&json!("stopped"), &json!(null)), "{server}");
    assert!(!panel.get("/api/v1/servers/n1/s1/console").body.contains("you were had"));
    let follow = good.command("console:connect");
    good.succeed(&follow, json!({"connected": true}));
    assert_eq!(member.get(&panel, "/api/v1/servers/n2/s1").error(), "404 SERVER_NOT_FOUND");
    let items = member.get(&panel, "/api/v1/servers").json();
    assert_eq!(items["items"].as_array().unwrap().len(), 1, "{items}");

    // An answer to another node's command, or to one that was never asked, is nobody's.
    let order = panel.order("POST", "/api/v1/servers/n1/s1/start", "{}");
    let command = good.command("start_server");
    bad.succeed(&command, json!({"serverId": "s1", "status": "running"}));
    bad.say(&json!({"id": "cmd_1_1", "type": "response", "success": true, "data": {}}));
    bad.is_quiet(&panel, "n2");
    assert_eq!(panel.command(&order)["state"], json!("pending"));
    good.succeed(&command, json!({"serverId": "s1", "status": "running"}));
    good.is_quiet(&panel, "n1");
    assert_eq!(panel.command(&order)["state"], json!("succeeded"));
}

#[test]
fn a_node_that_tells_of_countless_servers_fills_nothing() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[]);
    for number in 0..3_000 {
        agent.status(&format!("s{number}"), "running");
    }
    agent.is_linked(); // and all before it was heard
    let known = panel.get("/api/v1/nodes/n1").json()["servers"].as_u64().unwrap();
    assert_eq!(known, 2_000);
}
