//! The policy's TOML as a flat list of keys and values, each with its line. The grammar is `toml_parser`'s; what a
//! policy has no use for (tables in tables, inline tables, dates) is refused. Pure.

use std::fmt;

use toml_parser::decoder::ScalarKind;
use toml_parser::parser::{Event, EventKind, RecursionGuard, ValidateWhitespace, parse_document};
use toml_parser::{ParseError, Source, Span};

/// Values of one list, and keys of one file.
const MAX_VALUES: usize = 1024;

/// One `key = value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// With its table's name, such as `limits.memory`.
    pub key: String,
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    One(Scalar),
    List(Vec<Scalar>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    Text(String),
    Number(u64),
    Flag(bool),
}

/// What is wrong in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    pub line: usize,
    pub what: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Reads a whole file.
///
/// # Errors
/// The first line that is no TOML, says something twice, or holds what no policy holds.
pub fn read(text: &str) -> Result<Vec<Entry>, BadLine> {
    let source = Source::new(text);
    let (mut events, mut fault) = (Vec::new(), None::<ParseError>);
    let mut receiver = |event: Event| events.push(event);
    let mut receiver = ValidateWhitespace::new(&mut receiver, source);
    // Deeper than anything that is taken, and far from where a nesting would outgrow a stack.
    let mut receiver = RecursionGuard::new(&mut receiver, 8);
    parse_document(&source.lex().into_vec(), &mut receiver, &mut fault);
    let mut reader = Reader { source, fault, ..Reader::default() };
    for event in &events {
        reader.check()?;
        reader.take(event)?;
    }
    reader.check()?;
    Ok(reader.entries)
}

struct Reader<'a> {
    source: Source<'a>,
    /// What the grammar complains of.
    fault: Option<ParseError>,
    entries: Vec<Entry>,
    /// Tables that were opened.
    tables: Vec<String>,
    /// Within the brackets of a table's name.
    in_header: bool,
    /// Where the key that is read begins; `None` between two of them.
    key: Option<(String, usize)>,
    list: Option<Vec<Scalar>>,
}

impl Default for Reader<'_> {
    fn default() -> Self {
        Reader {
            source: Source::new(""),
            fault: None,
            entries: Vec::new(),
            tables: Vec::new(),
            in_header: false,
            key: None,
            list: None,
        }
    }
}

impl Reader<'_> {
    fn bad<T>(&self, at: usize, what: impl fmt::Display) -> Result<T, BadLine> {
        Err(BadLine { line: self.line(at), what: what.to_string() })
    }

    fn line(&self, at: usize) -> usize {
        let before = self.source.input().get(..at).unwrap_or_default();
        1 + before.bytes().filter(|byte| *byte == b'\n').count()
    }

    /// Whether the grammar has complained.
    fn check(&self) -> Result<(), BadLine> {
        let Some(fault) = &self.fault else { return Ok(()) };
        let span = fault.unexpected().or(fault.context()).unwrap_or_default();
        self.bad(span.start(), fault.description())
    }

    fn take(&mut self, event: &Event) -> Result<(), BadLine> {
        let span = event.span();
        match event.kind() {
            EventKind::StdTableOpen => self.in_header = true,
            EventKind::StdTableClose => {
                self.in_header = false;
                let name = self.key.take().map(|(name, _)| name).unwrap_or_default();
                if self.tables.contains(&name) {
                    return self.bad(span.start(), format_args!("[{name}] stands there twice"));
                }
                self.tables.push(name);
            }
            EventKind::SimpleKey => {
                let mut name = String::new();
                if let Some(raw) = self.source.get(event) {
                    raw.decode_key(&mut name, &mut self.fault);
                }
                let table = self.tables.last().filter(|_| !self.in_header).cloned();
                let (before, at) =
                    self.key.take().unwrap_or_else(|| (table.unwrap_or_default(), span.start()));
                self.key = Some((if before.is_empty() { name } else { before + "." + &name }, at));
            }
            EventKind::ArrayOpen if self.list.is_none() => self.list = Some(Vec::new()),
            EventKind::ArrayClose => {
                let list = self.list.take().unwrap_or_default();
                self.enter(Value::List(list), span)?;
            }
            EventKind::Scalar => {
                let scalar = self.scalar(event)?;
                match &mut self.list {
                    Some(list) if list.len() < MAX_VALUES => list.push(scalar),
                    Some(_) => {
                        return self.bad(span.start(), format_args!("more than {MAX_VALUES} values"));
                    }
                    None => self.enter(Value::One(scalar), span)?,
                }
            }
            EventKind::ArrayTableOpen | EventKind::InlineTableOpen | EventKind::ArrayOpen => {
                let key = self.key.as_ref().map_or("", |(key, _)| key);
                return self.bad(
                    span.start(),
                    format_args!(
                        "{key}: expected a text, a number, true, false or a list of them, and tables as [name]"
                    ),
                );
            }
            EventKind::Error => self.check()?,
            EventKind::ArrayTableClose
            | EventKind::InlineTableClose
            | EventKind::KeySep
            | EventKind::KeyValSep
            | EventKind::ValueSep
            | EventKind::Whitespace
            | EventKind::Comment
            | EventKind::Newline => {}
        }
        Ok(())
    }

    fn scalar(&mut self, event: &Event) -> Result<Scalar, BadLine> {
        let mut text = String::new();
        let kind = self.source.get(event).map(|raw| raw.decode_scalar(&mut text, &mut self.fault));
        self.check()?;
        match kind {
            Some(ScalarKind::String) => Ok(Scalar::Text(text)),
            Some(ScalarKind::Boolean(flag)) => Ok(Scalar::Flag(flag)),
            Some(ScalarKind::Integer(radix)) if u64::from_str_radix(&text, radix.value()).is_ok() => {
                Ok(Scalar::Number(u64::from_str_radix(&text, radix.value()).unwrap_or_default()))
            }
            _ => {
                let key = self.key.as_ref().map_or("", |(key, _)| key);
                self.bad(
                    event.span().start(),
                    format_args!("{key}: expected a text, a whole number, true or false"),
                )
            }
        }
    }

    fn enter(&mut self, value: Value, span: Span) -> Result<(), BadLine> {
        let (key, at) = self.key.take().unwrap_or_default();
        if self.entries.iter().any(|entry| entry.key == key) {
            return self.bad(at, format_args!("{key}: stands there twice"));
        }
        if self.entries.len() >= MAX_VALUES {
            return self.bad(span.start(), format_args!("more than {MAX_VALUES} keys"));
        }
        self.entries.push(Entry { line: self.line(at), key, value });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_with_their_tables_and_lines() {
        let text = "# a comment\nimages = [ 'a/*', # one\n  \"b\" ]\n\n[limits]\nmemory = \"4g\"\npids = 5_12\n\
                    [features]\n'files' = false\n";
        let texts = |list: &[&str]| Value::List(list.iter().map(|t| Scalar::Text((*t).into())).collect());
        let entry = |key: &str, line, value| Entry { key: key.into(), line, value };
        assert_eq!(
            read(text).unwrap(),
            [
                entry("images", 2, texts(&["a/*", "b"])),
                entry("limits.memory", 6, Value::One(Scalar::Text("4g".into()))),
                entry("limits.pids", 7, Value::One(Scalar::Number(512))),
                entry("features.files", 9, Value::One(Scalar::Flag(false))),
            ]
        );
        assert_eq!(read("limits.pids = 0x10").unwrap()[0].key, "limits.pids");
        assert_eq!(read(""), Ok(Vec::new()));
    }

    #[test]
    fn faults_name_their_line() {
        let check = |text: &str, line: usize, part: &str| {
            let bad = read(text).unwrap_err();
            assert!(bad.line == line && bad.what.contains(part), "{text:?}: {bad}");
        };
        check("a = 1\nb = \n", 2, "");
        check("a = 1\n[limits\nb = 1", 2, "");
        check("a = \"x", 1, "");
        check("a = 1\nb = 2\na = 3", 3, "a: stands there twice");
        check("[t]\na = 1\n[t]\n", 3, "[t] stands there twice");
        check("t.a = 1\n[t]\na = 1\n", 3, "t.a: stands there twice");
        check("a = 1\nb = { c = 1 }", 2, "b: expected");
        check("a = [1,\n [2]]", 2, "a: expected");
        check("[[a]]\nb = 1", 1, "expected");
        check("\na = 1.5", 2, "a: expected");
        check("a = -1", 1, "a: expected");
        check("a = 2020-01-01", 1, "a: expected");
        check("a = 99999999999999999999", 1, "a: expected");
        check("a = yes", 1, "");
        check("a = \"\\q\"", 1, "");
        check("nothing", 1, "");
        check(&("a = ".to_owned() + &"[".repeat(200_000)), 1, "");
    }
}
