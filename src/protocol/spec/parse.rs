//! Reads a spec from JSON: every field checked, the first fault named.

use std::collections::BTreeMap;

use regex_lite::RegexBuilder;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::place::{capabilities, image, mod_dir, mount_path, user};
use super::ports::Ports;
use super::{Limits, Restart, RestartPolicy, Rules, Spec, Startup, Stop};
use crate::protocol::Fault;
use crate::protocol::fields::{Fields, is_line};
use crate::protocol::json::{self, shown};

/// Names of the fields, in the contract's order.
pub(super) const FIELDS: [&str; 19] = [
    "image",
    "name",
    "startup",
    "environment",
    "limits",
    "ports",
    "stop",
    "done",
    "restart",
    "restartPolicy",
    "diskGrace",
    "tty",
    "mountPath",
    "modDir",
    "user",
    "capabilities",
    "install",
    "configFiles",
    "eggConfig",
];

/// Bytes of a startup, all its words together, placeholders replaced. Linux takes 128 KiB in one argument.
pub(super) const MAX_STARTUP: usize = 64 << 10;

const MAX_VARIABLES: usize = 512;
/// Names and values together: an exec fails once arguments and environment outgrow a quarter of the stack (2 MiB).
const MAX_ENVIRONMENT: usize = 256 << 10;
const MAX_VALUE: usize = 64 << 10;
pub(super) const MAX_PATH: usize = 255;
const MAX_DONE: usize = 32;
/// Compiled size of one pattern in bytes; regex-lite's own default is 10 MiB.
const MAX_REGEX: usize = 256 << 10;

impl Spec {
    /// Reads a whole spec from a payload, or from the same under `eggConfig`; what stands in both places is taken from
    /// the payload itself. Names it does not know are ignored.
    pub fn parse(payload: &Map<String, Value>, rules: &Rules) -> Result<Spec, Fault> {
        let spec = match payload.get("eggConfig") {
            None | Some(Value::Null) => Spec::read(payload, Some(rules))?,
            Some(_) => Spec::read(&gather(payload)?, Some(rules))?,
        };
        spec.check()?;
        Ok(spec)
    }

    /// Reads a spec that this side has stored.
    pub fn stored(text: &str) -> Result<Spec, Fault> {
        let map = json::object(text).map_err(|_| Fault::field("spec", "expected a JSON object"))?;
        let spec = Spec::read(&map, None)?;
        spec.check()?;
        Ok(spec)
    }

    /// Checks each field for itself. `rules` are left out for what has passed them before.
    pub(super) fn read(map: &Map<String, Value>, rules: Option<&Rules>) -> Result<Spec, Fault> {
        let fields = Fields::of(map);
        let default = Spec::default();
        for later in ["install", "configFiles"] {
            if fields.get(later).is_some_and(|value| value.as_object().is_none_or(|map| !map.is_empty())) {
                return Err(fields.fault(later, "not supported by this version of the Agent"));
            }
        }
        let environment = environment(&fields)?;
        let Ports { list, as_map, server_port } = Ports::parse(&fields, &environment)?;
        Ok(Spec {
            image: image(&fields)?,
            name: fields.line("name", MAX_PATH)?.filter(|name| !name.is_empty()).map(str::to_owned),
            startup: startup(&fields)?,
            limits: match fields.object("limits", "limits.")? {
                Some(limits) => Limits::parse(&limits)?,
                None => Limits::default(),
            },
            ports: list,
            ports_as_map: as_map,
            server_port,
            stop: match fields.object("stop", "stop.")? {
                Some(stop) => Stop::parse(&stop)?,
                None => Stop::default(),
            },
            done: done(&fields)?,
            restart: restart(&fields)?,
            restart_policy: match fields.object("restartPolicy", "restartPolicy.")? {
                Some(policy) => RestartPolicy::parse(&policy)?,
                None => RestartPolicy::default(),
            },
            disk_grace: fields.small("diskGrace", 0..=86_400)?.unwrap_or(default.disk_grace),
            tty: fields.flag("tty", default.tty)?,
            mount_path: mount_path(&fields)?.unwrap_or(default.mount_path),
            mod_dir: mod_dir(&fields)?.unwrap_or(default.mod_dir),
            user: user(&fields)?,
            capabilities: capabilities(&fields, rules)?,
            environment,
        })
    }

    /// What one field alone does not tell.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.image.is_empty() {
            return Err(Fault::field(
                "image",
                "missing; expected a reference such as itzg/minecraft-server:latest",
            ));
        }
        // The id's characters are harmless everywhere, so any id stands for all of them.
        self.resolved("id").map(drop)
    }
}

impl<'de> Deserialize<'de> for Spec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Spec, D::Error> {
        let map = Map::deserialize(deserializer)?;
        let spec = Spec::read(&map, None).map_err(|fault| D::Error::custom(fault.message))?;
        spec.check().map_err(|fault| D::Error::custom(fault.message))?;
        Ok(spec)
    }
}

/// The spec's fields of a payload, `eggConfig` laid open.
pub(super) fn gather(payload: &Map<String, Value>) -> Result<Map<String, Value>, Fault> {
    let mut fields = match payload.get("eggConfig") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(egg)) => egg.clone(),
        Some(_) => return Err(Fault::field("eggConfig", "expected an object")),
    };
    fields.retain(|name, _| FIELDS.contains(&name.as_str()));
    fields.remove("eggConfig");
    let own = payload.iter().filter(|(name, _)| FIELDS.contains(&name.as_str()) && *name != "eggConfig");
    fields.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    Ok(fields)
}

fn startup(fields: &Fields) -> Result<Option<Startup>, Fault> {
    let rule = "expected a text, or a list of texts, of at most 64 KiB without NUL";
    let fits = |text: &str| text.len() <= MAX_STARTUP && !text.contains('\0');
    match fields.get("startup") {
        None => Ok(None),
        Some(Value::String(line)) if line.trim().is_empty() => Ok(None),
        Some(Value::String(line)) if fits(line) => Ok(Some(Startup::Shell(line.clone()))),
        Some(Value::Array(list)) => {
            let words: Option<Vec<String>> =
                list.iter().map(|word| word.as_str().map(str::to_owned)).collect();
            match words.filter(|words| fits(&words.concat()) && words.len() <= 1024) {
                Some(words) if words.is_empty() => Ok(None),
                Some(words) => Ok(Some(Startup::Exec(words))),
                None => Err(fields.fault("startup", rule)),
            }
        }
        Some(_) => Err(fields.fault("startup", rule)),
    }
}

/// Numbers and truth values become their text, as writers with typed forms send them.
fn environment(fields: &Fields) -> Result<BTreeMap<String, String>, Fault> {
    let mut environment = BTreeMap::new();
    let map = match fields.get("environment") {
        None => return Ok(environment),
        // PHP writes an empty map as an empty list.
        Some(Value::Array(list)) if list.is_empty() => return Ok(environment),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(fields.fault("environment", "expected an object of names and values")),
    };
    let mut size = 0;
    for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        if name.is_empty() || name.contains('=') || !is_line(name, MAX_PATH) {
            return Err(fields.fault(
                "environment",
                format_args!("names have 1 to {MAX_PATH} bytes without = and control characters"),
            ));
        }
        let text = match value {
            Value::String(text) if text.len() <= MAX_VALUE && !text.contains('\0') => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => {
                let field = format!("environment.{}", shown(name, 64));
                return Err(Fault::field(&field, "expected a text of at most 64 KiB without NUL"));
            }
        };
        size += name.len() + text.len() + 2;
        environment.insert(name.clone(), text);
    }
    match environment.len() <= MAX_VARIABLES && size <= MAX_ENVIRONMENT {
        true => Ok(environment),
        false => {
            Err(fields
                .fault("environment", format_args!("expected at most {MAX_VARIABLES} names and 256 KiB")))
        }
    }
}

fn done(fields: &Fields) -> Result<Vec<String>, Fault> {
    let list = match fields.get("done") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list.as_slice(),
        Some(text) => std::slice::from_ref(text),
    };
    if list.len() > MAX_DONE {
        return Err(fields.fault("done", format_args!("expected at most {MAX_DONE} texts")));
    }
    let check = |(at, value): (usize, &Value)| {
        let fault = |expected: &str| Err(Fault::field(&format!("done[{at}]"), expected));
        match value.as_str() {
            Some(text) if text.is_empty() || text == "regex:" => fault("expected a text that is not empty"),
            Some(text) if text.len() > 1024 || text.contains('\0') => {
                fault("expected at most 1024 bytes without NUL")
            }
            Some(text) if !compiles(text) => fault("not a regular expression, or too large a one"),
            Some(text) => Ok(text.to_owned()),
            None => fault("expected a text"),
        }
    };
    list.iter().enumerate().map(check).collect()
}

fn compiles(text: &str) -> bool {
    match text.strip_prefix("regex:") {
        Some(pattern) => RegexBuilder::new(pattern).size_limit(MAX_REGEX).nest_limit(32).build().is_ok(),
        None => true,
    }
}

fn restart(fields: &Fields) -> Result<Restart, Fault> {
    match fields.get("restart").map(|value| value.as_str().unwrap_or_default()) {
        None => Ok(Restart::OnFailure),
        Some("never") => Ok(Restart::Never),
        Some("on-failure") => Ok(Restart::OnFailure),
        Some("always") => Ok(Restart::Always),
        Some(_) => Err(fields.fault("restart", "expected never, on-failure or always")),
    }
}

impl RestartPolicy {
    fn parse(fields: &Fields) -> Result<RestartPolicy, Fault> {
        let default = RestartPolicy::default();
        Ok(RestartPolicy {
            window: fields.small("window", 1..=86_400)?.unwrap_or(default.window),
            max: fields.small("max", 0..=1000)?.unwrap_or(default.max),
            backoff_cap: fields.small("backoffCap", 1..=3600)?.unwrap_or(default.backoff_cap),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(fields: Value) -> Result<Spec, String> {
        let mut map = fields.as_object().unwrap().clone();
        map.entry("image").or_insert(json!("x"));
        Spec::parse(&map, &Rules::default()).map_err(|fault| fault.message)
    }

    fn refused(name: &str, field: &str, values: &[Value]) {
        for value in values {
            let message = parse(json!({ name: value })).unwrap_err();
            assert!(message.starts_with(&format!("{field}: ")), "{value}: {message}");
        }
    }

    #[test]
    fn an_image_is_all_that_is_needed() {
        assert_eq!(parse(json!({})), Ok(Spec { image: "x".into(), ..Spec::default() }));
        let nulls: Map<_, _> = FIELDS
            .iter()
            .filter(|name| **name != "image")
            .map(|name| ((*name).into(), Value::Null))
            .collect();
        assert_eq!(parse(Value::Object(nulls)), parse(json!({})));
        assert_eq!(parse(json!({"unknown":{"a":1},"serverId":"s"})), parse(json!({})));
        let fault = Spec::parse(&Map::new(), &Rules::default()).unwrap_err();
        assert!(fault.message.starts_with("image: "), "{fault}");
    }

    #[test]
    fn texts_flags_and_numbers() {
        assert_eq!(parse(json!({"name":"Mein Sörver"})).unwrap().name.as_deref(), Some("Mein Sörver"));
        assert_eq!(parse(json!({"name":""})).unwrap().name, None);
        refused("name", "name", &[json!(1), json!("a\nb"), json!("x".repeat(256))]);
        assert!(parse(json!({"tty":true})).unwrap().tty);
        refused("tty", "tty", &[json!(1), json!("true")]);
        assert_eq!(parse(json!({"diskGrace":0})).unwrap().disk_grace, 0);
        refused("diskGrace", "diskGrace", &[json!(-1), json!(1.5), json!("60"), json!(86_401)]);
        for (word, restart) in
            [("never", Restart::Never), ("on-failure", Restart::OnFailure), ("always", Restart::Always)]
        {
            assert_eq!(parse(json!({"restart":word})).unwrap().restart, restart);
        }
        refused("restart", "restart", &[json!("no"), json!(true), json!("unless-stopped")]);
        let policy = parse(json!({"restartPolicy":{"window":10,"max":0}})).unwrap().restart_policy;
        assert_eq!(policy, RestartPolicy { window: 10, max: 0, backoff_cap: 60 });
        refused("restartPolicy", "restartPolicy", &[json!(1), json!([])]);
        refused("restartPolicy", "restartPolicy.window", &[json!({"window":0})]);
        refused(
            "restartPolicy",
            "restartPolicy.backoffCap",
            &[json!({"backoffCap":0}), json!({"backoffCap":"60"})],
        );
        refused("limits", "limits", &[json!(1), json!("2g")]);
        refused("stop", "stop", &[json!("stop"), json!(["stop"])]);
    }

    #[test]
    fn environments() {
        let got =
            parse(json!({"environment":{"A":"1","B":2,"C":true,"D":null,"E":"","X.y":"a=b\nc","F":1.5}}))
                .unwrap();
        let want = [("A", "1"), ("B", "2"), ("C", "true"), ("E", ""), ("F", "1.5"), ("X.y", "a=b\nc")];
        assert!(got.environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).eq(want));
        assert!(parse(json!({"environment":[]})).unwrap().environment.is_empty());
        refused(
            "environment",
            "environment",
            &[
                json!("A=1"),
                json!(["A=1"]),
                json!({"":"x"}),
                json!({"A=B":"x"}),
                json!({"A\u{0}":"x"}),
                json!({"A\n":"x"}),
            ],
        );
        refused(
            "environment",
            "environment.A",
            &[json!({"A":["x"]}), json!({"A":"secret\u{0}"}), json!({"A":"x".repeat(MAX_VALUE + 1)})],
        );
        let many: Map<_, _> = (0..=MAX_VARIABLES).map(|n| (format!("V{n}"), json!(""))).collect();
        let large: Map<_, _> = (0..5).map(|n| (format!("V{n}"), json!("x".repeat(MAX_VALUE)))).collect();
        refused("environment", "environment", &[Value::Object(many), Value::Object(large)]);
        assert!(!parse(json!({"environment":{"A":"secret\u{0}"}})).unwrap_err().contains("secret"));
    }

    #[test]
    fn startups() {
        assert_eq!(
            parse(json!({"startup":"run it"})).unwrap().startup,
            Some(Startup::Shell("run it".into()))
        );
        assert_eq!(
            parse(json!({"startup":["run",""]})).unwrap().startup,
            Some(Startup::Exec(vec!["run".into(), "".into()]))
        );
        refused(
            "startup",
            "startup",
            &[
                json!(1),
                json!({}),
                json!(["a", 1]),
                json!("a\u{0}"),
                json!(["\u{0}"]),
                json!("x".repeat(MAX_STARTUP + 1)),
            ],
        );
        let bomb = json!({"environment":{"A":"x".repeat(MAX_VALUE)},"startup":"{{A}}".repeat(1000)});
        assert!(parse(bomb).unwrap_err().starts_with("startup: "));
        let words = json!({"environment":{"A":"x".repeat(MAX_VALUE)},"startup":["{{A}}","{{A}}"]});
        assert!(parse(words).unwrap_err().starts_with("startup: "));
    }

    #[test]
    fn ready_lines() {
        assert_eq!(parse(json!({"done":"up"})).unwrap().done, ["up"]);
        assert_eq!(parse(json!({"done":["up","regex:^Done \\(\\d+s\\)"]})).unwrap().done.len(), 2);
        refused(
            "done",
            "done[0]",
            &[
                json!(1),
                json!(""),
                json!("regex:"),
                json!("regex:("),
                json!("regex:(a{1000}){1000}"),
                json!("x".repeat(1025)),
                json!(format!("regex:{}a{}", "(".repeat(100), ")".repeat(100))),
            ],
        );
        refused("done", "done[1]", &[json!(["up", {}])]);
        refused("done", "done", &[json!(vec!["up"; 33])]);
    }

    #[test]
    fn what_is_not_there_yet_is_refused_rather_than_ignored() {
        refused("install", "install", &[json!({"image":"x","script":"y"}), json!("x")]);
        refused("configFiles", "configFiles", &[json!({"server.properties":{}}), json!([])]);
        assert!(parse(json!({"configFiles":{}})).is_ok());
    }

    #[test]
    fn an_egg_config_holds_the_same_fields() {
        let egg = json!({"image":"egg","startup":"run","tty":true});
        let got = parse(json!({"image":"own","eggConfig":egg})).unwrap();
        assert_eq!((got.image.as_str(), got.tty), ("own", true));
        let map = json!({"eggConfig":egg,"keepData":true});
        assert_eq!(Spec::parse(map.as_object().unwrap(), &Rules::default()).unwrap().image, "egg");
        refused("eggConfig", "eggConfig", &[json!("x"), json!([])]);
    }
}
