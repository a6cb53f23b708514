//! One Agent with one stopped server, and one way of asking for something in each dialect.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::*;

pub struct Rig {
    pub panel: FakePanel,
    pub agent: AgentProcess,
    pub link: Connection,
}

/// The ways in which a command comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dialect {
    Unified,
    /// Where it has a message for the action.
    Legacy,
    Http,
}

pub const DIALECTS: [Dialect; 3] = [Dialect::Unified, Dialect::Legacy, Dialect::Http];

impl Rig {
    pub fn start() -> Rig {
        Rig::with(json!({}))
    }

    /// With `extra` over the demo server's spec.
    pub fn with(extra: Value) -> Rig {
        Rig::start_with(&[], extra)
    }

    /// The same of an Agent with more environment.
    pub fn start_with(environment: &[(&str, &str)], extra: Value) -> Rig {
        let panel = FakePanel::start();
        let agent = AgentProcess::start_with(&panel, engine(), environment);
        let link = panel.accept();
        link.must("create_server", "s", demo(extra));
        Rig { panel, agent, link }
    }

    /// The server's directory on this machine.
    pub fn dir(&self) -> PathBuf {
        self.agent.data_dir.join("servers/s")
    }

    /// Sets up a file behind the Agent's back, with the directories on the way to it.
    pub fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.dir().join(path);
        fs::create_dir_all(path.parent().expect("a file has one")).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.dir().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The `data` of a success.
    pub fn must(&self, action: &str, payload: Value) -> Value {
        self.link.must(action, "s", payload)
    }

    /// The code of a failure.
    #[track_caller]
    pub fn refused(&self, action: &str, payload: Value) -> String {
        let response = self.link.call(action, "s", payload.clone());
        assert_eq!(response["success"], false, "{action} {payload}: {response}");
        let message = response["error"]["message"].as_str().unwrap_or_default();
        let data_dir = self.agent.data_dir.to_string_lossy();
        assert!(!message.is_empty() && !message.contains(&*data_dir), "{action} {payload}: {message}");
        code(&response).to_owned()
    }

    /// Asks in one dialect. `Ok` with the data, `Err` with the code; `None` where the dialect has no such message.
    pub fn ask(&self, dialect: Dialect, action: &str, payload: &Value) -> Option<Result<Value, String>> {
        match dialect {
            Dialect::Unified => {
                let response = self.link.call(action, "s", payload.clone());
                Some(match response["success"] == true {
                    true => Ok(response["data"].clone()),
                    false => Err(code(&response).to_owned()),
                })
            }
            Dialect::Http => {
                let answer = self.agent.http(&json!({"action": action, "serverId": "s", "payload": payload}));
                Some(match answer["success"] == true {
                    true => Ok(answer["data"].clone()),
                    false => Err(answer["code"].as_str().unwrap_or_default().to_owned()),
                })
            }
            Dialect::Legacy => {
                let kind = match action {
                    "read_file" => "file_read",
                    "write_file" => "file_write",
                    _ => return None,
                };
                let mut data = payload.clone();
                data["serverId"] = "s".into();
                let mark = self.link.mark();
                self.link.legacy(kind, data);
                let answer = self.link.wait_from(mark, SOON, kind, |seen| match seen {
                    Seen::Json(message) => matches!(message["type"].as_str(), Some("file_content" | "error"))
                        .then(|| message.clone()),
                    _ => None,
                });
                assert_eq!(answer["data"]["serverId"], "s", "{answer}");
                Some(match answer["type"] == "file_content" {
                    true => Ok(answer["data"].clone()),
                    false => Err(answer["data"]["code"].as_str().unwrap_or_default().to_owned()),
                })
            }
        }
    }
}
