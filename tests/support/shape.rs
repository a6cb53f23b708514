//! Messages compared with what the contract promises of them, field by field.

use serde_json::Value;

/// Panics unless `found` is what `pattern` says: the same fields, none missing and none too many, the same values.
///
/// In the pattern a text in angle brackets stands for any value of its kind (see [`is`]), and a field whose name
/// ends in `?` may be missing.
#[track_caller]
pub fn assert_shape(what: &str, found: &Value, pattern: &Value) {
    let mut faults = Vec::new();
    compare("", found, pattern, &mut faults);
    assert!(faults.is_empty(), "{what}: {}\nin {found:#}", faults.join("; "));
}

/// Whether `value` is of the kind that `<kind>` names.
fn is(kind: &str, value: &Value) -> bool {
    let text = value.as_str();
    let hex = |length| {
        text.is_some_and(|t| t.len() == length && t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    match kind {
        "any" => true,
        "text" => text.is_some_and(|text| !text.is_empty()),
        "texts" => value.as_array().is_some_and(|texts| texts.iter().all(Value::is_string)),
        "time" => text.is_some_and(is_time),
        "whole" => value.is_u64(),
        "positive" => value.as_u64().is_some_and(|n| n > 0),
        "percent" => value.as_f64().is_some_and(|n| (0.0..=100.0).contains(&n)),
        "number" => value.is_number(),
        "id64" => hex(64),
        "hex32" => hex(32),
        unknown => panic!("no kind is called {unknown}"),
    }
}

/// RFC 3339, UTC, milliseconds: `2025-07-24T10:00:00.000Z`.
fn is_time(text: &str) -> bool {
    let shape = |b: u8| if b.is_ascii_digit() { b'0' } else { b };
    text.bytes().map(shape).eq(*b"0000-00-00T00:00:00.000Z")
}

fn compare(path: &str, found: &Value, pattern: &Value, faults: &mut Vec<String>) {
    match (found, pattern) {
        (_, Value::String(kind)) if kind.starts_with('<') && kind.ends_with('>') => {
            if !is(&kind[1..kind.len() - 1], found) {
                faults.push(format!("{path} is {found} and no {kind}"));
            }
        }
        (Value::Object(found), Value::Object(pattern)) => {
            for (name, wanted) in pattern {
                let plain = name.trim_end_matches('?');
                match found.get(plain) {
                    Some(value) => compare(&format!("{path}.{plain}"), value, wanted, faults),
                    None if name.ends_with('?') => {}
                    None => faults.push(format!("{path}.{plain} is missing")),
                }
            }
            let promised =
                |name: &String| pattern.contains_key(name) || pattern.contains_key(&format!("{name}?"));
            faults.extend(
                found.keys().filter(|name| !promised(name)).map(|name| format!("{path}.{name} is too many")),
            );
        }
        (Value::Array(found), Value::Array(pattern)) if found.len() == pattern.len() => {
            for (n, (value, wanted)) in found.iter().zip(pattern).enumerate() {
                compare(&format!("{path}[{n}]"), value, wanted, faults);
            }
        }
        _ if found == pattern => {}
        _ => faults.push(format!("{path} is {found} and not {pattern}")),
    }
}
