//! Until when a certificate is valid, read from its DER (RFC 5280 section 4.1). For telling a person: whether it is
//! trusted is decided by rustls, which does not say the date.

use std::time::SystemTime;

/// A value with its tag, and what follows it.
struct Element<'a> {
    tag: u8,
    body: &'a [u8],
    rest: &'a [u8],
}

const SEQUENCE: u8 = 0x30;
/// The version's, which version 1 certificates leave out.
const EXPLICIT_0: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate's validity; `None` when it cannot be read.
pub fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let signed = element(element(certificate)?.body)?.body;
    let first = element(signed)?;
    let mut rest = if first.tag == EXPLICIT_0 { first.rest } else { signed };
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest)?.rest;
    }
    let validity = element(rest).filter(|validity| validity.tag == SEQUENCE)?.body;
    let end = element(element(validity)?.rest)?;
    let text = std::str::from_utf8(end.body).ok()?.strip_suffix('Z')?;
    let (year, rest) = match end.tag {
        // RFC 5280 section 4.1.2.5.1: two digits from 50 on are of the last century.
        UTC_TIME => match text.split_at_checked(2)? {
            (year, rest) if year >= "50" => (format!("19{year}"), rest),
            (year, rest) => (format!("20{year}"), rest),
        },
        GENERALIZED_TIME => text.split_at_checked(4).map(|(year, rest)| (year.to_owned(), rest))?,
        _ => return None,
    };
    if rest.len() != 10 || !rest.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let at = |n: usize| &rest[n..n + 2];
    let text = format!("{year}-{}-{}T{}:{}:{}Z", at(0), at(2), at(4), at(6), at(8));
    humantime::parse_rfc3339(&text).ok()
}

fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&first, bytes) = bytes.split_first()?;
    let (length, bytes) = match first {
        0..=0x7f => (usize::from(first), bytes),
        0x81..=0x83 => {
            let (digits, bytes) = bytes.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), bytes)
        }
        _ => return None,
    };
    let (body, rest) = bytes.split_at_checked(length)?;
    Some(Element { tag, body, rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SEQUENCE { SEQUENCE { [0] 2, 1, {}, {}, { from, to } } }`
    fn certificate(tag: u8, to: &str) -> Vec<u8> {
        let wrap = |tag, body: Vec<u8>| [vec![tag, body.len() as u8], body].concat();
        let time = wrap(tag, to.as_bytes().to_vec());
        let validity = wrap(SEQUENCE, [wrap(UTC_TIME, b"200101000000Z".to_vec()), time].concat());
        let parts = [wrap(EXPLICIT_0, vec![2, 1, 2]), vec![2, 1, 7], vec![SEQUENCE, 0], vec![SEQUENCE, 0]];
        wrap(SEQUENCE, wrap(SEQUENCE, [parts.concat(), validity].concat()))
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let check = |tag, to: &str, expected: &str| {
            let found =
                not_after(&certificate(tag, to)).map(|end| humantime::format_rfc3339(end).to_string());
            assert_eq!(found.as_deref().unwrap_or("none"), expected, "{to}");
        };
        check(UTC_TIME, "491231235959Z", "2049-12-31T23:59:59Z");
        check(UTC_TIME, "990101000000Z", "1999-01-01T00:00:00Z");
        check(GENERALIZED_TIME, "20500102030405Z", "2050-01-02T03:04:05Z");
        check(GENERALIZED_TIME, "20501302030405Z", "none");
        check(UTC_TIME, "4912312359Z", "none");
        check(UTC_TIME, "äö1231235959Z", "none");
        check(4, "491231235959Z", "none");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = certificate(UTC_TIME, "491231235959Z");
        for end in 0..whole.len() {
            assert_eq!(not_after(&whole[..end]), None, "cut at {end}");
        }
    }
}
