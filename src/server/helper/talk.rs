//! What the Agent and its container say to each other: each a line of JSON, the question first, the answer last. Both are
//! the same executable, so no version of it has to be understood by another.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::protocol::{
    Action, ArchiveReply, Code, Fault, FileAction, FileReply, ModReply, Reply, ServerAction, ServerId,
    panel_side,
};
use crate::server::Wants;
use crate::server::archive::staging::Run;
use crate::server::download::Downloaded;
use crate::server::mods::records::Mods;
use crate::server::progress::Step;

/// What is to be done, and under what conditions.
#[derive(Serialize, Deserialize)]
pub struct Question {
    /// Of new files; `None` is whoever has the directory.
    pub owner: Option<(u32, u32)>,
    /// Whether room on the disk has to be asked for.
    pub limited: bool,
    pub work: Work,
}

#[derive(Serialize, Deserialize)]
pub enum Work {
    /// An action on files as a command of the unified dialect, of which one answer carries so many bytes.
    Act { command: String, most: u64 },
    /// An archive or mod, as such a command.
    Long { command: String, tools: Box<Tools> },
    /// Give the directory itself to its user.
    Give,
    /// Delete all that is in it.
    Empty,
    /// Delete what other runs of the Agent have left, all before a time.
    Sweep { run: Run, before: SystemTime },
}

/// What a long job takes beside the files.
#[derive(Serialize, Deserialize)]
pub struct Tools {
    pub run: Run,
    pub number: u64,
    pub mod_dir: String,
    pub mods: Mods,
    /// What the Agent has downloaded for it.
    pub download: Option<Downloaded>,
}

impl Work {
    pub fn act(server: &ServerId, action: &FileAction, most: u64) -> Work {
        Work::Act { command: command(server, ServerAction::File(Box::new(action.clone()))), most }
    }

    pub fn long(server: &ServerId, wants: &Wants, tools: Tools) -> Work {
        let action = match wants {
            Wants::Archive(action) => ServerAction::Archive(action.clone()),
            Wants::Mod(action) => ServerAction::Mod(action.clone()),
        };
        Work::Long { command: command(server, action), tools: Box::new(tools) }
    }
}

fn command(server: &ServerId, action: ServerAction) -> String {
    panel_side::action("", None, &Action::Server(server.clone(), action), SystemTime::UNIX_EPOCH)
}

/// What the container says.
#[derive(Serialize, Deserialize)]
pub enum Line {
    Step(Step),
    /// Asks for room, and waits for [`Word::Lent`].
    Lend(u64),
    /// Asks to keep the server's record of mods, and waits for [`Word::Saved`].
    Save(Mods),
    Done(Box<Answer>),
}

/// What it is told.
#[derive(Serialize, Deserialize)]
pub enum Word {
    /// Bytes; none where there is no room.
    Lent(u64),
    Saved(bool),
}

#[derive(Serialize, Deserialize)]
pub struct Answer {
    pub result: Result<Done, Refused>,
    /// Bytes taken less those given back.
    pub change: i64,
}

/// A success.
#[derive(Serialize, Deserialize)]
pub enum Done {
    Nothing,
    /// Its sentence is no part of the reply's own data.
    File(String, Box<FileReply>),
    Archive(ArchiveReply),
    Mod(Box<ModReply>),
}

impl Done {
    /// As the Agent's own work would have it.
    pub fn reply(self) -> Option<Reply> {
        match self {
            Done::Nothing => None,
            Done::File(message, reply) => {
                Some(Reply::File(Box::new(FileReply { message: message.into(), ..*reply })))
            }
            Done::Archive(reply) => Some(Reply::Archive(reply)),
            Done::Mod(reply) => Some(Reply::Mod(reply)),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub struct Refused {
    pub code: Code,
    pub message: String,
    /// For the log, where there is more to say.
    pub cause: String,
}

impl Refused {
    /// As the Panel is told. The cause goes to the log, under `label`.
    pub fn fault(self, label: &str, server: &ServerId) -> Fault {
        if !self.cause.is_empty() {
            log::info!("{label}: {server}: {}", self.cause);
        }
        Fault::new(self.code, self.message)
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Refused {
        Refused { code: fault.code, message: fault.message, cause: String::new() }
    }
}
