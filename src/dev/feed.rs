//! The feed of `dev`: changes accounts and announces each change on the topology's source topics.
//!
//! The embedded broker keeps about 5 MiB of a partition and drops older records silently, so the feed counts what it
//! wrote and stops before that. It can count because it chooses the partition itself, by the account's number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::accounts::Accounts;
use super::bursts::Bursts;
use super::made_up::made_up;
use crate::kafka::{OutRecord, WriteClass, Writer};
use crate::model::{Clock, Headers, Shape, SystemClock};

/// Partitions of each source topic.
pub const PARTITIONS: i32 = 4;
/// Bytes written to one partition, at most: what the broker keeps, with room to spare.
pub const PARTITION_BYTES_MAX: u64 = 4 << 20;
/// Most bytes that one record takes in a partition besides key and value (it is a batch of its own).
const RECORD_BYTES: u64 = 100;
/// Approximate bytes of one record, to estimate how long the feed can go on.
const EVENT_BYTES: f64 = 220.0;
/// How often changes are written.
const TICK: Duration = Duration::from_millis(20);
/// How long to wait before a failed write is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// What is fed.
#[derive(Clone, Debug)]
pub struct FeedOptions {
    /// Topics; each event goes to one of them, in turn by account.
    pub topics: Vec<Arc<str>>,
    /// Of each topic, what its values are, where the topology says so: then events are made up as that.
    pub shapes: Vec<Option<Shape>>,
    /// Number of accounts.
    pub accounts: usize,
    /// Events a second, on average.
    pub per_second: f64,
    /// How much faster than real the bursts are.
    pub speed: f64,
    /// The same seed gives the same events.
    pub seed: u64,
}

impl FeedOptions {
    /// How long the feed can go on, about, until a partition is full; half of the events may go to one partition.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        let topics = u32::try_from(self.topics.len().max(1)).unwrap_or(1);
        let bytes_per_second = self.per_second * EVENT_BYTES * 0.5 / f64::from(topics);
        let max = u32::try_from(PARTITION_BYTES_MAX).unwrap_or(u32::MAX);
        Duration::try_from_secs_f64(f64::from(max) / bytes_per_second).unwrap_or(Duration::MAX)
    }
}

/// Why the feed ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEnd {
    /// It was stopped.
    Stopped,
    /// This partition is full: it has all that the broker keeps of one.
    Full(String),
    /// The broker does not accept more.
    Failed(String),
}

/// The feed: it applies changes to accounts and announces each one.
pub struct Feed {
    options: FeedOptions,
    writer: Writer,
    /// Shared with the API's handlers, the live view and the proof, which lock it for moments.
    accounts: Arc<Mutex<Accounts>>,
    /// Events that the broker has acknowledged.
    written: Arc<AtomicU64>,
    /// Bytes written, by topic and partition.
    bytes: Vec<Vec<u64>>,
}

impl Feed {
    /// A feed that has written nothing.
    #[must_use]
    pub fn new(options: FeedOptions, writer: Writer, accounts: Arc<Mutex<Accounts>>) -> Feed {
        let partitions = usize::try_from(PARTITIONS).unwrap_or(1);
        let bytes = vec![vec![0; partitions]; options.topics.len()];
        Feed { options, writer, accounts, written: Arc::default(), bytes }
    }

    /// Events written so far.
    #[must_use]
    pub fn written(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.written)
    }

    /// Feeds until `stop`, or until a partition is full.
    pub async fn run(mut self, stop: CancellationToken) -> FeedEnd {
        let options = &self.options;
        let mut bursts = Bursts::new(options.accounts, options.per_second, options.speed, options.seed);
        let start = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            // Both are cancel-safe; biased, so that nothing is written after the stop.
            tokio::select! {
                biased;
                () = stop.cancelled() => return FeedEnd::Stopped,
                _ = tick.tick() => {}
            }
            let (records, full) = self.changes(&bursts.take(start.elapsed()));
            if let Err(end) = self.write(&records).await {
                return end;
            }
            if let Some(partition) = full {
                return FeedEnd::Full(partition);
            }
        }
    }

    /// Makes the changes and the events that announce them. Ends early when a partition is full, and says which.
    fn changes(&mut self, due: &[usize]) -> (Vec<OutRecord>, Option<String>) {
        let mut records = Vec::with_capacity(due.len());
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        for &number in due {
            let id = format!("acct-{number:04}");
            let partition = number % self.bytes[0].len();
            let topic = number / self.bytes[0].len() % self.bytes.len();
            let name = &self.options.topics[topic];
            if self.bytes[topic][partition] >= PARTITION_BYTES_MAX {
                return (records, Some(format!("{name}-{partition}")));
            }
            let now = SystemClock.now();
            let change = accounts.change(&id, now);
            let field = ["email", "plan", "seats"][number % 3];
            let value = match self.options.shapes.get(topic) {
                Some(Some(shape)) => made_up(shape, "value", &id, change, now),
                Some(None) | None => serde_json::json!({
                    "accountId": id, "change": change, "field": field,
                    "changed_at": now.rfc3339(),
                }),
            };
            let value = value.to_string();
            let size = id.len() + value.len();
            self.bytes[topic][partition] += RECORD_BYTES + u64::try_from(size).unwrap_or(u64::MAX / 2);
            records.push(OutRecord {
                topic: Arc::clone(name),
                partition: i32::try_from(partition).ok(),
                key: Some(Bytes::from(id)),
                value: Some(Bytes::from(value)),
                headers: Headers::default(),
                ts: Some(now),
            });
        }
        (records, None)
    }

    /// Writes all of them, and tries for as long as it takes: a change without its event would be a lost event.
    async fn write(&self, records: &[OutRecord]) -> Result<(), FeedEnd> {
        let mut rest = records;
        while !rest.is_empty() {
            match self.writer.send_all(rest).await {
                Ok(()) => break,
                Err(e) if e.class == WriteClass::Retry => {
                    tracing::warn!(error = e.message, "feed: will try again");
                    rest = &rest[e.index..];
                    tokio::time::sleep(AGAIN).await;
                }
                Err(e) => return Err(FeedEnd::Failed(e.to_string())),
            }
        }
        self.written.fetch_add(records.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
