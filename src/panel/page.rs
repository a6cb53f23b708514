//! The page: files that are part of the binary, served with a strict content policy.
//!
//! Runs on the gate's threads; everything is made once at start. Nothing on the page comes from another host, and
//! nothing in it is inline, so that text from a server or a node can never become code.

use std::borrow::Cow;

use ring::digest;

use crate::gate::{Head, Response};

/// No `unsafe-inline`, no other host; what would turn a text into HTML or a script is refused by the browser too.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

pub struct Page {
    files: Vec<File>,
}

struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
    etag: String,
}

impl Page {
    pub fn new() -> Page {
        const JS: &str = "text/javascript; charset=utf-8";
        let files = [
            ("/", "text/html; charset=utf-8", include_str!("web/index.html")),
            ("/style.css", "text/css; charset=utf-8", include_str!("web/style.css")),
            ("/theme.js", JS, include_str!("web/theme.js")),
            ("/app.js", JS, include_str!("web/app.js")),
            ("/dom.js", JS, include_str!("web/dom.js")),
            ("/live.js", JS, include_str!("web/live.js")),
            ("/states.js", JS, include_str!("web/states.js")),
            ("/servers.js", JS, include_str!("web/servers.js")),
            ("/nodes.js", JS, include_str!("web/nodes.js")),
            ("/forms.js", JS, include_str!("web/forms.js")),
            ("/icon.svg", "image/svg+xml", include_str!("web/icon.svg")),
        ];
        let file = |(path, content_type, text): (_, _, &'static str)| File {
            path,
            content_type,
            text,
            etag: etag(text),
        };
        Page { files: files.map(file).into() }
    }

    /// The file at this path, or 304 when the asker has it. `None` for another path.
    pub fn serve(&self, head: &Head) -> Option<Response> {
        let file = self.files.iter().find(|file| file.path == head.path())?;
        if !matches!(head.method(), "GET" | "HEAD") {
            return Some(Response::method_not_allowed("GET, HEAD"));
        }
        let has_it = head.header("if-none-match").is_some_and(|tags| {
            tags.split(',')
                .map(|tag| tag.trim().trim_start_matches("W/"))
                .any(|tag| tag == file.etag || tag == "*")
        });
        let response = match has_it {
            true => Response::empty(304),
            false => Response::bytes(200, file.content_type, Cow::Borrowed(file.text.as_bytes())),
        };
        // Asked for again each time: a new version of the Panel must never run with an old half of its page.
        let response = response.with("ETag", &*file.etag).with("Cache-Control", "no-cache");
        Some(
            response
                .with("Content-Security-Policy", POLICY)
                .with("Cross-Origin-Opener-Policy", "same-origin")
                .with("Cross-Origin-Resource-Policy", "same-origin"),
        )
    }
}

impl Default for Page {
    fn default() -> Page {
        Page::new()
    }
}

/// Of the content alone, so that it outlives a restart.
fn etag(text: &str) -> String {
    use std::fmt::Write;
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut tag = String::from("\"");
    for byte in &hash.as_ref()[..12] {
        let _ = write!(tag, "{byte:02x}"); // writing to a String cannot fail
    }
    tag.push('"');
    tag
}
