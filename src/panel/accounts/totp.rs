//! The second factor: RFC 6238 with SHA-1, six digits and 30 s, as every authenticator app has it. Pure.

use ring::hmac;
use subtle::ConstantTimeEq;

/// Seconds that a code counts for.
const STEP: u64 = 30;
/// Steps that a clock may be away, before and after.
const DRIFT: u64 = 1;

/// A secret of 160 bits as apps take it.
pub fn secret(bytes: &[u8; 20]) -> String {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::with_capacity(32);
    for chunk in bytes.chunks_exact(5) {
        let word = chunk.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        text.extend((0..8).rev().map(|place| char::from(DIGITS[(word >> (place * 5)) as usize & 31])));
    }
    text
}

/// What a QR code for the secret says.
pub fn uri(secret: &str, name: &str) -> String {
    let name: String = name
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("otpauth://totp/Longshore:{name}?secret={secret}&issuer=Longshore")
}

/// The step whose code this is, at `now` in seconds since 1970; only one after `used`, so that each code opens once.
pub fn matches(secret: &str, code: &str, now: u64, used: u64) -> Option<u64> {
    let key = decode(secret)?;
    let current = now / STEP;
    let mut found = None;
    for step in current.saturating_sub(DRIFT)..=current + DRIFT {
        let same: bool = digits(&key, step).as_bytes().ct_eq(code.trim().as_bytes()).into();
        if same && step > used {
            found = Some(step);
        }
    }
    found
}

fn digits(key: &[u8], step: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let tag = tag.as_ref();
    // RFC 4226 section 5.3: the last four bits say where to take 31 bits from.
    let at = usize::from(tag[tag.len() - 1] & 15);
    let number = u32::from_be_bytes([tag[at] & 0x7f, tag[at + 1], tag[at + 2], tag[at + 3]]);
    format!("{:06}", number % 1_000_000)
}

fn decode(secret: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(20);
    let (mut word, mut bits) = (0_u32, 0);
    for digit in secret.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'2'..=b'7' => digit - b'2' + 26,
            _ => return None,
        };
        word = word << 5 | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238 appendix B, shortened to six digits.
    #[test]
    fn codes_are_those_of_the_rfc() {
        let secret = secret(b"12345678901234567890");
        assert_eq!(secret, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        for (now, code) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            assert_eq!(matches(&secret, code, now, 0), Some(now / 30), "{now}");
        }
    }

    #[test]
    fn a_code_counts_once_and_near_its_time() {
        let secret = secret(b"12345678901234567890");
        assert_eq!(matches(&secret, "287082", 59, 1), None, "used");
        assert_eq!(matches(&secret, "287082", 59 + 30, 0), Some(1));
        assert_eq!(matches(&secret, "287082", 59 + 60, 0), None, "too late");
        assert_eq!(matches(&secret, "287083", 59, 0), None);
        assert_eq!(matches(&secret, "", 59, 0), None);
    }

    #[test]
    fn names_cannot_leave_their_place_in_the_uri() {
        assert_eq!(
            uri("AB", "a&b/c é"),
            "otpauth://totp/Longshore:a%26b%2Fc%20%C3%A9?secret=AB&issuer=Longshore"
        );
    }
}
