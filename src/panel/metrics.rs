//! Measurements over time: stored in three steps (10 s for an hour, 1 min for a day, 10 min for 30 days) and read for
//! the charts.
//!
//! The thread `metrics` wakes every ten seconds, has the hub hand over what nodes have said since, and stores it in one
//! transaction that does not wait for the disk. Coarser steps are means of the same samples. Reading is done by the
//! gate's threads, on a connection of their own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, select};
use log::{error, warn};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::hub::{HubHandle, Mark, Measurements, Sum};
use super::journal::{Entry, Journal};
use super::problem::Problem;
use super::store::{ServerKey, StoreError, database};
use super::time::Time;
use crate::protocol::NodeId;

/// Step and span of each tier, in seconds.
pub const TIERS: [(i64, i64); 3] = [(10, 3_600), (60, 86_400), (600, 30 * 86_400)];
const EVERY: Duration = Duration::from_secs(10);
/// Rows written in one transaction: others wait no longer than these take.
const BATCH: usize = 500;
/// Pages of 4 KiB that the database may have, 2 GiB: beyond it the oldest of the finest step go early.
const MAX_PAGES: i64 = 512 * 1024;

/// One of the charts' ranges: name, its length and its step, in seconds.
const RANGES: [(&str, i64, i64); 4] =
    [("5m", 300, 10), ("1h", 3_600, 10), ("24h", 86_400, 60), ("30d", 30 * 86_400, 600)];

pub struct Metrics {
    read: Mutex<Connection>,
}

#[derive(Debug, Serialize)]
pub struct Chart {
    pub range: &'static str,
    pub step: i64,
    pub from: Time,
    pub to: Time,
    pub fields: [&'static str; 6],
    #[serde(serialize_with = "flat")]
    pub points: Vec<(i64, [Option<f64>; 5])>,
}

/// The thread that stores. Dropping `stop` ends it.
pub struct Recorder {
    stop: Sender<()>,
    thread: JoinHandle<()>,
    ended: Receiver<()>,
}

impl Metrics {
    pub fn open(dir: &Path) -> Result<Metrics, StoreError> {
        Ok(Metrics { read: Mutex::new(database::open(dir)?) })
    }

    /// A server's points, or those of a node (`server` is empty), for a range by its name.
    pub fn chart(&self, node: &str, server: &str, range: &str) -> Result<Chart, Problem> {
        let (range, length, step) = RANGES
            .into_iter()
            .find(|(name, ..)| *name == range)
            .ok_or_else(|| Problem::field("range", "Expected 5m, 1h, 24h or 30d."))?;
        let now = Time::now();
        let to = (now.millis() / 1000).cast_signed();
        let from = to - length;
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = read
            .prepare_cached(
                "SELECT time, cpu, memory, rx, tx, disk FROM samples
                 WHERE series = (SELECT id FROM series WHERE node = ? AND server = ?) AND tier = ? AND time > ?
                 ORDER BY time",
            )
            .map_err(failed)?;
        let rows = statement
            .query_map(params![node, server, step, from - step], |row| {
                let values = [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?];
                Ok((row.get(0)?, values))
            })
            .map_err(failed)?;
        let points = rows.collect::<Result<_, _>>().map_err(failed)?;
        let second = |seconds: i64| Time::from_millis(seconds.unsigned_abs() * 1000);
        Ok(Chart {
            range,
            step,
            from: second(from),
            to: now,
            fields: ["time", "cpu", "memory", "rx", "tx", "disk"],
            points,
        })
    }
}

/// `[t, cpu, memory, rx, tx, disk]`, rounded to what a chart can show.
fn flat<S: serde::Serializer>(points: &[(i64, [Option<f64>; 5])], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(points.iter().map(|(time, [cpu, memory, rx, tx, disk])| {
        let whole = |value: &Option<f64>| value.map(|value| value.round() as i64);
        (time, cpu.map(|cpu| (cpu * 100.0).round() / 100.0), whole(memory), whole(rx), whole(tx), whole(disk))
    }))
}

impl Recorder {
    pub fn start(dir: &Path, hub: HubHandle, journal: Arc<Journal>) -> Result<Recorder, StoreError> {
        let database = database::open(dir)?;
        database.execute_batch("PRAGMA synchronous = NORMAL").map_err(database::sql("set up"))?;
        let (stop, stopping) = bounded(0);
        let (end, ended) = bounded(0);
        let thread = Builder::new()
            .name("metrics".into())
            .spawn(move || {
                run(database, &hub, &journal, &stopping);
                drop(end);
            })
            .map_err(|cause| StoreError::Io { what: "start a thread for", path: dir.into(), cause })?;
        Ok(Recorder { stop, thread, ended })
    }

    /// Disconnects when the thread has ended.
    pub fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    pub fn shutdown(self, deadline: Instant) -> bool {
        drop(self.stop);
        self.ended.recv_deadline(deadline).is_err_and(|error| error.is_disconnected())
            && self.thread.join().is_ok()
    }
}

fn run(mut database: Connection, hub: &HubHandle, journal: &Journal, stopping: &Receiver<()>) {
    let mut counters = HashMap::new();
    let mut turn = 0_u64;
    loop {
        select! {
            recv(stopping) -> _ => return,
            recv(after(EVERY)) -> _ => {}
        }
        // Asked for when the hub is not stopping; then this thread is about to be told as well.
        let Ok(measured) = hub.visit(super::hub::Fleet::take_measurements) else { continue };
        for mark in &measured.marks {
            tell(hub, journal, mark);
        }
        if let Err(cause) = store(&mut database, &measured, &mut counters, Time::now()) {
            warn!("measurements could not be stored: {cause}");
        }
        turn += 1;
        if turn.is_multiple_of(6)
            && let Err(cause) = prune(&database, Time::now())
        {
            error!("old measurements could not be removed: {cause}");
        }
    }
}

/// A change of state is activity too: of the node.
fn tell(hub: &HubHandle, journal: &Journal, mark: &Mark) {
    let (node, server) = &mark.key;
    let entry = journal.record(Entry {
        user: "node".into(),
        via: "node",
        action: format!("server.{}", marked(mark.kind)),
        node: Some(node.to_string()),
        server: Some(server.to_string()),
        outcome: if matches!(mark.kind, "crash" | "oom") { "failed" } else { "ok" },
        detail: Some(mark.text.clone()),
        ..Entry::default()
    });
    let key = mark.key.clone();
    let _ = hub.visit(move |fleet| fleet.tell_activity(Some(key), &entry)); // the hub is stopping
}

fn marked(kind: &str) -> &'static str {
    match kind {
        "start" => "running",
        "stop" => "stopped",
        "oom" => "oom",
        _ => "crashed",
    }
}

/// Bytes counted so far and when, from which a rate is made.
type Counters = HashMap<ServerKey, (u64, u64, Time)>;

type Row = (String, String, u32, [Option<f64>; 5]);

fn store(
    database: &mut Connection,
    measured: &Measurements,
    counters: &mut Counters,
    now: Time,
) -> rusqlite::Result<()> {
    for (node, server) in &measured.gone {
        counters.remove(&(node.clone(), server.clone()));
        let series = "(SELECT id FROM series WHERE node = ?1 AND server = ?2)";
        let names = [node.as_str(), server.as_str()];
        database.execute(&format!("DELETE FROM samples WHERE series = {series}"), names)?;
        database.execute("DELETE FROM series WHERE node = ?1 AND server = ?2", names)?;
    }
    let servers = measured.servers.iter().map(|(key, sum)| of_server(key, sum, counters, now));
    let nodes = measured.nodes.iter().map(|(node, load)| of_node(node, load));
    let rows: Vec<Row> = servers.chain(nodes).collect();
    for rows in rows.chunks(BATCH) {
        let step = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut find = step.prepare_cached("SELECT id FROM series WHERE node = ? AND server = ?")?;
            let mut make = step.prepare_cached("INSERT INTO series (node, server) VALUES (?, ?)")?;
            let mut put = step.prepare_cached(
                "INSERT INTO samples VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT DO UPDATE SET
                   cpu = (cpu * count + excluded.cpu * excluded.count) / (count + excluded.count),
                   memory = (memory * count + excluded.memory * excluded.count) / (count + excluded.count),
                   rx = (ifnull(rx, excluded.rx) * count + ifnull(excluded.rx, rx) * excluded.count)
                     / (count + excluded.count),
                   tx = (ifnull(tx, excluded.tx) * count + ifnull(excluded.tx, tx) * excluded.count)
                     / (count + excluded.count),
                   disk = excluded.disk,
                   count = count + excluded.count",
            )?;
            let second = (now.millis() / 1000).cast_signed();
            for (node, server, count, values) in rows {
                let found = find.query_row([node, server], |row| row.get(0)).optional()?;
                let series: i64 = match found {
                    Some(id) => id,
                    None => make.insert([node, server])?,
                };
                for (tier, _) in TIERS {
                    let time = second - second % tier;
                    let [cpu, memory, rx, tx, disk] = values;
                    put.execute(params![series, tier, time, count, cpu, memory, rx, tx, disk])?;
                }
            }
        }
        step.commit()?;
    }
    Ok(())
}

fn of_server(key: &ServerKey, sum: &Sum, counters: &mut Counters, now: Time) -> Row {
    let count = f64::from(sum.count.max(1));
    let before = counters.insert(key.clone(), (sum.rx, sum.tx, now));
    // A count that is lower than before began anew with the container.
    let rate = |now_is: u64, before: u64, since: Time| {
        let span = now.since(since).as_secs_f64();
        let bytes = now_is.checked_sub(before)?;
        (span > 0.0 && span < 60.0).then(|| bytes as f64 / span)
    };
    let rx = before.and_then(|(rx, _, since)| rate(sum.rx, rx, since));
    let tx = before.and_then(|(_, tx, since)| rate(sum.tx, tx, since));
    let values = [Some(sum.cpu / count), Some(sum.memory / count), rx, tx, Some(sum.disk / count)];
    (key.0.to_string(), key.1.to_string(), sum.count.max(1), values)
}

fn of_node(node: &NodeId, [cpu, memory, disk]: &[f64; 3]) -> Row {
    (node.to_string(), String::new(), 1, [Some(*cpu), Some(*memory), None, None, Some(*disk)])
}

/// Removes what is older than its tier keeps, and what belongs to no series.
fn prune(database: &Connection, now: Time) -> rusqlite::Result<()> {
    let second = (now.millis() / 1000).cast_signed();
    for (tier, span) in TIERS {
        database.execute("DELETE FROM samples WHERE tier = ? AND time < ?", [tier, second - span])?;
    }
    let pages: i64 = database.query_row(
        "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count",
        [],
        |row| row.get(0),
    )?;
    if pages > MAX_PAGES {
        let (tier, span) = TIERS[0];
        database.execute("DELETE FROM samples WHERE tier = ? AND time < ?", [tier, second - span / 4])?;
    }
    Ok(())
}

fn failed(cause: rusqlite::Error) -> Problem {
    StoreError::Sql { what: "metrics", cause }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(cpu: f64, rx: u64) -> Sum {
        Sum { count: 2, cpu: cpu * 2.0, memory: 200.0, disk: 20.0, rx, tx: 0 }
    }

    fn measured(cpu: f64, rx: u64) -> Measurements {
        let key = ("n".parse().unwrap(), "s".parse().unwrap());
        let nodes = vec![("n".parse().unwrap(), [1.0, 2.0, 3.0])];
        Measurements { servers: vec![(key, sum(cpu, rx))], nodes, ..Measurements::default() }
    }

    #[test]
    fn steps_are_means_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut write = database::open(dir.path()).unwrap();
        let metrics = Metrics::open(dir.path()).unwrap();
        let mut counters = HashMap::new();
        let now = Time::now().millis() / 60_000 * 60_000;
        // Six samples of ten seconds each, in the minute before this one.
        for turn in 0..6 {
            let at = Time::from_millis(now - 60_000 + turn * 10_000);
            store(&mut write, &measured(turn as f64, turn * 1_000), &mut counters, at).unwrap();
        }
        let fine = metrics.chart("n", "s", "5m").unwrap();
        assert_eq!(fine.points.len(), 6);
        assert_eq!(fine.points[0].1, [Some(0.0), Some(100.0), None, None, Some(10.0)]);
        assert_eq!(fine.points[5].1[2], Some(100.0), "a thousand bytes in ten seconds");
        let coarse = metrics.chart("n", "s", "24h").unwrap();
        assert_eq!(coarse.points.len(), 1);
        assert_eq!(coarse.points[0].1[0], Some(2.5), "the mean of 0 to 5");
        assert_eq!(metrics.chart("n", "", "1h").unwrap().points[0].1[0], Some(1.0));
        assert_eq!(metrics.chart("n", "other", "1h").unwrap().points.len(), 0);
        assert!(metrics.chart("n", "s", "2h").is_err());

        prune(&write, Time::from_millis(now + 3_700_000)).unwrap();
        assert_eq!(metrics.chart("n", "s", "1h").unwrap().points.len(), 0);
        assert_eq!(metrics.chart("n", "s", "24h").unwrap().points.len(), 1);
        let gone = vec![("n".parse().unwrap(), "s".parse().unwrap())];
        let gone = Measurements { gone, ..Measurements::default() };
        store(&mut write, &gone, &mut counters, Time::now()).unwrap();
        assert_eq!(metrics.chart("n", "s", "30d").unwrap().points.len(), 0);
    }
}
