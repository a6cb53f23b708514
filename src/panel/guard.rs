//! From where something may be asked: the checks that stand before every page and every call, whoever asks.
//!
//! Pure: a request's head in, a refusal or nothing out. A browser on this machine also runs other people's pages;
//! these must neither read (a name of theirs that resolves to us: DNS rebinding) nor act (a form or fetch across
//! sites: CSRF). Programs that send no `Origin` and no `Sec-Fetch-Site` are not browsers and pass.

use std::net::IpAddr;

use super::problem::Problem;
use crate::gate::Head;

/// What a guard lets through.
pub struct Guard {
    /// Names from the configuration, in lower case.
    hosts: Vec<String>,
    /// Bound beyond loopback, so that any address may be the one we are asked by. An address cannot be rebound.
    any_address: bool,
}

impl Guard {
    pub fn new(hosts: Vec<String>, bound: IpAddr) -> Guard {
        Guard { hosts, any_address: !bound.to_canonical().is_loopback() }
    }

    /// Every request: the name we are asked by has to be ours.
    pub fn check_host(&self, head: &Head) -> Result<(), Problem> {
        match head.header("host").and_then(host_name) {
            Some(name) if self.is_ours(&name) => Ok(()),
            _ => Err(Problem::new(
                421,
                "HOST_NOT_ALLOWED",
                "The Panel is not known by this host name. Add it to HTTP_HOSTS if it is meant to be.",
            )),
        }
    }

    /// The API: not asked by a page of another site.
    pub fn check_site(&self, head: &Head) -> Result<(), Problem> {
        let refusal = || Problem::new(403, "CROSS_SITE", "This call comes from a page of another site.");
        if head.header("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
            return Err(refusal());
        }
        let host = head.header("host").unwrap_or_default();
        let own = |origin: &str| {
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        };
        match head.header("origin") {
            Some(origin) if !own(origin) => Err(refusal()),
            _ => Ok(()),
        }
    }

    /// Calls that change something: a type of content that no form can send, so that a browser asks us first.
    pub fn check_json(&self, head: &Head) -> Result<(), Problem> {
        check_type(head, "application/json")
    }

    /// Calls that bring bytes.
    pub fn check_bytes(&self, head: &Head) -> Result<(), Problem> {
        check_type(head, "application/octet-stream")
    }

    fn is_ours(&self, name: &str) -> bool {
        match name.parse::<IpAddr>() {
            Ok(address) => self.any_address || address.to_canonical().is_loopback(),
            // RFC 6761 section 6.3: these never leave the machine.
            Err(_) => {
                name == "localhost"
                    || name.ends_with(".localhost")
                    || self.hosts.iter().any(|host| host == name)
            }
        }
    }
}

fn check_type(head: &Head, expected: &str) -> Result<(), Problem> {
    let essence = head.header("content-type").and_then(|value| value.split(';').next()).unwrap_or_default();
    if essence.trim().eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(Problem::new(415, "UNSUPPORTED_MEDIA_TYPE", format!("The call needs Content-Type: {expected}.")))
}

/// The host of a `Host` value in lower case, without its port and without the brackets of IPv6.
fn host_name(value: &str) -> Option<String> {
    let (name, rest) = match value.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => value.split_at(value.find(':').unwrap_or(value.len())),
    };
    let port = rest.strip_prefix(':').unwrap_or(rest);
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    (is_port && !name.is_empty()).then(|| name.to_ascii_lowercase())
}
