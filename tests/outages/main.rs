//! What the Agent does while something else is down: its servers, the Engine, the Panel. These tests mostly wait, so
//! they are one program, in which they wait together.

mod engine_restart;
mod half_open;
mod supervision;
#[path = "../support/mod.rs"]
mod support;
