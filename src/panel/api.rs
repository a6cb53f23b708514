//! The REST API under `/api`, the event stream, and what else HTTP_ADDR answers.
//!
//! Runs on the gate's threads, one call each, and holds no state of the Panel: it reads a call, asks the hub, and
//! writes the answer. Every error is `{"error":{"code","message","field"?}}`. A call that waits for a node's answer
//! does so for a bounded time and is then answered 202 with the command's id, by which the outcome can be had.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::guard::Guard;
use super::hub::{Accepted, CommandView, HubHandle, Order, Progressing};
use super::page::Page;
use super::problem::Problem;
use super::secret::Secret;
use super::store::ServerKey;
use crate::gate::{Handler, Head, Request, Response};
use crate::protocol::{NodeId, ServerId, id::ID_RULE};

/// Calls in work at one time.
pub const MAX_CALLS: usize = 256;
/// Of those, how many may wait for a node; one more is answered 202 at once.
const MAX_WAITING: usize = 192;
/// The largest body of a call. A command to a node has to fit a message of 2 MiB.
const MAX_BODY: usize = 1 << 20;
/// How long a call waits for its outcome when it does not say.
const WAIT: Duration = Duration::from_secs(10);
/// And at most, however long it asks for (`Prefer: wait=`, RFC 7240 section 4.3).
const MAX_WAIT: u64 = 25;
/// Levels of a payload: an Agent reads 64 in all.
const MAX_DEPTH: usize = 60;

pub struct Api {
    hub: HubHandle,
    guard: Guard,
    page: Page,
    waiting: AtomicUsize,
}

impl Api {
    pub fn new(hub: HubHandle, guard: Guard) -> Api {
        Api { hub, guard, page: Page::new(), waiting: AtomicUsize::new(0) }
    }
}

impl Handler for Api {
    fn body_limit(&self, head: &Head, _: SocketAddr) -> Result<usize, Response> {
        // Refused before a byte of it is read.
        self.check(head).map_err(|problem| refusal(&problem))?;
        Ok(if head.path().starts_with("/api/") { MAX_BODY } else { 0 })
    }

    fn handle(&self, request: Request) -> Response {
        if let Err(problem) = self.check(request.head()) {
            return refusal(&problem);
        }
        if let Some(response) = self.page.serve(request.head()) {
            return response;
        }
        self.route(&request).unwrap_or_else(|problem| refusal(&problem))
    }
}

impl Api {
    fn check(&self, head: &Head) -> Result<(), Problem> {
        self.guard.check_host(head)?;
        if head.path().starts_with("/api/") {
            self.guard.check_site(head)?;
        }
        match head.method() {
            "GET" | "HEAD" => Ok(()),
            _ => self.guard.check_json(head),
        }
    }

    /// The whole API. A body and an answer are JSON objects; `…` stands for the fields of a spec in the contract.
    ///
    /// | call | body | answer |
    /// |---|---|---|
    /// | `GET /health` | | 200 or 503 `{status,version}` |
    /// | `GET /api/nodes` | | `{nodes:[…]}` |
    /// | `GET /api/servers` | | `{servers:[…]}` |
    /// | `GET /api/servers/NODE/ID` | | the server with its `spec` |
    /// | `POST /api/servers` | `{node,id?,start?,image,…}` | 201, or 202 while it is on its way: `{command}` |
    /// | `PATCH /api/servers/NODE/ID` | `{…}` | 200 or 202 `{command}` |
    /// | `DELETE /api/servers/NODE/ID` | `{removeData?}` | 200 or 202 `{command}` |
    /// | `POST /api/servers/NODE/ID/VERB` | `{timeout?,signal?}` for stop and restart | 200 or 202 `{command}`; `VERB` is `start`, `stop`, `restart`, `kill`, `suspend` or `unsuspend` |
    /// | `POST /api/nodes/NODE/command` | `{action,serverId?,payload?}` | 200 or 202 `{command}` with the Agent's `data` |
    /// | `GET /api/commands/ID` | | `{command}`, as long as it is remembered |
    /// | `GET /api/events` | | server-sent events: `snapshot`, then `node`, `node_gone`, `server`, `server_gone`, `command`, `usage`, `tick` |
    fn route(&self, request: &Request) -> Result<Response, Problem> {
        let path: Vec<&str> = request.path().split('/').skip(1).collect();
        match (request.method(), &path[..]) {
            ("GET" | "HEAD", ["health"]) => Ok(self.health()),
            ("GET" | "HEAD", ["api", "nodes"]) => Ok(Response::json(200, self.hub.nodes()?)),
            ("GET" | "HEAD", ["api", "servers"]) => Ok(Response::json(200, self.hub.servers()?)),
            ("GET" | "HEAD", ["api", "servers", node, id]) => self.server(server_key(node, id)?),
            ("GET" | "HEAD", ["api", "commands", id]) => self.command(id),
            ("GET", ["api", "events"]) => self.events(request),
            ("POST", ["api", "servers"]) => self.create(request),
            ("PATCH", ["api", "servers", node, id]) => {
                self.for_server(request, server_key(node, id)?, "update_server", object(request)?)
            }
            ("DELETE", ["api", "servers", node, id]) => {
                let key = server_key(node, id)?;
                let options = options(request, &["removeData"])?;
                self.for_server(request, key, "delete_server", options)
            }
            ("POST", ["api", "servers", node, id, verb]) => {
                let (action, known) = action(verb).ok_or_else(no_such_path)?;
                let key = server_key(node, id)?;
                self.for_server(request, key, action, options(request, known)?)
            }
            ("POST", ["api", "nodes", node, "command"]) => self.raw(request, node_id(node)?),
            (_, path) => Err(allowed(path).map_or_else(no_such_path, |allow| {
                Problem::new(405, "METHOD_NOT_ALLOWED", format!("Here only {allow} can be asked."))
            })),
        }
    }

    fn health(&self) -> Response {
        match self.hub.answers() {
            Ok(()) => Response::json(
                200,
                format!(r#"{{"status":"healthy","version":"{}"}}"#, crate::version::VERSION),
            ),
            Err(_) => Response::json(503, r#"{"status":"unhealthy"}"#),
        }
    }

    fn server(&self, (node, id): ServerKey) -> Result<Response, Problem> {
        let unknown = Problem::new(404, "SERVER_NOT_FOUND", format!("Node {node} has no server {id}."));
        self.hub.server((node, id))?.map(|body| Response::json(200, body)).ok_or(unknown)
    }

    fn command(&self, id: &str) -> Result<Response, Problem> {
        let unknown =
            || Problem::new(404, "COMMAND_NOT_FOUND", "This command is not known, or not any more.");
        let command = self.hub.command(id.to_owned())?.ok_or_else(unknown)?;
        Ok(Response::json(200, body(&command)))
    }

    fn events(&self, request: &Request) -> Result<Response, Problem> {
        let last = request.header("last-event-id").and_then(|id| id.parse().ok());
        Ok(Response::stream("text/event-stream", self.hub.subscribe(last)?))
    }

    /// `{node, id?, start?, …spec}`: with `start` the server is started once it is there.
    fn create(&self, request: &Request) -> Result<Response, Problem> {
        let mut payload = object(request)?;
        let node = match payload.remove("node") {
            Some(Value::String(node)) => node_id(&node).map_err(|problem| in_field("node", problem))?,
            _ => return Err(Problem::field("node", "The node to create the server on is missing.")),
        };
        let then_start = match payload.remove("start") {
            None => false,
            Some(Value::Bool(start)) => start,
            Some(_) => return Err(Problem::field("start", "Expected true or false.")),
        };
        let server = match payload.remove("id") {
            Some(Value::String(id)) => server_id(&id).map_err(|problem| in_field("id", problem))?,
            None => new_server_id(payload.get("name").and_then(Value::as_str))?,
            Some(_) => return Err(Problem::field("id", format!("Expected {ID_RULE}."))),
        };
        if payload.get("image").and_then(Value::as_str).is_none_or(|image| image.trim().is_empty()) {
            return Err(Problem::field("image", "The image to run is missing."));
        }
        let (action, payload) = ("create_server".to_owned(), Value::Object(payload));
        let order = Order { node, server: Some(server), action, payload, then_start, raw: false };
        self.send(request, order, 201)
    }

    fn for_server(
        &self,
        request: &Request,
        (node, id): ServerKey,
        action: &str,
        payload: Map<String, Value>,
    ) -> Result<Response, Problem> {
        let (server, action, payload) = (Some(id), action.to_owned(), Value::Object(payload));
        self.send(request, Order { node, server, action, payload, then_start: false, raw: false }, 200)
    }

    /// `{action, serverId?, payload?}`, as the contract has it.
    fn raw(&self, request: &Request, node: NodeId) -> Result<Response, Problem> {
        let mut call = object(request)?;
        let action = match call.remove("action") {
            Some(Value::String(action)) if (1..=64).contains(&action.len()) => action,
            _ => return Err(Problem::field("action", "The action is missing.")),
        };
        let server = match call.remove("serverId") {
            None => None,
            Some(Value::String(id)) => Some(server_id(&id).map_err(|problem| in_field("serverId", problem))?),
            Some(_) => return Err(Problem::field("serverId", format!("Expected {ID_RULE}."))),
        };
        let payload = match call.remove("payload") {
            None => Value::Object(Map::new()),
            Some(payload @ Value::Object(_)) => payload,
            Some(_) => return Err(Problem::field("payload", "Expected an object.")),
        };
        if let Some(field) = call.keys().next() {
            return Err(unknown_field(field));
        }
        self.send(request, Order { node, server, action, payload, then_start: false, raw: true }, 200)
    }

    /// Gives the order, waits as long as the caller prefers, and tells the outcome.
    fn send(&self, request: &Request, order: Order, success: u16) -> Result<Response, Problem> {
        if depth(&order.payload) > MAX_DEPTH {
            return Err(Problem::new(
                422,
                "INVALID_PAYLOAD",
                format!("The body is nested over {MAX_DEPTH} levels."),
            ));
        }
        let wait = wait(request.header("prefer"));
        let Accepted { pending, outcome } = self.hub.order(order)?;
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let finished = (waiting < MAX_WAITING).then(|| outcome.recv_timeout(wait).ok()).flatten();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        // Without an outcome it is on its way still, also when the Panel ends meanwhile.
        let command = finished.unwrap_or(pending);
        let at = format!("/api/commands/{}", command.id);
        Ok(match command.state {
            Progressing::Pending => Response::json(202, body(&command)).with("Location", at),
            Progressing::Succeeded => Response::json(success, body(&command)),
            Progressing::Failed | Progressing::Unknown => {
                let status = command.error.as_ref().map_or(502, |problem| problem.status);
                Response::json(status, failed(&command))
            }
        })
    }
}

/// The action of a path's verb, with the options it takes.
fn action(verb: &str) -> Option<(&'static str, &'static [&'static str])> {
    Some(match verb {
        "start" => ("start_server", &[]),
        "stop" => ("stop_server", &["timeout", "signal"]),
        "restart" => ("restart_server", &["timeout", "signal"]),
        "kill" => ("kill_server", &[]),
        "suspend" => ("suspend_server", &[]),
        "unsuspend" => ("unsuspend_server", &[]),
        _ => return None,
    })
}

/// The methods of a path that exists.
fn allowed(path: &[&str]) -> Option<&'static str> {
    Some(match path {
        ["health"] | ["api", "nodes" | "events"] | ["api", "commands", _] => "GET",
        ["api", "servers"] => "GET and POST",
        ["api", "servers", _, _] => "GET, PATCH and DELETE",
        ["api", "servers", _, _, verb] if action(verb).is_some() => "POST",
        ["api", "nodes", _, "command"] => "POST",
        _ => return None,
    })
}

fn no_such_path() -> Problem {
    Problem::new(404, "NOT_FOUND", "There is nothing at this path.")
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

/// The body as a JSON object; an empty body is an empty one.
fn object(request: &Request) -> Result<Map<String, Value>, Problem> {
    if request.body().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(request.body()) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::new(400, "INVALID_JSON", "The body has to be a JSON object.")),
        Err(cause) => Err(Problem::new(400, "INVALID_JSON", format!("The body is not JSON: {cause}."))),
    }
}

/// The body of a call that takes some options and nothing else; what they mean is checked by the node.
fn options(request: &Request, known: &[&str]) -> Result<Map<String, Value>, Problem> {
    let object = object(request)?;
    match object.keys().find(|field| !known.contains(&field.as_str())) {
        Some(field) => Err(unknown_field(field)),
        None => Ok(object),
    }
}

fn unknown_field(field: &str) -> Problem {
    let shown: String = field.chars().take(64).collect();
    Problem::field(&shown, "This field is not known here.")
}

fn server_key(node: &str, id: &str) -> Result<ServerKey, Problem> {
    Ok((node_id(node)?, server_id(id)?))
}

fn node_id(text: &str) -> Result<NodeId, Problem> {
    text.parse().map_err(|_| Problem::new(422, "INVALID_PAYLOAD", format!("A node's id is {ID_RULE}.")))
}

fn server_id(text: &str) -> Result<ServerId, Problem> {
    text.parse().map_err(|_| Problem::new(422, "INVALID_PAYLOAD", format!("A server's id is {ID_RULE}.")))
}

fn in_field(field: &str, problem: Problem) -> Problem {
    Problem { field: Some(field.into()), ..problem }
}

/// An id that a person recognises, with four random digits so that it is new: `Survival World` gives
/// `survival-world-3fa9`.
fn new_server_id(name: Option<&str>) -> Result<ServerId, Problem> {
    let random = Secret::generate()
        .map_err(|_| Problem::new(500, "INTERNAL", "The system gave no random numbers."))?;
    let words = name.unwrap_or_default().to_lowercase();
    let words: Vec<&str> =
        words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut slug = words.join("-");
    slug.truncate(48); // ASCII only
    let slug = if slug.is_empty() { "server" } else { slug.trim_end_matches('-') };
    server_id(&format!("{slug}-{}", &random.expose()[..4]))
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn refusal(problem: &Problem) -> Response {
    let response = Response::json(problem.status, problem.body());
    if problem.status == 503 { response.with("Retry-After", "5") } else { response }
}

/// `{"command":{…}}`
fn body(command: &CommandView) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        command: &'a CommandView,
    }
    serde_json::to_vec(&Body { command }).expect("views have string keys and no serialiser that fails")
}

/// `{"error":{…},"commandId":"…"}`
fn failed(command: &CommandView) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        error: Option<&'a Problem>,
        command_id: &'a str,
    }
    let body = Body { error: command.error.as_ref(), command_id: &command.id };
    serde_json::to_vec(&body).expect("strings always serialise")
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

    #[test]
    fn ids_are_made_from_names() {
        let made = |name: &str| new_server_id(Some(name)).unwrap().to_string();
        assert!(made("Survival  World!").starts_with("survival-world-"));
        assert!(made("日本").starts_with("server-"));
        assert!(made(&"x".repeat(500)).len() <= 64);
        assert_ne!(made("a"), made("a"));
    }
}
