//! Commands: each gets its own outcome, once, whatever happens to links and to the Panel meanwhile.

use serde_json::json;

use super::fake_agent::FakeAgent;
use super::process::Panel;

const START: &str = "/api/v1/servers/n1/s1/start";

#[test]
fn answers_find_their_commands_in_any_order() {
    let panel = Panel::start(&["n1", "n2"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped"), ("s2", "stopped")]);
    let mut stranger = FakeAgent::connect_with(&panel, "n2", &[]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| panel.send("POST", START, "{}"));
        let one = agent.command("start_server");
        let second = scope.spawn(|| panel.send("POST", "/api/v1/servers/n1/s2/stop", r#"{"timeout":3}"#));
        let two = agent.command("stop_server");
        assert_eq!((&one["serverId"], &one["agentId"]), (&json!("s1"), &json!("n1")));
        assert_eq!((&two["serverId"], &two["payload"]), (&json!("s2"), &json!({"timeout": 3})));
        // Another node cannot answer for it.
        stranger.succeed(&one, json!({"serverId": "s1", "status": "deleted"}));
        stranger.is_quiet(&panel, "n2");
        agent.fail(&two, "SERVER_NOT_RUNNING", "It does not run");
        agent.succeed(&one, json!({"serverId": "s1", "status": "running"}));
        agent.succeed(&one, json!({"serverId": "s1", "status": "stopped"})); // twice: the first one counts
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        assert_eq!((first.status, &first.json()["command"]["state"]), (200, &json!("succeeded")));
        assert_eq!(first.json()["command"]["data"]["status"], json!("running"));
        assert_eq!(second.error(), "409 SERVER_NOT_RUNNING");
        assert_eq!(second.json()["commandId"], two["id"]);
    });
    agent.is_quiet(&panel, "n1");
    assert_eq!(panel.get("/api/v1/servers/n1/s1").json()["status"], json!("running"));
}

#[test]
fn what_cannot_be_sent_is_refused_at_once() {
    let panel = Panel::start(&["n1"]);
    assert_eq!(
        panel.send("POST", "/api/v1/nodes/n1/command", r#"{"action":"system.ping"}"#).error(),
        "409 NODE_OFFLINE"
    );
    assert_eq!(
        panel.send("POST", "/api/v1/servers", r#"{"node":"n1","name":"x","image":"x"}"#).error(),
        "409 NODE_OFFLINE"
    );
    assert_eq!(panel.get("/api/v1/servers").json()["items"], json!([]), "a refused create leaves nothing");
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    let check = |method: &str, path: &str, body: &str, expected: &str, field: Option<&str>| {
        let answer = panel.send(method, path, body);
        assert_eq!(answer.error(), expected, "{path} {body}");
        assert_eq!(answer.json()["error"]["field"].as_str(), field, "{path} {body}");
    };
    let deep = format!(r#"{{"action":"a","payload":{{"x":{}{}}}}}"#, "[".repeat(70), "]".repeat(70));
    check("POST", "/api/v1/servers/n2/s1/start", "{}", "404 NODE_NOT_FOUND", None);
    check("POST", "/api/v1/servers/n1/s2/start", "{}", "404 SERVER_NOT_FOUND", None);
    check("POST", "/api/v1/servers/n1/s1/explode", "{}", "404 NOT_FOUND", None);
    check("POST", "/api/v1/servers/n1/..%2f/start", "{}", "404 SERVER_NOT_FOUND", None);
    check("POST", START, "{", "400 INVALID_JSON", None);
    check("POST", START, "[]", "400 INVALID_JSON", None);
    check("POST", START, r#"{"force":true}"#, "422 INVALID_PAYLOAD", Some("force"));
    check("POST", "/api/v1/servers", r#"{"image":"x"}"#, "422 INVALID_PAYLOAD", Some("node"));
    check("POST", "/api/v1/servers", r#"{"node":"n1","name":"x"}"#, "422 INVALID_PAYLOAD", Some("image"));
    check(
        "POST",
        "/api/v1/servers",
        r#"{"node":"n1","name":"x","image":"x","id":"-"}"#,
        "422 INVALID_PAYLOAD",
        Some("id"),
    );
    check(
        "POST",
        "/api/v1/servers",
        r#"{"node":"n1","name":"x","image":"x","id":"s1"}"#,
        "409 SERVER_EXISTS",
        Some("id"),
    );
    check(
        "POST",
        "/api/v1/servers",
        r#"{"node":"n1","name":"x","image":"x","start":1}"#,
        "422 INVALID_PAYLOAD",
        Some("start"),
    );
    check("POST", "/api/v1/nodes/n1/command", "{}", "422 INVALID_PAYLOAD", Some("action"));
    check("POST", "/api/v1/nodes/n1/command", &deep, "422 INVALID_PAYLOAD", None);
    check("PUT", "/api/v1/servers", "{}", "405 METHOD_NOT_ALLOWED", None);
    assert_eq!(panel.get("/api/v1/commands/nothing").error(), "404 COMMAND_NOT_FOUND");
    agent.is_quiet(&panel, "n1");
}

#[test]
fn a_server_is_created_started_changed_and_deleted() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[]);
    let mut events = panel.events(None);
    let mut id = String::new();
    let spec = json!({"name": "My World", "image": "demo:1", "ports": [{"internal": 1, "external": 2, "protocol": "tcp"}]});
    let mut body = spec.clone();
    (body["node"], body["start"]) = (json!("n1"), json!(true));
    let created = panel.send_while("POST", "/api/v1/servers", &body.to_string(), || {
        let create = agent.command("create_server");
        assert_eq!(create["payload"], spec, "what was given and no more");
        id = create["serverId"].as_str().unwrap().to_owned();
        assert!(id.starts_with("my-world-"), "{id}");
        let pulling =
            json!({"commandId": create["id"], "serverId": id, "stage": "pulling", "current": 5, "total": 10});
        agent.event("command_progress", pulling);
        events.wait("server", |server| server["commands"][0]["progress"]["current"] == 5);
        agent.status(&id, "created");
        agent.succeed(&create, json!({"serverId": id, "status": "created"}));
    });
    assert_eq!(created.status, 201);
    let start = agent.command("start_server");
    assert_eq!(start["serverId"], json!(id));
    agent.succeed(&start, json!({"serverId": id, "status": "running"}));
    events.wait("server", |server| server["status"] == "running" && server["commands"] == json!([]));

    let path = format!("/api/v1/servers/n1/{id}");
    let patch = r#"{"limits":{"memory":"1g"},"image":"demo:2"}"#;
    let updated = panel.send_while("PATCH", &path, patch, || {
        let update = agent.command("update_server");
        agent.succeed(&update, json!({"serverId": id, "status": "running", "needsRestart": true}));
    });
    assert_eq!(updated.status, 200);
    let server = panel.get(&path).json();
    assert_eq!((&server["needsRestart"], &server["image"]), (&json!(true), &json!("demo:2")));
    assert_eq!(server["spec"]["limits"], json!({"memory": "1g"}));
    assert_eq!(server["ports"][0]["external"], json!(2));

    let deleted = panel.send_while("DELETE", &path, r#"{"removeData":true,"confirm":"My World"}"#, || {
        let delete = agent.command("delete_server");
        assert_eq!(delete["payload"], json!({"removeData": true}));
        agent.succeed(&delete, json!({"serverId": id, "status": "deleted"}));
    });
    assert_eq!(deleted.status, 200);
    events.wait("server_gone", |gone| gone["id"] == json!(id));
    assert_eq!(panel.get(&path).error(), "404 SERVER_NOT_FOUND");
}

#[test]
fn a_failed_create_names_the_field_and_leaves_nothing() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[]);
    let body = r#"{"node":"n1","id":"s1","name":"x","image":"x","start":true}"#;
    let answer = panel.send_while("POST", "/api/v1/servers", body, || {
        let create = agent.command("create_server");
        agent.fail(&create, "INVALID_PAYLOAD", "limits.memory: expected a size");
    });
    assert_eq!(answer.error(), "422 INVALID_PAYLOAD");
    let error = &answer.json()["error"];
    assert_eq!((&error["field"], &error["message"]), (&json!("limits.memory"), &json!("expected a size")));
    let list = agent.command("list_servers"); // it looks what the node has
    agent.succeed(&list, json!({"servers": []}));
    agent.is_quiet(&panel, "n1");
    assert_eq!(panel.get("/api/v1/servers").json()["items"], json!([]));
}

#[test]
fn a_server_that_its_node_has_lost_can_be_let_go() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    let answer = panel.send_while("DELETE", "/api/v1/servers/n1/s1", r#"{"confirm":"s1"}"#, || {
        let delete = agent.command("delete_server");
        agent.fail(&delete, "SERVER_NOT_FOUND", "No such server");
    });
    assert_eq!(answer.status, 200);
    assert_eq!(panel.get("/api/v1/servers").json()["items"], json!([]));
}

#[test]
fn a_slow_command_is_answered_later() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "running")]);
    let mut events = panel.events(None);
    let headers = [("Content-Type", "application/json"), ("Prefer", "wait=0")];
    let answer = panel.call("POST", "/api/v1/servers/n1/s1/stop", &headers, Some("{}"));
    let id = answer.json()["command"]["id"].as_str().unwrap().to_owned();
    assert_eq!((answer.status, &answer.json()["command"]["state"]), (202, &json!("pending")));
    assert!(answer.head.contains(&format!("location: /api/v1/commands/{id}")), "{}", answer.head);
    assert_eq!(panel.command(&id)["state"], json!("pending"));
    let stop = agent.command("stop_server");
    agent.succeed(&stop, json!({"serverId": "s1", "status": "stopped", "exitCode": 0}));
    let told = events.wait("command", |command| command["state"] == "succeeded");
    assert_eq!(told.data["id"], json!(id));
    assert_eq!(panel.command(&id)["data"]["exitCode"], json!(0));
}

#[test]
fn a_command_outlives_its_link() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    let mut events = panel.events(None);
    let id = panel.order("POST", START, "{}");
    let first = agent.command("start_server");
    drop(agent);
    events.wait("node", |node| node["online"] == json!(false));
    assert_eq!(panel.command(&id)["state"], json!("pending"));

    // The same id and content, so that an Agent that has run it answers without running it again.
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "starting")]);
    let again = agent.command("start_server");
    assert_eq!(
        (&again["id"], &again["serverId"], &again["payload"]),
        (&first["id"], &first["serverId"], &first["payload"])
    );
    agent.succeed(&again, json!({"serverId": "s1", "status": "running"}));
    events.wait("command", |command| command["id"] == json!(id) && command["state"] == "succeeded");
    agent.is_quiet(&panel, "n1");
}

#[test]
fn commands_in_flight_when_the_panel_dies_are_resolved_afterwards() {
    let mut panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped"), ("s2", "stopped")]);
    let answered = panel.order("POST", START, "{}");
    let start = agent.command("start_server");
    let lost = panel.order("POST", "/api/v1/servers/n1/s2/start", "{}");
    agent.command("start_server");
    let epoch = agent.epoch;
    panel.kill();
    drop(agent);
    panel.start_again(&[]);
    assert_eq!(panel.command(&answered)["state"], json!("pending"));

    let mut agent = FakeAgent::connect(&panel, "n1");
    assert!(agent.epoch > epoch);
    // The one answer that the Agent still has to deliver comes before its introduction; the other one was lost.
    agent.succeed(&start, json!({"serverId": "s1", "status": "running"}));
    agent.introduce(&[("s1", "running"), ("s2", "starting")]);
    let again = agent.command("start_server");
    assert_eq!(again["id"], json!(lost));
    agent.succeed(&again, json!({"serverId": "s2", "status": "running"}));
    agent.is_quiet(&panel, "n1");
    assert_eq!(panel.command(&answered)["state"], json!("succeeded"));
    assert_eq!(panel.command(&lost)["state"], json!("succeeded"));
    let new = panel.order("POST", "/api/v1/servers/n1/s1/stop", "{}");
    assert!(new != answered && new != lost, "ids are never used again");
}
