//! How a server is stopped, and which signals there are.

use super::{Stop, StopMethod};
use crate::protocol::Fault;
use crate::protocol::fields::Fields;

/// Signals that can ask a process to end. Those that only freeze it (STOP, TSTP) or report to it (CHLD, URG) are left
/// out: a stop with one of them would always end in SIGKILL.
const SIGNALS: [&str; 12] =
    ["TERM", "INT", "QUIT", "HUP", "KILL", "ABRT", "USR1", "USR2", "ALRM", "PIPE", "WINCH", "PWR"];

/// Longest line for a server's standard input, in bytes.
const MAX_COMMAND: usize = 4096;

impl Stop {
    pub(super) fn parse(fields: &Fields) -> Result<Stop, Fault> {
        let default = Stop::default();
        let method = match fields.line("type", 16)? {
            None if fields.get("value").is_none() => default.method,
            Some("signal") => StopMethod::Signal(
                signal(fields, "value")?
                    .ok_or_else(|| fields.fault("value", "expected the signal's name"))?,
            ),
            Some("command") => match fields.line("value", MAX_COMMAND)? {
                Some(line) if !line.trim().is_empty() => StopMethod::Command(line.to_owned()),
                _ => return Err(fields.fault("value", "expected the command to write")),
            },
            _ => return Err(fields.fault("type", "expected command or signal")),
        };
        Ok(Stop { method, timeout: fields.small("timeout", 0..=3600)?.unwrap_or(default.timeout) })
    }
}

/// A signal by its name, with or without `SIG`, in one spelling: `SIGTERM`.
pub(in crate::protocol) fn signal(fields: &Fields, name: &str) -> Result<Option<String>, Fault> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let upper = value.as_str().unwrap_or_default().to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    match SIGNALS.contains(&short) {
        true => Ok(Some(format!("SIG{short}"))),
        false => Err(fields.fault(
            name,
            format_args!("expected a signal: {}", SIGNALS.map(|s| format!("SIG{s}")).join(", ")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(stop: Value) -> Result<Stop, String> {
        let map = json!({ "stop": stop });
        let fields = Fields::of(map.as_object().unwrap()).object("stop", "stop.").unwrap().unwrap();
        Stop::parse(&fields).map_err(|fault| fault.message)
    }

    #[test]
    fn both_ways_to_stop() {
        let check = |stop: Value, method: StopMethod, timeout: u32| {
            assert_eq!(parse(stop.clone()), Ok(Stop { method, timeout }), "{stop}");
        };
        check(json!({"type":"command","value":"stop"}), StopMethod::Command("stop".into()), 30);
        check(json!({"type":"signal","value":"SIGINT","timeout":0}), StopMethod::Signal("SIGINT".into()), 0);
        check(
            json!({"type":"signal","value":"quit","timeout":3600}),
            StopMethod::Signal("SIGQUIT".into()),
            3600,
        );
        check(json!({"timeout":5}), StopMethod::Signal("SIGTERM".into()), 5);
        check(json!({}), StopMethod::Signal("SIGTERM".into()), 30);
    }

    #[test]
    fn wrong_ways_are_named() {
        let check = |stop: Value, field: &str| {
            let message = parse(stop.clone()).unwrap_err();
            assert!(message.starts_with(&format!("stop.{field}: ")), "{stop}: {message}");
        };
        check(json!({"type":"rcon","value":"stop"}), "type");
        check(json!({"value":"stop"}), "type");
        check(json!({"type":1,"value":"stop"}), "type");
        check(json!({"type":"command"}), "value");
        check(json!({"type":"command","value":" "}), "value");
        check(json!({"type":"command","value":"save\nstop"}), "value");
        check(json!({"type":"command","value":"x".repeat(4097)}), "value");
        check(json!({"type":"signal"}), "value");
        check(json!({"type":"signal","value":"SIGSTOP"}), "value");
        check(json!({"type":"signal","value":15}), "value");
        check(json!({"timeout":3601}), "timeout");
        check(json!({"timeout":-1}), "timeout");
        check(json!({"timeout":"30"}), "timeout");
    }
}
