//! The disk limit of a server. One count per node and server, so that what several tasks write at once adds up: the
//! last walk through the directory, and what was written and removed since.

use crate::protocol::{Code, Fault, ServerId};
use crate::server::stats::Disks;

/// A server's limit and its share of the count. Bytes are those of whole blocks: see [`Quota::blocks`].
#[derive(Clone, Debug)]
pub struct Quota {
    disks: Disks,
    server: ServerId,
    limit: Option<u64>,
}

/// What file systems give out at once, as far as a limit is concerned.
const BLOCK: u64 = 4096;

impl Quota {
    pub fn new(disks: Disks, server: ServerId, limit: Option<u64>) -> Quota {
        Quota { disks, server, limit }
    }

    /// What a file of so many bytes takes: whole blocks, and one for the entry itself.
    pub fn blocks(bytes: u64) -> u64 {
        bytes.div_ceil(BLOCK).saturating_mul(BLOCK).max(BLOCK)
    }

    /// Takes bytes before they are written. Nothing is taken when it fails.
    ///
    /// # Errors
    /// `QUOTA_EXCEEDED`, also where the sum would overflow.
    pub fn take(&self, bytes: u64) -> Result<(), Fault> {
        match self.disks.take(&self.server, bytes, self.limit) {
            true => Ok(()),
            false => Err(Fault::new(
                Code::QuotaExceeded,
                "This would pass the server's disk limit. Delete something or raise the limit.",
            )),
        }
    }

    /// Says that bytes were freed, or were taken and not written.
    pub fn give_back(&self, bytes: u64) {
        self.disks.give_back(&self.server, bytes);
    }

    /// Bytes that may still be taken; `None` without a limit.
    pub fn room(&self) -> Option<u64> {
        let used = self.disks.known(&self.server).unwrap_or(0);
        self.limit.map(|limit| limit.saturating_sub(used))
    }

    /// Takes bytes again that were only lent: they are on the disk, whatever the limit says.
    pub fn retake(&self, bytes: u64) {
        self.disks.take(&self.server, bytes, None);
    }

    /// A count of its own without a limit, for what the server's count does not concern.
    pub fn apart(&self) -> Quota {
        let (disks, _) = Disks::new(std::path::PathBuf::new());
        Quota { disks, server: self.server.clone(), limit: None }
    }
}
