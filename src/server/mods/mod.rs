//! Mods: what is installed into a server's mod directory, and what of it is still as it was.
//!
//! [`records`] keeps which files each mod brought, in the Agent's own state. A record is written before the first file
//! moves in, so that there is never a file of a mod that nobody knows: after a crash half-way the mod can be installed
//! again or uninstalled. [`install`] does the work, on the thread of a job.

pub mod install;
pub mod records;

pub use records::{ModRecord, ModRecords};
