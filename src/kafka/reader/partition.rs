//! One assigned partition: its records, read by the worker that owns it from a queue of its own.
//!
//! Made by the poller, which hands it over in [`super::GroupEvent::Assigned`]. Invariants: polling never blocks; what one
//! poll brings shares one buffer; nothing is read after the assignment is over.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::Offset;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::types::RDKafkaErrorCode;

use super::SEEK_TIMEOUT;
use super::context::Context;
use crate::kafka::{TopicPartition, ffi};
use crate::model::{Headers, Origin, Record, Timestamp, Value};

/// A batch ends at this many bytes, however many records it has.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Why a partition could not be read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// The partition is not ours any more: drop the reader.
    #[error("the partition was revoked")]
    Revoked,
    /// The log does not have the offset any more, or not yet.
    #[error("offset out of range: {0}")]
    OffsetOutOfRange(String),
    /// The client could not be made.
    #[error("cannot make a Kafka consumer: {0}")]
    Client(String),
    /// Anything else; the next poll may work.
    #[error("cannot read: {0}")]
    Other(String),
}

/// Tells whether a partition is still assigned to us. Look at it right before a commit: brokers accept offsets even for
/// a partition that belongs to another member.
#[derive(Clone, Debug)]
pub struct Lease(Arc<AtomicBool>);

impl Lease {
    /// Whether the assignment is over: revoked or lost.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What one poll of a partition brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// How many records were appended.
    pub records: usize,
    /// Whether the partition's end was reached after them.
    pub eof: bool,
}

/// Where a record's key and value are in the batch's buffer.
type Span = (Option<Range<usize>>, Option<Range<usize>>);

/// One assigned partition. Polled by the worker that owns it; never blocks, except in [`PartitionReader::seek`].
/// It must be dropped when the partition is revoked, and not before: an assigned partition without reader stands still.
pub struct PartitionReader {
    // Must be dropped before the consumer, so it comes first.
    queue: PartitionQueue<Context>,
    consumer: Arc<BaseConsumer<Context>>,
    partition: TopicPartition,
    origin: Origin,
    start_offset: Option<i64>,
    /// The offset of the first record read, which is the start if no offset is committed.
    first: Option<i64>,
    next: Option<i64>,
    caught_up: bool,
    revoked: Arc<AtomicBool>,
    /// Bytes of the last batch, which the next one reserves.
    data_size: usize,
    spans: Vec<Span>,
    /// An error that came after records of the same poll: returned by the next one.
    failed: Option<ReadError>,
}

impl PartitionReader {
    /// A reader that starts at the committed offset `start_offset`. `topic` is the topic's index in the group's list.
    pub(super) fn new(
        queue: PartitionQueue<Context>,
        consumer: Arc<BaseConsumer<Context>>,
        partition: TopicPartition,
        topic: usize,
        start_offset: Option<i64>,
        revoked: Arc<AtomicBool>,
    ) -> PartitionReader {
        PartitionReader {
            queue,
            consumer,
            origin: Origin {
                topic: u16::try_from(topic).unwrap_or(u16::MAX),
                partition: partition.partition,
                offset: -1,
            },
            partition,
            start_offset,
            first: None,
            next: start_offset,
            caught_up: false,
            revoked,
            data_size: 0,
            spans: Vec::new(),
            failed: None,
        }
    }

    /// Sets the `origin.topic` of the records read from now on: the owner's number for the topic, in place of the index
    /// in the group's list.
    pub fn set_topic(&mut self, topic: usize) {
        self.origin.topic = u16::try_from(topic).unwrap_or(u16::MAX);
    }

    /// Which partition this is.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The committed offset at which reading starts. Without a commit, [`super::GroupOptions::offset_reset`] decides:
    /// `None` until something was read, then the first record's offset.
    #[must_use]
    pub fn start_offset(&self) -> Option<i64> {
        self.start_offset.or(self.first)
    }

    /// A flag that says whether this assignment is over.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease(Arc::clone(&self.revoked))
    }

    /// The offset after everything that was read: what to commit when all of it is processed. At the end of the
    /// partition it is also past transaction markers and aborted records. `None` until anything is known.
    #[must_use]
    pub fn next_offset(&self) -> Option<i64> {
        self.next
    }

    /// Whether the reader is caught up: it reached the end and has read nothing since. Known at most
    /// `fetch.wait.max.ms` (100 ms) after the last record.
    #[must_use]
    pub fn caught_up(&self) -> bool {
        self.caught_up
    }

    /// Appends up to `max` records that have arrived already; never blocks. All keys and values of one call share one
    /// buffer, which is freed only when the last of them is dropped: copy what is kept for long.
    ///
    /// # Errors
    /// See [`ReadError`]. In that case nothing was appended.
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
            Headers::new(headers.iter().map(|h| (h.key.to_owned(), h.value.map(Bytes::copy_from_slice))))
        });
        Record {
            key: None,
            value: Value::Null,
            ts: message.timestamp().to_millis().map_or(Timestamp::NONE, Timestamp),
            window: None,
            headers,
            origin: Origin { offset: message.offset(), ..self.origin },
            change: None,
        }
    }

    /// Continues reading at `offset`. Blocks for some milliseconds, longer if the partition was only just assigned.
    ///
    /// # Errors
    /// The partition was revoked, or the client has refused for 5 s.
    pub fn seek(&mut self, offset: i64) -> Result<(), ReadError> {
        let deadline = Instant::now() + SEEK_TIMEOUT;
        loop {
            if self.revoked.load(Ordering::Acquire) {
                return Err(ReadError::Revoked);
            }
            let (topic, partition) = (&self.partition.topic, self.partition.partition);
            match self.consumer.seek(topic, partition, Offset::Offset(offset), SEEK_TIMEOUT) {
                Ok(()) => break,
                // librdkafka says "Erroneous state" until fetching has started.
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
