//! Samples, their quantiles, and the table and file they end in.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Times of one thing, in milliseconds and in the order they were taken.
#[derive(Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    /// The value that the share `q` (0–1) of the samples does not pass.
    pub fn quantile(&self, q: f64) -> f64 {
        quantile(&self.0, q)
    }
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// Everything that was measured, to be printed as a table and written as JSON.
#[derive(Default)]
pub struct Report {
    rows: Vec<Value>,
    table: String,
}

impl Report {
    /// The Agent's times against bare ones that were taken in turn with them. Every bare time is first raised by
    /// `extra_ms`, the link's round trip where the goal allows it. The ratio's spread is that of the single pairs:
    /// between its quartiles lies half of them.
    pub fn compare(&mut self, name: &str, agent: &Samples, bare: &Samples, extra_ms: f64, goal: Goal) {
        let bare = Samples(bare.0.iter().map(|ms| ms + extra_ms).collect());
        let pairs: Vec<f64> = agent.0.iter().zip(&bare.0).map(|(agent, bare)| agent / bare).collect();
        let ratio = agent.quantile(0.5) / bare.quantile(0.5);
        let (low, high) = (quantile(&pairs, 0.25), quantile(&pairs, 0.75));
        let met = match goal {
            Goal::Faster => ratio < 1.0,
            Goal::WithinSpread => ratio <= 1.02 || low <= 1.0,
        };
        let [agent_p50, agent_p99] = [0.5, 0.99].map(|q| agent.quantile(q));
        let [bare_p50, bare_p99] = [0.5, 0.99].map(|q| bare.quantile(q));
        let _ = writeln!(
            self.table,
            "{name:<30} {agent_p50:>9.3} {agent_p99:>9.3} {bare_p50:>9.3} {bare_p99:>9.3} {ratio:>7.3} {low:>7.3}–{high:<7.3} {:>5} {}",
            pairs.len(),
            if met { "met" } else { "MISSED" },
        );
        self.rows.push(json!({
            "name": name, "pairs": pairs.len(), "unit": "ms", "agent": {"p50": agent_p50, "p99": agent_p99},
            "bare": {"p50": bare_p50, "p99": bare_p99, "includedLinkRoundTrip": extra_ms},
            "ratio": {"p50": ratio, "pairsP25": low, "pairsP75": high}, "goalMet": met,
        }));
    }

    /// One number by itself, with the limit it should stay under when there is one.
    pub fn number(&mut self, name: &str, value: f64, unit: &str, limit: Option<f64>) {
        let met = limit.map(|limit| value < limit);
        let verdict = match (limit, met) {
            (Some(limit), Some(true)) => format!("met (under {limit})"),
            (Some(limit), _) => format!("MISSED (not under {limit})"),
            _ => String::new(),
        };
        let _ = writeln!(self.table, "{name:<30} {value:>9.2} {unit:<12} {verdict}");
        self.rows.push(json!({"name": name, "value": value, "unit": unit, "goalMet": met}));
    }

    /// Prints the table and writes the same as JSON.
    pub fn finish(&self, about: Value, path: &Path) -> std::io::Result<()> {
        println!(
            "\n{:<30} {:>9} {:>9} {:>9} {:>9} {:>7} {:^15} {:>5} goal",
            "milliseconds", "agent p50", "p99", "bare p50", "p99", "ratio", "pairs' quartiles", "pairs"
        );
        print!("{}", self.table);
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        fs::write(path, serde_json::to_string_pretty(&json!({"about": about, "rows": self.rows}))? + "\n")
    }
}

/// When a comparison has met its goal.
#[derive(Clone, Copy)]
pub enum Goal {
    /// Faster than the bare call, the link's round trip included.
    Faster,
    /// No more than 2 % over it, or not told apart from it by half of the pairs.
    WithinSpread,
}
