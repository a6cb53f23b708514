//! The HTTP dialect: section 4 of the contract. Here `error` is a plain text, since the panels that call it print it.

use std::time::SystemTime;

use serde::Serialize;

use super::actions;
use super::command::{Command, Envelope};
use super::decode::{Decoder, Head, Rejected, Skip};
use super::outcome::Outcome;
use super::wire::{Data, message, text};
use super::{Code, MAX_HTTP_IN, json};

/// Reads the body of `POST /api/command`: `{action, serverId, payload, id?}` or the older `{action, data}`.
pub(super) fn decode(decoder: &Decoder, body: &[u8]) -> Result<Result<Command, Rejected>, Skip> {
    let head = Head::read(std::str::from_utf8(body).map_err(|_| Skip::NotJson)?, MAX_HTTP_IN)?;
    let name = head.action.and_then(json::text).ok_or(Skip::NoAction)?;
    let id = match Head::id(head.id, "id") {
        Ok(id) => id,
        Err(fault) => return Ok(Err(Rejected { envelope: Envelope::Http { id: None }, fault })),
    };
    let payload = head.payload.or(head.data);
    let read = head
        .unambiguous()
        .and_then(|()| actions::read(&name, head.server, payload, id.as_deref(), &decoder.rules));
    let envelope = Envelope::Http { id };
    Ok(match read {
        Ok((action, key)) => Ok(Command { envelope, action, key }),
        Err(fault) => Err(Rejected { envelope, fault }),
    })
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
        Err(fault) => encode_error(fault.code, &fault.message),
    }
}

/// The body of any status that says no, such as 400 or 401.
pub fn encode_error(code: Code, error: &str) -> String {
    text(&Answer { success: false, message: None, data: None, error: Some(error), code: Some(code) })
}
