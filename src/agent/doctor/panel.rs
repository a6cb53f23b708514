//! The way to the Panel, step by step: one dial is made, and each check tells of its part of it.

use std::time::{Duration, SystemTime};

use super::Check;
use crate::agent::config::Config;
use crate::agent::status::Health;
use crate::link::dial::{DialError, Phase, Survey};
use crate::link::{Secret, validity};

/// A certificate that ends within this time is told.
const SOON_OVER: Duration = Duration::from_secs(14 * 86400);
/// Clocks that differ by more are told, and are a failure beyond the second: certificates and tokens are judged by them.
const CLOCK_WARNING: Duration = Duration::from_secs(30);
const CLOCK_FAILURE: Duration = Duration::from_secs(300);

const STEPS: [(&str, Phase); 5] = [
    ("dns", Phase::Dns),
    ("tcp", Phase::Connect),
    ("proxy", Phase::Proxy),
    ("tls", Phase::Tls),
    ("upgrade", Phase::Upgrade),
];

pub(super) fn checks(config: &Config, secret: Option<&Secret>, running: Option<&Health>) -> Vec<Check> {
    let dialer = match crate::agent::dialer(config) {
        Ok(dialer) => dialer,
        Err(e) => {
            let advice = "install certificates or set CA_FILE";
            return vec![Check::failure("tls", e.to_string(), advice)];
        }
    };
    // A second connection of this node would end the first.
    let linked = running.is_some_and(|health| health.connected);
    let secret = secret.filter(|_| !linked);
    let (survey, result) = dialer.survey(secret);
    let failed = result.as_ref().err().map(DialError::phase);
    let mut checks = Vec::new();
    for (name, phase) in STEPS {
        let reached = failed.is_none_or(|failed| order(failed) >= order(phase));
        checks.push(match (&result, failed == Some(phase)) {
            _ if !reached => Check::skipped(name, "not reached"),
            // Refused for the secret's sake is an upgrade that works.
            (Err(DialError::Refused(refusal)), true) if matches!(refusal.status, 401 | 403) => {
                Check::ok(name, format!("the Panel answers, with {}", refusal.status))
            }
            (Err(error), true) => Check::failure(name, error.to_string(), advice(error)),
            _ => passed(name, phase, config, &survey, secret, linked),
        });
        if phase == Phase::Tls && reached {
            checks.extend(certificate(&survey));
        }
    }
    checks.push(clock(&result, linked));
    checks.push(match &result {
        _ if linked => Check::ok("authentication", "the running Agent is linked"),
        Ok(_) if secret.is_some() => Check::ok("authentication", "the Panel takes this node's secret"),
        Err(DialError::Refused(refusal)) if matches!(refusal.status, 401 | 403) => Check::failure(
            "authentication",
            format!("the Panel refuses node {} with {}", config.node_id, refusal.status),
            "compare NODE_ID and the secret with what the Panel gave for this node",
        ),
        _ => Check::skipped("authentication", "not reached"),
    });
    checks
}

fn order(phase: Phase) -> usize {
    STEPS.iter().position(|(_, step)| *step == phase).unwrap_or(STEPS.len())
}

fn passed(
    name: &'static str,
    phase: Phase,
    config: &Config,
    survey: &Survey,
    secret: Option<&Secret>,
    linked: bool,
) -> Check {
    match phase {
        Phase::Dns => {
            let found: Vec<_> = survey.addresses.iter().map(|address| address.ip().to_string()).collect();
            Check::ok(name, found.join(", "))
        }
        Phase::Connect => {
            Check::ok(name, survey.connected.map_or_else(String::new, |address| address.to_string()))
        }
        Phase::Proxy => match &config.proxy {
            Some(proxy) => Check::ok(name, format!("{proxy} gives a tunnel")),
            None => Check::ok(name, "none is used"),
        },
        Phase::Tls if !config.panel_url.secure() && config.panel_url.host().is_loopback() => {
            Check::ok(name, "none, within this machine")
        }
        Phase::Tls if !config.panel_url.secure() => Check::warning(
            name,
            "none: the secret and everything else travels in clear",
            "use wss:// for PANEL_URL",
        ),
        Phase::Tls => Check::ok(name, "the Panel's certificate is trusted"),
        Phase::Upgrade if linked => Check::skipped(name, "the running Agent is linked, and stays so"),
        Phase::Upgrade if secret.is_none() => Check::skipped(name, "there is no secret to send"),
        Phase::Upgrade => Check::ok(name, "a WebSocket"),
    }
}

fn advice(error: &DialError) -> &'static str {
    match error {
        DialError::Dns { .. } => "check the name in PANEL_URL (or of the proxy) and /etc/resolv.conf",
        DialError::Connect { .. } => "check that the Panel runs, its port, and firewalls on the way",
        DialError::Proxy { .. } => "check HTTPS_PROXY or HTTP_PROXY, its password, and NO_PROXY",
        DialError::Tls(_) | DialError::NoTls => {
            "check the Panel's certificate and this node's clock; set CA_FILE for an authority of your own"
        }
        DialError::Refused(_) | DialError::Upgrade(_) | DialError::Header { .. } => {
            "check the path in PANEL_URL, and that a reverse proxy passes WebSockets on"
        }
        DialError::TimedOut(_) => "check the network between this node and the Panel",
    }
}

fn certificate(survey: &Survey) -> Option<Check> {
    let name = "certificate";
    let end = validity::not_after(survey.certificate.as_ref()?)?;
    let until = format!("valid until {}", humantime::format_rfc3339_seconds(end));
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    Some(match left < SOON_OVER {
        true => Check::warning(name, until, "renew the Panel's certificate"),
        false => Check::ok(name, until),
    })
}

fn clock(result: &Result<Option<SystemTime>, DialError>, linked: bool) -> Check {
    let name = "clock";
    let date = match result {
        Ok(date) => *date,
        Err(error) => error.refusal().and_then(|refusal| refusal.date),
    };
    let Some(date) = date else {
        let why = if linked { "the running Agent is linked, and stays so" } else { "the Panel told no time" };
        return Check::skipped(name, why);
    };
    let now = SystemTime::now();
    let offset = now.duration_since(date).unwrap_or_else(|e| e.duration());
    let found = format!("differs from the Panel's by {} s", offset.as_secs());
    let advice = "set this node's clock, best by NTP";
    match offset {
        _ if offset > CLOCK_FAILURE => Check::failure(name, found, advice),
        _ if offset > CLOCK_WARNING => Check::warning(name, found, advice),
        _ => Check::ok(name, found),
    }
}
