//! Files, archives and mods of a server: passed on to its node, which alone touches them.
//!
//! Text is read and saved with a version, so that two editors do not overwrite each other; bytes go up and down in pieces
//! of at most 1 MiB, which is what a message to a node carries.

use std::thread::Builder;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use crossbeam_channel::bounded;
use ring::digest;
use serde::Deserialize;
use serde_json::{Map, Value, json as value};

use super::call::{Call, Fields};
use super::{Api, json};
use crate::gate::Response;
use crate::panel::hub::{HubHandle, Order};
use crate::panel::journal::Entry;
use crate::panel::problem::Problem;
use crate::panel::secret::to_hex;
use crate::panel::store::ServerKey;

/// Of a path, as the contract has it.
const MAX_PATH: usize = 4_096;
/// Bytes asked of a node at once.
const PIECE: u64 = 1 << 20;
/// Characters of a text that is saved; more goes up as bytes.
const MAX_TEXT: usize = 1_000_000;
/// Pieces of a download that may wait for the client.
const AHEAD: usize = 2;

#[derive(Deserialize)]
struct Text {
    content: String,
    size: u64,
    modified: Option<Value>,
}

#[derive(Deserialize)]
struct Piece {
    content: String,
    size: u64,
}

#[derive(Deserialize)]
struct Size {
    size: u64,
}

pub fn list(api: &Api, call: &Call) -> Result<Response, Problem> {
    let path = call.query_text("path", MAX_PATH)?.unwrap_or_default();
    let mut payload = Map::new();
    if !path.is_empty() {
        payload.insert("path".into(), path.clone().into());
    }
    let mut listed: Map<String, Value> = api.ask_for(call.server()?, "list_files", payload.into())?;
    let items = listed.remove("files").unwrap_or_else(|| value!([]));
    let truncated = listed.remove("truncated").unwrap_or(Value::Bool(false));
    Ok(json(200, &value!({"path": path, "items": items, "truncated": truncated})))
}

pub fn read(api: &Api, call: &Call) -> Result<Response, Problem> {
    let path = path(call)?;
    let text: Text = api.ask_for(call.server()?, "read_file", value!({"path": path}))?;
    let version = version(text.content.as_bytes());
    let mut body = value!({"path": path, "content": text.content, "size": text.size, "version": version});
    if let Some(modified) = text.modified {
        body["modified"] = modified;
    }
    Ok(json(200, &body))
}

pub fn write(api: &Api, call: &Call) -> Result<Response, Problem> {
    let key = call.server()?;
    let mut fields = call.fields()?;
    let path = fields.needed("path", MAX_PATH)?;
    let content =
        fields.text("content", MAX_TEXT)?.ok_or_else(|| Problem::field("content", "This is needed."))?;
    let expected = fields.text("version", 128)?;
    fields.end()?;
    call.note(|note| note.detail = Some(path.clone()));
    if let Some(expected) = expected {
        let current: Result<Text, Problem> = api.ask_for(key.clone(), "read_file", value!({"path": path}));
        let changed = match current {
            Ok(text) => version(text.content.as_bytes()) != expected,
            Err(problem) if problem.code == "FILE_NOT_FOUND" => true,
            Err(problem) => return Err(problem),
        };
        if changed {
            let what = "The file was changed meanwhile. Look at it again before saving over it.";
            return Err(Problem::new(409, "FILE_CHANGED", what));
        }
    }
    let version = version(content.as_bytes());
    let written: Size = api.ask_for(key, "write_file", value!({"path": path, "content": content}))?;
    Ok(json(200, &value!({"path": path, "size": written.size, "version": version})))
}

pub fn download(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (key, path) = (call.server()?, path(call)?);
    call.note(|note| note.detail = Some(path.clone()));
    let (first, size) = piece(&api.parts.hub, &key, &path, 0)?;
    let begun = first.len() as u64;
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    let response = if begun >= size {
        Response::bytes(200, "application/octet-stream", first)
    } else {
        let (pieces_tx, pieces) = bounded(AHEAD);
        let hub = api.parts.hub.clone();
        let fetch = move || {
            let mut at = begun;
            if pieces_tx.send(first.into()).is_err() {
                return;
            }
            while at < size {
                // A file that has changed or a node that has gone: the client sees that the body was cut.
                let Ok((bytes, now)) = piece(&hub, &key, &path, at) else { return };
                at += bytes.len() as u64;
                if now != size || bytes.is_empty() || pieces_tx.send(bytes.into()).is_err() {
                    return;
                }
            }
        };
        Builder::new().name("download".into()).spawn(fetch).map_err(|_| {
            Problem::new(503, "BUSY", "The Panel has no thread to spare for this. Try again soon.")
        })?;
        Response::stream("application/octet-stream", pieces).with_length(size)
    };
    // What a browser would show as a page or run must be saved instead.
    Ok(response
        .with("Content-Disposition", disposition(&name))
        .with("Content-Security-Policy", "sandbox; default-src 'none'"))
}

/// RFC 6266 with the name as RFC 8187 has it: nothing in it can end the header's value.
fn disposition(name: &str) -> String {
    let encoded: String = name
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("attachment; filename*=UTF-8''{encoded}")
}

/// Bytes of a file from `at` on, and how large it is.
fn piece(hub: &HubHandle, key: &ServerKey, path: &str, at: u64) -> Result<(Vec<u8>, u64), Problem> {
    let payload = value!({"path": path, "offset": at, "length": PIECE});
    let piece: Piece = super::send::ask_for(hub, key.clone(), "download_file", payload)?;
    let bytes = BASE64.decode(piece.content.as_bytes()).map_err(|_| {
        Problem::new(502, "NODE_ANSWER", "The node's answer could not be read. Is its Agent up to date?")
    })?;
    Ok((bytes, piece.size))
}

pub fn upload(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (key, path) = (call.server()?, path(call)?);
    let offset = call.query_number("offset", 0, u64::MAX)?.unwrap_or(0);
    if offset > 0 {
        let now: Size = api.ask_for(key.clone(), "get_file_info", value!({"path": path}))?;
        if now.size != offset {
            let what = format!("The file has {} bytes and not {offset}: go on from there.", now.size);
            return Err(Problem::new(409, "OFFSET_MISMATCH", what));
        }
    } else {
        // Once a file and not once a piece.
        api.record(Entry {
            action: "file.upload".into(),
            node: Some(key.0.to_string()),
            server: Some(key.1.to_string()),
            outcome: "ok",
            detail: Some(path.clone()),
            ..super::by(call)
        });
    }
    let content = BASE64.encode(call.request.body());
    let payload = value!({"path": path, "content": content, "encoding": "base64", "append": offset > 0});
    let written: Size = api.ask_for(key, "upload_file", payload)?;
    Ok(json(200, &value!({"path": path, "size": written.size})))
}

pub fn directory(api: &Api, call: &Call) -> Result<Response, Problem> {
    let mut fields = call.fields()?;
    let path = fields.needed("path", MAX_PATH)?;
    fields.end()?;
    call.note(|note| note.detail = Some(path.clone()));
    done(api, call, "create_directory", value!({"path": path}))
}

pub fn rename(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (from, to) = from_to(call)?;
    done(api, call, "rename_file", value!({"oldPath": from, "newPath": to}))
}

pub fn copy(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (from, to) = from_to(call)?;
    done(api, call, "copy_file", value!({"sourcePath": from, "destinationPath": to}))
}

pub fn delete(api: &Api, call: &Call) -> Result<Response, Problem> {
    let key = call.server()?;
    let mut fields = call.fields()?;
    let paths = paths(&mut fields, "paths")?;
    fields.end()?;
    call.note(|note| note.detail = Some(shortened(&paths)));
    let (mut deleted, mut failed) = (Vec::new(), Vec::new());
    for path in paths {
        match api.ask(key.clone(), "delete_file", value!({"path": path})) {
            Ok(_) => deleted.push(path),
            Err(problem) if problem.code == "NODE_OFFLINE" && deleted.is_empty() => return Err(problem),
            Err(problem) => failed.push(value!({"path": path, "error": problem})),
        }
    }
    Ok(json(200, &value!({"deleted": deleted, "failed": failed})))
}

pub fn search(api: &Api, call: &Call) -> Result<Response, Problem> {
    let path = call.query_text("path", MAX_PATH)?.unwrap_or_default();
    let query = call.query_text("q", 256)?.ok_or_else(|| Problem::field("q", "This is needed."))?;
    let payload = value!({"path": path, "query": query});
    let mut found: Map<String, Value> = api.ask_for(call.server()?, "search_files", payload)?;
    let items = found.remove("files").unwrap_or_else(|| value!([]));
    let truncated = found.remove("truncated").unwrap_or(Value::Bool(false));
    Ok(json(200, &value!({"items": items, "truncated": truncated})))
}

pub fn permissions(api: &Api, call: &Call) -> Result<Response, Problem> {
    let path = path(call)?;
    let mut found: Map<String, Value> =
        api.ask_for(call.server()?, "get_file_permissions", value!({"path": path}))?;
    let mut take = |name: &str| found.remove(name).unwrap_or(Value::Null);
    let (mode, owner, group) = (take("permissions"), take("owner"), take("group"));
    Ok(json(200, &value!({"path": path, "mode": mode, "owner": owner, "group": group})))
}

pub fn set_permissions(api: &Api, call: &Call) -> Result<Response, Problem> {
    let mut fields = call.fields()?;
    let (path, mode) = (fields.needed("path", MAX_PATH)?, fields.needed("mode", 4)?);
    fields.end()?;
    if !(3..=4).contains(&mode.len()) || !mode.bytes().all(|digit| matches!(digit, b'0'..=b'7')) {
        return Err(Problem::field("mode", "Expected three or four octal digits, such as 644."));
    }
    call.note(|note| note.detail = Some(format!("{mode} {path}")));
    done(api, call, "set_file_permissions", value!({"path": path, "mode": mode}))
}

pub fn archive(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (node, server) = call.server()?;
    let mut fields = call.fields()?;
    let files = paths(&mut fields, "files")?;
    let archive = fields.needed("archive", MAX_PATH)?;
    let format = fields.needed("format", 8)?;
    fields.end()?;
    if !matches!(format.as_str(), "zip" | "tar" | "tar.gz") {
        return Err(Problem::field("format", "Expected zip, tar or tar.gz."));
    }
    call.note(|note| note.detail = Some(archive.clone()));
    let payload = value!({"files": files, "archivePath": archive, "format": format});
    api.send(call, Order::new(node, Some(server), "create_archive", payload), 200)
}

pub fn extract(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (node, server) = call.server()?;
    let mut fields = call.fields()?;
    let archive = fields.needed("archive", MAX_PATH)?;
    let to = fields.text("to", MAX_PATH)?.filter(|to| !to.is_empty());
    fields.end()?;
    call.note(|note| note.detail = Some(archive.clone()));
    let mut payload = value!({"archivePath": archive});
    if let Some(to) = to {
        payload["extractPath"] = to.into();
    }
    api.send(call, Order::new(node, Some(server), "extract_archive", payload), 200)
}

pub fn mods(api: &Api, call: &Call) -> Result<Response, Problem> {
    let mut found: Map<String, Value> = api.ask_for(call.server()?, "list_mods", value!({}))?;
    Ok(json(200, &value!({"items": found.remove("mods").unwrap_or_else(|| value!([]))})))
}

pub fn install_mod(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (node, server) = call.server()?;
    let mut fields = call.fields()?;
    let (name, url) = (fields.needed("name", 128)?, fields.needed("url", 2_048)?);
    let mut payload = value!({"name": name, "modUrl": url});
    if let Some(version) = fields.text("version", 64)? {
        payload["version"] = version.into();
    }
    if let Some(hash) = fields.text("sha256", 64)? {
        if hash.len() != 64 || !hash.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Problem::field("sha256", "Expected 64 hexadecimal digits."));
        }
        payload["sha256"] = hash.into();
    }
    if let Some(unpack) = fields.flag("unpack")? {
        payload["unpack"] = unpack.into();
    }
    fields.end()?;
    call.note(|note| note.detail = Some(name));
    api.send(call, Order::new(node, Some(server), "install_mod", payload), 200)
}

pub fn remove_mod(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (node, server) = call.server()?;
    let id = call.parameter("id").to_owned();
    call.note(|note| note.detail = Some(id.clone()));
    api.send(call, Order::new(node, Some(server), "uninstall_mod", value!({"modId": id})), 200)
}

// ----

fn done(api: &Api, call: &Call, action: &'static str, payload: Value) -> Result<Response, Problem> {
    api.ask(call.server()?, action, payload)?;
    Ok(Response::empty(204))
}

fn path(call: &Call) -> Result<String, Problem> {
    call.query_text("path", MAX_PATH)?.ok_or_else(|| Problem::field("path", "This is needed."))
}

fn from_to(call: &Call) -> Result<(String, String), Problem> {
    let mut fields = call.fields()?;
    let (from, to) = (fields.needed("from", MAX_PATH)?, fields.needed("to", MAX_PATH)?);
    fields.end()?;
    call.note(|note| note.detail = Some(format!("{from} → {to}")));
    Ok((from, to))
}

fn paths(fields: &mut Fields, name: &str) -> Result<Vec<String>, Problem> {
    let list = fields.list(name, 500)?.filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| Problem::field(name, "Name at least one."))?;
    let path = |(index, item): (usize, Value)| match item {
        Value::String(path) if !path.is_empty() && path.len() <= MAX_PATH => Ok(path),
        _ => Err(Problem::field(&format!("{name}[{index}]"), "Expected a path.")),
    };
    list.into_iter().enumerate().map(path).collect()
}

fn shortened(paths: &[String]) -> String {
    let shown: Vec<&str> = paths.iter().take(5).map(String::as_str).collect();
    let more = paths.len() - shown.len();
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// Of a text's content; it says nothing else.
fn version(content: &[u8]) -> String {
    to_hex(&digest::digest(&digest::SHA256, content).as_ref()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_cannot_leave_its_header() {
        assert_eq!(
            disposition("a b\".txt\r\nX: y"),
            "attachment; filename*=UTF-8''a%20b%22.txt%0D%0AX%3A%20y"
        );
    }
}
