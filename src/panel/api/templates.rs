//! Templates: listed, shown, and own ones uploaded.

use serde_json::Value;

use super::call::Call;
use super::{Api, json, page};
use crate::gate::Response;
use crate::panel::problem::Problem;

pub fn list(api: &Api, call: &Call) -> Result<Response, Problem> {
    let limit = call.limit()?;
    let all = api.parts.templates.all()?;
    let from = match call.cursor()?.as_deref() {
        None => 0,
        Some(after) => {
            let at = all.iter().position(|template| template.id == after);
            at.map(|at| at + 1).ok_or_else(|| Problem::field("cursor", "This is no cursor of this list."))?
        }
    };
    let rest = all.into_iter().skip(from).take(limit + 1).collect();
    Ok(page(rest, limit, |template| template.id.clone()))
}

pub fn show(api: &Api, call: &Call) -> Result<Response, Problem> {
    Ok(json(200, &api.parts.templates.get(call.parameter("template"))?))
}

pub fn put(api: &Api, call: &Call) -> Result<Response, Problem> {
    let fields = call.fields()?;
    let template = api.parts.templates.put(Value::Object(fields.0))?;
    call.note(|note| note.detail = Some(template.id.clone()));
    Ok(json(201, &template))
}

pub fn remove(api: &Api, call: &Call) -> Result<Response, Problem> {
    let id = call.parameter("template");
    api.parts.templates.remove(id)?;
    call.note(|note| note.detail = Some(id.to_owned()));
    Ok(Response::empty(204))
}
