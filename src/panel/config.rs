//! What the Panel is told at start: flags over environment over `--config FILE`, checked once and typed.
//!
//! Pure but for reading the one file that `--config` names. Every fault is one line that names the key, the value
//! and what is expected; no key takes a secret.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use log::LevelFilter;

use crate::protocol::NodeId;

/// What `--help` prints.
pub const HELP: &str = "\
longshore-panel: the control plane of Longshore, with its page and API

Usage:
  longshore-panel [OPTIONS]                          serve the page, the API and the Agents
  longshore-panel node add ID [--secret-file PATH]   make a node and write its secret to a new file
  longshore-panel node list                          list the nodes
  longshore-panel node remove ID                     remove a node and forget its servers

Options (over the environment variable of the same name, over the --config file):
  --config FILE         read KEY=value lines from FILE
  --http-addr ADDR      HTTP_ADDR   page and API, default 127.0.0.1:3000
  --agent-addr ADDR     AGENT_ADDR  Agents, default 127.0.0.1:8080
  --data-dir DIR        DATA_DIR    default /var/lib/longshore-panel
  --http-hosts NAMES    HTTP_HOSTS  further host names the page is opened by, with commas between
  --log-level LEVEL     LOG_LEVEL   off, error, warn, info (default), debug or trace
  --secret-file PATH    node add: where the secret goes (default DATA_DIR/ID.secret); - is standard output
  -h, --help            print this and exit
  -V, --version         print the version and exit

Addresses beyond loopback need ALLOW_INSECURE=1, because there is no login and no TLS yet.
";

const KEYS: [&str; 6] = ["HTTP_ADDR", "AGENT_ADDR", "DATA_DIR", "HTTP_HOSTS", "LOG_LEVEL", "ALLOW_INSECURE"];

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    Serve,
    NodeAdd { id: NodeId, secret_to: Option<SecretTo> },
    NodeList,
    NodeRemove { id: NodeId },
    Help,
    Version,
}

/// Where `node add` leaves the secret.
#[derive(Debug, PartialEq)]
pub enum SecretTo {
    File(PathBuf),
    Stdout,
}

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub http_addr: SocketAddr,
    pub agent_addr: SocketAddr,
    pub data_dir: PathBuf,
    /// Host names besides loopback's that a browser may use for the page, in lower case.
    pub http_hosts: Vec<String>,
    pub log_level: LevelFilter,
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
    let mut secret_to = None;
    while let Some(argument) = parser.next().map_err(usage)? {
        let key = match argument {
            Short('h') | Long("help") => return Ok((Invocation::Help, flags)),
            Short('V') | Long("version") => return Ok((Invocation::Version, flags)),
            Long("secret-file") => {
                let path = parser.value().map_err(usage)?;
                secret_to =
                    Some(if path == "-" { SecretTo::Stdout } else { SecretTo::File(PathBuf::from(path)) });
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
            Long("log-level") => "LOG_LEVEL",
            other => return Err(usage(other.unexpected())),
        };
        flags.insert(key, parser.value().and_then(|value| value.string()).map_err(usage)?);
    }
    Ok((invocation(&words, secret_to)?, flags))
}

fn invocation(words: &[String], secret_to: Option<SecretTo>) -> Result<Invocation, ConfigError> {
    let node = |id: &str| {
        id.parse::<NodeId>().map_err(|fault| ConfigError::Usage(format!("node id \"{id}\": {fault}")))
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let invocation = match words[..] {
        [] => Invocation::Serve,
        ["node", "add", id] => return Ok(Invocation::NodeAdd { id: node(id)?, secret_to }),
        ["node", "list"] => Invocation::NodeList,
        ["node", "remove", id] => Invocation::NodeRemove { id: node(id)? },
        ["node", ..] => {
            return Err(ConfigError::Usage("expected node add ID, node list or node remove ID".into()));
        }
        [other, ..] => return Err(ConfigError::Usage(format!("unknown command \"{other}\""))),
    };
    match secret_to {
        Some(_) => Err(ConfigError::Usage("--secret-file belongs to node add".into())),
        None => Ok(invocation),
    }
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
        let address = |key, default| {
            let value: SocketAddr = self.value(key, default, ADDRESS, |text| text.parse().ok())?;
            if value.ip().to_canonical().is_loopback() || exposed_ok {
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
                    "{key}={value}: expected a loopback address, or ALLOW_INSECURE=1 to do without TLS and login"
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
        let add = |secret_to| Invocation::NodeAdd { id: "n1".parse().unwrap(), secret_to };
        let file = SecretTo::File("/s".into());
        assert_eq!(from(&["node", "add", "n1", "--secret-file", "/s"], &[]).unwrap().0, add(Some(file)));
        assert_eq!(
            from(&["node", "add", "n1", "--secret-file", "-"], &[]).unwrap().0,
            add(Some(SecretTo::Stdout))
        );
        assert_eq!(from(&["node", "add", "n1"], &[]).unwrap().0, add(None));
        assert_eq!(from(&["node", "list"], &[]).unwrap().0, Invocation::NodeList);
        assert_eq!(from(&["-h"], &[("HTTP_ADDR", "wrong")]).unwrap().0, Invocation::Help);
        assert!(from(&["node", "list", "--secret-file", "/s"], &[]).is_err());
        assert!(from(&["serve"], &[]).is_err());
    }
}
