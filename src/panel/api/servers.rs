//! Servers: made from templates, shown, changed, powered and deleted.

use serde_json::{Map, Value, json as value};

use super::call::{Call, Fields};
use super::{Api, json, page};
use crate::gate::Response;
use crate::panel::accounts::{Principal, Rights, new_secret};
use crate::panel::hub::Order;
use crate::panel::journal::Search;
use crate::panel::problem::Problem;
use crate::panel::store::ServerKey;
use crate::panel::templates::check_spec;
use crate::panel::time::Time;
use crate::protocol::id::ID_RULE;
use crate::protocol::{NodeId, ServerId};

/// Fields of a spec that calls name themselves, beside `spec` for the rest.
const NAMED: [&str; 4] = ["startup", "stop", "limits", "environment"];

pub fn list(api: &Api, call: &Call) -> Result<Response, Problem> {
    let asker = call.asker()?.clone();
    let part = call.query_text("q", 64)?.unwrap_or_default().to_lowercase();
    let (status, node) = (call.query_text("status", 16)?, call.query_text("node", 64)?);
    let (limit, after) = (call.limit()?, call.cursor()?);
    let found = api.parts.hub.visit(move |fleet| {
        let mut found = Vec::new();
        for view in fleet.server_views() {
            let key = (view.node.clone(), view.id.clone());
            let cursor = format!("{}/{}", key.0, key.1);
            let text = || {
                let address = view.address.as_deref().unwrap_or_default();
                format!("{} {} {} {address}", view.name, view.id, view.image).to_lowercase()
            };
            let wanted = asker.rights(&key).has(Rights::VIEW)
                && after.as_ref().is_none_or(|after| cursor_key(&cursor) > cursor_key(after))
                && node.as_deref().is_none_or(|node| node == view.node.as_str())
                && status.as_deref().is_none_or(|status| status == view.status.to_string())
                && (part.is_empty() || text().contains(&part));
            if wanted {
                found.push(with_rights(&view, &asker, &key));
                if found.len() > limit {
                    break;
                }
            }
        }
        found
    })?;
    Ok(page::<Value>(found, limit, |server| format!("{}/{}", text(server, "node"), text(server, "id"))))
}

/// Node and id are compared one after the other, as the list is in order.
fn cursor_key(cursor: &str) -> (&str, &str) {
    cursor.split_once('/').unwrap_or((cursor, ""))
}

pub fn show(api: &Api, call: &Call) -> Result<Response, Problem> {
    let key = call.server()?;
    let asker = call.asker()?.clone();
    let wanted = key.clone();
    let found = api.parts.hub.visit(move |fleet| {
        let mut view = fleet.server_in_full(&wanted)?;
        // What is set in it may be secret; it belongs to those who may set it.
        if !asker.rights(&wanted).has(Rights::SETTINGS) {
            (view.spec, view.variables) = (None, None);
        }
        Some(with_rights(&view, &asker, &wanted))
    })?;
    found.map(|server| json(200, &server)).ok_or_else(|| super::no_server(&key))
}

fn with_rights(view: &impl serde::Serialize, asker: &Principal, key: &ServerKey) -> Value {
    let mut server = serde_json::to_value(view).unwrap_or_default();
    server["rights"] = value!(asker.rights(key).names());
    server
}

pub fn create(api: &Api, call: &Call) -> Result<Response, Problem> {
    let mut fields = call.fields()?;
    let node: NodeId = fields
        .needed("node", 64)?
        .parse()
        .map_err(|_| Problem::field("node", format!("A node's id is {ID_RULE}.")))?;
    let name = fields.needed("name", 64)?;
    let id: ServerId = match fields.text("id", 64)? {
        Some(id) => id.parse().map_err(|_| Problem::field("id", format!("Expected {ID_RULE}.")))?,
        None => new_id(&name, "server")?
            .parse()
            .map_err(|_| Problem::field("name", "No id can be made of it: give one."))?,
    };
    call.note(|note| {
        (note.node, note.server) = (Some(node.to_string()), Some(id.to_string()));
        note.detail = Some(name.clone());
    });
    let start = fields.flag("start")?.unwrap_or(false);
    let template = fields.text("template", 64)?;
    let given = fields.object("variables")?.unwrap_or_default();
    let (mut spec, variables) = match &template {
        Some(id) => {
            let template = api.parts.templates.get(id).map_err(|problem| Problem {
                status: 422,
                field: Some("template".into()),
                ..problem
            })?;
            let variables = template.values(&given)?;
            let mut spec = template.spec(&variables);
            if let Some(image) = fields.text("image", 255)?.filter(|image| *image != template.image) {
                if !template.image_editable {
                    return Err(Problem::field("image", "This template's image cannot be changed."));
                }
                spec.insert("image".into(), image.into());
            }
            (spec, Some(variables))
        }
        None => {
            if !given.is_empty() {
                return Err(Problem::field("variables", "Variables belong to a template; use environment."));
            }
            let image = fields.needed("image", 255)?;
            (Map::from_iter([("image".to_owned(), Value::String(image))]), None)
        }
    };
    spec.insert("name".into(), name.into());
    let ports = ports(&mut fields)?;
    lay_over(&mut spec, &mut fields)?;
    if let Some(ports) = ports {
        let open = spec.remove("ports");
        spec.insert("ports".into(), merged(open, ports));
    }
    let keep_data = fields.flag("keepData")?;
    fields.end()?;
    check_ports_later(&spec)?;
    if let Some(keep) = keep_data {
        spec.insert("keepData".into(), keep.into());
    }
    let order = Order::new(node, Some(id), "create_server", Value::Object(spec));
    api.send(call, Order { then_start: start, template, variables, ..order }, 201)
}

pub fn change(api: &Api, call: &Call) -> Result<Response, Problem> {
    let key = call.server()?;
    let mut fields = call.fields()?;
    let wanted = key.clone();
    let current = api.parts.hub.visit(move |fleet| {
        fleet.store.server(&wanted).map(|record| (record.template.clone(), record.variables.clone()))
    })?;
    let (template, known) = current.ok_or_else(|| super::no_server(&key))?;
    let mut patch = Map::new();
    let mut variables = None;
    if let Some(name) = fields.text("name", 64)? {
        if name.trim().is_empty() {
            return Err(Problem::field("name", "This is needed."));
        }
        patch.insert("name".into(), name.into());
    }
    if let Some(image) = fields.text("image", 255)? {
        patch.insert("image".into(), image.into());
    }
    if let Some(given) = fields.object("variables")? {
        let Some(template) = template else {
            return Err(Problem::field("variables", "This server has no template; use environment."));
        };
        let template = api.parts.templates.get(&template)?;
        // What the server has counts for those that are not given.
        let mut all = known;
        all.retain(|name, _| template.variables.iter().any(|variable| variable.name == *name));
        all.extend(given.clone());
        let values = template.values(&all)?;
        let changed = values.iter().filter(|(name, _)| given.contains_key(*name));
        let environment: Map<String, Value> = changed
            .map(|(name, text)| {
                let unset = text.as_str() == Some("");
                (name.clone(), if unset { Value::Null } else { text.clone() })
            })
            .collect();
        patch.insert("environment".into(), Value::Object(environment));
        variables = Some(values);
    }
    if let Some(ports) = ports(&mut fields)? {
        patch.insert("ports".into(), Value::Array(ports));
    }
    lay_over(&mut patch, &mut fields)?;
    fields.end()?;
    if patch.is_empty() {
        return Err(Problem::new(422, "INVALID_PAYLOAD", "There is nothing to change in it."));
    }
    let names: Vec<&str> = patch.keys().map(String::as_str).collect();
    call.note(|note| note.detail = Some(names.join(", ")));
    let order = Order::new(key.0, Some(key.1), "update_server", Value::Object(patch));
    api.send(call, Order { variables, ..order }, 200)
}

pub fn remove(api: &Api, call: &Call) -> Result<Response, Problem> {
    let key = call.server()?;
    let mut fields = call.fields()?;
    let data = fields.flag("removeData")?.unwrap_or(false);
    let confirm = fields.needed("confirm", 64)?;
    fields.end()?;
    let wanted = key.clone();
    let name = api.parts.hub.visit(move |fleet| {
        fleet.server_in_full(&wanted).map(|view| (view.name.to_owned(), view.id.to_string()))
    })?;
    let (name, id) = name.ok_or_else(|| super::no_server(&key))?;
    if confirm != name && confirm != id {
        return Err(Problem::field("confirm", format!("Type the server's name, {name}, to delete it.")));
    }
    call.note(|note| note.detail = Some(format!("{name}{}", if data { ", with its files" } else { "" })));
    let (node, server) = key.clone();
    let payload = value!({"removeData": data});
    let response = api.send(call, Order::new(node, Some(server), "delete_server", payload), 200)?;
    if response.status() == 200 {
        // Another server of this id is another server.
        api.parts.accounts.forget_grants(&key)?;
    }
    Ok(response)
}

pub fn power(api: &Api, call: &Call, action: &'static str) -> Result<Response, Problem> {
    let (node, server) = call.server()?;
    let mut fields = call.fields()?;
    let mut payload = Map::new();
    if matches!(action, "stop_server" | "restart_server")
        && let Some(seconds) = fields.number("timeout", 0, 3_600)?
    {
        payload.insert("timeout".into(), seconds.into());
    }
    fields.end()?;
    api.send(call, Order::new(node, Some(server), action, Value::Object(payload)), 200)
}

pub fn reinstall(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (node, server) = call.server()?;
    let mut fields = call.fields()?;
    let keep = fields.flag("keepData")?.unwrap_or(true);
    fields.end()?;
    let payload = value!({"keepData": keep});
    api.send(call, Order::new(node, Some(server), "install_server", payload), 200)
}

pub fn metrics(api: &Api, call: &Call) -> Result<Response, Problem> {
    let key = call.server()?;
    let wanted = key.clone();
    let limits = api.parts.hub.visit(move |fleet| fleet.server_in_full(&wanted).map(|view| view.limits))?;
    let limits = limits.ok_or_else(|| super::no_server(&key))?;
    let range = call.query("range").unwrap_or("1h");
    let chart = api.parts.metrics.chart(key.0.as_str(), key.1.as_str(), range)?;
    let search = Search {
        action: Some("server.".into()),
        node: Some(key.0.to_string()),
        server: Some(key.1.to_string()),
        user: Some("node".into()),
        from: Some(chart.from),
        ..Search::default()
    };
    let marks: Vec<Value> = api
        .parts
        .journal
        .search(&search, 200)?
        .into_iter()
        .rev()
        .filter_map(|entry| {
            let kind = match entry.action.as_str() {
                "server.running" => "start",
                "server.stopped" => "stop",
                "server.crashed" => "crash",
                "server.oom" => "oom",
                _ => return None,
            };
            Some(value!({"time": entry.time, "kind": kind, "text": entry.detail.unwrap_or_default()}))
        })
        .collect();
    let mut body = serde_json::to_value(&chart).unwrap_or_default();
    (body["limits"], body["marks"]) = (value!(limits), Value::Array(marks));
    Ok(json(200, &body))
}

pub fn commands(api: &Api, call: &Call) -> Result<Response, Problem> {
    let key = call.server()?;
    let (limit, wanted) = (call.limit()?, key.clone());
    let before: Option<Time> = match call.cursor()?.as_deref() {
        None => None,
        Some(text) => {
            Some(text.parse().map_err(|_| Problem::field("cursor", "This is no cursor of this list."))?)
        }
    };
    let found = api.parts.hub.visit(move |fleet| {
        fleet.store.server(&wanted)?;
        let views = fleet.commands_of(&wanted).into_iter();
        let older = views.filter(|view| before.is_none_or(|before| view.created < before));
        Some(older.take(limit + 1).collect::<Vec<_>>())
    })?;
    let found = found.ok_or_else(|| super::no_server(&key))?;
    Ok(page(found, limit, |command| command.created.to_string()))
}

// ---- specs

/// Lays what a call names itself over a spec, and then its `spec`; both are merged name by name.
fn lay_over(spec: &mut Map<String, Value>, fields: &mut Fields) -> Result<(), Problem> {
    for name in NAMED {
        if let Some(given) = fields.take(name) {
            over(spec, name, given);
        }
    }
    for (name, given) in fields.object("spec")?.unwrap_or_default() {
        if matches!(name.as_str(), "name" | "image" | "ports" | "keepData" | "skipScripts" | "eggConfig") {
            return Err(Problem::field(&format!("spec.{name}"), "Give this beside spec, not in it."));
        }
        over(spec, &name, given);
    }
    Ok(())
}

fn over(spec: &mut Map<String, Value>, name: &str, given: Value) {
    match (spec.get_mut(name), given) {
        (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
        (_, given) => drop(spec.insert(name.to_owned(), given)),
    }
}

/// Ports as a call has them; one without `external` is open.
fn ports(fields: &mut Fields) -> Result<Option<Vec<Value>>, Problem> {
    let Some(list) = fields.list("ports", 32)? else { return Ok(None) };
    let port = |(index, item): (usize, Value)| {
        let at = |part: &str| format!("ports[{index}]{part}");
        let Value::Object(object) = item else { return Err(Problem::field(&at(""), "Expected an object.")) };
        let mut fields = Fields(object);
        let inside =
            fields.number("internal", 1, 65_535).map_err(|p| Problem::field(&at(".internal"), p.message))?;
        let inside = inside.ok_or_else(|| Problem::field(&at(".internal"), "This is needed."))?;
        let outside =
            fields.number("external", 1, 65_535).map_err(|p| Problem::field(&at(".external"), p.message))?;
        let kind = fields.text("protocol", 3)?.unwrap_or_else(|| "tcp".into());
        if !matches!(kind.as_str(), "tcp" | "udp") {
            return Err(Problem::field(&at(".protocol"), "Expected tcp or udp."));
        }
        let mut port = value!({"internal": inside, "external": outside.unwrap_or(0), "protocol": kind});
        if let Some(ip) = fields.text("ip", 45)? {
            if ip.parse::<std::net::IpAddr>().is_err() {
                return Err(Problem::field(&at(".ip"), "Expected an IP address."));
            }
            port["ip"] = ip.into();
        }
        fields.end()?;
        Ok(port)
    };
    list.into_iter().enumerate().map(port).collect::<Result<Vec<_>, _>>().map(Some)
}

/// The template's ports, with those that were given in their place or behind them.
fn merged(open: Option<Value>, given: Vec<Value>) -> Value {
    let mut ports = match open {
        Some(Value::Array(ports)) => ports,
        _ => Vec::new(),
    };
    for port in given {
        let same = |known: &&mut Value| {
            known["internal"] == port["internal"] && known["protocol"] == port["protocol"]
        };
        match ports.iter_mut().find(same) {
            // One left open keeps the template's preference.
            Some(known) if port["external"] == 0 => {
                if let Some(ip) = port.get("ip") {
                    known["ip"] = ip.clone();
                }
            }
            Some(known) => *known = port,
            None => ports.push(port),
        }
    }
    Value::Array(ports)
}

/// Checks a spec whose open ports are not chosen yet.
fn check_ports_later(spec: &Map<String, Value>) -> Result<(), Problem> {
    let mut with_ports = spec.clone();
    if let Some(Value::Array(ports)) = with_ports.get_mut("ports") {
        let mut free = 40_000_u16;
        for port in ports {
            if let Some(port) = port.as_object_mut() {
                port.remove("preferred");
                if port.get("external") == Some(&value!(0)) {
                    free += 1;
                    port.insert("external".into(), free.into());
                }
            }
        }
    }
    check_spec(&with_ports)
}

/// An id that a person recognises, with four random digits so that it is new: `Survival World` gives
/// `survival-world-3fa9`.
pub fn new_id(name: &str, without: &str) -> Result<String, Problem> {
    let random = new_secret()?;
    let words = name.to_lowercase();
    let words: Vec<&str> =
        words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut slug = words.join("-");
    slug.truncate(48); // ASCII only
    let slug = if slug.is_empty() { without } else { slug.trim_end_matches('-') };
    Ok(format!("{slug}-{}", &random.expose()[..4]))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_made_from_names() {
        let made = |name: &str| new_id(name, "server").unwrap();
        assert!(made("Survival  World!").starts_with("survival-world-"));
        assert!(made("日本").starts_with("server-"));
        assert!(made(&"x".repeat(500)).len() <= 64);
        assert_ne!(made("a"), made("a"));
    }

    #[test]
    fn ports_that_are_given_take_the_place_of_the_templates() {
        let open = value!([
            {"internal": 1, "external": 0, "protocol": "tcp", "preferred": 9},
            {"internal": 1, "external": 0, "protocol": "udp"},
        ]);
        let given = vec![
            value!({"internal": 1, "external": 5, "protocol": "udp"}),
            value!({"internal": 2, "external": 0, "protocol": "tcp"}),
            value!({"internal": 1, "external": 0, "protocol": "tcp"}),
        ];
        let expected = value!([
            {"internal": 1, "external": 0, "protocol": "tcp", "preferred": 9},
            {"internal": 1, "external": 5, "protocol": "udp"},
            {"internal": 2, "external": 0, "protocol": "tcp"},
        ]);
        assert_eq!(merged(Some(open), given), expected);
    }
}
