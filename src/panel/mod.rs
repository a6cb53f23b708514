//! The Panel.
pub mod config;
pub mod events;
pub mod secret;
pub mod store;
pub mod time;
pub mod wire;
