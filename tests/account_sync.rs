//! account-sync end to end: real Kafka, the real Spanner emulator, the real binary, a real HTTP API, and bad days.

mod common;

use std::time::{Duration, Instant};

use common::{Setup, World, wait};

const LONG: Duration = Duration::from_secs(60);

fn accounts(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("acct-{i}")).collect()
}

#[test]
fn a_burst_is_one_call_and_one_row() {
    let world = World::new(Setup::default());
    let mut one = world.start("one");
    one.wait_ready(LONG);
    for _ in 0..5 {
        world.change(&accounts(20));
    }
    world.wait_synced(LONG);
    assert_eq!(world.api.calls(), 20, "one call per settled account");
    assert_eq!(world.api.overlaps(), 0);
    wait("offsets are committed", LONG, || one.metric("slackwater_commit_lag_records", "") == 0.0);
    assert_eq!(one.stop(LONG), 0);
    // A second start has nothing left to do.
    let mut again = world.start("one");
    again.wait_ready(LONG);
    assert_eq!(world.api.calls(), 20);
    assert_eq!(again.stop(LONG), 0);
}
