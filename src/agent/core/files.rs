//! Servers' files, as the loop sees them: what is refused at once, and which work begins when.

use super::*;
use crate::agent::file_queue::Nature;
use crate::protocol::FileAction;
use crate::protocol::file::{MAX_PIECE_HTTP, MAX_PIECE_LINK};

impl Core {
    /// Has done what a command asks of a server's files. `key` is known to the ledger.
    pub(super) fn file(
        &mut self,
        origin: Origin,
        key: Option<CommandKey>,
        id: ServerId,
        action: Box<FileAction>,
    ) {
        let name = action.name();
        let http = matches!(origin.envelope, Envelope::Http { .. });
        let most = if http { MAX_PIECE_HTTP } else { MAX_PIECE_LINK };
        let bytes = action.content().map_or(0, |content| content.0.len());
        let server = self.servers.get(&id).filter(|server| server.machine.is_created());
        let fault = match server {
            None => Some(server_not_found()),
            _ if bytes as u64 > most => Some(Fault::new(
                Code::TooLarge,
                format!(
                    "content: one message carries at most {} MiB. Send the rest with append.",
                    most >> 20
                ),
            )),
            _ if self.waiting.len() >= MAX_WAITING || !self.files.has_room(bytes) => Some(busy()),
            Some(_) => None,
        };
        let (None, Some(server)) = (&fault, server) else {
            return self.refuse(&origin, key, name, fault.unwrap_or_else(server_not_found));
        };
        let brings = !http && action.gives_content();
        let nature = Nature { changes: !action.is_read(), long: action.is_long(), brings, bytes };
        let spec = server.machine.spec().clone();
        let (label, mark) = (origin.label().to_owned(), None);
        let task = FileTask { label, server: id.clone(), spec, action, most, mark };
        let ticket = self.admit_waiting(origin, key, name, &id);
        self.files.push(ticket, id, nature, Box::new(task));
        self.begin_files();
    }

    /// Gives to the threads what may begin.
    pub(super) fn begin_files(&mut self) {
        if self.draining {
            return;
        }
        // Before the room is looked at, so that none is missed that there is right after.
        self.room_wanted.set(true);
        while let Some((ticket, mut task)) = self.files.begin(self.voice.bulk_room(), Instant::now()) {
            task.mark = self.mark(ticket);
            // Without a thread it waits for the next one.
            if let Err(error) = self.file_threads.give(ticket, task, self.files.running()) {
                log::error!("no thread for files: {error}");
            }
        }
        self.room_wanted.set(self.files.deadline().is_some());
    }

    /// Answers what has waited for room on the link as long as it may.
    pub(super) fn give_up_files(&mut self) {
        for ticket in self.files.give_up(Instant::now()) {
            let text = "Too many files are on their way already. Try again when some have arrived.";
            self.answered(ticket, Err(Fault::new(Code::Busy, text)));
        }
    }

    /// A command has its outcome; when it was one of these, the next may begin.
    pub(super) fn file_ended(&mut self, ticket: Ticket) {
        if self.files.done(ticket) {
            self.begin_files();
        }
    }
}
