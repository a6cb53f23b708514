//! Times as the Engine writes them, to nanoseconds since 1970 and back. Pure.

use serde::{Deserialize, Deserializer};

/// Nanoseconds since 1970 of an RFC 3339 time with any fraction and offset. `None` for what is not one and for
/// times before 1970, such as the year 1 that the Engine writes for "never".
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let number = |at: usize, len: usize| -> Option<u64> {
        let digits = bytes.get(at..at + len)?;
        digits.iter().all(u8::is_ascii_digit).then_some(())?;
        Some(digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
    };
    let is = |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|b| allowed.contains(b));
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    if !separated || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // 60 is a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0;
    if is(at, b".") {
        let digits = bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        let kept = digits.min(9);
        nanos = number(at + 1, kept)? * 10u64.pow(9 - kept as u32);
        at += 1 + digits;
        (digits > 0).then_some(())?;
    }
    let offset = match &bytes[at..] {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let east = (number(at + 1, 2)? * 3600 + number(at + 4, 2)? * 60) as i64;
            if *sign == b'+' { east } else { -east }
        }
        _ => return None,
    };
    let seconds = days_since_1970(year as i64, month as i64, day as i64) * 86_400
        + (hour * 3600 + minute * 60 + second) as i64
        - offset;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// In the proleptic Gregorian calendar; the year is taken to begin in March, so that the leap day is its last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// `seconds.nanoseconds`, the one form that every Engine takes for `since`; RFC 3339 is a 500 on 20.10.
pub fn unix_seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// For a field of an answer: RFC 3339, and `None` for "never" and for an empty text.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    // Some answers (of Podman among others) have null or leave it empty.
    Ok(Option::<std::borrow::Cow<str>>::deserialize(deserializer)?.and_then(|text| parse_rfc3339(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_engines_write() {
        const S: u64 = 1_000_000_000;
        let check = |text: &str, expected: Option<u64>| assert_eq!(parse_rfc3339(text), expected, "{text:?}");
        check("1970-01-01T00:00:00Z", Some(0));
        check("1970-01-01T00:00:00.000000001Z", Some(1));
        check("2000-02-29T12:00:00Z", Some(951_825_600 * S));
        check("2024-12-31T23:59:59.5Z", Some(1_735_689_599 * S + S / 2));
        check("2024-12-31T23:59:59.123456789Z", Some(1_735_689_599 * S + 123_456_789));
        check("2025-01-01T01:59:59.5+02:00", Some(1_735_689_599 * S + S / 2));
        check("2024-12-31T18:29:59-05:30", Some(1_735_689_599 * S));
        check("2100-03-01T00:00:00Z", Some(4_107_542_400 * S));
        check("0001-01-01T00:00:00Z", None);
        check("1969-12-31T23:59:59Z", None);
        for bad in [
            "",
            "Z",
            "2024-12-31",
            "2024-12-31T23:59:59",
            "2024-12-31T23:59:59.Z",
            "2024-12-31T23:59:59+02",
            "2024-13-31T23:59:59Z",
            "2024-12-31T24:59:59Z",
            "2024-12-31T23:59:5éZ",
            "+024-12-31T23:59:59Z",
            "9999-12-31T23:59:59Z",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn since_has_nine_digits_after_the_point() {
        assert_eq!(unix_seconds(1_735_689_599_000_000_042), "1735689599.000000042");
        assert_eq!(unix_seconds(5), "0.000000005");
    }
}
