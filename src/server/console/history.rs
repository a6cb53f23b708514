//! Lines that are asked for: from the ring where it has them, older ones from the Engine's log. Runs on a slow worker,
//! which blocks on the Engine; bounded in lines, in bytes and, by the client, in time.

use std::collections::VecDeque;
use std::fmt::Write;

use serde::Serialize;

use super::consoles::{Consoles, Recent};
use super::cursor::{Cursor, Resume};
use crate::docker::{Closer, ContainerId, Error, Line, LogQuery, Output};
use crate::protocol::console::{LogFormat, Stream, stamp};
use crate::protocol::{Code, ConsoleReply, Fault, MAX_OUT, Outcome, Reply, ServerId};
use crate::server::faults;

/// Records of the log beside the lines that are wanted: a line over 16 KiB is several.
const TAIL_SLACK: u32 = 16;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub server: ServerId,
    /// Whose log holds what is older than the ring; `None` when there is no container.
    pub container: Option<ContainerId>,
    pub wants: Wants,
}

#[derive(Clone, Copy, Debug)]
pub enum Wants {
    Logs {
        lines: u32,
    },
    History {
        lines: u32,
    },
    /// All of the log, which must not be over `limit` bytes.
    Download {
        format: LogFormat,
        limit: usize,
    },
}

impl Consoles {
    /// What can be answered without asking the Engine.
    pub fn answer_at_once(&self, question: &Question) -> Option<Outcome> {
        let lines = question.wants.lines()?;
        let recent = self.recent(&question.server, lines as usize);
        let enough = recent.lines.len() >= lines as usize || question.container.is_none();
        enough.then(|| Ok(question.wants.reply(recent.lines, usize::MAX, recent.next_seq)))
    }

    /// Answers; blocks on the Engine.
    pub fn answer(&self, question: &Question) -> Outcome {
        let Some(lines) = question.wants.lines() else { return self.download(question) };
        let recent = self.recent(&question.server, lines as usize);
        let missing = (lines as usize).saturating_sub(recent.lines.len());
        let older = match &question.container {
            Some(container) if missing > 0 => self.older(container, &recent, lines, missing),
            _ => Ok(VecDeque::new()),
        };
        let older = match older {
            Ok(older) => older,
            // What is in memory is worth more than nothing.
            Err(error) if !recent.lines.is_empty() || error.is_not_found() => {
                log::warn!("{}: older lines: {error}", question.server);
                VecDeque::new()
            }
            Err(error) => {
                log::warn!("{}: older lines: {error}", question.server);
                return Err(faults::of_engine(&error));
            }
        };
        let numbered = recent.lines.len();
        let all = older.into_iter().chain(recent.lines).collect();
        Ok(question.wants.reply(all, numbered, recent.next_seq))
    }

    /// The last `missing` lines before those in memory.
    fn older(
        &self,
        container: &ContainerId,
        recent: &Recent,
        lines: u32,
        missing: usize,
    ) -> Result<VecDeque<String>, Error> {
        let mut sieve = Sieve::new(recent);
        let query = LogQuery {
            follow: false,
            since_ns: recent.cleared.and_then(|cleared| cleared.since_ns()),
            tail: Some(lines + TAIL_SLACK),
        };
        let (mut found, mut bytes) = (VecDeque::<String>::new(), 0);
        // Lines are counted from the first one on, those that were let go too.
        let (mut gone, mut open) = (0, [None::<usize>; 2]);
        self.read(container, &query, |line, stream| {
            match sieve.sort(stream, line.time_ns) {
                Sorted::Cleared => return true,
                Sorted::InMemory => return false,
                Sorted::Older => {}
            }
            bytes += line.text.len();
            // The pieces of a long line are one text again.
            let at = open[stream as usize].filter(|at| *at >= gone).unwrap_or(gone + found.len());
            match found.get_mut(at - gone) {
                Some(text) => text.push_str(&line.text),
                None => found.push_back(line.text.into_owned()),
            }
            open[stream as usize] = line.partial.then_some(at);
            while found.len() > missing || bytes > MAX_OUT {
                bytes -= found.pop_front().map_or(bytes, |text| text.len());
                gone += 1;
            }
            true
        })?;
        Ok(found)
    }

    fn download(&self, question: &Question) -> Outcome {
        let Wants::Download { format, limit } = question.wants else { return Err(internal()) };
        let mut content = String::new();
        if format == LogFormat::Json {
            content.push('[');
        }
        let mut open = false;
        let mut fits = true;
        let mut write = |time_ns: u64, stream: Stream, text: &str, partial: bool| {
            match format {
                LogFormat::Txt => {
                    content.push_str(text);
                    if !partial {
                        content.push('\n');
                    }
                }
                LogFormat::Json => {
                    content.push_str(if open { ",\n" } else { "" });
                    open = true;
                    write_json(&mut content, time_ns, stream, text, partial);
                }
            }
            fits = content.len() < limit;
            fits
        };
        match &question.container {
            None => {
                let recent = self.recent(&question.server, usize::MAX >> 1);
                recent.lines.iter().all(|line| write(0, Stream::Stdout, line, false));
            }
            Some(container) => {
                let read = self.read(container, &LogQuery::default(), |line, stream| {
                    write(line.time_ns, stream, &line.text, line.partial)
                });
                if let Err(error) = read {
                    log::warn!("{}: its log: {error}", question.server);
                    return Err(faults::of_engine(&error));
                }
            }
        }
        if !fits {
            let text = "The log is larger than one answer may be. Ask for its last lines instead.";
            return Err(Fault::new(Code::TooLarge, text));
        }
        if format == LogFormat::Json {
            content.push(']');
        }
        Ok(Reply::Console(Box::new(ConsoleReply::Download { content })))
    }

    /// Shows the lines of a log, until one is answered with false.
    fn read(
        &self,
        container: &ContainerId,
        query: &LogQuery,
        mut show: impl FnMut(Line<'_>, Stream) -> bool,
    ) -> Result<(), Error> {
        let client = &self.0.client;
        let tty = client.inspect(container)?.config.tty;
        let mut log = client.logs(container, tty, query, &Closer::new())?;
        let mut wanted = true;
        while wanted {
            let more = log.read(|line| {
                let stream = match line.output {
                    Output::Stdout => Stream::Stdout,
                    Output::Stderr => Stream::Stderr,
                };
                wanted = wanted && show(line, stream);
            })?;
            wanted &= more;
        }
        Ok(())
    }
}

impl Wants {
    fn lines(self) -> Option<u32> {
        match self {
            Wants::Logs { lines } | Wants::History { lines } => Some(lines),
            Wants::Download { .. } => None,
        }
    }

    fn reply(self, lines: Vec<String>, numbered: usize, next_seq: u64) -> Reply {
        Reply::Console(Box::new(match self {
            Wants::History { .. } => {
                let numbered = numbered.min(lines.len());
                ConsoleReply::History { lines, numbered, last_seq: next_seq - 1 }
            }
            _ => ConsoleReply::Logs { lines },
        }))
    }
}

/// Tells the lines of a log apart by the ring.
struct Sieve {
    cleared: Option<Resume>,
    /// The ring's first line.
    first: Option<(u64, Stream, u32)>,
    cursor: Cursor,
}

#[derive(Debug, PartialEq)]
enum Sorted {
    /// From before the console was cleared.
    Cleared,
    Older,
    /// This line and what follows.
    InMemory,
}

impl Sieve {
    fn new(recent: &Recent) -> Sieve {
        let cleared = recent.cleared.map(Resume::after);
        Sieve { cleared, first: recent.first, cursor: Cursor::default() }
    }

    fn sort(&mut self, stream: Stream, time_ns: u64) -> Sorted {
        let ordinal = self.cursor.note(stream, time_ns);
        if self.cleared.as_mut().is_some_and(|cleared| !cleared.is_new(stream, time_ns)) {
            return Sorted::Cleared;
        }
        match self.first {
            Some((time, first, number)) if first == stream && (time_ns, ordinal) >= (time, number) => {
                Sorted::InMemory
            }
            _ => Sorted::Older,
        }
    }
}

fn write_json(content: &mut String, time_ns: u64, stream: Stream, text: &str, partial: bool) {
    #[derive(Serialize)]
    struct Entry<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        time: Option<String>,
        stream: Stream,
        message: &'a str,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        partial: bool,
    }
    let time = (time_ns > 0).then(|| stamp(time_ns).to_string());
    let entry = Entry { time, stream, message: text, partial };
    // Writing into a String cannot fail, and neither can such an entry's serialiser.
    let _ = write!(content, "{}", serde_json::to_string(&entry).unwrap_or_default());
}

fn internal() -> Fault {
    Fault::new(Code::Internal, "The Agent could not finish this. Its log says why.")
}
