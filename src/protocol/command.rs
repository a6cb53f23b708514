//! What a Panel can ask for, after decoding: typed, complete and valid.

use std::time::Duration;

use super::{ServerId, Spec, spec::SpecPatch};

/// The three ways a command can arrive and be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    Unified,
    Legacy,
    Http,
}

/// One decoded command.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// How to answer: the dialect, the id as it came, and what else the reply has to echo.
    pub envelope: Envelope,
    pub action: Action,
    /// Identity for the repeat memory. `None` for reads, legacy messages and commands without an id.
    pub key: Option<CommandKey>,
}

/// What a reply echoes of its command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// `id` as it came, even empty or missing.
    Unified {
        id: Option<String>,
    },
    /// `messageId` when one came. `request` is the message's `type`, which decides the reply's shape.
    Legacy {
        message_id: Option<String>,
        request: LegacyRequest,
        server: Option<ServerId>,
    },
    Http {
        id: Option<String>,
    },
}

/// Legacy request types whose replies differ in shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyRequest {
    /// Answered with `system_info`.
    SystemInfo,
    /// Answered with `server_status`.
    Status,
    /// Not answered when it succeeds: the output itself follows.
    Silent,
    /// Answered with `file_content`.
    File,
}

/// A command's identity: the same id with other content is another command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommandKey {
    pub id: String,
    /// SHA-256 over action, server id and the payload's canonical JSON.
    pub content: [u8; 32],
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// For one server, by its id.
    Server(ServerId, ServerAction),
    /// `docker.*`: the same actions, the server named by its container's id (or a unique prefix of at least 12
    /// digits) or name. What is not ours answers `CONTAINER_NOT_FOUND`.
    Container(String, ServerAction),
    ListServers,
    SystemMetrics,
    SystemPing,
    /// Legacy `system_info_request`.
    SystemInfo,
}

/// What is asked of one server.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerAction {
    Create(Box<CreateServer>),
    Update(Box<SpecPatch>),
    Start,
    Stop(StopOptions),
    Restart(StopOptions),
    Kill,
    Delete { remove_data: bool },
    Suspend,
    Unsuspend,
    Status,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateServer {
    pub spec: Spec,
    /// Existing data in the server's directory is kept instead of being refused.
    pub keep_data: bool,
    pub skip_scripts: bool,
}

/// How to stop, where the command says so; what is `None` is the server's own way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// A signal name such as `SIGTERM`, checked.
    pub signal: Option<String>,
    /// 0 to 3600 s until SIGKILL.
    pub timeout: Option<Duration>,
}

impl Command {
    /// Whether it only looks: reads simply run again when repeated.
    pub fn is_read(&self) -> bool {
        match &self.action {
            Action::Server(_, action) | Action::Container(_, action) => {
                matches!(action, ServerAction::Status)
            }
            Action::ListServers | Action::SystemMetrics | Action::SystemPing | Action::SystemInfo => true,
        }
    }
}
