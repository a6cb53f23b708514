//! Image references as people write them (`mc:latest`, `ghcr.io/a/b@sha256:…`), taken apart by the grammar of
//! distribution/reference and with Docker's defaults filled in. Pure.

use std::fmt;
use std::str::FromStr;

/// A reference that names exactly one image: its tag is never missing. `Display` gives the form that people
/// know, which is also what the Engine takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `docker.io` when none is written; with its port if it has one.
    pub registry: String,
    /// `library/…` for Docker's official images.
    pub repository: String,
    pub version: ImageVersion,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageVersion {
    /// `latest` when none is written: without any, a pull would fetch every tag there is.
    Tag(String),
    /// `sha256:…`. A tag beside it says nothing more and is dropped.
    Digest(String),
}

/// Why a text is no image reference; meant to follow the name of the field it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceError(&'static str);

pub(super) const DOCKER_HUB: &str = "docker.io";

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        if text.is_empty() || text.len() > 4096 {
            return Err(ReferenceError("an image name of 1 to 4096 bytes is expected"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if let Some(digest) = digest {
            check(is_digest(digest), "the digest must be sha256: and 64 lower-case hex digits")?;
        }
        if let Some(tag) = tag {
            check(is_tag(tag), "the tag must be 1 to 128 of A-Z a-z 0-9 . _ - and not start with . or -")?;
        }
        let (registry, repository) = split_registry(name);
        check(registry.is_none_or(is_registry), "the registry must be a host name with an optional port")?;
        let registry = match registry {
            // The name that Docker's own configuration has for it.
            None | Some("index.docker.io" | DOCKER_HUB) => DOCKER_HUB,
            Some(registry) => registry,
        };
        check(
            repository.split('/').all(is_component),
            "the image name must be lower-case letters, digits and single . _ - between them, parted by /",
        )?;
        check(repository.len() <= 255, "the image name is longer than 255 bytes")?;
        let repository = match registry == DOCKER_HUB && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository.to_owned(),
        };
        let version = match (digest, tag) {
            (Some(digest), _) => ImageVersion::Digest(digest.into()),
            (None, tag) => ImageVersion::Tag(tag.unwrap_or("latest").into()),
        };
        Ok(Reference { registry: registry.into(), repository, version })
    }
}

impl Reference {
    /// Without tag and digest, as `fromImage` of a pull takes it.
    pub fn name(&self) -> String {
        if self.registry != DOCKER_HUB {
            return format!("{}/{}", self.registry, self.repository);
        }
        self.repository.strip_prefix("library/").unwrap_or(&self.repository).to_owned()
    }
}

/// The part before the first slash is a registry only if it cannot be a name: a dot, a colon, an upper-case
/// letter, or `localhost`.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => {
            let port = rest.strip_prefix(':');
            return host.parse::<std::net::Ipv6Addr>().is_ok()
                && (rest.is_empty() || port.is_some_and(is_port));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    port.is_none_or(is_port) && host.split('.').all(label)
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Runs of `a-z0-9`, between which stand one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges =
        text.bytes().next().is_some_and(alphanumeric) && text.bytes().next_back().is_some_and(alphanumeric);
    let separators = text.split(|c: char| alphanumeric(c as u8) && c.is_ascii());
    edges
        && separators
            .filter(|s| !s.is_empty())
            .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:").is_some_and(|d| d.len() == 64 && d.bytes().all(hex))
}

fn check(holds: bool, otherwise: &'static str) -> Result<(), ReferenceError> {
    if holds { Ok(()) } else { Err(ReferenceError(otherwise)) }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            ImageVersion::Tag(tag) => write!(f, "{}:{tag}", self.name()),
            ImageVersion::Digest(digest) => write!(f, "{}@{digest}", self.name()),
        }
    }
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for ReferenceError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_references_apart_and_fills_in_dockers_defaults() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let check = |text: &str, registry: &str, repository: &str, version: &str, display: &str| {
            let got: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            let (ImageVersion::Tag(v) | ImageVersion::Digest(v)) = &got.version;
            assert_eq!((&*got.registry, &*got.repository, &**v), (registry, repository, version), "{text}");
            assert_eq!(got.to_string(), display);
            assert_eq!(display.parse(), Ok(got), "{display} must parse back to the same");
        };
        check("mc", "docker.io", "library/mc", "latest", "mc:latest");
        check("mc:1.20", "docker.io", "library/mc", "1.20", "mc:1.20");
        check("docker.io/mc", "docker.io", "library/mc", "latest", "mc:latest");
        check("index.docker.io/a/mc", "docker.io", "a/mc", "latest", "a/mc:latest");
        check(
            "itzg/minecraft-server:java21",
            "docker.io",
            "itzg/minecraft-server",
            "java21",
            "itzg/minecraft-server:java21",
        );
        check("ghcr.io/a/b/c:x", "ghcr.io", "a/b/c", "x", "ghcr.io/a/b/c:x");
        check("localhost/a", "localhost", "a", "latest", "localhost/a:latest");
        check("localhost:5000/a", "localhost:5000", "a", "latest", "localhost:5000/a:latest");
        check("[::1]:5000/a:b", "[::1]:5000", "a", "b", "[::1]:5000/a:b");
        check("a:5000/b", "a:5000", "b", "latest", "a:5000/b:latest");
        check("a_b/c__d/e--f.g", "docker.io", "a_b/c__d/e--f.g", "latest", "a_b/c__d/e--f.g:latest");
        check(&format!("mc@{digest}"), "docker.io", "library/mc", &digest, &format!("mc@{digest}"));
        check(&format!("x.io/mc:t@{digest}"), "x.io", "mc", &digest, &format!("x.io/mc@{digest}"));
    }

    #[test]
    fn refuses_what_docker_refuses() {
        let long = "a".repeat(256);
        for bad in [
            "",
            ":",
            "@",
            "/",
            "a/",
            "/a",
            "a//b",
            "MC",
            "a/B",
            "mc:",
            "mc:-x",
            "mc:.x",
            "mc:a b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "_a",
            "a\n",
            "é",
            "a@sha256:12",
            "a@md5:x",
            "a@",
            "http://a/b",
            "a b",
            "../a",
            "a/../b",
            "x.io:port/a",
            "x.io:99999/a",
            "-x.io/a",
            "x..io/a",
            "a?b",
            "a#b",
            "a%2Fb",
            &long,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn never_panics() {
        proptest::proptest!(|(text in "[a-zA-Z0-9./:@_é\\[\\]-]{0,24}")| {
            if let Ok(reference) = text.parse::<Reference>() {
                assert_eq!(reference.to_string().parse(), Ok(reference));
            }
        });
    }
}
