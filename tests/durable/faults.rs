//! Commands over a network that lies, with an Agent that is killed at any moment: a bounded number of rounds. A thousand of
//! them are among the load tests.

use crate::support::storm::Storm;

#[test]
fn nothing_is_lost_and_nothing_is_done_twice_over_a_network_that_lies() {
    Storm { seed: 7, rounds: 12, kill_every: 1000 }.run();
}

#[test]
fn nor_by_an_agent_that_is_killed_at_any_moment() {
    Storm { seed: 11, rounds: 12, kill_every: 2 }.run();
}
