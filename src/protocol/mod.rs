//! The wire contract as types: what a Panel can ask ([`Command`]), what comes of it ([`Outcome`]) and what the
//! Agent says unasked ([`Event`]), with one codec per dialect ([`unified`], [`legacy`], [`http`]).
//!
//! Pure: no I/O, no clock, no thread. Everything that is behind this module is typed; no `serde_json::Value`
//! and no action name goes further in.

pub mod command;
pub mod event;
pub mod fault;
pub mod id;
pub mod outcome;
pub mod spec;
pub mod status;

pub use command::{Action, Command, CommandKey, Dialect, ServerAction, StopOptions};
pub use event::Event;
pub use fault::{Code, Fault};
pub use id::{NodeId, ServerId};
pub use outcome::{Outcome, Reply};
pub use spec::Spec;
pub use status::{Reason, Status};
