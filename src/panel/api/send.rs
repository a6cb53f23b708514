//! Commands and questions to nodes: how long a call waits for the outcome, and how it is told.
//!
//! A call that waits does so for a bounded time and is then answered 202 with the command's id, by which the outcome can
//! be had. Not all threads may wait at once: one more is answered 202 right away.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::call::Call;
use super::{Api, json};
use crate::gate::Response;
use crate::panel::accounts::Rights;
use crate::panel::hub::{Accepted, CommandView, HubHandle, Order, Progressing};
use crate::panel::problem::Problem;
use crate::panel::store::ServerKey;
use crate::panel::wire::Success;

/// Calls in work at one time.
pub const MAX_CALLS: usize = 256;
/// Of those, how many may wait for a node; one more is answered 202 at once.
const MAX_WAITING: usize = 192;
/// How long a call waits for its outcome when it does not say.
const WAIT: Duration = Duration::from_secs(10);
/// And at most, however long it asks for (`Prefer: wait=`, RFC 7240 section 4.3).
const MAX_WAIT: u64 = 25;
/// How long a question may take: files are read by the node's slow threads, one after the other.
const ANSWER: Duration = Duration::from_secs(30);
/// Levels of a payload: an Agent reads 64 in all.
const MAX_DEPTH: usize = 60;

impl Api {
    /// Sends an order in the asker's name and waits for its outcome as long as the call wants.
    pub(super) fn send(&self, call: &Call, order: Order, success: u16) -> Result<Response, Problem> {
        if depth(&order.payload) > MAX_DEPTH {
            let what = format!("The body is nested deeper than {MAX_DEPTH} levels.");
            return Err(Problem::new(422, "INVALID_PAYLOAD", what));
        }
        let by = call.asker.as_ref().map(|asker| asker.name.clone());
        let Accepted { pending, outcome } = self.parts.hub.order(Order { by, ..order })?;
        let wait = wait(call.request.header("prefer"));
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let finished = (waiting < MAX_WAITING).then(|| outcome.recv_timeout(wait).ok()).flatten();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        // Without an outcome it is on its way still, also when the Panel ends meanwhile.
        let command = finished.unwrap_or(pending);
        let at = format!("/api/v1/commands/{}", command.id);
        Ok(match command.state {
            Progressing::Pending => body(202, &command).with("Location", at),
            Progressing::Succeeded => body(success, &command),
            Progressing::Failed | Progressing::Unknown => {
                let status = command.error.as_ref().map_or(502, |problem| problem.status);
                failed(status, &command)
            }
        })
    }

    /// Asks a server's node something that changes nothing the Panel knows of, and waits for the answer.
    pub(super) fn ask(
        &self,
        key: ServerKey,
        action: &'static str,
        payload: Value,
    ) -> Result<Success, Problem> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let what = "Too many calls wait for nodes. Try again soon.";
            return Err(Problem { retry_after: Some(2), ..Problem::new(503, "BUSY", what) });
        }
        let answered = ask(&self.parts.hub, key, action, payload);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        answered
    }

    /// [`Api::ask`], with the answer's data as what it has to be.
    pub(super) fn ask_for<T: DeserializeOwned>(
        &self,
        key: ServerKey,
        action: &'static str,
        payload: Value,
    ) -> Result<T, Problem> {
        read(action, &self.ask(key, action, payload)?)
    }
}

/// [`Api::ask_for`] for a thread that has the hub alone.
pub(super) fn ask_for<T: DeserializeOwned>(
    hub: &HubHandle,
    key: ServerKey,
    action: &'static str,
    payload: Value,
) -> Result<T, Problem> {
    read(action, &ask(hub, key, action, payload)?)
}

fn ask(hub: &HubHandle, key: ServerKey, action: &'static str, payload: Value) -> Result<Success, Problem> {
    let node = key.0.clone();
    let (of, server) = key;
    let answer = hub.visit(move |fleet| fleet.ask(of, Some(server), action, payload))??;
    match answer.recv_timeout(ANSWER) {
        Ok(Ok(success)) => Ok(success),
        Ok(Err(failure)) => Err(Problem::from(&failure)),
        Err(cause) if cause.is_disconnected() => {
            let what = format!("Node {node} went offline before it answered. Try again.");
            Err(Problem::new(409, "NODE_OFFLINE", what))
        }
        Err(_) => {
            let what = format!("Node {node} has not answered in time. Try again.");
            Err(Problem::new(504, "NO_ANSWER", what))
        }
    }
}

fn read<T: DeserializeOwned>(action: &str, success: &Success) -> Result<T, Problem> {
    let data = success.data.as_deref().map_or("null", |data| data.get());
    serde_json::from_str(data).map_err(|cause| {
        log::warn!("the answer to {action} is not what it should be: {cause}");
        Problem::new(502, "NODE_ANSWER", "The node's answer could not be read. Is its Agent up to date?")
    })
}

pub fn command(api: &Api, call: &Call) -> Result<Response, Problem> {
    let id = call.parameter("id").to_owned();
    let unknown = || Problem::new(404, "COMMAND_NOT_FOUND", "This command is not known, or not any more.");
    let command = api.parts.hub.visit(move |fleet| fleet.command_view(&id))?.ok_or_else(unknown)?;
    let asker = call.asker()?;
    let seen = match &command.server_id {
        Some(server) => asker.rights(&(command.node.clone(), server.clone())).has(Rights::VIEW),
        None => asker.is_admin(),
    };
    if seen { Ok(body(200, &command)) } else { Err(unknown()) }
}

/// How long to wait, from `Prefer: wait=SECONDS` or `Prefer: respond-async`.
fn wait(prefer: Option<&str>) -> Duration {
    let mut wait = WAIT;
    for preference in prefer.unwrap_or_default().split([',', ';']).map(str::trim) {
        match preference.split_once('=').map(|(name, value)| (name.trim(), value.trim().parse::<u64>())) {
            Some(("wait", Ok(seconds))) => return Duration::from_secs(seconds.min(MAX_WAIT)),
            None if preference.eq_ignore_ascii_case("respond-async") => wait = Duration::ZERO,
            _ => {}
        }
    }
    wait
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// `{"command":{…}}`
fn body(status: u16, command: &CommandView) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        command: &'a CommandView,
    }
    json(status, &Body { command })
}

/// `{"error":{…},"commandId":"…"}`
fn failed(status: u16, command: &CommandView) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        error: Option<&'a Problem>,
        command_id: &'a str,
    }
    json(status, &Body { error: command.error.as_ref(), command_id: &command.id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_the_callers_within_bounds() {
        let cases = [
            (None, 10),
            (Some("wait=3"), 3),
            (Some("respond-async"), 0),
            (Some("respond-async, wait=5"), 5),
            (Some("return=minimal; Respond-Async"), 0),
            (Some("wait=9999"), 25),
            (Some("wait=-1"), 10),
        ];
        for (prefer, seconds) in cases {
            assert_eq!(wait(prefer), Duration::from_secs(seconds), "{prefer:?}");
        }
    }
}
