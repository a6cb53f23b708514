//! A thousand rounds of commands over a network that lies, and two hundred kills of the Agent among them; and how soon an
//! Agent that was killed is at hand again. By hand: `LONGSHORE_AGENT=… cargo test --profile bench --test load durable`.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::storm::Storm;
use crate::support::*;

#[test]
fn a_thousand_rounds_over_a_network_that_lies_lose_nothing_and_double_nothing() {
    // Side by side: most of a round is the Agent's wait before it dials again.
    let storms = (0..8).map(|seed| thread::spawn(move || Storm { seed, rounds: 125, kill_every: 5 }.run()));
    let storms: Vec<_> = storms.collect();
    for storm in storms {
        storm.join().expect("every round holds");
    }
}

#[test]
fn three_hundred_servers_are_attached_again_within_a_second_without_the_panel() {
    const SERVERS: usize = 300;
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start_with(&panel, engine(), &[("LOG_LEVEL", "info"), ("WORKERS", "8")]);
    let link = panel.accept();
    for action in ["create_server", "start_server"] {
        let payload = if action == "create_server" { demo(json!({})) } else { json!({}) };
        let ids: Vec<_> =
            (0..SERVERS).map(|n| link.command(action, &format!("s{n}"), payload.clone())).collect();
        for id in ids {
            let mut open = Some(id.clone());
            link.wait_from(0, Duration::from_secs(600), &format!("answer to {id}"), |seen| match seen {
                Seen::Json(message) if message["type"] == "response" && message["id"] == id => open.take(),
                _ => None,
            });
        }
    }
    panel.go_away();
    agent.kill();
    let begun = Instant::now();
    agent.start_again();
    agent.wait_log_count("health at", 2);
    agent.wait_health("all of them", |health| health["servers"]["running"] == SERVERS);
    let took = begun.elapsed();
    println!("{SERVERS} running servers attached again in {:.3} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(1), "{took:?}");
}
