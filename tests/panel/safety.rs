//! Who may ask over HTTP, and what never comes out.

use super::fake_agent::FakeAgent;
use super::process::Panel;

#[test]
fn only_our_own_names_and_pages_may_ask() {
    let panel = Panel::start(&["n1"]);
    let port = panel.http.rsplit(':').next().unwrap().to_owned();
    let at = |name: &str| format!("{name}:{port}");
    let own = format!("http://{}", panel.http);
    let check = |method: &str, path: &str, headers: &[(&str, &str)], expected: u16| {
        let body = (method != "GET").then_some(r#"{"action":"system.ping"}"#);
        let answer = panel.call(method, path, headers, body);
        assert_eq!(answer.status, expected, "{method} {path} {headers:?}: {}", answer.body);
    };
    // DNS rebinding: a name of somebody else's that resolves to us.
    for path in ["/", "/app.js", "/health", "/api/v1/nodes", "/api/v1/events", "/nothing"] {
        for host in [
            "evil.example",
            "evil.example:80",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.1.2.3",
            "",
        ] {
            check("GET", path, &[("Host", host)], 421);
        }
    }
    for host in [
        at("localhost"),
        at("LOCALHOST"),
        at("127.0.0.1"),
        at("127.8.8.8"),
        at("[::1]"),
        "a.localhost".into(),
    ] {
        check("GET", "/api/v1/nodes", &[("Host", &host)], 200);
    }
    // CSRF: pages of another site, and forms, which cannot send JSON.
    const COMMAND: &str = "/api/v1/nodes/n1/command";
    let json = ("Content-Type", "application/json");
    check("POST", COMMAND, &[json, ("Origin", "http://evil.example")], 403);
    check("POST", COMMAND, &[json, ("Origin", "null")], 403);
    check("POST", COMMAND, &[json, ("Origin", "http://127.0.0.1:1")], 403);
    check("POST", COMMAND, &[json, ("Sec-Fetch-Site", "cross-site")], 403);
    check("POST", COMMAND, &[json, ("Sec-Fetch-Site", "same-site")], 403);
    check("GET", "/api/v1/nodes", &[("Sec-Fetch-Site", "cross-site")], 403);
    check("GET", "/api/v1/events", &[("Origin", "http://evil.example")], 403);
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"]
    {
        check("POST", COMMAND, &[("Content-Type", kind)], 415);
    }
    check("POST", COMMAND, &[], 415);
    // Let through, as far as the node being offline.
    check("POST", COMMAND, &[json, ("Origin", &own), ("Sec-Fetch-Site", "same-origin")], 409);
    check("POST", COMMAND, &[("Content-Type", "application/json; charset=utf-8")], 409);
}

#[test]
fn configured_names_are_ours_too() {
    let mut panel = Panel::start(&[]);
    panel.kill();
    panel.start_again(&[("HTTP_HOSTS", "panel.example, other.example")]);
    for (host, expected) in [("Panel.Example:8443", 200), ("other.example", 200), ("x.panel.example", 421)] {
        assert_eq!(panel.call("GET", "/api/v1/nodes", &[("Host", host)], None).status, expected, "{host}");
    }
}

#[test]
fn secrets_and_values_never_reach_the_log() {
    let mut panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[]);
    let body = r#"{"node":"n1","id":"s1","name":"x","image":"x","environment":{"RCON_PASSWORD":"hunter2-in-clear"}}"#;
    panel.order("POST", "/api/v1/servers", body);
    let create = agent.command("create_server");
    agent.fail(&create, "INTERNAL", "It did not work");
    panel.order(
        "POST",
        "/api/v1/nodes/n1/command",
        r#"{"action":"x","payload":{"token":"hunter3-in-clear"}}"#,
    );
    panel.signal(rustix::process::Signal::TERM);
    assert!(panel.wait().success());
    let log = panel.log();
    assert!(log.contains("create_server s1"), "{log}");
    for secret in ["hunter2", "hunter3", &panel.secret("n1")[..16]] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    let secrets = [panel.secret("n1"), panel.token.clone()];
    for file in std::fs::read_dir(panel.data_dir()).unwrap().flatten() {
        let stored = std::fs::read(file.path()).unwrap();
        let text = String::from_utf8_lossy(&stored);
        let own = file.file_name().to_string_lossy().ends_with(".secret");
        assert!(own || secrets.iter().all(|secret| !text.contains(secret)), "{file:?} holds a secret");
    }
}
