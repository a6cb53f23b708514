//! The files of servers: everything below `DATA_DIR/servers/<id>`, and nothing else.
//!
//! | module | holds |
//! |---|---|
//! | [`root`] | one server's directory, open; whose files in it are and how many may be |
//! | [`owner`] | the user that new files belong to |
//! | [`quota`] | the disk limit |
//! | [`place`] | from a path to a name in an open directory |
//! | [`look`], [`read`], [`write`](mod@write), [`tree`], [`permissions`] | the work |
//! | [`temporary`] | files that are there as a whole or not at all |
//! | [`task`], [`desk`] | which work an action is, and having it done |
//! | [`trouble`] | what goes wrong, as the Panel is told |
//!
//! Every access goes from an open directory handle through [`cap_std`], which never leaves it: `openat2` beneath the
//! root where the kernel has it, one component after another without following links where it has not. No path text is
//! ever checked first and used later, and no absolute path is made here.

pub mod root;

pub mod owner;
pub mod quota;

pub mod place;
pub mod temporary;

pub mod look;
pub mod permissions;
pub mod read;
pub mod tree;
pub mod write;

pub mod desk;
pub mod task;
pub mod trouble;

pub use desk::Desk;
pub use owner::Owner;
pub use quota::Quota;
pub use root::{Files, Root};
pub use task::perform;
pub use trouble::Trouble;
