//! A server's console: what is asked of it, what is answered, and its lines as they go out unasked.

use serde::{Serialize, Serializer};

use super::fields::Fields;
use super::{Fault, ServerId};

/// Longest input at once, in bytes.
pub const MAX_INPUT: usize = 4096;

/// Most lines that can be asked for, and how many are meant when none are named.
pub const MAX_LINES: u32 = 10_000;
const LINES: u32 = 100;

/// Largest `message` of a [`ServerLog`], in bytes.
pub const MAX_LOG: usize = 32 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleAction {
    /// The last lines, as texts. `get_server_logs`
    Logs {
        lines: u32,
    },
    /// A line for standard input, without its end. `send_server_command`
    Command(String),
    /// Bytes for standard input as they are.
    Input(String),
    /// SIGINT, or ^C on a TTY.
    Interrupt,
    /// Live output, from the line after `since` of that boot.
    Connect {
        since: Option<u64>,
        boot_id: Option<String>,
    },
    Disconnect,
    Status,
    /// The last lines with their numbers.
    History {
        lines: u32,
    },
    Clear,
    /// The whole log.
    Download {
        format: LogFormat,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Txt,
    Json,
}

impl ConsoleAction {
    /// Whether it only looks.
    pub fn is_read(&self) -> bool {
        match self {
            ConsoleAction::Logs { .. }
            | ConsoleAction::Status
            | ConsoleAction::History { .. }
            | ConsoleAction::Download { .. } => true,
            ConsoleAction::Command(_)
            | ConsoleAction::Input(_)
            | ConsoleAction::Interrupt
            | ConsoleAction::Connect { .. }
            | ConsoleAction::Disconnect
            | ConsoleAction::Clear => false,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            ConsoleAction::Logs { .. } => "get_server_logs",
            ConsoleAction::Command(_) => "send_server_command",
            ConsoleAction::Input(_) => "console:input",
            ConsoleAction::Interrupt => "console:interrupt",
            ConsoleAction::Connect { .. } => "console:connect",
            ConsoleAction::Disconnect => "console:disconnect",
            ConsoleAction::Status => "console:status",
            ConsoleAction::History { .. } => "console:history",
            ConsoleAction::Clear => "console:clear",
            ConsoleAction::Download { .. } => "console:download",
        }
    }

    /// The sentence that tells its success.
    pub fn success(&self) -> &'static str {
        match self {
            ConsoleAction::Logs { .. } => "Server logs",
            ConsoleAction::Command(_) => "Command sent",
            ConsoleAction::Input(_) => "Input sent",
            ConsoleAction::Interrupt => "Interrupt sent",
            ConsoleAction::Connect { .. } => "Console connected",
            ConsoleAction::Disconnect => "Console disconnected",
            ConsoleAction::Status => "Console status",
            ConsoleAction::History { .. } => "Console history",
            ConsoleAction::Clear => "Console cleared",
            ConsoleAction::Download { .. } => "Console log",
        }
    }

    pub(super) fn logs(fields: Fields) -> Result<ConsoleAction, Fault> {
        Ok(ConsoleAction::Logs { lines: lines(fields)? })
    }

    pub(super) fn history(fields: Fields) -> Result<ConsoleAction, Fault> {
        Ok(ConsoleAction::History { lines: lines(fields)? })
    }

    pub(super) fn command(fields: Fields) -> Result<ConsoleAction, Fault> {
        match fields.line("command", MAX_INPUT)? {
            Some(line) => Ok(ConsoleAction::Command(line.to_owned())),
            None => Err(fields.fault("command", "missing; expected the line to write")),
        }
    }

    pub(super) fn input(fields: Fields) -> Result<ConsoleAction, Fault> {
        match fields.get("input").map(|input| input.as_str().filter(|text| text.len() <= MAX_INPUT)) {
            Some(Some(text)) => Ok(ConsoleAction::Input(text.to_owned())),
            _ => Err(fields.fault("input", format_args!("expected a text of at most {MAX_INPUT} bytes"))),
        }
    }

    pub(super) fn connect(fields: Fields) -> Result<ConsoleAction, Fault> {
        Ok(ConsoleAction::Connect {
            since: fields.whole("since", 0..=1 << 53)?,
            boot_id: fields.line("bootId", 64)?.map(str::to_owned),
        })
    }

    pub(super) fn download(fields: Fields) -> Result<ConsoleAction, Fault> {
        let format = match fields.line("format", 8)? {
            None | Some("txt") => LogFormat::Txt,
            Some("json") => LogFormat::Json,
            Some(_) => return Err(fields.fault("format", "expected txt or json")),
        };
        Ok(ConsoleAction::Download { format })
    }
}

fn lines(fields: Fields) -> Result<u32, Fault> {
    Ok(fields.small("lines", 1..=MAX_LINES)?.unwrap_or(LINES))
}

/// A success of a [`ConsoleAction`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleReply {
    Logs {
        lines: Vec<String>,
    },
    /// `server` where the action promises it.
    Sent {
        server: Option<ServerId>,
        message: &'static str,
    },
    Connected(bool),
    Status {
        connected: bool,
        /// Nanoseconds since 1970 of the last line or input.
        last_activity_ns: Option<u64>,
        /// Bytes of lines in memory.
        buffer_size: usize,
    },
    History {
        lines: Vec<String>,
        /// How many of the lines, counted from the end, have a number.
        numbered: usize,
        /// Of the last line; 0 before the first.
        last_seq: u64,
    },
    Cleared,
    Download {
        content: String,
    },
}

impl ConsoleReply {
    /// The sentence that tells it.
    pub fn message(&self) -> &'static str {
        match self {
            ConsoleReply::Logs { .. } => "Server logs",
            ConsoleReply::Sent { message, .. } => message,
            ConsoleReply::Connected(true) => "Console connected",
            ConsoleReply::Connected(false) => "Console disconnected",
            ConsoleReply::Status { .. } => "Console status",
            ConsoleReply::History { .. } => "Console history",
            ConsoleReply::Cleared => "Console cleared",
            ConsoleReply::Download { .. } => "Console log",
        }
    }
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
    /// The install script's output.
    Install,
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Install => "install",
        }
    }
}

/// Whole lines of one stream of one server. A line is known by its time, its stream and its `ordinal`, whatever boot
/// of the Agent it was read in; `seq` counts within a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerLog<'a> {
    pub server_id: &'a ServerId,
    pub stream: Stream,
    /// Joined by `\n`.
    pub message: &'a str,
    /// Of the first line.
    pub seq: u64,
    /// Lines.
    pub count: usize,
    /// Of the first line, in nanoseconds since 1970; RFC 3339 on the wire.
    #[serde(rename = "time", serialize_with = "nanoseconds")]
    pub time_ns: u64,
    /// Nanoseconds after `time`, one for each line. A clock that was set back makes them negative.
    pub dt: &'a [i64],
    /// Which one of those with the same time and stream the first line is, from 0.
    pub ordinal: u32,
    pub boot_id: &'a str,
    /// The last line is longer and goes on in the next message of this stream.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// RFC 3339 in UTC with nine digits.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
pub(super) fn nanoseconds<S: Serializer>(time_ns: &u64, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&stamp(*time_ns))
}

/// A time as [`ServerLog`] has it.
pub fn stamp(time_ns: u64) -> impl std::fmt::Display {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(time_ns);
    humantime::format_rfc3339_nanos(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nanoseconds() {
        assert_eq!(stamp(1_735_689_599_000_000_042).to_string(), "2024-12-31T23:59:59.000000042Z");
        // The latest that fits is far from the end of what can be written.
        assert_eq!(stamp(u64::MAX).to_string(), "2554-07-21T23:34:33.709551615Z");
    }
}
