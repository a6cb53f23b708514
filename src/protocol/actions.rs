//! The one table of what can be asked: names, other names, and how each payload is read. Whatever is not in it answers
//! `UNKNOWN_ACTION`, and what this Agent says it can do is read off it.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::archive::ArchiveAction;
use super::command::{Action, CommandKey, CreateServer, ServerAction, StopOptions};
use super::console::ConsoleAction;
use super::fields::Fields;
use super::file::FileAction;
use super::id::{ID_RULE, ServerId};
use super::json::{self, Unreadable};
use super::mods::ModAction;
use super::spec::{Rules, Spec, SpecPatch, signal};
use super::{Code, Fault};

/// One row: a name of the contract, its other names, and its reader.
struct Entry {
    name: &'static str,
    aliases: &'static [&'static str],
    reads: Reads,
}

/// What an action is for, and what reads its payload.
enum Reads {
    /// The node as a whole.
    Node(fn() -> Action),
    /// One server, named by `serverId`.
    Server(fn(&Payload) -> Result<ServerAction, Fault>),
    /// One server, named by its container.
    Container(fn(&Payload) -> Result<ServerAction, Fault>),
}

/// A payload and what it is read against.
struct Payload<'a> {
    map: &'a Map<String, Value>,
    rules: &'a Rules,
}

const fn row(name: &'static str, aliases: &'static [&'static str], reads: Reads) -> Entry {
    Entry { name, aliases, reads }
}

/// Install gets its row here.
#[rustfmt::skip]
const ACTIONS: &[Entry] = &[
    row("create_server",      &[],                    Reads::Server(create)),
    row("update_server",      &[],                    Reads::Server(update)),
    row("start_server",       &[],                    Reads::Server(|_| Ok(ServerAction::Start))),
    row("stop_server",        &[],                    Reads::Server(stop)),
    row("restart_server",     &[],                    Reads::Server(restart)),
    row("kill_server",        &[],                    Reads::Server(|_| Ok(ServerAction::Kill))),
    row("delete_server",      &[],                    Reads::Server(delete)),
    row("suspend_server",     &[],                    Reads::Server(|_| Ok(ServerAction::Suspend))),
    row("unsuspend_server",   &[],                    Reads::Server(|_| Ok(ServerAction::Unsuspend))),
    row("get_status",         &["get_server_status"], Reads::Server(|_| Ok(ServerAction::Status))),
    row("get_server_metrics", &[],                    Reads::Server(|_| Ok(ServerAction::Metrics))),
    row("get_server_logs",    &[],                    Reads::Server(|p| console(ConsoleAction::logs, p))),
    row("send_server_command", &["console:command"],  Reads::Server(|p| console(ConsoleAction::command, p))),
    row("console:input",      &[],                    Reads::Server(|p| console(ConsoleAction::input, p))),
    row("console:interrupt",  &[],                    Reads::Server(|_| Ok(ServerAction::Console(ConsoleAction::Interrupt)))),
    row("console:connect",    &[],                    Reads::Server(|p| console(ConsoleAction::connect, p))),
    row("console:disconnect", &[],                    Reads::Server(|_| Ok(ServerAction::Console(ConsoleAction::Disconnect)))),
    row("console:status",     &[],                    Reads::Server(|_| Ok(ServerAction::Console(ConsoleAction::Status)))),
    row("console:history",    &[],                    Reads::Server(|p| console(ConsoleAction::history, p))),
    row("console:clear",      &[],                    Reads::Server(|_| Ok(ServerAction::Console(ConsoleAction::Clear)))),
    row("console:download",   &[],                    Reads::Server(|p| console(ConsoleAction::download, p))),
    row("list_files",         &[],                    Reads::Server(|p| file(FileAction::list, p))),
    row("read_file",          &["get_file"],          Reads::Server(|p| file(FileAction::read, p))),
    row("write_file",         &[],                    Reads::Server(|p| file(FileAction::write, p))),
    row("upload_file",        &[],                    Reads::Server(|p| file(FileAction::upload, p))),
    row("download_file",      &[],                    Reads::Server(|p| file(FileAction::download, p))),
    row("create_directory",   &[],                    Reads::Server(|p| file(FileAction::create_directory, p))),
    row("delete_file",        &[],                    Reads::Server(|p| file(FileAction::delete, p))),
    row("get_file_info",      &[],                    Reads::Server(|p| file(FileAction::info, p))),
    row("rename_file",        &[],                    Reads::Server(|p| file(FileAction::rename, p))),
    row("move_file",          &[],                    Reads::Server(|p| file(FileAction::r#move, p))),
    row("copy_file",          &[],                    Reads::Server(|p| file(FileAction::copy, p))),
    row("search_files",       &[],                    Reads::Server(|p| file(FileAction::search, p))),
    row("get_file_permissions", &[],                  Reads::Server(|p| file(FileAction::permissions, p))),
    row("set_file_permissions", &[],                  Reads::Server(|p| file(FileAction::set_permissions, p))),
    row("create_archive",     &[],                    Reads::Server(|p| archive(ArchiveAction::create, p))),
    row("extract_archive",    &[],                    Reads::Server(|p| archive(ArchiveAction::extract, p))),
    row("install_mod",        &[],                    Reads::Server(|p| mods(ModAction::install, p))),
    row("uninstall_mod",      &[],                    Reads::Server(|p| mods(ModAction::uninstall, p))),
    row("list_mods",          &[],                    Reads::Server(|_| Ok(ServerAction::Mod(ModAction::List)))),
    row("list_servers",       &[],                    Reads::Node(|| Action::ListServers)),
    row("get_system_metrics", &["system.status"],     Reads::Node(|| Action::SystemMetrics)),
    row("system.ping",        &[],                    Reads::Node(|| Action::SystemPing)),
    row("docker.list",        &[],                    Reads::Node(|| Action::ListServers)),
    row("docker.start",       &[],                    Reads::Container(|_| Ok(ServerAction::Start))),
    row("docker.stop",        &[],                    Reads::Container(stop)),
    row("docker.remove",      &[],                    Reads::Container(delete)),
    row("docker.inspect",     &[],                    Reads::Container(|_| Ok(ServerAction::Status))),
];

/// That an Agent takes `ack` messages.
pub const EVENT_ACK: &str = "event_ack";

/// The names of everything this Agent can be asked, other names included, and [`EVENT_ACK`].
pub fn capabilities() -> Vec<&'static str> {
    ACTIONS
        .iter()
        .flat_map(|entry| std::iter::once(entry.name).chain(entry.aliases.iter().copied()))
        .chain([EVENT_ACK])
        .collect()
}

/// Reads a request into a command's action and its identity.
///
/// `id` is the request's own, where its dialect remembers commands by it. A `serverId` inside the payload stands in
/// for a missing one beside it, as older panels send it.
pub(super) fn read(
    name: &str,
    server: Option<&RawValue>,
    payload: Option<&RawValue>,
    id: Option<&str>,
    rules: &Rules,
) -> Result<(Action, Option<CommandKey>), Fault> {
    let entry = ACTIONS.iter().find(|entry| entry.name == name || entry.aliases.contains(&name));
    let Some(entry) = entry else {
        let name = json::shown(name, 64);
        return Err(Fault::new(Code::UnknownAction, format!("{name}: this Agent does not know the action")));
    };
    let mut map = payload.map_or(Ok(Map::new()), |raw| json::object(raw.get())).map_err(unreadable)?;
    let inner = map.remove("serverId");
    let payload = Payload { map: &map, rules };
    let action = match entry.reads {
        Reads::Node(action) => action(),
        Reads::Server(read) => Action::Server(server_id(server, inner.as_ref())?, read(&payload)?),
        Reads::Container(read) => match container(&payload)? {
            Some(container) => Action::Container(container, read(&payload)?),
            None if server.is_none() && inner.is_none() => {
                return Err(Fault::field("containerId", "missing; expected the container's id or name"));
            }
            None => Action::Server(server_id(server, inner.as_ref())?, read(&payload)?),
        },
    };
    let key = id.filter(|id| !id.is_empty() && !action.is_read()).map(|id| {
        let server = if let Action::Server(server, _) = &action { server.as_str() } else { "" };
        CommandKey { id: id.to_owned(), content: json::sha256(&[action.name(), server], &map) }
    });
    Ok((action, key))
}

fn unreadable(why: Unreadable) -> Fault {
    match why {
        Unreadable::NotAnObject => Fault::field("payload", "expected an object"),
        Unreadable::NotJson => Fault::field("payload", "holds a number or a text that cannot be read"),
        Unreadable::Doubled(name) => Fault::field(&name, "given twice"),
        Unreadable::TooMany => {
            Fault::field("payload", format_args!("expected at most {} values", json::MAX_VALUES))
        }
    }
}

/// The server's id from beside the payload or from inside it. Two that differ are refused rather than guessed at.
pub(super) fn server_id(beside: Option<&RawValue>, inside: Option<&Value>) -> Result<ServerId, Fault> {
    let rule = || Fault::field("serverId", format_args!("expected {ID_RULE}"));
    let beside = beside.map(|raw| json::text(raw).ok_or_else(rule)).transpose()?;
    let inside =
        inside.filter(|value| !value.is_null()).map(|value| value.as_str().ok_or_else(rule)).transpose()?;
    match (beside.as_deref(), inside) {
        (Some(one), Some(other)) if one != other => {
            Err(Fault::field("serverId", "the payload names another server than the message"))
        }
        (Some(text), _) | (None, Some(text)) => text.parse().map_err(|_| rule()),
        (None, None) => Err(Fault::field("serverId", "missing")),
    }
}

/// A container's id or name; the Engine's leading slash is taken off. No container of ours has a longer one.
fn container(payload: &Payload) -> Result<Option<String>, Fault> {
    let fields = Fields::of(payload.map);
    let name = if fields.get("containerId").is_some() { "containerId" } else { "name" };
    let Some(text) = fields.line(name, 256)? else { return Ok(None) };
    let text = text.strip_prefix('/').unwrap_or(text);
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        true => Ok(Some(text.to_owned())),
        false => Err(fields.fault(name, "expected a container's id or name")),
    }
}

fn create(payload: &Payload) -> Result<ServerAction, Fault> {
    let fields = Fields::of(payload.map);
    let create = CreateServer {
        spec: Spec::parse(payload.map, payload.rules)?,
        keep_data: fields.flag("keepData", false)?,
        skip_scripts: fields.flag("skipScripts", false)?,
    };
    Ok(ServerAction::Create(Box::new(create)))
}

fn update(payload: &Payload) -> Result<ServerAction, Fault> {
    SpecPatch::parse(payload.map, payload.rules).map(|patch| ServerAction::Update(Box::new(patch)))
}

fn stop(payload: &Payload) -> Result<ServerAction, Fault> {
    stop_options(payload).map(ServerAction::Stop)
}

fn restart(payload: &Payload) -> Result<ServerAction, Fault> {
    stop_options(payload).map(ServerAction::Restart)
}

fn stop_options(payload: &Payload) -> Result<StopOptions, Fault> {
    let fields = Fields::of(payload.map);
    let timeout = fields.small("timeout", 0..=3600)?;
    Ok(StopOptions {
        signal: signal(&fields, "signal")?,
        timeout: timeout.map(|seconds| std::time::Duration::from_secs(seconds.into())),
    })
}

fn delete(payload: &Payload) -> Result<ServerAction, Fault> {
    Ok(ServerAction::Delete { remove_data: Fields::of(payload.map).flag("removeData", false)? })
}

fn console(
    read: fn(Fields) -> Result<ConsoleAction, Fault>,
    payload: &Payload,
) -> Result<ServerAction, Fault> {
    read(Fields::of(payload.map)).map(ServerAction::Console)
}

fn file(read: fn(Fields) -> Result<FileAction, Fault>, payload: &Payload) -> Result<ServerAction, Fault> {
    read(Fields::of(payload.map)).map(|action| ServerAction::File(Box::new(action)))
}

fn archive(
    read: fn(Fields) -> Result<ArchiveAction, Fault>,
    payload: &Payload,
) -> Result<ServerAction, Fault> {
    read(Fields::of(payload.map)).map(ServerAction::Archive)
}

fn mods(read: fn(Fields) -> Result<ModAction, Fault>, payload: &Payload) -> Result<ServerAction, Fault> {
    read(Fields::of(payload.map)).map(ServerAction::Mod)
}
