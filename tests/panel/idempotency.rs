//! A call that is sent again with its Idempotency-Key is answered again and not done again.

use serde_json::json;

use super::fake_agent::FakeAgent;
use super::process::{Answer, Panel};

fn call(panel: &Panel, path: &str, key: &str, body: &str) -> Answer {
    let headers = [("Content-Type", "application/json"), ("Prefer", "wait=15"), ("Idempotency-Key", key)];
    panel.call("POST", path, &headers, Some(body))
}

#[test]
fn a_call_that_comes_again_is_answered_again_and_done_once() {
    const START: &str = "/api/v1/servers/n1/s1/start";
    let mut panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| call(&panel, START, "once", "{}"));
        let command = agent.command("start_server");
        // While it is in work the same key is told to wait; it is not sent to the node again.
        let busy = call(&panel, START, "once", "{}");
        assert_eq!(busy.error(), "409 IDEMPOTENCY_BUSY");
        assert!(busy.head.contains("retry-after: "), "{busy:?}");
        agent.succeed(&command, json!({"serverId": "s1", "status": "running"}));
        first.join().unwrap()
    });
    assert_eq!(first.status, 200, "{first:?}");
    let again = call(&panel, START, "once", "{}");
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert!(again.head.contains("idempotency-replayed: true"), "{again:?}");
    assert_eq!(call(&panel, START, "once", r#"{"a":1}"#).error(), "422 IDEMPOTENCY_MISMATCH");
    assert_eq!(call(&panel, "/api/v1/servers/n1/s1/stop", "once", "{}").error(), "422 IDEMPOTENCY_MISMATCH");
    assert_eq!(call(&panel, START, &"x".repeat(129), "{}").error(), "422 INVALID_PAYLOAD");
    agent.is_quiet(&panel, "n1");

    // Another asker's key is another key.
    let other = panel.user("other", true, "read,power");
    let bearer = format!("Bearer {other}");
    let headers = [
        ("Content-Type", "application/json"),
        ("Prefer", "respond-async"),
        ("Idempotency-Key", "once"),
        ("Authorization", &bearer),
    ];
    assert_eq!(panel.call("POST", START, &headers, Some("{}")).status, 202);
    agent.command("start_server");

    // A secret is given once and never kept.
    let body = r#"{"id":"n9"}"#;
    let made = call(&panel, "/api/v1/nodes", "node", body);
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(call(&panel, "/api/v1/nodes", "node", body).error(), "409 IDEMPOTENCY_SECRET");
    // And it holds over a restart.
    panel.kill();
    panel.start_again(&[]);
    let again = call(&panel, START, "once", "{}");
    assert_eq!((again.status, &again.body), (200, &first.body));
}
