//! `doctor`: looks at everything that the Panel needs, one line each, and fails when something is wrong.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;

use super::print;
use crate::panel::PanelError;
use crate::panel::accounts::Accounts;
use crate::panel::config::Config;
use crate::panel::store::{Store, database, lock};
use crate::panel::tls;

/// Below this a warning is due: SQLite's log alone may take some megabytes.
const LEAST_FREE: u64 = 256 << 20;

pub fn examine(config: &Config) -> Result<(), PanelError> {
    let dir = &config.data_dir;
    let mut wrong = 0;
    let mut lines = String::new();
    let mut say = |what: &str, found: Result<String, String>| {
        let (mark, text) = match found {
            Ok(text) => ("ok   ", text),
            Err(text) => {
                wrong += 1;
                ("WRONG", text)
            }
        };
        lines.push_str(&format!("{mark} {what}: {text}\n"));
    };
    let text = |fault: &dyn std::fmt::Display| fault.to_string();
    say(
        "data directory",
        match fs::metadata(dir) {
            Err(cause) => Err(format!("{}: {cause}", dir.display())),
            Ok(found) if found.mode() & 0o077 != 0 => {
                Err(format!("{} can be entered by others: chmod 700 it", dir.display()))
            }
            Ok(_) => Ok(dir.display().to_string()),
        },
    );
    say(
        "free space",
        match rustix::fs::statvfs(dir) {
            Err(cause) => Err(text(&cause)),
            Ok(found) => {
                let free = found.f_bavail * found.f_frsize;
                let words = format!("{} MiB", free >> 20);
                if free < LEAST_FREE { Err(format!("only {words}")) } else { Ok(words) }
            }
        },
    );
    say(
        "database",
        database::open(dir).map_err(|fault| text(&fault)).and_then(|connection| {
            database::check(&connection, &dir.join(database::FILE)).map_err(|fault| text(&fault))?;
            let size = fs::metadata(dir.join(database::FILE)).map_or(0, |found| found.len());
            Ok(format!("whole, {} KiB", size >> 10))
        }),
    );
    say(
        "content",
        Store::open(dir)
            .map_err(|fault| text(&fault))
            .map(|store| format!("{} nodes, {} servers", store.nodes().count(), store.servers().count())),
    );
    say(
        "users",
        match Accounts::open(dir) {
            Err(fault) => Err(text(&fault)),
            Ok(accounts) => match accounts.has_users() {
                Ok(true) => Ok("there are some".into()),
                Ok(false) => Ok("none yet: the Panel prints a link to make the first at its start".into()),
                Err(problem) => Err(problem.message),
            },
        },
    );
    say(
        "TLS",
        match tls::fingerprint(config) {
            Ok(Some(fingerprint)) => Ok(format!("certificate {fingerprint}")),
            Ok(None) if config.proxies.is_empty() => Ok("off, on loopback only".into()),
            Ok(None) => Ok("by the proxies in TRUSTED_PROXIES".into()),
            Err(fault) => Err(fault.to_string()),
        },
    );
    match lock(dir) {
        Err(_) => say("running", Ok("the Panel runs in this directory".into())),
        Ok(_) => {
            say("running", Ok("no".into()));
            for (key, address) in [("HTTP_ADDR", config.http_addr), ("AGENT_ADDR", config.agent_addr)] {
                let free = TcpListener::bind(address).map_err(|cause| text(&cause));
                say(key, free.map(|_| format!("{address} is free")));
            }
        }
    }
    print(&lines)?;
    if wrong == 0 { Ok(()) } else { Err(PanelError::Unwell(wrong)) }
}
