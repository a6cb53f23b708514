//! The calls under `/api` that the page made before there were accounts. They go when the page asks `/api/v1`.

use serde_json::{Map, Value};

use super::Api;
use super::call::Call;
use crate::gate::{Request, Response};
use crate::panel::accounts::{Principal, Role, Via};
use crate::panel::events::Audience;
use crate::panel::hub::Order;
use crate::panel::problem::Problem;
use crate::panel::store::ServerKey;
use crate::protocol::id::ID_RULE;
use crate::protocol::{NodeId, ServerId};

impl Api {
    pub(super) fn old_route(&self, request: &Request) -> Result<Response, Problem> {
        let path: Vec<&str> = request.path().split('/').skip(1).collect();
        match (request.method(), &path[..]) {
            ("GET" | "HEAD", ["api", "nodes"]) => {
                let nodes = self.parts.hub.visit(|fleet| {
                    let views = fleet.node_views();
                    views.map(|view| serde_json::to_value(view).unwrap_or_default()).collect::<Vec<_>>()
                })?;
                Ok(super::json(200, &serde_json::json!({"nodes": nodes})))
            }
            ("GET" | "HEAD", ["api", "servers"]) => {
                let servers = self.parts.hub.visit(|fleet| {
                    let views = fleet.server_views();
                    views.map(|view| serde_json::to_value(view).unwrap_or_default()).collect::<Vec<_>>()
                })?;
                Ok(super::json(200, &serde_json::json!({"servers": servers})))
            }
            ("GET" | "HEAD", ["api", "servers", node, id]) => self.server(server_key(node, id)?),
            ("GET" | "HEAD", ["api", "commands", id]) => {
                let parameters = vec![("id", (*id).to_owned())];
                let mut call = Call::new(request, request.peer().ip(), false, parameters);
                call.asker = Some(nobody());
                super::send::command(self, &call)
            }
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

    fn server(&self, key: ServerKey) -> Result<Response, Problem> {
        let wanted = key.clone();
        let found = self.parts.hub.visit(move |fleet| {
            fleet.server_in_full(&wanted).map(|view| serde_json::to_value(view).unwrap_or_default())
        })?;
        found.map(|body| super::json(200, &body)).ok_or_else(|| super::no_server(&key))
    }

    fn events(&self, request: &Request) -> Result<Response, Problem> {
        let last = request.header("last-event-id").and_then(|id| id.parse().ok());
        let audience = Audience { who: nobody(), console: None };
        Ok(Response::stream("text/event-stream", self.parts.hub.subscribe(audience, last)?))
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
            None => server_id(&super::servers::new_id(
                payload.get("name").and_then(Value::as_str).unwrap_or_default(),
                "server",
            )?)?,
            Some(_) => return Err(Problem::field("id", format!("Expected {ID_RULE}."))),
        };
        if payload.get("image").and_then(Value::as_str).is_none_or(|image| image.trim().is_empty()) {
            return Err(Problem::field("image", "The image to run is missing."));
        }
        let (action, payload) = ("create_server".to_owned(), Value::Object(payload));
        let order = Order::new(node, Some(server), &action, payload);
        self.send_old(request, Order { then_start, ..order }, 201)
    }

    fn for_server(
        &self,
        request: &Request,
        (node, id): ServerKey,
        action: &str,
        payload: Map<String, Value>,
    ) -> Result<Response, Problem> {
        self.send_old(request, Order::new(node, Some(id), action, Value::Object(payload)), 200)
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
        self.send_old(request, Order { raw: true, ..Order::new(node, server, &action, payload) }, 200)
    }

    fn send_old(&self, request: &Request, order: Order, success: u16) -> Result<Response, Problem> {
        self.send(&Call::new(request, request.peer().ip(), false, Vec::new()), order, success)
    }
}

/// As good as everybody: these calls know no accounts.
fn nobody() -> Principal {
    let via = Via::Session { hash: String::new(), csrf: String::new() };
    Principal { user: 0, name: String::new(), role: Role::Admin, grants: Default::default(), via }
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
