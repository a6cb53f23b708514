//! An Agent for tests: a WebSocket client that says and does what the test tells it, one step after the other.

use std::net::TcpStream;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Error, Message, WebSocket};

use super::process::{Panel, SOON};

pub struct FakeAgent {
    socket: WebSocket<TcpStream>,
    pub epoch: u64,
    boot: String,
    seq: u64,
}

impl FakeAgent {
    /// Connects as the node and takes the `hello`.
    pub fn connect(panel: &Panel, node: &str) -> FakeAgent {
        let bearer = format!("Bearer {}", panel.secret(node));
        let dialled = dial(panel, "/", &[("Authorization", &bearer), ("X-Node-Id", node)]);
        let mut agent = dialled.unwrap_or_else(|status| panic!("{node} was answered {status}"));
        let hello = agent.next();
        assert_eq!(hello["type"], "hello");
        agent.epoch = hello["epoch"].as_u64().unwrap();
        agent
    }

    /// Connects, tells of these servers and their states, and answers the Panel's question for the list.
    pub fn connect_with(panel: &Panel, node: &str, servers: &[(&str, &str)]) -> FakeAgent {
        let mut agent = FakeAgent::connect(panel, node);
        agent.introduce(servers);
        agent
    }

    pub fn introduce(&mut self, servers: &[(&str, &str)]) {
        self.say_connected(servers);
        let listed =
            servers.iter().map(|(id, status)| json!({"serverId": id, "status": status, "image": "demo:1"}));
        let list = self.command("list_servers");
        self.succeed(&list, json!({"servers": listed.collect::<Vec<_>>()}));
    }

    pub fn say_connected(&mut self, servers: &[(&str, &str)]) {
        let servers = servers.iter().map(|(id, status)| json!({"serverId": id, "status": status}));
        let data = json!({"version": "9.9", "bootId": self.boot, "capabilities": [], "servers": servers.collect::<Vec<_>>()});
        self.event("agent_connected", data);
    }

    /// Another boot of the same node: events are numbered from the start again.
    pub fn boot(mut self, boot: &str) -> FakeAgent {
        self.boot = boot.to_owned();
        self
    }

    pub fn say(&mut self, message: &Value) {
        self.say_text(&message.to_string());
    }

    pub fn say_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    pub fn say_binary(&mut self, bytes: Vec<u8>) {
        self.socket.send(Message::binary(bytes)).unwrap();
    }

    pub fn event(&mut self, event: &str, data: Value) {
        self.seq += 1;
        self.event_again(self.seq, event, data);
    }

    pub fn event_again(&mut self, seq: u64, event: &str, data: Value) {
        let message = json!({"type": "event", "event": event, "seq": seq, "bootId": self.boot, "data": data});
        self.say(&message);
    }

    pub fn status(&mut self, server: &str, status: &str) {
        let data = json!({"serverId": server, "previousStatus": "unknown", "currentStatus": status});
        self.event("server_status_changed", data);
    }

    pub fn succeed(&mut self, command: &Value, data: Value) {
        self.say(&json!({"id": command["id"], "type": "response", "success": true, "message": "Done", "data": data}));
    }

    pub fn fail(&mut self, command: &Value, code: &str, message: &str) {
        let error = json!({"code": code, "message": message});
        self.say(&json!({"id": command["id"], "type": "response", "success": false, "error": error}));
    }

    /// The next message, which has to come soon.
    pub fn next(&mut self) -> Value {
        loop {
            match self.socket.read().unwrap() {
                Message::Text(text) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    // Asked at any time; an Agent that does not answer is only not measured.
                    if message["type"] != "ping" {
                        return message;
                    }
                }
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// The next message, which has to be this command.
    pub fn command(&mut self, action: &str) -> Value {
        let command = self.next();
        assert_eq!((&command["type"], &command["action"]), (&json!("command"), &json!(action)), "{command}");
        command
    }

    /// The link still stands: a ping of ours is answered.
    pub fn is_linked(&mut self) {
        self.socket.send(Message::Ping("here".into())).unwrap();
        while !matches!(self.socket.read().unwrap(), Message::Pong(_)) {}
    }

    /// Waits for the Close; its code.
    pub fn closed(&mut self) -> u16 {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(frame))) => return frame.code.into(),
                Ok(Message::Close(None)) => return 1005,
                Ok(_) => {}
                Err(cause) => panic!("no Close came: {cause}"),
            }
        }
    }

    /// Nothing was sent before the answer to this question of the test's own, so nothing is on its way.
    pub fn is_quiet(&mut self, panel: &Panel, node: &str) {
        let path = format!("/api/v1/nodes/{node}/command");
        let id = panel.order("POST", &path, r#"{"action":"system.ping"}"#);
        let ping = self.command("system.ping");
        assert_eq!(ping["id"], json!(id));
        self.succeed(&ping, json!({}));
    }
}

/// Dials; the status when it is not let in.
pub fn dial(panel: &Panel, path: &str, headers: &[(&str, &str)]) -> Result<FakeAgent, u16> {
    dial_at(&panel.agents, path, headers)
}

pub fn dial_at(address: &str, path: &str, headers: &[(&str, &str)]) -> Result<FakeAgent, u16> {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(
            tungstenite::http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(FakeAgent { socket, epoch: 0, boot: "boot-1".into(), seq: 0 }),
        Err(tungstenite::HandshakeError::Failure(Error::Http(response))) => Err(response.status().as_u16()),
        Err(cause) => panic!("{cause}"),
    }
}
