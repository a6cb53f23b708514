//! What outlives the Agent: commands, their answers and what was said, over kill -9 at every step, over disks that take
//! nothing, and over networks that lie. What was done is counted at the Engine, by its own events.

mod crash;
mod delivery;
mod disk;
mod faults;
mod left;
mod supervision;
#[path = "../support/mod.rs"]
mod support;
