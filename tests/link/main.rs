//! The link on real sockets: `rig` holds the peers, each other module one behaviour.

mod delivery;
mod dial;
mod ends;
mod half_open;
mod idle;
mod proxy;
mod rig;
mod round_trip;
