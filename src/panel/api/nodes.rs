//! Nodes: made, joined, changed, their secrets rotated and revoked.

use std::time::Duration;

use serde_json::{Value, json as value};

use super::call::{Call, Fields};
use super::{Api, json, page};
use crate::gate::Response;
use crate::panel::accounts::new_secret;
use crate::panel::hub::{NodeChange, Order};
use crate::panel::problem::Problem;
use crate::panel::secret::SecretHash;
use crate::panel::store::{NodeRecord, PortRange};
use crate::panel::time::Time;
use crate::protocol::NodeId;
use crate::protocol::id::ID_RULE;
use crate::protocol::join::JoinToken;

pub fn list(api: &Api, call: &Call) -> Result<Response, Problem> {
    let part = call.query_text("q", 64)?.unwrap_or_default().to_lowercase();
    let (limit, after) = (call.limit()?, call.cursor()?);
    let found = api.parts.hub.visit(move |fleet| {
        let views = fleet.node_views().filter(|view| {
            let text = format!("{} {} {}", view.id, view.name, view.address).to_lowercase();
            text.contains(&part) && after.as_deref().is_none_or(|after| view.id.as_str() > after)
        });
        views.take(limit + 1).map(|view| serde_json::to_value(view).unwrap_or_default()).collect()
    })?;
    Ok(page::<Value>(found, limit, |node| node["id"].as_str().unwrap_or_default().to_owned()))
}

pub fn show(api: &Api, call: &Call) -> Result<Response, Problem> {
    let id = call.node()?;
    Ok(json(200, &view(api, &id)?))
}

pub fn create(api: &Api, call: &Call) -> Result<Response, Problem> {
    let mut fields = call.fields()?;
    let id = fields.text("id", 64)?;
    let change = change_of(&mut fields)?;
    fields.end()?;
    let id: NodeId = match id {
        Some(id) => id.parse().map_err(|_| Problem::field("id", format!("Expected {ID_RULE}.")))?,
        None => {
            let name = change.name.as_deref().unwrap_or_default();
            super::servers::new_id(name, "node")?
                .parse()
                .map_err(|_| Problem::field("name", "No id can be made of it: give one."))?
        }
    };
    call.note(|note| note.node = Some(id.to_string()));
    let (node, token) = (id.clone(), new_secret()?);
    let expires = api.parts.hub.visit({
        let hash = token.hash();
        move |fleet| {
            let join = fleet.join_offer(hash);
            let record = NodeRecord {
                name: change.name.unwrap_or_default(),
                address: change.address.unwrap_or_default(),
                ports: change.ports.unwrap_or_default(),
                join: Some(join.clone()),
                ..NodeRecord::new(None, Time::now())
            };
            fleet.add_node(&node, record).map(|()| join.until)
        }
    })??;
    let join = JoinToken { node: id.clone(), secret: token.expose().into(), pin: pin(api) };
    Ok(json(201, &value!({"node": view(api, &id)?, "join": join_body(call, &join, expires)})))
}

pub fn change(api: &Api, call: &Call) -> Result<Response, Problem> {
    let id = call.node()?;
    let mut fields = call.fields()?;
    let maintenance = fields.flag("maintenance")?;
    let change = NodeChange { maintenance, ..change_of(&mut fields)? };
    fields.end()?;
    let node = id.clone();
    api.parts.hub.visit(move |fleet| fleet.change_node(&node, change))??;
    Ok(json(200, &view(api, &id)?))
}

pub fn remove(api: &Api, call: &Call) -> Result<Response, Problem> {
    let id = call.node()?;
    api.parts.hub.visit(move |fleet| fleet.remove_node(&id))??;
    Ok(Response::empty(204))
}

pub fn join_token(api: &Api, call: &Call) -> Result<Response, Problem> {
    call.no_fields()?;
    let (id, token) = (call.node()?, new_secret()?);
    let (node, hash) = (id.clone(), token.hash());
    let expires = api.parts.hub.visit(move |fleet| fleet.new_join(&node, hash))??;
    let join = JoinToken { node: id, secret: token.expose().into(), pin: pin(api) };
    Ok(json(201, &join_body(call, &join, expires)))
}

pub fn rotate(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (id, secret) = (call.node()?, new_secret()?);
    let mut fields = call.fields()?;
    let hours = fields.number("overlapHours", 0, 720)?.unwrap_or(24);
    fields.end()?;
    let (hash, overlap) = (secret.hash(), Duration::from_secs(hours * 3600));
    let until = api.parts.hub.visit(move |fleet| fleet.rotate(&id, hash, overlap))??;
    Ok(json(201, &value!({"secret": secret.expose(), "previousUntil": until})))
}

pub fn revoke(api: &Api, call: &Call) -> Result<Response, Problem> {
    call.no_fields()?;
    let id = call.node()?;
    let node = id.clone();
    api.parts.hub.visit(move |fleet| fleet.revoke(&node))??;
    Ok(json(200, &view(api, &id)?))
}

pub fn metrics(api: &Api, call: &Call) -> Result<Response, Problem> {
    let id = call.node()?;
    view(api, &id)?;
    let chart = api.parts.metrics.chart(id.as_str(), "", call.query("range").unwrap_or("1h"))?;
    let mut body = serde_json::to_value(&chart).unwrap_or_default();
    body["marks"] = Value::Array(Vec::new());
    Ok(json(200, &body))
}

pub fn free_ports(api: &Api, call: &Call) -> Result<Response, Problem> {
    let id = call.node()?;
    view(api, &id)?;
    let count = call.query_number("count", 1, 32)?.unwrap_or(1);
    let count = usize::try_from(count).unwrap_or(1);
    let ports = api.parts.hub.visit(move |fleet| fleet.free_ports(&id, count))?;
    Ok(json(200, &value!({"ports": ports})))
}

/// Any action of the contract, as it is.
pub fn command(api: &Api, call: &Call) -> Result<Response, Problem> {
    let node = call.node()?;
    let mut fields = call.fields()?;
    let action = fields.needed("action", 64)?;
    let server = match fields.text("serverId", 64)? {
        Some(id) => Some(id.parse().map_err(|_| Problem::field("serverId", format!("Expected {ID_RULE}.")))?),
        None => None,
    };
    let payload = Value::Object(fields.object("payload")?.unwrap_or_default());
    fields.end()?;
    call.note(|note| {
        note.detail = Some(action.clone());
        note.server = server.as_ref().map(ToString::to_string);
    });
    api.send(call, Order { raw: true, ..Order::new(node, server, &action, payload) }, 200)
}

/// Trades a join token for the node's secret.
pub fn join(api: &Api, call: &Call) -> Result<Response, Problem> {
    let mut fields = call.fields()?;
    let text = fields.needed("token", 512)?;
    fields.end()?;
    let wrong = || Problem::new(401, "JOIN_TOKEN", "This is no join token. Copy the whole command again.");
    let token: JoinToken = text.parse().map_err(|()| wrong())?;
    call.note(|note| (note.user, note.node) = (Some("node".into()), Some(token.node.to_string())));
    let secret = new_secret()?;
    let (node, presented, hash) =
        (token.node.clone(), SecretHash::of(token.secret.as_bytes()), secret.hash());
    api.parts.hub.visit(move |fleet| fleet.join(&node, &presented, hash))??;
    Ok(json(201, &value!({"node": token.node, "secret": secret.expose(), "url": "/agent"})))
}

fn view(api: &Api, id: &NodeId) -> Result<Value, Problem> {
    let node = id.clone();
    let found = api.parts.hub.visit(move |fleet| {
        fleet.node_in_full(&node).map(|view| serde_json::to_value(view).unwrap_or_default())
    })?;
    found.ok_or_else(|| Problem::new(404, "NODE_NOT_FOUND", format!("There is no node {id}.")))
}

fn change_of(fields: &mut Fields) -> Result<NodeChange, Problem> {
    let name = fields.text("name", 64)?;
    if name.as_deref().is_some_and(|name| name.chars().any(char::is_control)) {
        return Err(Problem::field("name", "Use one line of text."));
    }
    let address = fields.text("address", 253)?;
    let is_address = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':'))
    };
    if address.as_deref().is_some_and(|text| !is_address(text)) {
        return Err(Problem::field("address", "Expected a host name or an IP address, without a port."));
    }
    let ports = match fields.object("ports")? {
        None => None,
        Some(object) => {
            let mut range = Fields(object);
            let (first, last) = (range.number("first", 1, 65_535)?, range.number("last", 1, 65_535)?);
            range.end()?;
            let port = |port: Option<u64>| port.and_then(|port| u16::try_from(port).ok());
            match (port(first), port(last)) {
                (Some(first), Some(last)) if first <= last => Some(PortRange { first, last }),
                _ => {
                    return Err(Problem::field(
                        "ports",
                        "Expected a first port and a last one not below it.",
                    ));
                }
            }
        }
    };
    Ok(NodeChange { name, address, ports, maintenance: None })
}

fn join_body(call: &Call, token: &JoinToken, expires: Time) -> Value {
    let scheme = if call.secure { "https" } else { "http" };
    let host = call.request.header("host").unwrap_or("localhost");
    let url = format!("{scheme}://{host}");
    let text = token.to_string();
    value!({
        "expires": expires,
        "url": url,
        // The token goes in by standard input: an argument would be seen in the list of processes.
        "command": format!("longshore-agent join {url} <<'TOKEN'\n{text}\nTOKEN"),
        "token": text,
    })
}

/// What a joining Agent is to hold the Panel's certificate against.
fn pin(api: &Api) -> Option<String> {
    api.parts.certificate.as_ref().and_then(|pin| pin())
}
