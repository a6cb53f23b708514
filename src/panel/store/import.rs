//! Takes over what the Panel kept before it had a database: `panel.json` under DATA_DIR.
//!
//! Runs once, inside the transaction that makes the first version of the database, so that it is taken over whole or
//! not at all. The file is renamed afterwards and kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rusqlite::{Connection, params};
use serde::Deserialize;

use super::database::{StoreError, at, sql};
use super::records::{CommandRecord, NodeRecord, ServerRecord};
use crate::panel::secret::SecretHash;
use crate::panel::time::Time;
use crate::protocol::{NodeId, ServerId};

const FILE: &str = "panel.json";

#[derive(Deserialize)]
struct Data {
    epoch: u64,
    nodes: BTreeMap<NodeId, OldNode>,
    #[serde(default)]
    servers: BTreeMap<NodeId, BTreeMap<ServerId, ServerRecord>>,
    #[serde(default)]
    commands: BTreeMap<String, CommandRecord>,
}

#[derive(Deserialize)]
struct OldNode {
    secret: SecretHash,
    created: Time,
}

pub fn old_file(database: &Connection, dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(FILE);
    let text = match fs::read_to_string(&path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(at("read", &path))?,
    };
    let data: Data =
        serde_json::from_str(&text).map_err(|cause| StoreError::Import { path: path.clone(), cause })?;
    let failed = sql("import");
    let epoch = i64::try_from(data.epoch).unwrap_or(i64::MAX);
    database.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", [epoch]).map_err(&failed)?;
    for (id, OldNode { secret, created }) in data.nodes {
        let record = NodeRecord { joined: true, ..NodeRecord::new(Some(secret), created) };
        let row = params![id.as_str(), json(&record)];
        database.execute("INSERT INTO nodes VALUES (?, ?)", row).map_err(&failed)?;
    }
    for (node, servers) in data.servers {
        for (id, record) in servers {
            let row = params![node.as_str(), id.as_str(), json(&record)];
            database.execute("INSERT INTO servers VALUES (?, ?, ?)", row).map_err(&failed)?;
        }
    }
    for (id, record) in data.commands {
        database
            .execute("INSERT INTO commands VALUES (?, ?)", params![id, json(&record)])
            .map_err(&failed)?;
    }
    Ok(())
}

/// Renames the old file once the database has it, also when a crash came between the two.
pub fn put_away(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(FILE);
    match fs::rename(&path, dir.join("panel.json.imported")) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(at("rename", &path)),
    }
}

fn json(record: &impl serde::Serialize) -> String {
    serde_json::to_string(record).expect("records have string keys and no serialiser that fails")
}
