//! An Engine that fails in every way it can, a bounded part of it: `make test-all` goes on for longer.

mod storm;
#[path = "../support/mod.rs"]
mod support;

#[test]
fn no_failure_of_the_engine_makes_a_false_word() {
    storm::failing_engine(1, 4);
}

#[test]
fn an_engine_that_goes_down_in_a_loop_brings_no_false_word() {
    storm::looping_engine(1, 3);
}
