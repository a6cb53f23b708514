//! What has happened to the containers of one node, by the Engine's own events, from a moment on: how often each was
//! created, started, signalled, destroyed. A thread reads the stream, which ends with the test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use serde_json::Value;

use super::{Engine, SOON, Watched};

/// Counts by server and action.
type Counts = BTreeMap<(String, String), u32>;

/// See the module's description. Dropping it ends the thread.
pub struct Witness {
    engine: Engine,
    node: String,
    counts: Arc<Watched<Counts>>,
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    /// Sees everything that happens from its return on.
    pub fn of(engine: &Engine, node: &str) -> Witness {
        let path = engine.host().strip_prefix("unix://").expect("the tests' Engine is at a socket");
        let mut stream = UnixStream::connect(path).expect("the Engine answers");
        let filters = format!(
            "%7B%22type%22%3A%5B%22container%22%5D%2C%22label%22%3A%5B%22longshore.node%3D{node}%22%5D%7D"
        );
        write!(stream, "GET /events?filters={filters} HTTP/1.0\r\nHost: engine\r\n\r\n")
            .expect("the Engine reads its requests");
        let mut reader = BufReader::new(stream.try_clone().expect("a descriptor is free"));
        let mut line = String::new();
        while reader.read_line(&mut line).expect("the Engine answers") > 2 {
            line.clear();
        }
        let counts = Arc::new(Watched::new(Counts::new()));
        let seen = Arc::clone(&counts);
        let thread = thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
                let server = event["Actor"]["Attributes"]["longshore.server"].as_str().unwrap_or_default();
                let action = event["Action"].as_str().unwrap_or_default();
                let key = (server.to_owned(), action.to_owned());
                seen.update(|counts| *counts.entry(key).or_default() += 1);
            }
        });
        Witness { engine: engine.clone(), node: node.to_owned(), counts, stream, thread: Some(thread) }
    }

    /// How often `action` has happened to a server until now.
    pub fn count(&self, server: &str, action: &str) -> u32 {
        self.settle();
        self.counts.lock().get(&(server.to_owned(), action.to_owned())).copied().unwrap_or(0)
    }

    /// Waits until the stream has brought what has happened before: events come in order.
    fn settle(&self) {
        let mark = super::unique_name();
        let label = serde_json::json!({"longshore.node": self.node, "longshore.server": mark});
        let body = serde_json::json!({"Image": super::DEMO_IMAGE, "Labels": label});
        let made = self.engine.must("POST", &format!("/containers/create?name={mark}"), Some(&body));
        let seen = (mark.clone(), "create".to_owned());
        let found = self.counts.wait(SOON, |counts| counts.contains_key(&seen).then_some(()));
        self.engine.remove(made["Id"].as_str().unwrap_or_default());
        assert!(found.is_some(), "the Engine's events do not come");
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
