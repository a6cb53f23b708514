//! A Panel that stops reading while a server prints more than goes out.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::rig::*;
use crate::support::*;

/// More than `LOG_RATE`, and less than the Engine can be read at.
const RATE: usize = 2_500_000;

fn milliseconds(line: &str) -> u64 {
    let words: Vec<&str> = line.rsplit(' ').collect();
    words.get(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no time in {line:?}"))
}

/// The last line of a stream, asked for until it has ended.
fn last_line(container: &str) -> String {
    let path = format!("/containers/{container}/logs?stdout=1&tail=1");
    let begun = Instant::now();
    loop {
        let (_, text) = engine().call("GET", &path, None);
        let text = text.as_str().unwrap_or_default().trim_end();
        if text.contains("a print took at most") {
            return text.to_owned();
        }
        assert!(begun.elapsed() < FLOOD_LIMIT, "the stream does not end: {text}");
    }
}

/// A stalled Panel, and what its connection had until it was read again or had ended.
fn under_a_stream(
    seconds: u64,
    act: impl FnOnce(&FakePanel, &AgentProcess, Connection) -> (Connection, Account),
) {
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), &[("LOG_LEVEL", "info")]);
    let link = panel.accept();
    started(&link, "s", demo(json!({})));
    // The same beside it, which no Agent follows: what that one waits for is the machine's doing.
    let command = ["/demo-server".to_owned(), "stream".into(), RATE.to_string(), seconds.to_string()];
    let control = Removed(engine().run_foreign(&unique_name(), json!({"Cmd": command, "Env": ["QUIET=1"]})));
    link.must("send_server_command", "s", json!({"command": format!("stream {RATE} {seconds}")}));
    wait_line(&link, 0, SOON, "s", "stream 000000001 ");
    let begun = Instant::now();
    let (link, mut account) = act(&panel, &agent, link);
    let last = wait_line(&link, 0, FLOOD_LIMIT, "s", "a print took at most");
    let mut first = None;
    account.take(&link.seen(), "s", |seq, line| {
        if let Some(number) = line.strip_prefix("stream 0").and_then(|rest| rest.split(' ').next()) {
            let number: u64 = number.parse().expect("a number");
            let before = *first.get_or_insert(seq - number);
            assert_eq!(seq - number, before, "a line that was dropped was not told");
        }
    });
    account.assert_complete();
    let (peak, longest) = (agent.peak_resident_kib(), milliseconds(&last.line.text));
    let usual = milliseconds(&last_line(&control.0));
    println!(
        "stalled under {} MB/s, over after {:.0?}: {} lines came, {} were told as lost; a print of the server took at most \
         {longest} ms, of one beside it {usual} ms; the Agent's memory at most {peak} KiB",
        RATE as f64 / 1e6,
        begun.elapsed(),
        account.lines,
        account.lost_lines
    );
    assert!(account.lost_lines > 0);
    let allowed = 1000.max(2 * usual);
    assert!(
        longest < allowed,
        "the server was held up for {longest} ms, one that nobody follows for {usual} ms"
    );
    assert!(peak < MEMORY, "{peak} KiB");
}

#[test]
fn for_thirty_seconds_the_link_holds_and_control_comes_first() {
    under_a_stream(40, |_, _, link| {
        link.stop_reading();
        let mark = link.mark();
        // The time is what is tested.
        thread::sleep(Duration::from_secs(30));
        let id = link.command("get_status", "s", json!({}));
        link.legacy("nonsense", json!({}));
        let resumed = humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string();
        link.resume_reading();
        link.wait_from(mark, SOON, "answer of the same link", |seen| match seen {
            Seen::Json(message) if message["id"] == id.as_str() => {
                assert_eq!(message["success"], true, "{message}");
                Some(())
            }
            // What was on its way when the Panel stopped comes before, and nothing that was made later.
            Seen::Json(message) if message["event"] == "server_log" => {
                let made = message["timestamp"].as_str().expect("a time");
                assert!(
                    made < resumed.as_str(),
                    "output of {made} came before the answer, read again at {resumed}"
                );
                None
            }
            _ => None,
        });
        assert!(!link.has_ended());
        (link, Account::default())
    });
}

#[test]
fn for_ninety_seconds_it_is_dropped_and_made_again() {
    under_a_stream(100, |panel, _, link| {
        link.stop_reading();
        let begun = Instant::now();
        let second = panel.accept_within(Duration::from_secs(90)).expect("another connection is made");
        println!("a Panel that read nothing was left after {:.0?}", begun.elapsed());
        assert!(begun.elapsed() > Duration::from_secs(40), "that was too soon");
        second.must("get_status", "s", json!({}));
        let mut account = Account::default();
        account.take(&link.cut(), "s", |_, _| {});
        (second, account)
    });
}
