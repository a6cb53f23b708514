//! The Panel's half of the unified dialect, and its ears for the legacy one: writes commands, reads what an Agent
//! says. Bounded like the Agent's half: nothing is parsed into a tree here; `data` is kept as text for whoever
//! knows what is in it.

use std::borrow::Cow;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::archive::ArchivePayload;
use super::command::{Action, ServerAction, StopOptions};
use super::console::{ConsoleAction, LogFormat};
use super::decode::{Head, Skip};
use super::event::KnownServer;
use super::file::{FileAction, SearchKind};
use super::mods::ModPayload;
use super::wire::{Timestamp, text};
use super::{MAX_IN, NodeId, ServerId, Spec, Status, json};

/// What an Agent sends.
#[derive(Clone, Debug)]
pub enum FromAgent {
    Response(Response),
    Event(AgentEvent),
    Heartbeat(Heartbeat),
    /// The node as legacy `system_info` tells it, `{nodeId,os,arch,…}`.
    SystemInfo {
        data: Box<RawValue>,
    },
    Pong {
        id: Option<String>,
        /// By the Agent's clock.
        timestamp: Option<String>,
        data: Option<Box<RawValue>>,
    },
    /// Legacy `server_status`: unasked, or the reply to the legacy message with this id.
    LegacyStatus {
        message_id: Option<String>,
        status: LegacyStatus,
    },
    LegacyOutput(LegacyOutput),
    LegacyError {
        message_id: Option<String>,
        error: LegacyError,
    },
}

#[derive(Deserialize)]
struct Stamped {
    timestamp: Option<String>,
}

/// The one answer to a command, matched by `id`.
#[derive(Clone, Debug, Deserialize)]
pub struct Response {
    pub id: Option<String>,
    pub success: bool,
    pub message: Option<String>,
    pub data: Option<Box<RawValue>>,
    pub error: Option<ErrorBody>,
}

/// `code` is a text, since an Agent may be newer than this Panel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ErrorBody {
    pub code: String,
    #[serde(default)]
    pub message: String,
}

/// Something said unasked. Control events have a `seq` that grows by one within a `boot_id`; the same pair again is
/// the same event again.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentEvent {
    pub event: String,
    pub seq: Option<u64>,
    pub boot_id: Option<String>,
    pub timestamp: Option<String>,
    pub data: Box<RawValue>,
}

/// The data of `agent_connected`. That of `server_status_changed` is [`super::event::StatusChange`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentConnected {
    pub version: String,
    pub boot_id: String,
    pub capabilities: Vec<String>,
    pub servers: Vec<KnownServer>,
    /// There are more servers than fitted into the message.
    #[serde(default)]
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    pub node_id: Option<String>,
    pub status: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LegacyStatus {
    pub server_id: ServerId,
    pub status: Status,
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LegacyOutput {
    pub server_id: ServerId,
    pub output: String,
    pub stream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LegacyError {
    pub code: String,
    #[serde(default)]
    pub message: String,
    pub server_id: Option<ServerId>,
}

/// Reads one text frame from an Agent.
pub fn decode(message: &str) -> Result<FromAgent, Skip> {
    let head = Head::read(message, MAX_IN)?;
    let kind = head.kind.and_then(json::text).unwrap_or_default();
    let data = |kind| head.data.ok_or(Skip::Malformed(kind));
    let message_id = || head.message_id.and_then(json::text).map(|id| id.into_owned());
    match kind.as_ref() {
        "response" => read(message, "response").map(FromAgent::Response),
        "event" => read(message, "event").map(FromAgent::Event),
        "heartbeat" => read(data("heartbeat")?.get(), "heartbeat").map(FromAgent::Heartbeat),
        "system_info" => Ok(FromAgent::SystemInfo { data: data("system_info")?.to_owned() }),
        "pong" => {
            let id = head.id.and_then(json::text).map(|id| id.into_owned());
            let Stamped { timestamp } = read(message, "pong")?;
            Ok(FromAgent::Pong { id, timestamp, data: head.data.map(ToOwned::to_owned) })
        }
        "server_status" => {
            let status = read(data("server_status")?.get(), "server_status")?;
            Ok(FromAgent::LegacyStatus { message_id: message_id(), status })
        }
        "server_output" => read(data("server_output")?.get(), "server_output").map(FromAgent::LegacyOutput),
        "error" => {
            let error = read(data("error")?.get(), "error")?;
            Ok(FromAgent::LegacyError { message_id: message_id(), error })
        }
        kind => Err(Skip::UnknownType(json::shown(kind, 64))),
    }
}

fn read<T: DeserializeOwned>(text: &str, kind: &'static str) -> Result<T, Skip> {
    serde_json::from_str(text).map_err(|_| Skip::Malformed(kind))
}

impl AgentEvent {
    /// The data as a type that fits the event, such as [`AgentConnected`].
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Skip> {
        read(self.data.get(), "event")
    }
}

/// A command by its name, for whatever a caller wants to send. `id` is what the response is matched by.
pub fn command(
    id: &str,
    agent: Option<&NodeId>,
    name: &str,
    server: Option<&ServerId>,
    payload: &impl Serialize,
    now: SystemTime,
) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Message<'a, P> {
        id: &'a str,
        r#type: &'static str,
        action: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        server_id: Option<&'a ServerId>,
        timestamp: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent_id: Option<&'a NodeId>,
        payload: &'a P,
    }
    text(&Message {
        id,
        r#type: "command",
        action: name,
        server_id: server,
        timestamp: Timestamp(now),
        agent_id: agent,
        payload,
    })
}

/// A typed command. [`Action::SystemInfo`] has no name in this dialect and becomes the legacy message.
pub fn action(id: &str, agent: Option<&NodeId>, action: &Action, now: SystemTime) -> String {
    match action {
        Action::Server(server, inner) => {
            command(id, agent, inner.name(), Some(server), &Payload::of(inner, None), now)
        }
        Action::Container(container, inner) => {
            command(id, agent, action.name(), None, &Payload::of(inner, Some(container)), now)
        }
        Action::SystemInfo => r#"{"type":"system_info_request"}"#.to_owned(),
        Action::ListServers | Action::SystemMetrics | Action::SystemPing => {
            command(id, agent, action.name(), None, &Payload::default(), now)
        }
    }
}

/// The first message on a connection: commands on one with an older epoch are refused from then on.
pub fn hello(epoch: u64) -> String {
    #[derive(Serialize)]
    struct Hello {
        r#type: &'static str,
        epoch: u64,
    }
    text(&Hello { r#type: "hello", epoch })
}

/// Says that the events up to this one are taken in, to an Agent with [`EVENT_ACK`](super::EVENT_ACK).
pub fn ack(boot_id: &str, seq: u64) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Ack<'a> {
        r#type: &'static str,
        boot_id: &'a str,
        seq: u64,
    }
    text(&Ack { r#type: "ack", boot_id, seq })
}

/// Asks for a pong with the Agent's load.
pub fn ping(id: &str) -> String {
    #[derive(Serialize)]
    struct Ping<'a> {
        id: &'a str,
        r#type: &'static str,
    }
    text(&Ping { id, r#type: "ping" })
}

/// What any of the actions carries.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    container_id: Option<&'a str>,
    #[serde(flatten)]
    spec: Option<&'a Spec>,
    #[serde(flatten)]
    patch: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_data: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skip_scripts: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<&'a str>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remove_data: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<LogFormat>,
    #[serde(flatten)]
    file: Option<FilePayload<'a>>,
    #[serde(flatten)]
    archive: Option<ArchivePayload<'a>>,
    #[serde(flatten)]
    r#mod: Option<ModPayload<'a>>,
}

/// What any of the actions on files carries.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct FilePayload<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    append: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
}

impl<'a> FilePayload<'a> {
    fn of(action: &'a FileAction) -> FilePayload<'a> {
        let base = FilePayload::default();
        match action {
            FileAction::List { path }
            | FileAction::Read { path }
            | FileAction::CreateDirectory { path }
            | FileAction::Delete { path }
            | FileAction::Info { path }
            | FileAction::Permissions { path } => FilePayload { path: Some(path.sent()), ..base },
            FileAction::Write { path, content } => FilePayload {
                path: Some(path.sent()),
                content: Some(String::from_utf8_lossy(&content.0)),
                ..base
            },
            FileAction::Upload { path, content, append } => FilePayload {
                path: Some(path.sent()),
                content: Some(Cow::Owned(STANDARD.encode(&content.0))),
                append: *append,
                ..base
            },
            FileAction::Download { path, offset, length } => {
                FilePayload { path: Some(path.sent()), offset: Some(*offset), length: *length, ..base }
            }
            FileAction::Rename { from, to } => {
                FilePayload { old_path: Some(from.sent()), new_path: Some(to.sent()), ..base }
            }
            FileAction::Move { from, to } | FileAction::Copy { from, to } => {
                FilePayload { source_path: Some(from.sent()), destination_path: Some(to.sent()), ..base }
            }
            FileAction::Search { path, query, kind } => FilePayload {
                path: Some(path.sent()),
                query: Some(query),
                file_type: kind.as_ref().map(|kind| match kind {
                    SearchKind::File => "file",
                    SearchKind::Directory => "directory",
                    SearchKind::Extension(extension) => extension,
                }),
                ..base
            },
            FileAction::SetPermissions { path, mode } => {
                FilePayload { path: Some(path.sent()), mode: Some(format!("{mode:03o}")), ..base }
            }
        }
    }
}

impl<'a> Payload<'a> {
    fn of(action: &'a ServerAction, container: Option<&'a str>) -> Payload<'a> {
        let base = Payload { container_id: container, ..Payload::default() };
        match action {
            ServerAction::Create(create) => Payload {
                spec: Some(&create.spec),
                keep_data: Some(create.keep_data),
                skip_scripts: Some(create.skip_scripts),
                ..base
            },
            ServerAction::Update(patch) => Payload { patch: Some(patch.values()), ..base },
            ServerAction::Stop(StopOptions { signal, timeout })
            | ServerAction::Restart(StopOptions { signal, timeout }) => {
                Payload { signal: signal.as_deref(), timeout: timeout.map(|time| time.as_secs()), ..base }
            }
            ServerAction::Delete { remove_data } => Payload { remove_data: Some(*remove_data), ..base },
            ServerAction::Console(action) => match action {
                ConsoleAction::Logs { lines } | ConsoleAction::History { lines } => {
                    Payload { lines: Some(*lines), ..base }
                }
                ConsoleAction::Command(command) => Payload { command: Some(command), ..base },
                ConsoleAction::Input(input) => Payload { input: Some(input), ..base },
                ConsoleAction::Connect { since, boot_id } => {
                    Payload { since: *since, boot_id: boot_id.as_deref(), ..base }
                }
                ConsoleAction::Download { format } => Payload { format: Some(*format), ..base },
                ConsoleAction::Interrupt
                | ConsoleAction::Disconnect
                | ConsoleAction::Status
                | ConsoleAction::Clear => base,
            },
            ServerAction::File(action) => Payload { file: Some(FilePayload::of(action)), ..base },
            ServerAction::Archive(action) => Payload { archive: Some(ArchivePayload::of(action)), ..base },
            ServerAction::Mod(action) => Payload { r#mod: Some(ModPayload::of(action)), ..base },
            ServerAction::Start
            | ServerAction::Kill
            | ServerAction::Suspend
            | ServerAction::Unsuspend
            | ServerAction::Status
            | ServerAction::Metrics => base,
        }
    }
}
