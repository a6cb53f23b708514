//! Where settings come from: flags over environment over a `KEY=value` file over defaults, with a note of which.
//! Knows names and texts only; what they mean is [`super::config`]'s.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

/// One setting's name and what a person needs to know of it.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub default: Option<&'static str>,
    pub help: &'static str,
    /// Never printed, and no flag takes it: a process list is public.
    pub secret: bool,
}

/// Where a value came from, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Default,
    File,
    Environment,
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Default => "default",
            Source::File => "config file",
            Source::Environment => "environment",
            Source::Flag => "flag",
        })
    }
}

/// A wrong setting in one line: the key, the value unless it is a secret, and what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSetting(String);

impl BadSetting {
    pub fn new(key: &str, value: &str, expected: impl fmt::Display) -> BadSetting {
        BadSetting(format!("{key}: {value:?}: {expected}"))
    }

    /// For a key that has no value to show, or whose value is a secret.
    pub fn bare(key: &str, expected: impl fmt::Display) -> BadSetting {
        BadSetting(format!("{key}: {expected}"))
    }
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadSetting {}

/// Values by key, each with its source. An empty value counts as not set.
#[derive(Clone, Debug, Default)]
pub struct Settings(BTreeMap<&'static str, (String, Source)>);

impl Settings {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|(value, _)| value.as_str())
    }

    pub fn source(&self, key: &str) -> Option<Source> {
        self.0.get(key).map(|&(_, source)| source)
    }

    fn set(&mut self, key: &'static str, value: String, source: Source) {
        let weaker = self.0.get(key).is_none_or(|&(_, known)| known <= source);
        if weaker && !value.is_empty() {
            self.0.insert(key, (value, source));
        }
    }

    /// Fills in defaults, then `lines` of a `KEY=value` file: `#` begins a comment line, and one pair of quotes
    /// around a value is taken off. An unknown key is refused, because a misspelt one would be ignored for ever.
    pub fn add_file(&mut self, keys: &'static [Key], path: &Path, text: &str) -> Result<(), BadSetting> {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = format!("{} line {}", path.display(), number + 1);
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| BadSetting::bare(&place, "expected KEY=value or a # comment"))?;
            let key = find(keys, name.trim())
                .ok_or_else(|| BadSetting::bare(&place, format_args!("unknown key {:?}", name.trim())))?;
            self.set(key.name, unquoted(value.trim()).to_owned(), Source::File);
        }
        Ok(())
    }

    pub fn add_environment(
        &mut self,
        keys: &'static [Key],
        get: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(), BadSetting> {
        for key in keys {
            // Proxy variables are written in small letters at least as often; those win, as in curl.
            let small = key.name.ends_with("_PROXY").then(|| get(&key.name.to_ascii_lowercase())).flatten();
            let Some(value) = small.or_else(|| get(key.name)) else { continue };
            let value = value.into_string().map_err(|_| BadSetting::bare(key.name, "expected UTF-8 text"))?;
            self.set(key.name, value, Source::Environment);
        }
        Ok(())
    }

    pub fn add_flag(&mut self, key: &'static Key, value: String) {
        self.set(key.name, value, Source::Flag);
    }

    pub fn add_defaults(&mut self, keys: &'static [Key]) {
        for key in keys {
            if let Some(default) = key.default {
                self.set(key.name, default.to_owned(), Source::Default);
            }
        }
    }
}

pub fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

/// `PANEL_URL` for `panel-url`, unless it is a secret.
pub fn for_flag(keys: &'static [Key], flag: &str) -> Option<&'static Key> {
    let name = flag.replace('-', "_").to_ascii_uppercase();
    keys.iter().find(|key| key.name == name && !key.secret)
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}
