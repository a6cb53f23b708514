//! A server's mods: what is asked of them and what is answered.

use serde::{Deserialize, Serialize};

use super::Fault;
use super::fields::Fields;

/// Longest id or name of a mod in bytes, and longest address.
const MAX_NAME: usize = 128;
const MAX_URL: usize = 8192;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModAction {
    /// `install_mod`
    Install(Box<InstallMod>),
    /// `uninstall_mod`
    Uninstall { id: String },
    /// `list_mods`
    List,
}

/// What to install, and from where.
#[derive(Clone, PartialEq, Eq)]
pub struct InstallMod {
    /// The Panel's own name for it: the same again replaces it.
    pub id: String,
    /// For people.
    pub name: String,
    /// May hold a token, so it is never shown.
    pub url: String,
    pub version: Option<String>,
    /// What the download has to be.
    pub sha256: Option<[u8; 32]>,
    /// The download is an archive whose content is the mod.
    pub unpack: bool,
}

impl ModAction {
    /// Whether it only looks.
    pub fn is_read(&self) -> bool {
        matches!(self, ModAction::List)
    }

    pub fn name(&self) -> &'static str {
        match self {
            ModAction::Install(_) => "install_mod",
            ModAction::Uninstall { .. } => "uninstall_mod",
            ModAction::List => "list_mods",
        }
    }

    /// The sentence that tells its success.
    pub fn success(&self) -> &'static str {
        match self {
            ModAction::Install(_) => "Mod installed",
            ModAction::Uninstall { .. } => "Mod uninstalled",
            ModAction::List => "Mods",
        }
    }

    pub(super) fn install(fields: Fields) -> Result<ModAction, Fault> {
        let (id, name) = (text(fields, "modId")?, text(fields, "name")?);
        let Some(id) = id.or(name) else {
            return Err(fields.fault("modId", "missing; expected the mod's id, or its name in `name`"));
        };
        let from = if fields.get("modUrl").is_some() { "modUrl" } else { "downloadUrl" };
        let Some(url) = fields.line(from, MAX_URL)?.filter(|url| !url.is_empty()) else {
            return Err(fields.fault("modUrl", "missing; expected the address to download from"));
        };
        Ok(ModAction::Install(Box::new(InstallMod {
            id: id.to_owned(),
            name: name.unwrap_or(id).to_owned(),
            url: url.to_owned(),
            version: text(fields, "version")?.map(str::to_owned),
            sha256: sha256(fields)?,
            unpack: fields.flag("unpack", false)?,
        })))
    }

    pub(super) fn uninstall(fields: Fields) -> Result<ModAction, Fault> {
        match text(fields, "modId")? {
            Some(id) => Ok(ModAction::Uninstall { id: id.to_owned() }),
            None => Err(fields.fault("modId", "missing; expected the mod's id")),
        }
    }
}

fn text<'a>(fields: Fields<'a>, name: &str) -> Result<Option<&'a str>, Fault> {
    match fields.line(name, MAX_NAME)? {
        Some("") => Err(fields.fault(name, "expected a text that is not empty")),
        text => Ok(text),
    }
}

fn sha256(fields: Fields) -> Result<Option<[u8; 32]>, Fault> {
    let Some(text) = fields.line("sha256", 64)? else { return Ok(None) };
    let mut sum = [0; 32];
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    match digits {
        Some(digits) if digits.len() == 64 => {
            for (byte, pair) in sum.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = pair[0] << 4 | pair[1];
            }
            Ok(Some(sum))
        }
        _ => Err(fields.fault("sha256", "expected 64 hexadecimal digits")),
    }
}

impl std::fmt::Debug for InstallMod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let InstallMod { id, name, version, sha256, unpack, url: _ } = self;
        f.debug_struct("InstallMod")
            .field("id", id)
            .field("name", name)
            .field("version", version)
            .field("sha256", sha256)
            .field("unpack", unpack)
            .finish_non_exhaustive()
    }
}

/// A mod as it is told. Paths are from the server's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModView {
    pub id: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub files: Vec<String>,
    /// Files that are no longer as they were installed.
    pub changed: Vec<String>,
    /// Files that are not there any more.
    pub missing: Vec<String>,
}

/// A success of a [`ModAction`]. It can be read again, for an Agent that has another process do the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModReply {
    Installed(ModView),
    /// What is left, after how many files went.
    Uninstalled {
        mods: Vec<ModView>,
        removed: u64,
    },
    List(Vec<ModView>),
}

impl ModView {
    /// About how many bytes it takes in memory.
    fn size(&self) -> usize {
        let lists = [&self.files, &self.changed, &self.missing];
        256 + lists.into_iter().flatten().map(|path| path.len() + 32).sum::<usize>()
    }
}

impl ModReply {
    /// About how many bytes it takes in memory.
    pub fn size(&self) -> usize {
        match self {
            ModReply::Installed(view) => view.size(),
            ModReply::Uninstalled { mods, .. } | ModReply::List(mods) => mods.iter().map(ModView::size).sum(),
        }
    }

    /// The sentence that tells it; a look has none.
    pub fn message(&self) -> Option<&'static str> {
        match self {
            ModReply::Installed(_) => Some("Mod installed"),
            ModReply::Uninstalled { .. } => Some("Mod uninstalled"),
            ModReply::List(_) => None,
        }
    }
}

/// What it says on the wire.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum ModData<'a> {
    Installed {
        r#mod: &'a ModView,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    List {
        mods: &'a [ModView],
        count: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        removed: Option<u64>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
}

impl ModData<'_> {
    /// Writes a message around it, within the bound: a list is shortened, and so are the files of a mod that alone
    /// would pass it.
    pub fn fitted(reply: &ModReply, encode: impl Fn(ModData) -> String) -> String {
        let (mods, removed) = match reply {
            ModReply::Installed(view) => {
                return super::wire::fitted(&view.files, |files, truncated| {
                    let view = ModView { files: files.to_vec(), ..view.clone() };
                    encode(ModData::Installed { r#mod: &view, truncated })
                });
            }
            ModReply::Uninstalled { mods, removed } => (mods, Some(*removed)),
            ModReply::List(mods) => (mods, None),
        };
        super::wire::fitted(mods, |shown, truncated| {
            encode(ModData::List { mods: shown, count: mods.len(), removed, truncated })
        })
    }
}

/// What the actions carry, for who sends them.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ModPayload<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    mod_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mod_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unpack: bool,
}

impl ModPayload<'_> {
    pub fn of(action: &ModAction) -> ModPayload<'_> {
        match action {
            ModAction::Install(install) => ModPayload {
                mod_id: Some(&install.id),
                name: Some(&install.name),
                mod_url: Some(&install.url),
                version: install.version.as_deref(),
                sha256: install.sha256.map(|sum| sum.iter().map(|byte| format!("{byte:02x}")).collect()),
                unpack: install.unpack,
            },
            ModAction::Uninstall { id } => ModPayload { mod_id: Some(id), ..ModPayload::default() },
            ModAction::List => ModPayload::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn install(payload: Value) -> Result<ModAction, String> {
        let Value::Object(map) = payload else { panic!("an object") };
        ModAction::install(Fields::of(&map)).map_err(|fault| fault.message)
    }

    #[test]
    fn both_names_of_each_field_are_read() {
        let sum = "AB".repeat(32);
        for payload in [
            json!({"modId": "m", "modUrl": "https://h/x", "sha256": sum}),
            json!({"name": "m", "downloadUrl": "https://h/x", "sha256": sum.to_lowercase()}),
        ] {
            let Ok(ModAction::Install(mod_)) = install(payload) else { panic!("it is complete") };
            assert_eq!((mod_.id.as_str(), mod_.name.as_str(), mod_.sha256), ("m", "m", Some([0xab; 32])));
            assert!(!format!("{mod_:?}").contains("https"));
        }
    }

    #[test]
    fn a_fault_names_its_field() {
        let with = |more: Value| {
            let mut payload = json!({"modId": "m", "modUrl": "https://h/x"});
            payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            payload
        };
        for (payload, field) in [
            (json!({"modUrl": "https://h/x"}), "modId"),
            (json!({"modId": "", "modUrl": "https://h/x"}), "modId"),
            (json!({"modId": "m"}), "modUrl"),
            (with(json!({"modUrl": "a\nb"})), "modUrl"),
            (with(json!({"sha256": "ab"})), "sha256"),
            (with(json!({"sha256": "g".repeat(64)})), "sha256"),
            (with(json!({"unpack": "yes"})), "unpack"),
            (with(json!({"version": 1})), "version"),
        ] {
            let fault = install(payload).unwrap_err();
            assert!(fault.starts_with(&format!("{field}: ")), "{field}: {fault}");
        }
    }
}
