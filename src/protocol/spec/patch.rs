//! Changing a stored spec: what an update names is laid over it, the whole is checked again, and each difference
//! tells when it takes effect.

use serde_json::{Map, Value};

use super::parse::gather;
use super::{Rules, Spec};
use crate::protocol::Fault;

/// The fields that an update names, as they came; at least one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecPatch {
    /// INVARIANT: fields of the spec, at least one, each valid by itself and within the node's rules.
    values: Map<String, Value>,
}

/// When a changed field takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The Agent goes by it from now on; the container does not know it.
    Agent,
    /// The Engine's update brings it to the container as it is, running or not.
    Engine,
    /// Only a new container has it.
    Recreate,
}

/// One difference between two specs; a limit is named as `limits.memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub field: &'static str,
    pub effect: Effect,
}

/// The spec after an update and how it differs from the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Patched {
    pub spec: Spec,
    pub changes: Vec<Change>,
}

impl Patched {
    /// Names of all that differs.
    pub fn changed(&self) -> Vec<&'static str> {
        self.changes.iter().map(|change| change.field).collect()
    }

    /// Names of what takes effect at once.
    pub fn applied(&self) -> Vec<&'static str> {
        self.changes
            .iter()
            .filter(|change| change.effect != Effect::Recreate)
            .map(|change| change.field)
            .collect()
    }

    /// Whether something waits for a new container.
    pub fn needs_restart(&self) -> bool {
        self.changes.iter().any(|change| change.effect == Effect::Recreate)
    }

    /// Whether there is something for the Engine's update.
    pub fn updates_container(&self) -> bool {
        self.changes.iter().any(|change| change.effect == Effect::Engine)
    }
}

impl SpecPatch {
    /// Reads an update. What depends on the rest of the spec (placeholders) is checked when it is applied.
    pub fn parse(payload: &Map<String, Value>, rules: &Rules) -> Result<SpecPatch, Fault> {
        let values = gather(payload)?;
        if values.is_empty() {
            return Err(Fault::new(
                crate::protocol::Code::InvalidPayload,
                "payload: names no field of the spec",
            ));
        }
        Spec::read(&values, Some(rules))?;
        Ok(SpecPatch { values })
    }

    /// As it goes over the wire.
    pub(in crate::protocol) fn values(&self) -> &Map<String, Value> {
        &self.values
    }
}

impl Spec {
    /// Lays `patch` over this spec. Objects (`limits`, `environment`, `stop`, `restartPolicy`) are merged name by
    /// name, any other field is replaced as a whole, and `null` goes back to the default, as in RFC 7396; `ports` is
    /// one value in either of its shapes.
    ///
    /// The node's rules were asked when the patch was read, and only for what it names: a capability that was granted
    /// before they became narrower does not stand in the way of another field's change.
    pub fn patched(&self, patch: &SpecPatch) -> Result<Patched, Fault> {
        let mut merged = match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => unreachable!("a spec serialises to an object with text keys"),
        };
        for (name, value) in &patch.values {
            match (merged.get_mut(name), value) {
                (Some(Value::Object(old)), Value::Object(new)) if name != "ports" => {
                    old.extend(new.iter().map(|(name, value)| (name.clone(), value.clone())));
                }
                _ => drop(merged.insert(name.clone(), value.clone())),
            }
        }
        let spec = Spec::read(&merged, None)?;
        spec.check()?;
        let changes = self.changes(&spec);
        Ok(Patched { spec, changes })
    }

    /// How `new` differs.
    pub fn changes(&self, new: &Spec) -> Vec<Change> {
        let (was, is) = (&self.limits, &new.limits);
        let recreate = |field, differs| (field, differs, Effect::Recreate);
        let agent = |field, differs| (field, differs, Effect::Agent);
        let limit = |field, differs: bool, taken_away: bool| {
            // The Engine takes 0 in an update as "leave as it is".
            (field, differs, if taken_away { Effect::Recreate } else { Effect::Engine })
        };
        [
            recreate("image", self.image != new.image),
            agent("name", self.name != new.name),
            recreate("startup", self.startup != new.startup),
            recreate("environment", self.environment != new.environment),
            limit("limits.memory", was.memory != is.memory, is.memory.is_none()),
            limit("limits.swap", was.swap != is.swap, is.memory.is_none()),
            agent("limits.disk", was.disk != is.disk),
            limit("limits.cpu", was.nano_cpus != is.nano_cpus, is.nano_cpus.is_none()),
            limit("limits.io", was.io != is.io, is.io.is_none()),
            limit("limits.pids", was.pids != is.pids, false),
            recreate("ports", self.ports != new.ports || self.server_port != new.server_port),
            agent("stop", self.stop != new.stop),
            agent("done", self.done != new.done),
            agent("restart", self.restart != new.restart),
            agent("restartPolicy", self.restart_policy != new.restart_policy),
            agent("diskGrace", self.disk_grace != new.disk_grace),
            recreate("tty", self.tty != new.tty),
            recreate("mountPath", self.mount_path != new.mount_path),
            agent("modDir", self.mod_dir != new.mod_dir),
            recreate("user", self.user != new.user),
            recreate("capabilities", self.capabilities != new.capabilities),
        ]
        .into_iter()
        .filter(|&(_, differs, _)| differs)
        .map(|(field, _, effect)| Change { field, effect })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec() -> Spec {
        let map = json!({
            "image":"x","startup":"run {{A}}","environment":{"A":"1","B":"2"},"ports":{"80":8080,"81":8081},
            "limits":{"memory":"1g","cpu":100,"disk":"5g"},"stop":{"type":"command","value":"stop","timeout":9},
            "capabilities":["FOWNER"],
        });
        Spec::parse(map.as_object().unwrap(), &Rules::default()).unwrap()
    }

    fn patch(values: Value) -> Result<Patched, String> {
        let read = SpecPatch::parse(values.as_object().unwrap(), &Rules::default());
        read.and_then(|patch| spec().patched(&patch)).map_err(|fault| fault.message)
    }

    #[test]
    fn each_change_tells_when_it_takes_effect() {
        let check = |values: Value, applied: &[&str], restart: bool, engine: bool| {
            let got = patch(values.clone()).unwrap();
            assert_eq!(got.applied(), applied, "{values}");
            assert_eq!((got.needs_restart(), got.updates_container()), (restart, engine), "{values}");
            let hash_changed = got.spec.hash() != spec().hash();
            assert_eq!(
                hash_changed,
                restart || engine,
                "{values}: the hash tells whether the container differs"
            );
        };
        check(json!({"limits":{"memory":"2g"}}), &["limits.memory"], false, true);
        check(json!({"limits":{"memory":0}}), &[], true, false);
        check(
            json!({"limits":{"cpu":"2","pids":9,"io":100,"swap":-1}}),
            &["limits.swap", "limits.cpu", "limits.io", "limits.pids"],
            false,
            true,
        );
        check(json!({"limits":{"cpu":null,"pids":9}}), &["limits.pids"], true, true);
        check(
            json!({"limits":{"disk":0},"name":"n","done":"up"}),
            &["name", "limits.disk", "done"],
            false,
            false,
        );
        check(
            json!({"stop":{"timeout":10},"restart":"never","restartPolicy":{"max":1},"diskGrace":1,"modDir":"m"}),
            &["stop", "restart", "restartPolicy", "diskGrace", "modDir"],
            false,
            false,
        );
        check(json!({"environment":{"A":"3"}}), &[], true, false);
        check(json!({"image":"y","name":"n"}), &["name"], true, false);
        for one in [
            json!({"startup":null}),
            json!({"tty":true}),
            json!({"mountPath":"/data"}),
            json!({"user":"0:0"}),
            json!({"capabilities":[]}),
            json!({"ports":[]}),
            json!({"environment":{"SERVER_PORT":"81"}}),
        ] {
            check(one, &[], true, false);
        }
        check(json!({"image":"x","environment":{"A":1},"limits":{"memory":1024}}), &[], false, false);
    }

    #[test]
    fn objects_merge_and_everything_else_is_replaced() {
        let got = patch(json!({"environment":{"B":null,"C":3},"limits":{"memory":2048},"stop":{"timeout":1},"ports":{"81":8081}})).unwrap().spec;
        assert!(got.environment.keys().eq(["A", "C"]));
        assert_eq!((got.limits.memory, got.limits.nano_cpus), (Some(2 << 30), Some(1_000_000_000)));
        assert_eq!(got.stop, super::super::Stop { timeout: 1, ..spec().stop });
        assert_eq!(got.ports.len(), 1);
        assert_eq!(patch(json!({"environment":null,"startup":null})).unwrap().spec.environment.len(), 0);
    }

    #[test]
    fn a_wrong_update_changes_nothing_and_names_the_field() {
        let check = |values: Value, start: &str| {
            let message = patch(values.clone()).unwrap_err();
            assert!(message.starts_with(start), "{values}: {message}");
        };
        check(json!({}), "payload: ");
        check(json!({"limit":{}}), "payload: ");
        check(json!({"limits":{"memory":-1}}), "limits.memory: ");
        check(json!({"environment":{"A":"$(x)"}}), "environment.A: ");
        check(json!({"environment":{"A":null}}), "startup: ");
        check(json!({"startup":"{{C}}"}), "startup: ");
        check(json!({"image":null}), "image: ");
        check(json!({"install":{"image":"x","script":"y"}}), "install: ");
        check(json!({"capabilities":["SYS_ADMIN"]}), "capabilities[0]: ");
    }

    #[test]
    fn narrower_rules_do_not_block_other_changes() {
        let none = Rules { capabilities: Vec::new() };
        let read = |values: Value| SpecPatch::parse(values.as_object().unwrap(), &none);
        let patched = spec().patched(&read(json!({"name":"n"})).unwrap()).unwrap();
        assert_eq!(patched.spec.capabilities, ["FOWNER"]);
        assert!(read(json!({"capabilities":["FOWNER"]})).is_err());
    }
}
