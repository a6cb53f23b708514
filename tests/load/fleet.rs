//! 500 running servers on one node.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::rig::MEMORY;
use crate::support::cost::{cpu, share};
use crate::support::*;

const SERVERS: usize = 500;
const LIMIT: Duration = Duration::from_secs(900);
const WINDOW: Duration = Duration::from_secs(10);

fn all(link: &Connection, action: &str, payload: &Value) {
    let mark = link.mark();
    let mut open: std::collections::HashSet<String> =
        (0..SERVERS).map(|n| link.command(action, &format!("s{n}"), payload.clone())).collect();
    link.wait_from(mark, LIMIT, &format!("answer to each {action}"), |seen| {
        if let Seen::Json(message) = seen
            && message["type"] == "response"
            && message["id"].as_str().is_some_and(|id| open.remove(id))
        {
            assert_eq!(message["success"], true, "{action}: {message}");
        }
        open.is_empty().then_some(())
    });
}

fn updates(link: &Connection, count: usize) {
    let (mark, mut left) = (link.mark(), count);
    link.wait_from(mark, WINDOW * 3 + SOON, "figures of every server", |seen| {
        if let Seen::Json(message) = seen
            && message["event"] == "resource_update"
        {
            left -= 1;
        }
        (left == 0).then_some(())
    });
}

fn check(link: &Connection, agent: &AgentProcess, when: &str) {
    updates(link, 2 * SERVERS);
    let (begun, before) = (Instant::now(), cpu(agent.pid()));
    updates(link, 2 * SERVERS);
    let (over, used) = (begun.elapsed(), cpu(agent.pid()) - before);
    let (memory, threads) = (agent.resident_kib(), agent.threads());
    println!(
        "{SERVERS} running servers, {when}: {memory} KiB, at most {} KiB, {threads} threads, {:.2} % of a core",
        agent.peak_resident_kib(),
        share(used, over)
    );
    assert!(memory < MEMORY, "{memory} KiB {when}");
    assert!(threads < 550, "{threads} threads {when}");
}

#[test]
fn five_hundred_running_servers_take_little() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start_with(&panel, engine(), &[("LOG_LEVEL", "warn"), ("WORKERS", "8")]);
    let link = panel.accept();
    let begun = Instant::now();
    all(&link, "create_server", &demo(json!({"limits": {"memory": "8m", "pids": 16}})));
    all(&link, "start_server", &json!({}));
    println!("{SERVERS} servers were made and started in {:.0?}", begun.elapsed());
    check(&link, &agent, "started one by one");

    // All are found at once, and all their logs are taken up again.
    drop(link);
    agent.kill();
    agent.start_again();
    let link = panel.accept();
    check(&link, &agent, "found by an Agent that starts");
}
