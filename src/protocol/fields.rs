//! Typed access to the fields of a payload. Every fault names the field by its whole path, such as `limits.memory`;
//! `null` is the same as a missing field. Values are never repeated in a message: they may be secrets.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::Fault;

/// An object inside a payload and where it stands.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Empty, or `limits.`
    prefix: &'static str,
}

impl<'a> Fields<'a> {
    /// The payload itself.
    pub fn of(map: &'a Map<String, Value>) -> Fields<'a> {
        Fields { map, prefix: "" }
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The fault of a field: `expected` says what would have been right.
    pub fn fault(&self, name: &str, expected: impl Display) -> Fault {
        Fault::field(&format!("{}{name}", self.prefix), expected)
    }

    /// The object in a field; `prefix` is the field's path with the dot.
    pub fn object(&self, name: &str, prefix: &'static str) -> Result<Option<Fields<'a>>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { map, prefix })),
            Some(_) => Err(self.fault(name, "expected an object")),
        }
    }

    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Fault> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(self.fault(name, "expected true or false")),
        }
    }

    /// A text of at most `max` bytes without control characters.
    pub fn line(&self, name: &str, max: usize) -> Result<Option<&'a str>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if is_line(text, max) => Ok(Some(text)),
            Some(_) => {
                Err(self.fault(name, format_args!("expected a text of at most {max} bytes in one line")))
            }
        }
    }

    pub fn whole(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Fault> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match whole(value).filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => {
                let (low, high) = (range.start(), range.end());
                Err(self.fault(name, format_args!("expected a whole number from {low} to {high}")))
            }
        }
    }

    /// As [`Fields::whole`], for ranges within `u32`.
    pub fn small(&self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, Fault> {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        Ok(self.whole(name, wide)?.map(|n| u32::try_from(n).unwrap_or(*range.end())))
    }
}

/// A number without a fraction. `5.0` is one too: some writers have no other numbers.
pub fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        // 2^53: beyond it a float no longer tells neighbouring numbers apart.
        (float.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&float)).then_some(float as u64)
    })
}

/// At most `max` bytes and no control character.
pub fn is_line(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(char::is_control)
}
