//! What running servers use: processor, memory, processes, block devices and network, read from the kernel's own files,
//! and from the Engine, which takes a hundred times as long for it, only where those cannot be read.
//!
//! | file | holds |
//! |---|---|
//! | `cgroup` | the control groups of a process, version 1 or 2, and their counters. Pure parsing behind one read |
//! | `kernel_file` | a file of the kernel's that is kept open between two reads |
//! | `net` | the traffic of a process's network namespace |
//! | `disk` | what a directory takes, walked in small pieces |
//! | `disk_watch` | the thread that walks, and who has been over the limit for too long |
//! | `engine` | the Engine's one-shot stats, where the kernel's files cannot be read |
//! | `sampler` | the thread that measures all servers in turn, and what it found |

pub mod cgroup;
pub mod disk;
pub mod disk_watch;
mod engine;
mod kernel_file;
pub mod net;
pub mod sampler;

pub use disk::Walk as DiskWalk;
pub use disk_watch::{DiskUse, Disks, Walker, Watch};
pub use sampler::{Rhythm, Sampler, Stats, Target, Usage};
