//! Servers that print much, and the account of what arrived of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::output::{Told, lines_of};
use crate::support::*;

/// How long a flood may take until its last line has come.
pub const FLOOD_LIMIT: Duration = Duration::from_secs(240);
/// Resident memory that no load may take the Agent over, in KiB.
pub const MEMORY: u64 = 16 << 10;

/// Creates and starts a server and waits until it has said that it is up.
pub fn started(link: &Connection, server: &str, spec: Value) {
    link.must("create_server", server, spec);
    link.must("start_server", server, json!({}));
    wait_line(link, 0, SOON, server, "Demo server ready");
}

/// Waits for a line that holds `text`.
pub fn wait_line(link: &Connection, mark: usize, within: Duration, server: &str, text: &str) -> Told {
    link.wait_from(mark, within, &format!("line {text:?} of {server}"), |seen| {
        let data = output_of(seen, server)?;
        // Most messages of a flood need not be taken apart.
        data["message"].as_str()?.contains(text).then_some(())?;
        lines_of(data).into_iter().find(|told| told.line.text.contains(text))
    })
}

/// The data of a `server_log` of this server.
pub fn output_of<'a>(seen: &'a Seen, server: &str) -> Option<&'a Value> {
    match seen {
        Seen::Json(message) if message["event"] == "server_log" && message["data"]["serverId"] == server => {
            Some(&message["data"])
        }
        _ => None,
    }
}

pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}

/// What is known of one server's output within one boot of the Agent: which numbers came, which were told as lost.
#[derive(Default)]
pub struct Account {
    /// First number to the number after the last, of what came and of what was told as lost.
    came: BTreeMap<u64, u64>,
    lost: BTreeMap<u64, u64>,
    pub lines: u64,
    pub bytes: u64,
    pub lost_lines: u64,
    pub lost_bytes: u64,
    pub gaps: usize,
}

impl Account {
    /// Takes what came in on a connection. `check` is shown each line with its number.
    pub fn take(&mut self, seen: &[Seen], server: &str, mut check: impl FnMut(u64, &str)) {
        for seen in seen {
            let Seen::Json(message) = seen else { continue };
            let data = &message["data"];
            if data["serverId"] != server {
                continue;
            }
            let number = |name: &str| data[name].as_u64().expect("a number");
            match message["event"].as_str() {
                Some("server_log") => {
                    let (seq, text) = (number("seq"), data["message"].as_str().expect("text"));
                    let end = seq + number("count");
                    let known = self.came.entry(seq).or_default();
                    *known = (*known).max(end);
                    self.lines += end - seq;
                    self.bytes += text.len() as u64 + 1;
                    text.split('\n').enumerate().for_each(|(at, line)| check(seq + at as u64, line));
                }
                Some("stream_gap") => {
                    let (first, end) = (number("firstSeq"), number("lastSeq") + 1);
                    assert_eq!(number("lines"), end - first, "{message}");
                    let known = self.lost.entry(first).or_default();
                    *known = (*known).max(end);
                    self.lost_lines += end - first;
                    self.lost_bytes += number("bytes");
                    self.gaps += 1;
                }
                _ => {}
            }
        }
    }

    /// Every number from 1 to the last came or was told as lost. Gives the last.
    pub fn assert_complete(&self) -> u64 {
        let mut ranges: Vec<(u64, u64)> = self.came.iter().chain(&self.lost).map(|(a, b)| (*a, *b)).collect();
        ranges.sort();
        let mut next = 1;
        for (first, end) in ranges {
            assert!(first <= next, "lines {next} to {} neither came nor were told as lost", first - 1);
            next = next.max(end);
        }
        next - 1
    }
}

/// A container that is removed in the end.
pub struct Removed(pub String);

impl Drop for Removed {
    fn drop(&mut self) {
        engine().remove(&self.0);
    }
}
