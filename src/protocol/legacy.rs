//! The legacy dialect: section 3 of the contract. A reply is the status message itself.

use std::fmt::Write;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::value::RawValue;

use super::actions;
use super::command::{Action, Command, Envelope, LegacyRequest};
use super::decode::{Decoder, Head, Incoming, Rejected, Skip};
use super::event::{Event, StatusChange};
use super::outcome::{Outcome, Reply, SystemInfo};
use super::wire::{Timestamp, text};
use super::{Code, Fault, NodeId, Reason, ServerId, Status, json};

/// What a message of this dialect asks for.
#[derive(Clone, Copy)]
enum Asks {
    SystemInfo,
    /// `data.action` is start, stop, restart or kill.
    Power,
    /// The action of this name, whose payload is `data`.
    Action(&'static str),
}

/// Every `type` of the dialect. Rows whose action is not in the table of actions yet answer `UNKNOWN_ACTION`.
#[rustfmt::skip]
const MESSAGES: &[(&str, Asks, LegacyRequest)] = &[
    ("system_info_request", Asks::SystemInfo,                      LegacyRequest::SystemInfo),
    ("server_create",       Asks::Action("create_server"),         LegacyRequest::Status),
    ("server_start",        Asks::Action("start_server"),          LegacyRequest::Status),
    ("server_stop",         Asks::Action("stop_server"),           LegacyRequest::Status),
    ("server_restart",      Asks::Action("restart_server"),        LegacyRequest::Status),
    ("server_delete",       Asks::Action("delete_server"),         LegacyRequest::Status),
    ("server_power",        Asks::Power,                           LegacyRequest::Status),
    ("server_update",       Asks::Action("update_server"),         LegacyRequest::Status),
    ("server_suspend",      Asks::Action("suspend_server"),        LegacyRequest::Status),
    ("server_unsuspend",    Asks::Action("unsuspend_server"),      LegacyRequest::Status),
    ("server_reinstall",    Asks::Action("install_server"),        LegacyRequest::Status),
    ("server_command",      Asks::Action("send_server_command"),   LegacyRequest::Silent),
    ("file_read",           Asks::Action("read_file"),             LegacyRequest::File),
    ("file_write",          Asks::Action("write_file"),            LegacyRequest::File),
];

/// Reads a message by its `type`.
pub(super) fn decode(decoder: &Decoder, kind: &str, head: &Head) -> Result<Result<Incoming, Rejected>, Skip> {
    let row = MESSAGES.iter().find(|(name, ..)| *name == kind);
    let &(_, asks, request) = row.ok_or_else(|| Skip::UnknownType(json::shown(kind, 64)))?;
    let envelope = |message_id, server| Envelope::Legacy { message_id, request, server };
    let inside = Inside::read(head.data);
    let server = inside.server.and_then(|raw| actions::server_id(Some(raw), None).ok());
    let message_id = match Head::id(head.message_id, "messageId") {
        Ok(message_id) => message_id,
        Err(fault) => return Ok(Err(Rejected { envelope: envelope(None, server), fault })),
    };
    let read = || {
        head.unambiguous()?;
        let name = match asks {
            Asks::SystemInfo => return Ok(Action::SystemInfo),
            Asks::Power => power(inside.action)?,
            Asks::Action(name) => name,
        };
        actions::read(name, None, head.data, None, &decoder.rules).map(|(action, _)| action)
    };
    let action = read();
    let envelope = envelope(message_id, server);
    Ok(match action {
        Ok(action) => Ok(Incoming::Command(Command { envelope, action, key: None })),
        Err(fault) => Err(Rejected { envelope, fault }),
    })
}

/// What is looked at in `data` before the action is known.
#[derive(Default, serde::Deserialize)]
struct Inside<'a> {
    #[serde(borrow, rename = "serverId")]
    server: Option<&'a RawValue>,
    #[serde(borrow)]
    action: Option<&'a RawValue>,
}

impl<'a> Inside<'a> {
    /// What cannot be read is left out: the action's own reading tells what is wrong with it.
    fn read(data: Option<&'a RawValue>) -> Inside<'a> {
        data.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }
}

fn power(action: Option<&RawValue>) -> Result<&'static str, Fault> {
    match action.and_then(json::text).as_deref() {
        Some("start") => Ok("start_server"),
        Some("stop") => Ok("stop_server"),
        Some("restart") => Ok("restart_server"),
        Some("kill") => Ok("kill_server"),
        _ => Err(Fault::field("action", "expected start, stop, restart or kill")),
    }
}

/// A message of this dialect.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a, T> {
    r#type: &'static str,
    data: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    timestamp: Timestamp,
}

pub(super) fn encode<T: Serialize>(
    r#type: &'static str,
    data: T,
    message_id: Option<&str>,
    now: SystemTime,
) -> String {
    text(&Message { r#type, data, message_id, timestamp: Timestamp(now) })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerStatus<'a> {
    server_id: &'a ServerId,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What a file holds, or how large it is after it was written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FileContent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    server_id: Option<&'a ServerId>,
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a super::file::FileContent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

/// A reply; `None` when success has none.
pub(super) fn encode_outcome(
    message_id: Option<&str>,
    request: LegacyRequest,
    server: Option<&ServerId>,
    outcome: &Outcome,
    now: SystemTime,
) -> Option<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Error<'a> {
        code: Code,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        server_id: Option<&'a ServerId>,
    }

    let status = |server_id, status| {
        Some(encode("server_status", ServerStatus { server_id, status, error: None }, message_id, now))
    };
    match outcome {
        Err(fault) => {
            let data = Error { code: fault.code, message: &fault.message, server_id: server };
            Some(encode("error", data, message_id, now))
        }
        Ok(_) if request == LegacyRequest::Silent => None,
        Ok(Reply::Server(reply)) => status(&reply.server_id, reply.status),
        Ok(Reply::Status(report)) => status(&report.server_id, report.status),
        Ok(Reply::SystemInfo(info)) => Some(encode("system_info", info, message_id, now)),
        Ok(Reply::File(reply)) => {
            let data = FileContent {
                server_id: server,
                path: reply.path.as_deref(),
                content: reply.content.as_ref(),
                size: reply.size.filter(|_| reply.content.is_none()),
            };
            Some(encode("file_content", data, message_id, now))
        }
        // No message of this dialect asks for these.
        Ok(
            Reply::Servers(_)
            | Reply::SystemMetrics(_)
            | Reply::Metrics(_)
            | Reply::Pong
            | Reply::Console(_)
            | Reply::Archive(_)
            | Reply::Mod(_)
            | Reply::Kept(_),
        ) => None,
    }
}

/// An event, where this dialect has a message for it.
pub fn encode_event(event: &Event, now: SystemTime) -> Option<String> {
    match event {
        Event::ServerStatusChanged(change) => {
            let data = ServerStatus {
                server_id: &change.server_id,
                status: change.current_status,
                error: crash(change),
            };
            Some(encode("server_status", data, None, now))
        }
        Event::StreamGap { server_id: Some(server), lines, .. } => {
            let output = format!("{lines} lines were dropped here");
            Some(encode_output(server, &output, "system", now))
        }
        Event::StreamGap { server_id: None, .. }
        | Event::AgentConnected { .. }
        | Event::AgentStopping
        | Event::CommandProgress(_) => None,
    }
}

/// Why a server crashed, in a sentence: this dialect has no reason and no exit code.
fn crash(change: &StatusChange) -> Option<String> {
    if change.current_status != Status::Crashed {
        return None;
    }
    let mut text = match change.reason {
        Some(Reason::Oom) => "The server ran out of memory".to_owned(),
        Some(Reason::GaveUp) => "The server crashed too often and is not started again".to_owned(),
        Some(Reason::DiskLimit) => "The server used more disk than it may".to_owned(),
        _ => "The server crashed".to_owned(),
    };
    if let Some(code) = change.exit_code {
        write!(text, " (exit code {code})").expect("writing to a String does not fail");
    }
    Some(text)
}

/// A server's state, for telling every server's when this dialect is first heard.
pub fn encode_status(server_id: &ServerId, status: Status, now: SystemTime) -> String {
    encode("server_status", ServerStatus { server_id, status, error: None }, None, now)
}

/// Lines of a server's output; `stream` is `stdout`, `stderr`, `install` or `system`.
pub fn encode_output(server_id: &ServerId, output: &str, stream: &str, now: SystemTime) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Output<'a> {
        server_id: &'a ServerId,
        output: &'a str,
        stream: &'a str,
        timestamp: Timestamp,
    }
    let data = Output { server_id, output, stream, timestamp: Timestamp(now) };
    encode("server_output", data, None, now)
}

/// The heartbeat of every link, whatever the dialect: every panel knows this shape.
pub fn encode_heartbeat(node: &NodeId, now: SystemTime) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Heartbeat<'a> {
        node_id: &'a NodeId,
        timestamp: Timestamp,
        status: &'static str,
    }
    let data = Heartbeat { node_id: node, timestamp: Timestamp(now), status: "online" };
    encode("heartbeat", data, None, now)
}

/// `system_info` as it is sent unasked, first on every connection.
pub fn encode_system_info(info: &SystemInfo, now: SystemTime) -> String {
    encode("system_info", info, None, now)
}
