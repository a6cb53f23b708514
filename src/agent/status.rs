//! `longshore-agent status`: asks the running Agent's `/health` and tells a person. Runs in a process of its own and
//! changes nothing.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde::Deserialize;

use super::config;
use super::settings::{BadSetting, Settings};

/// The exit code when no Agent answers, as init scripts have it for a service that does not run.
pub const NOT_RUNNING: u8 = 3;

/// Bound on each step of the one request.
const LIMIT: Duration = Duration::from_secs(3);
/// Bytes of an answer.
const ANSWER_CAP: u64 = 64 << 10;

/// What `/health` says to this machine. Unknown fields are a later version's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    pub status: String,
    pub version: String,
    pub node_id: String,
    /// Seconds.
    pub uptime: u64,
    pub connected: bool,
    pub trouble: Option<String>,
    /// Earlier versions tell none.
    pub confinement: Option<String>,
    pub docker: Docker,
    pub servers: Servers,
    pub system: System,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Docker {
    pub available: bool,
    pub version: Option<String>,
    pub api_version: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Servers {
    pub total: usize,
    pub running: usize,
}

/// In percent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct System {
    pub cpu: f64,
    pub memory: f64,
    pub disk: f64,
}

/// Asks, and gives what is to be printed with the exit code: 0 healthy, 1 not, 3 when no Agent answers.
///
/// # Errors
/// When the settings do not say where to ask.
pub fn run(settings: &Settings, json: bool) -> Result<(String, u8), BadSetting> {
    let address = config::health_address(settings)?;
    let asked = ask(address).and_then(|body| {
        serde_json::from_str(&body).map(|health: Health| (body, health)).map_err(io::Error::other)
    });
    let (text, health) = match asked {
        Ok((body, health)) if json => (body + "\n", Some(health)),
        Ok((_, health)) => (told(&health), Some(health)),
        Err(e) if json => {
            let error = format!("http://{address}/health: {e}");
            (serde_json::json!({"status": "not running", "error": error}).to_string() + "\n", None)
        }
        Err(e) => (format!("longshore-agent: no Agent answers at http://{address}/health: {e}\n"), None),
    };
    let code = health.map_or(NOT_RUNNING, |health| u8::from(health.status != "healthy"));
    Ok((text, code))
}

/// The Agent that answers at `address`, if one does.
pub fn find(address: SocketAddr) -> Option<Health> {
    ask(address).ok().and_then(|body| serde_json::from_str(&body).ok())
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&reachable(address), LIMIT)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.set_write_timeout(Some(LIMIT))?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut answer = String::new();
    socket.take(ANSWER_CAP).read_to_string(&mut answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("the answer is not HTTP"))?;
    // 503 tells of an Agent that lacks its Panel or its Engine.
    match head.split(' ').nth(1) {
        Some("200" | "503") => Ok(body.to_owned()),
        _ => Err(io::Error::other("another program answers")),
    }
}

/// An Agent that listens on every address is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    (ip, address.port()).into()
}

fn told(health: &Health) -> String {
    let Health {
        status,
        version,
        node_id,
        uptime,
        connected,
        trouble,
        docker,
        servers,
        system,
        confinement: _,
    } = health;
    let mut text = format!("longshore-agent {version}, node {node_id}: {status}\n");
    let panel = match (connected, trouble) {
        (true, _) => "linked",
        (false, Some(trouble)) => &format!("no link: {trouble}"),
        (false, None) => "not linked yet",
    };
    let engine = match (docker.available, &docker.version, &docker.api_version) {
        (true, Some(version), Some(api)) => &format!("{version}, API {api}"),
        (true, ..) => "answers",
        (false, ..) => "does not answer",
    };
    let up = humantime::format_duration(Duration::from_secs(*uptime));
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        "  panel    {panel}\n  engine   {engine}\n  servers  {} of {} run\n  machine  cpu {:.0} %, memory {:.0} %, \
         disk {:.0} %\n  up       {up}\n",
        servers.running, servers.total, system.cpu, system.memory, system.disk
    );
    text
}
