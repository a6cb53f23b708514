//! The REST API under `/api/v1`, the event stream, the page, and what else HTTP_ADDR answers.
//!
//! Runs on the gate's threads, one call each, and holds no state of the Panel: it finds the route in the one table of
//! `routes`, checks who asks and whether they may, asks the hub or the accounts, and writes the answer. Every error is
//! `{"error":{"code","message","field"?}}`. What the page can do is all here, and `openapi.json` describes it.

mod account;
mod activity;
mod call;
mod console;
mod files;
mod nodes;
mod routes;
mod send;
mod servers;
mod templates;
mod users;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest;
use serde::Serialize;

use super::accounts::{Accounts, Principal, Rights, Via};
use super::config::Proxies;
use super::guard::Guard;
use super::hub::HubHandle;
use super::journal::{Entry, Given, Journal};
use super::metrics::Metrics;
use super::page::Page;
use super::problem::Problem;
use super::store::ServerKey;
use super::templates::Templates;
use crate::gate::{Handler, Head, Request, Response};
use call::{Call, not_logged_in};
use routes::{Route, Who};

pub use send::MAX_CALLS;

/// The largest body of a call. A command to a node has to fit a message of 2 MiB.
const MAX_BODY: usize = 1 << 20;
pub const COOKIE: &str = "longshore_session";

/// What the API works with.
pub struct Parts {
    pub hub: HubHandle,
    pub guard: Guard,
    pub accounts: Arc<Accounts>,
    pub journal: Arc<Journal>,
    pub metrics: Metrics,
    pub templates: Templates,
    pub proxies: Proxies,
    /// The page and the API are served by TLS.
    pub tls: bool,
    /// What Agents dial when it is not the address that they were given: `ws://HOST:PORT/agent`.
    pub certificate: Option<Arc<dyn Fn() -> Option<String> + Send + Sync>>,
}

pub struct Api {
    parts: Parts,
    page: Page,
    waiting: AtomicUsize,
    /// Calls with an Idempotency-Key that are in work.
    in_work: Mutex<HashSet<(String, String)>>,
}

impl Api {
    pub fn new(parts: Parts) -> Api {
        Api { parts, page: Page::new(), waiting: AtomicUsize::new(0), in_work: Mutex::default() }
    }
}

impl Handler for Api {
    fn body_limit(&self, head: &Head, _: SocketAddr) -> Result<usize, Response> {
        // Refused before a byte of it is read.
        self.check(head).map_err(|problem| refusal(&problem))?;
        let route = head.path().strip_prefix("/api/v1").map(|path| routes::find(head.method(), path));
        match route {
            Some(Ok((route, _))) => {
                if route.who != Who::Anyone && cookie(head).is_none() && bearer(head).is_none() {
                    return Err(refusal(&not_logged_in()));
                }
                Ok(MAX_BODY)
            }
            Some(Err(problem)) => Err(refusal(&problem)),
            None => Ok(0),
        }
    }

    fn fault(&self, response: Response) -> Response {
        let code = match response.status() {
            400 | 417 => "INVALID_REQUEST",
            408 => "REQUEST_TIMEOUT",
            413 | 431 => "TOO_LARGE",
            503 => "BUSY",
            _ => "INTERNAL",
        };
        let words = String::from_utf8_lossy(response.body_bytes().unwrap_or_default()).trim().to_owned();
        refusal(&Problem::new(response.status(), code, format!("The request failed: {words}.")))
    }

    fn handle(&self, request: Request) -> Response {
        if let Err(problem) = self.check(request.head()) {
            return refusal(&problem);
        }
        if let Some(response) = self.page.serve(request.head()) {
            return response;
        }
        let answered = match request.path().strip_prefix("/api/v1") {
            Some(_) => self.answer(&request),
            None => self.outside(&request),
        };
        answered.unwrap_or_else(|problem| refusal(&problem))
    }
}

impl Api {
    fn check(&self, head: &Head) -> Result<(), Problem> {
        self.parts.guard.check_host(head)?;
        if head.path().starts_with("/api/") {
            self.parts.guard.check_site(head)?;
        }
        match head.method() {
            "GET" | "HEAD" | "OPTIONS" | "TRACE" => Ok(()),
            _ if head.path().ends_with("/files/upload") => self.parts.guard.check_bytes(head),
            // Without a body there is nothing to read.
            _ if head.header("content-length").is_none_or(|length| length == "0")
                && head.header("transfer-encoding").is_none() =>
            {
                Ok(())
            }
            _ => self.parts.guard.check_json(head),
        }
    }

    /// What is neither a page nor the API.
    fn outside(&self, request: &Request) -> Result<Response, Problem> {
        match (request.method(), request.path()) {
            ("GET" | "HEAD", "/health") => Ok(self.health()),
            ("GET" | "HEAD", "/metrics") => self.own_metrics(request),
            (_, "/health" | "/metrics") => Ok(Response::method_not_allowed("GET, HEAD")),
            _ => Err(Problem::new(404, "NOT_FOUND", "There is nothing at this path.")),
        }
    }

    fn health(&self) -> Response {
        match self.parts.hub.visit(|_| ()) {
            Ok(()) => Response::json(
                200,
                format!(r#"{{"status":"healthy","version":"{}"}}"#, crate::version::VERSION),
            ),
            Err(_) => Response::json(503, r#"{"status":"unhealthy"}"#),
        }
    }

    fn answer(&self, request: &Request) -> Result<Response, Problem> {
        let path = request.path().strip_prefix("/api/v1").unwrap_or_default();
        let (route, parameters) = routes::find(request.method(), path)?;
        let (address, secure) = self.parts.proxies.asker(request.head(), request.peer(), self.parts.tls);
        let mut call = Call::new(request, address, secure, parameters)?;
        let answered = self.let_in(route, &mut call).and_then(|()| self.once(route, &call));
        self.log(route, &call, &answered);
        answered
    }

    /// Who asks, and whether they may.
    fn let_in(&self, route: &Route, call: &mut Call) -> Result<(), Problem> {
        if route.who == Who::Anyone {
            return Ok(());
        }
        call.asker = self.principal(call.request.head(), call.address)?;
        let asker = call.asker()?;
        let reads = matches!(route.method, "GET");
        if let Via::Session { csrf, .. } = &asker.via
            && !reads
            && call.request.header("x-csrf-token").is_none_or(|token| !same(token, csrf))
        {
            return Err(Problem::new(403, "CSRF", "The call lacks this session's X-CSRF-Token."));
        }
        let scopes = asker.scopes();
        let has_scope = |needed: Rights| scopes.has(needed) || (reads && scopes.has(Rights::VIEW));
        match route.who {
            Who::Anyone => Ok(()),
            Who::Session => match asker.via {
                Via::Session { .. } => Ok(()),
                Via::Token { .. } => Err(forbidden("Only a person who has logged in can do this.")),
            },
            Who::Any if has_scope(Rights::VIEW) => Ok(()),
            Who::Admin(scope) => match asker.is_admin() {
                true if has_scope(scope) => Ok(()),
                true => Err(forbidden("The token's scopes do not allow this.")),
                // Who may not see a server is not told that there is one.
                false => match call.server() {
                    Ok(key) if !asker.rights(&key).has(Rights::VIEW) => Err(no_server(&key)),
                    _ => Err(forbidden("Only an admin can do this.")),
                },
            },
            Who::Right(right) => {
                let key = call.server()?;
                let own = asker.own_rights(&key);
                if !own.has(Rights::VIEW) {
                    return Err(no_server(&key));
                }
                if !own.has(right) {
                    return Err(forbidden(&format!(
                        "You do not have the right \"{}\" on this server. An admin can grant it.",
                        right.names().join(" ")
                    )));
                }
                match has_scope(right) {
                    true => Ok(()),
                    false => Err(forbidden("The token's scopes do not allow this.")),
                }
            }
            Who::Any => Err(forbidden("The token's scopes do not allow this.")),
        }
    }

    fn principal(&self, head: &Head, address: IpAddr) -> Result<Option<Principal>, Problem> {
        // A token that is sent is meant, also by a browser that has a cookie.
        match (bearer(head), cookie(head)) {
            (Some(token), _) => self.parts.accounts.bearer(token),
            (None, Some(cookie)) => self.parts.accounts.session(cookie, address),
            (None, None) => Ok(None),
        }
    }

    /// Runs a call, or gives the answer again that the same one had.
    fn once(&self, route: &Route, call: &Call) -> Result<Response, Problem> {
        let key = call.request.header("idempotency-key").filter(|_| route.repeatable);
        let (Some(key), Some(asker)) = (key, &call.asker) else { return (route.run)(self, call) };
        if key.is_empty() || key.len() > 128 {
            return Err(Problem::new(422, "INVALID_PAYLOAD", "An Idempotency-Key has 1 to 128 characters."));
        }
        let (asker, request) = (asker.asker(), fingerprint(call.request));
        if let Some(given) = self.parts.journal.given(&asker, key)? {
            return again(given, &request);
        }
        let name = (asker.clone(), key.to_owned());
        if !self.in_work().insert(name.clone()) {
            let what = "A call with this Idempotency-Key is in work. Ask again soon.";
            return Err(Problem { retry_after: Some(1), ..Problem::new(409, "IDEMPOTENCY_BUSY", what) });
        }
        let answered = (route.run)(self, call);
        // Faults of the Panel's or a node's own may be gone the next time.
        if let Ok(response) = &answered
            && response.status() < 500
            && let Some(body) = response.body_bytes()
        {
            let secret = "{\"error\":{\"code\":\"IDEMPOTENCY_SECRET\",\"message\":\"This was done already. Its secret is shown once.\"}}";
            let (status, body) = match route.gives_secret {
                true => (409, secret.as_bytes().to_vec()),
                false => (response.status(), body.to_vec()),
            };
            if let Err(problem) = self.parts.journal.give(&asker, key, &Given { request, status, body }) {
                log::warn!("an answer could not be kept for its Idempotency-Key: {}", problem.message);
            }
        }
        self.in_work().remove(&name);
        answered
    }

    fn in_work(&self) -> std::sync::MutexGuard<'_, HashSet<(String, String)>> {
        self.in_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what was done or refused, and tells pages.
    fn log(&self, route: &Route, call: &Call, answered: &Result<Response, Problem>) {
        let Some(action) = route.activity else { return };
        let note = call.noted();
        // Who is let in without a name is of no use to anybody later; a wrong login is.
        let user = note.user.or_else(|| call.asker.as_ref().map(|asker| asker.name.clone()));
        let Some(user) = user else { return };
        let (outcome, detail) = match answered {
            Ok(response) if response.status() < 400 => ("ok", note.detail),
            Ok(_) => ("failed", note.detail),
            Err(problem) if matches!(problem.status, 401 | 403 | 404) => {
                ("refused", Some(problem.code.clone().into_owned()))
            }
            Err(problem) => ("failed", Some(problem.code.clone().into_owned())),
        };
        self.record(Entry {
            user,
            action: action.to_owned(),
            node: note.node,
            server: note.server,
            outcome,
            detail,
            ..by(call)
        });
    }

    pub(super) fn record(&self, entry: Entry) {
        let entry = self.parts.journal.record(entry);
        let key = entry.node.as_deref().zip(entry.server.as_deref());
        let key: Option<ServerKey> =
            key.and_then(|(node, server)| Some((node.parse().ok()?, server.parse().ok()?)));
        // A hub that is stopping has no streams either.
        let _ = self.parts.hub.visit(move |fleet| fleet.tell_activity(key, &entry));
    }
}

/// Who did something, by which way and from where; the rest is for the caller to say.
fn by(call: &Call) -> Entry {
    let (via, token) = match call.asker.as_ref().map(|asker| &asker.via) {
        Some(Via::Token { name, .. }) => ("token", Some(name.clone())),
        _ => ("session", None),
    };
    let user = call.asker.as_ref().map(|asker| asker.name.clone()).unwrap_or_default();
    Entry { user, via, token, address: Some(call.address.to_string()), ..Entry::default() }
}

/// The answer of an earlier call, when this is the same one.
fn again(given: Given, request: &str) -> Result<Response, Problem> {
    if given.request != request {
        let what = "This Idempotency-Key was used for another call. Use a new one.";
        return Err(Problem::new(422, "IDEMPOTENCY_MISMATCH", what));
    }
    Ok(Response::json(given.status, given.body).with("Idempotency-Replayed", "true"))
}

fn fingerprint(request: &Request) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [request.method(), " ", request.head().target(), "\n"] {
        hash.update(part.as_bytes());
    }
    hash.update(request.body());
    super::secret::to_hex(hash.finish().as_ref())
}

fn cookie(head: &Head) -> Option<&str> {
    let pairs = head.headers().filter(|(name, _)| name.eq_ignore_ascii_case("cookie"));
    let mut pairs = pairs.flat_map(|(_, value)| value.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn bearer(head: &Head) -> Option<&str> {
    let (scheme, token) = head.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn same(one: &str, other: &str) -> bool {
    use subtle::ConstantTimeEq;
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

fn forbidden(what: &str) -> Problem {
    Problem::new(403, "FORBIDDEN", what)
}

fn no_server((node, id): &ServerKey) -> Problem {
    Problem::new(404, "SERVER_NOT_FOUND", format!("Node {node} has no server {id}."))
}

fn refusal(problem: &Problem) -> Response {
    let mut response = Response::json(problem.status, problem.body());
    let wait = problem.retry_after.or((problem.status == 503).then_some(5));
    if let Some(seconds) = wait {
        response = response.with("Retry-After", seconds.to_string());
    }
    if let Some(methods) = problem.allow.as_deref() {
        response = response.with("Allow", methods);
    }
    response
}

fn json(status: u16, value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).expect("views have string keys and no serialiser that fails");
    Response::json(status, text)
}

/// `{"items":[…],"next"?}`: one more than `limit` was asked for, which tells whether there is more.
fn page<T: Serialize>(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Response {
    #[derive(Serialize)]
    struct Page<T> {
        items: Vec<T>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(cursor);
    json(200, &Page { items, next })
}
