//! `node`: made, listed, joined, their secrets rotated and revoked.

use std::path::Path;
use std::time::Duration;

use super::{SecretTo, print, record};
use crate::panel::PanelError;
use crate::panel::config::Config;
use crate::panel::secret::Secret;
use crate::panel::store::{self, Expiring, NodeRecord, Store};
use crate::panel::time::Time;
use crate::panel::{hub, tls};
use crate::protocol::NodeId;
use crate::protocol::join::JoinToken;

/// How long the secret before a rotation still works.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// Makes a node and leaves its secret where `secret_to` says, by default in the data directory.
pub fn add(dir: &Path, id: &NodeId, secret_to: Option<SecretTo>) -> Result<(), PanelError> {
    let mut store = Store::open(dir)?;
    let secret = Secret::generate().map_err(|_| PanelError::Random)?;
    let record_of = |secret: &Secret| NodeRecord::new(Some(secret.hash()), Time::now());
    if matches!(secret_to, Some(SecretTo::Stdout)) {
        store.add_node(id, record_of(&secret))?;
        record(dir, "node.create", Some(id), "")?;
        return print(&format!("{}\n", secret.expose()));
    }
    let path = match secret_to {
        Some(SecretTo::File(path)) => path,
        _ => dir.join(format!("{id}.secret")),
    };
    // The file first: a node whose secret nobody has would be of no use.
    store::write_private(&path, &format!("{}\n", secret.expose()))?;
    if let Err(cause) = store.add_node(id, record_of(&secret)) {
        let _ = std::fs::remove_file(&path); // nobody's secret: what is left of it opens nothing
        return Err(cause.into());
    }
    record(dir, "node.create", Some(id), "")?;
    print(&format!("node {id} added; its secret is in {}\n", path.display()))
}

/// One line for each node: id, when it was added, and how its secret stands.
pub fn list(dir: &Path) -> Result<(), PanelError> {
    let store = Store::open(dir)?;
    let line = |(id, node): (&NodeId, &NodeRecord)| {
        let standing = match node {
            NodeRecord { revoked: true, .. } => "revoked",
            NodeRecord { joined: false, .. } => "never connected",
            NodeRecord { maintenance: true, .. } => "maintenance",
            _ => "",
        };
        format!("{id}\t{}\t{standing}\n", node.created)
    };
    print(&store.nodes().map(line).collect::<String>())
}

/// Removes a node; a running Panel closes its link as revoked within half a minute.
pub fn remove(dir: &Path, id: &NodeId) -> Result<(), PanelError> {
    Store::open(dir)?.remove_node(id)?;
    record(dir, "node.delete", Some(id), "")?;
    print(&format!("node {id} removed\n"))
}

/// A one-time token for `longshore-agent join`, making the node when there is none.
pub fn join(config: &Config, id: &NodeId) -> Result<(), PanelError> {
    let dir = &config.data_dir;
    let mut store = Store::open(dir)?;
    let secret = Secret::generate().map_err(|_| PanelError::Random)?;
    let offer = Expiring { hash: secret.hash(), until: Time::now().after(hub::JOIN_VALID) };
    if store.node(id).is_none() {
        store.add_node(id, NodeRecord { join: Some(offer), ..NodeRecord::new(None, Time::now()) })?;
    } else {
        store.change_node(id, |record| record.join = Some(offer))?;
    }
    record(dir, "node.join_token", Some(id), "")?;
    let pin = tls::fingerprint(config).unwrap_or_default();
    print(&format!("{}\n", JoinToken { node: id.clone(), secret: secret.expose().into(), pin }))
}

/// A new secret; the one before works for a day more.
pub fn rotate(dir: &Path, id: &NodeId, secret_to: Option<SecretTo>) -> Result<(), PanelError> {
    let mut store = Store::open(dir)?;
    let secret = Secret::generate().map_err(|_| PanelError::Random)?;
    let until = Time::now().after(OVERLAP);
    let hash = secret.hash();
    if let Some(SecretTo::File(path)) = &secret_to {
        store::write_private(path, &format!("{}\n", secret.expose()))?;
    }
    store.change_node(id, |record| record.rotate(hash, until))?;
    record(dir, "node.rotate", Some(id), "")?;
    match secret_to {
        Some(SecretTo::File(path)) => print(&format!(
            "node {id} has a new secret in {}; the one before works until {until}\n",
            path.display()
        )),
        _ => print(&format!("{}\n", secret.expose())),
    }
}

/// Makes all secrets of a node void; a running Panel closes its link within half a minute.
pub fn revoke(dir: &Path, id: &NodeId) -> Result<(), PanelError> {
    Store::open(dir)?.change_node(id, NodeRecord::revoke)?;
    record(dir, "node.revoke", Some(id), "")?;
    print(&format!("node {id} revoked\n"))
}
