//! Where the Engine is: what `DOCKER_HOST` and its companions mean, and where to look when nothing is set.
//!
//! Reads no environment itself: values come as arguments, so that flags and files can give them too. Parsing
//! opens nothing; only [`Endpoint::probe`] touches the file system.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::dial::connect_unix;

/// One address of an Engine. `Display` gives it in the form of `DOCKER_HOST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    /// Plain or, with `tls`, under TLS with a client certificate.
    Tcp {
        /// A name or an address, IPv6 without brackets.
        host: String,
        port: u16,
        tls: Option<TlsFiles>,
    },
}

/// The directory that holds `ca.pem`, `cert.pem` and `key.pem`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles(pub PathBuf);

/// A setting that cannot be used; the text is one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointError {
    /// The environment name of the setting at fault.
    pub key: &'static str,
    pub reason: String,
}

impl Endpoint {
    /// Reads the values of `DOCKER_HOST`, `DOCKER_CERT_PATH` and `DOCKER_TLS_VERIFY`. An empty value counts as
    /// not set, as in Docker's own clients.
    ///
    /// Stricter than they are in one thing: TLS always verifies the Engine's certificate. They take a
    /// `DOCKER_CERT_PATH` without `DOCKER_TLS_VERIFY` as TLS to whoever answers, and whoever answers would be
    /// given what amounts to root's orders.
    pub fn parse(
        host: &str,
        cert_path: Option<&str>,
        tls_verify: Option<&str>,
    ) -> Result<Endpoint, EndpointError> {
        let cert_path = cert_path.filter(|v| !v.is_empty());
        let verify = tls_verify.is_some_and(|v| !v.is_empty());
        if let Some(path) = host.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(host_error(host));
            }
            return Ok(Endpoint::Unix(path.into()));
        }
        let address = host.strip_prefix("tcp://").ok_or_else(|| host_error(host))?;
        let address = address.strip_suffix('/').unwrap_or(address);
        let tls = match (cert_path, verify) {
            (Some(path), _) => Some(TlsFiles(path.into())),
            (None, true) => {
                return Err(EndpointError {
                    key: "DOCKER_CERT_PATH",
                    reason:
                        "must name the directory of ca.pem, cert.pem and key.pem when DOCKER_TLS_VERIFY is \
                             set"
                        .into(),
                });
            }
            (None, false) => None,
        };
        // The ports that IANA lists for Docker, which Docker's own clients assume too.
        let default_port = if tls.is_some() { 2376 } else { 2375 };
        let (name, port) = split_port(address).ok_or_else(|| host_error(host))?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|p| *p != 0).ok_or_else(|| host_error(host))?,
            None => default_port,
        };
        Ok(Endpoint::Tcp { host: name.into(), port, tls })
    }

    /// The sockets an Engine may have when `DOCKER_HOST` is not set, best first: Docker's, a rootless Docker's,
    /// Podman's, a rootless Podman's. `runtime_dir` is the value of `XDG_RUNTIME_DIR`.
    pub fn candidates(runtime_dir: Option<&Path>) -> Vec<Endpoint> {
        let user = runtime_dir.filter(|dir| dir.is_absolute());
        let mut paths = vec![PathBuf::from("/run/docker.sock"), "/var/run/docker.sock".into()];
        paths.extend(user.map(|dir| dir.join("docker.sock")));
        paths.push("/run/podman/podman.sock".into());
        paths.extend(user.map(|dir| dir.join("podman/podman.sock")));
        paths.into_iter().map(Endpoint::Unix).collect()
    }

    /// The first candidate that takes a connection; else the first whose socket exists, so that the error names
    /// what is wrong with it; else Docker's own, which may appear later.
    pub fn probe(runtime_dir: Option<&Path>) -> Endpoint {
        pick(Endpoint::candidates(runtime_dir))
    }
}

fn pick(candidates: Vec<Endpoint>) -> Endpoint {
    let find = |test: fn(&Path) -> bool| {
        let matches = |e: &&Endpoint| matches!(e, Endpoint::Unix(path) if test(path));
        candidates.iter().find(matches)
    };
    // A listener whose queue is full would hold an unbounded connect for as long as it stays so.
    find(|path| connect_unix(path, Duration::from_secs(1)).is_ok())
        .or_else(|| find(|path| path.exists()))
        .or(candidates.first())
        .cloned()
        .expect("the list of candidates is never empty")
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split_port(address: &str) -> Option<(&str, Option<&str>)> {
    let (name, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) = rest.split_once(']')?;
            name.parse::<std::net::Ipv6Addr>().ok()?;
            (name, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match address.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (address, None),
        },
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    (!name.is_empty() && name.chars().all(allowed)).then_some((name, port))
}

fn host_error(host: &str) -> EndpointError {
    const EXPECTED: &str = "expected unix:///path or tcp://host:port";
    // What stands before an @ may be a password.
    let reason = match host.contains('@') {
        true => format!("{EXPECTED}, without a user or password"),
        false => format!("{EXPECTED}, got {host:?}"),
    };
    EndpointError { key: "DOCKER_HOST", reason }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp { host, port, .. } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Endpoint::Tcp { host, port, .. } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.reason)
    }
}

impl std::error::Error for EndpointError {}

/// A version of the Engine API, such as `1.41`. Parses the value of `DOCKER_API_VERSION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    pub major: u16,
    pub minor: u16,
}

impl ApiVersion {
    /// The oldest that is spoken: Docker 19.03, and Podman's compatible API.
    pub const MIN: ApiVersion = ApiVersion { major: 1, minor: 40 };
    /// The newest that the types here were written against. A newer Engine is spoken to in this one.
    pub const MAX: ApiVersion = ApiVersion { major: 1, minor: 52 };
}

impl FromStr for ApiVersion {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<ApiVersion, EndpointError> {
        let number = |part: &str| part.parse().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit()));
        text.strip_prefix('v')
            .unwrap_or(text)
            .split_once('.')
            .and_then(|(major, minor)| Some(ApiVersion { major: number(major)?, minor: number(minor)? }))
            .ok_or_else(|| EndpointError {
                key: "DOCKER_API_VERSION",
                reason: format!("expected a version such as {}, got {text:?}", ApiVersion::MAX),
            })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, tls: Option<&str>) -> Result<Endpoint, &'static str> {
        Ok(Endpoint::Tcp { host: host.into(), port, tls: tls.map(|p| TlsFiles(p.into())) })
    }

    #[test]
    fn reads_docker_host_and_its_companions() {
        let check = |host, cert_path, verify, expected: Result<Endpoint, &str>| {
            let got = Endpoint::parse(host, cert_path, verify);
            assert_eq!(got.map_err(|e| e.key), expected, "{host:?} {cert_path:?} {verify:?}");
        };
        check("unix:///run/docker.sock", None, None, Ok(Endpoint::Unix("/run/docker.sock".into())));
        check(
            "unix:///run/docker.sock",
            Some("/c"),
            Some("1"),
            Ok(Endpoint::Unix("/run/docker.sock".into())),
        );
        check("tcp://engine:2375", None, None, tcp("engine", 2375, None));
        check("tcp://engine:2375/", None, Some(""), tcp("engine", 2375, None));
        check("tcp://10.0.0.1", None, None, tcp("10.0.0.1", 2375, None));
        check("tcp://10.0.0.1", Some("/certs"), Some("1"), tcp("10.0.0.1", 2376, Some("/certs")));
        check("tcp://[::1]:99", Some("/certs"), None, tcp("::1", 99, Some("/certs")));
        check("tcp://[::1]", None, None, tcp("::1", 2375, None));
        for bad in [
            "",
            "/run/docker.sock",
            "unix://",
            "unix://run/docker.sock",
            "http://engine",
            "ssh://root@engine",
            "fd://",
            "tcp://",
            "tcp://:2375",
            "tcp://engine:",
            "tcp://engine:0",
            "tcp://engine:65536",
            "tcp://engine:1/path",
            "tcp://::1:2375",
            "tcp://[::1",
            "tcp://[::1]2375",
            "tcp://[engine]:1",
            "tcp://a b:1",
        ] {
            check(bad, None, None, Err("DOCKER_HOST"));
        }
        check("tcp://engine", None, Some("1"), Err("DOCKER_CERT_PATH"));
        check("tcp://engine", Some(""), Some("1"), Err("DOCKER_CERT_PATH"));
    }

    #[test]
    fn the_error_names_the_value_but_never_a_password() {
        let text = Endpoint::parse("npipe://x", None, None).unwrap_err().to_string();
        assert_eq!(text, "DOCKER_HOST: expected unix:///path or tcp://host:port, got \"npipe://x\"");
        let text = Endpoint::parse("tcp://me:hunter2@engine", None, None).unwrap_err().to_string();
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn display_gives_what_parses() {
        for text in ["unix:///run/docker.sock", "tcp://engine:1", "tcp://[::1]:2"] {
            assert_eq!(Endpoint::parse(text, None, None).unwrap().to_string(), text);
        }
    }

    #[test]
    fn candidates_stand_in_order() {
        let names: Vec<String> =
            Endpoint::candidates(Some(Path::new("/run/user/7"))).iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "unix:///run/docker.sock",
                "unix:///var/run/docker.sock",
                "unix:///run/user/7/docker.sock",
                "unix:///run/podman/podman.sock",
                "unix:///run/user/7/podman/podman.sock",
            ]
        );
        assert_eq!(Endpoint::candidates(Some(Path::new(""))).len(), 3);
        assert_eq!(Endpoint::candidates(None).len(), 3);
    }

    #[test]
    fn probe_prefers_a_listener_over_a_dead_socket_over_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Endpoint::Unix(dir.path().join(name));
        let candidates = || vec![at("none"), at("dead"), at("live")];
        assert_eq!(pick(candidates()), at("none"));
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("dead")).unwrap());
        assert_eq!(pick(candidates()), at("dead"));
        let _live = std::os::unix::net::UnixListener::bind(dir.path().join("live")).unwrap();
        assert_eq!(pick(candidates()), at("live"));
    }

    #[test]
    fn api_versions_parse_and_compare_by_number() {
        let parse = |text: &str| text.parse::<ApiVersion>().map_err(|e| e.key);
        assert_eq!(parse("1.41"), Ok(ApiVersion { major: 1, minor: 41 }));
        assert_eq!(parse("v1.9"), Ok(ApiVersion { major: 1, minor: 9 }));
        assert!(parse("1.9").unwrap() < ApiVersion::MIN);
        for bad in ["", "1", "1.", ".1", "1.x", "1.+4", "1.4.1", "99999999.1"] {
            assert_eq!(parse(bad), Err("DOCKER_API_VERSION"), "{bad:?}");
        }
    }
}
