//! The Agent against the bare Engine API, both called in turn in the same run, so that a noisy machine hurts both.
//!
//! A real Engine, the release Agent as its own process, and a Panel's end of the link in this one. Prints a table and
//! writes `target/bench/report.json`. `BENCH_SERVERS` and `BENCH_PAIRS` make it smaller while working on it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod bare;
mod load;
mod panel;
mod report;
#[path = "../support/mod.rs"]
mod support;

use bare::Bare;
use panel::{Panel, Waiting};
use report::{Goal, Report, Samples};
use support::{AgentProcess, DEMO_IMAGE, Engine, engine, unique_name};

/// Calls of which thousands fit into a second.
const QUICK_PAIRS: usize = 2000;
const IN_FLIGHT: usize = 32;
/// Long enough for one heartbeat of the link, which comes every 30 s.
const IDLE: Duration = Duration::from_secs(40);
/// Between a start and a stop: an init that is not up yet loses the signal, whoever sends it. And after a stop, which
/// the Engine still tidies up.
const SETTLE: Duration = Duration::from_millis(200);

fn main() {
    // `cargo test --benches` passes arguments of its own; there is nothing to choose here.
    let servers = setting("BENCH_SERVERS", 100);
    let pairs = setting("BENCH_PAIRS", 40);
    let engine = engine();
    let waiting = Waiting::listen();
    let url = format!("ws://{}/agent", waiting.address());
    let mut agent = AgentProcess::prepare(&url, engine, &[("LOG_LEVEL", "info")]);
    agent.start_again();
    let mut panel = waiting.accept();
    let mut bare = Bare::connect(engine.host()).expect("the bench needs an Engine on a Unix socket");
    let mut report = Report::default();

    say("idle without servers");
    idle(&mut report, "no server", &agent, &mut panel);

    say("one server: get_status, start and stop");
    let names: Vec<String> = (0..servers.max(1)).map(|n| format!("bench-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let first = names[0];
    let spec = json!({"image": DEMO_IMAGE, "environment": {"QUIET": "1"}, "limits": {"memory": "64m"}});
    panel.call("create_server", first, spec.clone());
    panel.call("start_server", first, json!({}));
    status(&mut report, "get_status, 1 server", &mut panel, &mut bare, &agent, first);
    lifecycle(&mut report, &mut panel, &mut bare, &agent, engine, first, pairs);

    say(&format!("{servers} servers: create and start"));
    panel.call_all("create_server", names[1..].iter().copied(), &spec, IN_FLIGHT);
    let took = panel.call_all("start_server", names[1..].iter().copied(), &json!({}), IN_FLIGHT);
    report.number("starts/s, 32 in flight", (servers - 1) as f64 / took.as_secs_f64(), "per second", None);
    status(&mut report, &format!("get_status, {servers} servers"), &mut panel, &mut bare, &agent, first);
    list(&mut report, &format!("list_servers, {servers} servers"), &mut panel, &mut bare, &agent);
    throughput(&mut report, &mut panel, engine, &agent, &names);
    say("idle with servers");
    idle(&mut report, &format!("{servers} servers"), &agent, &mut panel);

    drop(panel);
    load::measure(&mut report, &mut agent, engine, &names);

    let about = json!({"servers": servers, "lifecyclePairs": pairs, "quickPairs": QUICK_PAIRS, "inFlight": IN_FLIGHT});
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/report.json");
    report.finish(about, &path).expect("target is writable");
}

fn status(
    report: &mut Report,
    name: &str,
    panel: &mut Panel,
    bare: &mut Bare,
    agent: &AgentProcess,
    server: &str,
) {
    let inspect = format!("/containers/{}/json", agent.container(server));
    let (mut agents, mut bares, mut trips) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..QUICK_PAIRS {
        trips.add(panel.round_trip());
        bares.add(bare.call("GET", &inspect));
        agents.add(panel.call("get_status", server, json!({})).0);
    }
    report.number(&format!("link round trip ({name})"), trips.quantile(0.5), "ms", None);
    report.compare(name, &agents, &bares, trips.quantile(0.5), Goal::Faster);
}

fn list(report: &mut Report, name: &str, panel: &mut Panel, bare: &mut Bare, agent: &AgentProcess) {
    let filter = format!("%7B%22label%22%3A%5B%22longshore.node%3D{}%22%5D%7D", agent.node_id);
    let path = format!("/containers/json?all=1&filters={filter}");
    let (mut agents, mut bares, mut trips) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..QUICK_PAIRS / 10 {
        trips.add(panel.round_trip());
        bares.add(bare.call("GET", &path));
        agents.add(panel.call("list_servers", "", json!({})).0);
    }
    report.compare(name, &agents, &bares, trips.quantile(0.5), Goal::Faster);
}

/// Starts and stops of the Agent's server and of a twin that differs by its name alone, in turn.
fn lifecycle(
    report: &mut Report,
    panel: &mut Panel,
    bare: &mut Bare,
    agent: &AgentProcess,
    engine: &Engine,
    server: &str,
    pairs: usize,
) {
    let twin = Twin::of(engine, &agent.container(server));
    let (start, stop) =
        (format!("/containers/{}/start", twin.0), format!("/containers/{}/stop?t=30", twin.0));
    panel.call("stop_server", server, json!({}));
    let [mut agent_start, mut agent_stop, mut bare_start, mut bare_stop] =
        [(); 4].map(|()| Samples::default());
    for pair in 0..pairs {
        let mut with_agent = || {
            agent_start.add(panel.call("start_server", server, json!({})).0);
            panel.idle(SETTLE);
            agent_stop.add(panel.call("stop_server", server, json!({})).0);
            panel.idle(SETTLE);
        };
        let mut directly = || {
            bare_start.add(bare.call("POST", &start));
            std::thread::sleep(SETTLE);
            bare_stop.add(bare.call("POST", &stop));
            std::thread::sleep(SETTLE);
        };
        // Whoever comes second finds warmer caches, so they take turns at it.
        if pair % 2 == 0 {
            with_agent();
            directly();
        } else {
            directly();
            with_agent();
        }
    }
    report.compare("start_server", &agent_start, &bare_start, 0.0, Goal::WithinSpread);
    report.compare("stop_server", &agent_stop, &bare_stop, 0.0, Goal::WithinSpread);
    panel.call("start_server", server, json!({}));
}

/// Requests per second through the one link, and of the Engine through as many connections as were in flight.
fn throughput(report: &mut Report, panel: &mut Panel, engine: &Engine, agent: &AgentProcess, names: &[&str]) {
    let requests = QUICK_PAIRS * 5;
    let took =
        panel.call_all("get_status", names.iter().copied().cycle().take(requests), &json!({}), IN_FLIGHT);
    let through_agent = requests as f64 / took.as_secs_f64();
    let inspect = format!("/containers/{}/json", agent.container(names[0]));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..IN_FLIGHT {
            scope.spawn(|| {
                let mut bare = Bare::connect(engine.host()).expect("it was reached before");
                for _ in 0..requests / IN_FLIGHT {
                    bare.call("GET", &inspect);
                }
            });
        }
    });
    let directly = (requests / IN_FLIGHT * IN_FLIGHT) as f64 / began.elapsed().as_secs_f64();
    report.number("get_status/s, 32 in flight", through_agent, "per second", None);
    report.number("bare inspects/s, 32 in flight", directly, "per second", None);
}

/// The Agent while nobody asks it anything.
fn idle(report: &mut Report, name: &str, agent: &AgentProcess, panel: &mut Panel) {
    panel.idle(Duration::from_secs(5));
    let (before, began) = (agent.voluntary_switches(), Instant::now());
    panel.idle(IDLE);
    let switches = (agent.voluntary_switches() - before) as f64 / began.elapsed().as_secs_f64();
    // The goals are those of an Agent without work; servers cost what their sampling costs.
    let goal = |limit| (name == "no server").then_some(limit);
    report.number(&format!("idle RSS, {name}"), agent.resident_kib() as f64 / 1024.0, "MiB", goal(4.0));
    report.number(&format!("idle threads, {name}"), agent.threads() as f64, "", None);
    report.number(&format!("idle wake-ups/s, {name}"), switches, "per second", goal(1.0));
}

/// A container with the same configuration as another, which the Agent does not know; removed on drop.
struct Twin<'a>(String, &'a Engine);

impl<'a> Twin<'a> {
    fn of(engine: &'a Engine, container: &str) -> Self {
        let original = engine.inspect(container).expect("the Agent has created it");
        let mut body: Value = original["Config"].clone();
        body["HostConfig"] = original["HostConfig"].clone();
        let name = unique_name();
        // Its labels make it the Agent's; this one shall be nobody's.
        body["Labels"] = json!({"longshore.test": name});
        engine.must("POST", &format!("/containers/create?name={name}"), Some(&body));
        Twin(name, engine)
    }
}

impl Drop for Twin<'_> {
    fn drop(&mut self) {
        self.1.remove(&self.0);
    }
}

fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

fn say(what: &str) {
    eprintln!("bench: {what}");
}
