//! What servers and the node use: measured from the kernel's files, told as it is measured, in both dialects, and
//! answered without asking the Engine.

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use support::*;

fn ok(link: &Connection, action: &str, server: &str, payload: Value) -> Value {
    let id = link.command(action, server, payload);
    let response = link.response(&id);
    assert_eq!(response["success"], true, "{action}: {response}");
    response["data"].clone()
}

fn start_demo(link: &Connection, memory: &str) {
    let spec = json!({"image": DEMO_IMAGE, "environment": {"QUIET": "1"}, "limits": {"memory": memory}});
    ok(link, "create_server", "s", spec);
    ok(link, "start_server", "s", json!({}));
}

fn is_number(value: &Value) -> bool {
    value.as_f64().is_some()
}

#[test]
fn a_running_server_is_measured_and_a_stopped_one_is_not() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), &[("STATS_INTERVAL", "1")]);
    let link = panel.accept();
    start_demo(&link, "64m");

    let update =
        link.wait_event("resource_update", |data| data["cpu"].as_f64() > Some(0.0) || data["pids"] != 0);
    let data = &update["data"];
    assert_eq!(update["seq"], Value::Null, "figures have no sequence number: {update}");
    assert_eq!((&data["serverId"], &data["memory"]["limit"]), (&json!("s"), &json!(64 << 20)));
    assert!(data["memory"]["used"].as_u64() > Some(0) && data["pids"].as_u64() >= Some(1), "{data}");
    assert!(is_number(&data["network"]["rx"]) && is_number(&data["disk"]["used"]), "{data}");

    let metrics = ok(&link, "get_server_metrics", "s", json!({}));
    for name in ["cpu", "memory", "disk", "pids", "uptime"] {
        assert!(is_number(&metrics[name]), "{name}: {metrics}");
        assert_eq!(metrics[name], metrics["metrics"][name]);
    }
    assert!(is_number(&metrics["network"]["in"]) && metrics["timestamp"].is_string(), "{metrics}");
    let status = ok(&link, "get_status", "s", json!({}));
    assert!(status["resources"]["memory"]["used"].as_u64() > Some(0), "{status}");

    // The Engine's own figure, which its CLI would show: within 5 % of ours while nothing changes.
    let stats = engine().must("GET", &format!("/containers/{}/stats?stream=0", agent.container("s")), None);
    let (usage, cache) = (&stats["memory_stats"]["usage"], &stats["memory_stats"]["stats"]);
    let cache = cache.get("total_inactive_file").or(cache.get("inactive_file")).and_then(Value::as_f64);
    let theirs = usage.as_f64().expect("the Engine measures memory") - cache.unwrap_or(0.0);
    let ours = ok(&link, "get_server_metrics", "s", json!({}))["memory"].as_f64().expect("a number");
    assert!((ours - theirs).abs() <= theirs * 0.05, "ours {ours}, the Engine's {theirs}");

    ok(&link, "stop_server", "s", json!({}));
    let stopped = ok(&link, "get_server_metrics", "s", json!({}));
    assert_eq!((&stopped["memory"], &stopped["uptime"]), (&json!(0), &json!(0)), "{stopped}");
}

/// One screen of `docker stats` after the other.
fn docker_stats(container: &str, screens: usize) -> Vec<Figures> {
    let mut command = engine().docker();
    command.args(["stats", "--format", "{{.CPUPerc}} {{.MemUsage}} {{.PIDs}}", container]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it was installed");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    // `12.34% 1.5MiB / 64MiB 3`; before the first measurement there are dashes, and a screen begins with an escape.
    let figures = lines.filter_map(|line| {
        let words: Vec<&str> = line.trim_start_matches(|c: char| !c.is_ascii_digit()).split(' ').collect();
        let [cpu, memory, _, _, pids] = words[..] else { return None };
        let at = memory.find(|c: char| c.is_ascii_alphabetic())?;
        let unit = match &memory[at..] {
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            _ => return None,
        };
        Some((
            cpu.strip_suffix('%')?.parse().ok()?,
            memory[..at].parse::<f64>().ok()? * unit,
            pids.parse().ok()?,
        ))
    });
    let figures = figures.skip(1).take(screens).collect();
    let _ = child.kill();
    let _ = child.wait();
    figures
}

#[test]
fn figures_under_a_steady_load_are_those_of_docker_stats() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), &[("STATS_INTERVAL", "1")]);
    let link = panel.accept();
    start_demo(&link, "64m");
    link.must("send_server_command", "s", json!({"command": "alloc 20"}));
    link.must("send_server_command", "s", json!({"command": "work 20 120"}));
    link.wait_json("work", |message| {
        message["data"]["message"].as_str().is_some_and(|m| m.contains("Working"))
    });
    // On a busy machine the load is not always steady over the window: wrong figures would stay wrong.
    for attempt in 1.. {
        let mark = link.mark();
        let theirs = docker_stats(&agent.container("s"), 20);
        let ours = updates_from(&link, mark, 10);
        let mean = |figures: &[Figures], of: fn(&Figures) -> f64| {
            figures.iter().map(of).sum::<f64>() / figures.len() as f64
        };
        let ratio = |what, of| {
            let (ours, theirs) = (mean(&ours, of), mean(&theirs, of));
            println!("{what}: {ours:.1}, by docker stats {theirs:.1}, {:.3} times", ours / theirs);
            ours / theirs
        };
        let ratios = [ratio("cpu", |f| f.0), ratio("memory", |f| f.1), ratio("pids", |f| f.2 as f64)];
        if ratios.iter().all(|ratio| (0.95..=1.05).contains(ratio)) {
            break;
        }
        assert!(attempt < 6, "cpu, memory and pids are {ratios:?} times those of docker stats");
    }
}

/// Processor in percent, memory in bytes, processes.
type Figures = (f64, f64, u64);

/// So many figures of the one server that runs, but for the first two, which are about the time before.
fn updates_from(link: &Connection, mark: usize, count: usize) -> Vec<Figures> {
    let (mut figures, mut skipped) = (Vec::new(), 0);
    link.wait_from(mark, SOON + Duration::from_secs(5), "figures over the same time", |seen| {
        if let Seen::Json(message) = seen
            && message["event"] == "resource_update"
        {
            skipped += 1;
            if skipped > 2 {
                let data = &message["data"];
                let number = |value: &Value| value.as_f64().expect("a number");
                let pids = data["pids"].as_u64().expect("a number");
                figures.push((number(&data["cpu"]), number(&data["memory"]["used"]), pids));
            }
        }
        (figures.len() >= count).then_some(())
    });
    figures
}

#[test]
fn figures_come_in_the_dialects_that_are_spoken() {
    let panel = FakePanel::start();
    let _agent = AgentProcess::start_with(&panel, engine(), &[("STATS_INTERVAL", "1")]);
    let link = panel.accept();
    start_demo(&link, "64m");
    link.send(&json!({"type": "server_start", "data": {"serverId": "s"}}));
    let legacy = link.wait_json("legacy stats", |message| {
        message["type"] == "server_status" && message["data"]["stats"]["memory"].as_u64() > Some(0)
    });
    let stats = &legacy["data"]["stats"];
    assert!(is_number(&stats["cpu"]) && is_number(&stats["network"]["out"]), "{legacy}");
    assert_eq!((&legacy["data"]["status"], &stats["players"]), (&json!("running"), &Value::Null));
    link.wait_event("resource_update", |_| true);
}

#[test]
fn the_node_is_measured_with_each_heartbeat() {
    let panel = FakePanel::start();
    let _agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let metrics = link.wait_event("system_metrics", |_| true);
    let data = &metrics["data"];
    assert!(data["memory"]["total"].as_u64() > data["memory"]["used"].as_u64(), "{data}");
    assert!(data["disk"]["total"].as_u64() > Some(0) && data["load"].is_array(), "{data}");
    assert_eq!(data["servers"], json!({"total": 0, "running": 0}));
}

/// Puts a file of so many bytes into a server's directory.
fn fill(agent: &AgentProcess, server: &str, bytes: usize) -> std::path::PathBuf {
    let path = agent.data_dir.join("servers").join(server).join("large");
    std::fs::write(&path, vec![1; bytes]).expect("the server's directory is there");
    path
}

#[test]
fn what_the_disk_holds_is_told_and_too_much_of_it_ends_the_server() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), &[("STATS_INTERVAL", "1")]);
    let link = panel.accept();
    // It would be started again if this were a crash.
    let spec = demo(json!({"limits": {"memory": "64m", "disk": "1m"}, "diskGrace": 2, "restart": "always"}));
    link.must("create_server", "s", spec);
    let large = fill(&agent, "s", 3 << 20);
    link.must("start_server", "s", json!({}));
    let over = link.wait_event("resource_update", |data| data["overLimit"] == true);
    const SCHED_IDLE: u32 = 5;
    assert_eq!(agent.scheduling("disk"), SCHED_IDLE, "nobody waits for a walk");
    assert!(over["data"]["disk"]["used"].as_u64() >= Some(3 << 20), "{over}");
    let status = link.must("get_status", "s", json!({}));
    assert_eq!(status["status"], "running", "it has its grace: {status}");
    assert!(status["resources"]["disk"]["used"].as_u64() >= Some(3 << 20), "{status}");

    let stopped = link.wait_event("server_status_changed", |data| data["currentStatus"] == "stopped");
    assert_eq!(stopped["data"]["reason"], "disk_limit", "{stopped}");
    let metrics = link.must("get_server_metrics", "s", json!({}));
    assert!(metrics["disk"].as_u64() >= Some(3 << 20), "remembered without a run: {metrics}");
    let servers = link.must("list_servers", "", json!({}));
    assert!(servers["servers"][0]["resources"]["disk"]["used"].as_u64() >= Some(3 << 20), "{servers}");

    // With room again it runs, and what is told says so.
    std::fs::remove_file(large).expect("it is there");
    let mark = link.mark();
    link.must("start_server", "s", json!({}));
    link.wait_from(mark, SOON, "figures without overLimit", |seen| match seen {
        Seen::Json(message) if message["event"] == "resource_update" => {
            let data = &message["data"];
            (data["overLimit"] == Value::Null && data["disk"]["used"].as_u64() < Some(1 << 20)).then_some(())
        }
        _ => None,
    });
    assert_eq!(link.must("get_status", "s", json!({}))["status"], "running");
}

#[test]
fn back_under_the_limit_within_the_grace_it_goes_on() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), &[("STATS_INTERVAL", "1")]);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({"limits": {"disk": "1m"}, "diskGrace": 4})));
    let large = fill(&agent, "s", 2 << 20);
    link.must("start_server", "s", json!({}));
    link.wait_event("resource_update", |data| data["overLimit"] == true);
    std::fs::remove_file(large).expect("it is there");
    let mark = link.mark();
    link.wait_from(mark, SOON, "figures without overLimit", |seen| match seen {
        Seen::Json(message) if message["event"] == "resource_update" => {
            (message["data"]["overLimit"] == Value::Null).then_some(())
        }
        _ => None,
    });
    assert_eq!(link.must("get_status", "s", json!({}))["status"], "running");
    // A limit that is taken away counts at once too.
    fill(&agent, "s", 2 << 20);
    link.must("update_server", "s", json!({"limits": {"disk": "512k"}, "diskGrace": 600}));
    link.wait_from(mark, SOON, "figures over the new limit", |seen| match seen {
        Seen::Json(message) => (message["data"]["overLimit"] == true).then_some(()),
        _ => None,
    });
}
