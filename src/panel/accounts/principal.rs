//! Who asks, and what they may: roles, rights on servers, scopes of tokens. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::panel::store::ServerKey;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Admin,
    Member,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Member => "member",
        }
    }
}

/// A set of rights on a server, or of scopes of a token: the names of both are bits of one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

const NAMES: [(&str, Rights); 7] = [
    ("view", Rights::VIEW),
    ("console", Rights::CONSOLE),
    ("power", Rights::POWER),
    ("files", Rights::FILES),
    ("settings", Rights::SETTINGS),
    ("admin", Rights::ADMIN),
    ("metrics", Rights::METRICS),
];

impl Rights {
    pub const NONE: Rights = Rights(0);
    pub const VIEW: Rights = Rights(1);
    pub const CONSOLE: Rights = Rights(2);
    pub const POWER: Rights = Rights(4);
    pub const FILES: Rights = Rights(8);
    pub const SETTINGS: Rights = Rights(16);
    /// A token's only: nodes, users, templates.
    pub const ADMIN: Rights = Rights(32);
    /// A token's only: `/metrics`.
    pub const METRICS: Rights = Rights(64);
    /// All that can be granted on a server.
    pub const SERVER: Rights = Rights(31);
    pub const ALL: Rights = Rights(127);

    pub fn from_bits(bits: u8) -> Rights {
        Rights(bits & Rights::ALL.0)
    }

    pub fn bits(self) -> u8 {
        self.0
    }

    pub fn has(self, other: Rights) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn with(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    pub fn and(self, other: Rights) -> Rights {
        Rights(self.0 & other.0)
    }

    /// A right on a server, by its name.
    pub fn right(name: &str) -> Option<Rights> {
        NAMES[..5].iter().find(|(known, _)| *known == name).map(|(_, right)| *right)
    }

    /// A token's scope, by its name.
    pub fn scope(name: &str) -> Option<Rights> {
        let name = if name == "read" { "view" } else { name };
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, right)| *right)
    }

    pub fn names(self) -> Vec<&'static str> {
        NAMES[..5].iter().filter(|(_, right)| self.has(*right)).map(|(name, _)| *name).collect()
    }

    pub fn scope_names(self) -> Vec<&'static str> {
        let shown = |name| if name == "view" { "read" } else { name };
        NAMES.iter().filter(|(_, right)| self.has(*right)).map(|(name, _)| shown(*name)).collect()
    }
}

/// What a member may do with which server.
pub type Grants = Arc<HashMap<ServerKey, Rights>>;

/// How someone has shown who they are.
#[derive(Clone, Debug)]
pub enum Via {
    Session { hash: String, csrf: String },
    Token { id: i64, name: String, scopes: Rights },
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Principal {
    pub user: i64,
    pub name: String,
    pub role: Role,
    pub grants: Grants,
    pub via: Via,
}

impl Principal {
    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// What a token allows; a session allows everything its user may.
    pub fn scopes(&self) -> Rights {
        match &self.via {
            Via::Session { .. } => Rights::ALL,
            Via::Token { scopes, .. } => *scopes,
        }
    }

    /// What the user may do with a server.
    pub fn own_rights(&self, key: &ServerKey) -> Rights {
        match self.role {
            Role::Admin => Rights::SERVER,
            Role::Member => self.grants.get(key).copied().unwrap_or_default(),
        }
    }

    /// What may be done with a server, in all: a token's scopes count too.
    pub fn rights(&self, key: &ServerKey) -> Rights {
        self.own_rights(key).and(self.scopes())
    }

    /// A name for it beside those of all others.
    pub fn asker(&self) -> String {
        match &self.via {
            Via::Session { .. } => format!("user {}", self.user),
            Via::Token { id, .. } => format!("token {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits_are_one_to_one() {
        for (name, right) in NAMES {
            let shown = if name == "view" { "read" } else { name };
            assert_eq!(Rights::scope(shown), Some(right));
            assert_eq!(right.scope_names(), [shown]);
        }
        assert_eq!(Rights::right("admin"), None);
        assert_eq!(Rights::SERVER.names(), ["view", "console", "power", "files", "settings"]);
    }

    #[test]
    fn a_token_may_at_most_what_its_owner_may() {
        let key: ServerKey = ("n".parse().unwrap(), "s".parse().unwrap());
        let other: ServerKey = ("n".parse().unwrap(), "t".parse().unwrap());
        let granted = Rights::VIEW.with(Rights::POWER);
        let token = |role| Principal {
            user: 1,
            name: "a".into(),
            role,
            grants: Arc::new([(key.clone(), granted)].into()),
            via: Via::Token { id: 1, name: "t".into(), scopes: Rights::VIEW.with(Rights::FILES) },
        };
        assert_eq!(token(Role::Member).rights(&key), Rights::VIEW);
        assert_eq!(token(Role::Member).rights(&other), Rights::NONE);
        assert_eq!(token(Role::Admin).rights(&other), Rights::VIEW.with(Rights::FILES));
    }
}
