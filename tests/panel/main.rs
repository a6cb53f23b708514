//! The Panel from outside: the built process, fake Agents on real sockets, and raw HTTP.

mod accounts;
mod browser;
mod commands;
mod disk;
mod fake_agent;
mod join;
mod links;
mod process;
mod process_life;
mod roles;
mod safety;
mod stream;
