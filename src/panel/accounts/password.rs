//! Passwords, by Argon2id with the parameters that OWASP recommends (19 MiB, two passes): as much work for who guesses
//! as a login may cost us. Runs on the thread that asks; at most [`AT_ONCE`] work at a time, so that many logins at
//! once cost time and not memory.

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::time::Duration;

use crate::panel::problem::Problem;

/// Hashes in work at one time; each takes some 20 ms and 19 MiB.
const AT_ONCE: usize = 2;
/// How long a login may wait for its turn.
const TURN: Duration = Duration::from_secs(5);
pub const MIN_LENGTH: usize = 10;
pub const MAX_LENGTH: usize = 256;

pub struct Hasher {
    /// As many messages as hashes may begin.
    turns: (Sender<()>, Receiver<()>),
    /// Checked for names that do not exist, so that they take as long.
    nobody: String,
}

/// A place among those that hash, given back when dropped.
struct Turn<'a>(&'a Sender<()>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_send(()); // its place is free
    }
}

impl Hasher {
    pub fn new() -> Result<Hasher, Problem> {
        let turns = bounded(AT_ONCE);
        for _ in 0..AT_ONCE {
            let _ = turns.0.try_send(()); // there is room for each
        }
        let nobody = hash("nobody's password")?;
        Ok(Hasher { turns, nobody })
    }

    /// The text to store, in the PHC format: it names its own parameters and salt.
    pub fn hash(&self, password: &str) -> Result<String, Problem> {
        let _turn = self.turn()?;
        hash(password)
    }

    /// Whether it is the password; takes as long without one to compare with.
    pub fn verify(&self, password: &str, stored: Option<&str>) -> Result<bool, Problem> {
        let _turn = self.turn()?;
        let parsed = PasswordHash::new(stored.unwrap_or(&self.nobody)).map_err(|_| broken())?;
        let matches = Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
        Ok(matches && stored.is_some())
    }

    fn turn(&self) -> Result<Turn<'_>, Problem> {
        self.turns.1.recv_timeout(TURN).map_err(|_| {
            Problem::new(503, "BUSY", "Too many people are logging in at this moment. Try again soon.")
        })?;
        Ok(Turn(&self.turns.0))
    }
}

fn hash(password: &str) -> Result<String, Problem> {
    let salt = super::random::<16>()?;
    let hashed = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    hashed.map(|hash: PasswordHash| hash.to_string()).map_err(|_| broken())
}

fn broken() -> Problem {
    Problem::new(500, "INTERNAL", "The password could not be checked. The Panel's log says more.")
}

/// A password that someone may choose.
pub fn check(field: &str, password: &str) -> Result<(), Problem> {
    match password.chars().count() {
        MIN_LENGTH..=MAX_LENGTH => Ok(()),
        _ => Err(Problem::field(field, format!("Use {MIN_LENGTH} to {MAX_LENGTH} characters."))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_opens_with_its_own_hash_only() {
        let hasher = Hasher::new().unwrap();
        let stored = hasher.hash("correct horse").unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(hasher.verify("correct horse", Some(&stored)).unwrap());
        assert!(!hasher.verify("correct horsf", Some(&stored)).unwrap());
        assert!(!hasher.verify("nobody's password", None).unwrap());
        assert_ne!(stored, hasher.hash("correct horse").unwrap(), "each has its own salt");
    }
}
