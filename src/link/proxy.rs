//! [`Proxy`]: which HTTP proxy leads to the Panel, and the CONNECT that asks it for a tunnel.
//!
//! CONNECT is used for `ws://` too: a proxy that is sent a plain upgrade request seldom passes it on. The values of the
//! environment are given in; reading them (both letter cases) is the caller's.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::{error, fmt};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::head::{ResponseHead, printable, read_body, read_head};
use super::url::{Host, WsUrl, split_authority};

/// The values of the three variables; an empty one counts as missing.
#[derive(Clone, Default)]
pub struct ProxySettings {
    /// `HTTPS_PROXY`: for `wss://`.
    pub https: Option<String>,
    /// `HTTP_PROXY`: for `ws://`.
    pub http: Option<String>,
    /// `NO_PROXY`.
    pub no_proxy: Option<String>,
}

/// An HTTP proxy. Its `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(super) host: Host,
    pub(super) port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

/// Why a proxy cannot be used, or gave no tunnel.
#[derive(Debug)]
pub enum ProxyError {
    /// It is spoken to in plain HTTP only; `https://` and `socks5://` proxies are not supported.
    Scheme,
    /// The host or port of its URL.
    Address,
    /// The user part of its URL.
    UserInfo,
    /// It answered with this status and text.
    Refused {
        status: u16,
        body: String,
    },
    /// It sent bytes before the tunnel was in use, which nothing behind it can have meant for us.
    Early,
    Io(io::Error),
}

impl ProxySettings {
    /// The proxy for this URL, or `None` to connect directly. The machine itself is never reached through a
    /// proxy: there, `localhost` would be another machine.
    pub fn choose(&self, url: &WsUrl) -> Result<Option<Proxy>, ProxyError> {
        let value = if url.secure() { &self.https } else { &self.http };
        let value = value.as_deref().map_or("", str::trim);
        if value.is_empty() || url.host().is_loopback() || self.excepts(url) {
            return Ok(None);
        }
        Proxy::parse(value).map(Some)
    }

    /// Whether an entry of NO_PROXY (separated by commas or spaces) names this host: `*`; `example.com`, itself and
    /// what is beneath it; `.example.com` or `*.example.com`, only what is beneath it; an address; a network as
    /// CIDR; any but `*` and a network with `:port`, then for that port only.
    fn excepts(&self, url: &WsUrl) -> bool {
        let entries = self.no_proxy.as_deref().unwrap_or_default().split([',', ' ', '\t']);
        entries.filter(|entry| !entry.is_empty()).any(|entry| excepted(entry, url.host(), url.port()))
    }
}

fn excepted(entry: &str, host: &Host, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some((network, prefix)) = entry.split_once('/') {
        let (Host::Ip(ip), Ok(network), Ok(prefix)) =
            (host, network.parse::<IpAddr>(), prefix.parse::<u32>())
        else {
            return false;
        };
        return in_network(*ip, network, prefix);
    }
    if let (Host::Ip(ip), Ok(excepted)) = (host, entry.parse::<IpAddr>()) {
        return ip.to_canonical() == excepted.to_canonical();
    }
    let (only_beneath, entry) = match entry.strip_prefix("*.").or(entry.strip_prefix('.')) {
        Some(rest) => (true, rest),
        None => (false, entry),
    };
    let Ok((excepted, only_port)) = split_authority(entry) else { return false };
    if only_port.is_some_and(|only| only != port) {
        return false;
    }
    match (host, &excepted) {
        (Host::Ip(host), Host::Ip(excepted)) => {
            !only_beneath && host.to_canonical() == excepted.to_canonical()
        }
        (Host::Name(host), Host::Name(excepted)) => {
            let (host, excepted) = (host.trim_end_matches('.'), excepted.trim_end_matches('.'));
            let beneath = host.strip_suffix(excepted).is_some_and(|rest| rest.ends_with('.'));
            beneath || (!only_beneath && host == excepted)
        }
        _ => false,
    }
}

fn in_network(ip: IpAddr, network: IpAddr, prefix: u32) -> bool {
    match (ip.to_canonical(), network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) if prefix <= 32 => {
            let host_bits = 32 - prefix;
            (ip.to_bits() ^ network.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) if prefix <= 128 => {
            let host_bits = 128 - prefix;
            (ip.to_bits() ^ network.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

impl Proxy {
    /// Parses `[http://][user:password@]host[:port][/]`. The port is 80 where none is given.
    pub fn parse(text: &str) -> Result<Proxy, ProxyError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyError::Scheme),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        let (host, port) = split_authority(authority).map_err(|_| ProxyError::Address)?;
        let authorization = match user {
            Some(user) => Some(basic(user).ok_or(ProxyError::UserInfo)?),
            None => None,
        };
        Ok(Proxy { host, port: port.unwrap_or(80), authorization })
    }

    /// Asks for a tunnel to `url` on a fresh connection to the proxy. After it the stream is the Panel's.
    pub(super) fn tunnel(&self, stream: &mut (impl Read + Write), url: &WsUrl) -> Result<(), ProxyError> {
        let target = url.authority();
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).map_err(ProxyError::Io)?;
        let (head, rest) = read_head(stream, Vec::new()).map_err(ProxyError::Io)?;
        let head = ResponseHead::parse(&head).map_err(ProxyError::Io)?;
        match head.status {
            200..=299 if rest.is_empty() => Ok(()),
            200..=299 => Err(ProxyError::Early),
            status => Err(ProxyError::Refused { status, body: read_body(stream, &head.headers, rest) }),
        }
    }
}

/// Basic authentication (RFC 7617) of a URL's user part, which is percent-encoded.
fn basic(user: &str) -> Option<String> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut pair = percent_decode(name)?;
    // A colon in the name would move the boundary to the password.
    if pair.contains(&b':') {
        return None;
    }
    pair.push(b':');
    pair.extend(percent_decode(password)?);
    Some(format!("Basic {}", BASE64_STANDARD.encode(pair)))
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let [high, low, after @ ..] = after else { return None };
        let digit = |b: u8| char::from(b).to_digit(16);
        out.push((digit(*high)? * 16 + digit(*low)?) as u8);
        rest = after;
    }
    Some(out)
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |value: &Option<String>| value.is_some();
        f.debug_struct("ProxySettings")
            .field("https", &set(&self.https))
            .field("http", &set(&self.http))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// For logs: without the user part.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyError::Scheme => f.write_str("the proxy's url has to begin with http://"),
            ProxyError::Address => f.write_str("the proxy's url has no valid host or port"),
            ProxyError::UserInfo => {
                f.write_str("the user or password in the proxy's url is not percent-encoded")
            }
            ProxyError::Refused { status, body } if body.is_empty() => write!(f, "answered {status}"),
            ProxyError::Refused { status, body } => write!(f, "answered {status}: {}", printable(body)),
            ProxyError::Early => f.write_str("sent something before the tunnel was in use"),
            ProxyError::Io(cause) => cause.fmt(f),
        }
    }
}

impl error::Error for ProxyError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(settings: &ProxySettings, url: &str) -> Option<String> {
        settings.choose(&WsUrl::parse(url).unwrap()).unwrap().map(|proxy| proxy.to_string())
    }

    #[test]
    fn each_scheme_has_its_variable_and_loopback_none() {
        let settings = ProxySettings {
            https: Some("http://secure:1".into()),
            http: Some(" plain:2/ ".into()),
            no_proxy: None,
        };
        for (url, expected) in [
            ("wss://panel", Some("http://secure:1")),
            ("ws://panel", Some("http://plain:2")),
            ("ws://localhost", None),
            ("wss://127.0.0.1", None),
            ("wss://[::1]:9", None),
        ] {
            assert_eq!(chosen(&settings, url).as_deref(), expected, "{url}");
        }
        assert_eq!(
            chosen(&ProxySettings { http: Some(String::new()), ..Default::default() }, "ws://panel"),
            None
        );
    }

    #[test]
    fn exceptions() {
        for (no_proxy, url, direct) in [
            ("*", "ws://panel", true),
            ("", "ws://panel", false),
            ("panel", "ws://panel", true),
            ("PANEL, other", "ws://Panel", true),
            ("example.com", "ws://a.example.com", true),
            ("example.com", "ws://badexample.com", false),
            ("other .example.com", "ws://a.b.example.com", true),
            (".example.com", "ws://example.com", false),
            ("*.example.com", "ws://a.example.com", true),
            ("example.com:8080", "ws://example.com:8080", true),
            ("example.com:8080", "ws://example.com", false),
            ("10.0.0.1", "ws://10.0.0.1", true),
            ("10.0.0.1:80", "ws://10.0.0.1", true),
            ("10.0.0.1:81", "ws://10.0.0.1", false),
            ("10.0.0.0/8", "ws://10.9.8.7", true),
            ("10.0.0.0/8", "ws://11.0.0.1", false),
            ("0.0.0.0/0", "ws://8.8.8.8", true),
            ("10.0.0.1/32", "ws://10.0.0.1", true),
            ("10.0.0.1/33", "ws://10.0.0.1", false),
            ("10.0.0.0/x", "ws://10.0.0.1", false),
            ("10.0.0.0/8", "ws://[::ffff:10.0.0.1]", true),
            ("2001:db8::/32", "ws://[2001:db8:1::1]", true),
            ("2001:db8::/32", "ws://[2001:db9::1]", false),
            ("::/0", "ws://[2001:db9::1]", true),
            ("[2001:db8::1]:80", "ws://[2001:db8::1]", true),
            ("2001:db8::1", "ws://[2001:db8::1]:99", true),
            ("0.1", "ws://10.0.0.1", false),
        ] {
            let settings = ProxySettings {
                http: Some("http://proxy:1".into()),
                no_proxy: Some(no_proxy.into()),
                ..Default::default()
            };
            assert_eq!(chosen(&settings, url).is_none(), direct, "NO_PROXY={no_proxy} {url}");
        }
    }

    #[test]
    fn proxy_urls() {
        let proxy = Proxy::parse("http://us%40er:p%3ass@[::1]:3128/").unwrap();
        assert_eq!(format!("{proxy:?} {proxy}"), "Proxy(http://[::1]:3128) http://[::1]:3128");
        assert_eq!(proxy.authorization.as_deref(), Some("Basic dXNAZXI6cDpzcw=="));
        assert_eq!(Proxy::parse("proxy").unwrap().to_string(), "http://proxy:80");
        for (text, expected) in [
            ("socks5://p", "scheme"),
            ("https://p:1", "scheme"),
            ("http://", "address"),
            ("http://p:x", "address"),
            ("http://p/path", "address"),
            ("http://u%zz:p@p", "user"),
            ("http://a%3ab:p@p", "user"),
        ] {
            let kind = match Proxy::parse(text) {
                Err(ProxyError::Scheme) => "scheme",
                Err(ProxyError::Address) => "address",
                Err(ProxyError::UserInfo) => "user",
                other => panic!("{text}: {other:?}"),
            };
            assert_eq!(kind, expected, "{text}");
        }
    }
}
