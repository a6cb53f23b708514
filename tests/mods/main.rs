//! Mods over the unified dialect on the built Agent, downloaded from real servers.

mod install;
mod network;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::*;

/// An Agent that may download from this machine, and trusts the test's own authority.
pub struct Node {
    pub panel: FakePanel,
    pub agent: AgentProcess,
    pub link: Connection,
}

impl Node {
    pub fn new(spec: Value, more: &[(&str, &str)]) -> Node {
        let panel = FakePanel::start();
        let ca = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls/ca.pem");
        let mut environment = vec![("SSL_CERT_FILE", ca.to_str().unwrap()), ("ALLOW_PRIVATE_DOWNLOADS", "1")];
        environment.extend(more);
        let agent = AgentProcess::start_with(&panel, engine(), &environment);
        let link = panel.accept();
        link.must("create_server", "s", demo(spec));
        Node { panel, agent, link }
    }

    /// The server's directory.
    pub fn dir(&self) -> PathBuf {
        self.agent.data_dir.join("servers/s")
    }

    pub fn record(&self) -> PathBuf {
        self.agent.data_dir.join("mods/s.json")
    }
}

pub fn local() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

pub fn sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// The paths of all files below a directory.
pub fn files(top: &Path) -> Vec<String> {
    fn walk(top: &Path, dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(top, &path, found),
                false => found.push(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    let mut found = Vec::new();
    walk(top, top, &mut found);
    found.sort();
    found
}
