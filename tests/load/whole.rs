//! `LOG_RATE=0`: a large log arrives whole and in order, no later than Docker's own command line reads it, and for no more
//! of the processor.

use std::time::Instant;

use serde_json::json;

use crate::rig::*;
use crate::support::cost::{cpu_in_all, median};
use crate::support::*;

const LINES: usize = 1_000_000;
const ROUNDS: usize = 3;

#[test]
fn without_a_rate_a_large_log_arrives_whole_as_fast_as_docker_reads_it() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start_with(&panel, engine(), &[("LOG_LEVEL", "info"), ("LOG_RATE", "0")]);
    let mut link = panel.accept();
    started(&link, "s", demo(json!({})));
    link.must("send_server_command", "s", json!({"command": format!("flood {LINES}")}));
    // The two outputs are two pipes: the one is only behind the other once that has been read.
    link.must("send_server_command", "s", json!({"command": "say the flood is over"}));
    wait_line(&link, 0, FLOOD_LIMIT, "s", "the flood is over");
    link.must("send_server_command", "s", json!({"command": "stderr that was all"}));
    wait_line(&link, 0, FLOOD_LIMIT, "s", "that was all");

    let container = agent.container("s");
    let (mut theirs, mut their_cpu, mut ours, mut our_cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (took, used) = engine().docker_logs(&container, "that was all");
        theirs.push(took);
        their_cpu.push(used);

        // An Agent that knows nothing of what was read reads it all.
        agent.kill();
        drop(link);
        std::fs::remove_dir_all(agent.data_dir.join("console")).expect("the Agent's own directory");
        let begun = Instant::now();
        agent.start_again();
        link = panel.accept();
        wait_line(&link, 0, FLOOD_LIMIT, "s", "that was all");
        ours.push(begun.elapsed());
        our_cpu.push(cpu_in_all(agent.pid()));

        let mut account = Account::default();
        let mut next = 1;
        account.take(&link.seen(), "s", |_, line| {
            if line.starts_with("flood ") {
                assert_eq!(line, format!("{:-<99}", format!("flood {next:09} ")), "round {round}");
                next += 1;
            }
        });
        assert_eq!((next, account.gaps), (LINES + 1, 0), "round {round}");
        account.assert_complete();
    }
    let peak = agent.peak_resident_kib();
    let [ours, our_cpu, theirs, their_cpu] = [ours, our_cpu, theirs, their_cpu].map(median);
    println!(
        "a log of {} MB: through the Agent {ours:.1?} and {our_cpu:.2?} of the processor, by docker logs -f {theirs:.1?} and \
         {their_cpu:.2?}: {:.2} times the time, {:.2} times the processor; the Agent's memory at most {peak} KiB",
        LINES / 10_000,
        ours.as_secs_f64() / theirs.as_secs_f64(),
        our_cpu.as_secs_f64() / their_cpu.as_secs_f64()
    );
    assert!(peak < MEMORY, "{peak} KiB");
    assert!(our_cpu <= their_cpu, "{our_cpu:?} of the processor, docker logs took {their_cpu:?}");
    // The same Engine reads the same file for both: what differs is less than its own runs do.
    assert!(ours <= theirs + theirs / 20, "it took {ours:?}, docker logs {theirs:?}");
}
