//! What a game server may do on the node: the container that the Agent made is looked at from outside, and the demo
//! server inside tells what it finds itself in.

mod support;

use serde_json::{Value, json};
use support::*;

/// Creates and starts a server that looks around, and gives its container and what it printed.
fn look(link: &Connection, agent: &AgentProcess, server: &str, spec: Value) -> (Value, String) {
    let mut spec = demo(spec);
    spec["startup"] = json!(["/demo-server", "probe"]);
    link.must("create_server", server, spec);
    link.must("start_server", server, json!({}));
    let container = agent.container(server);
    let seen = engine().wait_output(&container, "probe ends");
    (engine().inspect(&container).expect("it runs"), seen)
}

fn line<'a>(seen: &'a str, name: &str) -> &'a str {
    let found = seen.lines().find_map(|line| line.split_once(&format!("probe {name}: ")));
    found.unwrap_or_else(|| panic!("no {name} in\n{seen}")).1.trim()
}

#[test]
fn a_server_is_shut_in() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let limits = json!({"memory": "64m", "cpu": 50, "pids": 40});
    let spec = json!({"limits": limits, "environment": {"WORD": "x"}});
    let (made, seen) = look(&link, &agent, "s", spec);
    let (config, host) = (&made["Config"], &made["HostConfig"]);

    assert_eq!(made["Name"], format!("/longshore-{}-s", agent.node_id));
    let labels = &config["Labels"];
    assert_eq!(
        (&labels["longshore.node"], &labels["longshore.server"]),
        (&json!(agent.node_id), &json!("s"))
    );
    assert!(labels["longshore.spec"].as_str().is_some_and(|hash| hash.len() >= 32), "{labels}");

    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert_eq!(words(&host["CapAdd"]), ["CHOWN", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"]);
    assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
    assert_eq!((&host["PidsLimit"], &host["Init"]), (&json!(40), &json!(true)));
    assert_eq!((&host["Privileged"], &host["RestartPolicy"]["Name"]), (&json!(false), &json!("no")));
    assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(64 << 20), &json!(64 << 20)));
    assert_eq!(host["NanoCpus"], 500_000_000);
    for space in ["NetworkMode", "PidMode", "IpcMode", "UTSMode", "UsernsMode"] {
        assert!(host[space] != "host", "{space}");
    }
    for list in
        ["Binds", "Devices", "DeviceRequests", "DeviceCgroupRules", "VolumesFrom", "Links", "ExtraHosts"]
    {
        assert!(host[list].as_array().is_none_or(Vec::is_empty), "{list}: {}", host[list]);
    }
    let logs = &host["LogConfig"];
    assert_eq!(logs["Type"], "json-file");
    assert!(logs["Config"]["max-size"].is_string() && logs["Config"]["max-file"].is_string(), "{logs}");
    assert_eq!(
        (&config["OpenStdin"], &config["StdinOnce"], &config["Tty"]),
        (&json!(true), &json!(false), &json!(false))
    );
    assert_eq!(config["User"], "1000:1000");

    let mounts = made["Mounts"].as_array().expect("a list");
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    let own = agent.data_dir.join("servers/s");
    assert_eq!(
        (&mounts[0]["Type"], &mounts[0]["Source"], &mounts[0]["Destination"]),
        (&json!("bind"), &json!(own), &json!("/home/container"))
    );

    // From inside.
    assert_eq!(
        (line(&seen, "Uid"), line(&seen, "Gid")),
        ("1000\t1000\t1000\t1000", "1000\t1000\t1000\t1000")
    );
    assert_eq!(line(&seen, "NoNewPrivs"), "1");
    // CHOWN 0, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10; and none of them in effect for a plain user.
    assert_eq!((line(&seen, "CapBnd"), line(&seen, "CapEff")), ("00000000000004e1", "0000000000000000"));
    assert_eq!(line(&seen, "tmp program"), "runs");
    let tmp: Vec<&str> = line(&seen, "tmp mount").split([' ', ',']).collect();
    assert_eq!(tmp[0], "tmpfs", "{tmp:?}");
    assert!(["rw", "nosuid", "nodev", "size=262144k"].iter().all(|word| tmp.contains(word)), "{tmp:?}");
    assert!(!tmp.contains(&"noexec"), "{tmp:?}");
    assert_eq!(line(&seen, "own file"), "written");
    assert_eq!(line(&seen, "root file"), "refused");
    assert_eq!(std::fs::read_to_string(own.join("world.txt")).expect("the world was saved"), "ticks=0\n");
}

#[test]
fn what_a_spec_may_change_it_changes_and_the_rest_is_refused() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), &[("SERVER_USER", "2000:3000")]);
    let link = panel.accept();
    let (made, seen) = look(&link, &agent, "node", json!({"mountPath": "/data", "limits": {"swap": "32m"}}));
    assert_eq!(line(&seen, "Uid").split('\t').next(), Some("2000"));
    assert_eq!(
        (&made["Config"]["User"], &made["Mounts"][0]["Destination"]),
        (&json!("2000:3000"), &json!("/data"))
    );
    let host = &made["HostConfig"];
    assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(64 << 20), &json!(96 << 20)));

    let (made, seen) =
        look(&link, &agent, "root", json!({"user": "image", "capabilities": ["DAC_OVERRIDE"]}));
    assert_eq!((&made["Config"]["User"], line(&seen, "CapEff")), (&json!(""), "00000000000004e3"));
    assert_eq!(line(&seen, "NoNewPrivs"), "1");

    let (made, seen) = look(&link, &agent, "ids", json!({"user": "4000:4000"}));
    assert_eq!((&made["Config"]["User"], line(&seen, "own file")), (&json!("4000:4000"), "written"));

    for (field, value) in [
        ("capabilities", json!(["SYS_ADMIN"])),
        ("mountPath", json!("/")),
        ("mountPath", json!("/proc")),
        ("mountPath", json!("relative")),
        ("user", json!("root:docker:x")),
        ("image", json!("../../etc")),
    ] {
        let refused = link.call("create_server", "bad", demo(json!({field: value})));
        assert_eq!(code(&refused), "INVALID_PAYLOAD", "{field} {value}: {refused}");
        assert!(refused["error"]["message"].as_str().unwrap().contains(field), "{refused}");
    }
    assert_eq!(engine().state(&agent.container("bad")), "gone");
    assert!(!agent.data_dir.join("servers/bad").exists());
}

fn words(list: &Value) -> Vec<&str> {
    let mut words: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    words.sort_unstable();
    words
}
