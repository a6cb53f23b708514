//! Users, what is granted to them, and API tokens.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json as value};

use super::account::end_streams;
use super::call::{Call, Fields};
use super::{Api, json, page};
use crate::gate::Response;
use crate::panel::accounts::{Rights, Role, UserChange, UserView};
use crate::panel::problem::Problem;
use crate::panel::secret::Secret;
use crate::panel::store::ServerKey;
use crate::panel::time::Time;

/// How long an invitation can be used.
pub const INVITED: Duration = Duration::from_secs(3 * 24 * 3600);

pub fn list(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (part, limit) = (call.query_text("q", 64)?.unwrap_or_default(), call.limit()?);
    let users = api.parts.accounts.users(&part, call.after()?.unwrap_or(0), limit + 1)?;
    Ok(page(users, limit, |user| user.id.to_string()))
}

pub fn create(api: &Api, call: &Call) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Body {
        user: UserView,
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires: Option<Time>,
    }
    let mut fields = call.fields()?;
    let name = fields.needed("name", 64)?;
    let role = role(&mut fields)?.ok_or_else(|| Problem::field("role", "This is needed."))?;
    let password = fields.text("password", 256)?;
    fields.end()?;
    let accounts = &api.parts.accounts;
    let id = accounts.add_user(&name, role, password.as_deref(), false)?;
    call.note(|note| note.detail = Some(format!("{} {name}", role.name())));
    let link = match password {
        Some(_) => None,
        None => Some(accounts.new_link(id, INVITED)?),
    };
    let expires = link.as_ref().map(|(_, expires)| *expires);
    let link = link.map(|(secret, _)| link_to(call, &secret));
    Ok(json(201, &Body { user: accounts.user(id)?, link, expires }))
}

pub fn show(api: &Api, call: &Call) -> Result<Response, Problem> {
    Ok(json(200, &api.parts.accounts.user(id(call)?)?))
}

pub fn change(api: &Api, call: &Call) -> Result<Response, Problem> {
    let id = id(call)?;
    let mut fields = call.fields()?;
    let change = UserChange {
        name: fields.text("name", 64)?,
        role: role(&mut fields)?,
        disabled: fields.flag("disabled")?,
    };
    fields.end()?;
    let user = api.parts.accounts.change_user(id, &change)?;
    call.note(|note| note.detail = Some(user.name.clone()));
    begin_anew(api, id, user.disabled);
    Ok(json(200, &user))
}

pub fn remove(api: &Api, call: &Call) -> Result<Response, Problem> {
    let id = id(call)?;
    let name = api.parts.accounts.user(id)?.name;
    api.parts.accounts.remove_user(id)?;
    call.note(|note| note.detail = Some(name));
    begin_anew(api, id, true);
    Ok(Response::empty(204))
}

pub fn link(api: &Api, call: &Call) -> Result<Response, Problem> {
    call.no_fields()?;
    let id = id(call)?;
    let name = api.parts.accounts.user(id)?.name;
    let (secret, expires) = api.parts.accounts.new_link(id, INVITED)?;
    call.note(|note| note.detail = Some(name));
    Ok(json(201, &value!({"link": link_to(call, &secret), "expires": expires})))
}

pub fn end_totp(api: &Api, call: &Call) -> Result<Response, Problem> {
    let id = id(call)?;
    api.parts.accounts.end_totp(id, None)?;
    Ok(Response::empty(204))
}

pub fn grants(api: &Api, call: &Call) -> Result<Response, Problem> {
    Ok(json(200, &value!({"items": api.parts.accounts.grants_of(id(call)?)?})))
}

pub fn set_grants(api: &Api, call: &Call) -> Result<Response, Problem> {
    let id = id(call)?;
    let mut fields = call.fields()?;
    let items = fields.list("items", 2_000)?.ok_or_else(|| Problem::field("items", "This is needed."))?;
    fields.end()?;
    let grants = items.into_iter().enumerate().map(|(index, item)| grant(index, item));
    let grants: Vec<(ServerKey, Rights)> = grants.collect::<Result<_, _>>()?;
    let keys: Vec<ServerKey> = grants.iter().map(|(key, _)| key.clone()).collect();
    let missing = api
        .parts
        .hub
        .visit(move |fleet| keys.into_iter().position(|key| fleet.store.server(&key).is_none()))?;
    if let Some(index) = missing {
        return Err(Problem::field(&format!("items[{index}]"), "There is no such server."));
    }
    api.parts.accounts.set_grants(id, &grants)?;
    begin_anew(api, id, false);
    self::grants(api, call)
}

fn grant(index: usize, item: Value) -> Result<(ServerKey, Rights), Problem> {
    let wrong = |part: &str, what: &str| Problem::field(&format!("items[{index}]{part}"), what);
    let Value::Object(object) = item else { return Err(wrong("", "Expected an object.")) };
    let mut fields = Fields(object);
    let node = fields.needed("node", 64)?.parse().map_err(|_| wrong(".node", "There is no such node."))?;
    let server =
        fields.needed("server", 64)?.parse().map_err(|_| wrong(".server", "There is no such server."))?;
    let names = fields.list("rights", 8)?.ok_or_else(|| wrong(".rights", "This is needed."))?;
    fields.end()?;
    let mut rights = Rights::NONE;
    for name in names {
        let right = name.as_str().and_then(Rights::right);
        // Every other right includes seeing it.
        rights =
            rights.with(right.ok_or_else(|| wrong(".rights", "There is no such right."))?).with(Rights::VIEW);
    }
    Ok(((node, server), rights))
}

// ---- tokens

pub fn tokens(api: &Api, call: &Call) -> Result<Response, Problem> {
    let asker = call.asker()?;
    let all = match call.query("all") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::field("all", "Expected true or false.")),
    };
    if all && !asker.is_admin() {
        return Err(super::forbidden("Only an admin sees all tokens."));
    }
    let limit = call.limit()?;
    let owner = Some(asker.user).filter(|_| !all);
    let tokens = api.parts.accounts.tokens(owner, call.after()?.unwrap_or(0), limit + 1)?;
    Ok(page(tokens, limit, |token| token.id.to_string()))
}

pub fn add_token(api: &Api, call: &Call) -> Result<Response, Problem> {
    let asker = call.asker()?;
    let mut fields = call.fields()?;
    let name = fields.needed("name", 64)?;
    let names = fields.list("scopes", 16)?.filter(|scopes| !scopes.is_empty());
    let names = names.ok_or_else(|| Problem::field("scopes", "Choose at least one."))?;
    let days = fields.number("expiresIn", 1, 3_650)?;
    fields.end()?;
    let mut scopes = Rights::NONE;
    for name in names {
        let scope = name.as_str().and_then(Rights::scope);
        scopes = scopes.with(scope.ok_or_else(|| Problem::field("scopes", "There is no such scope."))?);
    }
    let expires = days.map(|days| Time::now().after(Duration::from_secs(days * 24 * 3600)));
    let (token, secret) = api.parts.accounts.add_token(asker.user, &name, scopes, expires)?;
    call.note(|note| note.detail = Some(format!("{name}: {}", scopes.scope_names().join(" "))));
    Ok(json(201, &value!({"token": token, "secret": secret})))
}

pub fn remove_token(api: &Api, call: &Call) -> Result<Response, Problem> {
    let asker = call.asker()?;
    let gone = || Problem::new(404, "TOKEN_NOT_FOUND", "There is no such token.");
    let id = call.number("id").ok_or_else(gone)?;
    api.parts.accounts.remove_token(Some(asker.user).filter(|_| !asker.is_admin()), id)?;
    Ok(Response::empty(204))
}

// ----

/// What a user may has changed: their streams begin anew, or end.
fn begin_anew(api: &Api, user: i64, gone: bool) {
    if gone {
        end_streams(api, Vec::new(), Some((user, String::new())));
    }
    let _ = api.parts.hub.visit(move |fleet| fleet.end_streams_of(user)); // stopping: it has none
}

/// In the fragment, which no browser sends to a server and no proxy writes down.
fn link_to(call: &Call, secret: &Secret) -> String {
    let scheme = if call.secure { "https" } else { "http" };
    let host = call.request.header("host").unwrap_or("localhost");
    format!("{scheme}://{host}/login#{}", secret.expose())
}

fn role(fields: &mut Fields) -> Result<Option<Role>, Problem> {
    match fields.text("role", 16)?.as_deref() {
        None => Ok(None),
        Some("admin") => Ok(Some(Role::Admin)),
        Some("member") => Ok(Some(Role::Member)),
        Some(_) => Err(Problem::field("role", "Expected admin or member.")),
    }
}

fn id(call: &Call) -> Result<i64, Problem> {
    call.number("id").ok_or_else(|| Problem::new(404, "USER_NOT_FOUND", "There is no such user."))
}
