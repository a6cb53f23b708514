//! One call as its handler sees it: who asks, the path's names, the query and the body's fields, each taken once and
//! checked, so that what nobody has taken is told as unknown.

use std::cell::RefCell;
use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::gate::Request;
use crate::panel::accounts::Principal;
use crate::panel::problem::Problem;
use crate::panel::store::ServerKey;
use crate::protocol::NodeId;
use crate::protocol::id::ID_RULE;

pub struct Call<'a> {
    pub request: &'a Request,
    pub asker: Option<Principal>,
    /// The one who asks, behind proxies that are trusted.
    pub address: IpAddr,
    /// It came, or was said to have come, by TLS.
    pub secure: bool,
    pub(super) parameters: Vec<(&'static str, String)>,
    query: Vec<(String, String)>,
    /// What the activity log is told beside the route.
    note: RefCell<Note>,
}

/// What a call was about.
#[derive(Clone, Debug, Default)]
pub struct Note {
    pub node: Option<String>,
    pub server: Option<String>,
    pub user: Option<String>,
    pub detail: Option<String>,
}

impl<'a> Call<'a> {
    /// # Errors
    /// A part of the query cannot be read: leaving it out would answer another question.
    pub fn new(
        request: &'a Request,
        address: IpAddr,
        secure: bool,
        parameters: Vec<(&'static str, String)>,
    ) -> Result<Call<'a>, Problem> {
        let query = request.query().unwrap_or_default();
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let what = "This is not UTF-8 in percent-encoding, or has control characters.";
            let name = decoded(name, true).ok_or_else(|| Problem::field("query", what))?;
            let value = decoded(value, true).ok_or_else(|| Problem::field(&name, what))?;
            Ok((name, value))
        });
        let find = |name: &str| parameters.iter().find(|(known, _)| *known == name).map(|(_, v)| v.clone());
        let note = Note { node: find("node"), server: find("server"), ..Note::default() };
        let query = query.collect::<Result<_, Problem>>()?;
        Ok(Call { request, asker: None, address, secure, parameters, query, note: RefCell::new(note) })
    }

    /// Who asks; routes for anyone do not.
    pub fn asker(&self) -> Result<&Principal, Problem> {
        self.asker.as_ref().ok_or_else(not_logged_in)
    }

    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    pub fn node(&self) -> Result<NodeId, Problem> {
        self.parameter("node").parse().map_err(|_| {
            Problem::new(404, "NODE_NOT_FOUND", format!("There is no such node: an id is {ID_RULE}."))
        })
    }

    pub fn server(&self) -> Result<ServerKey, Problem> {
        let id = self.parameter("server").parse().map_err(|_| {
            Problem::new(404, "SERVER_NOT_FOUND", format!("There is no such server: an id is {ID_RULE}."))
        })?;
        Ok((self.node()?, id))
    }

    /// A numeric id in the path.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.parameter(name).parse().ok()
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn query_text(&self, name: &str, most: usize) -> Result<Option<String>, Problem> {
        match self.query(name) {
            Some(text) if text.chars().count() > most => {
                Err(Problem::field(name, format!("At most {most} characters.")))
            }
            text => Ok(text.filter(|text| !text.is_empty()).map(str::to_owned)),
        }
    }

    pub fn query_number(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.query(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number
            .map(Some)
            .ok_or_else(|| Problem::field(name, format!("Expected a number from {least} to {most}.")))
    }

    /// Items that a page of a list may have.
    pub fn limit(&self) -> Result<usize, Problem> {
        Ok(self.query_number("limit", 1, 200)?.map_or(50, |limit| usize::try_from(limit).unwrap_or(50)))
    }

    /// Where the page before has ended.
    pub fn cursor(&self) -> Result<Option<String>, Problem> {
        self.query_text("cursor", 256)
    }

    /// A cursor that is a number.
    pub fn after(&self) -> Result<Option<i64>, Problem> {
        let Some(text) = self.cursor()? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Problem::field("cursor", "This is no cursor of this list."))
    }

    /// The body's fields. `{}` when there is none.
    pub fn fields(&self) -> Result<Fields, Problem> {
        if self.request.body().is_empty() {
            return Ok(Fields(Map::new()));
        }
        match serde_json::from_slice(self.request.body()) {
            Ok(Value::Object(object)) => Ok(Fields(object)),
            Ok(_) => Err(Problem::new(400, "INVALID_JSON", "The body has to be a JSON object.")),
            Err(cause) => Err(Problem::new(400, "INVALID_JSON", format!("The body is not JSON: {cause}."))),
        }
    }

    /// For calls without a body: what was sent has to be an empty object.
    pub fn no_fields(&self) -> Result<(), Problem> {
        self.fields()?.end()
    }

    pub fn note(&self, write: impl FnOnce(&mut Note)) {
        write(&mut self.note.borrow_mut());
    }

    pub fn noted(&self) -> Note {
        self.note.borrow().clone()
    }
}

/// The fields of a body that were not taken yet.
pub struct Fields(pub Map<String, Value>);

impl Fields {
    /// Refuses what is left.
    pub fn end(self) -> Result<(), Problem> {
        match self.0.keys().next() {
            Some(field) => {
                let shown: String = field.chars().take(64).collect();
                Err(Problem::field(&shown, "This field is not known here."))
            }
            None => Ok(()),
        }
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    pub fn text(&mut self, name: &str, most: usize) -> Result<Option<String>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.chars().count() <= most => Ok(Some(text)),
            Some(Value::String(_)) => Err(Problem::field(name, format!("At most {most} characters."))),
            Some(_) => Err(Problem::field(name, "Expected a text.")),
        }
    }

    pub fn needed(&mut self, name: &str, most: usize) -> Result<String, Problem> {
        match self.text(name, most)? {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(Problem::field(name, "This is needed.")),
        }
    }

    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(Problem::field(name, "Expected true or false.")),
        }
    }

    pub fn number(&mut self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Problem> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (least..=most).contains(number));
        number
            .map(Some)
            .ok_or_else(|| Problem::field(name, format!("Expected a number from {least} to {most}.")))
    }

    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(Problem::field(name, "Expected an object.")),
        }
    }

    pub fn list(&mut self, name: &str, most: usize) -> Result<Option<Vec<Value>>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Array(list)) if list.len() <= most => Ok(Some(list)),
            Some(_) => Err(Problem::field(name, format!("Expected a list of at most {most}."))),
        }
    }
}

pub fn not_logged_in() -> Problem {
    Problem::new(401, "NOT_LOGGED_IN", "Log in first.")
}

/// Percent-decodes; `None` when that is no text or has a control character.
pub fn decoded(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_hides_in_it() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(decoded(text, true).as_deref(), expected);
        check("a%20b+c", Some("a b c"));
        check("%C3%A9", Some("é"));
        check("%2e%2e%2f", Some("../"));
        for wrong in ["%", "%2", "%zz", "%ff", "%0d%0a", "%00", "%+1"] {
            check(wrong, None);
        }
        assert_eq!(decoded("a+b", false).as_deref(), Some("a+b"));
    }
}
