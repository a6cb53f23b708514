//! The subcommands. They work on the database alone, beside a running Panel too, which takes their changes in.
//!
//! Run on the main thread and print to standard output; a secret goes there only when it is asked for.

mod copies;
mod doctor;
mod nodes;
mod people;

use std::io::Write;
use std::path::PathBuf;

use super::PanelError;
use super::config::Config;
use super::journal::{Entry, Journal};
use super::store::StoreError;
use crate::protocol::NodeId;

/// What a subcommand is asked for.
#[derive(Debug, PartialEq)]
pub enum Command {
    NodeAdd { id: NodeId, secret_to: Option<SecretTo> },
    NodeList,
    NodeRemove { id: NodeId },
    NodeJoin { id: NodeId },
    NodeRotate { id: NodeId, secret_to: Option<SecretTo> },
    NodeRevoke { id: NodeId },
    UserAdd { name: String, admin: bool },
    UserList,
    UserRemove { name: String },
    UserLink { name: String },
    UserPassword { name: String },
    TokenAdd { user: String, name: String, scopes: String, days: Option<u64> },
    TokenList,
    TokenRevoke { id: i64 },
    Backup { to: PathBuf },
    Restore { from: PathBuf },
    Doctor,
}

/// Where a node's secret goes.
#[derive(Clone, Debug, PartialEq)]
pub enum SecretTo {
    File(PathBuf),
    Stdout,
}

pub fn run(command: Command, config: &Config) -> Result<(), PanelError> {
    let dir = &config.data_dir;
    match command {
        Command::NodeAdd { id, secret_to } => nodes::add(dir, &id, secret_to),
        Command::NodeList => nodes::list(dir),
        Command::NodeRemove { id } => nodes::remove(dir, &id),
        Command::NodeJoin { id } => nodes::join(config, &id),
        Command::NodeRotate { id, secret_to } => nodes::rotate(dir, &id, secret_to),
        Command::NodeRevoke { id } => nodes::revoke(dir, &id),
        Command::UserAdd { name, admin } => people::add(config, &name, admin),
        Command::UserList => people::list(dir),
        Command::UserRemove { name } => people::remove(dir, &name),
        Command::UserLink { name } => people::link(config, &name),
        Command::UserPassword { name } => people::password(dir, &name),
        Command::TokenAdd { user, name, scopes, days } => people::token(dir, &user, &name, &scopes, days),
        Command::TokenList => people::tokens(dir),
        Command::TokenRevoke { id } => people::revoke(dir, id),
        Command::Backup { to } => copies::backup(dir, &to),
        Command::Restore { from } => copies::restore(dir, &from),
        Command::Doctor => doctor::examine(config),
    }
}

fn print(text: &str) -> Result<(), PanelError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(PanelError::Output)
}

/// What was done here is activity as well.
fn record(
    dir: &std::path::Path,
    action: &str,
    node: Option<&NodeId>,
    detail: &str,
) -> Result<(), StoreError> {
    Journal::open(dir)?.record(Entry {
        user: "command line".into(),
        via: "cli",
        action: action.into(),
        node: node.map(ToString::to_string),
        outcome: "ok",
        detail: Some(detail.to_owned()).filter(|detail| !detail.is_empty()),
        ..Entry::default()
    });
    Ok(())
}
