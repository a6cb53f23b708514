//! Many running servers measured every second: what it costs the Agent, that the Engine is not asked, and what the same
//! figures cost through `docker stats`.

mod support;

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::cost::{cpu, share};
use support::*;

const SERVERS: usize = 100;
const WINDOW: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(120);

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

/// What `docker stats` of these servers costs over the window, CLI and Engine.
fn docker_stats(agent: &AgentProcess) -> Duration {
    let mut command = engine().docker();
    command.arg("stats").args((0..SERVERS).map(|n| agent.container(&name(n))));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it was installed");
    let before = cpu(engine().pid());
    // A measurement lasts as long as it lasts: there is nothing to wait for.
    thread::sleep(WINDOW);
    let used = cpu(engine().pid()).saturating_sub(before) + cpu(child.id());
    let _ = child.kill();
    let _ = child.wait();
    used
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

    let engine_cpu = || cpu(engine().pid());
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

    // What the Engine did anyway is not theirs.
    let theirs = (share(docker_stats(&agent), WINDOW) - share(engine_used, over)).max(0.0);
    let times = theirs / share(used, over);
    println!(
        "docker stats of the same: Engine and CLI {theirs:.2} % of a core more, {times:.0} times the Agent"
    );
    assert!(times > 3.0, "docker stats costs only {times:.1} times as much");
    // Without the compiler's optimisations the same work takes about twice as long.
    let bound = if std::env::var_os("LONGSHORE_AGENT").is_some() { 1.0 } else { 3.0 };
    assert!(share(used, over) < bound, "{:.2} % of a core is not under {bound} %", share(used, over));
}
