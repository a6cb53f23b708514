//! The second factor as an authenticator has it: RFC 6238 with SHA-1, six digits and steps of 30 s.

use std::time::{SystemTime, UNIX_EPOCH};

const STEP: u64 = 30;

/// The code for a secret, so many steps from now.
pub fn code(base32: &str, steps: i64) -> String {
    let mut bits = 0u64;
    let (mut count, mut key) = (0, Vec::new());
    for letter in base32.bytes().filter(|letter| *letter != b'=') {
        let value = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".iter().position(|known| *known == letter).unwrap();
        bits = bits << 5 | value as u64;
        count += 5;
        if count >= 8 {
            count -= 8;
            key.push((bits >> count) as u8);
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / STEP;
    let step = now.checked_add_signed(steps).unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let tag = ring::hmac::sign(&key, &step.to_be_bytes());
    let offset = usize::from(tag.as_ref()[19] & 15);
    let word = u32::from_be_bytes(tag.as_ref()[offset..offset + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", word % 1_000_000)
}
