//! The thread `kafka-poller`: serves the consumer's main queue, looks up where new partitions start, hands their
//! readers over, and reports errors.
//!
//! Started by [`super::GroupReader`]; at its end it leaves the group. Invariants: no other thread polls the main queue;
//! a partition is handed over once, with its committed offset known; a recurring error is reported every few seconds at
//! most.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::context::Context;
use super::{GroupError, GroupEvent, PartitionReader, SEEK_TIMEOUT};
use crate::kafka::remind::Series;
use crate::kafka::{ErrorKind, TopicPartition, ffi, kind_of};

/// How long one poll of the main queue waits; also how late a stop is noticed.
const POLL: Duration = Duration::from_millis(50);
/// Time for one request to a broker.
const LOOKUP: Duration = Duration::from_secs(1);
/// Time for the first look-up of committed offsets; each further one gets twice as long, up to [`LOOKUP`]. A look-up
/// waits while a transaction holds offsets of a partition and is not woken when it ends, so a short first one is
/// soonest done.
const LOOKUP_FIRST: Duration = Duration::from_millis(150);
/// How long look-ups of all new partitions must have failed before each is taken that has an answer: the others are in
/// transactions that are still open, and would hold these up.
const LOOKUP_APART: Duration = Duration::from_millis(500);
/// How long look-ups must have failed before that is reported, and reported again.
const LOOKUP_SAY: Duration = Duration::from_secs(5);
/// Least time between two reports of lost connections: with a broker down, a client reports ten a second.
const TRANSPORT_SAY: Duration = Duration::from_secs(5);
/// Time between two searches for subscribed topics that do not exist.
const MISSING_AGAIN: Duration = Duration::from_secs(5);

/// The thread that serves the main queue.
pub(super) struct Poller {
    consumer: Arc<BaseConsumer<Context>>,
    /// Subscribed topics that do not exist.
    missing: BTreeSet<Arc<str>>,
    look_at: Option<Instant>,
    lookup_at: Option<Instant>,
    /// How long the next look-up of committed offsets may take.
    lookup: Duration,
    /// Since when look-ups have been failing, and when that was last reported.
    failing: Option<(Instant, Instant)>,
    /// It was reported that partitions wait.
    waits: bool,
    /// When a lost connection was last reported.
    transport_at: Option<Instant>,
    brokers: String,
    series: Series,
}

impl Poller {
    pub(super) fn new(consumer: Arc<BaseConsumer<Context>>, brokers: String) -> Poller {
        Poller {
            consumer,
            missing: BTreeSet::new(),
            look_at: None,
            lookup_at: None,
            lookup: LOOKUP_FIRST,
            failing: None,
            waits: false,
            transport_at: None,
            brokers,
            series: Series::default(),
        }
    }

    pub(super) fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            // `None` may also mean that a rebalance was served, so it carries no information.
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

    /// Puts a record from the main queue back: the partition's own queue reads it again. No record should come this
    /// way.
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
            // librdkafka reports this once and without the topic's name, so we search for missing topics until there
            // are none.
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
            // Those that waited were given away again, and the others run.
            if std::mem::take(&mut self.waits) && !context.members().live.is_empty() {
                self.emit(GroupEvent::Idle);
            }
            return;
        }
        if self.lookup_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let found = match committed(&self.consumer, &fresh, self.lookup) {
            Ok(found) => {
                self.lookup = LOOKUP_FIRST;
                self.failing = None;
                self.waits = false;
                found
            }
            Err(error) => {
                // A look-up also fails while a transaction of the former owner still holds offsets of one of the
                // partitions.
                self.lookup_at = Some(Instant::now() + self.lookup / 10);
                self.lookup = (self.lookup * 2).min(LOOKUP);
                let (since, said) = self.failing.get_or_insert_with(|| (Instant::now(), Instant::now()));
                let since = *since;
                if since.elapsed() > LOOKUP_APART {
                    let found = committed_apart(&self.consumer, &context.group, &fresh, self.lookup);
                    let left = fresh.len() - found.len();
                    if !found.is_empty() {
                        self.give(found);
                        self.waits = left > 0;
                        if !self.waits {
                            return;
                        }
                        self.emit(GroupEvent::Waiting(format!(
                            "the committed offsets of {left} partitions are not known: {error}"
                        )));
                        return;
                    }
                }
                if said.elapsed() > LOOKUP_SAY {
                    *said = Instant::now();
                    let (partitions, seconds) = (fresh.len(), since.elapsed().as_secs());
                    let words = format!(
                        "the committed offsets of {partitions} partitions are not known after {seconds} s: {error}"
                    );
                    self.waits = true;
                    self.emit(GroupEvent::Waiting(words));
                }
                return;
            }
        };
        self.give(found);
    }

    /// Splits the queues of partitions and hands their readers over.
    fn give(&self, found: Vec<(TopicPartition, Option<i64>)>) {
        let context = Arc::clone(self.consumer.context());
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
            let consumer = Arc::clone(&self.consumer);
            let reader = PartitionReader::new(queue, consumer, p.clone(), topic, start_offset, revoked);
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

    /// Reports from time to time which subscribed topics do not exist.
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

    /// Gives up all partitions, then closes the consumer: here, or wherever its last reader is dropped.
    fn leave(self) {
        let context = Arc::clone(self.consumer.context());
        let live: Vec<TopicPartition> = context.members().live.keys().cloned().collect();
        context.revoke(&live, false);
        context.closed.store(true, Ordering::Release);
        let deadline = Instant::now() + context.revoke_deadline;
        // Readers and commits hold the consumer, and nothing signals their end.
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

/// Whether a topic does not exist. `None`: no broker could tell.
fn topic_is_missing<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str) -> Option<bool> {
    let metadata = consumer.fetch_metadata(Some(topic), LOOKUP).ok()?;
    let found = metadata.topics().iter().find(|t| t.name() == topic)?;
    match found.error().map(RDKafkaErrorCode::from) {
        None => Some(false),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Some(true),
        Some(_) => None,
    }
}

/// The same of those partitions that have an answer now, each for itself.
fn committed_apart(
    consumer: &BaseConsumer<Context>,
    group: &str,
    partitions: &[TopicPartition],
    timeout: Duration,
) -> Vec<(TopicPartition, Option<i64>)> {
    let asked: Vec<(&str, i32)> = partitions.iter().map(|p| (&*p.topic, p.partition)).collect();
    let Ok(found) = ffi::list_group_offsets(consumer.client(), group, Some(&asked), timeout) else {
        return Vec::new();
    };
    let mut known: Vec<(TopicPartition, Option<i64>)> = found
        .into_iter()
        .filter(|e| e.error.is_none())
        .map(|e| {
            let p = TopicPartition::new(consumer.context().topic(&e.topic), e.partition);
            (p, (e.offset >= 0).then_some(e.offset))
        })
        .collect();
    known.sort();
    known
}

/// The next offsets that the consumer's own group has committed; `None`: no commit.
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
