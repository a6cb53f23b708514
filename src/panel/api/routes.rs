//! The one table of what can be asked: method, path, who may, and what answers. Whatever is not in it is 404 or 405.

use super::call::{Call, decoded};
use super::{Api, account, activity, console, files, nodes, send, servers, templates, users};
use crate::gate::Response;
use crate::panel::accounts::Rights;
use crate::panel::problem::Problem;

/// Who may ask for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Anyone,
    /// A person who has logged in; no token.
    Session,
    /// Anyone who is known; the answer holds what they may see.
    Any,
    /// An admin; a token needs the scope as well.
    Admin(Rights),
    /// Who has this right on the server in the path.
    Right(Rights),
}

pub type Run = fn(&Api, &Call) -> Result<Response, Problem>;

pub struct Route {
    pub method: &'static str,
    /// Below `/api/v1`; `{name}` is any one part.
    pub path: &'static str,
    pub who: Who,
    pub run: Run,
    /// What the activity log calls it.
    pub activity: Option<&'static str>,
    /// An Idempotency-Key is heeded.
    pub repeatable: bool,
    /// The answer has a secret that must not be kept.
    pub gives_secret: bool,
}

const ADMIN: Who = Who::Admin(Rights::ADMIN);
/// An admin's, but with tokens that may change servers.
const OWNER: Who = Who::Admin(Rights::SETTINGS);
const VIEW: Who = Who::Right(Rights::VIEW);
const CONSOLE: Who = Who::Right(Rights::CONSOLE);
const POWER: Who = Who::Right(Rights::POWER);
const FILES: Who = Who::Right(Rights::FILES);
const SETTINGS: Who = Who::Right(Rights::SETTINGS);

const fn get(path: &'static str, who: Who, run: Run) -> Route {
    Route { method: "GET", path, who, run, activity: None, repeatable: false, gives_secret: false }
}

const fn act(method: &'static str, path: &'static str, who: Who, activity: &'static str, run: Run) -> Route {
    Route { method, path, who, run, activity: Some(activity), repeatable: false, gives_secret: false }
}

impl Route {
    const fn repeatable(self) -> Route {
        Route { repeatable: true, ..self }
    }

    const fn gives_secret(self) -> Route {
        Route { gives_secret: true, ..self }
    }

    const fn logged(self, activity: &'static str) -> Route {
        Route { activity: Some(activity), ..self }
    }

    const fn unlogged(self) -> Route {
        Route { activity: None, ..self }
    }
}

#[rustfmt::skip]
pub const ROUTES: &[Route] = &[
    get("/openapi.json", Who::Anyone, activity::document),
    get("/setup", Who::Anyone, account::needs_setup),
    act("POST", "/setup", Who::Anyone, "setup", account::set_up),
    act("POST", "/session", Who::Anyone, "login", account::log_in),
    get("/session", Who::Session, account::session),
    act("DELETE", "/session", Who::Session, "logout", account::log_out),
    get("/account/sessions", Who::Session, account::sessions),
    act("DELETE", "/account/sessions/{id}", Who::Session, "session.end", account::end_session),
    act("POST", "/account/password", Who::Session, "password.change", account::change_password),
    act("POST", "/account/totp", Who::Session, "totp.begin", account::begin_totp),
    act("POST", "/account/totp/confirm", Who::Session, "totp.on", account::confirm_totp),
    act("DELETE", "/account/totp", Who::Session, "totp.off", account::end_totp),

    get("/users", ADMIN, users::list),
    act("POST", "/users", ADMIN, "user.create", users::create).repeatable().gives_secret(),
    get("/users/{id}", ADMIN, users::show),
    act("PATCH", "/users/{id}", ADMIN, "user.update", users::change),
    act("DELETE", "/users/{id}", ADMIN, "user.delete", users::remove),
    act("POST", "/users/{id}/link", ADMIN, "user.link", users::link),
    act("DELETE", "/users/{id}/totp", ADMIN, "user.totp_off", users::end_totp),
    get("/users/{id}/grants", ADMIN, users::grants),
    act("PUT", "/users/{id}/grants", ADMIN, "user.grants", users::set_grants),

    get("/tokens", Who::Session, users::tokens),
    act("POST", "/tokens", Who::Session, "token.create", users::add_token),
    act("DELETE", "/tokens/{id}", Who::Session, "token.revoke", users::remove_token),

    get("/nodes", ADMIN, nodes::list),
    act("POST", "/nodes", ADMIN, "node.create", nodes::create).repeatable().gives_secret(),
    get("/nodes/{node}", ADMIN, nodes::show),
    act("PATCH", "/nodes/{node}", ADMIN, "node.update", nodes::change),
    act("DELETE", "/nodes/{node}", ADMIN, "node.delete", nodes::remove),
    act("POST", "/nodes/{node}/join", ADMIN, "node.join_token", nodes::join_token),
    act("POST", "/nodes/{node}/rotate", ADMIN, "node.rotate", nodes::rotate),
    act("POST", "/nodes/{node}/revoke", ADMIN, "node.revoke", nodes::revoke),
    get("/nodes/{node}/metrics", ADMIN, nodes::metrics),
    get("/nodes/{node}/free-ports", ADMIN, nodes::free_ports),
    act("POST", "/nodes/{node}/command", ADMIN, "node.command", nodes::command).repeatable(),
    act("POST", "/join", Who::Anyone, "node.join", nodes::join),

    get("/templates", Who::Any, templates::list),
    get("/templates/{template}", Who::Any, templates::show),
    act("POST", "/templates", ADMIN, "template.put", templates::put),
    act("DELETE", "/templates/{template}", ADMIN, "template.delete", templates::remove),

    get("/servers", Who::Any, servers::list),
    act("POST", "/servers", OWNER, "server.create", servers::create).repeatable(),
    get("/servers/{node}/{server}", VIEW, servers::show),
    act("PATCH", "/servers/{node}/{server}", SETTINGS, "server.update", servers::change).repeatable(),
    act("DELETE", "/servers/{node}/{server}", OWNER, "server.delete", servers::remove),
    act("POST", "/servers/{node}/{server}/start", POWER, "server.start", |api, call| servers::power(api, call, "start_server")).repeatable(),
    act("POST", "/servers/{node}/{server}/stop", POWER, "server.stop", |api, call| servers::power(api, call, "stop_server")).repeatable(),
    act("POST", "/servers/{node}/{server}/restart", POWER, "server.restart", |api, call| servers::power(api, call, "restart_server")).repeatable(),
    act("POST", "/servers/{node}/{server}/kill", POWER, "server.kill", |api, call| servers::power(api, call, "kill_server")).repeatable(),
    act("POST", "/servers/{node}/{server}/suspend", OWNER, "server.suspend", |api, call| servers::power(api, call, "suspend_server")).repeatable(),
    act("POST", "/servers/{node}/{server}/unsuspend", OWNER, "server.unsuspend", |api, call| servers::power(api, call, "unsuspend_server")).repeatable(),
    act("POST", "/servers/{node}/{server}/reinstall", SETTINGS, "server.reinstall", servers::reinstall).repeatable(),
    get("/servers/{node}/{server}/metrics", VIEW, servers::metrics),
    get("/servers/{node}/{server}/commands", VIEW, servers::commands),
    get("/commands/{id}", Who::Any, send::command),

    get("/servers/{node}/{server}/console", VIEW, console::show),
    act("POST", "/servers/{node}/{server}/console", CONSOLE, "console.command", console::input),
    act("POST", "/servers/{node}/{server}/console/interrupt", CONSOLE, "console.interrupt", console::interrupt),
    get("/servers/{node}/{server}/console/download", VIEW, console::download).logged("console.download"),

    get("/servers/{node}/{server}/files", FILES, files::list),
    get("/servers/{node}/{server}/files/content", FILES, files::read),
    act("PUT", "/servers/{node}/{server}/files/content", FILES, "file.write", files::write),
    get("/servers/{node}/{server}/files/download", FILES, files::download).logged("file.download"),
    act("PUT", "/servers/{node}/{server}/files/upload", FILES, "file.upload", files::upload).unlogged(),
    act("POST", "/servers/{node}/{server}/files/directory", FILES, "file.directory", files::directory),
    act("POST", "/servers/{node}/{server}/files/move", FILES, "file.move", files::rename),
    act("POST", "/servers/{node}/{server}/files/copy", FILES, "file.copy", files::copy),
    act("POST", "/servers/{node}/{server}/files/delete", FILES, "file.delete", files::delete),
    get("/servers/{node}/{server}/files/search", FILES, files::search),
    get("/servers/{node}/{server}/files/permissions", FILES, files::permissions),
    act("PUT", "/servers/{node}/{server}/files/permissions", FILES, "file.permissions", files::set_permissions),
    act("POST", "/servers/{node}/{server}/files/archive", FILES, "file.archive", files::archive),
    act("POST", "/servers/{node}/{server}/files/extract", FILES, "file.extract", files::extract),
    get("/servers/{node}/{server}/mods", FILES, files::mods),
    act("POST", "/servers/{node}/{server}/mods", FILES, "mod.install", files::install_mod).repeatable(),
    act("DELETE", "/servers/{node}/{server}/mods/{id}", FILES, "mod.remove", files::remove_mod),

    get("/activity", Who::Any, activity::search),
    get("/events", Who::Any, activity::events),
];

/// The names in a path, with what stands for each.
pub type Parameters = Vec<(&'static str, String)>;

/// The route of a call, with the names in its path.
///
/// # Errors
/// 404, or 405 with the methods that the path has.
pub fn find(method: &str, path: &str) -> Result<(&'static Route, Parameters), Problem> {
    let wanted = if method == "HEAD" { "GET" } else { method };
    let mut methods = Vec::new();
    for route in ROUTES {
        let Some(parameters) = matched(route.path, path) else { continue };
        if route.method == wanted {
            return Ok((route, parameters));
        }
        methods.push(route.method);
    }
    if methods.is_empty() {
        return Err(Problem::new(404, "NOT_FOUND", "There is nothing at this path."));
    }
    let allow = methods.join(", ");
    let what = format!("Here only {} can be asked.", methods.join(" and "));
    Err(Problem { allow: Some(allow), ..Problem::new(405, "METHOD_NOT_ALLOWED", what) })
}

fn matched(pattern: &'static str, path: &str) -> Option<Parameters> {
    let mut parameters = Vec::new();
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(parameters),
            (Some(wanted), Some(given)) => {
                match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                    Some(name) => parameters.push((name, decoded(given, false).filter(|v| !v.is_empty())?)),
                    None if wanted == given => {}
                    None => return None,
                }
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn paths_lead_to_their_route() {
        let found = |method: &str, path: &str| find(method, path).map(|(route, names)| (route.path, names));
        let (path, names) = found("GET", "/servers/n1/my%2Dserver/files").unwrap();
        assert_eq!(path, "/servers/{node}/{server}/files");
        assert_eq!(names, [("node", "n1".to_owned()), ("server", "my-server".to_owned())]);
        assert_eq!(found("HEAD", "/nodes").unwrap().0, "/nodes");
        assert_eq!(found("POST", "/servers/n/s/start").unwrap().0, "/servers/{node}/{server}/start");
        for (method, path, status) in [
            ("GET", "/servers/n/s/start", 405),
            ("PUT", "/nodes", 405),
            ("GET", "/nodes/", 404),
            ("GET", "//nodes", 404),
            ("GET", "/nodes/%00", 404),
            ("GET", "/nothing", 404),
            ("GET", "", 404),
        ] {
            assert_eq!(find(method, path).err().map(|problem| problem.status), Some(status), "{path}");
        }
    }

    /// The document and the table say the same: every path, method, and who may.
    #[test]
    fn the_document_describes_what_is_here() {
        let document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let described: BTreeSet<String> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().iter().map(move |(method, operation)| {
                    let who = operation["x-who"].as_str().unwrap();
                    format!("{} {path} {who}", method.to_uppercase())
                })
            })
            .collect();
        let built: BTreeSet<String> = ROUTES
            .iter()
            .map(|route| {
                let who = match route.who {
                    Who::Anyone => "anyone".to_owned(),
                    Who::Session => "session".to_owned(),
                    Who::Any => "any".to_owned(),
                    Who::Admin(_) => "admin".to_owned(),
                    Who::Right(right) => right.names().join(" "),
                };
                format!("{} {} {who}", route.method, route.path)
            })
            .collect();
        let only_described: Vec<_> = described.difference(&built).collect();
        let only_built: Vec<_> = built.difference(&described).collect();
        assert!(only_described.is_empty() && only_built.is_empty(), "{only_described:?} {only_built:?}");
    }
}
