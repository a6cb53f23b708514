//! A hundred servers at once: every command is answered once, stops end in their time however stubborn the servers
//! are, no command needs a thread of its own, and a kill waits for nobody.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::*;

const SERVERS: usize = 100;
/// The Agent's own number of workers: what the bare Engine is asked with, too.
const PARALLEL: usize = 4;
/// Long enough for a hundred of anything on a machine that does other things as well.
const LONG: Duration = Duration::from_secs(120);

/// Sends the same command for every server, does what else is to be done meanwhile, and waits for all answers, looking
/// at the Agent's threads. Gives the answers, how long they took and the most threads seen.
fn all(
    link: &Connection,
    agent: &AgentProcess,
    action: &str,
    payload: Value,
    meanwhile: impl FnOnce(),
) -> (Vec<Value>, Duration, u64) {
    let (begun, mark) = (Instant::now(), link.mark());
    let ids: Vec<String> = (0..SERVERS).map(|n| link.command(action, &name(n), payload.clone())).collect();
    meanwhile();
    let (mut answers, mut threads) = (Vec::new(), 0);
    link.wait_from(mark, LONG, &format!("answer to each {action}"), |seen| {
        if let Seen::Json(message) = seen
            && message["type"] == "response"
            && ids.iter().any(|id| message["id"] == id.as_str())
        {
            threads = threads.max(agent.threads());
            answers.push(message.clone());
        }
        (answers.len() == SERVERS).then_some(())
    });
    let took = begun.elapsed();
    let failed: Vec<&Value> = answers.iter().filter(|answer| answer["success"] != true).collect();
    assert!(failed.is_empty(), "{action}: {} failed, such as {}", failed.len(), failed[0]);
    // A ping comes back after whatever else the Agent had to say.
    assert_eq!(link.call("system.ping", "", json!({}))["success"], true);
    for id in &ids {
        assert_eq!(link.responses(id).len(), 1, "{action} {id}");
    }
    (answers, took, threads)
}

fn name(n: usize) -> String {
    format!("s{n}")
}

/// Does `call` for every server on as many threads as the Agent has workers, and gives how long all of it took.
fn bare(call: impl Fn(usize) + Sync) -> Duration {
    let (begun, next) = (Instant::now(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= SERVERS {
                        break;
                    }
                    call(n);
                }
            });
        }
    });
    begun.elapsed()
}

#[test]
fn a_hundred_servers_start_and_stop_at_once() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let spec = demo(json!({"environment": {"IGNORE_TERM": "1"}, "limits": {"memory": "16m"}}));
    let (_, created, threads_1) = all(&link, &agent, "create_server", spec.clone(), || {});
    link.must("create_server", "other", spec);
    link.must("start_server", "other", json!({}));
    let mut kill = Duration::ZERO;
    let (_, started, threads_2) = all(&link, &agent, "start_server", json!({}), || {
        let begun = Instant::now();
        assert_eq!(link.must("kill_server", "other", json!({}))["exitCode"], 137);
        kill = begun.elapsed();
    });
    assert!(kill < started / 5, "a kill waited behind starts: {kill:?} of {started:?}");
    // Before that its first process would be ended by the signal.
    bare(|n| {
        engine().wait_output(&agent.container(&name(n)), "Demo server ready");
    });

    let (answers, stopped, threads_3) = all(&link, &agent, "stop_server", json!({"timeout": 3}), || {});
    for answer in &answers {
        let data = &answer["data"];
        assert_eq!((&data["status"], &data["killed"]), (&json!("stopped"), &json!(true)), "{answer}");
    }
    for n in 0..SERVERS {
        link.wait_event("server_status_changed", |data| {
            data["serverId"] == name(n).as_str() && data["currentStatus"] == "stopped"
        });
    }
    assert_eq!(link.must("list_servers", "", json!({}))["count"], SERVERS + 1);

    // The same containers by the Engine alone, with nobody else who listens.
    assert_eq!(agent.terminate().code(), Some(0));
    let post = |n: usize, what: &str| {
        engine().must("POST", &format!("/containers/{}/{what}", agent.container(&name(n))), None);
    };
    let bare_starts = bare(|n| post(n, "start"));
    let bare_kills = bare(|n| post(n, "kill"));

    let threads = threads_1.max(threads_2).max(threads_3);
    println!(
        "created in {created:.2?}, started in {started:.2?} (bare {bare_starts:.2?}, a kill meanwhile {kill:.2?}), stopped in {stopped:.2?} \
         (bare kills {bare_kills:.2?}), at most {threads} threads"
    );
    // While they run there is one more for each console that is followed, and a few that call the Engine for them.
    assert!(threads_1 <= 21 && threads <= 25 + SERVERS as u64, "{threads_1} and {threads} threads");
    let bound = Duration::from_secs(3) + 2 * bare_kills;
    assert!(stopped >= Duration::from_secs(3) && stopped <= bound, "{stopped:?} is not within {bound:?}");
    bare(|n| engine().remove(&agent.container(&name(n))));
}

#[test]
fn a_kill_does_not_wait_behind_a_stop() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({"environment": {"IGNORE_TERM": "1"}})));
    link.must("start_server", "s", json!({}));
    engine().wait_output(&agent.container("s"), "Demo server ready");

    let stop = link.command("stop_server", "s", json!({"timeout": 60}));
    engine().wait_output(&agent.container("s"), "Signal ignored");
    let begun = Instant::now();
    let killed = link.must("kill_server", "s", json!({}));
    let took = begun.elapsed();
    assert_eq!((&killed["status"], &killed["exitCode"]), (&json!("stopped"), &json!(137)));
    assert!(took < Duration::from_secs(2), "{took:?}");
    let stopped = link.response(&stop);
    assert_eq!(stopped["data"]["killed"], true, "{stopped}");
    assert_eq!(engine().state(&agent.container("s")), "exited");
    assert_eq!((link.responses(&stop).len(), link.messages().len() > 2), (1, true));
}
