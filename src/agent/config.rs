//! The Agent's configuration: every key, what it means and what is a wrong value. Read once at start by the main
//! thread; only the secret's file is read again, at each dial.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::logging;
use super::policy::{Policy, PolicyFile};
use super::settings::{self, BadSetting, Key, Settings};
use crate::docker::{ApiVersion, Client, Endpoint, EndpointError};
use crate::link::proxy::{Proxy, ProxySettings};
use crate::link::{Secret, WsUrl};
use crate::protocol::{NodeId, id::ID_RULE};

const fn key(name: &'static str, default: Option<&'static str>, help: &'static str) -> Key {
    Key { name, default, help, secret: false }
}

/// Every key, in the order in which they are told to a person.
pub const KEYS: &[Key] = &[
    key("PANEL_URL", None, "the Panel's address, ws://host:port/path or wss://…; required"),
    key("NODE_ID", None, "this node's id; the host name when not set"),
    Key {
        name: "AGENT_SECRET",
        default: None,
        help: "the node's secret; this or AGENT_SECRET_FILE is required",
        secret: true,
    },
    key("AGENT_SECRET_FILE", None, "a file with the node's secret, read again at each dial"),
    key(
        "CREDENTIALS_DIRECTORY",
        None,
        "systemd's; its file `secret` is taken when neither AGENT_SECRET nor AGENT_SECRET_FILE is set",
    ),
    key("HEALTH_ADDR", None, "where /health, /metrics and /api listen; 127.0.0.1:8081 when not set"),
    key("HEALTH_PORT", None, "the same as HEALTH_ADDR=127.0.0.1:PORT"),
    key("DATA_DIR", Some("/var/lib/longshore"), "servers' files and the Agent's own state"),
    key("DOCKER_HOST", None, "unix:///path or tcp://host:port; looked for in the usual places when not set"),
    key("DOCKER_API_VERSION", None, "use this Engine API version instead of negotiating one"),
    key("DOCKER_CERT_PATH", None, "directory with ca.pem, cert.pem and key.pem for a tcp:// Engine"),
    key("DOCKER_TLS_VERIFY", None, "1 to use TLS for a tcp:// Engine"),
    key("REGISTRY_AUTH_FILE", None, "Docker's config.json with registry logins for pulls"),
    key(
        "SERVER_USER",
        None,
        "uid:gid that servers run as; the Agent's own when it is not root, else 1000:1000",
    ),
    key("PROTOCOL", Some("auto"), "dialect of unasked messages: auto, unified or legacy"),
    key("STATS_INTERVAL", Some("5"), "seconds between two measurements of each running server, 1 to 3600"),
    key(
        "START_PARALLEL",
        Some("4"),
        "servers that are started again at once, after a reboot or crashes, 1 to 64",
    ),
    key("READY_TIMEOUT", Some("300"), "seconds a server may take to show one of its `done` texts, 1 to 3600"),
    key(
        "CONSOLE",
        Some("always"),
        "whose output goes to the Panel: always, or on-demand for those connected to",
    ),
    key(
        "LOG_RATE",
        Some("2097152"),
        "bytes a second of one server's output; over it the oldest lines are dropped and told; 0 waits instead",
    ),
    key(
        "LOG_MEMORY",
        Some("4194304"),
        "bytes of output kept in memory over all servers, 65536 to 1073741824",
    ),
    key(
        "LOG_DISK",
        Some("1073741824"),
        "bytes of each server's output that Docker keeps on disk, 2097152 to 1099511627776; for containers made from now on",
    ),
    key(
        "POLICY_FILE",
        Some("/etc/longshore/policy.toml"),
        "what no Panel may ask of this node; `longshore-agent policy check` explains it",
    ),
    key("WORKERS", Some("4"), "threads for short jobs, 1 to 64"),
    key("PANEL_PIN", None, "SHA-256 of the Panel's certificate, the only one to trust; written by join"),
    key("CA_FILE", None, "PEM file of the only authorities to trust for wss://; the system's when not set"),
    key("HTTPS_PROXY", None, "proxy for wss://, http://[user:password@]host:port"),
    key("HTTP_PROXY", None, "proxy for ws://"),
    key("NO_PROXY", None, "hosts to reach without a proxy"),
    key("ALLOW_INSECURE", None, "1 to allow ws:// and HEALTH_ADDR beyond loopback"),
    key("ALLOW_INSECURE_DOWNLOADS", None, "1 to allow mods from http:// addresses"),
    key(
        "ALLOW_PRIVATE_DOWNLOADS",
        None,
        "1 to allow mods from addresses that are not public, such as a mirror of one's own",
    ),
    key("LOG_LEVEL", Some("info"), "error, warn, info, debug or trace"),
    key("LOG_FORMAT", Some("auto"), "auto, which fits systemd's journal where that reads; plain or json"),
    key("LANDLOCK", Some("1"), "0 lets the Agent reach every file that its user may, where 1 does not work"),
    key("PID_FILE", None, "where to write the process id, for init systems that want it"),
    key("READY_FD", None, "descriptor to write a newline to once the Agent works (s6, dinit); also -d N"),
];

/// Fewest bytes of a secret that others than this machine's users may try to guess.
pub const LEAST_SECRET_BEYOND_LOOPBACK: usize = 32;

/// The Engine takes no user or group beyond it.
const MAX_USER_ID: u32 = i32::MAX as u32;

/// Numbers of descriptors are ints.
const MAX_DESCRIPTOR: u64 = i32::MAX as u64;

/// Which dialect unasked messages use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unasked {
    Auto,
    Unified,
    Legacy,
}

/// Where the node's secret is.
#[derive(Clone, Debug)]
pub enum SecretSource {
    Value(Secret),
    File(PathBuf),
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub panel_url: WsUrl,
    pub node_id: NodeId,
    pub secret: SecretSource,
    pub health_addr: SocketAddr,
    pub data_dir: PathBuf,
    pub docker: Option<Endpoint>,
    pub docker_api_version: Option<ApiVersion>,
    pub registry_auth_file: Option<PathBuf>,
    /// `uid:gid`
    pub server_user: (u32, u32),
    pub unasked: Unasked,
    pub stats_interval: Duration,
    pub start_parallel: usize,
    pub ready_timeout: Duration,
    /// Every server's output goes to the Panel unasked.
    pub console_always: bool,
    /// Bytes a second of one server's output; `None` drops nothing.
    pub log_rate: Option<u64>,
    /// Bytes.
    pub log_memory: usize,
    /// Bytes of one server's output on disk.
    pub log_disk: u64,
    pub workers: usize,
    /// Files beyond the Agent's own are out of its reach.
    pub landlock: bool,
    pub policy_file: PolicyFile,
    /// As it was at the start.
    pub policy: Arc<Policy>,
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the one certificate to trust, instead of any authority.
    pub panel_pin: Option<String>,
    pub proxy: Option<Proxy>,
    pub allow_insecure_downloads: bool,
    pub allow_private_downloads: bool,
    pub log_level: log::LevelFilter,
    pub log_format: logging::Format,
    pub pid_file: Option<PathBuf>,
    pub ready_fd: Option<i32>,
}

impl Config {
    /// Checks everything; the first fault is told.
    pub fn from_settings(settings: &Settings) -> Result<Config, BadSetting> {
        let mut config = Config::with_secret(settings, secret(settings)?)?;
        check_strength(&config.secret, config.health_addr)?;
        let policy = config.policy_file.read().map_err(|bad| BadSetting::bare("POLICY_FILE", bad))?;
        config.policy = Arc::new(policy.unwrap_or_default());
        Ok(config)
    }

    /// The same, with a secret from elsewhere and without the policy's rules.
    pub fn with_secret(settings: &Settings, secret: SecretSource) -> Result<Config, BadSetting> {
        let insecure = flag(settings, "ALLOW_INSECURE")?;
        let panel_url = panel_url(settings, insecure)?;
        let proxy = proxy(settings, &panel_url)?;
        Ok(Config {
            proxy,
            panel_url,
            node_id: node_id(settings)?,
            secret,
            health_addr: health_addr(settings, insecure)?,
            data_dir: data_dir(settings)?,
            docker: docker(settings)?,
            docker_api_version: docker_api_version(settings)?,
            registry_auth_file: absolute(settings, "REGISTRY_AUTH_FILE")?,
            server_user: server_user(settings)?,
            unasked: one_of(
                settings,
                "PROTOCOL",
                &[("auto", Unasked::Auto), ("unified", Unasked::Unified), ("legacy", Unasked::Legacy)],
            )?,
            stats_interval: Duration::from_secs(number(settings, "STATS_INTERVAL", 1..=3600)?),
            start_parallel: number(settings, "START_PARALLEL", 1..=64)? as usize,
            ready_timeout: Duration::from_secs(number(settings, "READY_TIMEOUT", 1..=3600)?),
            console_always: one_of(settings, "CONSOLE", &[("always", true), ("on-demand", false)])?,
            log_rate: Some(number(settings, "LOG_RATE", 0..=1 << 40)?).filter(|rate| *rate > 0),
            log_memory: number(settings, "LOG_MEMORY", 64 << 10..=1 << 30)? as usize,
            log_disk: number(settings, "LOG_DISK", 2 << 20..=1 << 40)?,
            workers: number(settings, "WORKERS", 1..=64)? as usize,
            landlock: flag(settings, "LANDLOCK")?,
            policy_file: PolicyFile::of(settings)?,
            policy: Arc::default(),
            ca_file: ca_file(settings)?,
            allow_insecure_downloads: flag(settings, "ALLOW_INSECURE_DOWNLOADS")?,
            allow_private_downloads: flag(settings, "ALLOW_PRIVATE_DOWNLOADS")?,
            panel_pin: panel_pin(settings)?,
            log_level: log_level(settings)?,
            log_format: one_of(
                settings,
                "LOG_FORMAT",
                &[
                    ("auto", logging::Format::Auto),
                    ("plain", logging::Format::Plain),
                    ("json", logging::Format::Json),
                ],
            )?,
            pid_file: absolute(settings, "PID_FILE")?,
            ready_fd: match settings.get("READY_FD") {
                Some(_) => Some(number(settings, "READY_FD", 0..=MAX_DESCRIPTOR)? as i32),
                None => None,
            },
        })
    }
}

impl SecretSource {
    /// The secret as it is now. A file that others can read is refused, except under `/run/secrets`, where
    /// container runtimes mount secrets with modes of their own.
    pub fn read(&self) -> Result<Secret, BadSetting> {
        let path = match self {
            SecretSource::Value(secret) => return Ok(secret.clone()),
            SecretSource::File(path) => path,
        };
        let bad = |expected: String| BadSetting::new("AGENT_SECRET_FILE", &path.to_string_lossy(), expected);
        let file = std::fs::File::open(path).map_err(|e| bad(format!("cannot be opened: {e}")))?;
        let meta = file.metadata().map_err(|e| bad(format!("cannot be looked at: {e}")))?;
        if is_open_to_others(path, &meta) {
            return Err(bad(NOT_FOR_OTHERS.into()));
        }
        let mut text = Zeroizing::new(String::with_capacity(4097));
        std::io::Read::read_to_string(&mut std::io::Read::take(file, 4097), &mut text)
            .map_err(|e| bad(format!("cannot be read: {e}")))?;
        checked_secret(text.trim_end_matches(['\r', '\n'])).map_err(bad)
    }
}

const NOT_FOR_OTHERS: &str = "others may read or write it; expected mode 0600 or 0640";

fn is_open_to_others(path: &Path, meta: &std::fs::Metadata) -> bool {
    meta.permissions().mode() & 0o007 != 0 && !path.starts_with("/run/secrets")
}

/// Refuses the config file at `path` when the secret stands in it and others may read it.
pub fn check_file(settings: &Settings, path: &Path) -> Result<(), BadSetting> {
    let holds_secret = settings.source("AGENT_SECRET") == Some(settings::Source::File);
    let open = || std::fs::metadata(path).is_ok_and(|meta| is_open_to_others(path, &meta));
    if holds_secret && open() {
        let place = format!("AGENT_SECRET in {}", path.display());
        return Err(BadSetting::bare(&place, NOT_FOR_OTHERS));
    }
    Ok(())
}

fn checked_secret(text: &str) -> Result<Secret, String> {
    Secret::new(text).map_err(|e| e.to_string())
}

/// Where the secret is. What is there is read, so that a fault is found at once.
pub fn secret(settings: &Settings) -> Result<SecretSource, BadSetting> {
    let file = absolute(settings, "AGENT_SECRET_FILE")?;
    if let Some(text) = settings.get("AGENT_SECRET") {
        if file.is_some() {
            let expected = "expected either this or AGENT_SECRET_FILE, not both";
            return Err(BadSetting::bare("AGENT_SECRET", expected));
        }
        return checked_secret(text)
            .map(SecretSource::Value)
            .map_err(|expected| BadSetting::bare("AGENT_SECRET", expected));
    }
    let credential = || Ok(absolute(settings, "CREDENTIALS_DIRECTORY")?.map(|dir| dir.join("secret")));
    let path = file.map_or_else(credential, |file| Ok(Some(file)))?.ok_or_else(|| {
        BadSetting::bare("AGENT_SECRET_FILE", "not set; expected a file with the node's secret")
    })?;
    let source = SecretSource::File(path);
    source.read()?;
    Ok(source)
}

/// A secret that can be guessed must not be within everybody's reach.
fn check_strength(secret: &SecretSource, health_addr: SocketAddr) -> Result<(), BadSetting> {
    let strong = secret.read()?.expose().len() >= LEAST_SECRET_BEYOND_LOOPBACK;
    if strong || is_loopback(health_addr) {
        return Ok(());
    }
    let key = if matches!(secret, SecretSource::Value(_)) { "AGENT_SECRET" } else { "AGENT_SECRET_FILE" };
    let expected = format_args!(
        "expected a secret of at least {LEAST_SECRET_BEYOND_LOOPBACK} characters, since HEALTH_ADDR is beyond loopback"
    );
    Err(BadSetting::bare(key, expected))
}

/// Whether only this machine can reach it.
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn panel_url(settings: &Settings, insecure: bool) -> Result<WsUrl, BadSetting> {
    let text = settings
        .get("PANEL_URL")
        .ok_or_else(|| BadSetting::bare("PANEL_URL", "not set; expected ws://host:port/path or wss://…"))?;
    let shown = public_url(text);
    let url = WsUrl::parse(text).map_err(|e| BadSetting::new("PANEL_URL", &shown, e))?;
    if !url.secure() && !url.host().is_loopback() && !insecure {
        let expected = "the secret would travel in clear; expected wss://, or ALLOW_INSECURE=1";
        return Err(BadSetting::new("PANEL_URL", &shown, expected));
    }
    Ok(url)
}

/// A URL without what may be a password or a token of its owner's: the user part and the query.
fn public_url(text: &str) -> Cow<'_, str> {
    let (address, query) = text.split_once('?').map_or((text, ""), |(address, _)| (address, "?<redacted>"));
    match (address.rsplit_once('@'), query) {
        (None, "") => text.into(),
        (None, query) => format!("{address}{query}").into(),
        (Some((_, host)), query) => format!("<redacted>@{host}{query}").into(),
    }
}

pub(super) fn proxy(settings: &Settings, url: &WsUrl) -> Result<Option<Proxy>, BadSetting> {
    let text = |key| settings.get(key).map(str::to_owned);
    let proxies =
        ProxySettings { https: text("HTTPS_PROXY"), http: text("HTTP_PROXY"), no_proxy: text("NO_PROXY") };
    let key = if url.secure() { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    // The value may hold a password, so it is not shown.
    proxies.choose(url).map_err(|e| BadSetting::bare(key, e))
}

fn node_id(settings: &Settings) -> Result<NodeId, BadSetting> {
    if let Some(text) = settings.get("NODE_ID") {
        return text
            .parse()
            .map_err(|_| BadSetting::new("NODE_ID", text, format_args!("expected {ID_RULE}")));
    }
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    name.parse().map_err(|_| {
        BadSetting::new("NODE_ID", &name, format_args!("the host name is no id; set NODE_ID to {ID_RULE}"))
    })
}

/// Where the Agent with these settings answers `/health`, whatever else is wrong with them.
pub fn health_address(settings: &Settings) -> Result<SocketAddr, BadSetting> {
    health_addr(settings, true)
}

fn health_addr(settings: &Settings, insecure: bool) -> Result<SocketAddr, BadSetting> {
    let default = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8081);
    // A flag wins over the environment, whichever of the two names it has.
    let port_wins = settings.source("HEALTH_PORT") > settings.source("HEALTH_ADDR");
    let address = settings.get("HEALTH_ADDR").filter(|_| !port_wins);
    let (key, text, addr) = match (address, settings.get("HEALTH_PORT")) {
        (Some(text), _) => ("HEALTH_ADDR", text, text.parse().ok()),
        (None, Some(text)) => {
            let port = text.parse::<u16>().ok();
            ("HEALTH_PORT", text, port.map(|port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)))
        }
        (None, None) => return Ok(default),
    };
    let expected =
        if key == "HEALTH_ADDR" { "an address such as 127.0.0.1:8081" } else { "a port, 0 to 65535" };
    let addr: SocketAddr =
        addr.ok_or_else(|| BadSetting::new(key, text, format_args!("expected {expected}")))?;
    if !is_loopback(addr) && !insecure {
        return Err(BadSetting::new(key, text, "beyond loopback it needs ALLOW_INSECURE=1"));
    }
    Ok(addr)
}

fn docker(settings: &Settings) -> Result<Option<Endpoint>, BadSetting> {
    let Some(text) = settings.get("DOCKER_HOST") else { return Ok(None) };
    let bad = |e: EndpointError| match settings.get(e.key).filter(|_| e.key != "DOCKER_HOST") {
        Some(value) => BadSetting::new(e.key, value, e.reason),
        // Its reason names the value, but for a password in it.
        None => BadSetting::bare(e.key, e.reason),
    };
    let endpoint = Endpoint::parse(text, settings.get("DOCKER_CERT_PATH"), settings.get("DOCKER_TLS_VERIFY"));
    let endpoint = endpoint.map_err(bad)?;
    // Reads the certificates and connects to nothing.
    Client::new(endpoint.clone(), None).map_err(bad)?;
    Ok(Some(endpoint))
}

fn docker_api_version(settings: &Settings) -> Result<Option<ApiVersion>, BadSetting> {
    let Some(text) = settings.get("DOCKER_API_VERSION") else { return Ok(None) };
    text.parse()
        .map(Some)
        .map_err(|_| BadSetting::new("DOCKER_API_VERSION", text, "expected a version such as 1.41"))
}

fn server_user(settings: &Settings) -> Result<(u32, u32), BadSetting> {
    let Some(text) = settings.get("SERVER_USER") else {
        let own = (rustix::process::geteuid(), rustix::process::getegid());
        return Ok(if own.0.is_root() { (1000, 1000) } else { (own.0.as_raw(), own.1.as_raw()) });
    };
    let id = |text: &str| text.parse().ok().filter(|id| *id <= MAX_USER_ID);
    text.split_once(':').and_then(|(uid, gid)| Some((id(uid)?, id(gid)?))).ok_or_else(|| {
        BadSetting::new(
            "SERVER_USER",
            text,
            format_args!("expected uid:gid in digits, at most {MAX_USER_ID}"),
        )
    })
}

/// A whole number within a range, of a key that has a default.
fn number(settings: &Settings, key: &str, range: RangeInclusive<u64>) -> Result<u64, BadSetting> {
    let text = settings.get(key).unwrap_or_default();
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let (least, most) = range.into_inner();
        BadSetting::new(key, text, format_args!("expected a number from {least} to {most}"))
    })
}

pub(super) fn ca_file(settings: &Settings) -> Result<Option<PathBuf>, BadSetting> {
    let Some(path) = absolute(settings, "CA_FILE")? else { return Ok(None) };
    crate::link::tls::client_config(Some(&path)).map_err(|e| {
        let expected = format_args!("expected a PEM file of certificates: {e}");
        BadSetting::new("CA_FILE", &path.to_string_lossy(), expected)
    })?;
    Ok(Some(path))
}

fn panel_pin(settings: &Settings) -> Result<Option<String>, BadSetting> {
    let Some(pin) = settings.get("PANEL_PIN") else { return Ok(None) };
    match crate::link::tls::parse_pin(pin) {
        Some(_) => Ok(Some(pin.to_owned())),
        None => Err(BadSetting::new("PANEL_PIN", pin, "expected a SHA-256 in 64 hexadecimal digits")),
    }
}

fn log_level(settings: &Settings) -> Result<log::LevelFilter, BadSetting> {
    let text = settings.get("LOG_LEVEL").unwrap_or("info");
    text.parse().map_err(|_| BadSetting::new("LOG_LEVEL", text, "expected error, warn, info, debug or trace"))
}

pub(super) fn flag(settings: &Settings, key: &str) -> Result<bool, BadSetting> {
    match settings.get(key) {
        None | Some("0" | "false" | "no") => Ok(false),
        Some("1" | "true" | "yes") => Ok(true),
        Some(text) => Err(BadSetting::new(key, text, "expected 1 or 0")),
    }
}

fn one_of<T: Copy>(settings: &Settings, key: &str, choices: &[(&str, T)]) -> Result<T, BadSetting> {
    let text = settings.get(key).unwrap_or(choices[0].0);
    choices.iter().find(|(name, _)| *name == text).map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        BadSetting::new(key, text, format_args!("expected one of {}", names.join(", ")))
    })
}

pub fn data_dir(settings: &Settings) -> Result<PathBuf, BadSetting> {
    Ok(absolute(settings, "DATA_DIR")?.unwrap_or_else(|| "/var/lib/longshore".into()))
}

fn absolute(settings: &Settings, key: &str) -> Result<Option<PathBuf>, BadSetting> {
    match settings.get(key) {
        None => Ok(None),
        Some(text) if Path::new(text).is_absolute() => Ok(Some(text.into())),
        Some(text) => Err(BadSetting::new(key, text, "expected an absolute path")),
    }
}

/// The effective configuration as `KEY=value` lines, each with where it came from, secrets redacted.
pub fn describe(settings: &Settings) -> String {
    let mut text = String::new();
    for key in KEYS {
        let Some(value) = settings.get(key.name) else {
            let _ = writeln!(text, "# {} is not set: {}", key.name, key.help);
            continue;
        };
        let source = settings.source(key.name).unwrap_or(settings::Source::Default);
        let shown = match key.name {
            _ if key.secret => "<redacted>".into(),
            "PANEL_URL" | "DOCKER_HOST" | "HTTP_PROXY" | "HTTPS_PROXY" => public_url(value),
            _ => value.into(),
        };
        let _ = writeln!(text, "{}={shown}  # {source}", key.name);
    }
    text
}
