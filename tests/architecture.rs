//! Who may know whom, read from the sources: the build itself would accept any `use` between the rooms of the library.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room with the rooms it may name. Nothing may name `agent` or `panel`.
const ROOMS: [(&str, &[&str]); 7] = [
    ("protocol", &[]),
    ("docker", &[]),
    ("gate", &[]),
    ("link", &["protocol"]),
    ("server", &["docker", "protocol"]),
    ("agent", &["protocol", "link", "gate", "docker", "server"]),
    ("panel", &["protocol", "link", "gate"]),
];

/// The protocol's types and codecs do no I/O, so that they can be tested and fuzzed with nothing else.
const PROTOCOL_FREE_OF: [&str; 12] = [
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "std::fs",
    "std::os",
    "std::process",
    "std::thread",
    "crossbeam_channel",
    "rustix",
    "tiny_http",
    "tungstenite",
    "ureq",
];

/// Threads block here; a runtime that came in with some dependency would be a second way of doing everything.
const NO_RUNTIME: [&str; 6] = ["tokio", "async-std", "smol", "mio", "futures-executor", "hyper"];

#[test]
fn rooms_name_only_the_rooms_they_may_know() {
    let mut faults = Vec::new();
    for (file, source) in sources() {
        let parts: Vec<String> =
            file.components().map(|part| part.as_os_str().to_string_lossy().replace(".rs", "")).collect();
        let Some((room, allowed)) = ROOMS.iter().find(|(room, _)| *room == parts[0]) else { continue };
        let depth = parts.iter().filter(|part| *part != "mod").count();
        for named in rooms_named(&without_comments_and_text(&source), depth) {
            if named != *room && !allowed.contains(&named.as_str()) {
                faults.push(format!("src/{} names {named}", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn protocol_does_no_io() {
    for (file, source) in sources().into_iter().filter(|(file, _)| file.starts_with("protocol")) {
        let code = without_comments_and_text(&source);
        let found = PROTOCOL_FREE_OF.iter().find(|name| code.contains(*name));
        assert_eq!(found, None, "src/{}", file.display());
    }
}

#[test]
fn every_module_opens_with_its_purpose() {
    let silent = sources().into_iter().filter(|(_, source)| {
        let first = source.lines().next().unwrap_or_default();
        // One word would not say what the module owns.
        !first.starts_with("//! ") || first.len() < 20
    });
    assert_eq!(silent.map(|(file, _)| file).collect::<Vec<_>>(), [""; 0].map(PathBuf::from));
}

#[test]
fn unsafe_code_is_forbidden_in_every_crate_of_the_package() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(manifest.contains("[lints.rust]\nunsafe_code = \"forbid\""));
    assert!(fs::read_to_string(root.join("src/lib.rs")).unwrap().contains("#![forbid(unsafe_code)]"));
}

#[test]
fn no_async_runtime_is_locked() {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let locked: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    assert!(locked.len() > 10, "the lock file is read wrongly");
    let found = NO_RUNTIME.iter().find(|name| locked.contains(&format!("\"{name}\"").as_str()));
    assert_eq!(found, None);
}

#[test]
fn the_reader_of_imports_finds_every_form() {
    let check = |depth, source: &str, expected: &[&str]| {
        let found: Vec<String> = rooms_named(&without_comments_and_text(source), depth).into_iter().collect();
        assert_eq!(found, expected, "{source}");
    };
    check(2, "use crate::docker::Client;", &["docker"]);
    check(2, "use crate::{docker::{Client, link}, protocol};", &["docker", "protocol"]);
    check(2, "use crate :: {\n    link::Url,\n};", &["link"]);
    check(2, "fn f(x: &longshore::agent::Config) {}", &["agent"]);
    check(2, "pub(crate) use super::super::panel;", &["panel"]);
    check(1, "use super::gate::Gate;", &["gate"]);
    check(1, "mod tests { use super::*; }", &[]);
    // A sibling module that happens to have a room's name is no room.
    check(2, "use super::gate::Gate;", &[]);
    check(2, "// crate::docker\n/* crate::link /* crate::gate */ */ let x = \"crate::agent\";", &[]);
    check(2, "let x = r#\"crate::agent \" crate::link\"#; let y = '\"'; use crate::gate;", &["gate"]);
    check(2, "fn f<'a>(x: &'a str) -> crate::link::Url {}", &["link"]);
    check(2, "use crate::*;", &["agent", "docker", "gate", "link", "panel", "protocol", "server"]);
    check(2, "use crate::dockerish::X; use other::crate_docker;", &[]);
}

/// Every source file with its path below `src`.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 10, "the sources are read wrongly");
    found
}

/// The rooms that code names by a path from the crate's root, in a module so many levels below it.
fn rooms_named(code: &str, depth: usize) -> BTreeSet<String> {
    let dense: String =
        code.split_whitespace().collect::<Vec<_>>().join(" ").replace(" ::", "::").replace(":: ", "::");
    let climb = "super::".repeat(depth);
    let mut named = BTreeSet::new();
    for root in ["crate::", "longshore::", climb.as_str()] {
        for (at, _) in dense.match_indices(root) {
            let before = dense[..at].chars().next_back();
            if before
                .is_some_and(|c| c.is_alphanumeric() || c == '_' || (root.starts_with("super") && c == ':'))
            {
                continue;
            }
            let path = &dense[at + root.len()..];
            // In a room's own file this is a module inside it, such as its tests, that looks at the file around it.
            if root == "super::" && path.starts_with('*') {
                continue;
            }
            named.extend(first_segments(path));
        }
    }
    if named.remove("*") {
        named.extend(ROOMS.map(|(room, _)| room.to_owned()));
    }
    named.retain(|name| ROOMS.iter().any(|(room, _)| room == name));
    named
}

/// The first segment of a path, or of every path in a `{…}` group.
fn first_segments(path: &str) -> Vec<String> {
    let word = |text: &str| match text.trim_start() {
        text if text.starts_with('*') => "*".to_owned(),
        text => text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect(),
    };
    if !path.starts_with('{') {
        return vec![word(path)];
    }
    let (mut level, mut segments) = (0, Vec::new());
    for (at, c) in path.char_indices() {
        match c {
            '{' => level += 1,
            '}' => level -= 1,
            _ => {}
        }
        if level == 0 {
            break;
        }
        if level == 1 && matches!(c, '{' | ',') {
            segments.push(word(&path[at + 1..]));
        }
    }
    segments
}

/// The code with comments, strings and character literals blanked out.
fn without_comments_and_text(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if rest.starts_with('r') && !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            raw_string(rest).unwrap_or(0)
        } else if c == '"' {
            quoted(rest, '"').unwrap_or(rest.len())
        } else if c == '\'' {
            character(rest).unwrap_or(0)
        } else {
            0
        };
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let mut level = 0;
    for (at, _) in text.char_indices() {
        if text[at..].starts_with("/*") {
            level += 1;
        } else if text[at..].starts_with("*/") {
            level -= 1;
            if level == 0 {
                return at + 2;
            }
        }
    }
    text.len()
}

/// The length of a raw string, when this is one.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&end).map_or(text.len(), |at| 1 + hashes + 1 + at + end.len()))
}

/// The length of a quoted literal with its quotes.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut escaped = true;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The length of a character literal; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let mut inside = text[1..].chars();
    match (inside.next()?, inside.next()?) {
        ('\\', _) => quoted(text, '\''),
        (c, '\'') => Some(c.len_utf8() + 2),
        _ => None,
    }
}
