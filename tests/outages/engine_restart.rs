//! What happens to running servers when dockerd, the Agent or the whole node goes away and comes back, and when
//! somebody uses Docker behind the Agent's back.

use crate::support::*;
use serde_json::{Value, json};

/// The status changes of a server since the `mark`, each as status and reason.
fn changes(link: &Connection, server: &str, mark: usize) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    link.seen()[mark..]
        .iter()
        .filter_map(|seen| match seen {
            Seen::Json(m) if m["event"] == "server_status_changed" && m["data"]["serverId"] == server => {
                Some((text(&m["data"]["currentStatus"]), text(&m["data"]["reason"])))
            }
            _ => None,
        })
        .collect()
}

fn wait_status(link: &Connection, server: &str, mark: usize, status: &str) -> Value {
    link.wait_from(mark, LONG, &format!("{status} of {server}"), |seen| match seen {
        Seen::Json(m)
            if m["event"] == "server_status_changed"
                && m["data"]["serverId"] == server
                && m["data"]["currentStatus"] == status =>
        {
            Some(m["data"].clone())
        }
        _ => None,
    })
}

/// The Engine looks for its containers when it starts, and a busy machine is slow at it.
const LONG: std::time::Duration = std::time::Duration::from_secs(60);

/// What must be the same for a container that nobody touched.
fn identity(engine: &Engine, container: &str) -> Value {
    let found = engine.inspect(container).expect("the container is there");
    json!([found["Id"], found["State"]["Pid"], found["State"]["StartedAt"], found["State"]["Running"]])
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|&(status, reason)| (status.to_owned(), reason.to_owned())).collect()
}

#[test]
fn what_ran_runs_again_whatever_went_down() {
    let engine = PrivateEngine::start();
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start_with(&panel, &engine, &[]);
    let mut link = panel.accept();
    for server in ["run", "stubborn", "off", "new", "barred"] {
        let environment = json!({"IGNORE_TERM": if server == "stubborn" { "1" } else { "0" }});
        link.must("create_server", server, demo(json!({"environment": environment})));
    }
    for server in ["run", "stubborn", "off", "barred"] {
        link.must("start_server", server, json!({}));
        engine.wait_output(&agent.container(server), "Demo server ready");
    }
    link.must("stop_server", "off", json!({}));
    link.must("suspend_server", "barred", json!({}));

    let runs_again = |link: &Connection, agent: &AgentProcess, mark: usize| {
        for server in ["run", "stubborn"] {
            let change = wait_status(link, server, mark, "running");
            assert_eq!(change["reason"], "engine_restart", "{server}: {:?}", changes(link, server, mark));
            assert_eq!(engine.state(&agent.container(server)), "running");
        }
        let servers = link.must("list_servers", "", json!({}));
        let of = |id: &str| {
            let all = servers["servers"].as_array().expect("a list");
            all.iter().find(|server| server["serverId"] == id).expect("it is there")["status"].clone()
        };
        assert_eq!(
            (of("off"), of("new"), of("barred")),
            (json!("stopped"), json!("created"), json!("suspended")),
            "{servers}"
        );
        for (server, state) in [("off", "exited"), ("new", "created"), ("barred", "exited")] {
            assert_eq!(engine.state(&agent.container(server)), state, "{server}");
        }
    };

    for end in [PrivateEngine::terminate, PrivateEngine::kill] {
        let mark = link.mark();
        end(&engine);
        for server in ["run", "stubborn", "off", "new", "barred"] {
            wait_status(&link, server, mark, "unknown");
        }
        for (action, server) in [
            ("start_server", "off"),
            ("stop_server", "run"),
            ("kill_server", "run"),
            ("restart_server", "run"),
            ("delete_server", "new"),
            ("suspend_server", "run"),
        ] {
            let answer = link.call(action, server, json!({}));
            assert_eq!(code(&answer), "DOCKER_UNAVAILABLE", "{action} of {server}: {answer}");
        }
        let answer = link.call("create_server", "more", demo(json!({})));
        assert_eq!(code(&answer), "DOCKER_UNAVAILABLE", "{answer}");
        assert_eq!(link.must("get_status", "run", json!({}))["status"], "unknown");
        engine.start_again();
        runs_again(&link, &agent, mark);
        // No crash and no operator in between, and no word about those that had nothing to do with it.
        for server in ["run", "stubborn"] {
            let expected = [("unknown", ""), ("starting", "engine_restart"), ("running", "engine_restart")];
            assert_eq!(changes(&link, server, mark), pairs(&expected), "{server}");
        }
        for (server, status) in [("off", "stopped"), ("new", "created"), ("barred", "suspended")] {
            let found = changes(&link, server, mark);
            assert_eq!(found, pairs(&[("unknown", ""), (status, "")]), "{server}");
        }
        for server in ["run", "stubborn"] {
            engine.wait_output(&agent.container(server), "Demo server ready");
        }
    }

    // A reboot: everything ends at once.
    agent.kill();
    engine.cut();
    engine.start_again();
    agent.start_again();
    link = panel.accept();
    runs_again(&link, &agent, 0);

    // The Agent alone dies: nobody notices.
    let before = ["run", "stubborn", "off"].map(|server| identity(&engine, &agent.container(server)));
    agent.kill();
    agent.start_again();
    link = panel.accept();
    let connected = link.wait_event("agent_connected", |_| true);
    for (server, status) in [
        ("run", "running"),
        ("stubborn", "running"),
        ("off", "stopped"),
        ("new", "created"),
        ("barred", "suspended"),
    ] {
        let servers = connected["data"]["servers"].as_array().expect("a list");
        let found = servers.iter().find(|known| known["serverId"] == server).expect("it is known");
        assert_eq!(found["status"], status, "{connected}");
    }
    let after = ["run", "stubborn", "off"].map(|server| identity(&engine, &agent.container(server)));
    assert_eq!(before, after);

    // Its data is lost: the labels tell what there is, and what runs goes on.
    assert_eq!(agent.terminate().code(), Some(0));
    std::fs::remove_dir_all(agent.data_dir.join("state")).expect("the records can be removed");
    agent.start_again();
    link = panel.accept();
    let connected = link.wait_event("agent_connected", |_| true);
    assert_eq!(connected["data"]["servers"].as_array().map(Vec::len), Some(5), "{connected}");
    assert_eq!(before[0], identity(&engine, &agent.container("run")));
    let status = link.must("get_status", "run", json!({}));
    assert_eq!((&status["status"], &status["server"]["image"]), (&json!("running"), &json!(DEMO_IMAGE)));
    assert_eq!(link.must("stop_server", "run", json!({}))["killed"], false);
    assert_eq!(link.must("start_server", "off", json!({}))["status"], "running");
    // And it is on disk again.
    agent.kill();
    agent.start_again();
    link = panel.accept();
    link.wait_event("agent_connected", |_| true);
    assert_eq!(link.must("get_status", "run", json!({}))["status"], "stopped");
    assert_eq!(link.must("get_status", "off", json!({}))["status"], "running");
    assert_eq!(agent.terminate().code(), Some(0));
}

#[test]
fn an_operator_is_understood_and_obeyed() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let mut link = panel.accept();
    let servers = ["stop", "kill", "start", "rm", "hup", "restart", "pull-the-rug", "twice"];
    for server in servers {
        link.must("create_server", server, demo(json!({})));
    }
    for server in servers.iter().filter(|server| **server != "start") {
        link.must("start_server", server, json!({}));
        engine().wait_output(&agent.container(server), "Demo server ready");
    }
    let docker = |agent: &AgentProcess, server: &str, what: &str| {
        engine().must("POST", &format!("/containers/{}/{what}", agent.container(server)), None)
    };
    let mark = link.mark();

    docker(&agent, "stop", "stop?t=5");
    let change = wait_status(&link, "stop", mark, "stopped");
    assert_eq!((&change["reason"], &change["exitCode"]), (&json!("operator"), &json!(0)));

    docker(&agent, "kill", "kill");
    let change = wait_status(&link, "kill", mark, "stopped");
    assert_eq!((&change["reason"], &change["exitCode"]), (&json!("operator"), &json!(137)));

    docker(&agent, "start", "start");
    assert_eq!(wait_status(&link, "start", mark, "running")["reason"], "operator");

    engine().remove(&agent.container("rm"));
    assert_eq!(wait_status(&link, "rm", mark, "stopped")["reason"], "operator");

    // A signal that ends nothing explains no end.
    docker(&agent, "hup", "kill?signal=WINCH");
    docker(&agent, "restart", "restart?t=5");
    engine().wait_output(&agent.container("restart"), "Demo server stopped");

    // An end without Docker's doing is a crash, also soon after such a signal.
    let pid = engine().inspect(&agent.container("pull-the-rug")).unwrap()["State"]["Pid"].as_i64().unwrap();
    docker(&agent, "pull-the-rug", "kill?signal=WINCH");
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let change = wait_status(&link, "pull-the-rug", mark, "crashed");
    assert_eq!((&change["reason"], &change["exitCode"]), (&json!("crash"), &json!(137)));
    assert_eq!(wait_status(&link, "pull-the-rug", mark, "running")["reason"], "crash");

    // A start and a stop in one breath: the last word holds.
    docker(&agent, "twice", "stop?t=5");
    docker(&agent, "twice", "start");
    docker(&agent, "twice", "stop?t=5");

    // Nothing of that is undone when the Agent comes back, or while it is away.
    assert_eq!(agent.terminate().code(), Some(0));
    let state = |agent: &AgentProcess, server: &str| engine().state(&agent.container(server));
    let was: Vec<String> = servers.iter().map(|server| state(&agent, server)).collect();
    let expected = ["exited", "exited", "running", "gone", "running", "running", "running", "exited"];
    assert_eq!(was, expected, "{servers:?}");
    agent.start_again();
    link = panel.accept();
    let connected = link.wait_event("agent_connected", |_| true);
    let status = |server: &str| {
        let known = connected["data"]["servers"].as_array().expect("a list");
        known.iter().find(|known| known["serverId"] == server).expect("it is known")["status"].clone()
    };
    for (server, state) in servers.iter().zip(expected) {
        assert_eq!(status(server), if state == "running" { "running" } else { "stopped" }, "{server}");
    }
    let now: Vec<String> = servers.iter().map(|server| state(&agent, server)).collect();
    assert_eq!(now, was);

    // What the operator removed is made again when it is asked for.
    assert_eq!(link.must("start_server", "rm", json!({}))["status"], "running");
    // And a container that is gone can be stopped, killed and deleted as well as any.
    engine().remove(&agent.container("kill"));
    assert_eq!(link.must("stop_server", "kill", json!({}))["status"], "stopped");
    assert_eq!(link.must("delete_server", "kill", json!({}))["status"], "deleted");
}
