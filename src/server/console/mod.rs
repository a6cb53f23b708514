//! Consoles of game servers: their output in bounded memory and on its way to the Panel, and their input.
//!
//! ```text
//! con-<id11>: Engine's log --> Chunk --> ring of the server --> Batch --> panel-write
//! in-<id11>:  input of the Panel ------> attach
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`cursor`] | how far an output was read, and reading on from there |
//! | [`ring`] | the last lines of a server |
//! | [`bucket`] | how much of a server goes out in a time |
//! | [`feed`] | a ring, and how far the Panel has it |
//! | [`patterns`] | what a server prints when it is up |
//! | [`saved`] | cursors on disk |
//! | [`consoles`] | all of them, under one lock and within one bound |
//! | [`follower`] | the threads that read |
//! | [`history`] | lines that are asked for |
//! | [`input`] | the threads that write |
//!
//! The ring is the queue: nothing is copied for the Panel before it is encoded. Output is never read through attach,
//! which would stop a container whose reader is slow.

pub mod cursor;
pub mod ring;

pub mod bucket;
pub mod feed;

pub mod patterns;
pub mod saved;

pub mod consoles;
pub mod follower;
pub mod history;

pub mod input;

pub use consoles::{Consoles, Hooks, Run, Settings};
pub use feed::{Batch, Gap};
pub use history::{Question, Wants};
pub use input::{Inputs, Receipt, Refused, Target};
pub use patterns::Patterns;
pub use saved::Saved;
