//! API tokens: `lsp_` and 256 random bits, shown once and stored as their hash, with scopes and an end.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};
use serde::Serialize;

use super::users::{as_text, grants};
use super::{Accounts, Principal, Rights, Role, Via, failed, new_secret};
use crate::panel::problem::Problem;
use crate::panel::secret::SecretHash;
use crate::panel::time::Time;

const PREFIX: &str = "lsp_";
const USED_EVERY: Duration = Duration::from_secs(60);
const MAX_TOKENS: i64 = 100;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    #[serde(serialize_with = "as_text")]
    pub id: i64,
    pub name: String,
    pub owner: String,
    pub scopes: Vec<&'static str>,
    pub created: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Time>,
}

impl Accounts {
    /// The token and its text, which nobody can have again.
    pub fn add_token(
        &self,
        user: i64,
        name: &str,
        scopes: Rights,
        expires: Option<Time>,
    ) -> Result<(TokenView, String), Problem> {
        let name = name.trim();
        if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
            return Err(Problem::field("name", "Use 1 to 64 characters."));
        }
        let text = format!("{PREFIX}{}", new_secret()?.expose());
        let hash = SecretHash::of(text.as_bytes()).to_hex();
        let database = self.database();
        let added = database
            .execute(
                "INSERT INTO tokens (user, hash, name, scopes, created, expires)
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE (SELECT count(*) FROM tokens WHERE user = ?1) < ?7",
                params![user, hash, name, scopes.bits(), Time::now(), expires, MAX_TOKENS],
            )
            .map_err(failed)?;
        if added == 0 {
            let what = format!("You have {MAX_TOKENS} tokens. Revoke one first.");
            return Err(Problem::new(409, "CONFLICT", what));
        }
        let id = database.last_insert_rowid();
        drop(database);
        let view = self.tokens(Some(user), id - 1, 1)?.pop();
        Ok((view.ok_or_else(unknown)?, text))
    }

    /// From the one after `after` on; of one user, or of all.
    pub fn tokens(&self, user: Option<i64>, after: i64, limit: usize) -> Result<Vec<TokenView>, Problem> {
        let database = self.database();
        let mut statement = database
            .prepare_cached(
                "SELECT tokens.id, tokens.name, users.name, scopes, tokens.created, expires, last_used
                 FROM tokens JOIN users ON users.id = user
                 WHERE tokens.id > ?1 AND (?2 IS NULL OR user = ?2) ORDER BY tokens.id LIMIT ?3",
            )
            .map_err(failed)?;
        let rows = statement
            .query_map(params![after, user, limit], |row| {
                Ok(TokenView {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    owner: row.get(2)?,
                    scopes: Rights::from_bits(row.get(3)?).scope_names(),
                    created: row.get(4)?,
                    expires: row.get(5)?,
                    last_used: row.get(6)?,
                })
            })
            .map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// Of one user, or anybody's.
    pub fn remove_token(&self, user: Option<i64>, id: i64) -> Result<(), Problem> {
        let gone = "DELETE FROM tokens WHERE id = ?1 AND (?2 IS NULL OR user = ?2)";
        match self.database().execute(gone, params![id, user]).map_err(failed)? {
            0 => Err(unknown()),
            _ => Ok(()),
        }
    }

    /// Whose token this is; `None` when it is nobody's, or not any more.
    pub fn bearer(&self, text: &str) -> Result<Option<Principal>, Problem> {
        if !text.starts_with(PREFIX) {
            return Ok(None);
        }
        let hash = SecretHash::of(text.as_bytes()).to_hex();
        let now = Time::now();
        let database = self.database();
        let found = database
            .prepare_cached(
                "SELECT tokens.id, scopes, last_used, users.id, users.name, role, tokens.name
                 FROM tokens JOIN users ON users.id = user
                 WHERE hash = ? AND (expires IS NULL OR expires > ?) AND NOT disabled",
            )
            .and_then(|mut statement| {
                let row = |row: &rusqlite::Row| {
                    let role: String = row.get(5)?;
                    let used: Option<Time> = row.get(2)?;
                    let via = Via::Token {
                        id: row.get(0)?,
                        name: row.get(6)?,
                        scopes: Rights::from_bits(row.get(1)?),
                    };
                    Ok((row.get::<_, i64>(0)?, via, used, row.get(3)?, row.get(4)?, role))
                };
                statement.query_row(params![hash, now], row).optional()
            })
            .map_err(failed)?;
        let Some((id, via, used, user, name, role)) = found else { return Ok(None) };
        if used.is_none_or(|used| now.since(used) > USED_EVERY) {
            let seen = "UPDATE tokens SET last_used = ? WHERE id = ?";
            if let Err(cause) = database.execute(seen, params![now, id]) {
                log::warn!("a token's use could not be stored: {cause}");
            }
        }
        let role = if role == "admin" { Role::Admin } else { Role::Member };
        Ok(Some(Principal { user, name, role, grants: grants(&database, user)?, via }))
    }
}

fn unknown() -> Problem {
    Problem::new(404, "TOKEN_NOT_FOUND", "There is no such token.")
}
