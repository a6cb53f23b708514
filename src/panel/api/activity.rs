//! Who did what, the live stream, the API's own description, and figures for Prometheus.

use std::fmt::Write;

use super::call::Call;
use super::{Api, page};
use crate::gate::{Request, Response};
use crate::panel::accounts::Rights;
use crate::panel::events::Audience;
use crate::panel::journal::Search;
use crate::panel::problem::Problem;
use crate::panel::time::Time;

pub fn document(_: &Api, _: &Call) -> Result<Response, Problem> {
    Ok(Response::json(200, include_bytes!("openapi.json").to_vec()))
}

pub fn search(api: &Api, call: &Call) -> Result<Response, Problem> {
    let asker = call.asker()?;
    let time = |name: &str| -> Result<Option<Time>, Problem> {
        let text = call.query_text(name, 40)?;
        let time =
            text.map(|text| text.parse().map_err(|_| Problem::field(name, "Expected a time as RFC 3339.")));
        time.transpose()
    };
    let limit = call.limit()?;
    let only = (!asker.is_admin()).then(|| {
        let seen = asker.grants.iter().filter(|(_, rights)| rights.has(Rights::VIEW));
        (asker.name.clone(), seen.map(|((node, id), _)| (node.to_string(), id.to_string())).collect())
    });
    let search = Search {
        text: call.query_text("q", 64)?,
        user: call.query_text("user", 64)?,
        action: call.query_text("action", 64)?,
        node: call.query_text("node", 64)?,
        server: call.query_text("server", 64)?,
        from: time("from")?,
        to: time("to")?,
        before: call.after()?,
        only,
    };
    let found = api.parts.journal.search(&search, limit + 1)?;
    Ok(page(found, limit, |entry| entry.id.to_string()))
}

pub fn events(api: &Api, call: &Call) -> Result<Response, Problem> {
    let who = call.asker()?.clone();
    let console = match call.query("console") {
        None => None,
        Some(text) => {
            let key =
                text.split_once('/').and_then(|(node, id)| Some((node.parse().ok()?, id.parse().ok()?)));
            Some(key.ok_or_else(|| Problem::field("console", "Expected NODE/SERVER."))?)
        }
    };
    if let Some(key) = console.as_ref().filter(|key| !who.rights(key).has(Rights::VIEW)) {
        return Err(super::no_server(key));
    }
    let last = call.request.header("last-event-id").and_then(|id| id.parse().ok());
    if call.request.method() == "HEAD" {
        return Ok(Response::bytes(200, "text/event-stream", Vec::new()));
    }
    let stream = api.parts.hub.subscribe(Audience { who, console }, last)?;
    Ok(Response::stream("text/event-stream", stream).with("X-Accel-Buffering", "no"))
}

impl Api {
    /// On this machine for everybody, from elsewhere with a token of the scope `metrics`.
    pub(super) fn own_metrics(&self, request: &Request) -> Result<Response, Problem> {
        if !request.is_local() {
            let (address, _) = self.parts.proxies.asker(request.head(), request.peer(), self.parts.tls);
            let asker = self.principal(request.head(), address)?.ok_or_else(super::not_logged_in)?;
            if !asker.is_admin() || !asker.scopes().has(Rights::METRICS) {
                return Err(super::forbidden("An admin's token with the scope \"metrics\" is needed."));
            }
        }
        let figures = self.parts.hub.visit(|fleet| fleet.figures())?;
        let mut text = String::new();
        let mut say = |name: &str, kind: &str, help: &str, values: &[(String, f64)]| {
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "# HELP longshore_panel_{name} {help}\n# TYPE longshore_panel_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "longshore_panel_{name}{labels} {value}");
            }
        };
        let one = |value: f64| vec![(String::new(), value)];
        say("nodes", "gauge", "Nodes by whether they are linked.", &figures.nodes);
        say("servers", "gauge", "Servers by their last known state.", &figures.servers);
        say("commands_pending", "gauge", "Commands without an answer.", &one(figures.pending));
        say("event_streams", "gauge", "Open event streams.", &one(figures.streams));
        say("node_reconnects_total", "counter", "Links of a node after its first.", &figures.reconnects);
        say("node_round_trip_seconds", "gauge", "Round trip to a node.", &figures.round_trips);
        say("resident_bytes", "gauge", "Memory of this process.", &one(resident()));
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        Ok(Response::bytes(200, content_type, text.into_bytes()))
    }
}

/// From /proc, in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}
