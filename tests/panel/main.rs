//! The Panel from outside: the built process, fake Agents on real sockets, and raw HTTP.

mod accounts;
mod browser;
mod commands;
mod fake_agent;
mod links;
mod process;
mod process_life;
mod roles;
mod safety;
mod stream;
