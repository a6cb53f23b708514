//! The Panel from outside: the built process, fake Agents on real sockets, and raw HTTP.

mod accounts;
mod browser;
mod commands;
mod disk;
mod fake_agent;
mod files;
mod hostile;
mod idempotency;
mod join;
mod links;
mod ports;
mod process;
mod process_life;
mod roles;
mod safety;
mod second_factor;
mod stream;
mod tls;

#[path = "../support/totp.rs"]
mod totp;
