//! The faults of `tests/chaos`, for longer.

use crate::storm::{failing_engine, looping_engine};

#[test]
fn three_hundred_rounds_of_engine_failures() {
    for seed in 1..=10 {
        failing_engine(seed, 30);
    }
}

#[test]
fn an_engine_that_goes_down_thirty_times() {
    looping_engine(7, 30);
}
