//! The HTTP dialect: section 4 of the contract. Here `error` is a plain text, since the panels that call it print it.

use std::time::SystemTime;

use serde::Serialize;

use super::actions;
use super::command::{Command, Envelope};
use super::decode::{Decoder, Head, Rejected, Skip};
use super::outcome::{Outcome, ServerCount};
use super::unified::Load;
use super::wire::{Data, Timestamp, message, text};
use super::{Code, json};

/// Reads the body of `POST /api/command`: `{action, serverId, payload, id?}` or the older `{action, data}`.
pub(super) fn decode(decoder: &Decoder, body: &[u8]) -> Result<Command, Rejected> {
    let head = Head::read(std::str::from_utf8(body).map_err(|_| Skip::NotJson)?)?;
    let name = head.action.and_then(json::text).ok_or(Skip::NoAction)?;
    let id =
        Head::id(head.id, "id").map_err(|fault| Rejected::answered(Envelope::Http { id: None }, fault))?;
    let payload = head.payload.or(head.data);
    let read = head
        .unambiguous()
        .and_then(|()| actions::read(&name, head.server, payload, id.as_deref(), &decoder.rules));
    let envelope = Envelope::Http { id };
    match read {
        Ok((action, key)) => Ok(Command { envelope, action, key }),
        Err(fault) => Err(Rejected::answered(envelope, fault)),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
}

/// The body of a 200, whatever the outcome.
pub(super) fn encode_outcome(outcome: &Outcome, now: SystemTime) -> String {
    match outcome {
        Ok(reply) => Data::fitted(reply, now, |data| {
            text(&Answer {
                success: true,
                message: message(reply),
                data: Some(data),
                error: None,
                code: None,
            })
        }),
        Err(fault) => refusal(fault.code, &fault.message),
    }
}

/// The body of any status that says no, such as 400 or 401.
pub fn refusal(code: Code, error: &str) -> String {
    text(&Answer { success: false, message: None, data: None, error: Some(error), code: Some(code) })
}

/// `GET /health`, for who may see all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    pub condition: Condition,
    pub version: &'static str,
    pub node_id: String,
    /// Seconds since the Agent started.
    pub uptime: u64,
    pub connected: bool,
    pub docker: Docker,
    pub system: Load,
    pub servers: ServerCount,
}

/// One word for the Agent's health. Linked and with Docker it is healthy, with one of them degraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    Healthy,
    Degraded,
    Unhealthy,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Docker {
    pub available: bool,
    pub version: Option<String>,
    pub api_version: Option<String>,
}

impl Health {
    pub fn encode(&self, now: SystemTime) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            status: Condition,
            timestamp: Timestamp,
            version: &'static str,
            node_id: &'a str,
            uptime: u64,
            connected: bool,
            docker: &'a Docker,
            system: Load,
            servers: ServerCount,
        }
        text(&Body {
            status: self.condition,
            timestamp: Timestamp(now),
            version: self.version,
            node_id: &self.node_id,
            uptime: self.uptime,
            connected: self.connected,
            docker: &self.docker,
            system: self.system,
            servers: self.servers,
        })
    }

    /// What anyone may see.
    pub fn encode_brief(&self) -> String {
        #[derive(Serialize)]
        struct Body {
            status: Condition,
        }
        text(&Body { status: self.condition })
    }

    /// `GET /api/status`.
    pub fn encode_api_status(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            online: bool,
            version: &'static str,
            uptime: u64,
            server_count: usize,
            node_id: &'a str,
            connected: bool,
        }
        text(&Body {
            online: true,
            version: self.version,
            uptime: self.uptime,
            server_count: self.servers.total,
            node_id: &self.node_id,
            connected: self.connected,
        })
    }
}
