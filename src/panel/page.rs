//! The page: files that are part of the binary, served with a strict content policy.
//!
//! Runs on the gate's threads. Nothing on the page comes from another host, and nothing in it is inline, so that text
//! from a server or a node can never become code. The page finds its way by the address, so every address that it
//! knows is answered with the same document; any other is left to the API.

use std::borrow::Cow;
use std::io::Write;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest;

use crate::gate::{Head, Response};

/// No `unsafe-inline`, no other host; what would turn a text into HTML or a script is refused by the browser too.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// First parts of the paths that the page's own router knows: those in `app.js`.
const PLACES: [&str; 8] = ["", "servers", "nodes", "activity", "users", "settings", "login", "setup"];

macro_rules! files {
    ($($name:literal)+) => {
        [$((concat!("/", $name), include_str!(concat!("web/", $name)))),+]
    };
}

/// The document comes first.
const FILES: [(&str, &str); 35] = files!(
    "index.html" "icon.svg" "theme.js" "actions.js"
    "activity.js" "ansi.js" "api.js" "app.js" "chart.js" "charts.js" "console.js" "create.js"
    "dialogs.js" "dom.js" "edit.js" "editor.js" "fields.js" "files.js" "firstrun.js" "gate.js"
    "live.js" "mods.js" "node.js" "nodes.js" "router.js" "scrollback.js" "server.js" "servers.js"
    "settings.js" "states.js" "tune.js" "uploads.js" "user.js" "users.js" "words.js"
);

/// Four files to us and one to a browser, which draws nothing before it has them all: each request is a connection.
const STYLE: (&str, &str) = (
    "/page.css",
    concat!(
        include_str!("web/tokens.css"),
        include_str!("web/frame.css"),
        include_str!("web/parts.css"),
        include_str!("web/pages.css")
    ),
);

pub struct Page {
    files: Vec<File>,
}

struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
    hash: String,
    /// Made when it is first asked for, so that a start does not wait for it.
    gzip: OnceLock<Vec<u8>>,
}

impl Page {
    pub fn new() -> Page {
        let file = |(path, text): (&'static str, &'static str)| File {
            path,
            content_type: content_type(path),
            text,
            hash: hash(text),
            gzip: OnceLock::new(),
        };
        Page { files: FILES.into_iter().chain([STYLE]).map(file).collect() }
    }

    /// The file at this path, or 304 when the asker has it. `None` for a path that is not the page's.
    pub fn serve(&self, head: &Head) -> Option<Response> {
        let file = self.find(head.path())?;
        if !matches!(head.method(), "GET" | "HEAD") {
            return Some(Response::method_not_allowed("GET, HEAD"));
        }
        let gzip = accepts_gzip(head.header("accept-encoding"));
        // Each form of a file has a tag of its own (RFC 9110 section 8.8.3).
        let tag = format!("\"{}{}\"", file.hash, if gzip { "-gzip" } else { "" });
        let has_it = head.header("if-none-match").is_some_and(|tags| {
            tags.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == tag || one == "*")
        });
        let mut response = match (has_it, gzip) {
            (true, _) => Response::empty(304),
            (false, false) => Response::bytes(200, file.content_type, Cow::Borrowed(file.text.as_bytes())),
            (false, true) => Response::bytes(200, file.content_type, file.compressed().to_vec())
                .with("Content-Encoding", "gzip"),
        };
        // Asked for again each time: a new version of the Panel must never run with an old half of its page.
        for (name, value) in [
            ("ETag", tag.as_str()),
            ("Vary", "Accept-Encoding"),
            ("Cache-Control", "no-cache"),
            ("Content-Security-Policy", POLICY),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
        ] {
            response = response.with(name, value);
        }
        Some(response)
    }

    fn find(&self, path: &str) -> Option<&File> {
        let file = self.files.iter().find(|file| file.path == path);
        let place = path.split('/').nth(1).unwrap_or_default();
        // `/index.html` is a file as well, but the document has many addresses and that is none of them.
        file.filter(|file| file.path != FILES[0].0)
            .or_else(|| PLACES.contains(&place).then(|| &self.files[0]))
    }
}

impl Default for Page {
    fn default() -> Page {
        Page::new()
    }
}

impl File {
    fn compressed(&self) -> &[u8] {
        self.gzip.get_or_init(|| {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
            // Writing to a Vec cannot fail.
            let _ = gzip.write_all(self.text.as_bytes());
            gzip.finish().unwrap_or_default()
        })
    }
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// `gzip` in a list of codings, unless its weight is 0 (RFC 9110 section 12.5.3).
fn accepts_gzip(header: Option<&str>) -> bool {
    header.unwrap_or_default().split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight =
            parts.find_map(|part| part.strip_prefix("q=")).and_then(|weight| weight.parse::<f32>().ok());
        named && weight != Some(0.0)
    })
}

/// Of the content alone, so that it outlives a restart.
fn hash(text: &str) -> String {
    use std::fmt::Write;
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut hex = String::new();
    for byte in &hash.as_ref()[..12] {
        let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        let cases = [
            (None, false),
            (Some("gzip"), true),
            (Some("br, GZIP;q=0.5"), true),
            (Some("gzip;q=0"), false),
            (Some("deflate, br"), false),
        ];
        for (header, expected) in cases {
            assert_eq!(accepts_gzip(header), expected, "{header:?}");
        }
    }

    #[test]
    fn every_address_of_the_page_is_its_document_and_no_other_path_is() {
        let page = Page::new();
        let found = |path: &str| page.find(path).map(|file| file.path);
        for path in ["/", "/servers", "/servers/node-1/demo/files", "/login", "/setup", "/settings"] {
            assert_eq!(found(path), Some("/index.html"), "{path}");
        }
        assert_eq!(found("/app.js"), Some("/app.js"));
        for path in ["/index.html", "/api/v1/servers", "/agent", "/health", "/nothing.js", "/serversx"] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
