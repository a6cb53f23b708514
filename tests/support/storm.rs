//! A command load over a network that lies, and an oracle that knows every command: in the end each is answered, with one
//! answer, and its effect is there exactly once when it succeeded and at most once when it was interrupted. What was done is
//! read off the disk and the Engine, not off the Agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{AgentProcess, Connection, FakePanel, Fault, FaultProxy, Seen, Witness, code, demo, engine};

/// A round may take so long on a loaded machine.
const ROUND: Duration = Duration::from_secs(90);

/// How a storm goes: the same seed is the same storm, but for what the scheduler does.
pub struct Storm {
    pub seed: u64,
    pub rounds: u32,
    /// The Agent is killed in every so manieth round, which also takes its backoff back to the start.
    pub kill_every: u32,
}

/// A command, until it is answered and after.
struct Asked {
    text: String,
    kind: Kind,
    answer: Option<Value>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A line appended to a file.
    Append,
    /// A line of console input, which the server repeats.
    Say,
    /// The server's run ends and another begins.
    Restart,
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        // Knuth's MMIX; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

impl Storm {
    /// Goes through it: each round ends when all of its commands are answered, and every few all that were ever asked are
    /// looked at.
    pub fn run(&self) {
        let panel = FakePanel::start();
        let proxy = FaultProxy::start(panel.address());
        let mut agent = AgentProcess::prepare(&proxy.url(), engine(), &[]);
        agent.start_again();
        let link = panel.accept();
        for server in ["talks", "rests"] {
            link.must("create_server", server, demo(json!({"restart": "never"})));
            link.must("start_server", server, json!({}));
            engine().wait_output(&agent.container(server), "Demo server ready");
        }
        let witness = Witness::of(engine(), &agent.node_id);
        let (mut line, mut random) = (Line::new(link), Random(self.seed));
        let mut all: BTreeMap<String, Asked> = BTreeMap::new();
        for round in 0..self.rounds {
            let what = format!("seed {}, round {round}", self.seed);
            let fault = fault(&mut random);
            let struck = proxy.struck();
            proxy.set(fault);
            let ids = ask(&mut all, round, &mut random);
            for id in &ids {
                line.ask(id, &all[id]);
            }
            if round % self.kill_every == self.kill_every - 1 {
                // At any moment of its work: this waits for nothing.
                thread::sleep(Duration::from_millis(random.below(40)));
                agent.kill();
                agent.start_again();
            } else if proxy.wait_struck(struck, Duration::from_secs(1)) && !ends(fault) {
                // What swallows and drips would only be noticed by its silence.
                match random.below(2) {
                    0 => proxy.cut(),
                    _ => proxy.cut_agents(),
                }
            }
            proxy.set(Fault::None);
            line = settle(&panel, line, &mut all, &what);
            if round % 50 == 49 || round + 1 == self.rounds {
                check(&agent, &witness, &all, &what);
            }
        }
    }
}

fn fault(random: &mut Random) -> Fault {
    let (from_panel, after) = (random.below(2) == 0, random.below(1500) as usize);
    match random.below(7) {
        0 => Fault::Cut { from_panel, after },
        1 | 2 => Fault::Reset { from_panel, after },
        3 => Fault::BlackHole { from_panel, after },
        4 => Fault::Drip { from_panel, after, every: Duration::from_secs(1) },
        5 => Fault::Delay { by: Duration::from_millis(random.below(50)) },
        _ => Fault::HalfClose { from_panel, after },
    }
}

/// Whether both sides notice it at once.
fn ends(fault: Fault) -> bool {
    matches!(fault, Fault::Cut { .. } | Fault::Reset { .. } | Fault::None | Fault::Delay { .. })
}

fn ask(all: &mut BTreeMap<String, Asked>, round: u32, random: &mut Random) -> Vec<String> {
    let mut ids = Vec::new();
    let mut add = |kind: Kind, n: u32| {
        let id = format!("storm-{round}-{n}-end");
        let (action, server, payload) = match kind {
            Kind::Append => (
                "upload_file",
                "rests",
                json!({"path": "log", "append": true, "encoding": "utf8", "content": format!("{id}\n")}),
            ),
            Kind::Say => ("send_server_command", "talks", json!({"command": format!("say {id}")})),
            Kind::Restart => ("restart_server", "rests", json!({"timeout": 0})),
        };
        let message =
            json!({"id": id, "type": "command", "action": action, "serverId": server, "payload": payload});
        all.insert(id.clone(), Asked { text: message.to_string(), kind, answer: None });
        ids.push(id);
    };
    (0..6).for_each(|n| add(if n % 3 == 0 { Kind::Say } else { Kind::Append }, n));
    if random.below(4) == 0 {
        add(Kind::Restart, 6);
    }
    ids
}

/// Takes in every answer that a connection has brought.
fn take_in(all: &mut BTreeMap<String, Asked>, seen: &[Seen], what: &str) {
    let mut on_this: BTreeMap<String, u32> = BTreeMap::new();
    for seen in seen {
        let Seen::Json(message) = seen else { continue };
        let Some(id) = message["id"].as_str().filter(|_| message["type"] == "response") else { continue };
        let Some(asked) = all.get_mut(id) else { continue };
        let count = on_this.entry(id.to_owned()).or_default();
        *count += 1;
        assert_eq!(*count, 1, "{what}: {id} was answered twice on one connection");
        if let Some(before) = &asked.answer {
            assert_eq!(before, message, "{what}: {id} has two answers");
        }
        asked.answer = Some(message.clone());
    }
}

/// The Panel's present connection, and what was asked on it.
struct Line {
    link: Connection,
    asked: BTreeSet<String>,
}

impl Line {
    fn new(link: Connection) -> Line {
        Line { link, asked: BTreeSet::new() }
    }

    fn ask(&mut self, id: &str, asked: &Asked) {
        if self.asked.insert(id.to_owned()) {
            self.link.send_text(&asked.text);
        }
    }
}

/// Goes from connection to connection, repeating on each what has no answer, until nothing lacks one.
fn settle(panel: &FakePanel, mut line: Line, all: &mut BTreeMap<String, Asked>, what: &str) -> Line {
    let begun = Instant::now();
    loop {
        let missing: Vec<String> =
            all.iter().filter(|(_, asked)| asked.answer.is_none()).map(|(id, _)| id.clone()).collect();
        if missing.is_empty() {
            return line;
        }
        assert!(begun.elapsed() < ROUND, "{what}: {missing:?} are never answered");
        // The newest connection counts; one that still stands beside it may have brought something all the same.
        if let Some(newer) = panel.accept_within(Duration::from_millis(10)) {
            let older = std::mem::replace(&mut line, Line::new(newer));
            take_in(all, &older.link.cut(), what);
            continue;
        }
        let seen = line.link.seen();
        take_in(all, &seen, what);
        // What was owed comes before this, and only what still lacks an answer then is asked for again.
        let connected = |seen: &Seen| matches!(seen, Seen::Json(m) if m["event"] == "agent_connected");
        if seen.iter().any(connected) {
            let missing = missing.iter().filter(|id| all[*id].answer.is_none());
            missing.for_each(|id| line.ask(id, &all[id]));
        }
    }
}

/// How often each command's words stand in a text.
fn count(text: &str, id: &str) -> usize {
    text.matches(id).count()
}

/// Whether it succeeded; the only other end there may be is that the Agent was interrupted.
fn succeeded(id: &str, asked: &Asked, what: &str) -> bool {
    let answer = asked.answer.as_ref().unwrap_or_else(|| panic!("{what}: {id} has no answer"));
    assert!(answer["success"] == true || code(answer) == "INTERRUPTED", "{what}: {answer}");
    answer["success"] == true
}

fn must_be_done_once(id: &str, asked: &Asked, done: usize, what: &str) {
    match succeeded(id, asked, what) {
        true => assert_eq!(done, 1, "{what}: {id} succeeded"),
        false => assert!(done <= 1, "{what}: {id} was interrupted, and done {done} times"),
    }
}

/// Checks everything that was ever asked.
fn check(agent: &AgentProcess, witness: &Witness, all: &BTreeMap<String, Asked>, what: &str) {
    let of_kind = |kind: Kind| all.iter().filter(move |(_, asked)| asked.kind == kind);
    let file = fs::read_to_string(agent.data_dir.join("servers/rests/log")).unwrap_or_default();
    for (id, asked) in of_kind(Kind::Append) {
        must_be_done_once(id, asked, count(&file, id), what);
    }
    let path = format!("/containers/{}/logs?stdout=1", agent.container("talks"));
    let output = engine().must("GET", &path, None);
    for (id, asked) in of_kind(Kind::Say) {
        must_be_done_once(id, asked, count(output.as_str().unwrap_or_default(), id), what);
    }
    let restarts = of_kind(Kind::Restart).filter(|(id, asked)| succeeded(id, asked, what)).count() as u32;
    let interrupted = of_kind(Kind::Restart).count() as u32 - restarts;
    let starts = witness.count("rests", "start");
    assert!(
        (restarts..=restarts + interrupted).contains(&starts),
        "{what}: {starts} starts for {restarts} restarts and {interrupted} that were interrupted"
    );
}
