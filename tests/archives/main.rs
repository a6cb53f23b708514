//! Archives over the unified dialect on the built Agent: what is packed comes back, what is hostile leaves nothing, and
//! what ends a job half-way does so too.

mod hostile;
mod life;
mod make;
mod round_trip;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use support::*;

/// For jobs that take as long as a busy disk does.
const LATER: Duration = Duration::from_secs(400);

/// An Agent with one server, `s`.
pub struct Node {
    pub panel: FakePanel,
    pub agent: AgentProcess,
    pub link: Connection,
}

impl Node {
    pub fn new(spec: Value) -> Node {
        let panel = FakePanel::start();
        let agent = AgentProcess::start(&panel);
        let link = panel.accept();
        link.must("create_server", "s", demo(spec));
        Node { panel, agent, link }
    }

    /// The server's directory.
    pub fn dir(&self) -> PathBuf {
        self.agent.data_dir.join("servers/s")
    }

    /// Sends a command and waits for its response, as long as it takes.
    pub fn call(&self, action: &str, payload: Value) -> Value {
        let mark = self.link.mark();
        let id = self.link.command(action, "s", payload);
        self.response_from(mark, &id)
    }

    pub fn response_from(&self, mark: usize, id: &str) -> Value {
        self.link.wait_from(mark, LATER, &format!("response to {id}"), |seen| match seen {
            Seen::Json(message) if message["type"] == "response" && message["id"] == id => {
                Some(message.clone())
            }
            _ => None,
        })
    }

    /// The same for one that has to succeed; gives its `data`.
    pub fn must(&self, action: &str, payload: Value) -> Value {
        let response = self.call(action, payload);
        assert_eq!(response["success"], true, "{action}: {response}");
        response["data"].clone()
    }
}

/// What is in a directory, by path: kind, mode, owner, size and content.
#[derive(Debug, PartialEq)]
pub struct Thing {
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: i64,
    pub content: Option<Vec<u8>>,
}

pub fn tree(top: &Path) -> BTreeMap<String, Thing> {
    fn walk(top: &Path, dir: &Path, found: &mut BTreeMap<String, Thing>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let thing = Thing {
                mode: about.permissions().mode(),
                owner: (about.uid(), about.gid()),
                modified: if about.is_file() { about.mtime() } else { 0 },
                content: about.is_file().then(|| fs::read(&path).unwrap()),
            };
            found.insert(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned(), thing);
            if about.is_dir() {
                walk(top, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(top, top, &mut found);
    found
}

/// Names alone, which is quick for many files.
pub fn names(top: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(top).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn extract(archive: &str) -> Value {
    json!({"archivePath": archive, "extractPath": "out"})
}
