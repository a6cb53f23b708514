//! Users: made, changed, invited, and the servers granted to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use serde::Serialize;

use super::{Accounts, Grants, Rights, Role, failed, new_secret, password};
use crate::panel::problem::Problem;
use crate::panel::secret::Secret;
use crate::panel::store::{ServerKey, database};
use crate::panel::time::Time;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserView {
    #[serde(serialize_with = "as_text")]
    pub id: i64,
    pub name: String,
    pub role: Role,
    pub totp: bool,
    pub disabled: bool,
    pub has_password: bool,
    pub created: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_login: Option<Time>,
    pub grants: usize,
}

#[derive(Debug, Serialize)]
pub struct GrantView {
    pub node: String,
    pub server: String,
    pub rights: Vec<&'static str>,
}

#[derive(Debug, Default)]
pub struct UserChange {
    pub name: Option<String>,
    pub role: Option<Role>,
    pub disabled: Option<bool>,
}

const COLUMNS: &str = "id, name, role, totp IS NOT NULL, disabled, password IS NOT NULL, created, last_login,
    (SELECT count(*) FROM grants WHERE user = users.id)";

impl Accounts {
    pub fn has_users(&self) -> Result<bool, Problem> {
        self.database().query_row("SELECT EXISTS (SELECT 1 FROM users)", [], |row| row.get(0)).map_err(failed)
    }

    /// Makes a user; one without a password is let in by a link. `first`: only while there is nobody.
    pub fn add_user(
        &self,
        name: &str,
        role: Role,
        password: Option<&str>,
        first: bool,
    ) -> Result<i64, Problem> {
        let name = checked_name(name)?;
        let hash = match password {
            Some(password) => {
                password::check("password", password)?;
                Some(self.hasher.hash(password)?)
            }
            None => None,
        };
        let database = self.database();
        let added = database.execute(
            "INSERT INTO users (name, role, password, created)
             SELECT ?, ?, ?, ? WHERE ? = 0 OR NOT EXISTS (SELECT 1 FROM users)",
            params![name, role.name(), hash, Time::now(), first],
        );
        match added {
            Ok(1) => Ok(database.last_insert_rowid()),
            Ok(_) => Err(Problem::new(403, "SETUP_DONE", "The Panel is set up already. Log in instead.")),
            Err(cause) => Err(taken_or(cause)),
        }
    }

    pub fn user(&self, id: i64) -> Result<UserView, Problem> {
        read_user(&self.database(), id)
    }

    pub fn user_named(&self, name: &str) -> Result<UserView, Problem> {
        let id = self
            .database()
            .query_row("SELECT id FROM users WHERE name = ?", [name], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        self.user(id.ok_or_else(unknown)?)
    }

    /// In the order they were made, from the one after `after` on, whose names contain `part`.
    pub fn users(&self, part: &str, after: i64, limit: usize) -> Result<Vec<UserView>, Problem> {
        let database = self.database();
        let query = format!(
            "SELECT {COLUMNS} FROM users WHERE id > ? AND instr(lower(name), lower(?)) ORDER BY id LIMIT ?"
        );
        let mut statement = database.prepare_cached(&query).map_err(failed)?;
        let rows = statement.query_map(params![after, part, limit], view).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    pub fn change_user(&self, id: i64, change: &UserChange) -> Result<UserView, Problem> {
        let name = change.name.as_deref().map(checked_name).transpose()?;
        let mut database = self.database();
        let step = database::begin(&mut database)?;
        read_user(&step, id)?;
        let role = change.role.map(Role::name);
        step.execute(
            "UPDATE users SET name = ifnull(?, name), role = ifnull(?, role), disabled = ifnull(?, disabled)
             WHERE id = ?",
            params![name, role, change.disabled, id],
        )
        .map_err(taken_or)?;
        if change.disabled == Some(true) {
            step.execute("DELETE FROM sessions WHERE user = ?", [id]).map_err(failed)?;
            step.execute("DELETE FROM links WHERE user = ?", [id]).map_err(failed)?;
        }
        has_an_admin(&step)?;
        let view = read_user(&step, id)?;
        step.commit().map_err(failed)?;
        Ok(view)
    }

    /// With sessions, tokens, links and grants.
    pub fn remove_user(&self, id: i64) -> Result<(), Problem> {
        let mut database = self.database();
        let step = database::begin(&mut database)?;
        if step.execute("DELETE FROM users WHERE id = ?", [id]).map_err(failed)? == 0 {
            return Err(unknown());
        }
        has_an_admin(&step)?;
        step.commit().map_err(failed)
    }

    /// Sets a password, checked against the current one where there is one, and ends all sessions but `keep`.
    pub fn set_password(
        &self,
        id: i64,
        current: Option<Option<&str>>,
        new: &str,
        keep: &str,
    ) -> Result<(), Problem> {
        password::check("new", new)?;
        if let Some(current) = current {
            let stored: Option<String> = self
                .database()
                .query_row("SELECT password FROM users WHERE id = ?", [id], |row| row.get(0))
                .map_err(failed)?;
            let fits = match (&stored, current) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(stored), Some(current)) => self.hasher.verify(current, Some(stored))?,
            };
            if !fits {
                return Err(Problem::field("current", "This is not the current password."));
            }
        }
        let hash = self.hasher.hash(new)?;
        let mut database = self.database();
        let step = database::begin(&mut database)?;
        step.execute("UPDATE users SET password = ? WHERE id = ?", params![hash, id]).map_err(failed)?;
        step.execute("DELETE FROM sessions WHERE user = ? AND hash <> ?", params![id, keep])
            .map_err(failed)?;
        step.execute("UPDATE sessions SET by_link = 0 WHERE user = ?", [id]).map_err(failed)?;
        step.commit().map_err(failed)
    }

    /// A one-time login link's token; those before are void.
    pub fn new_link(&self, id: i64, valid: Duration) -> Result<(Secret, Time), Problem> {
        let secret = new_secret()?;
        let expires = Time::now().after(valid);
        let mut database = self.database();
        let step = database::begin(&mut database)?;
        if read_user(&step, id)?.disabled {
            return Err(Problem::new(409, "CONFLICT", "This user is disabled. Enable them first."));
        }
        step.execute("DELETE FROM links WHERE user = ? OR expires < ?", params![id, Time::now()])
            .map_err(failed)?;
        step.execute("INSERT INTO links VALUES (?, ?, ?)", params![secret.hash().to_hex(), id, expires])
            .map_err(failed)?;
        step.commit().map_err(failed)?;
        Ok((secret, expires))
    }

    pub fn grants_of(&self, id: i64) -> Result<Vec<GrantView>, Problem> {
        let database = self.database();
        read_user(&database, id)?;
        let mut statement = database
            .prepare_cached("SELECT node, server, rights FROM grants WHERE user = ?")
            .map_err(failed)?;
        let rows = statement
            .query_map([id], |row| {
                let rights = Rights::from_bits(row.get(2)?).names();
                Ok(GrantView { node: row.get(0)?, server: row.get(1)?, rights })
            })
            .map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    pub fn set_grants(&self, id: i64, grants: &[(ServerKey, Rights)]) -> Result<(), Problem> {
        let mut database = self.database();
        let step = database::begin(&mut database)?;
        read_user(&step, id)?;
        step.execute("DELETE FROM grants WHERE user = ?", [id]).map_err(failed)?;
        for ((node, server), rights) in grants {
            let row = params![id, node.as_str(), server.as_str(), rights.bits()];
            step.execute("INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)", row).map_err(failed)?;
        }
        step.commit().map_err(failed)
    }

    /// What was granted on a server that is gone; another of the same id is another server.
    pub fn forget_grants(&self, (node, server): &ServerKey) -> Result<(), Problem> {
        let gone = "DELETE FROM grants WHERE node = ? AND server = ?";
        self.database().execute(gone, [node.as_str(), server.as_str()]).map(drop).map_err(failed)
    }
}

pub(super) fn grants(database: &Connection, user: i64) -> Result<Grants, Problem> {
    let mut statement =
        database.prepare_cached("SELECT node, server, rights FROM grants WHERE user = ?").map_err(failed)?;
    let rows = statement
        .query_map([user], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, u8>(2)?))
        })
        .map_err(failed)?;
    let mut grants = HashMap::new();
    for row in rows {
        let (node, server, rights) = row.map_err(failed)?;
        if let (Ok(node), Ok(server)) = (node.parse(), server.parse()) {
            grants.insert((node, server), Rights::from_bits(rights));
        }
    }
    Ok(Arc::new(grants))
}

fn read_user(database: &Connection, id: i64) -> Result<UserView, Problem> {
    let query = format!("SELECT {COLUMNS} FROM users WHERE id = ?");
    let found = database
        .prepare_cached(&query)
        .and_then(|mut statement| statement.query_row([id], view).optional())
        .map_err(failed)?;
    found.ok_or_else(unknown)
}

fn view(row: &Row) -> rusqlite::Result<UserView> {
    let role: String = row.get(2)?;
    Ok(UserView {
        id: row.get(0)?,
        name: row.get(1)?,
        role: if role == "admin" { Role::Admin } else { Role::Member },
        totp: row.get(3)?,
        disabled: row.get(4)?,
        has_password: row.get(5)?,
        created: row.get(6)?,
        last_login: row.get(7)?,
        grants: row.get(8)?,
    })
}

/// Nobody could let anybody in again.
fn has_an_admin(database: &Connection) -> Result<(), Problem> {
    let query = "SELECT EXISTS (SELECT 1 FROM users WHERE role = 'admin' AND NOT disabled)";
    match database.query_row(query, [], |row| row.get(0)).map_err(failed)? {
        true => Ok(()),
        false => Err(Problem::new(409, "LAST_ADMIN", "This is the last admin. Make another one first.")),
    }
}

fn checked_name(name: &str) -> Result<&str, Problem> {
    let name = name.trim();
    let fits = (1..=64).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if fits { Ok(name) } else { Err(Problem::field("name", "Use 1 to 64 characters.")) }
}

fn taken_or(cause: rusqlite::Error) -> Problem {
    match cause.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => Problem {
            field: Some("name".into()),
            ..Problem::new(409, "USER_EXISTS", "There is a user of this name already.")
        },
        _ => failed(cause),
    }
}

pub(super) fn unknown() -> Problem {
    Problem::new(404, "USER_NOT_FOUND", "There is no such user.")
}

pub(super) fn as_text<S: serde::Serializer>(id: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}
