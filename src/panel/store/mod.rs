//! What the Panel remembers, in one SQLite database under DATA_DIR.
//!
//! [`Store`] is the hub's part: nodes, their servers, and commands without an answer yet. It is read into memory once,
//! changed there, and becomes durable together at [`Store::commit`], which writes only what has changed. Used by one
//! thread at a time (the hub's, or the main thread of a subcommand).
//!
//! INVARIANT: nodes belong to the database and everything else to the running Panel. So `node add` works beside a
//! running Panel: every change of nodes is in one transaction with counting `meta.nodes` up, by which the others see it.

pub mod database;
mod import;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::secret::SecretHash;
use crate::protocol::{NodeId, ServerId};
pub use database::{StoreError, write_private};
use database::{at, begin, private, sql};
pub use records::{CommandRecord, Expiring, NodeRecord, PortRange, ServerKey, ServerRecord};

pub struct Store {
    dir: PathBuf,
    database: Connection,
    epoch: u64,
    nodes: BTreeMap<NodeId, NodeRecord>,
    /// `meta.nodes` as of which `nodes` is true.
    nodes_version: i64,
    servers: BTreeMap<NodeId, BTreeMap<ServerId, ServerRecord>>,
    commands: BTreeMap<String, CommandRecord>,
    /// What differs from the database.
    changed_servers: BTreeSet<ServerKey>,
    changed_commands: BTreeSet<String>,
    /// Secrets that were used for the first time. Hundreds of nodes that come in at once cost one transaction.
    used: BTreeMap<NodeId, SecretHash>,
    /// Held by the one running Panel of this directory; the subcommands do without.
    _running: Option<File>,
}

impl Store {
    /// Opens the store for a subcommand, making the directory (0700) when it is missing.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let database = database::open(dir)?;
        let mut store = Store {
            dir: dir.into(),
            epoch: u64::try_from(meta(&database, "epoch")?).unwrap_or(0),
            database,
            nodes: BTreeMap::new(),
            nodes_version: -1,
            servers: BTreeMap::new(),
            commands: BTreeMap::new(),
            changed_servers: BTreeSet::new(),
            changed_commands: BTreeSet::new(),
            used: BTreeMap::new(),
            _running: None,
        };
        store.refresh_nodes()?;
        for (node, id, record) in store.rows("SELECT node, id, record FROM servers")? {
            if let (Ok(node), Ok(id)) = (node.parse(), id.parse()) {
                store.servers.entry(node).or_default().insert(id, record);
            }
        }
        for (id, _, record) in store.rows("SELECT id, '', record FROM commands")? {
            store.commands.insert(id, record);
        }
        store.drop_orphans();
        Ok(store)
    }

    /// Opens the store for the running Panel, of which a directory has at most one, and begins a new epoch: the
    /// number by which Agents know a newer Panel from one that should have ended.
    pub fn open_to_serve(dir: &Path) -> Result<Store, StoreError> {
        let mut store = Store::open(dir)?;
        store._running = Some(lock(dir)?);
        // Seconds since 1970 keep it growing even when this directory was lost and begins anew: Agents refuse a
        // Panel of an older epoch than they have seen.
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        store.epoch = clock.max(store.epoch + 1);
        let epoch = i64::try_from(store.epoch).unwrap_or(i64::MAX);
        store
            .database
            .execute("UPDATE meta SET value = ? WHERE key = 'epoch'", [epoch])
            .map_err(sql("begin an epoch"))?;
        store.commit()?;
        Ok(store)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &NodeRecord)> {
        self.nodes.iter()
    }

    pub fn node(&self, id: &NodeId) -> Option<&NodeRecord> {
        self.nodes.get(id)
    }

    /// # Errors
    /// [`StoreError::Exists`], or the change could not be made durable.
    pub fn add_node(&mut self, id: &NodeId, record: NodeRecord) -> Result<(), StoreError> {
        self.change_nodes(|nodes| match nodes.contains_key(id) {
            true => Err(StoreError::Exists(format!("node {id}"))),
            false => {
                nodes.insert(id.clone(), record);
                Ok(())
            }
        })
    }

    /// Changes a node's record; durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], what `change` refuses with, or the change could not be made durable.
    pub fn change_node<T>(
        &mut self,
        id: &NodeId,
        change: impl FnOnce(&mut NodeRecord) -> T,
    ) -> Result<T, StoreError> {
        let failed = sql("change a node");
        let step = begin(&mut self.database)?;
        // Its own row alone: a thousand nodes that come in at once must not read each other's.
        let mut record = read_node(&step, id)?.ok_or_else(|| StoreError::Unknown(format!("node {id}")))?;
        if let Some(secret) = self.used.get(id) {
            record.note_use(secret);
        }
        let changed = change(&mut record);
        write_node(&step, id, &record)?;
        let version = count_up(&step)?;
        step.commit().map_err(&failed)?;
        self.used.remove(id);
        self.nodes.insert(id.clone(), record);
        self.own_change(version);
        Ok(changed)
    }

    /// Takes note that an Agent has come in with this secret. Durable with the next [`Store::commit`]; should a crash
    /// come first, it is noted again when the Agent comes back.
    pub fn note_use(&mut self, id: &NodeId, secret: &SecretHash) {
        if self.nodes.get_mut(id).is_some_and(|record| record.note_use(secret)) {
            self.used.insert(id.clone(), secret.clone());
        }
    }

    /// Whether a first use of a secret waits to be committed: until then a subcommand does not know of it.
    pub fn has_uses(&self) -> bool {
        !self.used.is_empty()
    }

    /// Removes a node with all that is known of its servers; nothing happens to the servers themselves.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], or the change could not be made durable.
    pub fn remove_node(&mut self, id: &NodeId) -> Result<(), StoreError> {
        self.change_nodes(|nodes| match nodes.remove(id) {
            Some(_) => Ok(()),
            None => Err(StoreError::Unknown(format!("node {id}"))),
        })
    }

    /// Takes in nodes that a subcommand has changed meanwhile; one look-up when there are none.
    pub fn refresh_nodes(&mut self) -> Result<(), StoreError> {
        let version = meta(&self.database, "nodes")?;
        if version != self.nodes_version {
            self.nodes = read_nodes(&self.database)?;
            self.nodes_version = version;
            self.note_uses_again();
            self.drop_orphans();
        }
        Ok(())
    }

    pub fn servers(&self) -> impl Iterator<Item = (&NodeId, &ServerId, &ServerRecord)> {
        self.servers
            .iter()
            .flat_map(|(node, servers)| servers.iter().map(move |(id, record)| (node, id, record)))
    }

    pub fn servers_of(&self, node: &NodeId) -> impl Iterator<Item = (&ServerId, &ServerRecord)> {
        self.servers.get(node).into_iter().flatten()
    }

    pub fn server_count(&self, node: &NodeId) -> usize {
        self.servers.get(node).map_or(0, BTreeMap::len)
    }

    pub fn server(&self, (node, id): &ServerKey) -> Option<&ServerRecord> {
        self.servers.get(node)?.get(id)
    }

    /// The record with the stored ids, for those that borrow all of it.
    pub fn server_entry(&self, (node, id): &ServerKey) -> Option<(&NodeId, &ServerId, &ServerRecord)> {
        let (node, servers) = self.servers.get_key_value(node)?;
        servers.get_key_value(id).map(|(id, record)| (node, id, record))
    }

    /// The record to change in place; durable with the next [`Store::commit`].
    pub fn server_mut(&mut self, key: &ServerKey) -> Option<&mut ServerRecord> {
        let record = self.servers.get_mut(&key.0)?.get_mut(&key.1)?;
        self.changed_servers.insert(key.clone());
        Some(record)
    }

    /// Durable with the next [`Store::commit`].
    pub fn put_server(&mut self, key: &ServerKey, record: ServerRecord) {
        self.servers.entry(key.0.clone()).or_default().insert(key.1.clone(), record);
        self.changed_servers.insert(key.clone());
    }

    /// Durable with the next [`Store::commit`].
    pub fn remove_server(&mut self, key: &ServerKey) -> Option<ServerRecord> {
        let removed = self.servers.get_mut(&key.0)?.remove(&key.1)?;
        self.changed_servers.insert(key.clone());
        Some(removed)
    }

    pub fn commands(&self) -> impl Iterator<Item = (&String, &CommandRecord)> {
        self.commands.iter()
    }

    pub fn command(&self, id: &str) -> Option<&CommandRecord> {
        self.commands.get(id)
    }

    /// Durable with the next [`Store::commit`].
    pub fn put_command(&mut self, id: String, record: CommandRecord) {
        self.changed_commands.insert(id.clone());
        self.commands.insert(id, record);
    }

    /// Durable with the next [`Store::commit`].
    pub fn remove_command(&mut self, id: &str) -> Option<CommandRecord> {
        let removed = self.commands.remove(id)?;
        self.changed_commands.insert(id.to_owned());
        Some(removed)
    }

    /// Whether there is something to commit.
    pub fn is_changed(&self) -> bool {
        !self.changed_servers.is_empty() || !self.changed_commands.is_empty() || !self.used.is_empty()
    }

    /// Makes everything since the last commit durable; does nothing when nothing has changed.
    ///
    /// # Errors
    /// The database is then as it was, the changes stay in memory, and the next commit tries again.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        if !self.is_changed() {
            return Ok(());
        }
        let failed = sql("commit");
        let batch = begin(&mut self.database)?;
        {
            let mut put =
                batch.prepare_cached("INSERT OR REPLACE INTO servers VALUES (?, ?, ?)").map_err(&failed)?;
            let mut remove =
                batch.prepare_cached("DELETE FROM servers WHERE node = ? AND id = ?").map_err(&failed)?;
            for (node, id) in &self.changed_servers {
                match self.servers.get(node).and_then(|servers| servers.get(id)) {
                    Some(record) => put.execute(params![node.as_str(), id.as_str(), json(record)]),
                    None => remove.execute([node.as_str(), id.as_str()]),
                }
                .map_err(&failed)?;
            }
            let mut put =
                batch.prepare_cached("INSERT OR REPLACE INTO commands VALUES (?, ?)").map_err(&failed)?;
            let mut remove = batch.prepare_cached("DELETE FROM commands WHERE id = ?").map_err(&failed)?;
            for id in &self.changed_commands {
                match self.commands.get(id) {
                    Some(record) => put.execute(params![id, json(record)]),
                    None => remove.execute([id]),
                }
                .map_err(&failed)?;
            }
        }
        let mut noted = false;
        for (id, secret) in &self.used {
            if let Some(mut record) = read_node(&batch, id)?
                && record.note_use(secret)
            {
                write_node(&batch, id, &record)?;
                noted = true;
            }
        }
        let version = if noted { Some(count_up(&batch)?) } else { None };
        batch.commit().map_err(&failed)?;
        self.changed_servers.clear();
        self.changed_commands.clear();
        self.used.clear();
        version.into_iter().for_each(|version| self.own_change(version));
        Ok(())
    }

    /// One transaction for a change of nodes: reads what others have made of them, changes that, and writes it.
    fn change_nodes<T>(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<NodeId, NodeRecord>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let failed = sql("change a node");
        let step = begin(&mut self.database)?;
        let before = read_nodes(&step)?;
        let mut after = before.clone();
        let changed = change(&mut after)?;
        for id in before.keys().filter(|id| !after.contains_key(*id)) {
            step.execute("DELETE FROM nodes WHERE id = ?", [id.as_str()]).map_err(&failed)?;
            for table in ["servers", "grants", "series"] {
                let gone = format!("DELETE FROM {table} WHERE node = ?");
                step.execute(&gone, [id.as_str()]).map_err(&failed)?;
            }
        }
        for (id, record) in after.iter().filter(|(id, record)| before.get(*id) != Some(*record)) {
            let row = params![id.as_str(), json(record)];
            step.execute("INSERT OR REPLACE INTO nodes VALUES (?, ?)", row).map_err(&failed)?;
        }
        let version = count_up(&step)?;
        step.commit().map_err(&failed)?;
        (self.nodes, self.nodes_version) = (after, version);
        self.note_uses_again();
        self.drop_orphans();
        Ok(changed)
    }

    /// A change of nodes by this process is in memory already. Should others have changed something as well, it is
    /// read with the next look.
    fn own_change(&mut self, version: i64) {
        if version == self.nodes_version + 1 {
            self.nodes_version = version;
        }
    }

    /// What the database does not know yet, after nodes were read from it.
    fn note_uses_again(&mut self) {
        for (id, secret) in &self.used {
            if let Some(record) = self.nodes.get_mut(id) {
                record.note_use(secret);
            }
        }
    }

    /// Forgets what belongs to nodes that are gone.
    fn drop_orphans(&mut self) {
        let Store { nodes, servers, commands, changed_servers, changed_commands, .. } = self;
        servers.retain(|node, servers| {
            let stays = nodes.contains_key(node);
            if !stays {
                changed_servers.extend(servers.keys().map(|id| (node.clone(), id.clone())));
            }
            stays
        });
        commands.retain(|id, command| {
            let stays = nodes.contains_key(&command.node);
            if !stays {
                changed_commands.insert(id.clone());
            }
            stays
        });
    }

    /// Rows of two names and a record. A record that cannot be read is told and left where it is.
    fn rows<T: DeserializeOwned>(&self, query: &str) -> Result<Vec<(String, String, T)>, StoreError> {
        let failed = sql("read");
        let mut statement = self.database.prepare(query).map_err(&failed)?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?)))
            .map_err(&failed)?;
        let mut found = Vec::new();
        for row in rows {
            let (one, two, text): (String, String, String) = row.map_err(&failed)?;
            match serde_json::from_str(&text) {
                Ok(record) => found.push((one, two, record)),
                Err(cause) => log::error!("the record of {one} {two} cannot be read: {cause}"),
            }
        }
        Ok(found)
    }
}

/// Held for as long as the file lives: a directory has one running Panel.
pub fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("running.lock");
    let running = private(OpenOptions::new().write(true).create(true).truncate(false))
        .open(&path)
        .map_err(at("open", &path))?;
    match running.try_lock() {
        Ok(()) => Ok(running),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { dir: dir.into() }),
        Err(TryLockError::Error(cause)) => Err(at("lock", dir)(cause)),
    }
}

fn meta(database: &Connection, key: &str) -> Result<i64, StoreError> {
    database
        .prepare_cached("SELECT value FROM meta WHERE key = ?")
        .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
        .map(Option::unwrap_or_default)
        .map_err(sql("read"))
}

/// Counts the version of all nodes up, by which the others see that something has changed; the new one.
fn count_up(database: &Connection) -> Result<i64, StoreError> {
    let counted = database.execute("UPDATE meta SET value = value + 1 WHERE key = 'nodes'", []);
    counted.map_err(sql("change a node"))?;
    meta(database, "nodes")
}

fn read_node(database: &Connection, id: &NodeId) -> Result<Option<NodeRecord>, StoreError> {
    let text = database
        .prepare_cached("SELECT record FROM nodes WHERE id = ?")
        .and_then(|mut statement| {
            statement.query_row([id.as_str()], |row| row.get::<_, String>(0)).optional()
        })
        .map_err(sql("read a node"))?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

fn write_node(database: &Connection, id: &NodeId, record: &NodeRecord) -> Result<(), StoreError> {
    database
        .prepare_cached("UPDATE nodes SET record = ? WHERE id = ?")
        .and_then(|mut statement| statement.execute(params![json(record), id.as_str()]))
        .map_err(sql("change a node"))
        .map(drop)
}

fn read_nodes(database: &Connection) -> Result<BTreeMap<NodeId, NodeRecord>, StoreError> {
    let failed = sql("read nodes");
    let mut statement = database.prepare_cached("SELECT id, record FROM nodes").map_err(&failed)?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .map_err(&failed)?;
    let mut nodes = BTreeMap::new();
    for row in rows {
        let (id, text) = row.map_err(&failed)?;
        match (id.parse(), serde_json::from_str(&text)) {
            (Ok(id), Ok(record)) => drop(nodes.insert(id, record)),
            _ => log::error!("the record of node {id} cannot be read"),
        }
    }
    Ok(nodes)
}

fn json(record: &impl Serialize) -> String {
    serde_json::to_string(record).expect("records have string keys and no serialiser that fails")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use serde_json::Value;

    use super::super::secret::{Secret, SecretHash};
    use super::super::time::Time;
    use super::*;
    use crate::protocol::Status;

    fn node(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    fn fresh() -> NodeRecord {
        NodeRecord::new(Some(hash()), Time::now())
    }

    fn hash() -> SecretHash {
        Secret::generate().unwrap().hash()
    }

    fn server(status: Status) -> ServerRecord {
        let since = Time::now();
        ServerRecord {
            spec: None,
            status,
            since,
            reason: None,
            exit_code: None,
            needs_restart: false,
            created: None,
            template: None,
            variables: Default::default(),
        }
    }

    fn command(on: &str) -> CommandRecord {
        CommandRecord {
            node: node(on),
            server: None,
            action: "system.ping".into(),
            payload: Value::Null,
            created: Time::now(),
            deadline: Time::now(),
            then_start: false,
            by: None,
            variables: None,
        }
    }

    #[test]
    fn what_was_committed_is_read_again_and_the_epoch_grows() {
        let dir = tempfile::tempdir().unwrap();
        let key = (node("n1"), "s1".parse().unwrap());
        let (record, pending) = (server(Status::Running), command("n1"));
        let mut store = Store::open_to_serve(dir.path()).unwrap();
        let first = store.epoch();
        store.add_node(&key.0, fresh()).unwrap();
        store.put_server(&key, record.clone());
        store.put_command("c1".into(), pending.clone());
        store.commit().unwrap();
        drop(store);

        let store = Store::open_to_serve(dir.path()).unwrap();
        assert!(store.epoch() > first && first > 1_700_000_000);
        assert_eq!(store.server(&key), Some(&record));
        assert_eq!(store.command("c1"), Some(&pending));
        let mode = fs::metadata(dir.path().join(database::FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_subcommand_and_a_running_panel_do_not_undo_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut panel = Store::open_to_serve(dir.path()).unwrap();
        let mut subcommand = Store::open(dir.path()).unwrap();
        subcommand.add_node(&node("n1"), fresh()).unwrap();
        panel.refresh_nodes().unwrap();
        let key = (node("n1"), "s1".parse().unwrap());
        panel.put_server(&key, server(Status::Stopped));
        panel.commit().unwrap();
        subcommand.add_node(&node("n2"), fresh()).unwrap();
        assert!(
            Store::open(dir.path()).unwrap().server(&key).is_some(),
            "the subcommand has written old servers"
        );
        panel.server_mut(&key).unwrap().status = Status::Running;
        panel.commit().unwrap();

        let seen = Store::open(dir.path()).unwrap();
        assert_eq!(seen.nodes().count(), 2);
        assert_eq!(seen.server(&key).unwrap().status, Status::Running);

        subcommand.remove_node(&node("n1")).unwrap();
        panel.refresh_nodes().unwrap();
        assert!(panel.node(&node("n1")).is_none());
        assert_eq!(panel.server(&key), None);
        assert!(matches!(subcommand.remove_node(&node("n1")), Err(StoreError::Unknown(_))));
        assert!(matches!(panel.add_node(&node("n2"), fresh()), Err(StoreError::Exists(_))));
    }

    #[test]
    fn one_panel_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open_to_serve(dir.path()).unwrap();
        assert!(matches!(Store::open_to_serve(dir.path()), Err(StoreError::InUse { .. })));
        drop(first);
        Store::open_to_serve(dir.path()).unwrap();
    }

    #[test]
    fn a_damaged_or_newer_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(database::FILE);
        fs::write(&path, vec![b'x'; 8192]).unwrap();
        assert!(Store::open_to_serve(dir.path()).is_err());
        assert_eq!(fs::read(&path).unwrap(), vec![b'x'; 8192]);
        fs::remove_file(&path).unwrap();
        drop(Store::open(dir.path()).unwrap());
        let newer = Connection::open(&path).unwrap();
        newer.pragma_update(None, "user_version", 99).unwrap();
        drop(newer);
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Version { found: 99, .. })));
    }

    #[test]
    fn the_file_of_earlier_versions_is_taken_over_once() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::generate().unwrap();
        let old = serde_json::json!({
            "version": 1, "epoch": 7,
            "nodes": {"n1": {"secret": secret.hash(), "created": "2025-07-24T10:00:00Z"}},
            "servers": {"n1": {"s1": {"spec": {"image": "demo"}, "status": "running", "since": "2025-07-24T10:00:00Z"}}},
            "commands": {"cmd_1": {"node": "n1", "server": "s1", "action": "stop_server", "payload": {},
                "created": "2025-07-24T10:00:00Z", "deadline": "2025-07-24T10:00:00Z"}},
        });
        fs::write(dir.path().join("panel.json"), old.to_string()).unwrap();
        for _ in 0..2 {
            let store = Store::open(dir.path()).unwrap();
            assert!(store.node(&node("n1")).unwrap().admits(&secret.hash(), Time::now()));
            let key = (node("n1"), "s1".parse().unwrap());
            assert_eq!(store.server(&key).unwrap().status, Status::Running);
            assert_eq!(store.command("cmd_1").unwrap().action, "stop_server");
            assert_eq!(store.epoch(), 7);
        }
        assert!(!dir.path().join("panel.json").exists() && dir.path().join("panel.json.imported").exists());
    }

    #[test]
    fn a_broken_file_of_earlier_versions_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("panel.json"), "{").unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Import { .. })));
        fs::write(dir.path().join("panel.json"), r#"{"epoch":3,"nodes":{}}"#).unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().epoch(), 3);
    }

    #[test]
    fn a_rotated_secret_overlaps_and_a_revoked_one_is_void() {
        let (old, new, now) = (hash(), hash(), Time::now());
        let mut record = NodeRecord::new(Some(old.clone()), now);
        let later = now.after(std::time::Duration::from_secs(60));
        record.rotate(new.clone(), later);
        assert!(record.admits(&old, now) && record.admits(&new, now));
        assert!(!record.admits(&old, later) && record.admits(&new, later));
        // The new one was never taken up: the Agent still has the first.
        let newest = hash();
        record.rotate(newest.clone(), later);
        assert!(record.admits(&old, now) && !record.admits(&new, now) && record.admits(&newest, now));
        record.revoke();
        assert!([old, new, newest].iter().all(|secret| !record.admits(secret, now)));
    }

    #[test]
    fn a_secret_file_is_private_and_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        write_private(&path, "x\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(write_private(&path, "y\n").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "x\n");
    }
}
