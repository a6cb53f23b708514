//! The text that joins a node: which node, a one-time secret, and the hash of the Panel's certificate, so that a
//! certificate that nobody else vouches for can be trusted. Pure.

use std::fmt;
use std::str::FromStr;

use super::NodeId;

/// `lsj1:NODE:SECRET:PIN`; the pin is the certificate's SHA-256 in hexadecimal digits, or empty.
pub struct JoinToken {
    pub node: NodeId,
    pub secret: String,
    pub pin: Option<String>,
}

const KIND: &str = "lsj1";

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KIND}:{}:{}:{}", self.node, self.secret, self.pin.as_deref().unwrap_or_default())
    }
}

impl FromStr for JoinToken {
    type Err = ();

    fn from_str(text: &str) -> Result<JoinToken, ()> {
        let parts: Vec<&str> = text.trim().split(':').collect();
        let [KIND, node, secret, pin] = parts[..] else { return Err(()) };
        let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex(secret) || !(pin.is_empty() || is_hex(pin)) {
            return Err(());
        }
        let pin = Some(pin.to_ascii_lowercase()).filter(|pin| !pin.is_empty());
        Ok(JoinToken { node: node.parse().map_err(drop)?, secret: secret.into(), pin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let (secret, pin) = ("ab".repeat(32), "cd".repeat(32));
        for pin in [None, Some(pin)] {
            let token = JoinToken { node: "n.1".parse().unwrap(), secret: secret.clone(), pin: pin.clone() };
            let read: JoinToken = format!(" {token}\n").parse().unwrap();
            assert_eq!((read.node.as_str(), read.secret, read.pin), ("n.1", secret.clone(), pin));
        }
        for wrong in
            ["", "lsj1:n:x:", "lsj2:n::", &format!("lsj1:../n:{secret}:"), &format!("lsj1:n:{secret}:zz")]
        {
            assert!(wrong.parse::<JoinToken>().is_err(), "{wrong}");
        }
    }
}
