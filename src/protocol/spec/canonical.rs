//! The one form in which a spec is stored and hashed.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Serialize, Serializer};

use super::ports::Shape;
use super::{Limits, Port, Restart, RestartPolicy, Spec, Startup, Stop, User};
use crate::protocol::json;

impl Serialize for User {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Fields with a default are written too, so that a later version with another default changes no stored server.
impl Serialize for Spec {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            image: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            name: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            startup: Option<&'a Startup>,
            environment: &'a BTreeMap<String, String>,
            limits: &'a Limits,
            ports: Shape<'a>,
            stop: &'a Stop,
            done: &'a [String],
            restart: Restart,
            restart_policy: RestartPolicy,
            disk_grace: u32,
            tty: bool,
            mount_path: &'a str,
            mod_dir: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            user: Option<User>,
            capabilities: &'a [String],
        }
        Wire {
            image: &self.image,
            name: self.name.as_deref(),
            startup: self.startup.as_ref(),
            environment: &self.environment,
            limits: &self.limits,
            ports: Shape(&self.ports, self.ports_as_map),
            stop: &self.stop,
            done: &self.done,
            restart: self.restart,
            restart_policy: self.restart_policy,
            disk_grace: self.disk_grace,
            tty: self.tty,
            mount_path: &self.mount_path,
            mod_dir: &self.mod_dir,
            user: self.user,
            capabilities: &self.capabilities,
        }
        .serialize(s)
    }
}

impl Spec {
    /// The canonical JSON, which [`Spec::stored`] reads back.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a spec has text keys only and no failing serialiser")
    }

    /// SHA-256 in hex of what a container is made from: two specs with the same hash make the same container. What
    /// only the Agent goes by (name, stop, done, restart, disk limit, mod directory) is not in it; limits are, although
    /// a running container takes most of them, because its label still tells the old ones.
    pub fn hash(&self) -> String {
        #[derive(Serialize)]
        struct Container<'a> {
            image: &'a str,
            startup: Option<&'a Startup>,
            environment: &'a BTreeMap<String, String>,
            limits: Limits,
            ports: &'a [Port],
            server_port: Option<u16>,
            tty: bool,
            mount_path: &'a str,
            user: Option<User>,
            capabilities: &'a [String],
        }
        let container = Container {
            image: &self.image,
            startup: self.startup.as_ref(),
            environment: &self.environment,
            limits: Limits { disk: None, ..self.limits.clone() },
            ports: &self.ports,
            server_port: self.server_port,
            tty: self.tty,
            mount_path: &self.mount_path,
            user: self.user,
            capabilities: &self.capabilities,
        };
        let mut hash = String::with_capacity(64);
        for byte in json::sha256(&[], &container) {
            write!(hash, "{byte:02x}").expect("writing to a String does not fail");
        }
        hash
    }
}
