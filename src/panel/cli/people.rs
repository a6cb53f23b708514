//! `user` and `token`.

use std::io::{BufRead, stdin};
use std::path::Path;
use std::time::Duration;

use super::{print, record};
use crate::panel::PanelError;
use crate::panel::accounts::{Accounts, Rights, Role};
use crate::panel::config::Config;
use crate::panel::problem::Problem;
use crate::panel::time::Time;

/// How long a login link from the command line can be used: whoever asks for it stands by.
const LINK: Duration = Duration::from_secs(15 * 60);
const INVITED: Duration = Duration::from_secs(3 * 24 * 3600);

/// Makes a user and prints the link by which they come in and choose a password.
pub fn add(config: &Config, name: &str, admin: bool) -> Result<(), PanelError> {
    let accounts = Accounts::open(&config.data_dir)?;
    let role = if admin { Role::Admin } else { Role::Member };
    let id = accounts.add_user(name, role, None, false)?;
    let (link, expires) = accounts.new_link(id, INVITED)?;
    record(&config.data_dir, "user.create", None, &format!("{} {name}", role.name()))?;
    let until = format!("valid until {expires}, once");
    print(&format!("user {name} added; the link to log in, {until}:\n{}\n", url(config, link.expose())))
}

pub fn list(dir: &Path) -> Result<(), PanelError> {
    let accounts = Accounts::open(dir)?;
    let mut lines = String::new();
    let mut after = 0;
    loop {
        let users = accounts.users("", after, 200)?;
        let Some(last) = users.last() else { return print(&lines) };
        after = last.id;
        for user in users {
            let last = user.last_login.map_or("never".to_owned(), |time| time.to_string());
            let disabled = if user.disabled { "\tdisabled" } else { "" };
            lines.push_str(&format!("{}\t{}\tlast login {last}{disabled}\n", user.name, user.role.name()));
        }
    }
}

pub fn remove(dir: &Path, name: &str) -> Result<(), PanelError> {
    let accounts = Accounts::open(dir)?;
    accounts.remove_user(accounts.user_named(name)?.id)?;
    record(dir, "user.delete", None, name)?;
    print(&format!("user {name} removed\n"))
}

/// Prints a one-time login link and nothing else.
pub fn link(config: &Config, name: &str) -> Result<(), PanelError> {
    let accounts = Accounts::open(&config.data_dir)?;
    let (link, _) = accounts.new_link(accounts.user_named(name)?.id, LINK)?;
    record(&config.data_dir, "user.link", None, name)?;
    print(&format!("{}\n", url(config, link.expose())))
}

/// Sets a password, read from standard input: an argument would be seen in the list of processes.
pub fn password(dir: &Path, name: &str) -> Result<(), PanelError> {
    let accounts = Accounts::open(dir)?;
    let id = accounts.user_named(name)?.id;
    let mut line = String::new();
    stdin().lock().read_line(&mut line).map_err(PanelError::Input)?;
    accounts.set_password(id, None, line.trim_end_matches(['\r', '\n']), "")?;
    record(dir, "password.change", None, name)?;
    print(&format!("user {name} has a new password, and all sessions of theirs have ended\n"))
}

/// Prints a new API token and nothing else.
pub fn token(dir: &Path, user: &str, name: &str, scopes: &str, days: Option<u64>) -> Result<(), PanelError> {
    let accounts = Accounts::open(dir)?;
    let mut set = Rights::NONE;
    for scope in scopes.split(',').map(str::trim) {
        set = set.with(Rights::scope(scope).ok_or_else(|| {
            Problem::field(
                "scopes",
                "Expected some of read, console, power, files, settings, admin, metrics.",
            )
        })?);
    }
    let expires = days.map(|days| Time::now().after(Duration::from_secs(days.min(3_650) * 24 * 3600)));
    let (_, secret) = accounts.add_token(accounts.user_named(user)?.id, name, set, expires)?;
    record(dir, "token.create", None, &format!("{name} of {user}: {scopes}"))?;
    print(&format!("{secret}\n"))
}

pub fn tokens(dir: &Path) -> Result<(), PanelError> {
    let accounts = Accounts::open(dir)?;
    let mut lines = String::new();
    let mut after = 0;
    loop {
        let tokens = accounts.tokens(None, after, 200)?;
        let Some(last) = tokens.last() else { return print(&lines) };
        after = last.id;
        for token in tokens {
            let used = token.last_used.map_or("never".to_owned(), |time| time.to_string());
            let expires = token.expires.map_or("never".to_owned(), |time| time.to_string());
            lines.push_str(&format!(
                "{}\t{}\t{}\t{}\texpires {expires}\tlast used {used}\n",
                token.id,
                token.owner,
                token.name,
                token.scopes.join(",")
            ));
        }
    }
}

pub fn revoke(dir: &Path, id: i64) -> Result<(), PanelError> {
    Accounts::open(dir)?.remove_token(None, id)?;
    record(dir, "token.revoke", None, &id.to_string())?;
    print(&format!("token {id} revoked\n"))
}

fn url(config: &Config, secret: &str) -> String {
    format!("{}/login#{secret}", config.url())
}
