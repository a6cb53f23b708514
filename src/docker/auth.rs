//! Registry credentials from a file in the form of Docker's `config.json`, and the header that hands them to the
//! Engine.
//!
//! The file is read at each use, so that a new login works without a restart. Credential helpers are not run: they
//! are programs found by name in the search path, which a daemon with root's powers must not start.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::reference::DOCKER_HUB;

/// The largest file that is read.
const FILE_CAP: u64 = 1 << 20;
/// How Docker itself writes its Hub, as a key of the file and as an address in the header.
const DOCKER_HUB_ADDRESS: &str = "https://index.docker.io/v1/";

/// A text that no log, error or debug output shows, and that is wiped from memory when it is done with.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What one registry is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryAuth {
    server: String,
    credentials: Credentials,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Credentials {
    Password { username: String, password: Secret },
    IdentityToken(Secret),
}

/// Why there are no credentials although there should be. None of them shows what the file holds.
#[derive(Debug)]
pub enum AuthError {
    /// The file cannot be read.
    Read(io::Error),
    /// It is no JSON, or its `auths` has another form; the place is named.
    Syntax(serde_json::Error),
    /// The registry's `auth` is not the base64 of `user:password`.
    Entry { registry: String },
    /// The registry's credentials are with a credential helper, and those are not run.
    Helper { registry: String },
}

impl RegistryAuth {
    /// Looks up the registry of a [`Reference`](super::Reference), by its exact host and port. `Ok(None)` when the
    /// file does not name it; a missing file is an error, since somebody configured it.
    pub fn from_file(path: &Path, registry: &str) -> Result<Option<RegistryAuth>, AuthError> {
        let mut text = Zeroizing::new(Vec::new());
        let file = File::open(path).map_err(AuthError::Read)?;
        file.take(FILE_CAP + 1).read_to_end(&mut text).map_err(AuthError::Read)?;
        if text.len() as u64 > FILE_CAP {
            return Err(AuthError::Read(io::Error::other("larger than 1 MiB")));
        }
        find(&text, registry)
    }

    pub fn password(registry: &str, username: impl Into<String>, password: Secret) -> RegistryAuth {
        let credentials = Credentials::Password { username: username.into(), password };
        RegistryAuth { server: server_address(registry), credentials }
    }

    /// The value of `X-Registry-Auth`. The Engine ignores one that it cannot read, and the registry then says
    /// "denied": it must be base64 of the URL-safe alphabet, padded, as Go writes it.
    pub(super) fn header(&self) -> String {
        #[derive(Serialize)]
        struct Header<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            username: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            password: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            identitytoken: Option<&'a str>,
            serveraddress: &'a str,
        }
        let (username, password, identitytoken) = match &self.credentials {
            Credentials::Password { username, password } => {
                (Some(&**username), Some(password.expose()), None)
            }
            Credentials::IdentityToken(token) => (None, None, Some(token.expose())),
        };
        let header = Header { username, password, identitytoken, serveraddress: &self.server };
        let json = Zeroizing::new(serde_json::to_vec(&header).expect("four texts always serialise"));
        BASE64_URL_SAFE.encode(&*json)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ConfigFile {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
}

fn find(text: &[u8], registry: &str) -> Result<Option<RegistryAuth>, AuthError> {
    let file: ConfigFile = serde_json::from_slice(text).map_err(AuthError::Syntax)?;
    let wanted = hostname(registry);
    let entry = file.auths.iter().find(|(key, _)| hostname(key) == wanted).map(|(_, entry)| entry);
    let credentials = match entry {
        Some(entry) => entry.credentials().map_err(|()| AuthError::Entry { registry: registry.into() })?,
        None => None,
    };
    if let Some(credentials) = credentials {
        return Ok(Some(RegistryAuth { server: server_address(registry), credentials }));
    }
    // With a store, Docker leaves an empty entry for each registry that it has a login for.
    let in_store = entry.is_some() && file.creds_store.is_some_and(|store| !store.is_empty());
    if in_store || file.cred_helpers.keys().any(|key| hostname(key) == wanted) {
        return Err(AuthError::Helper { registry: registry.into() });
    }
    Ok(None)
}

impl Entry {
    fn credentials(&self) -> Result<Option<Credentials>, ()> {
        let given = |secret: &Option<Secret>| secret.clone().filter(|secret| !secret.expose().is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(token)));
        }
        let Some(auth) = given(&self.auth) else {
            return Ok(match (&self.username, given(&self.password)) {
                (Some(username), Some(password)) => {
                    Some(Credentials::Password { username: username.clone(), password })
                }
                _ => None,
            });
        };
        let auth = auth.expose().trim();
        let decoded = BASE64_STANDARD.decode(auth).or_else(|_| BASE64_STANDARD_NO_PAD.decode(auth));
        let text = Zeroizing::new(String::from_utf8(decoded.map_err(drop)?).map_err(drop)?);
        let (username, password) = text.split_once(':').filter(|(user, _)| !user.is_empty()).ok_or(())?;
        // Older Docker versions padded the password with NUL.
        let password = Secret::new(password.trim_matches('\0'));
        Ok(Some(Credentials::Password { username: username.into(), password }))
    }
}

/// The host and port of a key, which may be a URL with a path, with all the names of Docker's Hub as one.
fn hostname(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match key.split('/').next().unwrap_or(key) {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

fn server_address(registry: &str) -> String {
    match hostname(registry) {
        DOCKER_HUB => DOCKER_HUB_ADDRESS.into(),
        host => host.into(),
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthError::Read(cause) => write!(f, "registry credentials: {cause}"),
            AuthError::Syntax(cause) => {
                // Its own text may quote a value.
                write!(f, "registry credentials: bad JSON at line {} column {}", cause.line(), cause.column())
            }
            AuthError::Entry { registry } => {
                write!(f, "registry credentials: auth of {registry} is not the base64 of user:password")
            }
            AuthError::Helper { registry } => write!(
                f,
                "registry credentials: those of {registry} are with a credential helper, which is not \
                 supported; put them into auths"
            ),
        }
    }
}

impl std::error::Error for AuthError {}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldDE="},
            "ghcr.io": {"auth": "Z2g6c2VjOnJldDI="},
            "https://reg.example:5000/v2/": {"identitytoken": "token3"},
            "plain.example": {"username": "p", "password": "secret4"},
            "unpadded.example": {"auth": "dTpzZWNyZXQ1NQ"},
            "broken.example": {"auth": "%%%"},
            "nocolon.example": {"auth": "c2VjcmV0"},
            "stored.example": {}
        },
        "credsStore": "desktop",
        "credHelpers": {"helped.example": "ecr-login"},
        "HttpHeaders": {"User-Agent": "x"}
    }"#;

    fn header(registry: &str) -> String {
        let auth = find(FILE.as_bytes(), registry).unwrap().expect("credentials");
        let shown = format!("{auth:?}");
        assert!(!shown.contains("secret") || shown.contains("[secret]"), "{shown}");
        assert!(!shown.contains("secret1") && !shown.contains("token3"), "{shown}");
        String::from_utf8(BASE64_URL_SAFE.decode(auth.header()).unwrap()).unwrap()
    }

    #[test]
    fn finds_credentials_by_exact_host() {
        let hub = r#"{"username":"hub","password":"secret1","serveraddress":"https://index.docker.io/v1/"}"#;
        for name in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
            assert_eq!(header(name), hub);
        }
        assert_eq!(header("ghcr.io"), r#"{"username":"gh","password":"sec:ret2","serveraddress":"ghcr.io"}"#);
        assert_eq!(
            header("reg.example:5000"),
            r#"{"identitytoken":"token3","serveraddress":"reg.example:5000"}"#
        );
        assert_eq!(
            header("plain.example"),
            r#"{"username":"p","password":"secret4","serveraddress":"plain.example"}"#
        );
        assert!(header("unpadded.example").contains("secret55"));
        for other in [
            "hcr.io",
            "x.ghcr.io",
            "ghcr.io.evil.example",
            "reg.example",
            "reg.example:500",
            "docker.com",
            "",
        ] {
            assert_eq!(find(FILE.as_bytes(), other).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn says_why_there_are_none_without_quoting_any() {
        let check = |text: &str, registry: &str, expected: &str| {
            let error = find(text.as_bytes(), registry).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("c2Vj"), "{error}");
        };
        check(FILE, "helped.example", "credential helper");
        check(FILE, "stored.example", "credential helper");
        check(FILE, "broken.example", "broken.example is not the base64");
        check(FILE, "nocolon.example", "nocolon.example is not the base64");
        check(r#"{"auths":"c2VjcmV0"}"#, "a", "bad JSON at line 1 column");
        check("{", "a", "bad JSON");
        assert_eq!(find(b"{}", "a").unwrap(), None);
    }

    #[test]
    fn reads_the_file_at_each_use() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{}").unwrap();
        assert_eq!(RegistryAuth::from_file(file.path(), "ghcr.io").unwrap(), None);
        std::fs::write(file.path(), FILE).unwrap();
        assert!(RegistryAuth::from_file(file.path(), "ghcr.io").unwrap().is_some());
        std::fs::write(file.path(), vec![b' '; FILE_CAP as usize + 1]).unwrap();
        assert!(matches!(RegistryAuth::from_file(file.path(), "ghcr.io"), Err(AuthError::Read(_))));
        let missing = Path::new("/nonexistent/config.json");
        assert!(matches!(RegistryAuth::from_file(missing, "ghcr.io"), Err(AuthError::Read(_))));
    }
}
