//! [`WsUrl`]: a `ws://` or `wss://` address, checked once and then only read.
//!
//! Pure. Strict on purpose: what is not plain visible ASCII, has a user part or a fragment is refused with a
//! message that says what to write instead, because a URL that two parties read differently is how requests go astray.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Longest URL in bytes.
const MAX_LEN: usize = 2048;

/// A checked WebSocket URL (RFC 6455 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WsUrl {
    secure: bool,
    host: Host,
    port: u16,
    path: String,
    query: Option<String>,
}

/// Where a URL points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A lower-case name that has to be resolved.
    Name(String),
    Ip(IpAddr),
}

/// Why a text is no [`WsUrl`]. Never holds the text: it may carry what its owner would not like to read in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlError {
    TooLong,
    Scheme,
    UserInfo,
    Fragment,
    Host,
    Port,
    Character,
}

impl WsUrl {
    /// Parses and checks. The port is 80 or 443 and the path `/` where none is given.
    pub fn parse(text: &str) -> Result<WsUrl, UrlError> {
        if text.len() > MAX_LEN {
            return Err(UrlError::TooLong);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let secure = match scheme {
            s if s.eq_ignore_ascii_case("ws") => false,
            s if s.eq_ignore_ascii_case("wss") => true,
            _ => return Err(UrlError::Scheme),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        if target.contains('#') {
            return Err(UrlError::Fragment);
        }
        if !target
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`'))
        {
            return Err(UrlError::Character);
        }
        let (host, port) = split_authority(authority)?;
        let port = port.unwrap_or(if secure { 443 } else { 80 });
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let path = if path.is_empty() { "/" } else { path }.to_owned();
        Ok(WsUrl { secure, host, port, path, query })
    }

    /// The same URL with the query parameter `name` set to `value`, in place of every one of that name.
    pub fn with_query(mut self, name: &str, value: &str) -> WsUrl {
        let (name, value) = (percent_encode(name), percent_encode(value));
        let others = self.query.iter().flat_map(|q| q.split('&'));
        let mut query = String::new();
        for pair in others.filter(|p| !p.is_empty() && p.split('=').next() != Some(&name)) {
            query.push_str(pair);
            query.push('&');
        }
        query.push_str(&name);
        query.push('=');
        query.push_str(&value);
        self.query = Some(query);
        self
    }

    /// Whether the connection is to be TLS.
    pub fn secure(&self) -> bool {
        self.secure
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, as they stand in the request line.
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// The `Host` header: the port is left out where the scheme implies it.
    pub fn host_header(&self) -> String {
        let implied = if self.secure { 443 } else { 80 };
        if self.port == implied { self.host.to_string() } else { self.authority() }
    }

    /// Scheme, host and port, without a path.
    pub fn origin(&self) -> String {
        let scheme = if self.secure { "wss" } else { "ws" };
        format!("{scheme}://{}", self.host_header())
    }

    /// Host and port, as CONNECT needs them.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// For logs: without the query, which may hold a token of its owner's.
impl fmt::Display for WsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.host_header(), self.path)
    }
}

impl Host {
    /// Parses a name, an IPv4 literal or a bracketed IPv6 literal.
    pub fn parse(text: &str) -> Option<Host> {
        if let Some(literal) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return literal.parse::<Ipv6Addr>().ok().map(|ip| Host::Ip(ip.into()));
        }
        if let Ok(ip) = text.parse::<std::net::Ipv4Addr>() {
            return Some(Host::Ip(ip.into()));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let whole = text.strip_suffix('.').unwrap_or(text);
        let labels = whole.split('.').all(|label| (1..=63).contains(&label.len()));
        // All digits and dots but no IPv4 address: resolvers disagree about `127.1`, so it is no name either.
        let numeric = whole.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        (labels && whole.len() <= 253 && !numeric && text.bytes().all(allowed))
            .then(|| Host::Name(text.to_ascii_lowercase()))
    }

    /// Whether this is the machine itself: `localhost`, a name beneath it (RFC 6761) or a loopback address.
    pub fn is_loopback(&self) -> bool {
        match self {
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            Host::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                name == "localhost" || name.ends_with(".localhost")
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`.
pub(super) fn split_authority(authority: &str) -> Result<(Host, Option<u16>), UrlError> {
    let port_at = match authority.rfind(']') {
        Some(end) => end + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(port_at);
    let host = Host::parse(host).ok_or(UrlError::Host)?;
    let port = match port.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|&port| port != 0).ok_or(UrlError::Port)?)
        }
        None if port.is_empty() => None,
        _ => return Err(UrlError::Port),
    };
    Ok((host, port))
}

/// Everything but the unreserved characters of RFC 3986 section 2.3 becomes `%XX`.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'-' | b'.' | b'_' | b'~' => out.push(b.into()),
            b if b.is_ascii_alphanumeric() => out.push(b.into()),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UrlError::TooLong => "url: longer than 2048 bytes",
            UrlError::Scheme => "url: has to begin with ws:// or wss://",
            UrlError::UserInfo => "url: has a user or password in it, which belongs into the secret",
            UrlError::Fragment => "url: has a #fragment, which a WebSocket URL cannot have",
            UrlError::Host => "url: host is no name, IPv4 address or [IPv6 address]",
            UrlError::Port => "url: port is not a number from 1 to 65535",
            UrlError::Character => "url: path or query has a character that has to be percent-encoded",
        })
    }
}

impl std::error::Error for UrlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls() {
        for (text, authority, host_header, target, shown) in [
            ("ws://panel", "panel:80", "panel", "/", "ws://panel/"),
            (
                "WSS://Panel.Example:443/a",
                "panel.example:443",
                "panel.example",
                "/a",
                "wss://panel.example/a",
            ),
            (
                "ws://10.0.0.1:8080/a/b?x=1&y",
                "10.0.0.1:8080",
                "10.0.0.1:8080",
                "/a/b?x=1&y",
                "ws://10.0.0.1:8080/a/b",
            ),
            ("wss://[::1]:9/?token=t", "[::1]:9", "[::1]:9", "/?token=t", "wss://[::1]:9/"),
            ("ws://[2001:db8::7]", "[2001:db8::7]:80", "[2001:db8::7]", "/", "ws://[2001:db8::7]/"),
            ("ws://h?q", "h:80", "h", "/?q", "ws://h/"),
        ] {
            let url = WsUrl::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(url.authority(), authority);
            assert_eq!(url.host_header(), host_header);
            assert_eq!(url.target(), target);
            assert_eq!(url.to_string(), shown);
        }
    }

    #[test]
    fn bad_urls() {
        for (text, expected) in [
            ("", UrlError::Scheme),
            ("http://panel", UrlError::Scheme),
            ("panel:80", UrlError::Scheme),
            ("ws://user:pass@panel", UrlError::UserInfo),
            ("ws://secret@panel/", UrlError::UserInfo),
            ("ws://panel/#x", UrlError::Fragment),
            ("ws://", UrlError::Host),
            ("ws:///path", UrlError::Host),
            ("ws://:80", UrlError::Host),
            ("ws://a..b", UrlError::Host),
            ("ws://127.1", UrlError::Host),
            ("ws://pänel", UrlError::Host),
            ("ws://pa nel", UrlError::Host),
            ("ws://::1", UrlError::Host),
            ("ws://[::1", UrlError::Host),
            ("ws://[fe80::1%eth0]", UrlError::Host),
            ("ws://[::1]x", UrlError::Port),
            ("ws://panel:", UrlError::Port),
            ("ws://panel:0", UrlError::Port),
            ("ws://panel:65536", UrlError::Port),
            ("ws://panel:+80", UrlError::Port),
            ("ws://panel/a b", UrlError::Character),
            ("ws://panel/\r\nX:y", UrlError::Character),
            ("ws://panel/ü", UrlError::Character),
        ] {
            assert_eq!(WsUrl::parse(text), Err(expected), "{text:?}");
        }
        assert_eq!(WsUrl::parse(&format!("ws://h/{}", "a".repeat(2048))), Err(UrlError::TooLong));
    }

    #[test]
    fn a_query_parameter_replaces_all_of_its_name() {
        for (text, expected) in [
            ("ws://h", "/?nodeId=n-1"),
            ("ws://h/p?", "/p?nodeId=n-1"),
            ("ws://h/?nodeId=old&a=b&nodeId&nodeIdx=1", "/?a=b&nodeIdx=1&nodeId=n-1"),
        ] {
            assert_eq!(WsUrl::parse(text).unwrap().with_query("nodeId", "n-1").target(), expected);
        }
        assert_eq!(WsUrl::parse("ws://h").unwrap().with_query("a", "x&y=é").target(), "/?a=x%26y%3D%C3%A9");
    }

    #[test]
    fn loopback_by_name_and_number() {
        for (host, expected) in [
            ("localhost", true),
            ("x.localhost.", true),
            ("127.8.0.1", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("10.0.0.1", false),
            ("notlocalhost", false),
        ] {
            assert_eq!(Host::parse(host).unwrap().is_loopback(), expected, "{host}");
        }
    }
}
