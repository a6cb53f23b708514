//! [`Secret`]: the bearer secret as a value that cannot be printed by accident.
//!
//! No `Display`, a redacted `Debug`, compared in constant time, wiped from memory when it is done with. Whoever needs the text says so with
//! [`Secret::expose`], which makes every such place easy to find.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Longest secret in bytes: it has to fit a request head beside everything else.
const MAX_LEN: usize = 4096;

/// A secret that fits an HTTP header value: 1 to 4,096 bytes of visible ASCII.
#[derive(Clone)]
pub struct Secret(String);

/// Why a text is no [`Secret`]. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretError {
    Empty,
    TooLong,
    /// A space, a control character or something beyond ASCII, which a header value could not carry.
    Unprintable,
}

impl Secret {
    /// Checks the text. Surrounding whitespace is refused rather than trimmed: two sides that trim differently
    /// would disagree about the secret.
    pub fn new(text: impl Into<String>) -> Result<Secret, SecretError> {
        let mut text = Zeroizing::new(text.into());
        match text.len() {
            0 => Err(SecretError::Empty),
            n if n > MAX_LEN => Err(SecretError::TooLong),
            _ if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(Secret(std::mem::take(&mut *text))),
            _ => Err(SecretError::Unprintable),
        }
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `other` is this secret, in a time that depends on its length only.
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(other).into()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for Secret {}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.matches(other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SecretError::Empty => "secret: is empty",
            SecretError::TooLong => "secret: longer than 4096 bytes",
            SecretError::Unprintable => "secret: has a space, a control or a non-ASCII character",
        })
    }
}

impl std::error::Error for SecretError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fits_a_header() {
        for (text, expected) in [
            ("", Some(SecretError::Empty)),
            ("a b", Some(SecretError::Unprintable)),
            ("a\r\nX: y", Some(SecretError::Unprintable)),
            ("gehéim", Some(SecretError::Unprintable)),
            ("abc~!$", None),
        ] {
            assert_eq!(Secret::new(text).err(), expected, "{text:?}");
        }
        assert_eq!(Secret::new("x".repeat(4097)).err(), Some(SecretError::TooLong));
    }

    #[test]
    fn is_wiped_when_it_is_dropped() {
        fn wipes(_: &impl ZeroizeOnDrop) {}
        let mut secret = Secret::new("hunter2").unwrap();
        wipes(&secret);
        // What its drop does: memory that was given back cannot be looked at without unsafe code.
        secret.0.zeroize();
        assert!(secret.0.is_empty());
        assert_eq!(Secret::new("a b"), Err(SecretError::Unprintable), "a text that is refused is wiped too");
    }

    #[test]
    fn never_printed_and_compared_whole() {
        let secret = Secret::new("hunter2").unwrap();
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(secret.matches(b"hunter2"));
        for other in [&b"hunter"[..], b"hunter22", b"hunter3", b""] {
            assert!(!secret.matches(other));
        }
    }
}
