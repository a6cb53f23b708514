//! Limits and their units: sizes, shares of a core, and how they are written back.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::Limits;
use crate::protocol::Fault;
use crate::protocol::fields::{Fields, whole};

const MIB: u64 = 1 << 20;

/// The least memory the Engine gives a container. A smaller number cannot be meant in bytes, so it is MiB.
const ENGINE_MINIMUM: u64 = 6 * MIB;

/// A bound that no node reaches, well within what JSON readers hold exactly.
const MAX_BYTES: u64 = 1 << 50;

const MAX_CORES: u64 = 1024;
const NANOS: u64 = 1_000_000_000;

const SIZE_RULE: &str =
    "expected a number of bytes (below 6 MiB: of MiB), a text such as \"2048m\", or 0 for unlimited";

impl Limits {
    pub(super) fn parse(fields: &Fields) -> Result<Limits, Fault> {
        let memory = size(fields, "memory")?;
        if memory.is_some_and(|bytes| bytes < ENGINE_MINIMUM) {
            return Err(fields.fault("memory", "expected at least 6 MiB, the least a container can have"));
        }
        Ok(Limits {
            memory,
            swap: swap(fields)?,
            disk: size(fields, "disk")?,
            nano_cpus: cpu(fields)?,
            io: io(fields)?,
            pids: fields.small("pids", 1..=1_000_000)?.unwrap_or(Limits::default().pids),
        })
    }
}

fn size(fields: &Fields, name: &str) -> Result<Option<u64>, Fault> {
    match fields.get(name).map(bytes) {
        None | Some(Some(0)) => Ok(None),
        Some(Some(bytes)) if bytes <= MAX_BYTES => Ok(Some(bytes)),
        Some(_) => Err(fields.fault(name, SIZE_RULE)),
    }
}

/// On top of memory, so 0 is no swap at all; unlimited is -1.
fn swap(fields: &Fields) -> Result<Option<i64>, Fault> {
    match fields.get("swap") {
        Some(value) if value.as_i64() == Some(-1) || value.as_str() == Some("-1") => Ok(Some(-1)),
        _ => match size(fields, "swap") {
            Ok(bytes) => Ok(bytes.map(|bytes| bytes.cast_signed())),
            Err(_) => {
                Err(fields.fault("swap", "expected a size like memory's, 0 for none or -1 for unlimited"))
            }
        },
    }
}

fn cpu(fields: &Fields) -> Result<Option<u64>, Fault> {
    let nanos = match fields.get("cpu") {
        None => return Ok(None),
        Some(Value::Number(percent)) => decimal(&percent.to_string()).map(|nanos| nanos / 100),
        Some(Value::String(cores)) => decimal(cores.trim()),
        Some(_) => None,
    };
    match nanos.map(u64::try_from) {
        Some(Ok(0)) => Ok(None),
        // The Engine refuses less than a hundredth of a core.
        Some(Ok(n)) if (NANOS / 100..=MAX_CORES * NANOS).contains(&n) => Ok(Some(n)),
        _ => Err(fields
            .fault("cpu", "expected percent of one core as a number (150), cores as a text (\"1.5\"), or 0")),
    }
}

fn io(fields: &Fields) -> Result<Option<u16>, Fault> {
    match fields.get("io").map(whole) {
        None | Some(Some(0)) => Ok(None),
        Some(Some(weight @ 10..=1000)) => Ok(u16::try_from(weight).ok()),
        Some(_) => Err(fields.fault("io", "expected a block weight from 10 to 1000")),
    }
}

/// Bytes of a number (see [`ENGINE_MINIMUM`]) or of a text with a unit. A text without one is read like a number,
/// because that is what writers that quote their numbers mean.
fn bytes(value: &Value) -> Option<u64> {
    let bare = |n: u64| if n < ENGINE_MINIMUM { n * MIB } else { n };
    let Value::String(text) = value else { return whole(value).map(bare) };
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u128 = match &text[digits.len()..] {
        "" => return digits.parse().ok().map(bare),
        "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    u64::try_from(decimal(digits.trim_end())? * unit / u128::from(NANOS)).ok()
}

/// A decimal number in billionths: exact, where a float would turn 0.1 into something else. At most fifteen digits
/// before the point and nine after it.
fn decimal(text: &str) -> Option<u128> {
    let (units, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits =
        |part: &str, max| (1..=max).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(units, 15) || !digits(fraction, 9) {
        return None;
    }
    format!("{units}{fraction:0<9}").parse().ok()
}

/// Written so that parsing reads the same back: a size that would be taken for MiB gets its unit.
impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Wire {
            #[serde(skip_serializing_if = "Option::is_none")]
            memory: Option<Size>,
            #[serde(skip_serializing_if = "Option::is_none")]
            swap: Option<Size>,
            #[serde(skip_serializing_if = "Option::is_none")]
            disk: Option<Size>,
            #[serde(skip_serializing_if = "Option::is_none")]
            cpu: Option<Cores>,
            #[serde(skip_serializing_if = "Option::is_none")]
            io: Option<u16>,
            pids: u32,
        }
        Wire {
            memory: self.memory.map(|n| Size(n.cast_signed())),
            swap: self.swap.map(Size),
            disk: self.disk.map(|n| Size(n.cast_signed())),
            cpu: self.nano_cpus.map(Cores),
            io: self.io,
            pids: self.pids,
        }
        .serialize(s)
    }
}

struct Size(i64);

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            n if (1..=ENGINE_MINIMUM.cast_signed()).contains(&n) => s.collect_str(&format_args!("{n}b")),
            n => s.serialize_i64(n),
        }
    }
}

struct Cores(u64);

impl Serialize for Cores {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:09}", self.0 / NANOS, self.0 % NANOS);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(limits: Value) -> Result<Limits, String> {
        let map = json!({ "limits": limits });
        let fields = Fields::of(map.as_object().unwrap()).object("limits", "limits.").unwrap().unwrap();
        Limits::parse(&fields).map_err(|fault| fault.message)
    }

    #[test]
    fn sizes_follow_the_rule_of_units() {
        let check = |value: Value, bytes: Option<u64>| {
            assert_eq!(parse(json!({ "disk": value })).unwrap().disk, bytes, "{value}");
        };
        check(json!(0), None);
        check(json!("0"), None);
        check(json!(null), None);
        check(json!(1), Some(MIB));
        check(json!(2048), Some(2048 * MIB));
        check(json!(2048.0), Some(2048 * MIB));
        check(json!(6 * MIB - 1), Some((6 * MIB - 1) * MIB));
        check(json!(6 * MIB), Some(6 * MIB));
        check(json!(1u64 << 30), Some(1 << 30));
        check(json!("2048m"), Some(2048 * MIB));
        check(json!("2048M"), Some(2048 * MIB));
        check(json!("4096k"), Some(4 * MIB));
        check(json!("2g"), Some(2048 * MIB));
        check(json!("1.5g"), Some(1536 * MIB));
        check(json!("2 GiB"), Some(2048 * MIB));
        check(json!("512mb"), Some(512 * MIB));
        check(json!("77b"), Some(77));
        check(json!("2147483648b"), Some(1 << 31));
        check(json!("2048"), Some(2048 * MIB));
    }

    #[test]
    fn wrong_limits_are_named() {
        let check = |field: &str, value: Value| {
            let message = parse(json!({ field: value })).unwrap_err();
            assert!(message.starts_with(&format!("limits.{field}: ")), "{value}: {message}");
        };
        for wrong in [
            json!(-1),
            json!(1.5),
            json!("much"),
            json!(true),
            json!([1]),
            json!("1x"),
            json!("m"),
            json!(""),
        ] {
            check("memory", wrong.clone());
            check("disk", wrong);
        }
        for wrong in [
            json!("ib"),
            json!("1ib"),
            json!("9999999999g"),
            json!("2gbb"),
            json!("1.5"),
            json!(1e300),
            json!(u64::MAX),
            json!("-5m"),
        ] {
            check("disk", wrong);
        }
        check("memory", json!("5m"));
        check("memory", json!(5));
        for wrong in [json!(-2), json!("-2"), json!("x")] {
            check("swap", wrong);
        }
        for wrong in
            [json!(-1), json!("two"), json!(0.5), json!("0.001"), json!(1e9), json!("2000"), json!(true)]
        {
            check("cpu", wrong);
        }
        for wrong in [json!(9), json!(1001), json!("10"), json!(10.5)] {
            check("io", wrong);
        }
        for wrong in [json!(0), json!(-1), json!("512"), json!(1_000_001)] {
            check("pids", wrong);
        }
    }

    #[test]
    fn cpu_is_percent_as_a_number_and_cores_as_a_text() {
        let check = |value: Value, nanos: Option<u64>| {
            assert_eq!(parse(json!({ "cpu": value })).unwrap().nano_cpus, nanos, "{value}");
        };
        check(json!(150), Some(1_500_000_000));
        check(json!(33.3), Some(333_000_000));
        check(json!("2"), Some(2_000_000_000));
        check(json!("0.1"), Some(100_000_000));
        check(json!(0), None);
        check(json!("0"), None);
    }

    #[test]
    fn swap_pids_and_io() {
        assert_eq!(parse(json!({ "swap": -1 })).unwrap().swap, Some(-1));
        assert_eq!(parse(json!({ "swap": 0 })).unwrap().swap, None);
        assert_eq!(parse(json!({ "swap": "1g" })).unwrap().swap, Some(1 << 30));
        assert_eq!(
            parse(json!({ "io": 500, "pids": 64 })).unwrap(),
            Limits { io: Some(500), pids: 64, ..Limits::default() }
        );
        assert_eq!(parse(json!({})).unwrap(), Limits::default());
    }
}
