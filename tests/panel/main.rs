//! The Panel from outside: the built process, fake Agents on real sockets, and raw HTTP.

mod fake_agent;
mod process;

mod commands;
mod links;
mod process_life;
mod safety;
mod stream;
