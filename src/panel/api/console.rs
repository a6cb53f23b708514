//! A server's output so far, and what is typed into it. New output comes with the event stream.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json as value;

use super::Api;
use super::call::Call;
use crate::gate::Response;
use crate::panel::hub::Order;
use crate::panel::problem::Problem;

/// Longest line, as the contract has it.
const MAX_LINE: usize = 4_096;
/// How long the first look after a link began waits for the node to send what it has.
const FIRST: Duration = Duration::from_millis(700);

pub fn show(api: &Api, call: &Call) -> Result<Response, Problem> {
    let key = call.server()?;
    let lines = call.query_number("lines", 1, 5_000)?.unwrap_or(1_000);
    let after = call.query_number("after", 0, u64::MAX)?;
    let boot = call.query_text("boot", 64)?;
    let lines = usize::try_from(lines).unwrap_or(1_000);
    let wanted = key.clone();
    // Should the Panel have none of it yet, the node is asked, and its lines come with the next look or the stream.
    let waiting = api.parts.hub.visit({
        let key = key.clone();
        move |fleet| fleet.await_output(&key)
    })?;
    if let Some(arrived) = waiting {
        let _ = arrived.recv_timeout(FIRST); // nothing to come, or later: what is here is told
    }
    let found = api.parts.hub.visit(move |fleet| {
        fleet.store.server(&wanted)?;
        Some(fleet.output(&wanted, lines, after, boot.as_deref()))
    })?;
    found.map(|text| Response::json(200, text)).ok_or_else(|| super::no_server(&key))
}

pub fn input(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (node, server) = call.server()?;
    let mut fields = call.fields()?;
    let command =
        fields.text("command", MAX_LINE)?.ok_or_else(|| Problem::field("command", "This is needed."))?;
    fields.end()?;
    if command.chars().any(|c| matches!(c, '\n' | '\r' | '\0')) {
        return Err(Problem::field("command", "Expected one line."));
    }
    call.note(|note| note.detail = Some(command.chars().take(200).collect()));
    let payload = value!({"command": command});
    api.send(call, Order::new(node, Some(server), "send_server_command", payload), 200)
}

pub fn interrupt(api: &Api, call: &Call) -> Result<Response, Problem> {
    call.no_fields()?;
    let (node, server) = call.server()?;
    api.send(call, Order::new(node, Some(server), "console:interrupt", value!({})), 200)
}

pub fn download(api: &Api, call: &Call) -> Result<Response, Problem> {
    #[derive(Deserialize)]
    struct Log {
        content: String,
    }
    let key = call.server()?;
    let name = format!("attachment; filename=\"{}.log\"", key.1);
    let log: Log = api.ask_for(key, "console:download", value!({"format": "txt"}))?;
    Ok(Response::text(200, log.content).with("Content-Disposition", name))
}
