//! What a download is called: one plain part of a path, or nothing. Pure.

use crate::server::archive::name::EntryName;

/// The name in a `Content-Disposition` header (RFC 6266), the extended form before the plain one.
pub fn from_disposition(header: &str) -> Option<String> {
    let parameter = |wanted: &str| parameters(header).into_iter().find(|(name, _)| name == wanted);
    let extended = parameter("filename*").and_then(|(_, value)| {
        let (charset, rest) = value.split_once('\'')?;
        let (_, text) = rest.split_once('\'')?;
        charset.eq_ignore_ascii_case("utf-8").then(|| decoded(text)).flatten()
    });
    extended.as_deref().and_then(safe).or_else(|| safe(&parameter("filename")?.1))
}

/// The last part of an address's path.
pub fn from_url(url: &str) -> Option<String> {
    let address = url.split(['?', '#']).next()?;
    let (_, path) = address.split_once("://")?.1.split_once('/')?;
    safe(&decoded(path.rsplit('/').next()?)?)
}

/// A name as it may be used: nothing that is hidden, leads elsewhere, or would be read as an option by a person's tools.
fn safe(name: &str) -> Option<String> {
    let plain = !name.starts_with(['.', '-']) && !name.contains(['/', '\\']) && name.trim() == name;
    match EntryName::parse(name.as_bytes()) {
        Ok(Some(parsed)) if plain && parsed.as_str() == name => Some(name.to_owned()),
        _ => None,
    }
}

/// `name=value` and `name="value"` after the header's first word, names in lower case.
fn parameters(header: &str) -> Vec<(String, String)> {
    let (mut found, mut rest) = (Vec::new(), header.split_once(';').map_or("", |(_, rest)| rest));
    while let Some((name, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => match after.split_once(';') {
                Some((value, left)) => (value.trim().to_owned(), left),
                None => (after.trim().to_owned(), ""),
            },
        };
        found.push((name.trim_matches([' ', ';', '\t']).to_ascii_lowercase(), value));
        rest = left;
    }
    found
}

/// A quoted string up to its end, and what follows.
fn unquoted(text: &str) -> (String, &str) {
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &text[at + 1..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

/// Percent-decoded; `None` for what is broken or not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_answers() {
        for (header, expected) in [
            ("attachment; filename=\"mod 1.jar\"", Some("mod 1.jar")),
            ("attachment; filename=mod.jar; size=3", Some("mod.jar")),
            ("attachment; filename=\"a.jar\"; filename*=UTF-8''caf%C3%A9.jar", Some("café.jar")),
            ("attachment; filename*=utf-8'en'a%20b.jar", Some("a b.jar")),
            ("attachment; filename*=latin1''x.jar; filename=y.jar", Some("y.jar")),
            ("attachment; filename=\"a\\\"b.jar\"", Some("a\"b.jar")),
            ("attachment; filename=\"../../etc/cron.d/x\"", None),
            ("attachment; filename=\"..\"", None),
            ("attachment; filename=\"a\\\\b\"", None),
            ("attachment; filename=.bashrc", None),
            ("attachment; filename=\"-rf\"", None),
            ("attachment; filename*=UTF-8''%2e%2e%2fx", None),
            ("attachment; filename*=UTF-8''a%00b", None),
            ("attachment; filename=\"\"", None),
            ("attachment", None),
            ("inline; filename", None),
        ] {
            assert_eq!(from_disposition(header).as_deref(), expected, "{header}");
        }
    }

    #[test]
    fn names_of_addresses() {
        for (url, expected) in [
            ("https://host/a/mod-1.2.jar", Some("mod-1.2.jar")),
            ("https://host/a/mod%201.jar?token=x/y.jar#z", Some("mod 1.jar")),
            ("https://host/download/", None),
            ("https://host", None),
            ("https://host/..", None),
            ("https://host/%2e%2e", None),
            ("https://host/a%2Fb", None),
            ("https://host/a%0ab", None),
            ("https://host/a%ff", None),
            ("https://host/a%", None),
        ] {
            assert_eq!(from_url(url).as_deref(), expected, "{url}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_a_name_is_one_plain_part(text in "\\PC{0,40}", raw in "[a-z;=\"\\\\%.'/* -]{0,40}") {
            let headers = [format!("attachment; filename=\"{text}\""), format!("attachment; {raw}")];
            let names = headers.iter().filter_map(|h| from_disposition(h)).chain(from_url(&format!("https://h/{text}")));
            for name in names {
                prop_assert!(!name.contains(['/', '\0']) && name != ".." && !name.starts_with('.') && !name.is_empty());
            }
        }
    }
}
