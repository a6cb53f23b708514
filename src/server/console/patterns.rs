//! What a server prints when it is up: `done` texts and patterns, looked for in lines without their colours. Pure.

use std::borrow::Cow;

use regex_lite::Regex;

/// Any one of them is enough.
#[derive(Debug)]
pub struct Patterns(Vec<Pattern>);

#[derive(Debug)]
enum Pattern {
    /// A part of a line.
    Text(String),
    Regex(Regex),
}

impl Patterns {
    /// From the spec's `done`, in which a pattern begins with `regex:`. One that does not compile never fits: a spec
    /// with such a one is refused when it comes in.
    pub fn new(done: &[String]) -> Patterns {
        let pattern = |text: &String| match text.strip_prefix("regex:") {
            Some(pattern) => Regex::new(pattern).ok().map(Pattern::Regex),
            None => Some(Pattern::Text(text.clone())),
        };
        Patterns(done.iter().filter_map(pattern).collect())
    }

    pub fn fit(&self, line: &str) -> bool {
        let line = plain(line);
        self.0.iter().any(|pattern| match pattern {
            Pattern::Text(text) => line.contains(text.as_str()),
            Pattern::Regex(regex) => regex.is_match(&line),
        })
    }
}

/// The line without ANSI escape sequences (ECMA-48: CSI, OSC and two-character ones) and control characters but tabs.
fn plain(line: &str) -> Cow<'_, str> {
    if !line.bytes().any(|byte| byte < 0x20 && byte != b'\t') {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                // Parameters and intermediates, then one final byte.
                Some('[') => {
                    let _ = chars.find(|c| ('\u{40}'..='\u{7e}').contains(c));
                }
                // A title or a link, up to BEL or ESC \.
                Some(']') => {
                    let end = chars.find(|c| matches!(c, '\u{7}' | '\u{1b}'));
                    let _ = end.filter(|end| *end == '\u{1b}').and_then(|_| chars.next());
                }
                _ => {}
            },
            c if c < ' ' && c != '\t' => {}
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_texts_and_patterns_under_colours() {
        let check = |done: &str, line: &str, expected: bool| {
            assert_eq!(Patterns::new(&[done.to_owned()]).fit(line), expected, "{done:?} in {line:?}");
        };
        check("Done (", "[12:00:00] [Server thread/INFO]: Done (3.1s)! For help, type \"help\"", true);
        check("Done (", "done (", false);
        check("regex:^Done \\(\\d+s\\)!$", "Done (12s)!", true);
        check("regex:^Done", "not Done", false);
        check("server ready", "\u{1b}[32mserver \u{1b}[1;4mready\u{1b}[0m", true);
        check("server ready", "\u{1b}]0;title\u{7}server ready", true);
        check("server ready", "\u{1b}]8;;http://x\u{1b}\\server\u{1b}]8;;\u{1b}\\ ready\r", true);
        check("server ready", "\u{1b}", false);
        check("regex:(", "(", false);
        check("a\tb", "a\tb\u{8}", true);
    }

    #[test]
    fn any_one_is_enough() {
        let patterns = Patterns::new(&["one".into(), "regex:tw.".into()]);
        assert!(patterns.fit("two") && patterns.fit("one") && !patterns.fit("three"));
        assert!(!Patterns::new(&[]).fit("anything"));
    }
}
