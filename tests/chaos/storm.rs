//! Faults of the Engine at random, by a seed, and what must be true after each round of them: every command was answered
//! once, what the Agent tells is what Docker tells, no crash was made up, and nobody else's container was touched.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::*;

const SERVERS: [&str; 4] = ["a", "b", "c", "d"];
/// An Engine that looks for its containers on a busy machine is slow, and so is who waits for its own bounds.
const LONG: Duration = Duration::from_secs(180);
/// A call that hangs does so for longer than the Agent may be held up by it, and shorter than the Agent's own bound.
const HANG: Duration = Duration::from_secs(3);

/// Xorshift: the same seed gives the same throws.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// One of `0..sides`.
    pub fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.throw(from.len() as u64) as usize]
    }
}

/// What errors look like, from engines of many years and from what stands before them.
const ERRORS: [(u16, &str); 7] = [
    (500, r#"{"message":"server error"}"#),
    (500, "plain text of an old engine\n"),
    (500, ""),
    (502, "<html><body><h1>502 Bad Gateway</h1></body></html>"),
    (503, r#"{"message":"the daemon is shutting down","errorDetail":{"message":"x"}}"#),
    (504, r#"{"message":null}"#),
    (500, r#"{"message":"cut in the middle of"#),
];

/// What becomes of one request, while there are faults left to be made.
fn fault(dice: &Mutex<Dice>, left: &AtomicU32) -> Option<Passage> {
    let (kind, more) = {
        let mut dice = dice.lock().unwrap();
        (dice.throw(100), dice.throw(64))
    };
    if kind >= 45
        || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    {
        return None;
    }
    match kind {
        0..12 => {
            let (status, body) = ERRORS[more as usize % ERRORS.len()];
            Some(Passage::Answer(status, body.to_owned()))
        }
        12..20 => Some(Passage::CutBefore),
        20..28 => Some(Passage::CutAfter),
        28..35 => Some(Passage::Truncate(more * 8)),
        // The delay is the fault; nothing waits for it to have passed.
        35..43 => {
            thread::sleep(Duration::from_millis(more * 4));
            None
        }
        _ => {
            thread::sleep(HANG);
            Some(Passage::CutBefore)
        }
    }
}

/// `rounds` of commands through an Engine whose every call may fail, be late, be cut or hang, in another API version each.
pub fn failing_engine(seed: u64, rounds: u32) {
    let left = Arc::new(AtomicU32::new(0));
    let dice = Arc::new(Mutex::new(Dice::new(seed)));
    let proxy = {
        let (left, dice) = (Arc::clone(&left), Arc::clone(&dice));
        EngineProxy::start(engine(), "1.41", move |_| fault(&dice, &left))
    };
    let foreign = unique_name();
    engine().run_foreign(&foreign, json!({}));
    engine().wait_output(&foreign, "Demo server ready");
    let bystander = engine().inspect(&foreign);
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, proxy.engine(), &[]);
    let link = panel.accept();
    for server in SERVERS {
        link.must("create_server", server, demo(json!({})));
    }
    let mut throws = Dice::new(seed ^ 0xffff);
    for round in 0..rounds {
        let what = format!("seed {seed}, round {round}");
        let mark = link.mark();
        proxy.claim(&format!("1.{}", 40 + throws.throw(13)));
        left.store(40, Ordering::Relaxed);
        proxy.cut();
        let asked = ask(&link, &mut throws, &SERVERS);
        let extra = format!("t{round}");
        let made = link.command("create_server", &extra, demo(json!({})));
        all_answered(&link, &what, asked.iter().chain([&made]));
        left.store(0, Ordering::Relaxed);
        agrees(&agent, &link, engine(), &what);
        no_crash_was_told(&link, mark, &what);
        assert_eq!(engine().inspect(&foreign), bystander, "{what}");
        if link.must("list_servers", "", json!({}))["servers"].to_string().contains(&extra) {
            link.must("delete_server", &extra, json!({"removeData": true}));
        }
    }
    for server in SERVERS {
        link.must("start_server", server, json!({}));
        link.must("stop_server", server, json!({"timeout": 0}));
    }
    engine().remove(&foreign);
}

/// `rounds` of an Engine that is killed, ended or loses everything, and comes back, with commands while it is away.
pub fn looping_engine(seed: u64, rounds: u32) {
    let engine = PrivateEngine::start();
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, &engine, &[]);
    let link = panel.accept();
    for server in SERVERS {
        link.must("create_server", server, demo(json!({})));
        link.must("start_server", server, json!({}));
        engine.wait_output(&agent.container(server), "Demo server ready");
    }
    let mut throws = Dice::new(seed);
    // Of these nothing is asked, so that they run after every round.
    let steady = &SERVERS[2..];
    for round in 0..rounds {
        let (end, what) = (throws.pick(&["kill", "terminate", "cut"]), format!("seed {seed}, round {round}"));
        let mark = link.mark();
        let mut asked = ask(&link, &mut throws, &SERVERS[..2]);
        match end {
            "kill" => engine.kill(),
            "terminate" => engine.terminate(),
            _ => engine.cut(),
        }
        asked.extend(ask(&link, &mut throws, &SERVERS[..2]));
        engine.start_again();
        let what = format!("{what}: {end}");
        all_answered(&link, &what, asked.iter());
        let begun = Instant::now();
        while !steady.iter().all(|server| engine.state(&agent.container(server)) == "running") {
            assert!(begun.elapsed() < LONG, "{what}: what ran does not run again");
            link.must("system.ping", "", json!({}));
        }
        agrees(&agent, &link, &engine, &what);
        no_crash_was_told(&link, mark, &what);
    }
}

/// Sends two commands at random for each server, and gives their ids.
fn ask(link: &Connection, dice: &mut Dice, servers: &[&str]) -> Vec<String> {
    let mut ids = Vec::new();
    for server in servers {
        for _ in 0..2 {
            let actions = [
                "start_server",
                "stop_server",
                "restart_server",
                "kill_server",
                "update_server",
                "get_status",
            ];
            let action = dice.pick(&actions);
            let payload = match action {
                "stop_server" | "restart_server" => json!({"timeout": 1}),
                "update_server" => json!({"limits": {"pids": 100 + dice.throw(100)}}),
                _ => json!({}),
            };
            ids.push(link.command(action, server, payload));
        }
    }
    ids
}

fn all_answered<'a>(link: &Connection, what: &str, ids: impl Iterator<Item = &'a String>) {
    for id in ids {
        link.wait_from(0, LONG, &format!("answer to {id}, {what}"), |seen| match seen {
            Seen::Json(message) => (message["type"] == "response" && message["id"] == **id).then_some(()),
            _ => None,
        });
        assert_eq!(link.responses(id).len(), 1, "{what}: {id} is answered once");
    }
}

/// Waits until the Agent and Docker tell the same of every server, and of no other.
fn agrees(agent: &AgentProcess, link: &Connection, engine: &Engine, what: &str) {
    let begun = Instant::now();
    loop {
        let differs = difference(agent, link, engine);
        let Some(differs) = differs else { return };
        assert!(begun.elapsed() < LONG, "{what}: {differs}");
    }
}

fn difference(agent: &AgentProcess, link: &Connection, engine: &Engine) -> Option<String> {
    let listed = link.must("list_servers", "", json!({}));
    let containers = engine.list(&format!("longshore.node={}", agent.node_id));
    let owner =
        |container: &Value| container["Labels"]["longshore.server"].as_str().unwrap_or_default().to_owned();
    let listed = listed["servers"].as_array().unwrap();
    if let Some(orphan) =
        containers.iter().find(|c| listed.iter().all(|server| server["serverId"] != owner(c)))
    {
        return Some(format!("nobody knows of {orphan}"));
    }
    for server in listed {
        let id = server["serverId"].as_str().unwrap();
        let own: Vec<&Value> = containers.iter().filter(|container| owner(container) == id).collect();
        let running = own.iter().filter(|container| container["State"] == "running").count();
        let status = server["status"].as_str().unwrap();
        let fits = match status {
            "running" => running == 1,
            "created" | "stopped" => running == 0,
            _ => false,
        };
        if !fits || own.len() > 1 {
            return Some(format!("{id} is {status}, with {running} of {} containers running", own.len()));
        }
    }
    None
}

fn no_crash_was_told(link: &Connection, mark: usize, what: &str) {
    for seen in link.seen_from(mark) {
        let Seen::Json(message) = seen else { continue };
        let reason = message["data"]["reason"].as_str().unwrap_or_default();
        let made_up =
            message["event"] == "server_status_changed" && matches!(reason, "crash" | "gave_up" | "oom");
        assert!(!made_up, "{what}: {message}");
    }
}
