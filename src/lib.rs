//! Longshore: game servers on Docker across many Linux machines.
//!
//! ```text
//!            browser                                     game servers
//!               | HTTP                                        ^
//!             panel  <--- one outbound WebSocket ---  agent --' Docker Engine API
//! ```
//!
//! The rooms, in reading order. None knows a later one, and `tests/architecture.rs` holds who may know whom:
//!
//! | room | holds | knows |
//! |---|---|---|
//! | [`protocol`] | the wire contract as types and its three dialects; no I/O | nobody |
//! | [`link`] | one full-duplex WebSocket link, for both sides | `protocol` |
//! | [`gate`] | the HTTP front door: bounds and time limits before tiny_http | nobody |
//! | [`docker`] | a typed client of the Engine | nobody |
//! | [`server`] | a game server: its pure state machine, the jobs that carry it out | `docker`, `protocol` |
//! | [`agent`] | the Agent: one loop that owns all state, and the threads that block for it | all of these |
//! | `panel` | the Panel, with the Cargo feature of that name | `protocol`, `link`, `gate` |
//!
//! How it works: whatever can happen to the Agent is one variant of [`agent::event::Event`]; one thread takes them in
//! turn ([`agent::core`]), asks the machine of the server concerned ([`server::machine`]) and hands the work to threads
//! that may block. State has one owner, and a thread that blocks is ended by ending what it blocks on.
//!
//! What is absent: an async runtime, polling, a lock around state, Docker's own restart policy, and any attach to a
//! container's output, since an attach that is not read freezes the container.
#![forbid(unsafe_code)]

pub mod version;

pub mod protocol;

pub mod link;

pub mod gate;

pub mod docker;

pub mod server;

pub mod agent;

#[cfg(feature = "panel")]
pub mod panel;
