//! Where the kernel's files cannot be read, the Engine is asked: few at once, for no longer than it is worth, and each
//! figure as its own formulas have it.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use longshore::docker::{Client, ContainerId, Endpoint};
use longshore::protocol::ServerId;
use longshore::server::stats::{Rhythm, Stats, Target, Usage};
use support::*;

/// A sampler on its own, before an Engine whose stats the test answers, without any file of the kernel's to read.
struct Rig {
    stats: Stats,
    proxy: EngineProxy,
    measured_rx: Receiver<()>,
    stop_tx: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _nothing: tempfile::TempDir,
}

impl Rig {
    fn start(version: &str, answer: impl Fn(&str) -> Option<Passage> + Send + Sync + 'static) -> Rig {
        let proxy = EngineProxy::start(engine(), version, move |request| {
            request.contains("/stats?").then(|| answer(request)).flatten()
        });
        let endpoint = Endpoint::parse(proxy.engine().host(), None, None).expect("a socket's address");
        let client = Client::new(endpoint, None).expect("no TLS files to read");
        let nothing = tempfile::tempdir().expect("a directory can be made");
        let (stats, sampler) = Stats::new(Duration::from_millis(200), nothing.path(), client);
        let (stop_tx, stop_rx) = bounded(0);
        let (measured_tx, measured_rx) = unbounded();
        let measured = move || {
            let _ = measured_tx.send(());
        };
        let thread = std::thread::spawn(move || sampler.run(&stop_rx, measured, Rhythm::none()));
        Rig { stats, proxy, measured_rx, stop_tx: Some(stop_tx), thread: Some(thread), _nothing: nothing }
    }

    fn wait(&self, wanted: impl Fn(&Usage) -> bool) -> Usage {
        let end = Instant::now() + SOON;
        while self.measured_rx.recv_deadline(end).is_ok() {
            if let Some(usage) = self.stats.usage(&server(0)).filter(|usage| wanted(usage)) {
                return usage;
            }
        }
        panic!("no such figures: {:?}", self.stats.usage(&server(0)));
    }

    fn stop(&mut self) -> Duration {
        let begun = Instant::now();
        self.stop_tx = None;
        self.thread.take().expect("it runs").join().expect("it does not panic");
        begun.elapsed()
    }
}

fn server(n: usize) -> ServerId {
    format!("s{n}").parse().expect("an id")
}

/// A process that is in no container of this machine.
fn target(n: usize) -> Target {
    let container = ContainerId::new(&format!("{n:064x}")).expect("an id");
    Target { container, pid: 1, started_ns: 1 }
}

fn json(second: u64, cpu_ns: u64, system: &str) -> Option<Passage> {
    Some(Passage::Answer(
        200,
        format!(
            r#"{{"read":"2026-01-01T00:00:{second:02}Z","precpu_stats":{{"cpu_usage":{{"total_usage":0}}}},
            "cpu_stats":{{"cpu_usage":{{"total_usage":{cpu_ns}}}{system}}},"pids_stats":{{"current":4}},
            "memory_stats":{{"usage":5000,"limit":9000,"stats":{{"total_inactive_file":1000}}}},
            "networks":{{"eth0":{{"rx_bytes":7,"tx_bytes":8}}}}}}"#
        ),
    ))
}

/// Answers with half a core's worth since the answer before, in each Engine's own way.
fn half_a_core(version: &str, system: fn(u64) -> String, one_shot: bool) {
    let count = std::sync::atomic::AtomicU64::new(0);
    let mut rig = Rig::start(version, move |_| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        json(n % 60, 3_000_000_000 + n * 500_000_000, &system(n))
    });
    rig.stats.set(&server(0), Some(target(0)));
    let first = rig.wait(|_| true);
    let usage = rig.wait(|usage| usage.cpu > 0.0);
    assert!(first.cpu == 0.0 && (usage.cpu - 50.0).abs() < 0.01, "{first:?} {usage:?}");
    let counters = usage.counters;
    assert_eq!((counters.memory, counters.memory_limit, counters.pids), (4000, Some(9000), 4));
    assert_eq!((usage.traffic.rx, usage.traffic.tx), (7, 8));
    assert!(rig.stats.engine_calls() >= 2);
    let asked: Vec<String> = rig.proxy.requests().into_iter().filter(|r| r.contains("/stats")).collect();
    assert!(asked.iter().all(|request| request.contains("one-shot=true") == one_shot), "{asked:?}");
    rig.stats.set(&server(0), None);
    assert_eq!(rig.stats.usage(&server(0)), None);
    rig.stop();
}

#[test]
fn figures_are_those_of_the_engine() {
    // Two processors: the machine's time passes twice as fast as the clock.
    half_a_core(
        "1.41",
        |n| format!(r#","system_cpu_usage":{},"online_cpus":2"#, 9 + n * 2_000_000_000),
        true,
    );
    // Before one-shot.
    half_a_core(
        "1.40",
        |n| format!(r#","system_cpu_usage":{},"online_cpus":2"#, 9 + n * 2_000_000_000),
        false,
    );
    // Podman tells nothing of the machine.
    half_a_core("1.41", |_| String::new(), true);
}

#[test]
fn four_at_most_are_asked_at_once() {
    let busy = Arc::new(Watched::new((0, 0)));
    let seen = busy.clone();
    let mut rig = Rig::start("1.41", move |_| {
        busy.update(|(now, most)| {
            *now += 1;
            *most = (*now).max(*most);
        });
        // Until four are here, and a little longer for a fifth that would be one too many.
        busy.wait(Duration::from_millis(500), |(_, most)| (*most > 4).then_some(()));
        busy.update(|(now, _)| *now -= 1);
        json(1, 1, "")
    });
    for n in 0..12 {
        rig.stats.set(&server(n), Some(target(n)));
    }
    // Whoever is first may be measured in a round of its own, and then come the others.
    let end = Instant::now() + SOON;
    while rig.stats.all().len() < 12 {
        rig.measured_rx.recv_deadline(end).expect("all are measured");
    }
    assert_eq!(seen.lock().1, 4);
    rig.stop();
}

#[test]
fn an_engine_that_hangs_holds_nobody_up() {
    let (release_tx, release_rx) = bounded::<()>(0);
    let mut rig = Rig::start("1.41", move |_| {
        let _ = release_rx.recv();
        None
    });
    for n in 0..8 {
        rig.stats.set(&server(n), Some(target(n)));
    }
    // All four that may ask.
    rig.proxy.wait_requests(0, "/stats?", 4);
    // What the loop does is not held up by it.
    let begun = Instant::now();
    rig.stats.set(&server(9), Some(target(9)));
    assert_eq!((rig.stats.usage(&server(0)), rig.stats.take_fresh()), (None, None));
    assert!(begun.elapsed() < Duration::from_millis(500));
    let took = rig.stop();
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop(release_tx);
}
