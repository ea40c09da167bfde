//! Reading as a member of a consumer group.
//!
//! One consumer per process. The thread `kafka-poller` serves its main queue: rebalances and errors, which it hands to
//! the event handler. Records do not pass through it: each assigned partition has its own queue, a [`PartitionReader`],
//! which a worker polls itself. Backpressure is not polling; prefetch is bounded.
//!
//! Life of a partition: assigned -> its committed offset is looked up -> [`GroupEvent::Assigned`] with its reader ->
//! records -> [`GroupEvent::Revoked`], in which the poller waits until the runtime has committed, dropped the reader
//! and answered `done`; only then the partition is given away.
//!
//! Deliberately not here: pause and resume (they throw the prefetch away), automatic commits, stored offsets.

mod context;
mod event;
mod handle;
mod partition;
mod poller;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;

use self::context::Context;
pub use self::event::{GroupError, GroupEvent};
pub(super) use self::handle::offset_list;
pub use self::handle::{CommitError, GroupHandle, GroupMetadata};
pub use self::partition::{Lease, PartitionReader, Polled, ReadError};
use self::poller::Poller;
use super::config::{Assignment, KafkaConfig, OffsetReset};
use super::remind::Lost;

/// How long a seek waits for a partition that is just being assigned.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);

/// How a [`GroupReader`] reads.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// Consumer group.
    pub group: String,
    /// Topics. A record's `origin.topic` is the index in this list, until [`PartitionReader::set_topic`] says another.
    pub topics: Vec<Arc<str>>,
    /// How partitions are spread; `Range` where topics must be co-partitioned.
    pub assignment: Assignment,
    /// Where a partition without a commit starts.
    pub offset_reset: OffsetReset,
    /// How long the poller waits for `done` of a revoke. Must stay below `max.poll.interval.ms` (5 min).
    pub revoke_deadline: Duration,
}

impl GroupOptions {
    /// Cooperative, from the earliest record, 10 s for a revoke.
    #[must_use]
    pub fn new(group: impl Into<String>, topics: &[&str]) -> GroupOptions {
        GroupOptions {
            group: group.into(),
            topics: topics.iter().map(|t| Arc::from(*t)).collect(),
            assignment: Assignment::default(),
            offset_reset: OffsetReset::default(),
            revoke_deadline: Duration::from_secs(10),
        }
    }
}

/// A member of a consumer group. Dropping it leaves the group and joins its thread.
pub struct GroupReader {
    handle: GroupHandle,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GroupReader {
    /// Joins the group on a thread of its own. Returns at once; brokers need not be there yet.
    ///
    /// `on_event` runs on that thread, one event at a time. While it runs no rebalance is served: hand the event on. It
    /// may block while a bounded channel is full. After [`GroupReader::stop`] it still gets a `Revoked` and `Closed`.
    ///
    /// # Errors
    /// librdkafka refuses the settings, or the thread cannot be started.
    pub fn open(
        config: &KafkaConfig,
        options: &GroupOptions,
        on_event: impl Fn(GroupEvent) + Send + Sync + 'static,
    ) -> Result<GroupReader, ReadError> {
        let client = |e: KafkaError| ReadError::Client(e.to_string());
        let context = Context {
            on_event: Box::new(on_event),
            group: options.group.clone(),
            topics: options.topics.clone(),
            revoke_deadline: options.revoke_deadline,
            lost: Lost::default(),
            closed: AtomicBool::new(false),
            members: Mutex::default(),
        };
        let consumer: BaseConsumer<Context> = config
            .consumer(&options.group, options.assignment, options.offset_reset)
            .create_with_context(context)
            .map_err(client)?;
        let topics: Vec<&str> = options.topics.iter().map(|t| &**t).collect();
        consumer.subscribe(&topics).map_err(client)?;
        let consumer = Arc::new(consumer);
        let handle = GroupHandle { consumer: Arc::downgrade(&consumer) };
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("kafka-poller".to_owned())
            .spawn({
                let stop = Arc::clone(&stop);
                let brokers = config.brokers.clone();
                let span = tracing::Span::current();
                move || span.in_scope(|| Poller::new(consumer, brokers).run(&stop))
            })
            .map_err(|e| ReadError::Client(e.to_string()))?;
        Ok(GroupReader { handle, stop, thread: Some(thread) })
    }

    /// For commits, from any thread.
    #[must_use]
    pub fn handle(&self) -> GroupHandle {
        self.handle.clone()
    }

    /// Asks the member to leave and returns at once: `Revoked` for what it has, then `Closed` follow.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Leaves the group and waits until the thread has ended, up to the revoke deadline. `Revoked` has to be answered
    /// on another thread than the caller's; otherwise call [`GroupReader::stop`] first and wait for `Closed`.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for GroupReader {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the kafka-poller thread panicked");
        }
    }
}
