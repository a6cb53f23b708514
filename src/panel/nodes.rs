//! The `node` subcommands. They work on the store alone, beside a running Panel too, which takes their changes in.
//!
//! Run on the main thread and print to standard output; a secret goes there only when it is asked for.

use std::path::Path;

use super::config::SecretTo;
use super::secret::Secret;
use super::store::{self, Store};
use super::{PanelError, print};
use crate::protocol::NodeId;

/// Makes a node and leaves its secret where `secret_to` says, by default in the data directory.
pub fn add(data_dir: &Path, id: &NodeId, secret_to: Option<SecretTo>) -> Result<(), PanelError> {
    let mut store = Store::open(data_dir)?;
    let secret = Secret::generate().map_err(|_| PanelError::Random)?;
    if matches!(secret_to, Some(SecretTo::Stdout)) {
        store.add_node(id, secret.hash())?;
        return print(&format!("{}\n", secret.expose()));
    }
    let path = match secret_to {
        Some(SecretTo::File(path)) => path,
        _ => data_dir.join(format!("{id}.secret")),
    };
    // The file first: a node whose secret nobody has would be of no use.
    store::write_private(&path, &format!("{}\n", secret.expose()))?;
    if let Err(cause) = store.add_node(id, secret.hash()) {
        let _ = std::fs::remove_file(&path); // nobody's secret: what is left of it opens nothing
        return Err(cause.into());
    }
    print(&format!("node {id} added; its secret is in {}\n", path.display()))
}

/// One line for each node: id and when it was added.
pub fn list(data_dir: &Path) -> Result<(), PanelError> {
    let store = Store::open(data_dir)?;
    let lines: String = store.nodes().map(|(id, node)| format!("{id}\t{}\n", node.created)).collect();
    print(&lines)
}

/// Removes a node; a running Panel closes its link as revoked within half a minute.
pub fn remove(data_dir: &Path, id: &NodeId) -> Result<(), PanelError> {
    Store::open(data_dir)?.remove_node(id)?;
    print(&format!("node {id} removed\n"))
}
