//! A node's secret and what the Panel keeps of it.
//!
//! Pure but for the system's random numbers. The secret itself exists once, on its way to the file for the node;
//! the Panel stores only its SHA-256, which is enough for 256 random bits: there is nothing to guess that a slow
//! hash would protect.

use std::fmt;

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;

/// 256 random bits as 64 hexadecimal digits. Never stored by the Panel, never shown by `Debug`.
pub struct Secret(String);

/// SHA-256 of a [`Secret`].
#[derive(Clone, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl Secret {
    /// # Errors
    /// The system has no random numbers to give.
    pub fn generate() -> Result<Secret, ring::error::Unspecified> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes)?;
        Ok(Secret(to_hex(&bytes)))
    }

    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.0.as_bytes())
    }

    /// The text itself, for the one place that hands it to the node's owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretHash {
    pub fn of(presented: &[u8]) -> SecretHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, presented).as_ref());
        SecretHash(hash)
    }

    /// 64 hexadecimal digits, as they are stored.
    pub fn to_hex(&self) -> String {
        to_hex(&self.0)
    }

    /// Whether both are the same, in a time that does not depend on where they differ.
    pub fn matches(&self, other: &SecretHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

impl Serialize for SecretHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SecretHash, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_hex(&text)
            .map(SecretHash)
            .ok_or_else(|| serde::de::Error::custom("expected 64 hexadecimal digits"))
    }
}

pub fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_matches_its_own_hash_only() {
        let (one, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        assert_eq!(one.expose().len(), 64);
        assert!(one.hash().matches(&SecretHash::of(one.expose().as_bytes())));
        assert!(!one.hash().matches(&other.hash()));
    }

    #[test]
    fn the_hash_survives_the_file_and_debug_shows_nothing() {
        let secret = Secret::generate().unwrap();
        let stored = serde_json::to_string(&secret.hash()).unwrap();
        assert_eq!(serde_json::from_str::<SecretHash>(&stored).unwrap(), secret.hash());
        for wrong in ["\"\"", "\"zz\"", &stored.replacen(|c: char| c.is_ascii_hexdigit(), "é", 1)] {
            assert!(serde_json::from_str::<SecretHash>(wrong).is_err(), "{wrong}");
        }
        assert!(!format!("{secret:?} {:?}", secret.hash()).contains(secret.expose()));
    }
}
