//! A thousand nodes at one Panel, with the link's own code at their ends: all back soon after a restart, each reached
//! quickly while all report and hundreds of pages look on, and the Panel stays small.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use longshore::link::outbox::{Bounds, NoSource};
use longshore::link::{self, Backoff, Dialer, Duplex, Inbound, Outbox, Secret, Setback, Threads, WsUrl};
use serde_json::{Value, json};

use crate::process::Panel;

const NODES: usize = 1_000;
const PAGES: usize = 200;
const CALLS: usize = 500;
/// Of every thread of a node and of a page.
const STACK: usize = 64 << 10;
/// Between two measurements of a node's server.
const STATS: Duration = Duration::from_secs(5);
const MEMORY: u64 = 150 << 20;
/// How quick it has to be on a machine of its own; on a busy one as many times as slow as a bare exchange of bytes.
const ANSWER: Duration = Duration::from_millis(20);
/// Against a hang; the aim is 10 s.
const PATIENCE: Duration = Duration::from_secs(90);

/// All nodes and pages: where they dial, and how many are there.
struct World {
    agents: String,
    http: String,
    token: String,
    outboxes: Vec<Mutex<Option<Arc<Outbox<()>>>>>,
    /// Pages that have had the whole state, or what they missed, since the last look.
    begun: AtomicUsize,
    /// Pages that were told of measurements since the last look.
    told: AtomicUsize,
    over: AtomicBool,
}

impl World {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn id(number: usize) -> String {
    format!("sim-{number:04}")
}

/// Makes the nodes, each with a secret of its own, as joining Agents do.
fn join(panel: &Panel) -> Vec<Secret> {
    let joined = (0..NODES).map(|number| {
        let made = panel.send("POST", "/api/v1/nodes", &json!({"id": id(number)}).to_string()).json();
        let body = json!({"token": made["join"]["token"]}).to_string();
        let joined = panel.send("POST", "/api/v1/join", &body).json();
        Secret::new(joined["secret"].as_str().expect("a secret").to_owned()).unwrap()
    });
    joined.collect()
}

/// One node with one server, until the world is over: it dials, says what it runs, and answers.
fn live(world: &Arc<World>, number: usize, secret: &Secret) {
    let mut dialer = Dialer::new(WsUrl::parse(&format!("ws://{}/agent", world.agents)).unwrap(), None);
    dialer.headers = vec![("X-Node-Id".into(), id(number))];
    let mut backoff = Backoff::new(number as u64);
    let mut setback = Setback::Failed { retry_after: None };
    while !world.is_over() {
        match dialer.dial(secret) {
            Ok(connection) => {
                let begun = Instant::now();
                hold(world, number, connection);
                setback = Setback::Lost { held: begun.elapsed() };
            }
            Err(link::DialError::Refused(refusal)) => {
                setback = Setback::Failed { retry_after: refusal.retry_after };
            }
            Err(_) => {}
        }
        thread::sleep(backoff.wait_after(setback, Instant::now())); // what an Agent waits
        setback = Setback::Failed { retry_after: None };
    }
}

/// One connection of a node, to its end.
fn hold(world: &World, number: usize, connection: link::Connection) {
    let outbox = Arc::new(Outbox::<()>::new(NoSource, Bounds::default()));
    let _ = outbox.begin(0, Vec::new());
    let say = |outbox: &Outbox<()>, message: Value| {
        let _ = outbox.push(link::Entry::now(message.to_string())); // the link may have ended
    };
    let servers = json!([{"serverId": "s", "status": "running"}]);
    let data =
        json!({"version": "0", "bootId": format!("b{number}"), "capabilities": [], "servers": servers});
    say(&outbox, json!({"type": "event", "event": "agent_connected", "data": data}));
    let answering = Arc::clone(&outbox);
    let hear = move |inbound: Inbound| {
        let Inbound::Text(text) = inbound else { return };
        let asked: Value = serde_json::from_str(text.as_str()).unwrap();
        let data = json!({"servers": []});
        match asked["type"].as_str() {
            Some("command") => {
                say(
                    &answering,
                    json!({"id": asked["id"], "type": "response", "success": true, "data": data}),
                );
            }
            Some("ping") => say(&answering, json!({"id": asked["id"], "type": "pong", "data": {}})),
            _ => {}
        }
    };
    let (ended_tx, ended) = bounded(2);
    let threads = Threads { read: "sim-read", write: "sim-write", stack: Some(STACK) };
    let end = move |_| {
        let _ = ended_tx.send(());
    };
    let mut duplex =
        Duplex::start(connection, 0, Arc::clone(&outbox), threads, hear, end).expect("two threads");
    *world.outboxes[number].lock().unwrap() = Some(outbox);
    let _ = ended.recv();
    *world.outboxes[number].lock().unwrap() = None;
    let _ = duplex.join(Instant::now() + PATIENCE);
}

/// Has every node tell what its server uses, spread over the time as nodes that know nothing of each other are.
fn report(world: &World) {
    while !world.is_over() {
        for (number, outbox) in world.outboxes.iter().enumerate() {
            let usage = json!({"serverId": "s", "cpu": number % 100, "memory": {"used": number, "limit": 0}});
            let event = json!({"type": "event", "event": "resource_update", "data": usage}).to_string();
            if let Some(outbox) = &*outbox.lock().unwrap() {
                let _ = outbox.push(link::Entry::now(event));
            }
            thread::sleep(STATS / NODES as u32);
        }
    }
}

/// One page: an event stream that is opened again when it ends, from where it was.
fn browse(world: &World) {
    let mut last = String::new();
    while !world.is_over() {
        if let Ok(stream) = TcpStream::connect(&world.http) {
            let _ = follow(world, stream, &mut last); // its end is the Panel's
        }
        thread::sleep(Duration::from_secs(1)); // what the stream asks browsers to wait
    }
}

fn follow(world: &World, mut stream: TcpStream, last: &mut String) -> std::io::Result<()> {
    let World { http, token, .. } = world;
    let resume = if last.is_empty() { String::new() } else { format!("Last-Event-ID: {last}\r\n") };
    write!(
        stream,
        "GET /api/v1/events HTTP/1.0\r\nHost: {http}\r\nAuthorization: Bearer {token}\r\n{resume}\r\n"
    )?;
    let (mut reader, mut line) = (BufReader::with_capacity(16 << 10, stream), String::new());
    let (mut begun, mut told) = (false, false);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || world.is_over() {
            return Ok(());
        }
        if let Some(id) = line.strip_prefix("id: ") {
            id.trim_end().clone_into(last);
        } else if line.starts_with("retry: ") && !begun {
            begun = true;
            world.begun.fetch_add(1, Ordering::Relaxed);
        } else if line.starts_with("event: usage") && !told {
            told = true;
            world.told.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How long it took until so many of them were there.
fn count(what: &str, wanted: usize, begun: Instant, look: impl Fn() -> usize) -> Duration {
    while look() < wanted {
        assert!(begun.elapsed() < PATIENCE, "{} of {wanted} {what} after {PATIENCE:?}", look());
        thread::sleep(Duration::from_millis(50)); // between two looks from outside
    }
    begun.elapsed()
}

fn online(panel: &Panel) -> usize {
    let text = panel.get("/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix("longshore_panel_nodes{state=\"online\"} "));
    line.and_then(|count| count.parse::<f64>().ok()).map_or(0, |count| count as usize)
}

/// What a call costs here without a Panel in it: a new connection, some bytes there and back.
struct Echo {
    address: std::net::SocketAddr,
}

impl Echo {
    fn start() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut stream = stream;
                let mut bytes = [0; 256];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    let _ = stream.write_all(&bytes[..length]);
                }
            }
        });
        Echo { address }
    }

    fn exchange(&self) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let mut bytes = [7; 256];
        stream.write_all(&bytes).unwrap();
        stream.read_exact(&mut bytes).unwrap();
    }
}

/// A thread of the world's.
fn small(world: &Arc<World>, body: impl FnOnce(&Arc<World>) + Send + 'static) -> JoinHandle<()> {
    let world = Arc::clone(world);
    Builder::new().stack_size(STACK).spawn(move || body(&world)).expect("a thread")
}

/// Sorted times of [`CALLS`] runs.
fn times(mut run: impl FnMut(usize)) -> Vec<Duration> {
    let timed = |number| {
        let begun = Instant::now();
        run(number);
        begun.elapsed()
    };
    let mut times: Vec<Duration> = (0..CALLS).map(timed).collect();
    times.sort();
    times
}

/// The times of which one in two and one in a hundred is longer.
fn quantiles(times: &[Duration]) -> (Duration, Duration) {
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Of the Panel's memory, in bytes: now, and at most so far.
fn memory(panel: &Panel) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", panel.id())).unwrap();
    let fields: BTreeMap<&str, &str> = status.lines().filter_map(|line| line.split_once(':')).collect();
    let bytes = |name: &str| fields[name].trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
    (bytes("VmRSS"), bytes("VmHWM"))
}

#[test]
fn a_thousand_nodes_come_back_are_reached_and_cost_little() {
    let mut panel = Panel::start(&[]);
    panel.kill();
    panel.start_again(&[("LOG_LEVEL", "warn")]);
    let secrets = join(&panel);
    let world = Arc::new(World {
        agents: panel.agents.clone(),
        http: panel.http.clone(),
        token: panel.token.clone(),
        outboxes: (0..NODES).map(|_| Mutex::new(None)).collect(),
        begun: AtomicUsize::new(0),
        told: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    });
    let begun = Instant::now();
    let mut threads: Vec<JoinHandle<()>> = secrets
        .into_iter()
        .enumerate()
        .map(|(number, secret)| small(&world, move |world| live(world, number, &secret)))
        .collect();
    threads.push(small(&world, |world| report(world)));
    let first = count("nodes are linked", NODES, begun, || online(&panel));
    let (without_pages, _) = memory(&panel);

    threads.extend((0..PAGES).map(|_| small(&world, |world| browse(world))));
    let begun = Instant::now();
    count("pages are told of measurements", PAGES, begun, || world.told.load(Ordering::Relaxed));
    let echo = Echo::start();
    let mut bare = Vec::new();
    let calls = times(|call| {
        let path = format!("/api/v1/nodes/{}/command", id(call * 7 % NODES));
        let answer = panel.send("POST", &path, r#"{"action":"system.ping"}"#);
        assert_eq!(answer.status, 200, "{answer:?}");
        let begun = Instant::now();
        echo.exchange();
        bare.push(begun.elapsed());
    });
    bare.sort();
    let ((p50, p99), (bare_p50, bare_p99)) = (quantiles(&calls), quantiles(&bare));
    let (resident, peak) = memory(&panel);
    println!(
        "{NODES} nodes, all linked for the first time after {first:.1?}, {} MB resident; with {PAGES} pages {} MB, at most \
         {} MB. A command is answered in {p50:.1?} (median), {p99:.1?} (p99); a bare exchange in {bare_p50:.1?}, {bare_p99:.1?}",
        without_pages >> 20,
        resident >> 20,
        peak >> 20
    );

    // A restart, in which nobody is told anything: they come back by themselves.
    world.begun.store(0, Ordering::Relaxed);
    let stopped = Instant::now();
    panel.kill();
    panel.start_again(&[("LOG_LEVEL", "warn"), ("AGENT_ADDR", &world.agents), ("HTTP_ADDR", &world.http)]);
    let (down, begun) = (stopped.elapsed(), Instant::now());
    let again = count("nodes are linked again", NODES, begun, || online(&panel));
    let pages = count("pages are back", PAGES, begun, || world.begun.load(Ordering::Relaxed));
    let (resident, again_peak) = memory(&panel);
    println!(
        "after a restart of {down:.1?}: all linked after {again:.1?}, all pages back after {pages:.1?}; {} MB resident, at \
         most {} MB",
        resident >> 20,
        again_peak >> 20
    );
    let slow = ANSWER.max(bare_p99 * 20);
    assert!(p99 < slow, "a command is answered in {p99:?}, which may be {slow:?} here");
    assert!(peak.max(again_peak) < MEMORY, "{} MB", peak.max(again_peak) >> 20);
    world.over.store(true, Ordering::Relaxed);
    panel.kill();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
