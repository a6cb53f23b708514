//! `longshore-agent doctor`: one check after the other of what the Agent needs, for a person who looks for a fault. Runs
//! in a process of its own, beside a running Agent or without one, and changes nothing: not even a link that stands is
//! disturbed. What it prints holds no secret.

mod engine;
mod node;
mod panel;

use std::fmt;

use serde::Serialize;

use super::config::{Config, SecretSource};
use super::settings::Settings;
use crate::link::Secret;

/// How one check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It works, and something should be done.
    Warning,
    Failure,
    /// Not looked at, because of an earlier failure or of a running Agent.
    Skipped,
}

/// One check: what was found, and what to do about it.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    advice: &'static str,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Check {
        Check { check, verdict: Verdict::Ok, found: found.into(), advice: "" }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: &'static str) -> Check {
        Check { check, verdict: Verdict::Warning, found: found.into(), advice }
    }

    fn failure(check: &'static str, found: impl Into<String>, advice: &'static str) -> Check {
        Check { check, verdict: Verdict::Failure, found: found.into(), advice }
    }

    fn skipped(check: &'static str, why: impl Into<String>) -> Check {
        Check { check, verdict: Verdict::Skipped, found: why.into(), advice: "" }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failure => "FAILURE",
            Verdict::Skipped => "skipped",
        };
        write!(f, "{verdict:<8} {:<16} {}", self.check, self.found)?;
        match self.advice {
            "" => Ok(()),
            advice => write!(f, ". To do: {advice}"),
        }
    }
}

/// Makes every check and gives what is to be printed with the exit code: 1 when one failed. `fault` is what was wrong
/// with the places that settings come from.
pub fn run(settings: &Settings, fault: Option<String>, json: bool) -> (String, u8) {
    let checks = checks(settings, fault);
    let failed = checks.iter().any(|check| check.verdict == Verdict::Failure);
    let text = match json {
        true => serde_json::json!({"ok": !failed, "checks": checks}).to_string() + "\n",
        false => checks.iter().map(|check| format!("{check}\n")).collect(),
    };
    (text, u8::from(failed))
}

fn checks(settings: &Settings, fault: Option<String>) -> Vec<Check> {
    // The secret has a check of its own: a stand-in lets the others be made without it.
    let stand_in = Secret::new("none").map(SecretSource::Value).map_err(|e| e.to_string());
    let config = stand_in.and_then(|secret| Config::with_secret(settings, secret).map_err(|e| e.to_string()));
    let config = match (fault, config) {
        (None, Ok(config)) => config,
        (Some(fault), _) | (None, Err(fault)) => {
            let advice = "correct it; `longshore-agent config` shows every value and where it comes from";
            return vec![
                Check::failure("config", fault, advice),
                Check::skipped("the rest", "it depends on the configuration"),
                node::kernel(),
            ];
        }
    };
    let running =
        super::status::find(config.health_addr).filter(|health| health.node_id == config.node_id.as_str());
    let mut checks = vec![Check::ok("config", format!("complete, node {}", config.node_id))];
    let (check, secret) = node::secret(settings);
    checks.push(check);
    checks.extend(panel::checks(&config, secret.as_ref(), running.as_ref()));
    checks.extend(engine::checks(&config));
    checks.push(node::disk_space(&config.data_dir));
    checks.push(node::data_dir(&config.data_dir));
    checks.push(node::health_port(config.health_addr, running.as_ref()));
    checks.push(node::policy(&config.policy_file));
    checks.push(node::confinement(config.landlock, running.as_ref()));
    checks.push(node::kernel());
    checks
}
