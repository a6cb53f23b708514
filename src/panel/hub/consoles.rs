//! The newest output of each server, for whoever opens its page.
//!
//! Part of the fleet's state, on the hub's thread. Lines have numbers of the Panel's own, growing by one for as long as
//! it runs, so that a page need not know when an Agent was restarted; the Agent's own numbers tell which lines are here
//! already. Bounded by lines and bytes for each server and by bytes for all.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::panel::store::ServerKey;
use crate::panel::wire::{Gap, Output};

/// Lines kept of one server.
const LINES: usize = 5_000;
const BYTES: usize = 512 << 10;
/// Bytes kept of all servers; the server that has said nothing for longest loses its lines first.
const ALL_BYTES: usize = 32 << 20;
/// What a line costs beside its text.
const OVERHEAD: usize = 48;

pub struct Consoles {
    boot: String,
    rings: HashMap<ServerKey, Ring>,
    bytes: usize,
    clock: u64,
}

#[derive(Default)]
struct Ring {
    /// Each is `[seq,"time","stream","text"]` as JSON.
    lines: VecDeque<Box<str>>,
    bytes: usize,
    /// The number that the next line gets.
    next: u64,
    /// What the Agent said last: the boot it was in, and its number.
    heard: Option<(String, u64)>,
    /// The link on which the Agent was asked for what is missing here.
    asked_on: u64,
    used: u64,
    /// Dropped with the first lines, for those who wait for them.
    first: Option<(Sender<()>, Receiver<()>)>,
}

impl Consoles {
    /// `boot` names this run of the Panel, to which the numbers of lines belong.
    pub fn new(boot: String) -> Consoles {
        Consoles { boot, rings: HashMap::new(), bytes: 0, clock: 0 }
    }

    /// Takes in what an Agent has told; the lines that are new, as JSON with commas between, or nothing.
    pub fn take(&mut self, key: &ServerKey, output: &Output) -> Option<String> {
        let ring = self.ring(key);
        let known = match &ring.heard {
            Some((boot, seq)) if *boot == output.boot_id => *seq,
            _ => 0,
        };
        let count = output.message.split('\n').count() as u64;
        let skip = (known + 1).saturating_sub(output.seq);
        if skip >= count {
            return None;
        }
        let begin = output.time.as_deref().and_then(|time| humantime::parse_rfc3339(time).ok());
        let mut told = String::new();
        for (index, line) in output.message.split('\n').enumerate().skip(usize::try_from(skip).unwrap_or(0)) {
            let after = output.dt.get(index).copied().unwrap_or(0);
            let time = begin.map(|begin| shifted(begin, after)).unwrap_or_else(SystemTime::now);
            self.push(key, time, output.stream.name(), line, &mut told);
        }
        self.ring(key).heard = Some((output.boot_id.clone(), output.seq + count - 1));
        self.bound();
        Some(told)
    }

    /// A line of the Panel's own: that output was dropped, or what somebody has typed.
    pub fn say(&mut self, key: &ServerKey, stream: &str, text: &str) -> String {
        let mut told = String::new();
        self.push(key, SystemTime::now(), stream, text, &mut told);
        self.bound();
        told
    }

    pub fn gap(&mut self, key: &ServerKey, gap: &Gap) -> String {
        let words = match gap.lines {
            1 => "1 line was dropped here".to_owned(),
            lines => format!("{lines} lines were dropped here"),
        };
        self.say(key, "system", &words)
    }

    /// The Panel's name for this run.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// What the Agent has to be asked for on this link: everything after a number of a boot. `None` when it was.
    pub fn ask(&mut self, key: &ServerKey, link: u64) -> Option<Option<(String, u64)>> {
        let ring = self.ring(key);
        if ring.asked_on == link {
            return None;
        }
        ring.asked_on = link;
        Some(ring.heard.clone())
    }

    /// The newest lines, at most `most`, and with `after` only those of a higher number.
    pub fn excerpt(&self, key: &ServerKey, most: usize, after: Option<u64>) -> String {
        let empty = Ring::default();
        let ring = self.rings.get(key).unwrap_or(&empty);
        let first = ring.next - ring.lines.len() as u64;
        let wanted = after.map_or(0, |after| after.saturating_add(1));
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        let from = wanted.max(first).max(ring.next.saturating_sub(most)).min(ring.next);
        let dropped = after.map_or(0, |_| from.saturating_sub(wanted));
        let skipped = usize::try_from(from - first).unwrap_or(0);
        let mut lines = String::new();
        for line in ring.lines.iter().skip(skipped) {
            if !lines.is_empty() {
                lines.push(',');
            }
            lines.push_str(line);
        }
        let (boot, next) = (&self.boot, ring.next);
        format!(r#"{{"boot":"{boot}","first":{first},"next":{next},"dropped":{dropped},"lines":[{lines}]}}"#)
    }

    /// Disconnects when the first lines come; `None` when there are some.
    pub fn first_lines(&mut self, key: &ServerKey) -> Option<Receiver<()>> {
        let ring = self.ring(key);
        if !ring.lines.is_empty() {
            return None;
        }
        let (_, waiting) = ring.first.get_or_insert_with(|| bounded(0));
        Some(waiting.clone())
    }

    /// The texts of the last lines, oldest first.
    pub fn last(&self, key: &ServerKey, most: usize) -> Vec<String> {
        let Some(ring) = self.rings.get(key) else { return Vec::new() };
        let lines = ring.lines.iter().skip(ring.lines.len().saturating_sub(most));
        lines
            .filter_map(|line| serde_json::from_str::<(u64, String, String, String)>(line).ok())
            .map(|(_, _, _, text)| text)
            .collect()
    }

    pub fn forget(&mut self, key: &ServerKey) {
        if let Some(ring) = self.rings.remove(key) {
            self.bytes -= ring.bytes;
        }
    }

    fn ring(&mut self, key: &ServerKey) -> &mut Ring {
        self.rings.entry(key.clone()).or_default()
    }

    fn push(&mut self, key: &ServerKey, time: SystemTime, stream: &str, text: &str, told: &mut String) {
        self.clock += 1;
        let clock = self.clock;
        let ring = self.rings.entry(key.clone()).or_default();
        ring.used = clock;
        ring.first = None;
        let text = serde_json::to_string(text).unwrap_or_else(|_| "\"\"".into());
        let mut line = String::with_capacity(text.len() + 64);
        // Writing to a String cannot fail, and the stream is one of the contract's words.
        let _ = write!(
            line,
            r#"[{},"{}","{stream}",{text}]"#,
            ring.next,
            humantime::format_rfc3339_millis(bounded_time(time))
        );
        if !told.is_empty() {
            told.push(',');
        }
        told.push_str(&line);
        let before = ring.bytes;
        ring.next += 1;
        ring.bytes += line.len() + OVERHEAD;
        ring.lines.push_back(line.into());
        while ring.lines.len() > LINES || ring.bytes > BYTES {
            let Some(oldest) = ring.lines.pop_front() else { break };
            ring.bytes -= oldest.len() + OVERHEAD;
        }
        self.bytes = self.bytes + ring.bytes - before;
    }

    fn bound(&mut self) {
        while self.bytes > ALL_BYTES {
            let quietest = self.rings.values_mut().filter(|ring| ring.bytes > 0).min_by_key(|ring| ring.used);
            let Some(ring) = quietest else { return };
            self.bytes -= ring.bytes;
            ring.bytes = 0;
            ring.lines.clear();
        }
    }
}

fn shifted(begin: SystemTime, nanoseconds: i64) -> SystemTime {
    let span = Duration::from_nanos(nanoseconds.unsigned_abs());
    let moved = if nanoseconds < 0 { begin.checked_sub(span) } else { begin.checked_add(span) };
    moved.unwrap_or(begin)
}

/// Years past 9999 and before 1970 have no form that can be written.
fn bounded_time(time: SystemTime) -> SystemTime {
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    time.clamp(UNIX_EPOCH, last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::panel::wire::Stream;

    fn key(id: &str) -> ServerKey {
        ("n".parse().unwrap(), id.parse().unwrap())
    }

    fn output(boot: &str, seq: u64, message: &str) -> Output {
        Output {
            server_id: "s".parse().unwrap(),
            stream: Stream::Stdout,
            message: message.into(),
            seq,
            time: Some("2025-07-24T10:00:00.000000000Z".into()),
            dt: vec![0, 1_000_000],
            boot_id: boot.into(),
        }
    }

    fn lines(excerpt: &str) -> usize {
        let excerpt: serde_json::Value = serde_json::from_str(excerpt).unwrap();
        excerpt["lines"].as_array().unwrap().len()
    }

    #[test]
    fn lines_are_numbered_on_over_an_agents_restart_and_taken_once() {
        let mut consoles = Consoles::new("7".into());
        let told = consoles.take(&key("s"), &output("a", 1, "one\ntwo")).unwrap();
        assert_eq!(
            told,
            r#"[0,"2025-07-24T10:00:00.000Z","stdout","one"],[1,"2025-07-24T10:00:00.001Z","stdout","two"]"#
        );
        assert_eq!(consoles.take(&key("s"), &output("a", 1, "one\ntwo")), None, "the same again");
        assert!(consoles.take(&key("s"), &output("a", 2, "two\nthree")).unwrap().starts_with("[2,"));
        assert!(consoles.take(&key("s"), &output("b", 1, "four")).unwrap().starts_with("[3,"));
        assert_eq!(consoles.last(&key("s"), 2), ["three", "four"]);
        let excerpt = consoles.excerpt(&key("s"), 100, Some(1));
        assert!(excerpt.starts_with(r#"{"boot":"7","first":0,"next":4,"dropped":0,"lines":[[2,"#));
        assert_eq!(lines(&consoles.excerpt(&key("s"), 1, None)), 1);
        assert_eq!(lines(&consoles.excerpt(&key("other"), 1, None)), 0);
    }

    #[test]
    fn a_ring_is_bounded_and_says_what_is_gone() {
        let mut consoles = Consoles::new("7".into());
        for seq in 1..=LINES as u64 + 10 {
            consoles.take(&key("s"), &output("a", seq, "x"));
        }
        let excerpt = consoles.excerpt(&key("s"), usize::MAX, Some(4));
        assert_eq!(lines(&excerpt), LINES);
        assert!(excerpt.contains(r#""first":10,"next":5010,"dropped":5,"#), "{excerpt:.60}");
        for seq in 0..20 {
            consoles.take(&key("s"), &output("b", seq * 2 + 1, &"y".repeat(100_000)));
        }
        assert!(
            consoles.rings[&key("s")].bytes <= BYTES && consoles.bytes == consoles.rings[&key("s")].bytes
        );
    }

    #[test]
    fn all_rings_together_are_bounded() {
        let mut consoles = Consoles::new("7".into());
        for server in 0..200 {
            for seq in 1..=4 {
                consoles.take(&key(&format!("s{server}")), &output("a", seq, &"x".repeat(100_000)));
            }
        }
        assert!(consoles.bytes <= ALL_BYTES);
        assert_eq!(consoles.last(&key("s0"), 1).len(), 0);
        assert_eq!(consoles.last(&key("s199"), 9).len(), 4);
    }
}
