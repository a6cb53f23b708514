//! The policy's file. Whoever may write it rules the node, so that others than its owner may not. Read by the main thread
//! at the start and by the signals' thread on SIGHUP.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{BadPolicy, Policy, read};
use crate::agent::settings::{BadSetting, Settings, Source};

/// Bytes of a policy.
const MAX_LEN: u64 = 256 << 10;

/// Where the policy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    pub path: PathBuf,
    /// It was named by a person, so that it has to be there.
    pub required: bool,
}

impl PolicyFile {
    /// # Errors
    /// When the path is not absolute.
    pub fn of(settings: &Settings) -> Result<PolicyFile, BadSetting> {
        let text = settings.get("POLICY_FILE").unwrap_or("/etc/longshore/policy.toml");
        let required = settings.source("POLICY_FILE").is_some_and(|source| source > Source::Default);
        match Path::new(text).is_absolute() {
            true => Ok(PolicyFile { path: text.into(), required }),
            false => Err(BadSetting::new("POLICY_FILE", text, "expected an absolute path")),
        }
    }

    /// The rules as they stand there now; `None` when there is no file and none was asked for.
    ///
    /// # Errors
    /// Where and what is wrong: nothing of such a file is taken.
    pub fn read(&self) -> Result<Option<Policy>, BadPolicy> {
        self.text().map_err(|what| BadPolicy(format!("{}: {what}", self.path.display())))?.map_or(
            Ok(None),
            |text| {
                let policy = read::policy(&text);
                policy.map(Some).map_err(|bad| BadPolicy(format!("{} {bad}", self.path.display())))
            },
        )
    }

    fn text(&self) -> Result<Option<String>, String> {
        let file = match File::open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.required => return Ok(None),
            file => file.map_err(|e| format!("cannot be opened: {e}"))?,
        };
        let meta = file.metadata().map_err(|e| format!("cannot be looked at: {e}"))?;
        if !meta.is_file() {
            return Err("is no file".into());
        }
        trusted(&meta)?;
        let above = self.path.canonicalize().ok();
        if let Some(directory) = above.as_deref().and_then(Path::parent) {
            let meta =
                fs::metadata(directory).map_err(|e| format!("its directory cannot be looked at: {e}"))?;
            // In a sticky one nobody puts another's file away.
            if meta.mode() & 0o1000 == 0 {
                trusted(&meta).map_err(|what| format!("its directory: {what}"))?;
            }
        }
        let mut text = String::new();
        file.take(MAX_LEN + 1).read_to_string(&mut text).map_err(|e| format!("cannot be read: {e}"))?;
        match text.len() as u64 > MAX_LEN {
            true => Err(format!("is larger than {} KiB", MAX_LEN >> 10)),
            false => Ok(Some(text)),
        }
    }
}

/// Whether only root or the Agent's own user writes there.
fn trusted(meta: &fs::Metadata) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    // The group root is as good as root.
    let others = if meta.gid() == 0 { 0o002 } else { 0o022 };
    match meta.mode() & others != 0 {
        true => Err(format!(
            "others may write it (mode {:04o}); expected mode 0644 or less",
            meta.mode() & 0o7777
        )),
        false if meta.uid() != 0 && meta.uid() != own => {
            Err(format!("it belongs to user {}; expected root or the Agent's own user", meta.uid()))
        }
        false => Ok(()),
    }
}
