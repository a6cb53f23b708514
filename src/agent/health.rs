//! Whether this node works, for `/health` and `/api/status`: from a snapshot that the agent loop keeps, so that they are
//! answered even while every worker is busy. Runs on the gate's threads.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::system::Sample;
use crate::gate::Response;
use crate::protocol::outcome::ServerCount;

/// The snapshot. Behind a lock since the loop writes it and the gate's threads read it, for microseconds each.
#[derive(Debug)]
pub struct Board {
    node: String,
    /// What the Agent has taken from itself, in words.
    confinement: String,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    connected: bool,
    trouble: Option<String>,
    policy_fault: Option<String>,
    docker: Option<(String, String)>,
    journal: Option<&'static str>,
    system: System,
    servers: ServerCount,
}

/// The body of an answer to `/health`. Percentages under `system`, seconds in `uptime`.
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
    /// Why the policy's file could not be taken again, so that the rules before hold on.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_fault: Option<&'a str>,
    confinement: &'a str,
    docker: Docker<'a>,
    /// Why the journal of commands cannot be written; left out while it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<&'static str>,
    system: System,
    servers: ServerCount,
}

/// The body of an answer to `/api/status`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Standing<'a> {
    online: bool,
    version: &'static str,
    /// Seconds.
    uptime: u64,
    server_count: usize,
    node_id: &'a str,
    connected: bool,
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
    pub fn new(node: &str, confinement: String) -> Board {
        Board { node: node.to_owned(), confinement, started: Instant::now(), state: Mutex::default() }
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
        journal: Option<&'static str>,
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
        state.journal = journal;
        state.system =
            System { cpu: sample.cpu, memory: sample.memory.percentage, disk: sample.disk.percentage };
        state.servers = servers;
    }

    /// Takes what was wrong with the policy when it was read last. Called by the agent loop.
    pub fn set_policy_fault(&self, fault: Option<String>) {
        self.state().policy_fault = fault;
    }

    /// `/health`. With `whole` everything is told, else only the status: versions and counts help an attacker more than a
    /// load balancer.
    pub fn health(&self, whole: bool) -> Response {
        let state = self.state().clone();
        let status = match (state.connected, state.docker.is_some(), state.journal) {
            (true, true, None) => "healthy",
            (false, false, _) => "unhealthy",
            _ => "degraded",
        };
        let code = if status == "healthy" { 200 } else { 503 };
        if !whole {
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
            policy_fault: state.policy_fault.as_deref(),
            confinement: &self.confinement,
            docker: Docker { available: state.docker.is_some(), version, api_version },
            journal: state.journal,
            system: state.system,
            servers: state.servers,
        };
        // Texts and numbers under fixed names: there is nothing in it that could not be written.
        Response::json(code, serde_json::to_string(&health).unwrap_or_default())
    }

    /// `/api/status`.
    pub fn status(&self) -> Response {
        let state = self.state().clone();
        let standing = Standing {
            online: true,
            version: env!("CARGO_PKG_VERSION"),
            uptime: self.started.elapsed().as_secs(),
            server_count: state.servers.total,
            node_id: &self.node,
            connected: state.connected,
        };
        Response::json(200, serde_json::to_string(&standing).unwrap_or_default())
    }
}
