//! The process: subcommands beside it, its start, its end, and what it refuses to start with.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use super::fake_agent::{FakeAgent, dial};
use super::process::Panel;

#[test]
fn nodes_are_added_and_removed_beside_a_running_panel() {
    let panel = Panel::start(&[]);
    assert_eq!(dial(&panel, "/?nodeId=n1", &[("Authorization", "Bearer x")]).err(), Some(401));
    let file = panel.data_dir().join("elsewhere");
    let path = file.to_str().unwrap();
    let added = panel.run(&["node", "add", "n1", "--secret-file", path]);
    assert!(added.status.success(), "{added:?}");
    let secret = std::fs::read_to_string(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!String::from_utf8_lossy(&added.stdout).contains(secret.trim()));
    let bearer = format!("Bearer {}", secret.trim());
    let headers = [("Authorization", bearer.as_str()), ("X-Node-Id", "n1")];
    let mut agent = dial(&panel, "/", &headers).unwrap();
    assert_eq!(agent.next()["type"], json!("hello"));

    // Each of these changes nothing.
    for wrong in
        [&["node", "add", "n1"][..], &["node", "add", "n2", "--secret-file", path], &["node", "remove", "n2"]]
    {
        let refused = panel.run(wrong);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert_eq!(String::from_utf8_lossy(&refused.stderr).lines().count(), 1, "{refused:?}");
    }
    assert!(!panel.data_dir().join("n1.secret").exists(), "a secret that opens nothing is left");
    let printed = panel.run(&["node", "add", "n3", "--secret-file", "-"]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout).trim().len(), 64);
    let listed = String::from_utf8(panel.run(&["node", "list"]).stdout).unwrap();
    let ids: Vec<_> = listed.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(ids, ["n1", "n3"]);

    assert!(panel.run(&["node", "remove", "n1"]).status.success());
    agent.say(&json!({"type": "heartbeat", "data": {}}));
    assert_eq!(agent.closed(), 4003);
    assert_eq!(dial(&panel, "/", &headers).err(), Some(401));
}

#[test]
fn it_ends_in_order_and_comes_back_with_what_it_knew() {
    let mut panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "running")]);
    let mut events = panel.events(None);
    events.next().unwrap();
    let waiting = panel.order("POST", "/api/v1/servers/n1/s1/stop", "{}");
    agent.command("stop_server");
    panel.signal(Signal::HUP); // which does nothing
    panel.signal(Signal::TERM);
    assert_eq!(agent.closed(), 1001);
    while events.next().is_some() {}
    drop(agent);
    let status = panel.wait();
    assert_eq!((status.code(), status.signal()), (Some(0), None), "{}", panel.log());

    panel.start_again(&[]);
    let server = panel.get("/api/v1/servers/n1/s1").json();
    assert_eq!((&server["lastStatus"], &server["online"]), (&json!("running"), &json!(false)));
    assert_eq!(panel.command(&waiting)["state"], json!("pending"));
    assert_eq!(panel.get("/health").status, 200);
}

#[test]
fn a_link_that_does_not_close_does_not_hold_up_the_end() {
    let mut panel = Panel::start(&["n1"]);
    let _deaf = FakeAgent::connect_with(&panel, "n1", &[]); // it never reads the Close
    panel.signal(Signal::INT);
    assert!(panel.wait().success(), "{}", panel.log());
}

#[test]
fn it_refuses_to_start_wrongly_with_one_line() {
    let panel = Panel::start(&[]);
    let check = |environment: &[(&str, &str)], code: i32, expected: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-panel"));
        command
            .env("HTTP_ADDR", "127.0.0.1:0")
            .env("AGENT_ADDR", "127.0.0.1:0")
            .env("DATA_DIR", panel.data_dir());
        let output = command.envs(environment.iter().copied()).output().unwrap();
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), line.lines().count()), (Some(code), 1), "{environment:?}: {line}");
        assert!(line.contains(expected), "{environment:?}: {line}");
    };
    check(&[("HTTP_ADDR", "0.0.0.0:0")], 2, "HTTP_ADDR=0.0.0.0:0");
    check(&[("AGENT_ADDR", "nowhere")], 2, "AGENT_ADDR=nowhere");
    check(&[("HTTP_ADDR", &panel.http)], 1, "HTTP_ADDR=");
    check(&[], 1, "in use by another Panel");
}
