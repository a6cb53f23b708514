//! Archives of a server's files: what is asked of them and what is answered.

use serde::{Deserialize, Serialize};

use super::Fault;
use super::fields::Fields;
use super::file::{RelPath, file_path, path};

/// Most paths that can be asked for at once; a directory is one.
const MAX_PATHS: usize = 10_000;

/// The kinds of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Format {
    #[serde(rename = "zip")]
    Zip,
    #[serde(rename = "tar")]
    Tar,
    #[serde(rename = "tar.gz")]
    TarGz,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveAction {
    /// Files and whole directories into one archive. `create_archive`
    Create { files: Vec<RelPath>, archive: RelPath, format: Format },
    /// All of an archive into a directory; without one, where the archive lies. `extract_archive`
    Extract { archive: RelPath, into: Option<RelPath> },
}

impl ArchiveAction {
    pub fn name(&self) -> &'static str {
        match self {
            ArchiveAction::Create { .. } => "create_archive",
            ArchiveAction::Extract { .. } => "extract_archive",
        }
    }

    /// The sentence that tells its success.
    pub fn success(&self) -> &'static str {
        match self {
            ArchiveAction::Create { .. } => "Archive created",
            ArchiveAction::Extract { .. } => "Archive extracted",
        }
    }

    pub(super) fn create(fields: Fields) -> Result<ArchiveAction, Fault> {
        let rule = || fields.fault("files", format_args!("expected a list of 1 to {MAX_PATHS} paths"));
        let files = fields.get("files").and_then(|files| files.as_array()).ok_or_else(rule)?;
        if files.is_empty() || files.len() > MAX_PATHS {
            return Err(rule());
        }
        let parse = |file: &serde_json::Value| RelPath::parse("files", file.as_str().ok_or_else(rule)?);
        let format = match fields.line("format", 8)? {
            Some("zip") => Format::Zip,
            Some("tar") => Format::Tar,
            Some("tar.gz" | "tgz") => Format::TarGz,
            _ => return Err(fields.fault("format", "expected zip, tar or tar.gz")),
        };
        Ok(ArchiveAction::Create {
            files: files.iter().map(parse).collect::<Result<_, _>>()?,
            archive: file_path(&fields, "archivePath")?,
            format,
        })
    }

    pub(super) fn extract(fields: Fields) -> Result<ArchiveAction, Fault> {
        let into = fields.get("extractPath").map(|_| path(&fields, "extractPath")).transpose()?;
        Ok(ArchiveAction::Extract { archive: file_path(&fields, "archivePath")?, into })
    }
}

/// A success of an [`ArchiveAction`]. It can be read again, for an Agent that has another process do the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ArchiveReply {
    Created {
        /// As it was asked for.
        path: String,
        /// Bytes of the archive.
        size: u64,
        files: u64,
        /// Links, special files and files with names that no archive can hold: they are left out.
        skipped: u64,
    },
    Extracted {
        files: u64,
        /// Of the files' contents.
        bytes: u64,
    },
}

impl ArchiveReply {
    /// The sentence that tells it.
    pub fn message(&self) -> &'static str {
        match self {
            ArchiveReply::Created { .. } => "Archive created",
            ArchiveReply::Extracted { .. } => "Archive extracted",
        }
    }
}

/// What the actions carry, for who sends them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchivePayload<'a> {
    archive_path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extract_path: Option<&'a str>,
}

impl ArchivePayload<'_> {
    pub fn of(action: &ArchiveAction) -> ArchivePayload<'_> {
        match action {
            ArchiveAction::Create { files, archive, format } => ArchivePayload {
                archive_path: archive.sent(),
                files: Some(files.iter().map(RelPath::sent).collect()),
                format: Some(*format),
                extract_path: None,
            },
            ArchiveAction::Extract { archive, into } => ArchivePayload {
                archive_path: archive.sent(),
                files: None,
                format: None,
                extract_path: into.as_ref().map(RelPath::sent),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_fault_names_its_field() {
        let good = || json!({"files": ["world"], "archivePath": "a.zip", "format": "zip"});
        let read = |payload: &Value| ArchiveAction::create(Fields::of(payload.as_object().unwrap()));
        assert!(read(&good()).is_ok());
        for (field, value) in [
            ("files", json!([])),
            ("files", json!("world")),
            ("files", json!([7])),
            ("files", json!(["../x"])),
            ("archivePath", json!(null)),
            ("archivePath", json!("/")),
            ("archivePath", json!("a/../../b")),
            ("format", json!("rar")),
            ("format", json!(null)),
        ] {
            let mut payload = good();
            payload[field] = value;
            let fault = read(&payload).unwrap_err();
            assert!(fault.message.starts_with(&format!("{field}: ")), "{payload}: {fault}");
        }
    }
}
