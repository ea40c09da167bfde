//! What the end-to-end tests share: worlds of real servers around the real binary.
//!
//! [`Stage`] is a topology of the test's own on real topics, [`World`] the shipped account-sync with a table and an API,
//! [`fleet`] several instances of it on a bad day. Needs `KAFKA_BROKERS`, and `SPANNER_EMULATOR_HOST` for a world
//! (`./test` sets both). Nothing is skipped without them.

mod api;
pub mod fleet;
pub mod instance;
pub mod lane;
mod server;
mod stage;
mod world;

use std::ops::ControlFlow;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slackwater::kafka::{Admin, KafkaConfig, OutRecord, TopicPartition, restore};
use slackwater::model::{Clock, Headers, SystemClock, Timestamp};
use slackwater::state::Row;

pub use self::api::Api;
pub use self::instance::Instance;
pub use self::lane::TestLane;
pub use self::server::OwnServer;
pub use self::stage::{Stage, text};
pub use self::world::{Setup, World};

/// Key and value.
pub type Sent<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A name that no other test or run has.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{what}-{}-{}-{}", SystemClock.now().0, std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn brokers() -> String {
    std::env::var("KAFKA_BROKERS")
        .expect("KAFKA_BROKERS is not set: start a broker with `scripts/kafka.sh start DIR` and export what it prints")
}

pub fn emulator() -> String {
    std::env::var("SPANNER_EMULATOR_HOST").expect(
        "SPANNER_EMULATOR_HOST is not set: start the emulator with `scripts/spanner.sh start DIR` and export what it prints",
    )
}

/// Waits for a condition; panics with `what` after `limit`.
pub fn wait(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether times are asserted as they are promised: `TIMINGS` is set, as the last step of `./test long` has it, on a machine
/// with nothing else to do. Else a bound has room for a busy one.
pub fn timings() -> bool {
    std::env::var_os("TIMINGS").is_some()
}

/// How many calls may arrive in one second under a limit: calls that are started in different seconds arrive in the same one
/// if some are late, here by up to a tenth of a second.
pub fn arrivals(limit: usize) -> usize {
    if timings() { limit } else { limit + limit.div_ceil(10) }
}

/// The program under test: the one that was just built, or another build of it, for example one that must not change
/// during a long run.
pub fn program() -> Command {
    Command::new(std::env::var("SLACKWATER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_slackwater").into()))
}

/// A record for a topic, whose key says which partition.
pub fn record(topic: &str, key: Option<Bytes>, value: Option<Bytes>, ts: Timestamp) -> OutRecord {
    OutRecord { topic: topic.into(), partition: None, key, value, headers: Headers::default(), ts: Some(ts) }
}

/// Keys and values of a topic as a read_committed reader sees them, in the order of each partition.
///
/// # Errors
/// A topic that was just made may not be shown whole yet.
pub fn read(brokers: &str, admin: &Admin, topic: &str, partitions: i32) -> Result<Vec<Row>, String> {
    let mut out = Vec::new();
    for partition in 0..partitions {
        let at = TopicPartition::new(topic, partition);
        let ends = admin.end_offsets(std::slice::from_ref(&at)).map_err(|e| e.to_string())?;
        restore(&KafkaConfig::new(brokers), "reader", &at, 0, ends[0], |rows, _, _| {
            out.extend(rows.iter().cloned());
            ControlFlow::Continue(())
        })
        .map_err(|e| e.to_string())?;
    }
    Ok(out)
}
