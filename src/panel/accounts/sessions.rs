//! Logging in, and the sessions that follow: a random cookie of which only the hash is stored. A session always begins
//! with a new cookie, so that none that was there before can be made one (session fixation).

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension, params};
use serde::Serialize;

use super::users::{grants, unknown};
use super::{Accounts, Principal, Role, UserView, Via, failed, lock, new_secret, random, totp};
use crate::panel::problem::Problem;
use crate::panel::secret::{Secret, SecretHash};
use crate::panel::store::database;
use crate::panel::time::Time;

/// A session ends so long after it began, whatever happens,
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// and so long after it was last used.
const IDLE: Duration = Duration::from_secs(7 * 24 * 3600);
/// When it was last used is stored at most so often.
const SEEN_EVERY: Duration = Duration::from_secs(60);
/// Of one user; the oldest ends when there is one more.
const MAX_SESSIONS: usize = 50;
const RECOVERY_CODES: usize = 8;

/// A session that has just begun. `cookie` is its secret.
pub struct Begun {
    pub cookie: Secret,
    pub csrf: String,
    pub expires: Time,
    pub by_link: bool,
    pub user: UserView,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    pub id: String,
    pub current: bool,
    pub created: Time,
    pub last_seen: Time,
    pub expires: Time,
    pub address: String,
    pub agent: String,
}

/// What is stored of who logs in.
struct Stored {
    id: i64,
    password: Option<String>,
    totp: Option<String>,
    totp_step: u64,
    disabled: bool,
}

impl Accounts {
    /// Checks name, password and second factor.
    ///
    /// # Errors
    /// Never tells whether it was the name or the password; takes as long for either.
    pub fn log_in(
        &self,
        name: &str,
        password: &str,
        code: Option<&str>,
        address: IpAddr,
    ) -> Result<i64, Problem> {
        lock(&self.throttle).take(address, name, Instant::now()).map_err(too_many)?;
        let stored = self
            .database()
            .prepare_cached("SELECT id, password, totp, totp_step, disabled FROM users WHERE name = ?")
            .and_then(|mut statement| {
                let row = |row: &rusqlite::Row| {
                    let step: i64 = row.get(3)?;
                    Ok(Stored {
                        id: row.get(0)?,
                        password: row.get(1)?,
                        totp: row.get(2)?,
                        totp_step: step.unsigned_abs(),
                        disabled: row.get(4)?,
                    })
                };
                statement.query_row([name.trim()], row).optional()
            })
            .map_err(failed)?;
        let hash = stored.as_ref().and_then(|stored| stored.password.as_deref());
        let right = self.hasher.verify(password, hash)?;
        let Some(stored) = stored.filter(|stored| right && !stored.disabled) else {
            return Err(Problem::new(401, "LOGIN_FAILED", "Name or password is wrong."));
        };
        self.second_factor(&stored, code)?;
        lock(&self.throttle).succeeded(address, name);
        Ok(stored.id)
    }

    fn second_factor(&self, stored: &Stored, code: Option<&str>) -> Result<(), Problem> {
        let Some(secret) = &stored.totp else { return Ok(()) };
        let Some(code) = code.filter(|code| !code.trim().is_empty()) else {
            return Err(Problem::new(401, "TOTP_NEEDED", "Enter the code that your authenticator shows."));
        };
        let used = match totp::matches(secret, code, seconds(), stored.totp_step) {
            // Of two at the same time with the same code, one is let in.
            Some(step) => self.database().execute(
                "UPDATE users SET totp_step = ?1 WHERE id = ?2 AND totp_step < ?1",
                params![step as i64, stored.id],
            ),
            None => {
                let hash = SecretHash::of(code.trim().to_lowercase().as_bytes()).to_hex();
                let used = "DELETE FROM recovery_codes WHERE user = ? AND hash = ?";
                self.database().execute(used, params![stored.id, hash])
            }
        };
        match used.map_err(failed)? {
            1 => Ok(()),
            _ => {
                Err(Problem::new(401, "TOTP_WRONG", "This code is wrong or was used. Wait for the next one."))
            }
        }
    }

    /// Uses up a one-time link.
    pub fn log_in_by_link(&self, token: &str, address: IpAddr) -> Result<i64, Problem> {
        lock(&self.throttle).take(address, "\0link", Instant::now()).map_err(too_many)?;
        let hash = SecretHash::of(token.as_bytes()).to_hex();
        let user = self
            .database()
            .query_row(
                "DELETE FROM links WHERE hash = ? AND expires > ?
                 AND user IN (SELECT id FROM users WHERE NOT disabled) RETURNING user",
                params![hash, Time::now()],
                |row| row.get(0),
            )
            .optional()
            .map_err(failed)?;
        let gone = "This link was used or is too old. Ask an admin for a new one.";
        let user = user.ok_or_else(|| Problem::new(401, "LINK_INVALID", gone))?;
        lock(&self.throttle).succeeded(address, "\0link");
        Ok(user)
    }

    pub fn begin_session(
        &self,
        user: i64,
        by_link: bool,
        address: IpAddr,
        agent: &str,
    ) -> Result<Begun, Problem> {
        let (cookie, csrf) = (new_secret()?, new_secret()?.expose()[..32].to_owned());
        let (now, expires) = (Time::now(), Time::now().after(LIFE));
        let agent: String = agent.chars().filter(|c| !c.is_control()).take(200).collect();
        let mut database = self.database();
        let step = database::begin(&mut database)?;
        step.execute(
            "DELETE FROM sessions WHERE expires < ?1 OR seen < ?2 OR hash IN (
               SELECT hash FROM sessions WHERE user = ?3 ORDER BY seen DESC LIMIT -1 OFFSET ?4)",
            params![now, now.before(IDLE), user, MAX_SESSIONS - 1],
        )
        .map_err(failed)?;
        step.execute(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                cookie.hash().to_hex(),
                user,
                csrf,
                by_link,
                now,
                now,
                expires,
                address.to_string(),
                agent
            ],
        )
        .map_err(failed)?;
        step.execute("UPDATE users SET last_login = ? WHERE id = ?", params![now, user]).map_err(failed)?;
        step.commit().map_err(failed)?;
        drop(database);
        Ok(Begun { cookie, csrf, expires, by_link, user: self.user(user)? })
    }

    /// Whose session this is; `None` when it is nobody's any more.
    pub fn session(&self, cookie: &str, address: IpAddr) -> Result<Option<Principal>, Problem> {
        let hash = SecretHash::of(cookie.as_bytes()).to_hex();
        let now = Time::now();
        let database = self.database();
        let found = database
            .prepare_cached(
                "SELECT users.id, users.name, users.role, csrf, seen FROM sessions JOIN users ON users.id = user
                 WHERE hash = ? AND expires > ? AND seen > ? AND NOT disabled",
            )
            .and_then(|mut statement| {
                let row = |row: &rusqlite::Row| {
                    let role: String = row.get(2)?;
                    Ok((row.get(0)?, row.get(1)?, role, row.get(3)?, row.get::<_, Time>(4)?))
                };
                statement.query_row(params![hash, now, now.before(IDLE)], row).optional()
            })
            .map_err(failed)?;
        let Some((user, name, role, csrf, seen)) = found else { return Ok(None) };
        if now.since(seen) > SEEN_EVERY {
            let seen = "UPDATE sessions SET seen = ?, address = ? WHERE hash = ?";
            // Not being able to say when it was used is no reason to refuse it.
            if let Err(cause) = database.execute(seen, params![now, address.to_string(), hash]) {
                log::warn!("a session's use could not be stored: {cause}");
            }
        }
        let role = if role == "admin" { Role::Admin } else { Role::Member };
        let grants = grants(&database, user)?;
        Ok(Some(Principal { user, name, role, grants, via: Via::Session { hash, csrf } }))
    }

    /// What the page needs to know of its own session: when it ends, and whether it began by a link.
    pub fn session_facts(&self, hash: &str) -> Result<(Time, bool), Problem> {
        let query = "SELECT expires, by_link FROM sessions WHERE hash = ?";
        let found = self.database().query_row(query, [hash], |row| Ok((row.get(0)?, row.get(1)?))).optional();
        found.map_err(failed)?.ok_or_else(unknown)
    }

    pub fn sessions(&self, user: i64, current: &str) -> Result<Vec<SessionView>, Problem> {
        let database = self.database();
        let mut statement = database
            .prepare_cached(
                "SELECT hash, created, seen, expires, address, agent FROM sessions
                 WHERE user = ? AND expires > ? AND seen > ? ORDER BY seen DESC",
            )
            .map_err(failed)?;
        let now = Time::now();
        let rows = statement
            .query_map(params![user, now, now.before(IDLE)], |row| {
                let hash: String = row.get(0)?;
                Ok(SessionView {
                    current: hash == current,
                    id: hash[..32].to_owned(),
                    created: row.get(1)?,
                    last_seen: row.get(2)?,
                    expires: row.get(3)?,
                    address: row.get(4)?,
                    agent: row.get(5)?,
                })
            })
            .map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// Ends a session of this user by the id that [`Accounts::sessions`] shows.
    pub fn end_session(&self, user: i64, id: &str) -> Result<(), Problem> {
        let gone = "DELETE FROM sessions WHERE user = ? AND substr(hash, 1, 32) = ?";
        match self.database().execute(gone, params![user, id]).map_err(failed)? {
            0 => Err(Problem::new(404, "SESSION_NOT_FOUND", "There is no such session.")),
            _ => Ok(()),
        }
    }

    pub fn log_out(&self, hash: &str) -> Result<(), Problem> {
        self.database().execute("DELETE FROM sessions WHERE hash = ?", [hash]).map(drop).map_err(failed)
    }

    // ---- the second factor

    fn has_password(&self, user: i64, password: &str, address: IpAddr) -> Result<(), Problem> {
        lock(&self.throttle).take(address, &format!("\0{user}"), Instant::now()).map_err(too_many)?;
        let query = "SELECT password FROM users WHERE id = ?";
        let stored: Option<String> =
            self.database().query_row(query, [user], |row| row.get(0)).map_err(failed)?;
        match self.hasher.verify(password, stored.as_deref())? {
            true => Ok(()),
            false => Err(Problem::field("password", "This is not the password.")),
        }
    }

    /// A secret that counts once [`Accounts::confirm_totp`] has seen a code of it; with its URI.
    pub fn begin_totp(
        &self,
        user: i64,
        password: &str,
        address: IpAddr,
    ) -> Result<(String, String), Problem> {
        self.has_password(user, password, address)?;
        let secret = totp::secret(&random()?);
        let set = "UPDATE users SET totp_pending = ? WHERE id = ?";
        self.database().execute(set, params![secret, user]).map_err(failed)?;
        let uri = totp::uri(&secret, &self.user(user)?.name);
        Ok((secret, uri))
    }

    /// Turns the second factor on; the recovery codes.
    pub fn confirm_totp(&self, user: i64, code: &str) -> Result<Vec<String>, Problem> {
        let mut codes = Vec::new();
        for _ in 0..RECOVERY_CODES {
            let digits = new_secret()?;
            codes.push(format!("{}-{}", &digits.expose()[..5], &digits.expose()[5..10]));
        }
        let mut database = self.database();
        let step = database::begin(&mut database)?;
        let pending: Option<String> = step
            .query_row("SELECT totp_pending FROM users WHERE id = ?", [user], |row| row.get(0))
            .map_err(failed)?;
        let used = pending.as_deref().and_then(|secret| totp::matches(secret, code, seconds(), 0));
        let Some(used) = used else {
            return Err(Problem::field("code", "This code is wrong. Check the clock of your phone."));
        };
        step.execute(
            "UPDATE users SET totp = totp_pending, totp_pending = NULL, totp_step = ? WHERE id = ?",
            params![used as i64, user],
        )
        .map_err(failed)?;
        step.execute("DELETE FROM recovery_codes WHERE user = ?", [user]).map_err(failed)?;
        for code in &codes {
            let row = params![user, SecretHash::of(code.as_bytes()).to_hex()];
            step.execute("INSERT INTO recovery_codes VALUES (?, ?)", row).map_err(failed)?;
        }
        step.commit().map_err(failed)?;
        Ok(codes)
    }

    /// Turns it off, with the password unless an admin does.
    pub fn end_totp(&self, user: i64, password: Option<(&str, IpAddr)>) -> Result<(), Problem> {
        if let Some((password, address)) = password {
            self.has_password(user, password, address)?;
        }
        let mut database = self.database();
        let step = database::begin(&mut database)?;
        let off = "UPDATE users SET totp = NULL, totp_pending = NULL WHERE id = ?";
        if step.execute(off, [user]).map_err(failed)? == 0 {
            return Err(unknown());
        }
        step.execute("DELETE FROM recovery_codes WHERE user = ?", [user]).map_err(failed)?;
        step.commit().map_err(failed)
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn too_many(wait: Duration) -> Problem {
    let seconds = wait.as_secs() + 1;
    let what = format!("Too many attempts. Try again in {seconds} seconds.");
    Problem { retry_after: Some(seconds), ..Problem::new(429, "TOO_MANY_ATTEMPTS", what) }
}
