//! What must hold under load, on a real Engine: minutes long, and with figures that want the machine for themselves.
//! Run by `make test-all`, against the Agent as it ships. `rig` holds what the behaviours share.

mod fleet;
mod flood;
mod rig;
mod stalled;
mod transfer;
mod whole;

#[path = "../support/mod.rs"]
mod support;
