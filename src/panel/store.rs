//! What the Panel remembers: nodes, their servers, and commands without an answer yet, in one JSON file of mode
//! 0600 under DATA_DIR. A database takes its place behind the same functions.
//!
//! Used by one thread at a time (the hub's, or the main thread of a `node` subcommand). Changes are made in memory
//! and become durable together at [`Store::commit`]: write, fsync, rename, fsync of the directory.
//!
//! INVARIANT: nodes belong to the file and everything else to the running Panel. So `node add` works beside a
//! running Panel: both change the file under a lock, and read the other's nodes in first.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::secret::SecretHash;
use super::time::Time;
use crate::protocol::{NodeId, Reason, ServerId, Status};

const FILE: &str = "panel.json";
const VERSION: u32 = 1;
/// Far above what a Panel of this form holds; a larger file is not one of ours.
const MAX_BYTES: u64 = 256 << 20;

/// A server's name in the whole Panel: ids are unique within a node only.
pub type ServerKey = (NodeId, ServerId);

pub struct Store {
    dir: PathBuf,
    data: Data,
    /// The file as last read or written. Held open so that its inode cannot be used again for a newer one.
    seen: Option<File>,
    changed: bool,
    /// Held by the one running Panel of this directory; the subcommands do without.
    _running: Option<File>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub secret: SecretHash,
    pub created: Time,
}

/// A server as last known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// As the Panel was given it; `None` for a server that only its node has told of.
    pub spec: Option<Map<String, Value>>,
    pub status: Status,
    /// When `status` was told.
    pub since: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_restart: bool,
}

/// A command that was accepted and has no answer yet. Kept so that an answer that comes after a restart of the
/// Panel still finds what it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandRecord {
    pub node: NodeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    pub action: String,
    pub payload: Value,
    pub created: Time,
    /// Past it the outcome is told as unknown and the command is not sent again.
    pub deadline: Time,
    /// Start the server once this has created it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub then_start: bool,
}

#[derive(Debug)]
pub enum StoreError {
    Io { what: &'static str, path: PathBuf, cause: io::Error },
    Damaged { path: PathBuf, cause: serde_json::Error },
    Version { path: PathBuf, found: u32 },
    InUse { dir: PathBuf },
    NodeExists(NodeId),
    NodeUnknown(NodeId),
}

#[derive(Default, Serialize, Deserialize)]
struct Data {
    version: u32,
    epoch: u64,
    nodes: BTreeMap<NodeId, NodeRecord>,
    #[serde(default)]
    servers: BTreeMap<NodeId, BTreeMap<ServerId, ServerRecord>>,
    #[serde(default)]
    commands: BTreeMap<String, CommandRecord>,
}

/// The part that a running Panel takes over from the file when someone else has changed it.
#[derive(Deserialize)]
struct NodesOnly {
    nodes: BTreeMap<NodeId, NodeRecord>,
}

impl Store {
    /// Opens the store for a `node` subcommand, making the directory (0700) when it is missing.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("create directory", dir))?;
        let mut store =
            Store { dir: dir.into(), data: Data::default(), seen: None, changed: false, _running: None };
        store.data.version = VERSION;
        if let Some((file, text)) = store.read_newer()? {
            store.data = store.parse(&text)?;
            store.seen = Some(file);
            if store.data.version != VERSION {
                return Err(StoreError::Version { path: store.path(), found: store.data.version });
            }
            store.drop_orphans();
        }
        Ok(store)
    }

    /// Opens the store for the running Panel, of which a directory has at most one, and begins a new epoch: the
    /// number by which Agents know a newer Panel from one that should have ended.
    pub fn open_to_serve(dir: &Path) -> Result<Store, StoreError> {
        let mut store = Store::open(dir)?;
        let running = lock_file(&dir.join("running.lock"))?;
        match running.try_lock() {
            Ok(()) => store._running = Some(running),
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { dir: dir.into() }),
            Err(TryLockError::Error(cause)) => return Err(at("lock", dir)(cause)),
        }
        // Seconds since 1970 keep it growing even when this directory was lost and begins anew: Agents refuse a
        // Panel of an older epoch than they have seen.
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        store.data.epoch = clock.max(store.data.epoch + 1);
        store.changed = true;
        store.commit()?;
        Ok(store)
    }

    pub fn epoch(&self) -> u64 {
        self.data.epoch
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &NodeRecord)> {
        self.data.nodes.iter()
    }

    pub fn node(&self, id: &NodeId) -> Option<&NodeRecord> {
        self.data.nodes.get(id)
    }

    /// # Errors
    /// [`StoreError::NodeExists`], or the change could not be made durable.
    pub fn add_node(&mut self, id: &NodeId, secret: SecretHash) -> Result<(), StoreError> {
        let record = NodeRecord { secret, created: Time::now() };
        self.change_nodes(|nodes| match nodes.contains_key(id) {
            true => Err(StoreError::NodeExists(id.clone())),
            false => {
                nodes.insert(id.clone(), record);
                Ok(())
            }
        })
    }

    /// Removes a node with all that is known of its servers; nothing happens to the servers themselves.
    ///
    /// # Errors
    /// [`StoreError::NodeUnknown`], or the change could not be made durable.
    pub fn remove_node(&mut self, id: &NodeId) -> Result<(), StoreError> {
        self.change_nodes(|nodes| match nodes.remove(id) {
            Some(_) => Ok(()),
            None => Err(StoreError::NodeUnknown(id.clone())),
        })
    }

    /// Takes in nodes that a subcommand has added or removed meanwhile; one `stat` when there are none.
    pub fn refresh_nodes(&mut self) -> Result<(), StoreError> {
        if let Some((file, text)) = self.read_newer()? {
            let fresh: NodesOnly = self.parse(&text)?;
            self.data.nodes = fresh.nodes;
            self.drop_orphans();
            self.seen = Some(file);
        }
        Ok(())
    }

    pub fn servers(&self) -> impl Iterator<Item = (&NodeId, &ServerId, &ServerRecord)> {
        self.data
            .servers
            .iter()
            .flat_map(|(node, servers)| servers.iter().map(move |(id, record)| (node, id, record)))
    }

    pub fn servers_of(&self, node: &NodeId) -> impl Iterator<Item = (&ServerId, &ServerRecord)> {
        self.data.servers.get(node).into_iter().flatten()
    }

    pub fn server_count(&self, node: &NodeId) -> usize {
        self.data.servers.get(node).map_or(0, BTreeMap::len)
    }

    pub fn server(&self, (node, id): &ServerKey) -> Option<&ServerRecord> {
        self.data.servers.get(node)?.get(id)
    }

    /// The record with the stored ids, for those that borrow all of it.
    pub fn server_entry(&self, (node, id): &ServerKey) -> Option<(&NodeId, &ServerId, &ServerRecord)> {
        let (node, servers) = self.data.servers.get_key_value(node)?;
        servers.get_key_value(id).map(|(id, record)| (node, id, record))
    }

    /// The record to change in place; durable with the next [`Store::commit`].
    pub fn server_mut(&mut self, (node, id): &ServerKey) -> Option<&mut ServerRecord> {
        let record = self.data.servers.get_mut(node)?.get_mut(id)?;
        self.changed = true;
        Some(record)
    }

    /// Durable with the next [`Store::commit`].
    pub fn put_server(&mut self, (node, id): &ServerKey, record: ServerRecord) {
        self.data.servers.entry(node.clone()).or_default().insert(id.clone(), record);
        self.changed = true;
    }

    /// Durable with the next [`Store::commit`].
    pub fn remove_server(&mut self, (node, id): &ServerKey) -> Option<ServerRecord> {
        let removed = self.data.servers.get_mut(node)?.remove(id)?;
        self.changed = true;
        Some(removed)
    }

    pub fn commands(&self) -> impl Iterator<Item = (&String, &CommandRecord)> {
        self.data.commands.iter()
    }

    pub fn command(&self, id: &str) -> Option<&CommandRecord> {
        self.data.commands.get(id)
    }

    /// Durable with the next [`Store::commit`].
    pub fn put_command(&mut self, id: String, record: CommandRecord) {
        self.data.commands.insert(id, record);
        self.changed = true;
    }

    /// Durable with the next [`Store::commit`].
    pub fn remove_command(&mut self, id: &str) -> Option<CommandRecord> {
        let removed = self.data.commands.remove(id)?;
        self.changed = true;
        Some(removed)
    }

    /// Whether there is something to commit.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Makes everything since the last commit durable; does nothing when nothing has changed.
    ///
    /// # Errors
    /// The file is then as it was, the changes stay in memory, and the next commit tries again.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        if !self.changed {
            return Ok(());
        }
        let _turn = self.lock()?;
        self.refresh_nodes()?;
        self.write()
    }

    fn change_nodes(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<NodeId, NodeRecord>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let _turn = self.lock()?;
        // A subcommand owns nothing but nodes: all the rest is read again, so that writing it back loses nothing.
        match self._running {
            Some(_) => self.refresh_nodes()?,
            None => *self = Store::open(&self.dir)?,
        }
        change(&mut self.data.nodes)?;
        self.drop_orphans();
        self.write()
    }

    fn drop_orphans(&mut self) {
        let Data { nodes, servers, commands, .. } = &mut self.data;
        servers.retain(|node, servers| nodes.contains_key(node) && !servers.is_empty());
        commands.retain(|_, command| nodes.contains_key(&command.node));
    }

    /// The turn to write, until it is dropped. Held for the length of one write, so waiting for it is short.
    fn lock(&self) -> Result<File, StoreError> {
        let path = self.dir.join("write.lock");
        let file = lock_file(&path)?;
        file.lock().map_err(at("lock", &path))?;
        Ok(file)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// The file and its text when it is another one than was last seen. Files are replaced and never written in
    /// place, so the inode tells.
    fn read_newer(&self) -> Result<Option<(File, String)>, StoreError> {
        let path = self.path();
        let metadata = match fs::metadata(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(at("look at", &path))?,
        };
        let inode_seen = match &self.seen {
            Some(file) => Some(file.metadata().map_err(at("look at", &path))?.ino()),
            None => None,
        };
        if inode_seen == Some(metadata.ino()) {
            return Ok(None);
        }
        let mut file = File::open(&path).map_err(at("open", &path))?;
        let mut text = String::new();
        (&mut file).take(MAX_BYTES).read_to_string(&mut text).map_err(at("read", &path))?;
        Ok(Some((file, text)))
    }

    fn parse<'a, T: Deserialize<'a>>(&self, text: &'a str) -> Result<T, StoreError> {
        serde_json::from_str(text).map_err(|cause| StoreError::Damaged { path: self.path(), cause })
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let (path, fresh) = (self.path(), self.dir.join("panel.json.new"));
        let text = serde_json::to_vec(&self.data).map_err(|cause| at("encode", &path)(cause.into()))?;
        // What an interrupted write has left is replaced whole.
        let mut file = private(OpenOptions::new().read(true).write(true).create(true).truncate(true))
            .open(&fresh)
            .map_err(at("create", &fresh))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(at("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(at("replace", &path))?;
        self.seen = Some(file);
        sync_dir(&self.dir)?;
        self.changed = false;
        Ok(())
    }
}

/// Writes `text` to a new file that only its owner can read.
///
/// # Errors
/// Also when the file exists: a secret never overwrites what someone else keeps there.
pub fn write_private(path: &Path, text: &str) -> Result<(), StoreError> {
    let mut file =
        private(OpenOptions::new().write(true).create_new(true)).open(path).map_err(at("create", path))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(at("write", path))
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

fn lock_file(path: &Path) -> Result<File, StoreError> {
    private(OpenOptions::new().write(true).create(true).truncate(false)).open(path).map_err(at("open", path))
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at("sync directory", dir))
}

fn at<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + use<'a> {
    move |cause| StoreError::Io { what, path: path.into(), cause }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Io { what, path, cause } => write!(f, "{what} {}: {cause}", path.display()),
            StoreError::Damaged { path, cause } => write!(f, "{} is damaged: {cause}", path.display()),
            StoreError::Version { path, found } => {
                write!(f, "{} is of version {found}: expected {VERSION}", path.display())
            }
            StoreError::InUse { dir } => write!(f, "{} is in use by another Panel", dir.display()),
            StoreError::NodeExists(id) => write!(f, "node {id} exists already"),
            StoreError::NodeUnknown(id) => write!(f, "node {id} does not exist"),
        }
    }
}

impl std::error::Error for StoreError {}

#[cfg(test)]
mod tests {
    use super::super::secret::Secret;
    use super::*;

    fn node(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    fn hash() -> SecretHash {
        Secret::generate().unwrap().hash()
    }

    fn server(status: Status) -> ServerRecord {
        let since = Time::now();
        ServerRecord { spec: None, status, since, reason: None, exit_code: None, needs_restart: false }
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
        }
    }

    #[test]
    fn what_was_committed_is_read_again_and_the_epoch_grows() {
        let dir = tempfile::tempdir().unwrap();
        let key = (node("n1"), "s1".parse().unwrap());
        let (record, pending) = (server(Status::Running), command("n1"));
        let mut store = Store::open_to_serve(dir.path()).unwrap();
        let first = store.epoch();
        store.add_node(&key.0, hash()).unwrap();
        store.put_server(&key, record.clone());
        store.put_command("c1".into(), pending.clone());
        store.commit().unwrap();
        drop(store);

        let store = Store::open_to_serve(dir.path()).unwrap();
        assert!(store.epoch() > first && first > 1_700_000_000);
        assert_eq!(store.server(&key), Some(&record));
        assert_eq!(store.command("c1"), Some(&pending));
        let mode = fs::metadata(store.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_subcommand_and_a_running_panel_do_not_undo_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut panel = Store::open_to_serve(dir.path()).unwrap();
        let mut subcommand = Store::open(dir.path()).unwrap();
        subcommand.add_node(&node("n1"), hash()).unwrap();
        panel.refresh_nodes().unwrap();
        let key = (node("n1"), "s1".parse().unwrap());
        panel.put_server(&key, server(Status::Stopped));
        panel.commit().unwrap();
        subcommand.add_node(&node("n2"), hash()).unwrap();
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
        assert!(matches!(subcommand.remove_node(&node("n1")), Err(StoreError::NodeUnknown(_))));
        assert!(matches!(panel.add_node(&node("n2"), hash()), Err(StoreError::NodeExists(_))));
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
        let path = dir.path().join(FILE);
        for text in
            ["{", r#"{"version":2,"epoch":1,"nodes":{}}"#, r#"{"version":1,"epoch":1,"nodes":{"-":{}}}"#]
        {
            fs::write(&path, text).unwrap();
            assert!(Store::open_to_serve(dir.path()).is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
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
