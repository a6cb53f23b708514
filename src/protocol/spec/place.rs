//! The image, and as whom and where a server lives in it: image, user, capabilities, mountPath, modDir.

use serde_json::Value;

use super::parse::MAX_PATH;
use super::{Rules, User};
use crate::protocol::Fault;
use crate::protocol::fields::Fields;

pub(super) fn image(fields: &Fields) -> Result<String, Fault> {
    let rule = "expected a reference such as itzg/minecraft-server:latest";
    match fields.line("image", 512).map_err(|_| fields.fault("image", rule))? {
        None => Ok(String::new()),
        Some(image) if is_reference(image) => Ok(image.to_owned()),
        Some(_) => Err(fields.fault("image", rule)),
    }
}

/// Docker's reference grammar, `[host[:port]/]path[:tag][@digest]`, as far as it keeps anything else out of an Engine
/// path; the Engine checks the rest.
fn is_reference(text: &str) -> bool {
    let (name, digest) = text.split_once('@').unwrap_or((text, "sha256:0"));
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, "latest"),
    };
    let word = |text: &str, extra: &[u8]| {
        text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'[')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b) || extra.contains(&b))
    };
    let mut parts = path.split('/');
    parts.next().is_some_and(|first| word(first, b":[]"))
        && parts.all(|part| word(part, b""))
        && word(tag, b"")
        && word(digest, b":+")
}

/// A server's directory over one of these, or within, would take the container's own system away or be hidden by it.
const SYSTEM: [&str; 16] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr/bin",
    "/usr/lib",
    "/usr/sbin",
];

/// These hold what images need, but places within are used for data.
const SYSTEM_ROOTS: [&str; 8] = ["", "/home", "/opt", "/root", "/srv", "/usr", "/usr/local", "/var"];

pub(super) fn mount_path(fields: &Fields) -> Result<Option<String>, Fault> {
    let Some(path) = fields.line("mountPath", MAX_PATH)? else { return Ok(None) };
    let path = path.trim_end_matches('/');
    let is_system = SYSTEM
        .iter()
        .any(|dir| path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    match path.strip_prefix('/') {
        _ if is_system || SYSTEM_ROOTS.contains(&path) => {
            Err(fields
                .fault("mountPath", "is a system directory; expected one such as /home/container or /data"))
        }
        Some(inside) if is_normal(inside) && !path.contains(':') => Ok(Some(path.to_owned())),
        _ => Err(fields.fault("mountPath", "expected an absolute path without . and .. and colons")),
    }
}

pub(super) fn mod_dir(fields: &Fields) -> Result<Option<String>, Fault> {
    let Some(path) = fields.line("modDir", MAX_PATH)? else { return Ok(None) };
    let path = path.trim_end_matches('/');
    match is_normal(path) {
        true => Ok(Some(path.to_owned())),
        false => {
            Err(fields.fault("modDir", "expected a path within the server's directory, without . and .."))
        }
    }
}

/// One or more names joined by single slashes, none of them `.` or `..`.
fn is_normal(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

pub(super) fn user(fields: &Fields) -> Result<Option<User>, Fault> {
    let Some(value) = fields.get("user") else { return Ok(None) };
    let id = |text: &str| -> Option<u32> {
        // -1 means "leave as it is" to chown, and the Engine stops at 2^31 - 1.
        let ok = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|&id| ok && id <= i32::MAX as u32)
    };
    let ids = |text: &str| text.split_once(':').and_then(|(uid, gid)| Some((id(uid)?, id(gid)?)));
    match value.as_str() {
        Some("image") => Ok(Some(User::Image)),
        Some(text) if ids(text).is_some() => Ok(ids(text).map(|(uid, gid)| User::Ids { uid, gid })),
        _ => Err(fields.fault("user", "expected \"uid:gid\" in numbers, or \"image\"")),
    }
}

pub(super) fn capabilities(fields: &Fields, rules: Option<&Rules>) -> Result<Vec<String>, Fault> {
    let list = match fields.get("capabilities") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(fields.fault("capabilities", "expected a list of names")),
    };
    let mut names = Vec::new();
    for (at, value) in list.iter().enumerate() {
        let name = value.as_str().unwrap_or_default().to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        let is_name =
            (1..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        if !is_name || rules.is_some_and(|rules| !rules.capabilities.iter().any(|allowed| allowed == name)) {
            let allowed = rules.map(|rules| rules.capabilities.join(", ")).filter(|names| !names.is_empty());
            let allowed = allowed.as_deref().unwrap_or("none");
            let field = format!("capabilities[{at}]");
            return Err(Fault::field(&field, format_args!("this node allows {allowed}")));
        }
        names.push(name.to_owned());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::Spec;
    use super::*;
    use serde_json::json;

    fn parse(fields: Value) -> Result<Spec, String> {
        let mut map = fields.as_object().unwrap().clone();
        map.entry("image").or_insert(json!("x"));
        Spec::parse(&map, &Rules::default()).map_err(|fault| fault.message)
    }

    fn refused(name: &str, field: &str, values: &[Value]) {
        for value in values {
            let message = parse(json!({ name: value })).unwrap_err();
            assert!(message.starts_with(&format!("{field}: ")), "{value}: {message}");
        }
    }

    #[test]
    fn images() {
        for fine in [
            "x",
            "minecraft:latest",
            "itzg/minecraft-server:java21-alpine",
            "ghcr.io/a/b.c_d:v1.2_3",
            "localhost:5000/x",
            "[::1]:5000/x:y",
            "x@sha256:0123abcd",
            "h:1/x:y@sha256:00",
            "sha256:abc",
            "_x",
        ] {
            assert_eq!(parse(json!({"image":fine})).unwrap().image, fine);
        }
        for wrong in [
            "", " x", "x y", "x:", ":x", "/x", "x/", "x//y", "x/../y", "-x", "x:y:z/", "x@", "http://x",
            "x?y", "x#y", "x\n", "é",
        ] {
            let got = parse(json!({"image":wrong})).unwrap_err();
            assert!(got.starts_with("image: "), "{wrong:?}: {got}");
        }
        refused("image", "image", &[json!(1), json!(["x"]), json!("x".repeat(513))]);
    }

    #[test]
    fn paths() {
        for (path, want) in [
            ("/data", "/data"),
            ("/data/", "/data"),
            ("/home/container", "/home/container"),
            ("/opt/x", "/opt/x"),
            ("/etcetera", "/etcetera"),
            ("/usr/src/app", "/usr/src/app"),
            ("/var/lib/x", "/var/lib/x"),
        ] {
            assert_eq!(parse(json!({"mountPath":path})).unwrap().mount_path, want);
        }
        for wrong in [
            "",
            "/",
            "//",
            "data",
            "/a//b",
            "/a/../b",
            "/a/./b",
            "/..",
            "/a:b",
            "/etc",
            "/etc/x",
            "/proc/self",
            "/sys",
            "/dev/shm",
            "/usr",
            "/usr/lib/x",
            "/tmp",
            "/tmp/x",
            "/var/",
            "/home",
            "/run/x",
            "/lib64",
            "/a\nb",
        ] {
            refused("mountPath", "mountPath", &[json!(wrong)]);
        }
        refused("mountPath", "mountPath", &[json!(1), json!(format!("/{}", "x".repeat(255)))]);
        assert_eq!(parse(json!({"modDir":"plugins/"})).unwrap().mod_dir, "plugins");
        assert_eq!(parse(json!({"modDir":"a/..b/c"})).unwrap().mod_dir, "a/..b/c");
        refused(
            "modDir",
            "modDir",
            &[
                json!(""),
                json!("/mods"),
                json!(".."),
                json!("a/../b"),
                json!("a//b"),
                json!("."),
                json!(1),
                json!("a\u{0}"),
            ],
        );
    }

    #[test]
    fn users_and_capabilities() {
        assert_eq!(parse(json!({"user":"1000:988"})).unwrap().user, Some(User::Ids { uid: 1000, gid: 988 }));
        assert_eq!(parse(json!({"user":"image"})).unwrap().user, Some(User::Image));
        refused(
            "user",
            "user",
            &[
                json!("1000"),
                json!("root"),
                json!("1000:"),
                json!("+1:1"),
                json!("-1:-1"),
                json!("2147483648:0"),
                json!(1000),
                json!("1:2:3"),
            ],
        );
        let got = parse(json!({"capabilities":["FOWNER","cap_dac_override","FOWNER"]})).unwrap();
        assert_eq!(got.capabilities, ["DAC_OVERRIDE", "FOWNER"]);
        refused(
            "capabilities",
            "capabilities[0]",
            &[json!(["SYS_ADMIN"]), json!(["ALL"]), json!([1]), json!([""])],
        );
        refused("capabilities", "capabilities[1]", &[json!(["FOWNER", "NET_ADMIN"])]);
        refused("capabilities", "capabilities", &[json!("FOWNER")]);
        let none = Rules { capabilities: Vec::new() };
        let map = json!({"image":"x","capabilities":["FOWNER"]});
        let fault = Spec::parse(map.as_object().unwrap(), &none).unwrap_err();
        assert_eq!(fault.message, "capabilities[0]: this node allows none");
        assert!(Spec::stored(&map.to_string()).is_ok(), "what was granted once stays readable");
    }
}
