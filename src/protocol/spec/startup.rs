//! What the container runs and the environment it gets: placeholders filled from the server's own names, never from
//! anything of the node.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::parse::MAX_STARTUP;
use super::{Spec, Startup};
use crate::protocol::json::shown;
use crate::protocol::{Fault, ServerId};

/// A spec's `Cmd` and environment for one server, in Docker's own form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// `None` leaves the image's own.
    pub cmd: Option<Vec<String>>,
    /// All that the container gets, the Agent's own names too.
    pub environment: BTreeMap<String, String>,
}

impl Spec {
    /// Fills the placeholders of `startup`. Cannot fail for a parsed spec: parsing has tried it.
    ///
    /// Values of `environment` are passed on as they are; images that evaluate `$STARTUP` fill in what is there.
    pub fn resolve(&self, server: &ServerId) -> Result<Resolved, Fault> {
        self.resolved(server.as_str())
    }

    pub(super) fn resolved(&self, server: &str) -> Result<Resolved, Fault> {
        let names = self.names(server);
        let mut room = MAX_STARTUP;
        let mut fill = |text: &str, shell| fill(text, &names, shell, &mut room);
        let cmd = match &self.startup {
            None => None,
            Some(Startup::Exec(words)) => {
                Some(words.iter().map(|word| fill(word, false)).collect::<Result<_, _>>()?)
            }
            Some(Startup::Shell(line)) => Some(vec!["/bin/sh".into(), "-c".into(), fill(line, true)?]),
        };
        Ok(Resolved {
            cmd,
            environment: names.iter().map(|(&name, value)| (name.to_owned(), value.to_string())).collect(),
        })
    }

    /// Every name a placeholder may use, which are also the container's environment. The four of the Agent win over
    /// equal ones of the Panel: a program must not be told another port than the one that is published.
    fn names<'a>(&'a self, server: &'a str) -> BTreeMap<&'a str, Cow<'a, str>> {
        let mut names: BTreeMap<&str, Cow<str>> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str().into())).collect();
        names.insert("SERVER_ID", server.into());
        names.insert("SERVER_MEMORY", (self.limits.memory.unwrap_or(0) >> 20).to_string().into());
        if let Some(main) = self.server_port {
            let ip = self.ports.iter().find(|port| port.internal == main).and_then(|port| port.ip);
            names.insert("SERVER_PORT", main.to_string().into());
            names.insert("SERVER_IP", ip.map_or("0.0.0.0".into(), |ip| ip.to_string().into()));
        } else {
            names.entry("SERVER_IP").or_insert("0.0.0.0".into());
        }
        names
    }
}

/// Replaces each `{{NAME}}` once; what a value brings along is not looked at again. An opening without an end is text.
///
/// `room` is what all texts together may still take: a short line can name a long value thousands of times.
fn fill(
    text: &str,
    names: &BTreeMap<&str, Cow<str>>,
    shell: bool,
    room: &mut usize,
) -> Result<String, Fault> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, inside, after)) = placeholder(rest) {
        let name = inside.trim();
        let Some(value) = names.get(name) else {
            let known = "the server's environment, SERVER_ID, SERVER_MEMORY, SERVER_PORT and SERVER_IP";
            return Err(Fault::field(
                "startup",
                format_args!("{{{{{}}}}} is unknown; placeholders come from {known}", shown(name, 64)),
            ));
        };
        if shell && value.contains(is_unsafe) {
            let name = shown(name, 64);
            return Err(Fault::field(
                &format!("environment.{name}"),
                format_args!(
                    "{{{{{name}}}}} stands in a shell line, so its value may hold no control character and none of \
                     ` $ \\ \" ' ; & | < > ( ); give startup as an array to pass it as it is"
                ),
            ));
        }
        take(room, before.len() + value.len())?;
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    take(room, rest.len())?;
    filled.push_str(rest);
    Ok(filled)
}

fn take(room: &mut usize, bytes: usize) -> Result<(), Fault> {
    match room.checked_sub(bytes) {
        Some(left) => *room = left,
        None => {
            return Err(Fault::field(
                "startup",
                "expected at most 64 KiB once its placeholders are replaced",
            ));
        }
    }
    Ok(())
}

/// The text before the next `{{…}}`, what is inside, and the text after it. Of several openings the last one counts, so
/// that braces of another language may stand before a placeholder.
fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let first = text.find("{{")?;
    let end = first + text[first..].find("}}")?;
    let start = text[..end].rfind("{{")?;
    Some((&text[..start], &text[start + 2..end], &text[end + 2..]))
}

/// What would let a value leave its place in a shell line.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '`' | '$' | '\\' | '"' | '\'' | ';' | '&' | '|' | '<' | '>' | '(' | ')')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resolve(spec: Value) -> Result<Resolved, String> {
        let map = spec.as_object().unwrap();
        let spec = Spec::parse(map, &Default::default()).map_err(|fault| fault.message)?;
        Ok(spec.resolve(&"s1".parse().unwrap()).expect("a parsed spec resolves"))
    }

    fn lines(spec: Value) -> Vec<String> {
        resolve(spec).unwrap().environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    fn cmd(startup: Value) -> Vec<String> {
        let environment = json!({"JAR":"a b.jar","STARTUP":"run {{JAR}}","NEST":"{{JAR}}"});
        let ports = json!([{"internal":25565,"external":30000,"ip":"192.0.2.7"}]);
        resolve(json!({"image":"x","startup":startup,"environment":environment,"ports":ports,"limits":{"memory":2048}}))
            .unwrap()
            .cmd
            .unwrap()
    }

    #[test]
    fn placeholders_are_replaced_from_the_servers_own_names() {
        let shell = |line: &str| cmd(json!(line))[2].clone();
        assert_eq!(cmd(json!("true"))[..2], ["/bin/sh", "-c"]);
        assert_eq!(
            shell("java -Xmx{{SERVER_MEMORY}}M -jar {{JAR}} {{ SERVER_PORT }} {{SERVER_IP}} {{SERVER_ID}}"),
            "java -Xmx2048M -jar a b.jar 25565 192.0.2.7 s1"
        );
        assert_eq!(shell("{{NEST}}"), "{{JAR}}", "what a value brings along stays as it is");
        assert_eq!(shell("${X:-{{JAR}}} {{ open"), "${X:-a b.jar} {{ open");
        assert_eq!(shell("{{{JAR}}:{{{JAR}}}} {{ }"), "{a b.jar:{a b.jar}} {{ }");
        assert_eq!(cmd(json!(["java", "-jar", "{{JAR}}"])), ["java", "-jar", "a b.jar"]);
    }

    #[test]
    fn without_startup_the_image_decides() {
        for startup in [json!(null), json!(""), json!("  "), json!([])] {
            assert_eq!(resolve(json!({"image":"x","startup":startup})).unwrap().cmd, None);
        }
    }

    #[test]
    fn the_container_gets_the_environment_and_the_agents_own_names() {
        let spec = json!({"image":"x","environment":{"B":"{{A}}","SERVER_ID":"forged","SERVER_PORT":"1","A":""},
            "ports":[{"internal":80,"external":8080}]});
        assert_eq!(
            lines(spec),
            ["A=", "B={{A}}", "SERVER_ID=s1", "SERVER_IP=0.0.0.0", "SERVER_MEMORY=0", "SERVER_PORT=80"]
        );
        let bare = lines(json!({"image":"x","environment":{"SERVER_PORT":"7"}}));
        assert_eq!(bare, ["SERVER_ID=s1", "SERVER_IP=0.0.0.0", "SERVER_MEMORY=0", "SERVER_PORT=7"]);
    }

    #[test]
    fn unknown_names_and_values_that_leave_their_place_are_refused() {
        let check = |startup: Value, value: &str, start: &str| {
            let got = resolve(json!({"image":"x","startup":startup,"environment":{"V":value}}));
            match start {
                "" => assert!(got.is_ok(), "{startup} {value:?}: {got:?}"),
                _ => {
                    let message = got.unwrap_err();
                    assert!(message.starts_with(start), "{startup} {value:?}: {message}");
                    assert!(value.is_empty() || !message.contains("secret"), "{message}");
                }
            }
        };
        for name in [
            "{{NOPE}}",
            "{{server.build.memory}}",
            "{{config.token}}",
            "{{}}",
            "{{V }}}{{W}}",
            "{{SERVER_PORT}}",
        ] {
            check(json!(name), "", "startup: ");
            check(json!([name]), "", "startup: ");
        }
        for c in "`$\\\"';&|<>()\n\r\t\u{7f}\u{85}".chars() {
            check(json!("run {{V}}"), &format!("secret{c}"), "environment.V: ");
            check(json!(["run", "{{V}}"]), &format!("secret{c}"), "");
            check(json!("run"), &format!("secret{c}"), "");
        }
        for fine in ["a b", "-Xmx1G", "*?[]{}~#!=%@^,.:/+", "höchst"] {
            check(json!("run {{V}}"), fine, "");
        }
    }
}
