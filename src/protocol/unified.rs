//! The unified dialect: section 2 of the contract.

use std::time::SystemTime;

use serde::Serialize;

use super::actions;
use super::command::{Command, Envelope};
use super::console::ServerLog;
use super::decode::{Decoder, Head, Incoming, Rejected};
use super::event::Event;
use super::outcome::{Outcome, SystemMetrics, two_places};
use super::wire::{Data, Timestamp, fitted, message, text};
use super::{Code, Fault, json};

/// Reads a message whose `type` is of this dialect.
pub(super) fn decode(decoder: &Decoder, kind: &str, head: &Head) -> Result<Incoming, Rejected> {
    let id = Head::id(head.id, "id")
        .map_err(|fault| Rejected { envelope: Envelope::Unified { id: None }, fault })?;
    let read = || {
        head.unambiguous()?;
        match kind {
            "command" => command(decoder, head, &id),
            "hello" => hello(head),
            "ack" => ack(head),
            "ping" => Ok(Incoming::Ping { id: id.clone() }),
            _ => Ok(Incoming::Pong),
        }
    };
    read().map_err(|fault| Rejected { envelope: Envelope::Unified { id: id.clone() }, fault })
}

fn hello(head: &Head) -> Result<Incoming, Fault> {
    let epoch = head.epoch.and_then(|raw| raw.get().parse().ok());
    let fault = || Fault::new(Code::InvalidMessage, "epoch: expected a whole number");
    epoch.map(|epoch| Incoming::Hello { epoch }).ok_or_else(fault)
}

fn ack(head: &Head) -> Result<Incoming, Fault> {
    let boot_id = Head::id(head.boot, "bootId")?;
    let boot_id = boot_id.ok_or_else(|| Fault::new(Code::InvalidMessage, "bootId: expected a text"))?;
    let seq = head.seq.and_then(|raw| raw.get().parse().ok());
    let seq = seq.ok_or_else(|| Fault::new(Code::InvalidMessage, "seq: expected a whole number"))?;
    Ok(Incoming::Ack { boot_id, seq })
}

fn command(decoder: &Decoder, head: &Head, id: &Option<String>) -> Result<Incoming, Fault> {
    if let Some(raw) = head.agent {
        match json::text(raw) {
            Some(agent) if agent == decoder.node.as_str() => {}
            Some(_) => return Err(Fault::new(Code::WrongAgent, "agentId: this is another Agent")),
            None => return Err(Fault::new(Code::InvalidMessage, "agentId: expected a text")),
        }
    }
    let name = head.action.and_then(json::text);
    let name =
        name.ok_or_else(|| Fault::new(Code::InvalidMessage, "action: expected the name of an action"))?;
    let (action, key) = actions::read(&name, head.server, head.payload, id.as_deref(), &decoder.rules)?;
    let envelope = Envelope::Unified { id: id.clone() };
    Ok(Incoming::Command(Command { envelope, action, key }))
}

/// A response. `now` is when it is made.
pub(super) fn encode_outcome(id: Option<&str>, outcome: &Outcome, now: SystemTime) -> String {
    #[derive(Serialize)]
    struct Response<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        r#type: &'static str,
        timestamp: Timestamp,
        success: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<Data<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Error<'a>>,
    }
    #[derive(Serialize)]
    struct Error<'a> {
        code: Code,
        message: &'a str,
    }

    let (r#type, timestamp) = ("response", Timestamp(now));
    match outcome {
        Ok(reply) => Data::fitted(reply, now, |data| {
            let (message, data) = (message(reply), Some(data));
            text(&Response { id, r#type, timestamp, success: true, message, data, error: None })
        }),
        Err(Fault { code, message }) => {
            let error = Some(Error { code: *code, message });
            text(&Response { id, r#type, timestamp, success: false, message: None, data: None, error })
        }
    }
}

/// An event. `seq` was given when it was made, within `boot_id`; `now` is when it was made.
pub fn encode_event(event: &Event, seq: u64, boot_id: &str, now: SystemTime) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Message<'a, T> {
        r#type: &'static str,
        timestamp: Timestamp,
        event: &'static str,
        seq: u64,
        boot_id: &'a str,
        data: T,
    }
    fn encode<T: Serialize>(
        event: &'static str,
        seq: u64,
        boot_id: &str,
        now: SystemTime,
        data: T,
    ) -> String {
        text(&Message { r#type: "event", timestamp: Timestamp(now), event, seq, boot_id, data })
    }

    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Connected<'a, S> {
        version: &'a str,
        boot_id: &'a str,
        capabilities: &'a [&'static str],
        servers: S,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Gap<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        server_id: Option<&'a str>,
        stream: &'static str,
        lines: u64,
        bytes: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        first_seq: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_seq: Option<u64>,
    }
    #[derive(Serialize)]
    struct Empty {}

    match event {
        Event::AgentConnected { version, boot_id: own, capabilities, servers } => {
            fitted(servers, |servers, truncated| {
                let data = Connected { version, boot_id: own, capabilities, servers, truncated };
                encode("agent_connected", seq, boot_id, now, data)
            })
        }
        Event::AgentStopping => encode("agent_stopping", seq, boot_id, now, Empty {}),
        Event::ServerStatusChanged(change) => encode("server_status_changed", seq, boot_id, now, change),
        Event::CommandProgress(progress) => encode("command_progress", seq, boot_id, now, progress),
        Event::StreamGap { server_id, stream, lines, bytes, seqs } => {
            let gap = Gap {
                server_id: server_id.as_ref().map(|id| id.as_str()),
                stream,
                lines: *lines,
                bytes: *bytes,
                first_seq: seqs.map(|seqs| seqs.0),
                last_seq: seqs.map(|seqs| seqs.1),
            };
            encode("stream_gap", seq, boot_id, now, gap)
        }
    }
}

/// Lines of a server's output; `now` is when it is said.
pub fn encode_server_log(log: &ServerLog, now: SystemTime) -> String {
    #[derive(Serialize)]
    struct Message<'a> {
        r#type: &'static str,
        timestamp: Timestamp,
        event: &'static str,
        data: &'a ServerLog<'a>,
    }
    text(&Message { r#type: "event", timestamp: Timestamp(now), event: "server_log", data: log })
}

/// The answer to a ping. `healthy` is whether Docker answers.
pub fn encode_pong(id: Option<&str>, healthy: bool, metrics: &SystemMetrics, now: SystemTime) -> String {
    #[derive(Serialize)]
    struct Pong<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        r#type: &'static str,
        timestamp: Timestamp,
        data: State,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct State {
        agent_status: &'static str,
        active_servers: usize,
        system_load: Load,
    }
    /// In percent of all that the node has.
    #[derive(Serialize)]
    struct Load {
        #[serde(serialize_with = "two_places")]
        cpu: f64,
        #[serde(serialize_with = "two_places")]
        memory: f64,
        #[serde(serialize_with = "two_places")]
        disk: f64,
    }
    let data = State {
        agent_status: if healthy { "healthy" } else { "degraded" },
        active_servers: metrics.servers.running,
        system_load: Load {
            cpu: metrics.cpu,
            memory: metrics.memory.percentage,
            disk: metrics.disk.percentage,
        },
    };
    text(&Pong { id, r#type: "pong", timestamp: Timestamp(now), data })
}
