//! From what is asked of a server's files to the work: one place, whoever does it.

use super::{Root, Trouble, look, permissions, read, tree, write};
use crate::protocol::{FileAction, FileReply};
use crate::server::abort::Abort;

/// Does what is asked. `most` is how many bytes of a file one answer carries. It takes as long as the disk takes; `abort`
/// ends what is long between two entries.
///
/// # Errors
/// What went wrong. Nothing is changed then, except that a delete may have come half-way.
pub fn perform(root: &Root, action: &FileAction, most: u64, abort: &Abort) -> Result<FileReply, Trouble> {
    let message = action.success().into();
    let reply = |path: &crate::protocol::RelPath| FileReply::of(action, path);
    match action {
        FileAction::List { path } => look::list(root, path, abort, reply(path)),
        FileAction::Read { path } => read::text(root, path, reply(path)),
        FileAction::Write { path, content } | FileAction::Upload { path, content, append: false } => {
            write::whole(root, path, &content.0, reply(path))
        }
        FileAction::Upload { path, content, append: true } => {
            write::append(root, path, &content.0, reply(path))
        }
        FileAction::Download { path, offset, length } => {
            read::bytes(root, path, *offset, *length, most, reply(path))
        }
        FileAction::CreateDirectory { path } => write::directory(root, path, reply(path)),
        FileAction::Delete { path } => tree::delete(root, path, abort, reply(path)),
        FileAction::Info { path } => look::info(root, path, reply(path)),
        FileAction::Rename { from, to } => {
            let (old_path, new_path) = (Some(from.sent().to_owned()), Some(to.sent().to_owned()));
            tree::rename(root, from, to, FileReply { message, old_path, new_path, ..FileReply::default() })
        }
        FileAction::Move { from, to } | FileAction::Copy { from, to } => {
            let (source_path, destination_path) = (Some(from.sent().to_owned()), Some(to.sent().to_owned()));
            let reply = FileReply { message, source_path, destination_path, ..FileReply::default() };
            match action {
                FileAction::Move { .. } => tree::rename(root, from, to, reply),
                _ => tree::copy(root, from, to, abort, reply),
            }
        }
        FileAction::Search { path, query, kind } => {
            look::search(root, path, query, kind.as_ref(), abort, reply(path))
        }
        FileAction::Permissions { path } => permissions::get(root, path, reply(path)),
        FileAction::SetPermissions { path, mode } => permissions::set(root, path, *mode, reply(path)),
    }
}
