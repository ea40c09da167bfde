//! Restoring: reads one partition of a changelog between two offsets, as fast as it goes.
//!
//! The end offset is taken once, by [`super::Admin::end_offsets`], and only after this instance has taken its
//! transactional ids (so that no former owner can still write). The last offset before the end is mostly a transaction
//! marker, which no reader ever sees; therefore the consumer's position decides when the end is reached, not the last
//! record. To restore several partitions, call this on several threads.

use std::ops::ControlFlow;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::config::KafkaConfig;
use super::remind::Series;
use super::{ErrorKind, Quiet, TopicPartition, ffi, kind_of};
use crate::state::Row;

/// At most so many rows, and bytes, are passed to one call of `on_rows`.
const ROWS_MAX: usize = 4096;
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// `on_rows` is called at least this often, so that it can stop the restore.
const REPORT: Duration = Duration::from_secs(1);

/// So long nothing may come before the end is reached: then another client is tried.
const STALLED: Duration = Duration::from_secs(10);

/// How far a restore has come, in offsets. Compaction leaves gaps, so there are fewer rows than offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where it began.
    pub from: i64,
    /// The next offset to read.
    pub next: i64,
    /// Where it ends.
    pub end: i64,
}

/// Why a restore ended early.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RestoreError {
    /// Local state is ahead of the changelog, so it belongs to another log.
    #[error("{partition}: local state is at offset {from}, behind the changelog's end {end}")]
    Ahead {
        /// The changelog's partition.
        partition: TopicPartition,
        /// Where local state is.
        from: i64,
        /// Where the changelog ends.
        end: i64,
    },
    /// The changelog is not retained back to `from`: restore from its start.
    #[error("{partition}: offset {from} is not in the changelog any more")]
    Gone {
        /// The changelog's partition.
        partition: TopicPartition,
        /// The offset asked for.
        from: i64,
    },
    /// `on_rows` stopped it.
    #[error("stopped")]
    Stopped,
    /// Nothing came for 10 s, though there is more: the brokers are away, a transaction is open, or the client is stuck. To
    /// be tried again, from where it is, with a new client.
    #[error("{partition}: nothing has come for a while; it is at offset {next} of {end}")]
    Stalled {
        /// The changelog's partition.
        partition: TopicPartition,
        /// The next offset to read.
        next: i64,
        /// Where it ends.
        end: i64,
    },
    /// The client failed for good.
    #[error("{partition}: {message}")]
    Client {
        /// The changelog's partition.
        partition: TopicPartition,
        /// For people.
        message: String,
    },
}

/// Reads `from..end` of a partition and passes its rows to `on_rows` in order, each time with the offset after them.
/// Returns the offset reached, which is at least `end`. `group` only names a group for the brokers' access control:
/// nothing joins it or commits for it.
///
/// Blocks, and waits for brokers that are away, but not for ever. `on_rows` is also called without rows about every second, so that it can
/// stop the restore. Rows of one call share one buffer: copy what is kept in memory.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(
    config: &KafkaConfig,
    group: &str,
    partition: &TopicPartition,
    from: i64,
    end: i64,
    mut on_rows: impl FnMut(&[Row], i64, Progress) -> ControlFlow<()>,
) -> Result<i64, RestoreError> {
    if from > end {
        return Err(RestoreError::Ahead { partition: partition.clone(), from, end });
    }
    if from == end {
        return Ok(from);
    }
    let failed =
        |e: KafkaError| RestoreError::Client { partition: partition.clone(), message: e.to_string() };
    let consumer: BaseConsumer<Quiet> =
        config.restore(group).create_with_context(Quiet::default()).map_err(failed)?;
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(from)).map_err(failed)?;
    consumer.assign(&list).map_err(failed)?;
    drop(list);

    let position =
        || ffi::position(consumer.client(), &partition.topic, partition.partition).unwrap_or(from).max(from);
    let mut batch = Batch::default();
    let mut next = from;
    let mut reported = Instant::now();
    let mut moved = (next, Instant::now());
    let mut series = Series::default();
    while next < end {
        series.remind(&consumer.context().lost, consumer.client(), &config.brokers);
        match consumer.poll(Duration::from_millis(if batch.is_empty() { 10 } else { 0 })) {
            Some(Ok(message)) => {
                let full = batch.add(message.key().unwrap_or_default(), message.payload());
                next = message.offset() + 1;
                if !full && next < end {
                    continue;
                }
            }
            None => {}
            Some(Err(error)) => check(&error, partition, from)?,
        }
        // Nothing more has arrived; up to the position there may be transaction markers only.
        next = next.max(position());
        if next > moved.0 {
            moved = (next, Instant::now());
        } else if moved.1.elapsed() > STALLED {
            return Err(RestoreError::Stalled { partition: partition.clone(), next, end });
        }
        if !batch.is_empty() || reported.elapsed() > REPORT {
            reported = Instant::now();
            if on_rows(&batch.take(), next, Progress { from, next, end }).is_break() {
                return Err(RestoreError::Stopped);
            }
        }
    }
    Ok(next)
}

/// Returns the errors that do not pass by themselves.
fn check(error: &KafkaError, partition: &TopicPartition, from: i64) -> Result<(), RestoreError> {
    use RDKafkaErrorCode as E;
    let code = error.rdkafka_error_code();
    if matches!(code, Some(E::OffsetOutOfRange | E::AutoOffsetReset)) {
        return Err(RestoreError::Gone { partition: partition.clone(), from });
    }
    let unknown = matches!(code, Some(E::UnknownTopicOrPartition | E::UnknownTopic | E::UnknownPartition));
    let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_))
        || code.is_some_and(|c| matches!(kind_of(c), ErrorKind::Auth | ErrorKind::Fatal));
    if unknown || fatal {
        return Err(RestoreError::Client { partition: partition.clone(), message: error.to_string() });
    }
    tracing::debug!(%error, "restoring goes on");
    Ok(())
}

/// Rows that share one buffer.
#[derive(Default)]
struct Batch {
    data: Vec<u8>,
    spans: Vec<(Range<usize>, Option<Range<usize>>)>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Appends a row; true when the batch is full.
    fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> bool {
        let mut append = |bytes: &[u8]| {
            let start = self.data.len();
            self.data.extend_from_slice(bytes);
            start..self.data.len()
        };
        let span = (append(key), value.map(append));
        self.spans.push(span);
        self.spans.len() >= ROWS_MAX || self.data.len() >= BYTES_MAX
    }

    fn take(&mut self) -> Vec<Row> {
        let size = self.data.len();
        let data = Bytes::from(std::mem::replace(&mut self.data, Vec::with_capacity(size)));
        self.spans.drain(..).map(|(k, v)| (data.slice(k), v.map(|v| data.slice(v)))).collect()
    }
}
