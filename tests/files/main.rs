//! Servers' files on the built Agent and a real Engine: every action in each dialect, what an attacker inside a container
//! may try, and the limits.

#[path = "../support/mod.rs"]
mod support;

mod actions;
mod attacker;
mod http;
mod kernel;
mod leftovers;
mod limits;
// Of what it can make only a part is used here.
#[allow(dead_code)]
#[path = "../archives/make.rs"]
mod make;
mod order;
mod paths;
mod rig;
mod rootless;
mod rootless_jobs;
mod search_time;
mod slow_panel;
