//! A server's files: what is asked of them and what is answered. Paths are made fit here, once: past this point every
//! path is a [`RelPath`].

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::alphabet;
use base64::display::Base64Display;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::fields::Fields;
use super::wire::Timestamp;
use super::{Code, Fault};

/// Longest path in bytes.
pub const MAX_PATH: usize = 4096;
/// Largest file that is read as text, in bytes.
pub const MAX_TEXT: u64 = 1 << 20;
/// Most bytes of a file in one message, decoded: over the link and over HTTP.
pub const MAX_PIECE_LINK: u64 = 1 << 20;
pub const MAX_PIECE_HTTP: u64 = 16 << 20;
/// Longest text that is searched for, in bytes.
const MAX_QUERY: usize = 255;

/// Some panels leave the padding out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A path within a server's directory: never absolute, without `.`, `..`, empty parts and control characters, at most
/// [`MAX_PATH`] bytes. Panels begin paths with the slash of the server's directory or without it; both mean the same.
#[derive(Clone, PartialEq, Eq)]
pub struct RelPath {
    /// As it came, for the answer: legacy panels match by it.
    sent: String,
    parts: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileAction {
    /// The entries of a directory. `list_files`
    List {
        path: RelPath,
    },
    /// A file as text. `read_file`
    Read {
        path: RelPath,
    },
    /// A file as a whole. `write_file`
    Write {
        path: RelPath,
        content: Content,
    },
    /// A file as a whole, or more at its end. `upload_file`
    Upload {
        path: RelPath,
        content: Content,
        append: bool,
    },
    /// Bytes of a file; without `length` all that follow. `download_file`
    Download {
        path: RelPath,
        offset: u64,
        length: Option<u64>,
    },
    CreateDirectory {
        path: RelPath,
    },
    /// A file, a link, or a directory with all that is in it.
    Delete {
        path: RelPath,
    },
    Info {
        path: RelPath,
    },
    Rename {
        from: RelPath,
        to: RelPath,
    },
    Move {
        from: RelPath,
        to: RelPath,
    },
    Copy {
        from: RelPath,
        to: RelPath,
    },
    /// Entries below a directory by their names.
    Search {
        path: RelPath,
        query: String,
        kind: Option<SearchKind>,
    },
    Permissions {
        path: RelPath,
    },
    /// The nine permission bits.
    SetPermissions {
        path: RelPath,
        mode: u32,
    },
}

/// Bytes that came along. They are a server's own and may be many, so they are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(pub Vec<u8>);

/// What a search is narrowed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchKind {
    File,
    Directory,
    /// Files whose names end in it, without the dot, in lower case.
    Extension(String),
}

impl RelPath {
    /// Makes a path fit; `field` names it in the fault.
    ///
    /// # Errors
    /// `PATH_INVALID` for what cannot be a path within a directory.
    pub fn parse(field: &str, text: &str) -> Result<RelPath, Fault> {
        let invalid = |rule: fmt::Arguments| Err(Fault::new(Code::PathInvalid, format!("{field}: {rule}")));
        if text.len() > MAX_PATH {
            return invalid(format_args!("expected a path of at most {MAX_PATH} bytes"));
        }
        if text.chars().any(char::is_control) {
            return invalid(format_args!("expected a path without control characters"));
        }
        let mut parts = String::with_capacity(text.len());
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => return invalid(format_args!("expected a path without ..")),
                part => {
                    if !parts.is_empty() {
                        parts.push('/');
                    }
                    parts.push_str(part);
                }
            }
        }
        Ok(RelPath { sent: text.to_owned(), parts })
    }

    /// The server's directory itself.
    pub fn root() -> RelPath {
        RelPath { sent: "/".to_owned(), parts: String::new() }
    }

    pub fn is_root(&self) -> bool {
        self.parts.is_empty()
    }

    /// As it came.
    pub fn sent(&self) -> &str {
        &self.sent
    }

    /// For opening it from the server's directory: parts joined by single slashes, `.` for the directory itself.
    pub fn as_str(&self) -> &str {
        if self.parts.is_empty() { "." } else { &self.parts }
    }

    /// The directory it lies in, to be opened like [`RelPath::as_str`], and its name there. `None` for the root.
    pub fn split(&self) -> Option<(&str, &str)> {
        match self.parts.rsplit_once('/') {
            Some(split) => Some(split),
            None if self.parts.is_empty() => None,
            None => Some((".", &self.parts)),
        }
    }

    /// Whether this lies in `other`, or is it.
    pub fn is_within(&self, other: &RelPath) -> bool {
        other.is_root()
            || self
                .parts
                .strip_prefix(&other.parts)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.sent, f)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl FileAction {
    /// Whether it only looks.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            FileAction::List { .. }
                | FileAction::Read { .. }
                | FileAction::Download { .. }
                | FileAction::Info { .. }
                | FileAction::Search { .. }
                | FileAction::Permissions { .. }
        )
    }

    /// Whether it may take as long as there are files.
    pub fn is_long(&self) -> bool {
        matches!(self, FileAction::Delete { .. } | FileAction::Copy { .. } | FileAction::Search { .. })
    }

    /// Whether the answer carries what is in a file.
    pub fn gives_content(&self) -> bool {
        matches!(self, FileAction::Read { .. } | FileAction::Download { .. })
    }

    /// Bytes that came along.
    pub fn content(&self) -> Option<&Content> {
        match self {
            FileAction::Write { content, .. } | FileAction::Upload { content, .. } => Some(content),
            _ => None,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            FileAction::List { .. } => "list_files",
            FileAction::Read { .. } => "read_file",
            FileAction::Write { .. } => "write_file",
            FileAction::Upload { .. } => "upload_file",
            FileAction::Download { .. } => "download_file",
            FileAction::CreateDirectory { .. } => "create_directory",
            FileAction::Delete { .. } => "delete_file",
            FileAction::Info { .. } => "get_file_info",
            FileAction::Rename { .. } => "rename_file",
            FileAction::Move { .. } => "move_file",
            FileAction::Copy { .. } => "copy_file",
            FileAction::Search { .. } => "search_files",
            FileAction::Permissions { .. } => "get_file_permissions",
            FileAction::SetPermissions { .. } => "set_file_permissions",
        }
    }

    /// The sentence that tells its success.
    pub fn success(&self) -> &'static str {
        match self {
            FileAction::List { .. } => "Files listed",
            FileAction::Read { .. } => "File read",
            FileAction::Write { .. } => "File written",
            FileAction::Upload { append: false, .. } => "File uploaded",
            FileAction::Upload { append: true, .. } => "File continued",
            FileAction::Download { .. } => "File content",
            FileAction::CreateDirectory { .. } => "Directory created",
            FileAction::Delete { .. } => "Deleted",
            FileAction::Info { .. } => "File information",
            FileAction::Rename { .. } => "Renamed",
            FileAction::Move { .. } => "Moved",
            FileAction::Copy { .. } => "Copied",
            FileAction::Search { .. } => "Search result",
            FileAction::Permissions { .. } => "Permissions",
            FileAction::SetPermissions { .. } => "Permissions set",
        }
    }

    pub(super) fn list(fields: Fields) -> Result<FileAction, Fault> {
        Ok(FileAction::List { path: optional_path(&fields)? })
    }

    pub(super) fn read(fields: Fields) -> Result<FileAction, Fault> {
        Ok(FileAction::Read { path: file_path(&fields, "path")? })
    }

    pub(super) fn write(fields: Fields) -> Result<FileAction, Fault> {
        let path = file_path(&fields, "path")?;
        Ok(FileAction::Write { path, content: Content(text(&fields, "content")?.as_bytes().to_vec()) })
    }

    pub(super) fn upload(fields: Fields) -> Result<FileAction, Fault> {
        let path = file_path(&fields, "path")?;
        let content = text(&fields, "content")?;
        let content = match fields.line("encoding", 16)? {
            None | Some("base64") => LENIENT
                .decode(content)
                .map_err(|_| fields.fault("content", "expected base64, as encoding says or leaves open"))?,
            Some("utf8" | "utf-8") => content.as_bytes().to_vec(),
            Some(_) => return Err(fields.fault("encoding", "expected base64 or utf8")),
        };
        let append = fields.flag("append", false)?;
        Ok(FileAction::Upload { path, content: Content(content), append })
    }

    pub(super) fn download(fields: Fields) -> Result<FileAction, Fault> {
        Ok(FileAction::Download {
            path: file_path(&fields, "path")?,
            offset: fields.whole("offset", 0..=1 << 53)?.unwrap_or(0),
            length: fields.whole("length", 0..=1 << 53)?,
        })
    }

    pub(super) fn create_directory(fields: Fields) -> Result<FileAction, Fault> {
        Ok(FileAction::CreateDirectory { path: file_path(&fields, "path")? })
    }

    pub(super) fn delete(fields: Fields) -> Result<FileAction, Fault> {
        Ok(FileAction::Delete { path: file_path(&fields, "path")? })
    }

    pub(super) fn info(fields: Fields) -> Result<FileAction, Fault> {
        Ok(FileAction::Info { path: path(&fields, "path")? })
    }

    pub(super) fn rename(fields: Fields) -> Result<FileAction, Fault> {
        let (from, to) = (file_path(&fields, "oldPath")?, file_path(&fields, "newPath")?);
        within(&fields, "newPath", &from, &to)?;
        Ok(FileAction::Rename { from, to })
    }

    pub(super) fn r#move(fields: Fields) -> Result<FileAction, Fault> {
        let (from, to) = from_to(&fields)?;
        Ok(FileAction::Move { from, to })
    }

    pub(super) fn copy(fields: Fields) -> Result<FileAction, Fault> {
        let (from, to) = from_to(&fields)?;
        Ok(FileAction::Copy { from, to })
    }

    pub(super) fn search(fields: Fields) -> Result<FileAction, Fault> {
        let path = optional_path(&fields)?;
        let query = match fields.line("query", MAX_QUERY)? {
            Some(query) if !query.is_empty() => query.to_owned(),
            _ => return Err(fields.fault("query", "missing; expected a part of a name, * and ? allowed")),
        };
        let kind = match fields.line("fileType", 32)? {
            None | Some("" | "all" | "any") => None,
            Some("file") => Some(SearchKind::File),
            Some("directory" | "folder") => Some(SearchKind::Directory),
            Some(extension) => Some(SearchKind::Extension(extension.trim_start_matches('.').to_lowercase())),
        };
        Ok(FileAction::Search { path, query, kind })
    }

    pub(super) fn permissions(fields: Fields) -> Result<FileAction, Fault> {
        Ok(FileAction::Permissions { path: path(&fields, "path")? })
    }

    pub(super) fn set_permissions(fields: Fields) -> Result<FileAction, Fault> {
        let path = path(&fields, "path")?;
        let rule = "expected three octal digits as a text, such as \"644\"";
        let mode = match fields.line("mode", 8) {
            Ok(Some(mode)) => mode.strip_prefix("0o").unwrap_or(mode),
            _ => return Err(fields.fault("mode", rule)),
        };
        // Neither setuid nor setgid nor sticky: nothing that a game needs is worth a program that runs as another.
        let octal = (3..=4).contains(&mode.len()) && mode.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(mode, 8) {
            Ok(mode) if octal && mode <= 0o777 => Ok(FileAction::SetPermissions { path, mode }),
            _ => Err(fields.fault("mode", rule)),
        }
    }
}

fn text<'a>(fields: &Fields<'a>, name: &str) -> Result<&'a str, Fault> {
    let value = fields.get(name).and_then(|value| value.as_str());
    value.ok_or_else(|| fields.fault(name, "missing; expected a text"))
}

pub(super) fn path(fields: &Fields, name: &str) -> Result<RelPath, Fault> {
    RelPath::parse(name, text(fields, name)?)
}

/// A path that is not the server's directory itself.
pub(super) fn file_path(fields: &Fields, name: &str) -> Result<RelPath, Fault> {
    match path(fields, name)? {
        path if path.is_root() => Err(Fault::new(
            Code::PathInvalid,
            format!("{name}: this is the server's directory itself; expected a path in it"),
        )),
        path => Ok(path),
    }
}

fn optional_path(fields: &Fields) -> Result<RelPath, Fault> {
    match fields.get("path") {
        None => Ok(RelPath::root()),
        Some(_) => path(fields, "path"),
    }
}

fn from_to(fields: &Fields) -> Result<(RelPath, RelPath), Fault> {
    let (from, to) = (file_path(fields, "sourcePath")?, file_path(fields, "destinationPath")?);
    within(fields, "destinationPath", &from, &to)?;
    Ok((from, to))
}

/// What would be put into itself.
fn within(fields: &Fields, name: &str, from: &RelPath, to: &RelPath) -> Result<(), Fault> {
    match to.is_within(from) {
        true => Err(Fault::new(
            Code::PathInvalid,
            fields.fault(name, "expected a path that is not the source itself or in it").message,
        )),
        false => Ok(()),
    }
}

/// A success of a [`FileAction`]. Fields that the action does not promise are `None`. It can be read again, for an Agent
/// that has another process do the work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FileReply {
    /// The sentence for a person. Encoded beside the data, not in it.
    #[serde(skip)]
    pub message: Cow<'static, str>,
    /// Each path as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<FileContent>,
    /// Of `content`, where it is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes in `content`, decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<FileEntry>>,
    /// Whether there are more files than these. A search says so in either case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<FileKind>,
    /// Of the file, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<Modified>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension: Option<String>,
    /// The same as `mode`, under the name that the actions about permissions have for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<String>,
    /// Numbers: the names are those of the image, which is not looked into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
}

/// What is in a file.
#[derive(Clone, PartialEq)]
pub enum FileContent {
    Text(String),
    /// Written as base64, without a copy in between.
    Bytes(Vec<u8>),
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    pub name: String,
    /// Only where entries of several directories stand together: from the server's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(rename = "type")]
    pub kind: FileKind,
    pub size: u64,
    pub modified: Modified,
    /// Three octal digits.
    pub mode: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<String>,
    /// A link to what the other fields tell of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub link: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    File,
    Directory,
    /// A link that leads nowhere, or out of the server's directory.
    Symlink,
    /// A device, socket or pipe: listed, never opened.
    Special,
}

/// When a file was changed last: milliseconds since 1970, RFC 3339 on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Modified(pub u64);

impl FileReply {
    /// The reply of an action on one path that promises nothing more.
    pub fn of(action: &FileAction, path: &RelPath) -> FileReply {
        let path = Some(path.sent().to_owned());
        FileReply { message: action.success().into(), path, ..FileReply::default() }
    }
}

impl FileContent {
    /// Bytes that it takes in memory.
    pub fn len(&self) -> usize {
        match self {
            FileContent::Text(text) => text.len(),
            FileContent::Bytes(bytes) => bytes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl Serialize for FileContent {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            FileContent::Text(text) => s.serialize_str(text),
            FileContent::Bytes(bytes) => s.collect_str(&Base64Display::new(bytes, &STANDARD)),
        }
    }
}

/// What was encoded stays so: it is only ever passed on.
impl<'de> Deserialize<'de> for FileContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FileContent, D::Error> {
        String::deserialize(deserializer).map(FileContent::Text)
    }
}

impl From<SystemTime> for Modified {
    /// What lies before 1970 is told as 1970.
    fn from(time: SystemTime) -> Modified {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Modified(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Serialize for Modified {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        // What no SystemTime holds is told as the last time that the wire can.
        let time = UNIX_EPOCH.checked_add(Duration::from_millis(self.0));
        Timestamp(time.unwrap_or(UNIX_EPOCH + Duration::from_secs(1 << 40))).serialize(s)
    }
}

impl<'de> Deserialize<'de> for Modified {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Modified, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(Modified::from).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_fit_or_refused() {
        let deep = "a/".repeat(MAX_PATH / 2);
        for (sent, want) in [
            ("", "."),
            ("/", "."),
            ("///", "."),
            (".", "."),
            ("./", "."),
            ("/server.properties", "server.properties"),
            ("server.properties", "server.properties"),
            ("//config//a.yml/", "config/a.yml"),
            ("./config/./a", "config/a"),
            ("...", "..."),
            ("..a/b..", "..a/b.."),
            ("a b/ü", "a b/ü"),
            ("a\\..\\b", "a\\..\\b"),
            (&deep, deep.trim_end_matches('/')),
        ] {
            let path = RelPath::parse("path", sent).unwrap();
            assert_eq!((path.as_str(), path.sent()), (want, sent));
        }
        let long = "x".repeat(MAX_PATH + 1);
        for wrong in ["..", "/..", "a/../b", "a/..", "../../etc/passwd", "a\0b", "a\nb", "\u{7f}", &long] {
            let fault = RelPath::parse("oldPath", wrong).unwrap_err();
            assert_eq!(fault.code, Code::PathInvalid, "{wrong:?}");
            assert!(fault.message.starts_with("oldPath: "), "{}", fault.message);
        }
    }

    #[test]
    fn knows_what_lies_in_what() {
        let path = |text| RelPath::parse("path", text).unwrap();
        assert!(path("/a/b").is_within(&path("a")) && path("a").is_within(&path("/a/")));
        assert!(path("a").is_within(&RelPath::root()));
        assert!(!path("ab").is_within(&path("a")) && !path("a").is_within(&path("a/b")));
        assert_eq!(path("/a/b/c").split(), Some(("a/b", "c")));
        assert_eq!(path("c").split(), Some((".", "c")));
        assert_eq!(path("/").split(), None);
    }
}
