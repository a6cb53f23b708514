//! The policy of this node's owner: what no Panel may ask for, whatever secret it has. Read from a file at the start and
//! on SIGHUP; no message of a Panel reaches it. Pure but for `file`; the agent loop asks it before anything is done.
//!
//! | file | holds |
//! |---|---|
//! | here | the rules, and what they say to a spec and to an action |
//! | `file` | the file: who may write it, when it is read |
//! | `lines` | its TOML as keys and values with their lines |
//! | `read` | those as rules, every value checked |
//! | `pattern` | names with wildcards |
//! | `rate` | commands per minute |
//! | `explain` | the rules in plain words, and `policy check` |

pub mod explain;
pub mod file;
mod lines;
mod pattern;
mod rate;
mod read;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

pub use file::PolicyFile;
pub use rate::Rate;

use self::pattern::{ImagePattern, is_like};
use crate::docker::{ImageVersion, Reference};
use crate::protocol::spec::{Limits, Port, Protocol, User};
use crate::protocol::{Action, Code, ConsoleAction, Fault, ServerAction, Spec};

/// The rules. What is `None` is not ruled; the default rules nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    images: Option<Vec<ImagePattern>>,
    digests_only: bool,
    registries: Option<Vec<String>>,
    ports: Option<Vec<PortRange>>,
    /// Unspecified ones stand for publishing on all.
    addresses: Option<Vec<IpAddr>>,
    limits: Ceilings,
    /// What is switched off.
    off: Vec<Feature>,
    mounts: Option<Vec<String>>,
    users: Option<Vec<User>>,
    /// Without `CAP_`.
    capabilities: Option<Vec<String>>,
    /// At least 1.
    commands_per_minute: Option<u32>,
}

/// Why a file is no policy, in one line: where, which key, and what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPolicy(String);

impl fmt::Display for BadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadPolicy {}

/// Published ports that may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PortRange {
    ports: RangeInclusive<u16>,
    /// `None` is both.
    protocol: Option<Protocol>,
}

/// The most that a server's limits may be, in the units of [`Limits`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ceilings {
    memory: Option<u64>,
    swap: Option<u64>,
    disk: Option<u64>,
    nano_cpus: Option<u64>,
    pids: Option<u32>,
}

/// A part of the Agent that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feature {
    Files,
    Mods,
    ConsoleInput,
    Create,
    Delete,
}

impl Feature {
    const ALL: [(&'static str, Feature); 5] = [
        ("files", Feature::Files),
        ("mods", Feature::Mods),
        ("console-input", Feature::ConsoleInput),
        ("create", Feature::Create),
        ("delete", Feature::Delete),
    ];

    fn name(self) -> &'static str {
        Feature::ALL.into_iter().find(|(_, feature)| *feature == self).map_or("", |(name, _)| name)
    }

    /// The one that an action belongs to.
    fn of(action: &ServerAction) -> Option<Feature> {
        match action {
            ServerAction::Create(_) => Some(Feature::Create),
            ServerAction::Delete { .. } => Some(Feature::Delete),
            ServerAction::File(_) | ServerAction::Archive(_) => Some(Feature::Files),
            ServerAction::Mod(_) => Some(Feature::Mods),
            ServerAction::Console(
                ConsoleAction::Command(_) | ConsoleAction::Input(_) | ConsoleAction::Interrupt,
            ) => Some(Feature::ConsoleInput),
            ServerAction::Console(_)
            | ServerAction::Update(_)
            | ServerAction::Start
            | ServerAction::Stop(_)
            | ServerAction::Restart(_)
            | ServerAction::Kill
            | ServerAction::Suspend
            | ServerAction::Unsuspend
            | ServerAction::Status
            | ServerAction::Metrics => None,
        }
    }
}

/// What a rule has against a spec or an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule's key in the file, such as `limits.memory`.
    pub rule: String,
    /// The field's name in the spec; empty where a whole action is refused.
    pub field: String,
    why: String,
}

impl Refusal {
    fn new(rule: &str, field: impl Into<String>, why: impl fmt::Display) -> Refusal {
        Refusal { rule: rule.to_owned(), field: field.into(), why: why.to_string() }
    }

    /// More commands than may come.
    pub fn too_many(per_minute: u32, wait: Duration) -> Refusal {
        let seconds = wait.as_secs() + 1;
        let why = format_args!("at most {per_minute} a minute are taken; the next one in {seconds} s");
        Refusal::new("commands-per-minute", "", why)
    }

    /// The field's name without the index or the port in it, as updates name what they change.
    fn part(&self) -> &str {
        match self.field.starts_with("limits.") {
            true => &self.field,
            false => self.field.split(['[', '.']).next().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { rule, field, why } = self;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        write!(f, "refused by this node's owner (policy: {rule}): {why}")
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::new(Code::PermissionDenied, refusal.to_string())
    }
}

impl Policy {
    /// What it has against an action as such, whatever server it is for.
    ///
    /// # Errors
    /// The rule.
    pub fn admit(&self, action: &Action) -> Result<(), Refusal> {
        let (Action::Server(_, action) | Action::Container(_, action)) = action else { return Ok(()) };
        match Feature::of(action).filter(|feature| self.off.contains(feature)) {
            None => Ok(()),
            Some(feature) => {
                let rule = format!("features.{}", feature.name());
                Err(Refusal::new(&rule, "", "it is switched off here"))
            }
        }
    }

    /// How many commands a minute may be taken; `None` for any number.
    pub fn commands_per_minute(&self) -> Option<u32> {
        self.commands_per_minute
    }

    /// The first thing that it has against a spec.
    ///
    /// # Errors
    /// The rule and the field.
    pub fn allows(&self, spec: &Spec) -> Result<(), Refusal> {
        self.against(spec).into_iter().next().map_or(Ok(()), Err)
    }

    /// The same for a change of a stored spec, judged by the fields that differ: what was allowed once does not stand in
    /// the way of another field's change. A start asks for all of it.
    ///
    /// # Errors
    /// The rule and the field.
    pub fn allows_change(&self, spec: &Spec, changed: &[&str]) -> Result<(), Refusal> {
        let hit = |refusal: &Refusal| changed.contains(&refusal.part());
        self.against(spec).into_iter().find(hit).map_or(Ok(()), Err)
    }

    /// Everything that it has against a spec, in the order of the rules.
    pub fn against(&self, spec: &Spec) -> Vec<Refusal> {
        let mut found = Vec::new();
        found.extend(self.image(&spec.image));
        found.extend(spec.ports.iter().enumerate().filter_map(|(at, port)| self.port(spec, at, port)));
        self.limits.against(&spec.limits, &mut found);
        if let Some(mounts) = &self.mounts
            && !mounts.iter().any(|pattern| is_like(&spec.mount_path, pattern))
        {
            found.push(Refusal::new("mounts", "mountPath", "the directory may not be mounted there"));
        }
        if let (Some(users), Some(user)) = (&self.users, &spec.user)
            && !users.contains(user)
        {
            found.push(Refusal::new("users", "user", "leave it out, or name one that is allowed"));
        }
        if let Some(allowed) = &self.capabilities {
            let more = spec.capabilities.iter().enumerate().filter(|(_, name)| !allowed.contains(name));
            found.extend(more.map(|(at, name)| {
                Refusal::new(
                    "capabilities",
                    format!("capabilities[{at}]"),
                    format_args!("{name} is not given"),
                )
            }));
        }
        found
    }

    fn image(&self, image: &str) -> Option<Refusal> {
        if self.images.is_none() && self.registries.is_none() && !self.digests_only {
            return None;
        }
        let Ok(reference) = image.parse::<Reference>() else {
            return Some(Refusal::new("images", "image", "it is no image name that could be judged"));
        };
        if may_be_an_id(image) {
            return Some(Refusal::new(
                "images",
                "image",
                "it could mean an image's id; write its registry too",
            ));
        }
        if let Some(registries) = &self.registries
            && !registries.contains(&reference.registry)
        {
            return Some(Refusal::new("registries", "image", "images of its registry may not be used"));
        }
        if self.digests_only && !matches!(reference.version, ImageVersion::Digest(_)) {
            let why = "name it by its digest, as name@sha256:…";
            return Some(Refusal::new("digests-only", "image", why));
        }
        match &self.images {
            Some(images) if !images.iter().any(|pattern| pattern.fits(&reference)) => {
                Some(Refusal::new("images", "image", "it is not among the allowed ones"))
            }
            _ => None,
        }
    }

    fn port(&self, spec: &Spec, at: usize, port: &Port) -> Option<Refusal> {
        let field = |part: &str| match spec.ports_as_map {
            true => format!("ports.{}/{}", port.internal, port.protocol),
            false => format!("ports[{at}].{part}"),
        };
        let in_range = |range: &PortRange| {
            range.ports.contains(&port.external) && range.protocol.is_none_or(|known| known == port.protocol)
        };
        if self.ports.as_ref().is_some_and(|ranges| !ranges.iter().any(in_range)) {
            let why = format_args!("port {}/{} may not be published", port.external, port.protocol);
            return Some(Refusal::new("ports", field("external"), why));
        }
        let everywhere = |ip: &IpAddr| ip.is_unspecified();
        let fits = |allowed: &IpAddr| match &port.ip {
            None => everywhere(allowed),
            Some(ip) => ip == allowed || (everywhere(ip) && everywhere(allowed)),
        };
        if self.addresses.as_ref().is_some_and(|addresses| !addresses.iter().any(fits)) {
            let why = match port.ip {
                None => "name the address to publish it on: it may not be on all of them",
                Some(_) => "it may not be published on this address",
            };
            return Some(Refusal::new("addresses", field("ip"), why));
        }
        None
    }
}

impl Ceilings {
    fn against(&self, limits: &Limits, found: &mut Vec<Refusal>) {
        let mut check = |name: &str, asked: Option<u64>, most: Option<u64>, shown: &dyn Fn(u64) -> String| {
            let Some(most) = most.filter(|most| asked.is_none_or(|asked| asked > *most)) else { return };
            let unlimited = if asked.is_none() { ", and not unlimited" } else { "" };
            let why = format_args!("at most {}{unlimited}", shown(most));
            let name = format!("limits.{name}");
            found.push(Refusal::new(&name, name.clone(), why));
        };
        check("memory", limits.memory, self.memory, &size);
        // Without a number there is none; without a limit of memory there is no limit of it either.
        let swap = limits.swap.map_or(Some(0), |swap| u64::try_from(swap).ok());
        check("swap", swap.filter(|_| limits.memory.is_some()), self.swap, &size);
        check("disk", limits.disk, self.disk, &size);
        check("cpu", limits.nano_cpus, self.nano_cpus, &cores);
        check("pids", Some(limits.pids.into()), self.pids.map(u64::from), &|pids| pids.to_string());
    }
}

/// In the largest unit that divides it.
fn size(bytes: u64) -> String {
    let unit =
        [(30, "GiB"), (20, "MiB"), (10, "KiB")].into_iter().find(|(bits, _)| bytes.is_multiple_of(1 << bits));
    match unit {
        Some((bits, unit)) => format!("{} {unit}", bytes >> bits),
        None => format!("{bytes} bytes"),
    }
}

fn cores(billionths: u64) -> String {
    format!("{} % of one core", billionths as f64 / 1e7)
}

/// Docker takes a bare word of hex digits for the id of an image that is on the node already, before it is a name.
fn may_be_an_id(image: &str) -> bool {
    let text = image.strip_prefix("sha256:").unwrap_or(image);
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::spec::Rules;
    use serde_json::{Value, json};

    fn spec(fields: Value) -> Spec {
        let mut map = fields.as_object().unwrap().clone();
        map.entry("image").or_insert(json!("x"));
        Spec::parse(&map, &Rules::default()).unwrap()
    }

    #[track_caller]
    fn allowed(policy: &str, fields: Value) {
        let refusal = read::policy(policy).unwrap().allows(&spec(fields));
        assert_eq!(refusal, Ok(()), "{policy}");
    }

    #[track_caller]
    fn refused(policy: &str, fields: Value, rule: &str, field: &str) {
        let refusal = read::policy(policy).unwrap().allows(&spec(fields)).expect_err("refused");
        assert_eq!((refusal.rule.as_str(), refusal.field.as_str()), (rule, field), "{refusal}");
        let text = refusal.to_string();
        assert!(
            text.starts_with(&format!("{field}: ")) && text.contains(&format!("(policy: {rule})")),
            "{text}"
        );
    }

    #[test]
    fn without_a_file_nothing_is_ruled() {
        assert_eq!(read::policy("").unwrap(), Policy::default());
        allowed("", json!({"image":"deadbeef","ports":{"1":1},"user":"0:0","capabilities":["FOWNER"]}));
    }

    #[test]
    fn images_registries_and_digests() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let images = "images = ['itzg/*', 'ghcr.io/us/**', 'debian:12', 'registry.lan:5000/x:v*']";
        for image in [
            "itzg/minecraft-server",
            "docker.io/itzg/a:latest",
            "index.docker.io/itzg/a",
            "ghcr.io/us/a/b:1",
            &format!("ghcr.io/us/a@{digest}"),
            "debian:12",
            "docker.io/library/debian:12",
            "registry.lan:5000/x:v7",
        ] {
            allowed(images, json!({ "image": image }));
        }
        for image in [
            "itzg",
            "itzg/a/b",
            "evil/itzg/a",
            "ghcr.io/itzg/a",
            "ghcr.io/usa/a",
            "evil.io/ghcr.io/us/a",
            "debian",
            "debian:12.1",
            &format!("debian@{digest}"),
            &format!("debian:12@{digest}"),
            "registry.lan:5000/x",
            "registry.lan/x:v1",
        ] {
            refused(images, json!({ "image": image }), "images", "image");
        }
        // What Docker would take for the id of an image that happens to be here.
        for image in ["deadbeef", "0a0a0a0a0a0a", &digest, &"0a".repeat(32), "sha256:0a0a"] {
            refused("images = ['**']", json!({ "image": image }), "images", "image");
            refused("registries = ['docker.io']", json!({ "image": image }), "images", "image");
        }
        allowed("images = ['**']", json!({"image":"docker.io/library/cafe"}));
        allowed("registries = ['docker.io']", json!({"image":"a/b"}));
        refused("registries = ['ghcr.io']", json!({"image":"a/b"}), "registries", "image");
        allowed("digests-only = true", json!({"image":format!("a/b@{digest}")}));
        refused("digests-only = true", json!({"image":"a/b:1"}), "digests-only", "image");
        allowed("digests-only = false", json!({"image":"a/b:1"}));
    }

    #[test]
    fn ports_and_addresses() {
        let ports = "ports = ['25565-25600', '19132/udp', 8080]";
        allowed(
            ports,
            json!({"ports":[{"internal":1,"external":25600},{"internal":2,"external":8080,"protocol":"udp"}]}),
        );
        allowed(ports, json!({"ports":{"22":25565,"19132/udp":19132}}));
        allowed(ports, json!({}));
        refused(
            ports,
            json!({"ports":[{"internal":25565,"external":25565},{"internal":1,"external":22}]}),
            "ports",
            "ports[1].external",
        );
        refused(ports, json!({"ports":{"25565":25601}}), "ports", "ports.25565/tcp");
        refused(ports, json!({"ports":{"19132":19132}}), "ports", "ports.19132/tcp");
        let on = |ip: Value| json!({"ports":[{"internal":1,"external":1,"ip":ip}]});
        let addresses = "addresses = ['192.0.2.7', '::1']";
        for ip in ["192.0.2.7", "::1"] {
            allowed(addresses, on(json!(ip)));
        }
        for ip in
            [json!(null), json!(""), json!("0.0.0.0"), json!("::"), json!("127.0.0.1"), json!("192.0.2.8")]
        {
            refused(addresses, on(ip), "addresses", "ports[0].ip");
        }
        refused(addresses, json!({"ports":{"1":1}}), "addresses", "ports.1/tcp");
        allowed("addresses = ['0.0.0.0']", on(json!(null)));
        allowed("addresses = ['0.0.0.0']", on(json!("::")));
        refused("addresses = ['0.0.0.0']", on(json!("127.0.0.1")), "addresses", "ports[0].ip");
    }

    #[test]
    fn ceilings_take_in_what_is_unlimited() {
        let limits = "[limits]\nmemory = '4g'\nswap = '1g'\ndisk = '10g'\ncpu = 200\npids = 600";
        let full = json!({"memory":"4g","swap":"1g","disk":"10g","cpu":"2","pids":600});
        allowed(limits, json!({ "limits": full }));
        for (name, over) in [
            ("memory", json!("4097m")),
            ("memory", json!(0)),
            ("swap", json!(-1)),
            ("swap", json!("2g")),
            ("disk", json!(0)),
            ("disk", json!("11g")),
            ("cpu", json!(201)),
            ("cpu", json!(0)),
            ("pids", json!(601)),
        ] {
            let mut limited = full.clone();
            limited[name] = over;
            let field = format!("limits.{name}");
            refused(limits, json!({ "limits": limited }), &field, &field);
        }
        refused("limits.pids = 100", json!({}), "limits.pids", "limits.pids");
        let text = read::policy(limits).unwrap().allows(&spec(json!({}))).unwrap_err().to_string();
        assert!(text.ends_with("at most 4 GiB, and not unlimited"), "{text}");
    }

    #[test]
    fn mounts_users_and_capabilities() {
        let mounts = "mounts = ['/home/container', '/srv/*']";
        allowed(mounts, json!({}));
        allowed(mounts, json!({"mountPath":"/srv/a"}));
        for path in ["/srv/a/b", "/data", "/home/container2"] {
            refused(mounts, json!({ "mountPath": path }), "mounts", "mountPath");
        }
        let users = "users = ['1000:1000', 'image']";
        for user in [json!("1000:1000"), json!("image"), json!(null)] {
            allowed(users, json!({ "user": user }));
        }
        refused(users, json!({"user":"0:0"}), "users", "user");
        refused("users = []", json!({"user":"image"}), "users", "user");
        allowed("capabilities = ['cap_fowner']", json!({"capabilities":["FOWNER"]}));
        refused(
            "capabilities = ['FOWNER']",
            json!({"capabilities":["FOWNER","DAC_OVERRIDE"]}),
            "capabilities",
            "capabilities[0]",
        );
        refused("capabilities = []", json!({"capabilities":["FOWNER"]}), "capabilities", "capabilities[0]");
    }

    #[test]
    fn a_change_is_judged_by_what_it_changes() {
        let policy = read::policy("images = ['a']\nports = [1]\nlimits.memory = '1g'").unwrap();
        let bad = spec(json!({"image":"b","ports":{"1":2},"limits":{"memory":"2g","pids":7}}));
        assert_eq!(policy.allows_change(&bad, &["name", "limits.pids"]), Ok(()));
        for (field, rule) in [("image", "images"), ("ports", "ports"), ("limits.memory", "limits.memory")] {
            assert_eq!(policy.allows_change(&bad, &["name", field]).unwrap_err().rule, rule);
        }
    }
}
