//! What is not this node's: containers of others, and those of another node on the same Engine, are neither seen nor
//! touched.

mod support;

use serde_json::{Value, json};
use support::*;

/// A container that is not ours: its name and how it looked before anything was tried. Removed on drop.
struct Foreign {
    name: String,
    before: Value,
}

impl Foreign {
    fn start(name: String, labels: Value) -> Foreign {
        let mut all = json!({"longshore.test": unique_name()});
        all.as_object_mut().unwrap().extend(labels.as_object().unwrap().clone());
        engine().run_foreign(&name, json!({"Labels": all}));
        engine().wait_output(&name, "Demo server ready");
        let before = Foreign::look(&name);
        Foreign { name, before }
    }

    fn look(name: &str) -> Value {
        engine().inspect(name).unwrap_or_else(|| panic!("{name} was removed"))
    }

    fn id(&self) -> &str {
        self.before["Id"].as_str().expect("every container has an id")
    }

    fn is_untouched(&self) {
        assert_eq!(Foreign::look(&self.name), self.before);
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        engine().remove(&self.name);
    }
}

/// Every action on a server, with a payload that would be right.
const SERVER_ACTIONS: [(&str, &str); 9] = [
    ("update_server", r#"{"limits":{"memory":"32m"}}"#),
    ("start_server", "{}"),
    ("stop_server", r#"{"timeout":0}"#),
    ("restart_server", r#"{"timeout":0}"#),
    ("kill_server", "{}"),
    ("delete_server", r#"{"removeData":true}"#),
    ("suspend_server", "{}"),
    ("unsuspend_server", "{}"),
    ("get_status", "{}"),
];

/// Tries everything against what is not there for this node: a server's id and a container's names.
fn try_everything(link: &Connection, server: &str, containers: &[&str]) {
    for (action, payload) in SERVER_ACTIONS {
        let payload = serde_json::from_str(payload).expect("valid");
        assert_eq!(code(&link.call(action, server, payload)), "SERVER_NOT_FOUND", "{action} of {server}");
    }
    for container in containers {
        for action in ["docker.start", "docker.stop", "docker.remove", "docker.inspect"] {
            let response = link.call(action, "", json!({"containerId": container, "timeout": 0}));
            assert_eq!(code(&response), "CONTAINER_NOT_FOUND", "{action} of {container}");
        }
    }
    for action in ["docker.start", "docker.stop", "docker.remove", "docker.inspect"] {
        assert_eq!(code(&link.call(action, server, json!({}))), "SERVER_NOT_FOUND", "{action} of {server}");
    }
    for kind in ["start", "stop", "restart", "update", "suspend", "unsuspend", "delete"] {
        let id = unique_name();
        let data = json!({"serverId": server, "limits": {"memory": 64}});
        link.send(&json!({"type": format!("server_{kind}"), "data": data, "messageId": id}));
        let error = link.wait_json("error", |message| message["messageId"] == *id);
        assert_eq!((&error["type"], &error["data"]["code"]), (&json!("error"), &json!("SERVER_NOT_FOUND")));
    }
}

#[test]
fn containers_of_others_are_neither_seen_nor_touched() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::prepare(&panel.url(), engine(), &[]);
    let node = agent.node_id.clone();
    let nothing = Foreign::start(unique_name(), json!({}));
    let named_like_ours = Foreign::start(agent.container("named"), json!({}));
    let half = json!({"longshore.node": node});
    let half_labelled = Foreign::start(unique_name(), half);
    let other = json!({"longshore.node": format!("{node}-2"), "longshore.server": "theirs"});
    let of_another = Foreign::start(unique_name(), other);
    let only_server = Foreign::start(agent.container("only"), json!({"longshore.server": "only"}));
    let all = [&nothing, &named_like_ours, &half_labelled, &of_another, &only_server];
    agent.start_again();
    let link = panel.accept();
    let connected = link.wait_event("agent_connected", |_| true);
    agent.wait_log("engine: version");
    assert_eq!(connected["data"]["servers"], json!([]));

    for (foreign, server) in all.into_iter().zip(["nothing", "named", "half", "theirs", "only"]) {
        let slashed = format!("/{}", foreign.name);
        try_everything(&link, server, &[foreign.id(), &foreign.id()[..12], &foreign.name, &slashed]);
    }
    // Its name is taken: nothing is made and nobody is put out of the way.
    for (server, foreign) in [("named", &named_like_ours), ("only", &only_server)] {
        let response = link.call("create_server", server, demo(json!({})));
        assert_eq!(code(&response), "CONFLICT", "{response}");
        foreign.is_untouched();
        assert!(!agent.data_dir.join("servers").join(server).exists());
    }
    assert_eq!(link.must("list_servers", "", json!({})), json!({"servers": [], "count": 0}));
    assert_eq!(link.must("docker.list", "", json!({})), json!({"servers": [], "count": 0}));

    // What happens to them is nobody's business here.
    engine().must("POST", &format!("/containers/{}/kill", of_another.name), None);
    engine().must("POST", &format!("/containers/{}/kill", nothing.name), None);
    assert_eq!(link.must("get_system_metrics", "", json!({}))["servers"], json!({"total": 0, "running": 0}));
    let told =
        link.messages().into_iter().filter(|message| message["event"] == "server_status_changed").count();
    assert_eq!(told, 0);
    [&named_like_ours, &half_labelled, &only_server].into_iter().for_each(Foreign::is_untouched);
}

#[test]
fn two_nodes_on_one_engine_do_not_see_each_other() {
    let (panel, other_panel) = (FakePanel::start(), FakePanel::start());
    let (agent, other) = (AgentProcess::start(&panel), AgentProcess::start(&other_panel));
    let (link, other_link) = (panel.accept(), other_panel.accept());
    for link in [&link, &other_link] {
        link.must("create_server", "same", demo(json!({})));
        link.must("start_server", "same", json!({}));
    }
    other_link.must("create_server", "theirs", demo(json!({})));
    let container = other.container("same");
    engine().wait_output(&container, "Demo server ready");
    let before = Foreign::look(&container);
    let id = before["Id"].as_str().unwrap();
    try_everything(&link, "theirs", &[id, &id[..12], &container, &other.container("theirs")]);

    // The same id is each one's own server.
    link.must("restart_server", "same", json!({"timeout": 0}));
    link.must("stop_server", "same", json!({"timeout": 0}));
    assert_eq!(link.must("list_servers", "", json!({}))["count"], 1);
    assert_eq!(other_link.must("list_servers", "", json!({}))["count"], 2);
    link.must("delete_server", "same", json!({"removeData": true}));
    assert_eq!(Foreign::look(&container), before);
    assert_eq!(engine().inspect(&agent.container("same")), None);
    other_link.must("system.ping", "", json!({}));
    let told: Vec<Value> = other_link
        .messages()
        .into_iter()
        .filter(|message| message["event"] == "server_status_changed")
        .map(|message| message["data"]["currentStatus"].clone())
        .collect();
    assert_eq!(told, ["created", "starting", "running", "created"], "nothing of the other node's");
}
