//! 200 MB, printed by one server as fast as it can, beside others that tick.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::rig::*;
use crate::support::cost::median;
use crate::support::output::lines_of;
use crate::support::*;

const TICKING: usize = 20;
const LINES: usize = 2_000_000;
const STARTS: usize = 5;

/// Starts and stops a server so many times; how long each start took.
fn starts(link: &Connection, server: &str) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..STARTS {
        let mark = link.mark();
        let begun = Instant::now();
        respond(link, mark, "start_server", server);
        took.push(begun.elapsed());
        wait_line(link, mark, SOON, server, "Demo server ready");
        respond(link, link.mark(), "stop_server", server);
    }
    took
}

fn respond(link: &Connection, mark: usize, action: &str, server: &str) {
    let id = link.command(action, server, json!({}));
    link.wait_from(mark, SOON * 2, &format!("answer to {action}"), |seen| match seen {
        Seen::Json(message) if message["type"] == "response" && message["id"] == id.as_str() => {
            assert_eq!(message["success"], true, "{message}");
            Some(())
        }
        _ => None,
    });
}

/// The same of a container that the Agent does not know, on the Engine itself.
fn bare_starts(container: &str) -> Vec<Duration> {
    let call = |what: &str| engine().must("POST", &format!("/containers/{container}/{what}"), None);
    let mut took = Vec::new();
    for _ in 0..STARTS {
        let begun = Instant::now();
        call("start");
        took.push(begun.elapsed());
        call("stop?t=5");
    }
    took
}

#[test]
fn a_flood_holds_up_nobody_and_what_it_costs_is_told_to_the_line() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), &[("LOG_LEVEL", "info")]);
    let link = panel.accept();
    started(&link, "flood", demo(json!({})));
    let ticking: Vec<String> = (0..TICKING).map(|n| format!("tick-{n}")).collect();
    for server in &ticking {
        started(
            &link,
            server,
            demo(json!({"environment": {"QUIET": "0", "TICK_MS": "250"}, "limits": {"memory": "16m"}})),
        );
    }
    link.must("create_server", "late", demo(json!({})));
    let twin = engine().run_foreign(&unique_name(), json!({"Env": ["QUIET=1"]}));
    let _twin = Removed(twin.clone());
    engine().must("POST", &format!("/containers/{twin}/stop?t=5"), None);
    let (quiet, quiet_bare) = (starts(&link, "late"), bare_starts(&twin));

    let mark = link.mark();
    let begun = Instant::now();
    link.must("send_server_command", "flood", json!({"command": format!("flood {LINES}")}));
    link.must("send_server_command", "flood", json!({"command": "say the flood is over"}));
    let over = AtomicBool::new(false);
    let (ticks, latest, loaded, loaded_bare) = thread::scope(|scope| {
        // Sees each tick as it arrives and compares it with the time that the Engine read it at.
        let watch = scope.spawn(|| {
            let (mut count, mut latest) = (0, Duration::ZERO);
            link.wait_from(mark, FLOOD_LIMIT, "the end of the flood", |seen| {
                let now = now_ns();
                if let Seen::Json(message) = seen
                    && message["event"] == "server_log"
                    && message["data"]["serverId"].as_str().is_some_and(|id| id.starts_with("tick-"))
                {
                    for told in lines_of(&message["data"]) {
                        count += 1;
                        latest = latest.max(Duration::from_nanos(now.saturating_sub(told.line.time_ns)));
                    }
                }
                over.load(Ordering::Relaxed).then_some(())
            });
            (count, latest)
        });
        let loaded = starts(&link, "late");
        let loaded_bare = bare_starts(&twin);
        wait_line(&link, mark, FLOOD_LIMIT, "flood", "the flood is over");
        over.store(true, Ordering::Relaxed);
        let (ticks, latest) = watch.join().expect("it found what it waited for");
        (ticks, latest, loaded, loaded_bare)
    });
    let took = begun.elapsed();

    let mut account = Account::default();
    let mut first = None;
    account.take(&link.seen(), "flood", |seq, line| {
        if let Some(number) = line.strip_prefix("flood ").and_then(|rest| rest.split(' ').next()) {
            let number: u64 = number.parse().expect("a number");
            let before = *first.get_or_insert(seq - number);
            assert_eq!(seq - number, before, "a line that was dropped was not told");
        }
    });
    account.assert_complete();
    let peak = agent.peak_resident_kib();
    let [quiet, quiet_bare, loaded, loaded_bare] = [quiet, quiet_bare, loaded, loaded_bare].map(median);
    println!(
        "flood of {LINES} lines in {took:.1?}: {} lines came, {} were told as lost in {} gaps; {ticks} ticks of others, the \
         latest after {latest:.0?}; the Agent's memory at most {peak} KiB",
        account.lines, account.lost_lines, account.gaps
    );
    println!(
        "start through the Agent {quiet:.0?} without and {loaded:.0?} within the flood ({:.2} times); on the Engine itself \
         {quiet_bare:.0?} and {loaded_bare:.0?} ({:.2} times)",
        loaded.as_secs_f64() / quiet.as_secs_f64(),
        loaded_bare.as_secs_f64() / quiet_bare.as_secs_f64()
    );
    assert!(account.lines + account.lost_lines >= LINES as u64 && account.gaps > 0);
    assert!(ticks > 20 * TICKING, "only {ticks} ticks came");
    assert!(latest < Duration::from_secs(1), "a tick came {latest:?} after it was printed");
    assert!(peak < MEMORY, "{peak} KiB");
    // What the Engine itself loses to its own flood is not the Agent's.
    let allowed = loaded_bare.max(quiet) * 3 / 2;
    assert!(loaded < allowed, "a start took {loaded:?} within the flood, {allowed:?} would have been fair");
}
