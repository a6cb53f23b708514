//! What the Panel is told at start: flags over environment over `--config FILE`, checked once and typed.
//!
//! Pure but for reading the one file that `--config` names. Every fault is one line that names the key, the value
//! and what is expected; no key takes a secret.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use log::LevelFilter;

use super::cli::{Command, SecretTo};
use crate::gate::Head;
use crate::protocol::NodeId;

/// What `--help` prints.
pub const HELP: &str = "\
longshore-panel: the control plane of Longshore, with its page and API

Usage:
  longshore-panel [OPTIONS]                          serve the page, the API and the Agents
  longshore-panel node add ID [--secret-file PATH]   make a node and write its secret to a new file
  longshore-panel node join ID                       print a token for longshore-agent join, good for 15 minutes
  longshore-panel node rotate ID [--secret-file PATH]  another secret; the one before works for a day more
  longshore-panel node revoke ID                     make its secrets void and close its link
  longshore-panel node list | node remove ID         list the nodes; remove one and forget its servers
  longshore-panel user add NAME [--admin]            make a user and print the link to log in
  longshore-panel user link NAME                     print a one-time login link
  longshore-panel user password NAME                 set a password, read from standard input
  longshore-panel user list | user remove NAME
  longshore-panel token add USER NAME [--scopes read,power] [--days N]   print an API token
  longshore-panel token list | token revoke ID
  longshore-panel backup FILE | restore FILE         copy the database while the Panel runs; put a copy back
  longshore-panel doctor                             look at everything that the Panel needs

Options (over the environment variable of the same name, over the --config file):
  --config FILE         read KEY=value lines from FILE
  --http-addr ADDR      HTTP_ADDR   page, API, and Agents at /agent, default 127.0.0.1:3000
  --agent-addr ADDR     AGENT_ADDR  Agents, default 127.0.0.1:8080
  --data-dir DIR        DATA_DIR    default /var/lib/longshore-panel
  --http-hosts NAMES    HTTP_HOSTS  further host names the page is opened by, with commas between
  --tls-cert FILE       TLS_CERT    certificate chain (PEM) for both addresses, read again when it changes
  --tls-key FILE        TLS_KEY     its key (PEM)
  --trusted-proxies IPS TRUSTED_PROXIES  whose X-Forwarded-For and -Proto are believed
  --log-level LEVEL     LOG_LEVEL   off, error, warn, info (default), debug or trace
  --secret-file PATH    where a node's secret goes (node add: default DATA_DIR/ID.secret); - is standard output
  -h, --help            print this and exit
  -V, --version         print the version and exit

Addresses beyond loopback need TLS, TRUSTED_PROXIES, or ALLOW_INSECURE=1.
";

const KEYS: [&str; 9] = [
    "HTTP_ADDR",
    "AGENT_ADDR",
    "DATA_DIR",
    "HTTP_HOSTS",
    "TLS_CERT",
    "TLS_KEY",
    "TRUSTED_PROXIES",
    "LOG_LEVEL",
    "ALLOW_INSECURE",
];

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    Serve,
    Command(Command),
    Help,
    Version,
}

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub http_addr: SocketAddr,
    pub agent_addr: SocketAddr,
    pub data_dir: PathBuf,
    /// Host names besides loopback's that a browser may use for the page, in lower case.
    pub http_hosts: Vec<String>,
    /// Certificate chain and key of HTTP_ADDR and AGENT_ADDR, as PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub proxies: Proxies,
    pub log_level: LevelFilter,
}

impl Config {
    /// Where a person on this machine opens the page.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let address = match self.http_addr.ip().is_unspecified() {
            true => SocketAddr::new([127, 0, 0, 1].into(), self.http_addr.port()),
            false => self.http_addr,
        };
        format!("{scheme}://{address}")
    }
}

/// Proxies whose word on the asker's address is taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proxies(Vec<(IpAddr, u8)>);

impl Proxies {
    /// Addresses or networks with commas between, such as `127.0.0.1, 10.0.0.0/8`.
    fn parse(text: &str) -> Option<Proxies> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let network = |part: &str| {
            let (address, bits) = match part.split_once('/') {
                Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
                None => (part, None),
            };
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.unwrap_or(most);
            (bits <= most).then_some((address, bits))
        };
        parts.map(network).collect::<Option<_>>().map(Proxies)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|(network, bits)| match (network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(*bits);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(*bits);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        })
    }

    /// Who asks, and whether by TLS: the peer, or behind proxies that are trusted the last address that none of them
    /// has. What an untrusted peer says of others is nothing.
    pub fn asker(&self, head: &Head, peer: SocketAddr, tls: bool) -> (IpAddr, bool) {
        let peer = peer.ip().to_canonical();
        if !self.trusts(peer) {
            return (peer, tls);
        }
        let told = head.headers().filter(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"));
        let told: Vec<&str> = told.flat_map(|(_, value)| value.split(',')).map(str::trim).collect();
        let mut asker = peer;
        for text in told.into_iter().rev() {
            let Ok(address) = text.parse::<IpAddr>() else { break };
            asker = address.to_canonical();
            if !self.trusts(asker) {
                break;
            }
        }
        let secure =
            head.header("x-forwarded-proto").is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
        (asker, tls || secure)
    }
}

/// Why the Panel cannot start with what it was told. Ends the process with exit code 2.
#[derive(Debug)]
pub enum ConfigError {
    Usage(String),
    File { path: PathBuf, cause: std::io::Error },
    Line { path: PathBuf, number: usize, expected: String },
    Value { key: &'static str, value: String, from: &'static str, expected: &'static str },
    Exposed { key: &'static str, value: SocketAddr },
}

/// Reads the command line and what it leaves open from `environment` and the file.
///
/// # Errors
/// The first thing that is wrong, in the order flags, file, values.
pub fn read(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<(Invocation, Config), ConfigError> {
    let (invocation, flags) = parse_arguments(arguments)?;
    if matches!(invocation, Invocation::Help | Invocation::Version) {
        // Help is given even where the environment is wrong.
        return Ok((invocation, Settings::default().config()?));
    }
    let mut settings = Settings::default();
    if let Some(path) = flags.get("CONFIG") {
        settings.read_file(path.into())?;
    }
    for key in KEYS {
        // An empty variable counts as unset, which is how unit files and shells switch one off.
        if let Some(value) = environment(key).filter(|value| !value.is_empty()) {
            settings.set(key, value.to_string_lossy().into_owned(), "environment");
        }
        if let Some(value) = flags.get(key) {
            settings.set(key, value.clone(), "command line");
        }
    }
    Ok((invocation, settings.config()?))
}

fn parse_arguments(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<(Invocation, BTreeMap<&'static str, String>), ConfigError> {
    use lexopt::prelude::*;
    let usage = |error: lexopt::Error| ConfigError::Usage(error.to_string());
    let mut parser = lexopt::Parser::from_iter(arguments);
    let mut flags = BTreeMap::new();
    let mut words: Vec<String> = Vec::new();
    let mut options = Options::default();
    while let Some(argument) = parser.next().map_err(usage)? {
        let key = match argument {
            Short('h') | Long("help") => return Ok((Invocation::Help, flags)),
            Short('V') | Long("version") => return Ok((Invocation::Version, flags)),
            Long("secret-file") => {
                let path = parser.value().map_err(usage)?;
                options.secret_to =
                    Some(if path == "-" { SecretTo::Stdout } else { SecretTo::File(PathBuf::from(path)) });
                continue;
            }
            Long("admin") => {
                options.admin = true;
                continue;
            }
            Long("scopes") => {
                options.scopes = Some(parser.value().and_then(|value| value.string()).map_err(usage)?);
                continue;
            }
            Long("days") => {
                options.days = Some(parser.value().and_then(|value| value.parse()).map_err(usage)?);
                continue;
            }
            Value(word) => {
                words.push(word.string().map_err(usage)?);
                continue;
            }
            Long("config") => "CONFIG",
            Long("http-addr") => "HTTP_ADDR",
            Long("agent-addr") => "AGENT_ADDR",
            Long("data-dir") => "DATA_DIR",
            Long("http-hosts") => "HTTP_HOSTS",
            Long("tls-cert") => "TLS_CERT",
            Long("tls-key") => "TLS_KEY",
            Long("trusted-proxies") => "TRUSTED_PROXIES",
            Long("log-level") => "LOG_LEVEL",
            other => return Err(usage(other.unexpected())),
        };
        flags.insert(key, parser.value().and_then(|value| value.string()).map_err(usage)?);
    }
    Ok((invocation(&words, options)?, flags))
}

/// Options of subcommands.
#[derive(Debug, Default, PartialEq)]
struct Options {
    secret_to: Option<SecretTo>,
    admin: bool,
    scopes: Option<String>,
    days: Option<u64>,
}

fn invocation(words: &[String], mut options: Options) -> Result<Invocation, ConfigError> {
    let node = |id: &str| {
        id.parse::<NodeId>().map_err(|fault| ConfigError::Usage(format!("node id \"{id}\": {fault}")))
    };
    let text = str::to_owned;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let command = match words[..] {
        [] => None,
        ["node", "add", id] => Some(Command::NodeAdd { id: node(id)?, secret_to: options.secret_to.take() }),
        ["node", "list"] => Some(Command::NodeList),
        ["node", "remove", id] => Some(Command::NodeRemove { id: node(id)? }),
        ["node", "join", id] => Some(Command::NodeJoin { id: node(id)? }),
        ["node", "rotate", id] => {
            Some(Command::NodeRotate { id: node(id)?, secret_to: options.secret_to.take() })
        }
        ["node", "revoke", id] => Some(Command::NodeRevoke { id: node(id)? }),
        ["node", ..] => return expected("node add, list, remove, join, rotate or revoke, and an ID"),
        ["user", "add", name] => {
            Some(Command::UserAdd { name: text(name), admin: std::mem::take(&mut options.admin) })
        }
        ["user", "list"] => Some(Command::UserList),
        ["user", "remove", name] => Some(Command::UserRemove { name: text(name) }),
        ["user", "link", name] => Some(Command::UserLink { name: text(name) }),
        ["user", "password", name] => Some(Command::UserPassword { name: text(name) }),
        ["user", ..] => return expected("user add, list, remove, link or password, and a NAME"),
        ["token", "add", user, name] => {
            let scopes = options.scopes.take().unwrap_or_else(|| "read".into());
            let days = options.days.take();
            Some(Command::TokenAdd { user: text(user), name: text(name), scopes, days })
        }
        ["token", "list"] => Some(Command::TokenList),
        ["token", "revoke", id] => {
            let id =
                id.parse().map_err(|_| ConfigError::Usage(format!("token id \"{id}\": not a number")))?;
            Some(Command::TokenRevoke { id })
        }
        ["token", ..] => return expected("token add USER NAME, token list or token revoke ID"),
        ["backup", path] => Some(Command::Backup { to: path.into() }),
        ["restore", path] => Some(Command::Restore { from: path.into() }),
        ["doctor"] => Some(Command::Doctor),
        [other, ..] => return Err(ConfigError::Usage(format!("unknown command \"{other}\""))),
    };
    if options != Options::default() {
        return Err(ConfigError::Usage("an option that does not belong to this command".into()));
    }
    Ok(command.map_or(Invocation::Serve, Invocation::Command))
}

fn expected(what: &str) -> Result<Invocation, ConfigError> {
    Err(ConfigError::Usage(format!("expected {what}")))
}

/// Raw values with where each came from; later sources replace earlier ones.
#[derive(Default)]
struct Settings(BTreeMap<&'static str, (String, &'static str)>);

impl Settings {
    fn set(&mut self, key: &'static str, value: String, from: &'static str) {
        self.0.insert(key, (value, from));
    }

    fn read_file(&mut self, path: PathBuf) -> Result<(), ConfigError> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(cause) => return Err(ConfigError::File { path, cause }),
        };
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |expected: String| ConfigError::Line { path: path.clone(), number, expected };
            let (name, value) = line.split_once('=').ok_or_else(|| wrong("expected KEY=value".into()))?;
            let key = KEYS.into_iter().find(|key| *key == name.trim()).ok_or_else(|| {
                wrong(format!("unknown key {}, expected one of {}", name.trim(), KEYS.join(" ")))
            })?;
            self.set(key, unquoted(value.trim()).to_owned(), "config file");
        }
        Ok(())
    }

    fn config(&self) -> Result<Config, ConfigError> {
        const ADDRESS: &str = "an IP address and a port, such as 127.0.0.1:3000 or [::1]:3000";
        let exposed_ok = self.value("ALLOW_INSECURE", "0", "0 or 1", |text| match text {
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        })?;
        let file = |key| -> Result<Option<PathBuf>, ConfigError> {
            let path = self.value(key, "", "an absolute path", |text| {
                Some(PathBuf::from(text)).filter(|path| text.is_empty() || path.is_absolute())
            })?;
            Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
        };
        let tls = match (file("TLS_CERT")?, file("TLS_KEY")?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(ConfigError::Usage("TLS_CERT and TLS_KEY belong together".into())),
        };
        let proxies = self.value(
            "TRUSTED_PROXIES",
            "",
            "IP addresses or networks such as 10.0.0.0/8, with commas between",
            Proxies::parse,
        )?;
        let protected = tls.is_some() || !proxies.is_empty() || exposed_ok;
        let address = |key, default| {
            let value: SocketAddr = self.value(key, default, ADDRESS, |text| text.parse().ok())?;
            if value.ip().to_canonical().is_loopback() || protected {
                return Ok(value);
            }
            Err(ConfigError::Exposed { key, value })
        };
        Ok(Config {
            http_addr: address("HTTP_ADDR", "127.0.0.1:3000")?,
            agent_addr: address("AGENT_ADDR", "127.0.0.1:8080")?,
            data_dir: self.value("DATA_DIR", "/var/lib/longshore-panel", "an absolute path", |text| {
                Some(PathBuf::from(text)).filter(|path| path.is_absolute())
            })?,
            http_hosts: self.value(
                "HTTP_HOSTS",
                "",
                "host names without port, with commas between",
                host_names,
            )?,
            tls,
            proxies,
            log_level: self.value("LOG_LEVEL", "info", "off, error, warn, info, debug or trace", |text| {
                text.parse().ok()
            })?,
        })
    }

    fn value<T>(
        &self,
        key: &'static str,
        default: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let (text, from) =
            self.0.get(key).map_or((default, "default"), |(text, from)| (text.as_str(), *from));
        parse(text).ok_or_else(|| ConfigError::Value { key, value: text.to_owned(), from, expected })
    }
}

/// Values may stand in quotes, as in files that a shell or systemd reads too.
fn unquoted(value: &str) -> &str {
    ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(value)
}

fn host_names(text: &str) -> Option<Vec<String>> {
    let names = text.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let valid = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
            valid.then_some(name)
        })
        .collect()
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Usage(what) => write!(f, "{what}; see --help"),
            ConfigError::File { path, cause } => write!(f, "config file {}: {cause}", path.display()),
            ConfigError::Line { path, number, expected } => {
                write!(f, "config file {} line {number}: {expected}", path.display())
            }
            ConfigError::Value { key, value, from, expected } => {
                write!(f, "{key}={} ({from}): expected {expected}", value.escape_debug())
            }
            ConfigError::Exposed { key, value } => {
                write!(
                    f,
                    "{key}={value}: expected a loopback address, TLS_CERT and TLS_KEY, TRUSTED_PROXIES, or \
                     ALLOW_INSECURE=1 to do without TLS"
                )
            }
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(arguments: &[&str], environment: &[(&str, &str)]) -> Result<(Invocation, Config), String> {
        let arguments = ["longshore-panel"].iter().chain(arguments).map(OsString::from);
        let lookup = |key: &str| environment.iter().find(|(k, _)| *k == key).map(|(_, v)| OsString::from(v));
        read(arguments, lookup).map_err(|fault| fault.to_string())
    }

    #[test]
    fn flags_go_over_environment_over_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "# comment\n\nHTTP_ADDR=127.0.0.1:1\nAGENT_ADDR = \"127.0.0.1:2\"\nDATA_DIR=/a\n",
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let environment = [("AGENT_ADDR", "127.0.0.1:3"), ("DATA_DIR", "/b"), ("LOG_LEVEL", "")];
        let (invocation, config) = from(&["--config", path, "--data-dir=/c"], &environment).unwrap();
        assert_eq!(invocation, Invocation::Serve);
        assert_eq!(config.http_addr.port(), 1);
        assert_eq!(config.agent_addr.port(), 3);
        assert_eq!(config.data_dir, PathBuf::from("/c"));
        assert_eq!(config.log_level, LevelFilter::Info);
    }

    #[test]
    fn a_wrong_value_is_one_line_with_key_value_and_expectation() {
        let check = |arguments: &[&str], environment: &[(&str, &str)], parts: &[&str]| {
            let fault = from(arguments, environment).unwrap_err();
            assert!(!fault.contains('\n'), "{fault}");
            for part in parts {
                assert!(fault.contains(part), "{part:?} is missing in {fault:?}");
            }
        };
        check(&[], &[("HTTP_ADDR", "3000")], &["HTTP_ADDR=3000", "environment", "IP address and a port"]);
        check(&["--agent-addr", "x"], &[], &["AGENT_ADDR=x", "command line"]);
        check(&[], &[("HTTP_ADDR", "0.0.0.0:3000")], &["HTTP_ADDR=0.0.0.0:3000", "ALLOW_INSECURE=1"]);
        check(&[], &[("DATA_DIR", "here")], &["DATA_DIR=here", "absolute path"]);
        check(&[], &[("LOG_LEVEL", "loud\n")], &["LOG_LEVEL=loud\\n", "debug"]);
        check(&[], &[("ALLOW_INSECURE", "yes")], &["ALLOW_INSECURE=yes", "0 or 1"]);
        check(&[], &[("HTTP_HOSTS", "a b")], &["HTTP_HOSTS=a b"]);
        check(&["--nonsense"], &[], &["--nonsense", "--help"]);
        check(&["node", "add", "-x"], &[], &["-x"]);
    }

    #[test]
    fn beyond_loopback_needs_consent() {
        let environment = [("HTTP_ADDR", "[::]:1"), ("AGENT_ADDR", "10.0.0.1:2"), ("ALLOW_INSECURE", "1")];
        assert_eq!(from(&[], &environment).unwrap().1.http_addr.port(), 1);
        assert!(from(&[], &[("HTTP_ADDR", "[::ffff:127.0.0.1]:1")]).is_ok());
    }

    #[test]
    fn commands_are_told_apart() {
        let command = |words: &[&str]| match from(words, &[]).unwrap().0 {
            Invocation::Command(command) => command,
            other => panic!("{other:?}"),
        };
        let add = |secret_to| Command::NodeAdd { id: "n1".parse().unwrap(), secret_to };
        let file = SecretTo::File("/s".into());
        assert_eq!(command(&["node", "add", "n1", "--secret-file", "/s"]), add(Some(file)));
        assert_eq!(command(&["node", "add", "n1", "--secret-file", "-"]), add(Some(SecretTo::Stdout)));
        assert_eq!(command(&["node", "add", "n1"]), add(None));
        assert_eq!(command(&["node", "list"]), Command::NodeList);
        assert_eq!(
            command(&["user", "add", "a", "--admin"]),
            Command::UserAdd { name: "a".into(), admin: true }
        );
        let token = command(&["token", "add", "a", "t", "--scopes", "read,power", "--days", "3"]);
        let scopes = "read,power".to_owned();
        assert_eq!(token, Command::TokenAdd { user: "a".into(), name: "t".into(), scopes, days: Some(3) });
        assert_eq!(from(&["-h"], &[("HTTP_ADDR", "wrong")]).unwrap().0, Invocation::Help);
        for wrong in [
            &["node", "list", "--secret-file", "/s"][..],
            &["node", "list", "--admin"],
            &["user", "list", "--days", "x"],
            &["token", "revoke", "x"],
            &["backup"],
            &["serve"],
        ] {
            assert!(from(wrong, &[]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let environment =
            [("TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8,fd00::/8"), ("HTTP_ADDR", "0.0.0.0:3000")];
        let config = from(&[], &environment).unwrap().1;
        for (trusted, address) in [
            (true, "127.0.0.1"),
            (true, "10.1.2.3"),
            (true, "fd12::1"),
            (true, "::ffff:10.0.0.1"),
            (false, "127.0.0.2"),
            (false, "11.0.0.1"),
            (false, "::1"),
        ] {
            assert_eq!(config.proxies.trusts(address.parse().unwrap()), trusted, "{address}");
        }
        for wrong in ["10.0.0.0/33", "host", "1.2.3"] {
            assert!(from(&[], &[("TRUSTED_PROXIES", wrong)]).is_err(), "{wrong}");
        }
        assert!(from(&[], &[("TLS_CERT", "/c")]).unwrap_err().contains("belong together"));
    }
}
