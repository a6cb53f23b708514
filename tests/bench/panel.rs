//! The Panel's end of the link for measuring: one thread, one socket, nothing recorded.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

pub struct Panel {
    socket: WebSocket<TcpStream>,
    next_id: u64,
}

/// Where the Agent will dial; made before the Agent starts.
pub struct Waiting(TcpListener);

impl Waiting {
    pub fn listen() -> Self {
        Waiting(TcpListener::bind("127.0.0.1:0").expect("loopback has a free port"))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("a bound socket has an address")
    }

    /// The Agent's first connection.
    pub fn accept(self) -> Panel {
        let (stream, _) = self.0.accept().expect("the Agent connects");
        stream.set_nodelay(true).expect("an option of every TCP socket");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("an option of every TCP socket");
        // A small buffer that each message is written through at once, as a Panel that cares for latency has it.
        let config = WebSocketConfig::default().write_buffer_size(0);
        let socket =
            tungstenite::accept_with_config(stream, Some(config)).expect("the Agent's handshake is sound");
        Panel { socket, next_id: 0 }
    }
}

impl Panel {
    /// One WebSocket ping and its pong: what the link alone costs, through the Agent's own reader and writer.
    pub fn round_trip(&mut self) -> Duration {
        let began = Instant::now();
        self.socket.send(Message::Ping("bench".into())).expect("the link stands");
        while !matches!(self.read(), Message::Pong(_)) {}
        began.elapsed()
    }

    /// One command; returns how long its response took, and the response's `data`. Panics when it failed.
    pub fn call(&mut self, action: &str, server_id: &str, payload: Value) -> (Duration, Value) {
        let began = Instant::now();
        let id = self.send(action, server_id, &payload);
        loop {
            let Some(response) = self.response() else { continue };
            if response["id"] == id.as_str() {
                let took = began.elapsed();
                assert_eq!(response["success"], true, "{action} of {server_id}: {response}");
                return (took, response["data"].clone());
            }
        }
    }

    /// Runs one command for every server, at most `in_flight` at a time, and returns how long it took in all.
    pub fn call_all<'a>(
        &mut self,
        action: &str,
        servers: impl IntoIterator<Item = &'a str>,
        payload: &Value,
        in_flight: usize,
    ) -> Duration {
        let began = Instant::now();
        let (mut servers, mut open) = (servers.into_iter().fuse(), 0);
        loop {
            while open < in_flight
                && let Some(server) = servers.next()
            {
                self.send(action, server, payload);
                open += 1;
            }
            if open == 0 {
                return began.elapsed();
            }
            if let Some(response) = self.response() {
                assert_eq!(response["success"], true, "{action}: {response}");
                open -= 1;
            }
        }
    }

    /// Keeps the link alive without asking anything, for as long as it lasts.
    pub fn idle(&mut self, length: Duration) {
        let end = Instant::now() + length;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.socket.get_ref().set_read_timeout(Some(left)).expect("an option of every TCP socket");
            match self.socket.read() {
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("the link ended: {error}"),
            }
        }
        let usual = Some(Duration::from_secs(120));
        self.socket.get_ref().set_read_timeout(usual).expect("an option of every TCP socket");
    }

    fn send(&mut self, action: &str, server_id: &str, payload: &Value) -> String {
        self.next_id += 1;
        let id = format!("bench-{}", self.next_id);
        let mut message = json!({"id": id, "type": "command", "action": action, "payload": payload});
        if !server_id.is_empty() {
            message["serverId"] = server_id.into();
        }
        self.socket.send(Message::text(message.to_string())).expect("the link stands");
        id
    }

    /// The next message, when it is a response.
    fn response(&mut self) -> Option<Value> {
        let message = self.read();
        let value: Value = serde_json::from_str(message.to_text().ok()?).ok()?;
        (value["type"] == "response").then_some(value)
    }

    fn read(&mut self) -> Message {
        self.socket.read().unwrap_or_else(|error| panic!("the link ended: {error}"))
    }
}
