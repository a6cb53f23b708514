//! `longshore-agent join URL`: trades a one-time token for this node's own secret, and writes the configuration.
//!
//! Runs on the main thread before anything else is started. The token comes from standard input and never from the
//! command line, which every user of the machine can read. A certificate that no authority vouches for is trusted when
//! its hash is the one that the token names; it is then kept as `PANEL_PIN`. Files are written whole or not at all.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use super::config::{ca_file, flag, proxy};
use super::settings::{BadSetting, Settings};
use crate::link::dial::{DialError, Dialer};
use crate::link::secret::Secret;
use crate::link::tls;
use crate::link::url::WsUrl;
use crate::protocol::join::JoinToken;

/// Where the configuration goes when nobody says.
pub const CONFIG: &str = "/etc/longshore/agent.env";
/// Longest token, in bytes.
const MAX_TOKEN: u64 = 1024;

/// Why this node has not joined. One line for a person; no token and no secret.
#[derive(Debug)]
pub enum JoinError {
    Setting(BadSetting),
    Url(String),
    Token(String),
    Tls(tls::TlsError),
    Dial(DialError),
    /// The Panel's own words.
    Refused(u16, String),
    Answer,
    File {
        path: PathBuf,
        cause: io::Error,
    },
}

#[derive(Serialize)]
struct Ask<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
struct Joined {
    node: String,
    secret: String,
    url: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: RefusalBody,
}

#[derive(Deserialize)]
struct RefusalBody {
    message: String,
}

/// Joins; the text to print.
pub fn run(url: &str, config: Option<&Path>, settings: &Settings) -> Result<String, JoinError> {
    let config = config.unwrap_or(Path::new(CONFIG));
    let panel = panel_url(url, flag(settings, "ALLOW_INSECURE").map_err(JoinError::Setting)?)?;
    let text = read_token(&mut io::stdin().lock())?;
    let token: JoinToken = text
        .parse()
        .map_err(|()| JoinError::Token("this is no join token; copy the whole command again".into()))?;
    let mut dialer = Dialer::new(panel.clone(), trusted(&panel, token.pin.as_deref(), settings)?);
    dialer.proxy = proxy(settings, &panel).map_err(JoinError::Setting)?;
    let body = serde_json::to_vec(&Ask { token: text.trim() }).map_err(|_| JoinError::Answer)?;
    let (status, answer) = dialer.post("/api/v1/join", &body).map_err(JoinError::Dial)?;
    if status != 201 {
        let said = serde_json::from_str::<Refusal>(&answer).map(|refusal| refusal.error.message);
        return Err(JoinError::Refused(status, said.unwrap_or_else(|_| "it gave no reason".into())));
    }
    let joined: Joined = serde_json::from_str(&answer).map_err(|_| JoinError::Answer)?;
    let secret = Secret::new(joined.secret).map_err(|_| JoinError::Answer)?;
    if joined.node != token.node.as_str() || !joined.url.starts_with('/') {
        return Err(JoinError::Answer);
    }
    let link = format!("{}{}", panel.origin(), joined.url);
    let secret_file = config.with_file_name("secret");
    let settings = [
        ("PANEL_URL", Some(link.clone())),
        ("NODE_ID", Some(joined.node.clone())),
        ("AGENT_SECRET_FILE", Some(secret_file.display().to_string())),
        ("PANEL_PIN", token.pin.clone()),
        ("ALLOW_INSECURE", (!panel.secure()).then(|| "1".to_owned())),
    ];
    // The secret first: with it alone nothing is lost, and the token is used up.
    write(&secret_file, &format!("{}\n", secret.expose()))?;
    let before = match fs::read_to_string(config) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => String::new(),
        Err(cause) => return Err(JoinError::File { path: config.into(), cause }),
    };
    write(config, &merged(&before, &settings))?;
    let mut text = format!("node {} has joined; its configuration is in {}\n", joined.node, config.display());
    text.push_str(&tried(dialer, &link, &joined.node, &secret));
    text.push_str(&format!("start it with: longshore-agent --config {}\n", config.display()));
    Ok(text)
}

/// Whom to trust: the one certificate that the token names, else whoever an authority vouches for.
fn trusted(
    panel: &WsUrl,
    pin: Option<&str>,
    settings: &Settings,
) -> Result<Option<Arc<ClientConfig>>, JoinError> {
    match (panel.secure(), pin) {
        (false, _) => Ok(None),
        (true, Some(pin)) => tls::pinned_config(pin).map(Some).map_err(JoinError::Tls),
        (true, None) => {
            let roots = ca_file(settings).map_err(JoinError::Setting)?;
            tls::client_config(roots.as_deref()).map(Some).map_err(JoinError::Tls)
        }
    }
}

/// Dials once with the new secret, which is what the Agent will do.
fn tried(mut dialer: Dialer, link: &str, node: &str, secret: &Secret) -> String {
    let Ok(url) = WsUrl::parse(link) else { return String::new() };
    dialer.url = url.with_query("nodeId", node);
    dialer.headers = vec![("X-Node-Id".into(), node.into())];
    match dialer.survey(Some(secret)).1 {
        Ok(_) => "the link was tried and works\n".into(),
        Err(cause) => format!("the link was tried and does not work yet: {cause}\n"),
    }
}

/// `http://` and `https://` as a browser has them, and `ws://` and `wss://` too.
fn panel_url(text: &str, insecure: bool) -> Result<WsUrl, JoinError> {
    let trimmed = text.trim_end_matches('/');
    let socket = match trimmed.split_once("://") {
        Some(("http", rest)) => format!("ws://{rest}"),
        Some(("https", rest)) => format!("wss://{rest}"),
        _ => trimmed.to_owned(),
    };
    let url = WsUrl::parse(&socket).map_err(|cause| JoinError::Url(format!("{text:?}: {cause}")))?;
    if !url.secure() && !url.host().is_loopback() && !insecure {
        let what =
            format!("{text:?}: the secret would travel in clear; use https:// or set ALLOW_INSECURE=1");
        return Err(JoinError::Url(what));
    }
    Ok(url)
}

fn read_token(from: &mut impl BufRead) -> Result<String, JoinError> {
    let mut line = String::new();
    let wrong = |cause: io::Error| JoinError::Token(format!("standard input: {cause}"));
    io::Read::take(from, MAX_TOKEN).read_line(&mut line).map_err(wrong)?;
    match line.trim() {
        "" => Err(JoinError::Token("expected the token on standard input".into())),
        token => Ok(token.to_owned()),
    }
}

/// A configuration with these settings in place of its own; the rest of it stays as it was.
fn merged(before: &str, settings: &[(&str, Option<String>)]) -> String {
    let is_ours = |line: &&str| {
        let name = line.split('=').next().unwrap_or_default().trim();
        name == "AGENT_SECRET" || settings.iter().any(|(known, _)| *known == name)
    };
    let mut text: String =
        before.lines().filter(|line| !is_ours(line)).map(|line| format!("{line}\n")).collect();
    for (name, value) in settings {
        if let Some(value) = value {
            text.push_str(&format!("{name}={value}\n"));
        }
    }
    text
}

/// Replaces a file whole, readable by its owner alone.
fn write(path: &Path, text: &str) -> Result<(), JoinError> {
    let fault = |cause| JoinError::File { path: path.into(), cause };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(fault)?;
    }
    let fresh =
        path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    let _ = fs::remove_file(&fresh); // of a run that was interrupted
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&fresh, path));
    written.map_err(fault)
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Setting(bad) => bad.fmt(f),
            JoinError::Url(what) | JoinError::Token(what) => f.write_str(what),
            JoinError::Tls(cause) => write!(f, "tls: {cause}"),
            JoinError::Dial(cause) => write!(f, "the Panel cannot be reached: {cause}"),
            JoinError::Refused(status, said) => write!(f, "the Panel refused with {status}: {said}"),
            JoinError::Answer => f.write_str("the Panel's answer cannot be read; is this its address?"),
            JoinError::File { path, cause } => write!(f, "{}: {cause}", path.display()),
        }
    }
}

impl std::error::Error for JoinError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_a_browser_shows_them() {
        for (text, expected) in [
            ("https://panel.example", "wss://panel.example"),
            ("https://panel.example:8443/", "wss://panel.example:8443"),
            ("http://127.0.0.1:3000", "ws://127.0.0.1:3000"),
        ] {
            assert_eq!(panel_url(text, false).unwrap().origin(), expected, "{text}");
        }
        assert!(panel_url("http://panel.example", false).unwrap_err().to_string().contains("in clear"));
        assert!(panel_url("http://panel.example", true).is_ok());
        assert!(panel_url("panel.example", true).is_err());
    }

    #[test]
    fn what_else_a_configuration_says_stays() {
        let before = "# mine\nDATA_DIR=/srv\nPANEL_URL=old\nAGENT_SECRET=in-clear\nPANEL_PIN=old\n";
        let settings = [("PANEL_URL", Some("new".to_owned())), ("PANEL_PIN", None)];
        assert_eq!(merged(before, &settings), "# mine\nDATA_DIR=/srv\nPANEL_URL=new\n");
    }

    #[test]
    fn files_are_private_and_replaced_whole() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/secret");
        for text in ["one\n", "two\n"] {
            write(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }
}
