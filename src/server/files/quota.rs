//! The disk limit of a server. One count per node and server, so that what several tasks write at once adds up: the
//! last walk through the directory, and what was written and removed since.

use std::sync::Arc;

use crate::protocol::{Code, Fault, ServerId};
use crate::server::stats::Disks;

/// A server's limit and its share of the count. Bytes are those of whole blocks: see [`Quota::blocks`].
#[derive(Clone, Debug)]
pub struct Quota {
    disks: Disks,
    server: ServerId,
    limit: Option<u64>,
    lender: Option<Arc<dyn Lend>>,
}

/// Whoever has the count, where that is another process.
pub trait Lend: std::fmt::Debug + Send + Sync {
    /// Asks for bytes. Gives how many may be taken now: at least as many, or none.
    fn lend(&self, bytes: u64) -> u64;
}

/// What file systems give out at once, as far as a limit is concerned.
const BLOCK: u64 = 4096;
/// Lent at least, where there is so much: whoever borrows asks again for each piece that it writes.
const LOAN: u64 = 4 << 20;

impl Quota {
    pub fn new(disks: Disks, server: ServerId, limit: Option<u64>) -> Quota {
        Quota { disks, server, limit, lender: None }
    }

    /// The share of another process: each byte over `limit` is asked of `lender`.
    pub fn borrowed(disks: Disks, server: ServerId, limit: u64, lender: Arc<dyn Lend>) -> Quota {
        Quota { disks, server, limit: Some(limit), lender: Some(lender) }
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
        let fits = || self.disks.take(&self.server, bytes, self.limit);
        let borrow = |lender: &Arc<dyn Lend>| {
            let lent = lender.lend(bytes);
            self.disks.give_back(&self.server, lent);
            lent > 0 && fits()
        };
        match fits() || self.lender.as_ref().is_some_and(borrow) {
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

    pub fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Takes bytes for somebody else: as many as asked for, or more, or none.
    pub fn lend(&self, bytes: u64) -> u64 {
        [bytes.max(LOAN), bytes].into_iter().find(|bytes| self.take(*bytes).is_ok()).unwrap_or(0)
    }

    /// Takes bytes again that were only lent: they are on the disk, whatever the limit says.
    pub fn retake(&self, bytes: u64) {
        self.disks.take(&self.server, bytes, None);
    }
}
