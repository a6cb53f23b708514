//! Servers' output on the data lane: takes lines from the consoles as the link has room, and says them in the dialects
//! of the moment. Runs on the write thread, and for confirmations on the read thread; never blocks.

use std::time::{Instant, SystemTime};

use super::tongues::Tongues;
use crate::link::Source;
use crate::protocol::console::{ServerLog, Stream};
use crate::protocol::{legacy, unified};
use crate::server::Consoles;
use crate::server::console::Batch;

/// See the module's description.
pub struct Output {
    consoles: Consoles,
    tongues: Tongues,
    batch: Batch,
    /// The same lines in the other dialect, next.
    second: Option<String>,
}

impl Output {
    pub fn new(consoles: Consoles, tongues: Tongues) -> Output {
        Output { consoles, tongues, batch: Batch::default(), second: None }
    }
}

impl Source for Output {
    fn next(&mut self, _max_bytes: usize) -> Option<String> {
        if let Some(second) = self.second.take() {
            return Some(second);
        }
        let Output { consoles, batch, tongues, second } = self;
        let server = consoles.next(batch, Instant::now())?;
        let now = SystemTime::now();
        let stream = batch.stream.unwrap_or(Stream::Stdout);
        let old =
            tongues.legacy().then(|| legacy::encode_output(&server, &batch.message, stream.name(), now));
        if !tongues.unified() {
            return old;
        }
        *second = old;
        let log = ServerLog {
            server_id: &server,
            stream,
            message: &batch.message,
            seq: batch.seq,
            count: batch.dt.len(),
            time_ns: batch.time_ns,
            dt: &batch.dt,
            ordinal: batch.ordinal,
            boot_id: consoles.boot_id(),
            partial: batch.partial,
        };
        Some(unified::encode_server_log(&log, now))
    }

    fn due(&self) -> Option<Instant> {
        self.consoles.due()
    }

    fn pinged(&mut self, number: u64) {
        self.consoles.pinged(number);
    }

    fn ponged(&mut self, number: u64) {
        self.consoles.ponged(number);
    }
}
