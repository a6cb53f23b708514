//! [`EntryName`]: where an archive's entry goes, beneath the directory that it is unpacked in. Pure.

use std::fmt;
use std::path::Path;

/// Longest name in bytes, and longest part of one: the kernel's own limits.
const MAX_NAME: usize = 4096;
const MAX_PART: usize = 255;
/// Most parts of one. Each level may hold a descriptor while a tree is walked.
pub const MAX_DEPTH: usize = 64;
/// What the Agent puts into a server's directory for a while begins so, and nothing else may.
pub const RESERVED: &str = crate::server::files::temporary::PREFIX;

/// A relative path of plain parts: no `..`, no `.`, no empty part, nothing that a person could not type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName(String);

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    NotUtf8,
    Control,
    Absolute,
    Climbs,
    TooLong,
    TooDeep,
    Reserved,
}

impl EntryName {
    /// Reads a name as tar and zip have it, with `/` between its parts. `None` is the directory itself (`./`), which
    /// many writers name first.
    pub fn parse(bytes: &[u8]) -> Result<Option<EntryName>, BadName> {
        let text = std::str::from_utf8(bytes).map_err(|_| BadName::NotUtf8)?;
        if text.chars().any(char::is_control) {
            return Err(BadName::Control);
        }
        if text.starts_with('/') {
            return Err(BadName::Absolute);
        }
        if text.len() > MAX_NAME {
            return Err(BadName::TooLong);
        }
        let (mut name, mut depth) = (String::with_capacity(text.len()), 0);
        for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
            match part {
                ".." => return Err(BadName::Climbs),
                part if part.len() > MAX_PART => return Err(BadName::TooLong),
                part if part.starts_with(RESERVED) => return Err(BadName::Reserved),
                _ => {}
            }
            depth += 1;
            if depth > MAX_DEPTH {
                return Err(BadName::TooDeep);
            }
            if !name.is_empty() {
                name.push('/');
            }
            name.push_str(part);
        }
        Ok((!name.is_empty()).then_some(EntryName(name)))
    }

    /// [`EntryName::parse`] for a zip that was not made on Unix: writers there put `\` between the parts and may begin
    /// with a drive.
    pub fn parse_dos(bytes: &[u8]) -> Result<Option<EntryName>, BadName> {
        let bytes: Vec<u8> = bytes.iter().map(|&b| if b == b'\\' { b'/' } else { b }).collect();
        match bytes.as_slice() {
            [drive, b':', b'/', ..] if drive.is_ascii_alphabetic() => Err(BadName::Absolute),
            bytes => EntryName::parse(bytes),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The path of the directory it goes into, empty for the top, and its own name there.
    pub fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadName::NotUtf8 => "its name is not UTF-8",
            BadName::Control => "its name has control characters",
            BadName::Absolute => "its name is an absolute path",
            BadName::Climbs => "its name leads out of the directory",
            BadName::TooLong => "its name is longer than 4096 bytes, or a part of it than 255",
            BadName::TooDeep => "it lies deeper than 64 directories",
            BadName::Reserved => "its name is reserved for the Agent",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Option<String>, BadName> {
        EntryName::parse(text.as_bytes()).map(|name| name.map(|name| name.0))
    }

    #[test]
    fn plain_names_and_those_that_are_refused() {
        let long = "x".repeat(256);
        let deep = "d/".repeat(MAX_DEPTH);
        for (text, expected) in [
            ("a/b.txt", Ok(Some("a/b.txt"))),
            ("./a//b/./c/", Ok(Some("a/b/c"))),
            ("./", Ok(None)),
            ("", Ok(None)),
            ("..a/b..", Ok(Some("..a/b.."))),
            ("/etc/passwd", Err(BadName::Absolute)),
            ("//x", Err(BadName::Absolute)),
            ("../x", Err(BadName::Climbs)),
            ("a/../../x", Err(BadName::Climbs)),
            ("a/..", Err(BadName::Climbs)),
            ("a\0b", Err(BadName::Control)),
            ("a\nb", Err(BadName::Control)),
            ("a\u{9b}2J", Err(BadName::Control)),
            (".longshore-x/y", Err(BadName::Reserved)),
            (&long, Err(BadName::TooLong)),
            (&format!("{deep}x"), Err(BadName::TooDeep)),
        ] {
            assert_eq!(parsed(text), expected.map(|name| name.map(str::to_owned)), "{text:?}");
        }
        assert_eq!(EntryName::parse(b"\xff"), Err(BadName::NotUtf8));
        assert_eq!(parsed(&"a/".repeat(MAX_DEPTH)).map(|name| name.is_some()), Ok(true));
    }

    #[test]
    fn a_dos_name_has_backslashes_and_drives() {
        let parsed = |text: &str| EntryName::parse_dos(text.as_bytes()).map(|name| name.map(|name| name.0));
        assert_eq!(parsed("a\\b"), Ok(Some("a/b".into())));
        assert_eq!(parsed("..\\x"), Err(BadName::Climbs));
        assert_eq!(parsed("\\x"), Err(BadName::Absolute));
        assert_eq!(parsed("C:\\x"), Err(BadName::Absolute));
    }

    proptest! {
        #[test]
        fn what_is_accepted_stays_beneath_and_reads_back(bytes in prop::collection::vec(
            prop_oneof![Just(b'.'), Just(b'/'), Just(b'\\'), Just(b'a'), Just(0_u8), any::<u8>()], 0..64,
        ), dos: bool) {
            let read = if dos { EntryName::parse_dos } else { EntryName::parse };
            if let Ok(Some(name)) = read(&bytes) {
                prop_assert!(name.as_path().components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(!name.as_str().chars().any(char::is_control));
                prop_assert_eq!(EntryName::parse(name.as_str().as_bytes()), Ok(Some(name)));
            }
        }
    }
}
