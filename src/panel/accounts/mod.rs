//! Users, their sessions and API tokens, and what they may.
//!
//! One connection to the database behind a lock: a question takes some ten microseconds, and no password is hashed while
//! it is held. Used by the gate's threads and by the subcommands; nothing is cached, so what an admin or a subcommand
//! takes away is gone with the next call. Secrets are stored as SHA-256 (they are random), passwords by Argon2id.

mod password;
mod principal;
mod sessions;
mod throttle;
mod tokens;
mod totp;
mod users;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::Connection;

use super::problem::Problem;
use super::secret::{Secret, SecretHash};
use super::store::{StoreError, database};
pub use principal::{Grants, Principal, Rights, Role, Via};
pub use sessions::{Begun, SessionView};
pub use tokens::TokenView;
pub use users::{GrantView, UserChange, UserView};

pub struct Accounts {
    database: Mutex<Connection>,
    hasher: password::Hasher,
    throttle: Mutex<throttle::Throttle>,
    /// Of the one-time link on the terminal, while there is no user.
    setup: Mutex<Option<SecretHash>>,
}

impl Accounts {
    pub fn open(dir: &Path) -> Result<Accounts, StoreError> {
        let database = Mutex::new(database::open(dir)?);
        let hasher = password::Hasher::new().map_err(|problem| StoreError::Io {
            what: "hash in",
            path: dir.into(),
            cause: std::io::Error::other(problem.message),
        })?;
        Ok(Accounts { database, hasher, throttle: Mutex::default(), setup: Mutex::default() })
    }

    /// The token for making the first admin, while there is no user: it replaces the one before.
    pub fn offer_setup(&self) -> Result<Option<Secret>, Problem> {
        if self.has_users()? {
            return Ok(None);
        }
        let secret = new_secret()?;
        *lock(&self.setup) = Some(secret.hash());
        Ok(Some(secret))
    }

    /// Makes the first admin.
    pub fn set_up(&self, token: &str, name: &str, password: &str) -> Result<i64, Problem> {
        if self.has_users()? {
            return Err(Problem::new(403, "SETUP_DONE", "The Panel is set up already. Log in instead."));
        }
        let presented = SecretHash::of(token.as_bytes());
        if !lock(&self.setup).as_ref().is_some_and(|expected| expected.matches(&presented)) {
            let what =
                "This link is not valid any more. The Panel prints a new one on its terminal at each start.";
            return Err(Problem::new(403, "SETUP_TOKEN", what));
        }
        let id = self.add_user(name, Role::Admin, Some(password), true)?;
        *lock(&self.setup) = None;
        Ok(id)
    }

    fn database(&self) -> MutexGuard<'_, Connection> {
        lock(&self.database)
    }
}

/// What the locks protect is whole at every moment: SQLite rolls an unfinished transaction back.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn new_secret() -> Result<Secret, Problem> {
    Secret::generate().map_err(|_| no_random())
}

fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| no_random())?;
    Ok(bytes)
}

fn no_random() -> Problem {
    Problem::new(500, "INTERNAL", "The system gave no random numbers.")
}

/// The database failed: what that means for the asker.
fn failed(cause: rusqlite::Error) -> Problem {
    StoreError::Sql { what: "accounts", cause }.into()
}
