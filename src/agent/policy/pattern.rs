//! Names with wildcards: `*` stands for any text within one part of a name, `**` for any text at all. Pure.

use std::fmt;

use crate::docker::{ImageVersion, Reference};

/// Which images are meant, such as `itzg/*`, `ghcr.io/us/**:v1*` or `**`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePattern {
    text: String,
    /// Registry and repository, as [`Reference`] has them.
    name: String,
    /// `None` takes every tag and digest.
    version: Option<String>,
}

impl ImagePattern {
    /// A pattern is read as Docker reads a name: without a registry it is `docker.io`'s, a single word one of the official
    /// images. `None` for what no image could fit.
    pub fn parse(text: &str) -> Option<ImagePattern> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@*[]+".contains(&b);
        if text.is_empty() || text.len() > 512 || !text.bytes().all(fits) || text.contains("***") {
            return None;
        }
        let (name, version) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => match text.rsplit_once(':') {
                Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
                _ => (text, None),
            },
        };
        if name.split('/').any(str::is_empty) || version.is_some_and(str::is_empty) {
            return None;
        }
        let first = name.split('/').next().unwrap_or_default();
        let has_registry = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
        let name = match () {
            () if first == "**" => name.to_owned(),
            () if first == "index.docker.io" => name.replacen("index.docker.io", "docker.io", 1),
            () if has_registry => name.to_owned(),
            () if name.contains('/') => format!("docker.io/{name}"),
            () => format!("docker.io/library/{name}"),
        };
        Some(ImagePattern { text: text.to_owned(), name, version: version.map(str::to_owned) })
    }

    pub fn fits(&self, image: &Reference) -> bool {
        let (ImageVersion::Tag(version) | ImageVersion::Digest(version)) = &image.version;
        is_like(&format!("{}/{}", image.registry, image.repository), &self.name)
            && self.version.as_ref().is_none_or(|pattern| is_like(version, pattern))
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether the whole text is what the pattern describes. Takes no longer than the product of their lengths.
pub fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    // Which ends of the text so far fit the pattern so far.
    let mut ends = vec![false; text.len() + 1];
    ends[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let mut next = vec![false; text.len() + 1];
        if pattern[at] == b'*' {
            let any = pattern.get(at + 1) == Some(&b'*');
            at += if any { 2 } else { 1 };
            let mut open = false;
            for (end, fits) in ends.iter().enumerate() {
                open = *fits || (open && (any || text[end - 1] != b'/'));
                next[end] = open;
            }
        } else {
            for (end, byte) in text.iter().enumerate() {
                next[end + 1] = ends[end] && *byte == pattern[at];
            }
            at += 1;
        }
        ends = next;
    }
    ends[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        let check = |pattern: &str, fits: &[&str], not: &[&str]| {
            for text in fits {
                assert!(is_like(text, pattern), "{pattern} {text}");
            }
            for text in not {
                assert!(!is_like(text, pattern), "{pattern} {text}");
            }
        };
        check("a", &["a"], &["", "b", "aa", "A"]);
        check("", &[""], &["a"]);
        check("*", &["", "a", "abc"], &["a/b", "/"]);
        check("a/*", &["a/", "a/b"], &["a", "a/b/c", "b/a/c"]);
        check("a/**", &["a/", "a/b", "a/b/c"], &["a", "ab/c"]);
        check("*b*", &["b", "abc", "bb"], &["ac", "a/b"]);
        check("**/x", &["a/x", "a/b/x"], &["x", "a/xy"]);
        assert!(!is_like(&"a".repeat(4000), &("*a".repeat(200) + "b")), "and it comes to an end");
    }

    #[test]
    fn what_fits_no_image_is_no_pattern() {
        for text in ["", "a b", "a//b", "/a", "a/", "a:", "***", "ä", "a@", "$x"] {
            assert_eq!(ImagePattern::parse(text), None, "{text:?}");
        }
        for text in ["*", "**", "a/*:v*", "localhost:5000/**", "[::1]:5000/a", "a@sha256:*"] {
            assert!(ImagePattern::parse(text).is_some(), "{text}");
        }
    }
}
