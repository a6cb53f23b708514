//! `GET /health`: whether this node works, from a snapshot that the agent loop keeps, so that it is answered even
//! while every worker is busy. Runs on the gate's threads.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::system::Sample;
use crate::gate::{Request, Response};
use crate::link::Secret;
use crate::protocol::outcome::ServerCount;

/// The snapshot. Behind a lock since the loop writes it and the gate's threads read it, for microseconds each.
#[derive(Debug)]
pub struct Board {
    node: String,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    connected: bool,
    trouble: Option<String>,
    docker: Option<(String, String)>,
    system: System,
    servers: ServerCount,
}

/// The body of an answer. Percentages under `system`, seconds in `uptime`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health<'a> {
    status: &'static str,
    timestamp: String,
    version: &'static str,
    node_id: &'a str,
    uptime: u64,
    connected: bool,
    /// Why there is no link, in plain words.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'a str>,
    docker: Docker<'a>,
    system: System,
    servers: ServerCount,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Docker<'a> {
    available: bool,
    version: Option<&'a str>,
    api_version: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct System {
    cpu: f64,
    memory: f64,
    disk: f64,
}

impl Board {
    pub fn new(node: &str) -> Board {
        Board { node: node.to_owned(), started: Instant::now(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is true now. Called by the agent loop.
    pub fn publish(
        &self,
        connected: bool,
        trouble: Option<&str>,
        docker: Option<(&str, &str)>,
        sample: &Sample,
        servers: ServerCount,
    ) {
        let mut state = self.state();
        state.connected = connected;
        if state.trouble.as_deref() != trouble {
            state.trouble = trouble.map(str::to_owned);
        }
        if state.docker.as_ref().map(|(version, api)| (version.as_str(), api.as_str())) != docker {
            state.docker = docker.map(|(version, api)| (version.to_owned(), api.to_owned()));
        }
        state.system =
            System { cpu: sample.cpu, memory: sample.memory.percentage, disk: sample.disk.percentage };
        state.servers = servers;
    }

    /// Answers a request. Everything is told on this machine and to whoever knows the secret, only the status to
    /// others: versions and counts help an attacker more than a load balancer.
    pub fn answer(&self, request: &Request, secret: &dyn Fn() -> Option<Secret>) -> Response {
        if request.path() != "/health" {
            return Response::not_found();
        }
        if !matches!(request.method(), "GET" | "HEAD") {
            return Response::method_not_allowed("GET, HEAD");
        }
        let state = self.state().clone();
        let status = match (state.connected, state.docker.is_some()) {
            (true, true) => "healthy",
            (false, false) => "unhealthy",
            _ => "degraded",
        };
        let code = if status == "healthy" { 200 } else { 503 };
        if refuse(request, secret).is_some() {
            return Response::json(code, format!("{{\"status\":\"{status}\"}}"));
        }
        let (version, api_version) = match &state.docker {
            Some((version, api)) => (Some(version.as_str()), Some(api.as_str())),
            None => (None, None),
        };
        let health = Health {
            status,
            timestamp: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            version: crate::version::VERSION,
            node_id: &self.node,
            uptime: self.started.elapsed().as_secs(),
            connected: state.connected,
            trouble: state.trouble.as_deref(),
            docker: Docker { available: state.docker.is_some(), version, api_version },
            system: state.system,
            servers: state.servers,
        };
        // Texts and numbers under fixed names: there is nothing in it that could not be written.
        Response::json(code, serde_json::to_string(&health).unwrap_or_default())
    }
}

/// The answer to who may not know: details are for this machine, by a name that is its own, and for whoever bears the
/// secret.
pub(super) fn refuse(request: &Request, secret: &dyn Fn() -> Option<Secret>) -> Option<Response> {
    let own_host = request.head().has_own_host();
    match request.is_local() {
        true if own_host => None,
        _ if is_authorized(request, secret) => None,
        true => Some(Response::text(421, "ask by address or as localhost, or with the node's secret\n")),
        false => {
            let refusal = Response::text(401, "the node's secret is required\n");
            Some(refusal.with("WWW-Authenticate", "Bearer"))
        }
    }
}

/// `Authorization: Bearer` or `X-API-Key`, compared in constant time.
fn is_authorized(request: &Request, secret: &dyn Fn() -> Option<Secret>) -> bool {
    let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let given = bearer.or_else(|| request.header("x-api-key"));
    match (given, secret()) {
        (Some(given), Some(secret)) => secret.matches(given.trim().as_bytes()),
        _ => false,
    }
}
