//! What must hold under load, on a real Engine: minutes long, and with figures that want the machine for themselves.
//! Run by `make test-all`, against the Agent as it ships. `rig` holds what the behaviours share.

mod chaos;
#[cfg(feature = "panel")]
mod contract;
mod durable;
mod fleet;
mod flood;
#[cfg(feature = "panel")]
mod panel;
mod rig;
mod stalled;
mod transfer;
mod whole;

#[cfg(feature = "panel")]
#[allow(dead_code)] // it is the Panel's own tests'; here a part of it is used
#[path = "../panel/process.rs"]
mod process;

#[path = "../chaos/storm.rs"]
mod storm;
#[path = "../support/mod.rs"]
mod support;
