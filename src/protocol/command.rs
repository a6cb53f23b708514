//! What a Panel can ask for, after decoding: typed, complete and valid.

use std::time::Duration;

use super::{ArchiveAction, ConsoleAction, FileAction, ModAction, ServerId, Spec, spec::SpecPatch};

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
    Metrics,
    Console(ConsoleAction),
    File(Box<FileAction>),
    Archive(ArchiveAction),
    Mod(ModAction),
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
        self.action.is_read()
    }
}

impl Envelope {
    pub fn dialect(&self) -> Dialect {
        match self {
            Envelope::Unified { .. } => Dialect::Unified,
            Envelope::Legacy { .. } => Dialect::Legacy,
            Envelope::Http { .. } => Dialect::Http,
        }
    }

    /// Whether the Panel has shown by it which dialect it wants to hear what is said unasked in.
    /// `system_info_request` is sent by panels of every kind.
    pub fn shows_dialect(&self) -> bool {
        !matches!(self, Envelope::Legacy { request: LegacyRequest::SystemInfo, .. })
    }

    /// The id for log lines and events; a legacy message has none.
    pub fn id(&self) -> Option<&str> {
        match self {
            Envelope::Unified { id } | Envelope::Http { id } => id.as_deref(),
            Envelope::Legacy { .. } => None,
        }
    }
}

impl Action {
    /// Whether it only looks.
    pub fn is_read(&self) -> bool {
        match self {
            Action::Server(_, action) | Action::Container(_, action) => action.is_read(),
            Action::ListServers | Action::SystemMetrics | Action::SystemPing | Action::SystemInfo => true,
        }
    }

    /// The contract's name for it, for the wire and for log lines.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Server(_, action) => action.name(),
            Action::Container(_, ServerAction::Start) => "docker.start",
            Action::Container(_, ServerAction::Stop(_)) => "docker.stop",
            Action::Container(_, ServerAction::Delete { .. }) => "docker.remove",
            Action::Container(_, ServerAction::Status) => "docker.inspect",
            Action::Container(_, other) => other.name(),
            Action::ListServers => "list_servers",
            Action::SystemMetrics => "get_system_metrics",
            Action::SystemPing => "system.ping",
            Action::SystemInfo => "system_info_request",
        }
    }
}

impl ServerAction {
    pub fn is_read(&self) -> bool {
        match self {
            ServerAction::Status | ServerAction::Metrics => true,
            ServerAction::Console(action) => action.is_read(),
            ServerAction::File(action) => action.is_read(),
            ServerAction::Mod(action) => action.is_read(),
            ServerAction::Create(_)
            | ServerAction::Update(_)
            | ServerAction::Start
            | ServerAction::Stop(_)
            | ServerAction::Restart(_)
            | ServerAction::Kill
            | ServerAction::Delete { .. }
            | ServerAction::Suspend
            | ServerAction::Unsuspend
            | ServerAction::Archive(_) => false,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            ServerAction::Create(_) => "create_server",
            ServerAction::Update(_) => "update_server",
            ServerAction::Start => "start_server",
            ServerAction::Stop(_) => "stop_server",
            ServerAction::Restart(_) => "restart_server",
            ServerAction::Kill => "kill_server",
            ServerAction::Delete { .. } => "delete_server",
            ServerAction::Suspend => "suspend_server",
            ServerAction::Unsuspend => "unsuspend_server",
            ServerAction::Status => "get_status",
            ServerAction::Metrics => "get_server_metrics",
            ServerAction::Console(action) => action.name(),
            ServerAction::File(action) => action.name(),
            ServerAction::Archive(action) => action.name(),
            ServerAction::Mod(action) => action.name(),
        }
    }

    /// The sentence that tells its success.
    pub fn success(&self) -> &'static str {
        match self {
            ServerAction::Create(_) => "Server created successfully",
            ServerAction::Update(_) => "Server updated successfully",
            ServerAction::Start => "Server started successfully",
            ServerAction::Stop(_) => "Server stopped successfully",
            ServerAction::Restart(_) => "Server restarted successfully",
            ServerAction::Kill => "Server killed successfully",
            ServerAction::Delete { .. } => "Server deleted successfully",
            ServerAction::Suspend => "Server suspended successfully",
            ServerAction::Unsuspend => "Server unsuspended successfully",
            ServerAction::Status => "Server status",
            ServerAction::Metrics => "Server metrics",
            ServerAction::Console(action) => action.success(),
            ServerAction::File(action) => action.success(),
            ServerAction::Archive(action) => action.success(),
            ServerAction::Mod(action) => action.success(),
        }
    }
}
