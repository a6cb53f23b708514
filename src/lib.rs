//! Longshore: game servers on Docker across many Linux machines.
//!
//! Reading order is the order of the modules below. `protocol` and `docker` know nobody, `gate` knows nobody,
//! `link` knows `protocol`, `server` knows `docker` and `protocol`, `agent` knows all of these, and `panel`
//! knows `protocol`, `link` and `gate` only. `tests/architecture.rs` holds this.
#![forbid(unsafe_code)]

pub mod protocol;

pub mod link;

pub mod gate;

pub mod docker;

pub mod server;

pub mod agent;

#[cfg(feature = "panel")]
pub mod panel;
