//! Who did what to which server from where, and the answers to calls that may come twice.
//!
//! One connection to the database behind a lock, used by the gate's threads for a row at a time. It does not wait for
//! the disk (`synchronous=NORMAL`): a crash of the Panel loses none of it, one of the machine the last moments.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::warn;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, params_from_iter};
use serde::Serialize;

use super::problem::Problem;
use super::store::{StoreError, database};
use super::time::Time;

/// Entries kept.
const MAX: i64 = 200_000;
/// How long an answer is given again.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Larger answers are not kept: what can be asked twice answers with less.
const MAX_ANSWER: usize = 256 << 10;

pub struct Journal {
    database: Mutex<Connection>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Entry {
    pub id: i64,
    pub time: Option<Time>,
    pub user: String,
    /// `session`, `token`, `cli`, `node` or `panel`.
    pub via: &'static str,
    /// Name of the token, for `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// `ok`, `failed` or `refused`.
    pub outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Which entries; `None` is any.
#[derive(Clone, Debug, Default)]
pub struct Search {
    pub text: Option<String>,
    pub user: Option<String>,
    pub action: Option<String>,
    pub node: Option<String>,
    pub server: Option<String>,
    pub from: Option<Time>,
    pub to: Option<Time>,
    /// Only those before this one.
    pub before: Option<i64>,
    /// Only this user's own, and those of these servers.
    pub only: Option<(String, Vec<(String, String)>)>,
}

/// An answer that was given before.
pub struct Given {
    pub request: String,
    pub status: u16,
    pub body: Vec<u8>,
}

impl Journal {
    pub fn open(dir: &Path) -> Result<Journal, StoreError> {
        let database = database::open(dir)?;
        database.execute_batch("PRAGMA synchronous = NORMAL").map_err(database::sql("set up"))?;
        Ok(Journal { database: Mutex::new(database) })
    }

    /// Writes an entry down; it with its number and time. A disk that is full keeps nobody from working.
    pub fn record(&self, entry: Entry) -> Entry {
        let time = Time::now();
        let mut entry = Entry { time: Some(time), ..entry };
        let database = self.database();
        let written = database
            .prepare_cached(
                "INSERT INTO activity (time, user, via, action, node, server, address, outcome, detail, token)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .and_then(|mut statement| {
                statement.insert(params![
                    time,
                    entry.user,
                    entry.via,
                    entry.action,
                    entry.node,
                    entry.server,
                    entry.address,
                    entry.outcome,
                    entry.detail,
                    entry.token
                ])
            });
        match written {
            Ok(id) => {
                entry.id = id;
                if id % 1_000 == 0
                    && let Err(cause) = database.execute("DELETE FROM activity WHERE id <= ?", [id - MAX])
                {
                    warn!("activity: old entries could not be removed: {cause}");
                }
            }
            Err(cause) => warn!("activity: {} by {} could not be stored: {cause}", entry.action, entry.user),
        }
        entry
    }

    /// Newest first.
    pub fn search(&self, search: &Search, limit: usize) -> Result<Vec<Entry>, Problem> {
        let mut query = String::from(
            "SELECT id, time, user, via, action, node, server, address, outcome, detail, token FROM activity WHERE 1",
        );
        let mut values: Vec<Value> = Vec::new();
        let mut also = |condition: &str, value: Option<Value>| {
            if let Some(value) = value {
                query.push_str(" AND ");
                query.push_str(condition);
                values.push(value);
            }
        };
        let text = |text: &Option<String>| text.clone().map(Value::Text);
        let time = |time: Option<Time>| time.map(|time| Value::Integer(time.millis() as i64));
        also("id < ?", search.before.map(Value::Integer));
        also("user = ? COLLATE NOCASE", text(&search.user));
        also("instr(action, ?) = 1", text(&search.action));
        also("node = ?", text(&search.node));
        also("server = ?", text(&search.server));
        also("time >= ?", time(search.from));
        also("time <= ?", time(search.to));
        also(
            "instr(lower(user || ' ' || action || ' ' || ifnull(node, '') || ' ' || ifnull(server, '') || ' '
               || ifnull(address, '') || ' ' || ifnull(detail, '') || ' ' || ifnull(token, '')), lower(?))",
            text(&search.text),
        );
        if let Some((own, servers)) = &search.only {
            query.push_str(" AND (user = ?");
            values.push(Value::Text(own.clone()));
            // One parameter whatever their number: SQLite has a bound on parameters.
            query.push_str(
                " OR (server IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(?) AS mine
                    WHERE mine.value = node || '/' || server)))",
            );
            let names: Vec<String> = servers.iter().map(|(node, id)| format!("{node}/{id}")).collect();
            values.push(Value::Text(serde_json::to_string(&names).unwrap_or_else(|_| "[]".into())));
        }
        query.push_str(" ORDER BY id DESC LIMIT ?");
        values.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let database = self.database();
        let mut statement = database.prepare_cached(&query).map_err(failed)?;
        let rows = statement.query_map(params_from_iter(values), entry).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// The answer to an earlier call with this key.
    pub fn given(&self, asker: &str, key: &str) -> Result<Option<Given>, Problem> {
        let query = "SELECT request, status, body FROM idempotency WHERE asker = ? AND key = ? AND time > ?";
        let since = Time::now().before(REMEMBERED);
        self.database()
            .query_row(query, params![asker, key, since], |row| {
                Ok(Given { request: row.get(0)?, status: row.get(1)?, body: row.get(2)? })
            })
            .optional()
            .map_err(failed)
    }

    pub fn give(&self, asker: &str, key: &str, given: &Given) -> Result<(), Problem> {
        if given.body.len() > MAX_ANSWER {
            return Ok(());
        }
        let database = self.database();
        let old = Time::now().before(REMEMBERED);
        database.execute("DELETE FROM idempotency WHERE time < ?", [old]).map_err(failed)?;
        let row: [&dyn ToSql; 6] = [&asker, &key, &given.request, &given.status, &given.body, &Time::now()];
        let put = "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?, ?)";
        database.execute(put, row).map(drop).map_err(failed)
    }

    fn database(&self) -> MutexGuard<'_, Connection> {
        // SQLite rolls back what a panic has interrupted.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry(row: &Row) -> rusqlite::Result<Entry> {
    let (via, outcome): (String, String) = (row.get(3)?, row.get(8)?);
    let known = |words: &[&'static str], word: &str| words.iter().find(|known| **known == word).copied();
    Ok(Entry {
        id: row.get(0)?,
        time: row.get(1)?,
        user: row.get(2)?,
        via: known(&["session", "token", "cli", "node"], &via).unwrap_or("panel"),
        action: row.get(4)?,
        node: row.get(5)?,
        server: row.get(6)?,
        address: row.get(7)?,
        outcome: known(&["ok", "failed"], &outcome).unwrap_or("refused"),
        detail: row.get(9)?,
        token: row.get(10)?,
    })
}

fn failed(cause: rusqlite::Error) -> Problem {
    StoreError::Sql { what: "journal", cause }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(user: &str, server: &str) -> Entry {
        let (node, server) = (Some("n".into()), Some(server.into()));
        Entry {
            user: user.into(),
            via: "session",
            action: "server.start".into(),
            node,
            server,
            outcome: "ok",
            ..Entry::default()
        }
    }

    #[test]
    fn entries_are_found_by_who_what_and_where() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        for (user, server) in [("ann", "a"), ("ben", "a"), ("ann", "b")] {
            journal.record(entry(user, server));
        }
        journal.record(Entry { action: "login".into(), server: None, ..entry("ann", "") });
        let found = |search: Search| -> Vec<i64> {
            journal.search(&search, 10).unwrap().iter().map(|entry| entry.id).collect()
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(found(Search::default()), [4, 3, 2, 1]);
        assert_eq!(found(Search { before: Some(3), ..Search::default() }), [2, 1]);
        assert_eq!(found(Search { user: text("ANN"), ..Search::default() }), [4, 3, 1]);
        assert_eq!(found(Search { text: text("Log"), ..Search::default() }), [4]);
        assert_eq!(found(Search { action: text("server."), server: text("a"), ..Search::default() }), [2, 1]);
        assert_eq!(found(Search { text: text("' OR 1 --"), ..Search::default() }), [0; 0]);
        let only = Some(("ben".to_owned(), vec![("n".to_owned(), "b".to_owned())]));
        assert_eq!(found(Search { only, ..Search::default() }), [3, 2]);
    }
}
