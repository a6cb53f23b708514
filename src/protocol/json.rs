//! Reading JSON that somebody else wrote: bounded before it is parsed, strict about doubled names.
//!
//! Every text is measured first (one pass over its bytes, no memory), since serde_json allows 128 levels and a value
//! tree takes up to a hundred times its text. Trees are built by a visitor of our own: `serde_json::Value` lets the
//! last of two equal names win, and with `raw_value` it parses the text inside a magic key, past any depth limit.

use std::borrow::Cow;
use std::fmt;
use std::io;

use ring::digest;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

/// Levels of arrays and objects in a message, the outermost included.
pub const MAX_DEPTH: usize = 64;

/// Values in a message that is read into a tree: more than any list a Panel sends, and at most some 20 MiB as a tree.
pub const MAX_VALUES: usize = 65_536;

/// Nested deeper than [`MAX_DEPTH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooDeep;

/// Why a text did not become an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Another kind of value.
    NotAnObject,
    /// Not JSON, or a number or an escape that has no value.
    NotJson,
    /// A name that stands twice in one object.
    Doubled(String),
    /// More than [`MAX_VALUES`].
    TooMany,
}

/// At least the number of values in `text` (every value follows a bracket or a comma). Whether the text is JSON at
/// all is the parser's question; this looks only at quotes, brackets and commas, and stops at the first level too many.
pub fn measure(text: &[u8]) -> Result<usize, TooDeep> {
    let (mut depth, mut values) = (0usize, 1usize);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                values += 1;
                if depth > MAX_DEPTH {
                    return Err(TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    Ok(values)
}

/// Goes past the quote that ends a string, or to the end of the text.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

/// Reads one object, names unique at every level.
pub fn object(text: &str) -> Result<Map<String, Value>, Unreadable> {
    match measure(text.as_bytes()) {
        Ok(values) if values > MAX_VALUES => return Err(Unreadable::TooMany),
        Ok(_) => {}
        Err(TooDeep) => return Err(Unreadable::NotJson),
    }
    let mut doubled = None;
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = Strict(&mut doubled).deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
    match (value, doubled) {
        (Ok(Value::Object(map)), _) => Ok(map),
        (Ok(_), _) => Err(Unreadable::NotAnObject),
        (Err(_), Some(name)) => Err(Unreadable::Doubled(name)),
        (Err(_), None) => Err(Unreadable::NotJson),
    }
}

/// The text of a string value; `None` for any other kind and for a text that no `String` can hold.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let json = raw.get();
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    match inside.contains('\\') {
        false => Some(Cow::Borrowed(inside)),
        true => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

/// `text` made fit for a message or a log line: control characters escaped, at most `max` characters.
pub fn shown(text: &str, max: usize) -> String {
    text.chars()
        .take(max)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

/// SHA-256 over `parts`, each ended by a NUL, and the JSON of `value`, without writing it out. Maps are sorted by name,
/// so equal values have equal sums however they were written.
pub fn sha256(parts: &[&str], value: &impl Serialize) -> [u8; 32] {
    struct Sum(digest::Context);

    impl io::Write for Sum {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut sum = Sum(digest::Context::new(&digest::SHA256));
    for part in parts {
        sum.0.update(part.as_bytes());
        sum.0.update(&[0]);
    }
    serde_json::to_writer(&mut sum, value)
        .expect("our values have text keys only and the sum takes every byte");
    sum.0.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Builds a tree; the first doubled name is left in the field.
struct Strict<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Value, D::Error> {
        parser.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(Strict(self.0))? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if map.contains_key(&name) {
                *self.0 = Some(shown(&name, 64));
                return Err(A::Error::custom("doubled name"));
            }
            let value = entries.next_value_seed(Strict(self.0))?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> String {
        format!("{}1{}", "[".repeat(levels), "]".repeat(levels))
    }

    #[test]
    fn depth_is_counted_outside_strings_only() {
        assert!(measure(nested(64).as_bytes()).is_ok());
        assert_eq!(measure(nested(65).as_bytes()), Err(TooDeep));
        assert_eq!(measure(nested(10_000).as_bytes()), Err(TooDeep));
        assert!(measure(format!(r#"{{"a\"":"{}"}}"#, "[".repeat(100)).as_bytes()).is_ok());
        assert!(measure("[],".repeat(1000).as_bytes()).is_ok(), "closed levels do not count");
        for broken in ["\"", "\"\\", "]]]]", "{\"a", ""] {
            assert!(measure(broken.as_bytes()).is_ok(), "{broken:?} is the parser's to refuse");
        }
    }

    #[test]
    fn objects_are_read_strictly() {
        let read = |text| object(text);
        assert_eq!(read(r#"{"b":[1,-2,0.5],"a":{"c":null,"d":true}}"#).unwrap().len(), 2);
        assert_eq!(read("[1]"), Err(Unreadable::NotAnObject));
        assert_eq!(read("{"), Err(Unreadable::NotJson));
        assert_eq!(read("{} {}"), Err(Unreadable::NotJson));
        assert_eq!(read(r#"{"a":1e999}"#), Err(Unreadable::NotJson));
        assert_eq!(read(r#"{"a":"\ud800"}"#), Err(Unreadable::NotJson));
        assert_eq!(read(r#"{"a":{"x":1,"\u0078":2}}"#), Err(Unreadable::Doubled("x".into())));
        assert_eq!(read(&format!("{{\"a\":[{}0]}}", "0,".repeat(MAX_VALUES))), Err(Unreadable::TooMany));
    }

    #[test]
    fn the_magic_key_of_raw_values_is_a_name_like_any_other() {
        let map = object(r#"{"$serde_json::private::RawValue":"[[1]]"}"#).unwrap();
        assert_eq!(map["$serde_json::private::RawValue"], "[[1]]");
    }
}
