//! Many running servers measured every second: what it costs the Agent, that the Engine is not asked, and what the same
//! figures cost through `docker stats`.

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::*;

const SERVERS: usize = 100;
const WINDOW: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(120);

/// Processor time of all threads of a process, to the nanosecond; /proc/<pid>/stat counts in hundredths of a second.
fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Of a core, in percent, over so long.
fn share(used: Duration, over: Duration) -> f64 {
    used.as_secs_f64() / over.as_secs_f64() * 100.0
}

fn name(n: usize) -> String {
    format!("s{n}")
}

fn all(link: &Connection, action: &str, payload: &Value) {
    let mark = link.mark();
    let ids: Vec<String> = (0..SERVERS).map(|n| link.command(action, &name(n), payload.clone())).collect();
    let mut answered = 0;
    link.wait_from(mark, LONG, &format!("answer to each {action}"), |seen| {
        if let Seen::Json(message) = seen
            && message["type"] == "response"
            && ids.iter().any(|id| message["id"] == id.as_str())
        {
            assert_eq!(message["success"], true, "{action}: {message}");
            answered += 1;
        }
        (answered == SERVERS).then_some(())
    });
}

/// Waits until every server was told of so many times from now on; each has its turn every second.
fn updates(link: &Connection, times: usize) {
    let (mark, mut left) = (link.mark(), SERVERS * times);
    link.wait_from(mark, WINDOW + SOON, "figures of every server", |seen| {
        if let Seen::Json(message) = seen
            && message["event"] == "resource_update"
        {
            left -= 1;
        }
        (left == 0).then_some(())
    });
}

/// The process behind the Engine's socket.
fn engine_pid() -> Option<u32> {
    let stream = std::os::unix::net::UnixStream::connect(engine().host().strip_prefix("unix://")?).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    Some(peer.pid.as_raw_nonzero().get().cast_unsigned())
}

/// What `docker stats` of these servers costs over the window, CLI and Engine; `None` without the CLI.
fn docker_stats(agent: &AgentProcess, engine_pid: u32) -> Option<Duration> {
    let mut command = Command::new("docker");
    command.args(["-H", engine().host(), "stats"]).args((0..SERVERS).map(|n| agent.container(&name(n))));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    let before = cpu(engine_pid);
    // A measurement lasts as long as it lasts: there is nothing to wait for.
    thread::sleep(WINDOW);
    let used = cpu(engine_pid).saturating_sub(before) + cpu(child.id());
    let _ = child.kill();
    let _ = child.wait();
    Some(used)
}

#[test]
fn a_hundred_servers_cost_the_agent_next_to_nothing_and_the_engine_nothing() {
    let panel = FakePanel::start();
    let proxy = EngineProxy::start(engine(), "1.41", |_| None);
    let agent =
        AgentProcess::start_with(&panel, proxy.engine(), &[("STATS_INTERVAL", "1"), ("LOG_LEVEL", "info")]);
    let link = panel.accept();
    all(&link, "create_server", &demo(json!({"limits": {"memory": "16m"}})));
    all(&link, "start_server", &json!({}));
    updates(&link, 2);

    let engine_pid = engine_pid();
    let engine_cpu = || engine_pid.map_or(Duration::ZERO, cpu);
    let (begun, before, engine_before) = (Instant::now(), cpu(agent.pid()), engine_cpu());
    let switches = agent.voluntary_switches();
    updates(&link, WINDOW.as_secs() as usize);
    let (over, used, engine_used) =
        (begun.elapsed(), cpu(agent.pid()) - before, engine_cpu().saturating_sub(engine_before));
    let wakes = (agent.voluntary_switches() - switches) as f64 / over.as_secs_f64();
    println!(
        "{SERVERS} servers each second over {over:.1?}: the Agent {:.2} % of a core, {wakes:.0} wake-ups a second, {} KiB, {} threads; \
         the Engine meanwhile {:.2} %",
        share(used, over),
        agent.resident_kib(),
        agent.threads(),
        share(engine_used, over)
    );
    let asked: Vec<String> =
        proxy.requests().into_iter().filter(|request| request.contains("/stats")).collect();
    assert_eq!(asked, [""; 0]);

    match engine_pid.and_then(|pid| docker_stats(&agent, pid)) {
        Some(theirs) => {
            // What the Engine did anyway is not theirs.
            let theirs = (share(theirs, WINDOW) - share(engine_used, over)).max(0.0);
            let times = theirs / share(used, over);
            println!(
                "docker stats of the same: Engine and CLI {theirs:.2} % of a core more, {times:.0} times the Agent"
            );
        }
        None => println!("docker stats: there is no docker CLI here to compare with"),
    }
    // Without the compiler's optimisations the same work takes about twice as long.
    let bound = if std::env::var_os("LONGSHORE_AGENT").is_some() { 1.0 } else { 3.0 };
    assert!(share(used, over) < bound, "{:.2} % of a core is not under {bound} %", share(used, over));
}
