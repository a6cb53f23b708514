//! Templates: data files that say what a kind of game server needs, and how its variables become a spec for an Agent.
//!
//! Those that ship are part of the binary; own ones are in the database. Used by the gate's threads.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use regex_lite::Regex;
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::store::{StoreError, database};
use crate::protocol::ServerId;
use crate::protocol::Spec;
use crate::protocol::id::ID_RULE;
use crate::protocol::spec::Rules;

const BUILT_IN: [&str; 3] = [
    include_str!("templates/demo.json"),
    include_str!("templates/generic.json"),
    include_str!("templates/minecraft-java.json"),
];
const MAX_OWN: usize = 500;
const MAX_VARIABLES: usize = 200;
/// Of a variable's value, in bytes.
const MAX_VALUE: usize = 64 << 10;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Template {
    pub id: String,
    pub name: String,
    pub summary: String,
    #[serde(default)]
    pub icon: String,
    #[serde(default)]
    pub docs: String,
    #[serde(default)]
    pub built_in: bool,
    #[serde(default)]
    pub version: u32,
    pub image: String,
    #[serde(default)]
    pub image_editable: bool,
    pub variables: Vec<Variable>,
    pub ports: Vec<TemplatePort>,
    #[serde(default)]
    pub limits: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_memory: Option<u64>,
    /// Further fields of the Agent's spec.
    #[serde(default)]
    pub spec: Map<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Variable {
    /// The environment variable.
    pub name: String,
    pub label: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub help: String,
    pub default: String,
    pub required: bool,
    #[serde(default)]
    pub secret: bool,
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Text,
    Number,
    Boolean,
    Choice,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TemplatePort {
    pub internal: u16,
    pub protocol: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Host port to take when it is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred: Option<u16>,
    /// The host port is as many above that of the first port: games that reckon so cannot be given another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u16>,
}

pub struct Templates {
    built_in: Vec<Template>,
    database: Mutex<Connection>,
}

impl Templates {
    pub fn open(dir: &Path) -> Result<Templates, StoreError> {
        let built_in = BUILT_IN.iter().map(|text| {
            let template: Template = serde_json::from_str(text).expect("a test reads each that ships");
            Template { built_in: true, ..template }
        });
        Ok(Templates { built_in: built_in.collect(), database: Mutex::new(database::open(dir)?) })
    }

    /// Those that ship first, then own ones by their id.
    pub fn all(&self) -> Result<Vec<Template>, Problem> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement =
            database.prepare_cached("SELECT record FROM templates ORDER BY id").map_err(failed)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(failed)?;
        let mut all = self.built_in.clone();
        for row in rows {
            all.extend(serde_json::from_str::<Template>(&row.map_err(failed)?).ok());
        }
        Ok(all)
    }

    pub fn get(&self, id: &str) -> Result<Template, Problem> {
        if let Some(template) = self.built_in.iter().find(|template| template.id == id) {
            return Ok(template.clone());
        }
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let text = database
            .query_row("SELECT record FROM templates WHERE id = ?", [id], |row| row.get::<_, String>(0))
            .optional()
            .map_err(failed)?;
        text.and_then(|text| serde_json::from_str(&text).ok()).ok_or_else(|| unknown(id))
    }

    /// Takes an own template in, or a newer version of one.
    pub fn put(&self, body: Value) -> Result<Template, Problem> {
        let template: Template = serde_json::from_value(body)
            .map_err(|cause| Problem::new(422, "INVALID_PAYLOAD", format!("Not a template: {cause}.")))?;
        let template = Template { built_in: false, ..template };
        template.check()?;
        if self.built_in.iter().any(|known| known.id == template.id) {
            let what = "A template of this id is part of the Panel. Choose another id.";
            return Err(Problem { field: Some("id".into()), ..Problem::new(409, "CONFLICT", what) });
        }
        let text = serde_json::to_string(&template).map_err(|_| Problem::field("id", "Cannot be stored."))?;
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let put = "INSERT OR REPLACE INTO templates SELECT ?1, ?2
            WHERE (SELECT count(*) FROM templates WHERE id <> ?1) < ?3";
        match database.execute(put, rusqlite::params![template.id, text, MAX_OWN]).map_err(failed)? {
            0 => Err(Problem::new(409, "CONFLICT", format!("There are {MAX_OWN} own templates already."))),
            _ => Ok(template),
        }
    }

    pub fn remove(&self, id: &str) -> Result<(), Problem> {
        if self.built_in.iter().any(|known| known.id == id) {
            return Err(Problem::new(409, "CONFLICT", "This template is part of the Panel."));
        }
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        match database.execute("DELETE FROM templates WHERE id = ?", [id]).map_err(failed)? {
            0 => Err(unknown(id)),
            _ => Ok(()),
        }
    }
}

impl Template {
    fn check(&self) -> Result<(), Problem> {
        if self.id.parse::<ServerId>().is_err() {
            return Err(Problem::field("id", format!("Expected {ID_RULE}.")));
        }
        if self.name.trim().is_empty() || self.name.chars().count() > 64 {
            return Err(Problem::field("name", "Use 1 to 64 characters."));
        }
        if self.image.trim().is_empty() {
            return Err(Problem::field("image", "The image is missing."));
        }
        if self.variables.len() > MAX_VARIABLES {
            return Err(Problem::field("variables", format!("At most {MAX_VARIABLES} variables.")));
        }
        for (index, variable) in self.variables.iter().enumerate() {
            let field = |part: &str| format!("variables[{index}].{part}");
            let name = variable.name.as_bytes();
            let is_name = !name.is_empty()
                && name.len() <= 191
                && !name[0].is_ascii_digit()
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
            if !is_name || self.variables[..index].iter().any(|other| other.name == variable.name) {
                return Err(Problem::field(&field("name"), "Expected an environment variable's name, once."));
            }
            if let Some(pattern) = &variable.pattern
                && let Err(cause) = whole(pattern)
            {
                return Err(Problem::field(&field("pattern"), format!("Not a pattern: {cause}.")));
            }
            if !variable.default.is_empty() {
                variable.check(&variable.default).map_err(|what| Problem::field(&field("default"), what))?;
            }
        }
        for (index, port) in self.ports.iter().enumerate() {
            if port.internal == 0 || !matches!(port.protocol.as_str(), "tcp" | "udp") {
                return Err(Problem::field(&format!("ports[{index}]"), "Expected a port and tcp or udp."));
            }
            if port.offset.is_some() && index == 0 {
                let what = "Only those behind the first port are at a distance from it.";
                return Err(Problem::field(&format!("ports[{index}].offset"), what));
            }
        }
        let mut spec = self.spec.clone();
        spec.insert("image".into(), self.image.clone().into());
        spec.insert("limits".into(), Value::Object(self.limits.clone()));
        check_spec(&spec).map_err(|problem| Problem {
            field: Some(format!("spec.{}", problem.field.unwrap_or_default())),
            ..problem
        })
    }

    /// The values of its variables: what was given, checked, and the default for the rest.
    pub fn values(&self, given: &Map<String, Value>) -> Result<Map<String, Value>, Problem> {
        if let Some(name) = given.keys().find(|name| self.variables.iter().all(|known| known.name != **name))
        {
            let name: String = name.chars().take(64).collect();
            return Err(Problem::field(&format!("variables.{name}"), "The template has no such variable."));
        }
        let mut values = Map::new();
        for variable in &self.variables {
            let value = match given.get(&variable.name) {
                None => variable.default.clone(),
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                Some(Value::Bool(true)) => "1".into(),
                Some(Value::Bool(false)) => "0".into(),
                Some(_) => {
                    return Err(Problem::field(&format!("variables.{}", variable.name), "Expected a text."));
                }
            };
            if value.is_empty() && variable.required {
                let what = format!("{}: this is needed.", variable.label);
                return Err(Problem::field(&format!("variables.{}", variable.name), what));
            }
            if !value.is_empty() {
                let wrong = |what| Problem::field(&format!("variables.{}", variable.name), what);
                variable.check(&value).map_err(wrong)?;
            }
            values.insert(variable.name.clone(), value.into());
        }
        Ok(values)
    }

    /// The spec with these values, and ports whose host port is left open.
    pub fn spec(&self, values: &Map<String, Value>) -> Map<String, Value> {
        let mut spec = self.spec.clone();
        spec.insert("image".into(), self.image.clone().into());
        let environment = spec.entry("environment").or_insert_with(|| Value::Object(Map::new()));
        if let Some(environment) = environment.as_object_mut() {
            let set = values.iter().filter(|(_, value)| value.as_str() != Some(""));
            environment.extend(set.map(|(name, value)| (name.clone(), value.clone())));
        }
        let ports = self.ports.iter().map(|port| {
            let mut open = json!({"internal": port.internal, "external": 0, "protocol": port.protocol});
            if let Some(preferred) = port.preferred {
                open["preferred"] = preferred.into();
            }
            if let Some(offset) = port.offset {
                open["offset"] = offset.into();
            }
            open
        });
        spec.insert("ports".into(), ports.collect());
        spec.insert("limits".into(), Value::Object(self.limits.clone()));
        spec
    }
}

impl Variable {
    /// What is wrong with a value.
    fn check(&self, value: &str) -> Result<(), String> {
        if value.len() > MAX_VALUE || value.chars().any(|c| c.is_control() && c != '\t') {
            return Err("Expected one line of text.".into());
        }
        match self.kind {
            Kind::Text => {}
            Kind::Number => {
                let number: f64 = value.parse().map_err(|_| "Expected a number.".to_owned())?;
                if !number.is_finite()
                    || self.min.is_some_and(|min| number < min)
                    || self.max.is_some_and(|max| number > max)
                {
                    return Err(match (self.min, self.max) {
                        (Some(min), Some(max)) => format!("Expected a number from {min} to {max}."),
                        (Some(min), None) => format!("Expected a number of at least {min}."),
                        (None, Some(max)) => format!("Expected a number of at most {max}."),
                        (None, None) => "Expected a number.".into(),
                    });
                }
            }
            Kind::Boolean => {
                if !matches!(value, "0" | "1" | "true" | "false" | "TRUE" | "FALSE") {
                    return Err("Expected yes or no (1 or 0).".into());
                }
            }
            Kind::Choice => {
                if !self.choices.iter().any(|choice| choice == value) {
                    return Err(format!("Expected one of {}.", self.choices.join(", ")));
                }
            }
        }
        if self.max_length.is_some_and(|most| value.chars().count() > most) {
            return Err(format!("At most {} characters.", self.max_length.unwrap_or_default()));
        }
        match self.pattern.as_deref().map(whole) {
            Some(Ok(pattern)) if !pattern.is_match(value) => {
                let help =
                    if self.help.is_empty() { "It does not have the form needed." } else { &self.help };
                Err(help.to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// A pattern that has to match all of a value.
fn whole(pattern: &str) -> Result<Regex, regex_lite::Error> {
    regex_lite::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(256 << 10).build()
}

/// What an Agent would refuse about a spec, told before anything is sent.
pub fn check_spec(spec: &Map<String, Value>) -> Result<(), Problem> {
    match Spec::parse(spec, &Rules::default()) {
        Ok(_) => Ok(()),
        Err(fault) => {
            let failure = super::wire::Failure { code: "INVALID_PAYLOAD".into(), message: fault.message };
            Err(Problem::from(&failure))
        }
    }
}

fn unknown(id: &str) -> Problem {
    let id: String = id.chars().take(64).collect();
    Problem::new(404, "TEMPLATE_NOT_FOUND", format!("There is no template {id}."))
}

fn failed(cause: rusqlite::Error) -> Problem {
    StoreError::Sql { what: "templates", cause }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(id: &str) -> Template {
        let all = BUILT_IN.iter().map(|text| serde_json::from_str::<Template>(text).unwrap());
        all.into_iter().find(|template| template.id == id).unwrap()
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn those_that_ship_are_whole() {
        for text in BUILT_IN {
            let template: Template = serde_json::from_str(text).unwrap();
            template.check().unwrap_or_else(|problem| panic!("{}: {problem:?}", template.id));
            assert!(template.summary.len() < 120 && template.version > 0, "{}", template.id);
        }
    }

    #[test]
    fn variables_are_checked_by_their_kind_and_become_environment() {
        let minecraft = shipped("minecraft-java");
        let fault = |given: Value| {
            let problem = minecraft.values(&map(given)).unwrap_err();
            (problem.field.unwrap(), problem.status)
        };
        assert_eq!(fault(json!({})), ("variables.EULA".into(), 422));
        for (name, value) in [
            ("TYPE", json!("BUKKIT")),
            ("MAX_PLAYERS", json!("many")),
            ("MAX_PLAYERS", json!(0)),
            ("VERSION", json!("1; rm")),
            ("MOTD", json!("two\nlines")),
            ("OTHER", json!("x")),
            ("MODE", json!(["x"])),
        ] {
            let given = json!({"EULA": "TRUE", name: value});
            assert_eq!(fault(given), (format!("variables.{name}"), 422));
        }
        let values = minecraft.values(&map(json!({"EULA": "TRUE", "MAX_PLAYERS": 5}))).unwrap();
        let spec = minecraft.spec(&values);
        assert_eq!(spec["environment"]["MAX_PLAYERS"], "5");
        assert_eq!(spec["environment"]["TYPE"], "VANILLA");
        assert!(spec["environment"].get("OPS").is_none(), "what is empty is not set");
        let port = json!([{"internal": 25565, "external": 0, "protocol": "tcp", "preferred": 25565}]);
        assert_eq!(spec["ports"], port);
    }

    #[test]
    fn own_templates_are_kept_and_what_is_wrong_in_them_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let templates = Templates::open(dir.path()).unwrap();
        let mut own = serde_json::to_value(shipped("generic")).unwrap();
        assert_eq!(templates.put(own.clone()).unwrap_err().code, "CONFLICT");
        own["id"] = "mine".into();
        templates.put(own.clone()).unwrap();
        assert_eq!(templates.all().unwrap().len(), BUILT_IN.len() + 1);
        assert!(!templates.get("mine").unwrap().built_in);
        own["spec"]["stop"] = json!({"type": "prayer"});
        let problem = templates.put(own.clone()).unwrap_err();
        assert!(problem.field.as_deref().unwrap_or_default().starts_with("spec.stop"), "{problem:?}");
        own["surprise"] = json!(1);
        assert!(templates.put(own).unwrap_err().message.contains("surprise"));
        templates.remove("mine").unwrap();
        assert_eq!(templates.get("mine").unwrap_err().status, 404);
        assert_eq!(templates.remove("demo").unwrap_err().status, 409);
    }
}
