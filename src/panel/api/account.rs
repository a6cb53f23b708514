//! Setting up, logging in and out, and one's own account.

use serde::Serialize;
use serde_json::json as value;

use super::call::Call;
use super::{Api, COOKIE, json, page};
use crate::gate::Response;
use crate::panel::accounts::{Begun, UserView, Via};
use crate::panel::problem::Problem;
use crate::panel::time::Time;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionBody<'a> {
    user: &'a UserView,
    csrf: &'a str,
    expires: Time,
    must_set_password: bool,
    version: &'static str,
}

pub fn needs_setup(api: &Api, _: &Call) -> Result<Response, Problem> {
    let needed = !api.parts.accounts.has_users()?;
    Ok(json(200, &value!({"needed": needed, "version": crate::version::VERSION})))
}

pub fn set_up(api: &Api, call: &Call) -> Result<Response, Problem> {
    let mut fields = call.fields()?;
    let token = fields.needed("token", 256)?;
    let (name, password) = (fields.needed("name", 64)?, fields.needed("password", 256)?);
    fields.end()?;
    let user = api.parts.accounts.set_up(&token, &name, &password)?;
    call.note(|note| note.user = Some(name));
    begin(api, call, user, false)
}

pub fn log_in(api: &Api, call: &Call) -> Result<Response, Problem> {
    let mut fields = call.fields()?;
    if let Some(link) = fields.text("link", 256)? {
        fields.end()?;
        let user = api.parts.accounts.log_in_by_link(&link, call.address)?;
        let view = api.parts.accounts.user(user)?;
        call.note(|note| (note.user, note.detail) = (Some(view.name), Some("by a one-time link".into())));
        return begin(api, call, user, true);
    }
    let (name, password) = (fields.needed("name", 64)?, fields.needed("password", 256)?);
    let code = fields.text("code", 32)?;
    fields.end()?;
    let shown: String = name.chars().filter(|c| !c.is_control()).collect();
    call.note(|note| note.user = Some(shown));
    let user = api.parts.accounts.log_in(&name, &password, code.as_deref(), call.address)?;
    begin(api, call, user, false)
}

/// Always a new session with a new cookie, whatever was sent along.
fn begin(api: &Api, call: &Call, user: i64, by_link: bool) -> Result<Response, Problem> {
    let agent = call.request.header("user-agent").unwrap_or_default();
    let Begun { cookie, csrf, expires, by_link, user } =
        api.parts.accounts.begin_session(user, by_link, call.address, agent)?;
    let age = expires.since(Time::now()).as_secs();
    let secure = if call.secure { "; Secure" } else { "" };
    let text =
        format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}", cookie.expose());
    let body = SessionBody {
        must_set_password: by_link && !user.has_password,
        user: &user,
        csrf: &csrf,
        expires,
        version: crate::version::VERSION,
    };
    Ok(json(201, &body).with("Set-Cookie", text))
}

pub fn session(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (user, hash, csrf) = own(call)?;
    let (expires, by_link) = api.parts.accounts.session_facts(hash)?;
    let user = api.parts.accounts.user(user)?;
    let must_set_password = by_link && !user.has_password;
    let version = crate::version::VERSION;
    Ok(json(200, &SessionBody { user: &user, csrf, expires, must_set_password, version }))
}

pub fn log_out(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (_, hash, _) = own(call)?;
    api.parts.accounts.log_out(hash)?;
    end_streams(api, vec![hash.to_owned()], None);
    let secure = if call.secure { "; Secure" } else { "" };
    let gone = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0{secure}");
    Ok(Response::empty(204).with("Set-Cookie", gone))
}

pub fn sessions(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (user, hash, _) = own(call)?;
    let sessions = api.parts.accounts.sessions(user, hash)?;
    Ok(page(sessions, usize::MAX, |session| session.id.clone()))
}

pub fn end_session(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (user, ..) = own(call)?;
    let id = call.parameter("id").to_owned();
    api.parts.accounts.end_session(user, &id)?;
    end_streams(api, vec![id], None);
    Ok(Response::empty(204))
}

pub fn change_password(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (user, hash, _) = own(call)?;
    let mut fields = call.fields()?;
    let current = fields.text("current", 256)?;
    let new = fields.needed("new", 256)?;
    fields.end()?;
    api.parts.accounts.set_password(user, Some(current.as_deref()), &new, hash)?;
    end_streams(api, Vec::new(), Some((user, hash.to_owned())));
    Ok(Response::empty(204))
}

pub fn begin_totp(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (user, ..) = own(call)?;
    let mut fields = call.fields()?;
    let password = fields.needed("password", 256)?;
    fields.end()?;
    let (secret, uri) = api.parts.accounts.begin_totp(user, &password, call.address)?;
    Ok(json(201, &value!({"secret": secret, "uri": uri})))
}

pub fn confirm_totp(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (user, ..) = own(call)?;
    let mut fields = call.fields()?;
    let code = fields.needed("code", 6)?;
    fields.end()?;
    let codes = api.parts.accounts.confirm_totp(user, &code)?;
    Ok(json(200, &value!({"recoveryCodes": codes})))
}

pub fn end_totp(api: &Api, call: &Call) -> Result<Response, Problem> {
    let (user, ..) = own(call)?;
    let mut fields = call.fields()?;
    let password = fields.needed("password", 256)?;
    fields.end()?;
    api.parts.accounts.end_totp(user, Some((&password, call.address)))?;
    Ok(Response::empty(204))
}

/// User, session and CSRF token of a call that only a session can make.
fn own<'a>(call: &'a Call) -> Result<(i64, &'a str, &'a str), Problem> {
    let asker = call.asker()?;
    match &asker.via {
        Via::Session { hash, csrf } => Ok((asker.user, hash, csrf)),
        Via::Token { .. } => Err(super::forbidden("Only a person who has logged in can do this.")),
    }
}

/// Ends the streams of sessions that are over: those whose hash begins so, and all of a user but one.
pub(super) fn end_streams(api: &Api, sessions: Vec<String>, others: Option<(i64, String)>) {
    // A hub that is stopping has no streams either.
    let _ = api.parts.hub.visit(move |fleet| {
        fleet.end_sessions(|user, hash| {
            sessions.iter().any(|session| hash.starts_with(session.as_str()))
                || others.as_ref().is_some_and(|(of, but)| *of == user && hash != but)
        });
    });
}
