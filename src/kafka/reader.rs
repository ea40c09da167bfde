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

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance,
};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::config::{Assignment, KafkaConfig, OffsetReset};
use super::remind::{Lost, Series};
use super::{ErrorKind, TopicPartition, ffi, kind_of, log};
use crate::model::{Headers, Origin, Record, Timestamp, Value};

/// How long one poll of the main queue waits; also how late a stop is noticed.
const POLL: Duration = Duration::from_millis(50);
/// One look-up at a broker.
const LOOKUP: Duration = Duration::from_secs(1);
/// The first look-up of committed offsets; each further one takes twice as long, up to [`LOOKUP`]. It waits while a
/// transaction holds offsets of a partition, and does not see that it has ended.
const LOOKUP_FIRST: Duration = Duration::from_millis(150);
/// After this time of failed look-ups somebody is told, and again after each such time.
const LOOKUP_SAY: Duration = Duration::from_secs(5);
/// Between two reports of lost connections: a client with a broker down makes ten a second.
const TRANSPORT_SAY: Duration = Duration::from_secs(5);
/// Between two looks for topics that do not exist.
const MISSING_AGAIN: Duration = Duration::from_secs(5);
/// How long a seek waits for a partition that is just being assigned.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
/// A batch ends at so many bytes, whatever its records.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// How a [`GroupReader`] reads.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// Consumer group.
    pub group: String,
    /// Topics. A record's `origin.topic` is the index in this list.
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

/// What happens to this member of the group. Handed to the event handler on the poller's thread.
#[derive(Debug)]
pub enum GroupEvent {
    /// These partitions are ours now. Only the new ones: those of earlier events stay.
    Assigned {
        /// Counts up with every event; every ack should carry it.
        generation: u64,
        /// Partition and its reader, in order of topic and partition.
        partitions: Vec<(TopicPartition, PartitionReader)>,
    },
    /// These partitions go. Stop their input, commit, drop their readers, then send or drop `done`.
    Revoked {
        /// The partitions, in order.
        partitions: Vec<TopicPartition>,
        /// They are gone already (session lost): drop without committing.
        lost: bool,
        /// The poller waits for it, up to [`GroupOptions::revoke_deadline`].
        done: SyncSender<()>,
    },
    /// Member of the group without any partition: there are more members than partitions.
    Idle,
    /// Partitions were assigned, but where their group left off cannot be found out yet. `Assigned` or `Revoked` follows.
    Waiting(String),
    /// Something is wrong. The reader goes on, except after [`ErrorKind::Fatal`].
    Error(GroupError),
    /// The last event: the member has left, its thread ends.
    Closed,
}

/// An error of the group's client.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub struct GroupError {
    /// What it is about.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

/// Why a partition could not be read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// The partition is not ours any more: drop the reader.
    #[error("the partition was revoked")]
    Revoked,
    /// The offset is not in the log any more (or not yet).
    #[error("offset out of range: {0}")]
    OffsetOutOfRange(String),
    /// The client could not be made.
    #[error("cannot make a Kafka consumer: {0}")]
    Client(String),
    /// Anything else; the next poll may work.
    #[error("cannot read: {0}")]
    Other(String),
}

/// Why offsets were not committed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot commit offsets: {message}")]
pub struct CommitError {
    /// The group has moved on: the next assignment decides, do not repeat this commit.
    pub rebalanced: bool,
    /// The same commit may work later.
    pub retriable: bool,
    /// For people.
    pub message: String,
}

impl CommitError {
    fn new(error: &KafkaError) -> CommitError {
        use RDKafkaErrorCode as E;
        let code = error.rdkafka_error_code();
        CommitError {
            rebalanced: matches!(
                code,
                Some(
                    E::IllegalGeneration
                        | E::UnknownMemberId
                        | E::RebalanceInProgress
                        | E::FencedInstanceId
                        | E::StaleMemberEpoch
                        | E::AssignmentLost
                )
            ),
            retriable: matches!(
                code,
                Some(
                    E::BrokerTransportFailure
                        | E::AllBrokersDown
                        | E::OperationTimedOut
                        | E::RequestTimedOut
                        | E::WaitingForCoordinator
                        | E::CoordinatorLoadInProgress
                        | E::CoordinatorNotAvailable
                        | E::NotCoordinator
                        | E::UnstableOffsetCommit
                        | E::NotEnoughReplicas
                        | E::NetworkException
                )
            ),
            message: error.to_string(),
        }
    }
}

/// Says whether an assigned partition is still that assignment's. Whoever commits for a partition looks at it right
/// before: brokers take offsets of partitions that belong to somebody else.
#[derive(Clone, Debug)]
pub struct Lease(Arc<AtomicBool>);

impl Lease {
    /// Is the assignment over: lost, or given away?
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What one poll of a partition brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// Records appended.
    pub records: usize,
    /// The end of the partition was reached behind them.
    pub eof: bool,
}

/// The member's id and generation, for [`super::TxnWriter::commit`]. Take it fresh for every commit.
pub struct GroupMetadata(pub(super) ConsumerGroupMetadata);

type Shared = Arc<BaseConsumer<Context>>;

/// What the poller's callbacks know. The poller and whoever drops the consumer last touch it.
struct Context {
    on_event: Box<dyn Fn(GroupEvent) + Send + Sync>,
    topics: Vec<Arc<str>>,
    revoke_deadline: Duration,
    lost: Lost,
    /// Shut: callbacks do nothing any more.
    closed: AtomicBool,
    /// Held by the poller's callbacks only, for moments; never while an event is handed over.
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    /// Assigned, not handed over yet: their committed offsets are being looked up.
    fresh: BTreeSet<TopicPartition>,
    /// Handed over; the flag tells a reader that it is over.
    live: BTreeMap<TopicPartition, Arc<AtomicBool>>,
    generation: u64,
    /// Assigned nothing, not told yet.
    idle: bool,
    /// librdkafka's words for the last error.
    reason: String,
}

impl Context {
    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn topic(&self, name: &str) -> Arc<str> {
        self.topics.iter().find(|t| &***t == name).cloned().unwrap_or_else(|| Arc::from(name))
    }

    fn owned(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        let mut all: Vec<_> = list
            .elements()
            .iter()
            .map(|e| TopicPartition::new(self.topic(e.topic()), e.partition()))
            .collect();
        all.sort();
        all
    }

    /// Tells the runtime and waits until it has let go, or the deadline.
    fn revoke(&self, partitions: &[TopicPartition], lost: bool) {
        let mut gone = Vec::new();
        {
            let mut members = self.members();
            for partition in partitions {
                members.fresh.remove(partition);
                if let Some(flag) = members.live.remove(partition) {
                    flag.store(lost, Ordering::Release);
                    gone.push((partition.clone(), flag));
                }
            }
        }
        if gone.is_empty() {
            return;
        }
        let (done, answered) = sync_channel(1);
        let partitions = gone.iter().map(|(p, _)| p.clone()).collect();
        (self.on_event)(GroupEvent::Revoked { partitions, lost, done });
        // A dropped sender is an answer too.
        if answered.recv_timeout(self.revoke_deadline) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!(
                partitions = gone.len(),
                "partitions were not released before the revoke deadline"
            );
        }
        for (_, flag) in gone {
            flag.store(true, Ordering::Release);
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    /// Called right before `poll` returns the same error without its words.
    fn error(&self, error: KafkaError, reason: &str) {
        self.lost.note(&error);
        // The end of a partition comes as an error too, on the worker's thread.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        reason.clone_into(&mut self.members().reason);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions = self.owned(list);
                for p in &partitions {
                    ffi::unforward(consumer.client(), &p.topic, p.partition);
                }
                let mut members = self.members();
                members.idle = partitions.is_empty() && members.live.is_empty() && members.fresh.is_empty();
                members.fresh.extend(partitions);
            }
            Rebalance::Revoke(list) => {
                let partitions = self.owned(list);
                self.revoke(&partitions, consumer.assignment_lost());
            }
            Rebalance::Error(_) => {}
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
                move || Poller::new(consumer, brokers).run(&stop)
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

    /// Leaves the group and waits until the thread has ended: up to the revoke deadline, so whoever answers `Revoked`
    /// must not be the caller (call [`GroupReader::stop`] and wait for `Closed` first).
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

/// Commits for a group; any number of them, on any thread. Outlives its reader harmlessly.
#[derive(Clone)]
pub struct GroupHandle {
    consumer: Weak<BaseConsumer<Context>>,
}

impl GroupHandle {
    /// The member's identity for a transaction; `None` while it is no member: the reader is closed, or its session was
    /// lost and it has not joined again. Such an identity is empty, and brokers take a transaction's offsets from
    /// anybody without one.
    ///
    /// A partition whose [`Lease`] is not over *after* this call is safe to commit with it: to be given away, it needs
    /// another generation of the group, in which this identity is refused.
    #[must_use]
    pub fn group_metadata(&self) -> Option<GroupMetadata> {
        let consumer = self.consumer.upgrade()?;
        let before = ffi::membership(consumer.client())?;
        let metadata = consumer.group_metadata()?;
        (ffi::membership(consumer.client())? == before).then_some(GroupMetadata(metadata))
    }

    /// Commits next offsets and waits for the broker (1-15 ms; longer while it is away). Only partitions that are ours:
    /// the broker does not check that.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(&self, offsets: &[(TopicPartition, i64)]) -> Result<(), CommitError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let Some(consumer) = self.consumer.upgrade() else {
            let message = "the reader is closed".to_owned();
            return Err(CommitError { rebalanced: true, retriable: false, message });
        };
        let list = offset_list(offsets).map_err(|e| CommitError::new(&e))?;
        consumer.commit(&list, CommitMode::Sync).map_err(|e| CommitError::new(&e))
    }

    /// [`GroupHandle::commit`] on one of tokio's blocking threads. (librdkafka's own asynchronous commit keeps its
    /// result to itself when events are polled, as `rdkafka` does.)
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn commit_async(&self, offsets: Vec<(TopicPartition, i64)>) -> Result<(), CommitError> {
        let handle = self.clone();
        match tokio::task::spawn_blocking(move || handle.commit(&offsets)).await {
            Ok(result) => result,
            Err(error) => {
                Err(CommitError { rebalanced: false, retriable: false, message: error.to_string() })
            }
        }
    }
}

/// A list of next offsets, for one call.
pub(super) fn offset_list(offsets: &[(TopicPartition, i64)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (p, next) in offsets {
        list.add_partition_offset(&p.topic, p.partition, Offset::Offset(*next))?;
    }
    Ok(list)
}

/// The thread that serves the main queue.
struct Poller {
    consumer: Shared,
    /// Subscribed topics that do not exist.
    missing: BTreeSet<Arc<str>>,
    look_at: Option<Instant>,
    lookup_at: Option<Instant>,
    /// How long the next look-up of committed offsets may take.
    lookup: Duration,
    /// Since when look-ups fail, and when that was said.
    failing: Option<(Instant, Instant)>,
    /// When a lost connection was last said.
    transport_at: Option<Instant>,
    brokers: String,
    series: Series,
}

impl Poller {
    fn new(consumer: Shared, brokers: String) -> Poller {
        Poller {
            consumer,
            missing: BTreeSet::new(),
            look_at: None,
            lookup_at: None,
            lookup: LOOKUP_FIRST,
            failing: None,
            transport_at: None,
            brokers,
            series: Series::default(),
        }
    }

    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            // `None` also stands for a rebalance that was served, so it says nothing.
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => self.put_back(&message),
                Some(Err(error)) => self.error(&error),
            }
            self.hand_over();
            self.look_for_missing();
            self.series.remind(&self.consumer.context().lost, self.consumer.client(), &self.brokers);
        }
        self.leave();
    }

    fn emit(&self, event: GroupEvent) {
        (self.consumer.context().on_event)(event);
    }

    /// A record on the main queue, which no partition queue should leave there: read it again on its own queue.
    fn put_back(&self, message: &BorrowedMessage<'_>) {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        tracing::warn!(topic, partition, offset, "a record came on the main queue, reading it again");
        if let Err(error) = self.consumer.seek(topic, partition, Offset::Offset(offset), SEEK_TIMEOUT) {
            self.emit(GroupEvent::Error(GroupError {
                kind: ErrorKind::Fatal,
                message: format!("a record of {topic}-{partition} at {offset} has no reader: {error}"),
            }));
        }
    }

    fn error(&mut self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        if matches!(code, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) {
            // librdkafka says it once and without the name; we look ourselves, until the topic is there.
            self.missing.extend(self.consumer.context().topics.iter().cloned());
            self.look_at = Some(Instant::now());
            return;
        }
        let kind = match (error, code) {
            (KafkaError::PartitionEOF(_), _) => return,
            (KafkaError::MessageConsumptionFatal(_), _) => ErrorKind::Fatal,
            (_, Some(code)) => kind_of(code),
            _ => ErrorKind::Other,
        };
        let reason = std::mem::take(&mut self.consumer.context().members().reason);
        if kind == ErrorKind::Transport {
            if self.transport_at.is_some_and(|at| at.elapsed() < TRANSPORT_SAY) {
                return;
            }
            self.transport_at = Some(Instant::now());
        }
        let message = if reason.is_empty() { error.to_string() } else { reason };
        self.emit(GroupEvent::Error(GroupError { kind, message }));
    }

    /// Looks up the committed offsets of new partitions, splits their queues and hands their readers over.
    fn hand_over(&mut self) {
        let context = Arc::clone(self.consumer.context());
        let fresh: Vec<TopicPartition> = {
            let mut members = context.members();
            if std::mem::take(&mut members.idle) {
                drop(members);
                self.emit(GroupEvent::Idle);
                return;
            }
            members.fresh.iter().cloned().collect()
        };
        if fresh.is_empty() {
            self.failing = None;
            return;
        }
        if self.lookup_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let found = match committed(&self.consumer, &fresh, self.lookup) {
            Ok(found) => {
                self.lookup = LOOKUP_FIRST;
                self.failing = None;
                found
            }
            Err(error) => {
                // Also while a transaction of a former owner holds offsets of one of them.
                self.lookup_at = Some(Instant::now() + self.lookup / 10);
                self.lookup = (self.lookup * 2).min(LOOKUP);
                let (since, said) = self.failing.get_or_insert_with(|| (Instant::now(), Instant::now()));
                if said.elapsed() > LOOKUP_SAY {
                    *said = Instant::now();
                    let (partitions, seconds) = (fresh.len(), since.elapsed().as_secs());
                    let words = format!(
                        "the committed offsets of {partitions} partitions are not known after {seconds} s: {error}"
                    );
                    self.emit(GroupEvent::Waiting(words));
                }
                return;
            }
        };
        let mut partitions = Vec::with_capacity(found.len());
        for (p, start_offset) in found {
            let Some(queue) = self.consumer.split_partition_queue(&p.topic, p.partition) else { continue };
            let revoked = Arc::new(AtomicBool::new(false));
            {
                let mut members = context.members();
                members.fresh.remove(&p);
                members.live.insert(p.clone(), Arc::clone(&revoked));
            }
            let topic = context.topics.iter().position(|t| *t == p.topic).unwrap_or(0);
            let reader = PartitionReader {
                queue,
                consumer: Arc::clone(&self.consumer),
                origin: Origin {
                    topic: u16::try_from(topic).unwrap_or(u16::MAX),
                    partition: p.partition,
                    offset: -1,
                },
                partition: p.clone(),
                start_offset,
                first: None,
                next: start_offset,
                caught_up: false,
                revoked,
                data_size: 0,
                spans: Vec::new(),
                failed: None,
            };
            partitions.push((p, reader));
        }
        if partitions.is_empty() {
            return;
        }
        let generation = {
            let mut members = context.members();
            members.generation += 1;
            members.generation
        };
        self.emit(GroupEvent::Assigned { generation, partitions });
    }

    /// Says again and again which topics do not exist.
    fn look_for_missing(&mut self) {
        if self.look_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        for topic in self.missing.clone() {
            match topic_is_missing(&self.consumer, &topic) {
                Some(true) => self.emit(GroupEvent::Error(GroupError {
                    kind: ErrorKind::UnknownTopic(topic.to_string()),
                    message: format!("topic `{topic}` does not exist"),
                })),
                Some(false) => {
                    self.missing.remove(&topic);
                }
                None => {}
            }
        }
        self.look_at = (!self.missing.is_empty()).then(|| Instant::now() + MISSING_AGAIN);
    }

    /// Gives everything back, then closes the consumer, here or wherever its last reader is dropped.
    fn leave(self) {
        let context = Arc::clone(self.consumer.context());
        let live: Vec<TopicPartition> = context.members().live.keys().cloned().collect();
        context.revoke(&live, false);
        context.closed.store(true, Ordering::Release);
        let deadline = Instant::now() + context.revoke_deadline;
        // Readers and commits hold the consumer; nothing signals their end.
        while Arc::strong_count(&self.consumer) > 1 && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        if Arc::strong_count(&self.consumer) > 1 {
            tracing::warn!("a partition reader is still held: the group is left when it is dropped");
        }
        drop(self.consumer);
        (context.on_event)(GroupEvent::Closed);
    }
}

/// Does a topic not exist? `None`: nobody could say.
fn topic_is_missing<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str) -> Option<bool> {
    let metadata = consumer.fetch_metadata(Some(topic), LOOKUP).ok()?;
    let found = metadata.topics().iter().find(|t| t.name() == topic)?;
    match found.error().map(RDKafkaErrorCode::from) {
        None => Some(false),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Some(true),
        Some(_) => None,
    }
}

/// Next offsets that the consumer's own group has committed; `None`: no commit.
fn committed(
    consumer: &BaseConsumer<Context>,
    partitions: &[TopicPartition],
    timeout: Duration,
) -> KafkaResult<Vec<(TopicPartition, Option<i64>)>> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for p in partitions {
        list.add_partition(&p.topic, p.partition);
    }
    let list = consumer.committed_offsets(list, timeout)?;
    let mut found = Vec::with_capacity(partitions.len());
    for e in list.elements() {
        e.error()?;
        let next = match e.offset() {
            Offset::Offset(next) => Some(next),
            _ => None,
        };
        found.push((TopicPartition::new(consumer.context().topic(e.topic()), e.partition()), next));
    }
    found.sort();
    Ok(found)
}

/// Where a record's key and value stand in the batch's bytes.
type Span = (Option<Range<usize>>, Option<Range<usize>>);

/// One assigned partition. Polled by the worker that owns it; never blocks, except in [`PartitionReader::seek`].
/// It must be dropped when the partition is revoked, and not before: an assigned partition without reader stands still.
pub struct PartitionReader {
    // Dropped before the consumer.
    queue: PartitionQueue<Context>,
    consumer: Shared,
    partition: TopicPartition,
    origin: Origin,
    start_offset: Option<i64>,
    /// The first record read: the start, where no offset is committed.
    first: Option<i64>,
    next: Option<i64>,
    caught_up: bool,
    revoked: Arc<AtomicBool>,
    /// Bytes of the last batch: how much the next one reserves.
    data_size: usize,
    spans: Vec<Span>,
    /// An error behind records that were handed out first.
    failed: Option<ReadError>,
}

impl PartitionReader {
    /// Which partition this is.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The committed offset that reading starts at. Without a commit it is by [`GroupOptions::offset_reset`]: `None`
    /// until something was read, then the first record's offset.
    #[must_use]
    pub fn start_offset(&self) -> Option<i64> {
        self.start_offset.or(self.first)
    }

    /// Tells, for as long as anybody asks, whether this assignment is over.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease(Arc::clone(&self.revoked))
    }

    /// The offset behind what was read: what to commit when all of it is done. At the end of the partition it is also
    /// behind transaction markers and aborted records. `None` before anything is known.
    #[must_use]
    pub fn next_offset(&self) -> Option<i64> {
        self.next
    }

    /// Was the end reached, and nothing read since? Known up to `fetch.wait.max.ms` (100 ms) after the last record.
    #[must_use]
    pub fn caught_up(&self) -> bool {
        self.caught_up
    }

    /// Called whenever the queue becomes non-empty, on a librdkafka thread: it must only wake somebody. Edge-triggered
    /// (once per change from empty): whoever waits should also look without it from time to time.
    pub fn set_waker(&mut self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.queue.set_nonempty_callback(move || wake());
    }

    /// Appends up to `max` records that are here already. Never blocks. All keys and values of one call share one
    /// buffer, which lives as long as any of them: copy what is kept for long.
    ///
    /// # Errors
    /// See [`ReadError`]. Nothing was appended then.
    pub fn poll_batch(&mut self, max: usize, out: &mut Vec<Record>) -> Result<Polled, ReadError> {
        if self.revoked.load(Ordering::Acquire) {
            return Err(ReadError::Revoked);
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let first = out.len();
        let mut data = Vec::new();
        let mut polled = Polled::default();
        self.spans.clear();
        while polled.records < max && data.len() < BATCH_BYTES_MAX {
            match self.queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    if polled.records == 0 {
                        data.reserve(self.data_size.max(message.key_len() + message.payload_len()));
                    }
                    self.spans.push((append(&mut data, message.key()), append(&mut data, message.payload())));
                    out.push(self.record(&message));
                    self.first.get_or_insert(message.offset());
                    self.next = Some(message.offset() + 1);
                    polled.records += 1;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    polled.eof = true;
                    break;
                }
                Some(Err(error)) => {
                    self.failed = Some(read_error(&error));
                    break;
                }
            }
        }
        if polled.records > 0 {
            self.data_size = data.len();
            let data = Bytes::from(data);
            for (record, (key, value)) in out[first..].iter_mut().zip(self.spans.drain(..)) {
                record.key = key.map(|range| data.slice(range));
                record.value = value.map_or(Value::Null, |range| Value::Bytes(data.slice(range)));
            }
            self.caught_up = false;
        } else if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if polled.eof {
            self.caught_up = true;
            let position =
                ffi::position(self.consumer.client(), &self.partition.topic, self.partition.partition);
            self.next = self.next.max(position);
        }
        Ok(polled)
    }

    /// The record without key and value, which are filled in when the batch's buffer is complete.
    fn record(&self, message: &BorrowedMessage<'_>) -> Record {
        let headers = message.headers().map_or_else(Headers::default, |headers| {
            let list = headers
                .iter()
                .map(|h| (h.key.to_owned(), h.value.map_or_else(Bytes::new, Bytes::copy_from_slice)));
            Headers::new(list.collect())
        });
        Record {
            key: None,
            value: Value::Null,
            ts: Timestamp(message.timestamp().to_millis().unwrap_or(0)),
            window: None,
            headers,
            origin: Origin { offset: message.offset(), ..self.origin },
            change: None,
        }
    }

    /// Reads from `offset` on. Blocks for some milliseconds, longer if the partition is only just being assigned.
    ///
    /// # Errors
    /// The partition was revoked, or the client refuses for 5 s.
    pub fn seek(&mut self, offset: i64) -> Result<(), ReadError> {
        let deadline = Instant::now() + SEEK_TIMEOUT;
        loop {
            if self.revoked.load(Ordering::Acquire) {
                return Err(ReadError::Revoked);
            }
            let (topic, partition) = (&self.partition.topic, self.partition.partition);
            match self.consumer.seek(topic, partition, Offset::Offset(offset), SEEK_TIMEOUT) {
                Ok(()) => break,
                // "Erroneous state" until fetching has started.
                Err(_) if Instant::now() < deadline => std::thread::park_timeout(Duration::from_millis(5)),
                Err(error) => return Err(ReadError::Other(error.to_string())),
            }
        }
        self.next = Some(offset);
        self.caught_up = false;
        self.failed = None;
        Ok(())
    }
}

impl std::fmt::Debug for PartitionReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionReader")
            .field("partition", &self.partition)
            .field("next", &self.next)
            .field("caught_up", &self.caught_up)
            .finish_non_exhaustive()
    }
}

fn append(data: &mut Vec<u8>, bytes: Option<&[u8]>) -> Option<Range<usize>> {
    let bytes = bytes?;
    let start = data.len();
    data.extend_from_slice(bytes);
    Some(start..data.len())
}

fn read_error(error: &KafkaError) -> ReadError {
    use RDKafkaErrorCode as E;
    match error.rdkafka_error_code() {
        Some(E::OffsetOutOfRange | E::AutoOffsetReset) => ReadError::OffsetOutOfRange(error.to_string()),
        _ => ReadError::Other(error.to_string()),
    }
}
