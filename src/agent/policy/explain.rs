//! `longshore-agent policy check`: the rules in plain words, and what they have against a spec. Runs in a process of its
//! own and changes nothing.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

use super::{Policy, PolicyFile, cores, size};
use crate::protocol::spec::{Rules, User};
use crate::protocol::{Fault, Spec};

/// Bytes of a spec that is read.
const MAX_SPEC: u64 = 16 << 20;

/// What is to be printed, with the exit code: 1 when the spec at `spec` (`-` is standard input) is refused.
///
/// # Errors
/// In one line, what is wrong with the policy or with where the spec is.
pub fn run(file: &PolicyFile, spec: Option<&Path>) -> Result<(String, u8), String> {
    let policy = file.read().map_err(|bad| bad.to_string())?;
    let Some(path) = spec else {
        return Ok((
            match policy {
                Some(policy) => format!("{}\n{policy}", file.path.display()),
                None => format!("there is no {}: nothing is ruled\n", file.path.display()),
            },
            0,
        ));
    };
    let policy = policy.unwrap_or_default();
    let spec = match read_spec(path)? {
        Ok(spec) => spec,
        Err(fault) => return Ok((format!("refused whatever the policy says: {fault}\n"), 1)),
    };
    let refusals = policy.against(&spec);
    if refusals.is_empty() {
        return Ok(("allowed\n".into(), 0));
    }
    Ok((refusals.iter().fold(String::new(), |text, refusal| text + &refusal.to_string() + "\n"), 1))
}

/// A spec, or a whole command that holds one.
fn read_spec(path: &Path) -> Result<Result<Spec, Fault>, String> {
    let bad = |what: &dyn fmt::Display| format!("{}: {what}", path.display());
    let mut text = String::new();
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(fs::File::open(path).map_err(|e| bad(&e))?),
    };
    source.take(MAX_SPEC).read_to_string(&mut text).map_err(|e| bad(&e))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(mut map)) => {
            if let Some(Value::Object(inner)) = map.remove("payload").or_else(|| map.remove("data")) {
                map = inner;
            }
            Ok(Spec::parse(&map, &Rules::default()))
        }
        Ok(_) => Err(bad(&"expected a JSON object")),
        Err(e) => Err(bad(&e)),
    }
}

/// One line for each rule.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Policy::default() {
            return writeln!(f, "nothing is ruled");
        }
        if let Some(images) = &self.images {
            writeln!(f, "images: {}", among(images, "no image at all"))?;
        }
        if self.digests_only {
            writeln!(
                f,
                "digests-only: images are named by their digest, so that what runs cannot be exchanged"
            )?;
        }
        if let Some(registries) = &self.registries {
            writeln!(f, "registries: images come from {}", among(registries, "nowhere"))?;
        }
        if let Some(ports) = &self.ports {
            let shown: Vec<String> = ports.iter().map(ToString::to_string).collect();
            writeln!(f, "ports: published is {}", among(&shown, "none"))?;
        }
        if let Some(addresses) = &self.addresses {
            let shown: Vec<String> = addresses
                .iter()
                .map(|ip| if ip.is_unspecified() { "all addresses at once".into() } else { ip.to_string() })
                .collect();
            writeln!(f, "addresses: ports are published on {}", among(&shown, "none"))?;
        }
        let limits = &self.limits;
        let lines = [
            ("memory", limits.memory.map(size)),
            ("swap", limits.swap.map(size)),
            ("disk", limits.disk.map(size)),
            ("cpu", limits.nano_cpus.map(cores)),
            ("pids", limits.pids.map(|pids| pids.to_string())),
        ];
        for (name, most) in lines.into_iter().filter_map(|(name, most)| Some((name, most?))) {
            writeln!(f, "limits.{name}: at most {most} for each server, and not unlimited")?;
        }
        for feature in &self.off {
            writeln!(f, "features.{}: switched off", feature.name())?;
        }
        if let Some(mounts) = &self.mounts {
            writeln!(f, "mounts: a server's directory is mounted at {}", among(mounts, "no place"))?;
        }
        if let Some(users) = &self.users {
            let shown: Vec<String> = users
                .iter()
                .map(|user| match user {
                    User::Image => "the image's own user, which may be root".into(),
                    User::Ids { .. } => user.to_string(),
                })
                .collect();
            writeln!(f, "users: SERVER_USER, or {}", among(&shown, "nobody else"))?;
        }
        if let Some(capabilities) = &self.capabilities {
            writeln!(f, "capabilities: added is {}", among(capabilities, "none"))?;
        }
        if let Some(number) = self.commands_per_minute {
            writeln!(f, "commands-per-minute: {number}, of every kind and from every side together")?;
        }
        Ok(())
    }
}

fn among<T: fmt::Display>(list: &[T], none: &str) -> String {
    let mut text = String::new();
    for (at, one) in list.iter().enumerate() {
        let between = match at {
            0 => "",
            _ if at + 1 == list.len() => " or ",
            _ => ", ",
        };
        let _ = write!(text, "{between}{one}");
    }
    if text.is_empty() { none.to_owned() } else { text }
}

impl fmt::Display for super::PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.ports.clone().into_inner();
        write!(f, "{first}")?;
        if last != first {
            write!(f, "-{last}")?;
        }
        self.protocol.map_or(Ok(()), |protocol| write!(f, "/{protocol}"))
    }
}
