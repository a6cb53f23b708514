//! The wire contract as types: what a Panel can ask ([`Command`]), what comes of it ([`Outcome`]) and what the
//! Agent says unasked ([`Event`]), with one codec per dialect ([`unified`], [`legacy`], [`http`]).
//!
//! An Agent reads with a [`Decoder`] and answers with [`encode_outcome`]; a Panel does both with [`panel_side`].
//! Pure: no I/O, no clock, no thread. Everything that is behind this module is typed; no `serde_json::Value`
//! and no action name goes further in.

pub mod archive;
pub mod command;
pub mod console;
pub mod event;
pub mod fault;
pub mod file;
pub mod id;
pub mod join;
pub mod kept;
pub mod mods;
pub mod outcome;
pub mod spec;
pub mod status;

pub mod decode;

mod actions;
mod fields;
mod json;

pub mod data;
pub mod http;
pub mod legacy;
pub mod unified;
mod wire;

pub mod panel_side;

use std::time::SystemTime;

pub use actions::{EVENT_ACK, capabilities};
pub use archive::{ArchiveAction, ArchiveReply};
pub use command::{Action, Command, CommandKey, Dialect, Envelope, ServerAction, StopOptions};
pub use console::{ConsoleAction, ConsoleReply, ServerLog};
pub use decode::{Decoder, Incoming, Rejected, Skip};
pub use event::Event;
pub use fault::{Code, Fault};
pub use file::{FileAction, FileReply, RelPath};
pub use id::{NodeId, ServerId};
pub use kept::KeptReply;
pub use mods::{ModAction, ModReply};
pub use outcome::{Outcome, Reply};
pub use spec::Spec;
pub use status::{Reason, Status};

/// Largest message of a link that is read, in bytes.
pub const MAX_IN: usize = 16 << 20;

/// Largest body of a command over HTTP, in bytes: an upload of 16 MiB in base64, with room for writers that escape
/// each `/` of it.
pub const MAX_HTTP_IN: usize = 24 << 20;

/// Largest message that an Agent writes to a link, in bytes. Lists that would pass it are shortened and say so.
pub const MAX_OUT: usize = 2 << 20;

/// The answer to a command in its own dialect; `None` where success has none (legacy `server_command`). `now` is when
/// it is made.
pub fn encode_outcome(envelope: &Envelope, outcome: &Outcome, now: SystemTime) -> Option<String> {
    match envelope {
        Envelope::Unified { id } => Some(unified::encode_outcome(id.as_deref(), outcome, now)),
        Envelope::Legacy { message_id, request, server } => {
            legacy::encode_outcome(message_id.as_deref(), *request, server.as_ref(), outcome, now)
        }
        Envelope::Http { .. } => Some(http::encode_outcome(outcome, now)),
    }
}
