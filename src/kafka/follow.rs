//! Following: reads all partitions of some topics from given offsets on, for ever, outside of any group. For global
//! tables, and for replies to the gateway's requests.
//!
//! Called by one thread, which keeps the positions. It reads committed records only. Records of a partition come in
//! offset order; between partitions there is no order. Partitions that are added to a topic later are not read.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::config::KafkaConfig;
use super::remind::Series;
use super::{ErrorKind, Quiet, TopicPartition, ffi, kind_of};
use crate::model::{Headers, Origin, Record, Timestamp, Value};

/// The topics cannot be followed any further.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct FollowError(String);

/// A record that has come, before anything of it is copied.
pub struct Glance<'a>(&'a BorrowedMessage<'a>);

impl Glance<'_> {
    /// The last header of that name; `None` too where it is null.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let headers = self.0.headers()?;
        (0..headers.count()).rev().map(|n| headers.get(n)).find(|header| header.key == name)?.value
    }
}

struct Partition {
    at: TopicPartition,
    /// The number of the topic in the origin of its records.
    topic: u16,
    next: i64,
}

/// A reader of whole topics.
pub struct Follower {
    consumer: BaseConsumer<Quiet>,
    partitions: Vec<Partition>,
    brokers: String,
    series: Series,
}

impl Follower {
    /// Reads each partition from its offset on. The number beside a topic becomes its records' `origin.topic`. `group`
    /// only names a group for the brokers' access control: nothing joins it or commits for it.
    ///
    /// # Errors
    /// The client cannot be made.
    pub fn open(
        config: &KafkaConfig,
        group: &str,
        from: &[(TopicPartition, u16, i64)],
    ) -> Result<Follower, FollowError> {
        let failed = |e: KafkaError| FollowError(e.to_string());
        let consumer: BaseConsumer<Quiet> =
            config.follow(group).create_with_context(Quiet::default()).map_err(failed)?;
        let mut list = TopicPartitionList::with_capacity(from.len());
        let mut partitions = Vec::with_capacity(from.len());
        for (at, topic, next) in from {
            list.add_partition_offset(&at.topic, at.partition, Offset::Offset(*next)).map_err(failed)?;
            partitions.push(Partition { at: at.clone(), topic: *topic, next: *next });
        }
        consumer.assign(&list).map_err(failed)?;
        Ok(Follower { consumer, partitions, brokers: config.brokers.clone(), series: Series::default() })
    }

    /// Appends up to `max` records. Waits up to `wait` for the first one; while the brokers are away there are none.
    ///
    /// # Errors
    /// An offset is gone, a topic does not exist, or the client failed for good.
    pub fn poll(&mut self, max: usize, wait: Duration, out: &mut Vec<Record>) -> Result<(), FollowError> {
        self.poll_for(max, wait, |_| true, out)
    }

    /// As [`Follower::poll`], but of the records that have come only those are copied that are `wanted`.
    ///
    /// # Errors
    /// As [`Follower::poll`].
    pub fn poll_for(
        &mut self,
        max: usize,
        wait: Duration,
        wanted: impl Fn(&Glance<'_>) -> bool,
        out: &mut Vec<Record>,
    ) -> Result<(), FollowError> {
        self.series.remind(&self.consumer.context().lost, self.consumer.client(), &self.brokers);
        let first = out.len();
        let deadline = Instant::now() + wait;
        while out.len() - first < max {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = if out.len() > first { Duration::ZERO } else { left };
            match self.consumer.poll(left) {
                Some(Ok(message)) => {
                    let same = |p: &&mut Partition| {
                        p.at.partition == message.partition() && *p.at.topic == *message.topic()
                    };
                    let Some(partition) = self.partitions.iter_mut().find(same) else { continue };
                    partition.next = message.offset() + 1;
                    if wanted(&Glance(&message)) {
                        out.push(record(&message, partition.topic));
                    }
                }
                Some(Err(error)) => check(&error)?,
                None if left.is_zero() => break,
                None => {}
            }
        }
        for partition in &mut self.partitions {
            // After the last record there may be transaction markers, which no reader sees.
            let at = ffi::position(self.consumer.client(), &partition.at.topic, partition.at.partition);
            partition.next = at.unwrap_or(partition.next).max(partition.next);
        }
        Ok(())
    }

    /// The next offset of each partition, in the order given: all records before it were handed out.
    pub fn positions(&self) -> impl Iterator<Item = (&TopicPartition, i64)> {
        self.partitions.iter().map(|p| (&p.at, p.next))
    }
}

fn record(message: &BorrowedMessage<'_>, topic: u16) -> Record {
    let headers = message.headers().map_or_else(Headers::default, |headers| {
        Headers::new(headers.iter().map(|h| (h.key.to_owned(), h.value.map(Bytes::copy_from_slice))))
    });
    Record {
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map_or(Value::Null, |bytes| Value::Bytes(Bytes::copy_from_slice(bytes))),
        ts: message.timestamp().to_millis().map_or(Timestamp::NONE, Timestamp),
        window: None,
        headers,
        origin: Origin { topic, partition: message.partition(), offset: message.offset() },
        change: None,
    }
}

/// Returns errors that do not pass by themselves.
fn check(error: &KafkaError) -> Result<(), FollowError> {
    use RDKafkaErrorCode as E;
    let code = error.rdkafka_error_code();
    let lost = matches!(
        code,
        Some(
            E::OffsetOutOfRange
                | E::AutoOffsetReset
                | E::UnknownTopicOrPartition
                | E::UnknownTopic
                | E::UnknownPartition
        )
    );
    let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_))
        || code.is_some_and(|c| matches!(kind_of(c), ErrorKind::Auth | ErrorKind::Fatal));
    if lost || fatal {
        return Err(FollowError(error.to_string()));
    }
    tracing::debug!(%error, "following goes on");
    Ok(())
}
