//! A Panel for tests: a real WebSocket server on loopback that records everything and misbehaves on request.
//!
//! `panel-accept` accepts and does the handshakes; each connection has one `panel-read` thread, which records what
//! comes in, in order. Tests write from their own thread. Nothing here knows the Agent's own codecs.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
use serde_json::{Value, json};
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use super::{SOON, Watched};

/// Stands for no deadline: every test ends long before.
const A_DAY: Duration = Duration::from_secs(86_400);

/// What the Panel does with the connections that come from now on.
#[derive(Clone, Default)]
pub enum Behaviour {
    #[default]
    Accept,
    /// Answers the handshake with this status and these headers.
    Refuse(u16, Vec<(&'static str, String)>),
    /// Accepts the TCP connection and never answers the handshake.
    Hang,
    /// Closes the TCP connection at once.
    HangUp,
    /// Answers the handshake with these bytes and closes.
    Garbage(Vec<u8>),
}

/// One thing that came in on a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// A text frame that is JSON.
    Json(Value),
    /// A text frame that is not.
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// The close code, when there was one.
    Close(Option<u16>),
    /// The end of the connection, with the error in words; nothing follows.
    End(String),
}

/// A listening Panel. Dropping it ends its threads and its connections.
pub struct FakePanel {
    address: SocketAddrV4,
    shared: Arc<Shared>,
    listening: Mutex<Option<Listening>>,
    /// Bound and never listening: keeps the port ours while the Panel is away, when connections are refused.
    _reservation: OwnedFd,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    waiting: Watched<VecDeque<Connection>>,
    attempts: Watched<u32>,
    /// What hangs is kept here, so that it is not closed.
    hanging: Watched<Vec<TcpStream>>,
}

struct Listening {
    listener: TcpListener,
    thread: JoinHandle<()>,
}

impl FakePanel {
    /// On loopback, at a port of its own.
    pub fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// On another address of this machine.
    pub fn start_at(address: Ipv4Addr) -> Self {
        let reservation = bound(SocketAddrV4::new(address, 0));
        let name = rustix::net::getsockname(&reservation).expect("a bound socket has a name");
        let address = SocketAddrV4::try_from(name).expect("it was bound to an IPv4 address");
        let shared = Arc::new(Shared {
            behaviour: Mutex::default(),
            waiting: Watched::new(VecDeque::new()),
            attempts: Watched::new(0),
            hanging: Watched::new(Vec::new()),
        });
        let panel = FakePanel { address, shared, listening: Mutex::default(), _reservation: reservation };
        panel.come_back();
        panel
    }

    /// The value for `PANEL_URL`.
    pub fn url(&self) -> String {
        format!("ws://{}/agent", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address.into()
    }

    /// What is done with connections from now on; those that stand are not touched.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// The next Agent that finished its handshake.
    pub fn accept(&self) -> Connection {
        self.accept_within(SOON).expect("an Agent connects")
    }

    pub fn accept_within(&self, within: Duration) -> Option<Connection> {
        self.shared.waiting.wait(within, VecDeque::pop_front)
    }

    /// Waits until so many TCP connections have been seen in all, whatever was done with them.
    pub fn wait_attempts(&self, count: u32, within: Duration) -> bool {
        self.shared.attempts.wait(within, |attempts| (*attempts >= count).then_some(())).is_some()
    }

    /// The last connection that hangs, to go on with by hand.
    pub fn take_hanging(&self) -> TcpStream {
        // An attempt is counted before it is treated.
        let hanging = self.shared.hanging.wait(SOON, Vec::pop);
        hanging.expect("a connection hangs")
    }

    /// Stops listening: connections are refused from now on. Connections that stand are not touched.
    pub fn go_away(&self) {
        if let Some(Listening { listener, thread }) = self.listening.lock().unwrap().take() {
            // Shutting a listening socket down wakes its blocked accept.
            let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
            let _ = thread.join();
        }
    }

    /// Listens again, on the same port.
    pub fn come_back(&self) {
        let mut listening = self.listening.lock().unwrap();
        if listening.is_some() {
            return;
        }
        let socket = bound(self.address);
        listen(&socket, 128).expect("nobody else listens on this port");
        let listener = TcpListener::from(socket);
        let (accepting, shared) = (listener.try_clone().unwrap(), Arc::clone(&self.shared));
        let thread = spawn("panel-accept", move || {
            while let Ok((stream, _)) = accepting.accept() {
                shared.attempts.update(|attempts| *attempts += 1);
                receive(&shared, stream);
            }
        });
        *listening = Some(Listening { listener, thread });
    }
}

impl Drop for FakePanel {
    fn drop(&mut self) {
        self.go_away();
    }
}

/// A socket that leaves its port to others of the same kind, until one listens.
fn bound(address: SocketAddrV4) -> OwnedFd {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket can be made");
    sockopt::set_socket_reuseaddr(&socket, true).expect("an option of every socket");
    bind(&socket, &address).expect("the port is free or ours");
    socket
}

/// Treats a new TCP connection as the Panel's behaviour says.
fn receive(shared: &Arc<Shared>, mut stream: TcpStream) {
    let behaviour = shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match behaviour {
        Behaviour::HangUp => {}
        Behaviour::Hang => shared.hanging.update(|hanging| hanging.push(stream)),
        Behaviour::Garbage(bytes) => {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&bytes);
        }
        Behaviour::Accept => handshake(shared, stream, None),
        Behaviour::Refuse(status, headers) => handshake(shared, stream, Some((status, headers))),
    }
}

#[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
fn handshake(shared: &Arc<Shared>, stream: TcpStream, refusal: Option<(u16, Vec<(&'static str, String)>)>) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(SOON));
    let mut request_head = None;
    let reading = Half {
        stream: stream.try_clone().expect("a descriptor is free"),
        muted: Arc::new(AtomicBool::new(false)),
    };
    let muted = Arc::clone(&reading.muted);
    let config =
        WebSocketConfig::default().read_buffer_size(4096).max_message_size(None).max_frame_size(None);
    let accepted = tungstenite::accept_hdr_with_config(
        reading,
        |request: &Request, response: Response| {
            let headers = request.headers().iter();
            let headers = headers
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()));
            request_head = Some((request.uri().to_string(), headers.collect::<Vec<(String, String)>>()));
            let Some((status, headers)) = refusal else { return Ok(response) };
            let mut refused = ErrorResponse::new(Some("refused".into()));
            *refused.status_mut() = status.try_into().expect("tests name real status codes");
            for (name, value) in headers {
                refused.headers_mut().insert(name, value.parse().expect("tests give valid header values"));
            }
            Err(refused)
        },
        Some(config),
    )
    .ok();
    let (Some(reader), Some((path, headers))) = (accepted, request_head) else { return };
    let _ = stream.set_read_timeout(None);
    // From here on the read half writes nothing, so that the two halves cannot mix their frames.
    muted.store(true, Ordering::Release);
    let state = Arc::new(State {
        seen: Watched::new(Vec::new()),
        writer: Mutex::new(Some(WebSocket::from_raw_socket(
            stream.try_clone().expect("a descriptor is free"),
            Role::Server,
            Some(config),
        ))),
        paused: Watched::new(false),
        pongs: AtomicBool::new(true),
        ending: AtomicBool::new(false),
    });
    let thread = spawn("panel-read", {
        let state = Arc::clone(&state);
        move || read(&state, reader)
    });
    let connection = Connection { path, headers, state, stream, thread: Some(thread) };
    shared.waiting.update(|waiting| waiting.push_back(connection));
}

/// The stream of the read half. tungstenite answers pings and closes inside `read`; once muted, those writes go nowhere.
struct Half {
    stream: TcpStream,
    muted: Arc<AtomicBool>,
}

impl Read for Half {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.muted.load(Ordering::Acquire) { Ok(bytes.len()) } else { self.stream.write(bytes) }
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

struct State {
    seen: Watched<Vec<Seen>>,
    writer: Mutex<Option<WebSocket<TcpStream>>>,
    paused: Watched<bool>,
    pongs: AtomicBool,
    /// The test ends the connection itself, in its own way.
    ending: AtomicBool,
}

impl State {
    fn write(&self, message: Message) -> tungstenite::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.as_mut().map_or(Ok(()), |writer| writer.send(message))
    }
}

/// The read thread: records until the connection ends, then closes it.
fn read(state: &State, mut reader: WebSocket<Half>) {
    let end = loop {
        let message = match reader.read() {
            Ok(message) => message,
            Err(error) => break error.to_string(),
        };
        state.paused.wait(A_DAY, |paused| (!*paused).then_some(()));
        // What the kernel still holds when the test ends the connection is lost with it.
        if state.ending.load(Ordering::Acquire) {
            break "ended by the test".to_owned();
        }
        let seen = match message {
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(value) => Seen::Json(value),
                Err(_) => Seen::Text(text.to_string()),
            },
            Message::Binary(bytes) => Seen::Binary(bytes.to_vec()),
            Message::Ping(bytes) => {
                if state.pongs.load(Ordering::Relaxed) {
                    let _ = state.write(Message::Pong(bytes.clone()));
                }
                Seen::Ping(bytes.to_vec())
            }
            Message::Pong(bytes) => Seen::Pong(bytes.to_vec()),
            Message::Close(frame) => {
                let code = frame.as_ref().map(|frame| frame.code.into());
                let _ = state.write(Message::Close(frame));
                Seen::Close(code)
            }
            Message::Frame(_) => continue,
        };
        state.seen.update(|all| all.push(seen));
    };
    if !state.ending.load(Ordering::Acquire) {
        let _ = reader.get_ref().stream.shutdown(Shutdown::Both);
    }
    state.seen.update(|all| all.push(Seen::End(end)));
}

/// One accepted Agent. Dropping it closes the TCP connection.
pub struct Connection {
    /// The request's target with its query.
    pub path: String,
    /// The request's headers, names in lower case.
    pub headers: Vec<(String, String)>,
    state: Arc<State>,
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Connection {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Everything that came in until now, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().clone()
    }

    /// The same from a place on.
    pub fn seen_from(&self, mark: usize) -> Vec<Seen> {
        self.state.seen.lock()[mark..].to_vec()
    }

    /// The JSON messages among it.
    pub fn messages(&self) -> Vec<Value> {
        let json = |seen: &Seen| if let Seen::Json(value) = seen { Some(value.clone()) } else { None };
        self.state.seen.lock().iter().filter_map(json).collect()
    }

    /// How many things have come in until now: a place to search from later.
    pub fn mark(&self) -> usize {
        self.state.seen.lock().len()
    }

    /// Waits for something that came in, from the beginning on; panics with what did come in when it stays out.
    pub fn wait<T>(&self, what: &str, find: impl FnMut(&Seen) -> Option<T>) -> T {
        self.wait_from(0, SOON, what, find)
    }

    pub fn wait_from<T>(
        &self,
        mark: usize,
        within: Duration,
        what: &str,
        mut find: impl FnMut(&Seen) -> Option<T>,
    ) -> T {
        // What was looked at once is not looked at again: with 100 servers there are thousands of messages.
        let mut next = mark;
        let found = self.state.seen.wait(within, |seen| {
            let from = next.min(seen.len());
            next = seen.len();
            seen[from..].iter().find_map(&mut find)
        });
        found.unwrap_or_else(|| {
            let seen = self.seen();
            let last: Vec<String> = seen
                .iter()
                .rev()
                .take(20)
                .rev()
                .map(|seen| format!("  {seen:?}").chars().take(300).collect())
                .collect();
            panic!(
                "no {what} within {within:?}; the last of {} that came in:\n{}",
                seen.len(),
                last.join("\n")
            )
        })
    }

    /// Waits for a JSON message.
    pub fn wait_json(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        self.wait(what, |seen| match seen {
            Seen::Json(value) if wanted(value) => Some(value.clone()),
            _ => None,
        })
    }

    /// Waits for a unified event by name that fits; `wanted` is shown its `data`.
    pub fn wait_event(&self, name: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        self.wait_json(name, |message| message["event"] == name && wanted(&message["data"]))
    }

    /// Waits for the end of the connection and returns the error it ended with.
    pub fn wait_end(&self, within: Duration) -> String {
        self.wait_from(0, within, "end of the connection", |seen| match seen {
            Seen::End(error) => Some(error.clone()),
            _ => None,
        })
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.state.seen.lock().last(), Some(Seen::End(_)))
    }

    /// Sends a unified command and returns its id, which no other command has.
    pub fn command(&self, action: &str, server_id: &str, payload: Value) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("cmd-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut message = json!({"id": id, "type": "command", "action": action, "payload": payload});
        if !server_id.is_empty() {
            message["serverId"] = server_id.into();
        }
        self.send(&message);
        id
    }

    /// Waits for the response to a command.
    pub fn response(&self, id: &str) -> Value {
        self.wait_json(&format!("response to {id}"), |message| {
            message["type"] == "response" && message["id"] == id
        })
    }

    /// All responses with this id: more than one is a fault.
    pub fn responses(&self, id: &str) -> Vec<Value> {
        let mut messages = self.messages();
        messages.retain(|message| message["type"] == "response" && message["id"] == id);
        messages
    }

    /// Sends a unified command, waits for its response and returns it whole.
    pub fn call(&self, action: &str, server_id: &str, payload: Value) -> Value {
        self.response(&self.command(action, server_id, payload))
    }

    /// The same for a command that has to succeed; returns the response's `data`.
    pub fn must(&self, action: &str, server_id: &str, payload: Value) -> Value {
        let response = self.call(action, server_id, payload);
        assert_eq!(response["success"], true, "{action} of {server_id}: {response}");
        response["data"].clone()
    }

    /// Sends a legacy message.
    pub fn legacy(&self, kind: &str, data: Value) {
        self.send(&json!({"type": kind, "data": data}));
    }

    pub fn send(&self, message: &Value) {
        self.send_text(&message.to_string());
    }

    /// Sends a text frame. A connection that has ended swallows it: the test sees the end.
    pub fn send_text(&self, text: &str) {
        let _ = self.state.write(Message::text(text));
    }

    pub fn send_binary(&self, bytes: Vec<u8>) {
        let _ = self.state.write(Message::binary(bytes));
    }

    pub fn ping(&self, payload: &[u8]) {
        let _ = self.state.write(Message::Ping(payload.to_vec().into()));
    }

    /// Writes bytes past the WebSocket, to break its framing.
    pub fn send_raw(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.stream).write_all(bytes)
    }

    /// Whether pings are answered; they are from the start.
    pub fn answer_pings(&self, on: bool) {
        self.state.pongs.store(on, Ordering::Relaxed);
    }

    /// Stops reading: the kernel's buffers fill and the Agent's writes block. What is already on its way into the
    /// reader, at most one message and 4 KiB, is held and recorded only after `resume_reading`.
    pub fn stop_reading(&self) {
        self.state.paused.update(|paused| *paused = true);
    }

    pub fn resume_reading(&self) {
        self.state.paused.update(|paused| *paused = false);
    }

    /// Begins the closing handshake.
    pub fn close(&self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        let _ = self.state.write(Message::Close(Some(frame)));
    }

    /// Ends the connection with a reset, so that what the kernels still hold for it is lost. Returns what came in.
    pub fn cut(self) -> Vec<Seen> {
        // Closing the last descriptor with a linger of zero sends RST in place of FIN.
        let _ = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        let state = Arc::clone(&self.state);
        drop(self);
        state.seen.lock().clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Shutting down reading alone wakes the read thread and puts nothing on the wire, which `cut` relies on.
        self.state.ending.store(true, Ordering::Release);
        let _ = self.stream.shutdown(Shutdown::Read);
        self.resume_reading();
        self.state.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new().name(name.into()).spawn(work).expect("a test may have one more thread")
}
