//! The operators in `run`, on a real Kafka, killed with -9 again and again: what a read_committed reader finds at the
//! end must be what one uninterrupted run of `simulate` gives for the same records.
//!
//! `lanes` keeps its keys: each partition has one order of time, so results must be equal to the record and in order.
//! `crossings` changes keys: records of several partitions meet in any order, so there only what does not depend on it is
//! compared. Both with `exactly_once` and `at_least_once`; there rows may come again, and nothing else.
//!
//! `LIVE_RUNS` (1) repeats it all; `CHAOS_ROUNDS` (5) bad things in each; `CHAOS_SEED` repeats records and choices.

mod compare;
mod crossings;
mod lanes;
mod show;

use crate::common::fleet::seed;
use compare::Guarantee;

fn runs() -> u64 {
    std::env::var("LIVE_RUNS").map_or(1, |n| n.parse().expect("LIVE_RUNS is a number"))
}

fn check(guarantee: Guarantee, play: impl Fn(Guarantee, u64)) {
    for run in 0..runs() {
        play(guarantee, seed().wrapping_add(run));
    }
}

#[test]
fn lanes_exactly_once() {
    check(Guarantee::ExactlyOnce, lanes::play);
}

#[test]
fn lanes_at_least_once() {
    check(Guarantee::AtLeastOnce, lanes::play);
}

#[test]
fn crossings_exactly_once() {
    check(Guarantee::ExactlyOnce, crossings::play);
}

#[test]
fn crossings_at_least_once() {
    check(Guarantee::AtLeastOnce, crossings::play);
}
