//! What flows: figures of all servers each second, and one server's output, against Docker's own command line.

use std::time::{Duration, Instant};

use serde_json::json;

use super::report::{Report, Samples};
use super::say;
use super::support::cost::{cpu, cpu_in_all, share};
use super::support::{AgentProcess, Connection, Engine, FakePanel, Seen};

const WINDOW: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(120);
/// Of 100 bytes each.
const LINES: usize = 500_000;

/// The servers run; the Agent is started anew for each measurement.
pub fn measure(report: &mut Report, agent: &mut AgentProcess, engine: &Engine, servers: &[&str]) {
    let panel = FakePanel::start();
    agent.set("PANEL_URL", &panel.url());
    say("figures each second");
    agent.set("STATS_INTERVAL", "1");
    let link = again(agent, &panel);
    stats(report, agent, engine, &link, servers);
    drop(link);
    say("a flood");
    agent.set("STATS_INTERVAL", "5");
    let link = again(agent, &panel);
    flood(report, agent, &link, servers[0]);
    drop(link);
    say("a large log");
    agent.set("LOG_RATE", "0");
    // An Agent that knows nothing of what was read reads it all.
    std::fs::remove_dir_all(agent.data_dir.join("console")).expect("the Agent's own directory");
    let begun = Instant::now();
    let link = again(agent, &panel);
    wait_line(&link, 0, servers[0], "that was all");
    let (ours, our_cpu) = (begun.elapsed(), cpu_in_all(agent.pid()));
    let (theirs, their_cpu) = engine.docker_logs(&agent.container(servers[0]), "that was all");
    let name = format!("log of {} MB", LINES / 10_000);
    for (what, ours, theirs) in [("time", ours, theirs), ("processor", our_cpu, their_cpu)] {
        report.number(&format!("{name}, {what}"), ours.as_secs_f64(), "s", Some(theirs.as_secs_f64() * 1.05));
        report.number(&format!("{name}, {what}, docker logs"), theirs.as_secs_f64(), "s", None);
    }
}

fn again(agent: &mut AgentProcess, panel: &FakePanel) -> Connection {
    agent.terminate();
    agent.start_again();
    panel.accept()
}

fn stats(report: &mut Report, agent: &AgentProcess, engine: &Engine, link: &Connection, servers: &[&str]) {
    let count = servers.len();
    updates(link, 3 * count);
    let (begun, before) = (Instant::now(), cpu(agent.pid()));
    updates(link, WINDOW.as_secs() as usize * count);
    let ours = share(cpu(agent.pid()) - before, begun.elapsed());
    let mut command = engine.docker();
    command.arg("stats").args(servers.iter().map(|server| agent.container(server)));
    let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("it was installed");
    let before = cpu(engine.pid());
    std::thread::sleep(WINDOW);
    let theirs = share(cpu(engine.pid()).saturating_sub(before) + cpu(child.id()), WINDOW);
    let _ = child.kill();
    let _ = child.wait();
    report.number(&format!("figures of {count} each second"), ours, "% of a core", Some(1.0));
    report.number("docker stats of the same", theirs, "% of a core", None);
}

fn updates(link: &Connection, count: usize) {
    let (mark, mut left) = (link.mark(), count);
    link.wait_from(mark, LIMIT, "figures of every server", |seen| {
        if let Seen::Json(message) = seen
            && message["event"] == "resource_update"
        {
            left -= 1;
        }
        (left == 0).then_some(())
    });
}

/// What others wait while one server prints as fast as it can, and what the Agent needs for it.
fn flood(report: &mut Report, agent: &AgentProcess, link: &Connection, server: &str) {
    let mark = link.mark();
    let begun = Instant::now();
    for command in [&format!("flood {LINES}"), "say the flood is over"] {
        link.must("send_server_command", server, json!({"command": command}));
    }
    let is_over = |seen: &Seen| match seen {
        Seen::Json(message) => {
            let text = message["data"]["message"].as_str();
            text.is_some_and(|text| text.contains("the flood is over")).then_some(())
        }
        _ => None,
    };
    let mut waits = Samples::default();
    let mut from = mark;
    loop {
        let next = link.mark();
        if link.seen_from(from).iter().find_map(is_over).is_some() {
            break;
        }
        from = next;
        let asked = Instant::now();
        let id = link.command("get_status", server, json!({}));
        link.wait_from(next, LIMIT, "answer", |seen| match seen {
            Seen::Json(message) => (message["id"] == id.as_str()).then_some(()),
            _ => None,
        });
        waits.add(asked.elapsed());
    }
    let took = begun.elapsed().as_secs_f64();
    report.number(&format!("flood of {} MB", LINES / 10_000), took, "s", None);
    report.number("get_status within it, p99", waits.quantile(0.99), "ms", None);
    report.number("RSS within it, at most", agent.peak_resident_kib() as f64 / 1024.0, "MiB", Some(16.0));
    link.must("send_server_command", server, json!({"command": "stderr that was all"}));
    wait_line(link, mark, server, "that was all");
}

fn wait_line(link: &Connection, mark: usize, server: &str, text: &str) {
    link.wait_from(mark, LIMIT, &format!("line {text:?}"), |seen| match seen {
        Seen::Json(message) if message["data"]["serverId"] == server => {
            message["data"]["message"].as_str()?.contains(text).then_some(())
        }
        _ => None,
    });
}
