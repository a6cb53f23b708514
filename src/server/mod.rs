//! A game server: what it should be, what it is, and the work that makes the two agree.
//!
//! | module | holds |
//! |---|---|
//! | [`machine`] | the pure state machine of one server |
//! | [`supervision`] | the pure rule for crashes |
//! | [`facts`] | what a look at Docker tells |
//! | [`record`] | what is kept on disk |
//! | [`blueprint`] | a spec as the container that Docker is asked for |
//! | [`console`] | output and input of servers |
//! | [`files`] | servers' files, beneath their directories only |
//! | [`lifecycle`] | the jobs of the workers, against the Engine |
//! | [`archive`] | zip, tar and tar.gz of a server's files, both ways |
//! | [`download`] | files from the Internet, from public addresses only |
//! | [`mods`] | what is installed into a server's mod directory |
//! | [`workshop`] | the long jobs: archives and mods |
//! | [`helper`], [`holding`] | what takes root, by a container of its own, and the downloads for it |
//! | [`progress`], [`abort`] | how far a long job is, and its end from outside |
//! | [`stats`] | what running servers use, from the kernel |
//! | [`faults`] | an Engine error as the Panel is told |
//!
//! It owns no thread: the agent loop owns the machines and the workers run the jobs.

pub mod abort;
pub mod archive;
pub mod blueprint;
pub mod console;
pub mod download;
pub mod facts;
pub mod faults;
pub mod files;
pub mod helper;
pub mod holding;
pub mod lifecycle;
pub mod machine;
pub mod mods;
pub mod progress;
pub mod record;
pub mod signal;
pub mod stats;
pub mod supervision;
pub mod workshop;

pub use console::{Consoles, Inputs};
pub use facts::{Died, Facts};
pub use files::Files;
pub use helper::Helper;
pub use lifecycle::Lifecycle;
pub use machine::{Begun, Change, Desired, Done, Effect, Input, Job, JobResult, Machine, Request, Ticket};
pub use record::{Record, Records};
pub use supervision::Moment;
pub use workshop::{LongJob, Wants, Workshop};
