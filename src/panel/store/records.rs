//! What the hub remembers of nodes, servers and commands. Pure types; each is stored as one JSON text.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::panel::secret::SecretHash;
use crate::panel::time::Time;
use crate::protocol::{NodeId, Reason, ServerId, Status};

/// A server's name in the whole Panel: ids are unique within a node only.
pub type ServerKey = (NodeId, ServerId);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// `None` before the node has joined, and after its secrets were revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretHash>,
    /// The secret before the last rotation, and until when it still opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Expiring>,
    /// An Agent has connected with `secret` since it was made.
    #[serde(default)]
    pub secret_used: bool,
    /// The one-time token that is out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Expiring>,
    pub created: Time,
    #[serde(default)]
    pub name: String,
    /// Host name or address that players use.
    #[serde(default)]
    pub address: String,
    #[serde(default)]
    pub ports: PortRange,
    #[serde(default)]
    pub maintenance: bool,
    #[serde(default)]
    pub revoked: bool,
    /// An Agent has connected at least once.
    #[serde(default)]
    pub joined: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expiring {
    pub hash: SecretHash,
    pub until: Time,
}

/// Host ports that new servers are given from, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl Default for PortRange {
    /// Where game servers are used to be, below the ports that systems use for outgoing connections.
    fn default() -> PortRange {
        PortRange { first: 25_500, last: 25_999 }
    }
}

impl NodeRecord {
    pub fn new(secret: Option<SecretHash>, created: Time) -> NodeRecord {
        NodeRecord {
            secret,
            previous: None,
            secret_used: false,
            join: None,
            created,
            name: String::new(),
            address: String::new(),
            ports: PortRange::default(),
            maintenance: false,
            revoked: false,
            joined: false,
        }
    }

    /// Takes note that an Agent has come in with this secret; whether that is news.
    pub fn note_use(&mut self, presented: &SecretHash) -> bool {
        let current = self.secret.as_ref().is_some_and(|secret| secret.matches(presented));
        let is_news = current && !(self.secret_used && self.joined);
        if is_news {
            (self.secret_used, self.joined) = (true, true);
        }
        is_news
    }

    /// Takes another secret; the one in use works until `until`.
    pub fn rotate(&mut self, secret: SecretHash, until: Time) {
        // A secret that no Agent has taken up yet is of no use to keep: the one before it is in use.
        let in_use = match self.secret_used || self.previous.is_none() {
            true => self.secret.take(),
            false => self.previous.take().map(|previous| previous.hash),
        };
        self.previous = in_use.map(|hash| Expiring { hash, until });
        self.secret = Some(secret);
        (self.secret_used, self.revoked) = (false, false);
    }

    /// Makes every secret void.
    pub fn revoke(&mut self) {
        (self.secret, self.previous, self.join) = (None, None, None);
        self.revoked = true;
    }

    /// Whether a secret opens this node now.
    pub fn admits(&self, presented: &SecretHash, now: Time) -> bool {
        let current = self.secret.as_ref().is_some_and(|secret| secret.matches(presented));
        let previous =
            self.previous.as_ref().is_some_and(|old| old.hash.matches(presented) && now < old.until);
        current | previous
    }
}

/// A server as last known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// As the Panel was given it; `None` for a server that only its node has told of.
    pub spec: Option<Map<String, Value>>,
    pub status: Status,
    /// When `status` was told.
    pub since: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_restart: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Values of the template's variables.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub variables: Map<String, Value>,
}

/// A command that was accepted and has no answer yet. Kept so that an answer that comes after a restart of the
/// Panel still finds what it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandRecord {
    pub node: NodeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    pub action: String,
    pub payload: Value,
    pub created: Time,
    /// Past it the outcome is told as unknown and the command is not sent again.
    pub deadline: Time,
    /// Start the server once this has created it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub then_start: bool,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Values of the template's variables, which an update sets once it has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variables: Option<Map<String, Value>>,
}
