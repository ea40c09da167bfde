//! Writing without transactions: batches, each of which is written when every record of it is acknowledged.
//!
//! Used by the lanes of Kafka sinks and for dead letters, from any thread. Invariant: what is reported as not written is
//! the first such record of its batch.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::{DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use super::{OutRecord, base_record, code_of, reminder};
use crate::kafka::config::KafkaConfig;
use crate::kafka::log;
use crate::kafka::remind::{Lost, Reminder};

/// How long to wait for room in a full queue, at most, before trying again.
const ROOM_AGAIN: Duration = Duration::from_millis(10);

/// What to do about a record that was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteClass {
    /// Nothing is known to be wrong with it: send it again.
    Retry,
    /// This record will never be taken: too large, or invalid.
    Refused,
    /// Its topic or partition does not exist.
    UnknownTopic,
    /// Nothing can be written until somebody changes something (permissions, a fatal client).
    Fatal,
}

/// A batch was not written completely. The records before `index` are; some behind it may be.
///
/// Send again from `index` on, or, if that record was refused, from the one behind it: all of them and in order, else
/// an older value of a key may end up behind a newer one.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("record {index} was not written: {message}")]
pub struct WriteError {
    /// Position in the batch of the first record that is not written.
    pub index: usize,
    /// What to do.
    pub class: WriteClass,
    /// For people.
    pub message: String,
}

fn class_of(code: RDKafkaErrorCode) -> WriteClass {
    use RDKafkaErrorCode as E;
    match code {
        E::MessageSizeTooLarge
        | E::InvalidMessage
        | E::InvalidMessageSize
        | E::InvalidRecord
        | E::InvalidTimestamp
        | E::MessageBatchTooLarge
        | E::PolicyViolation => WriteClass::Refused,
        E::UnknownTopic | E::UnknownTopicOrPartition | E::UnknownPartition | E::InvalidTopic => {
            WriteClass::UnknownTopic
        }
        E::Fatal
        | E::Fenced
        | E::ProducerFenced
        | E::TopicAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::Authentication
        | E::SaslAuthenticationFailed
        | E::InvalidRequiredAcks => WriteClass::Fatal,
        _ => WriteClass::Retry,
    }
}

/// A batch whose records are on their way.
struct Batch {
    /// Records without a report, and 1 while still sending.
    left: AtomicUsize,
    /// The first failed record and why. Written by the producer's thread and by the sender.
    failed: Mutex<Option<(usize, RDKafkaErrorCode)>>,
    done: Notify,
}

impl Batch {
    fn fail(&self, index: usize, code: RDKafkaErrorCode) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_none_or(|(first, _)| index < first) {
            *failed = Some((index, code));
        }
    }

    fn one_less(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }
}

/// One record's place, carried through librdkafka.
struct Ticket {
    batch: Arc<Batch>,
    index: usize,
}

struct PlainContext {
    /// Told at each report: the producer's queue has room again.
    room: Notify,
    lost: Lost,
}

impl ClientContext for PlainContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.lost.note(&error);
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for PlainContext {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        if let Err((error, _)) = result {
            ticket.batch.fail(ticket.index, code_of(error));
        }
        ticket.batch.one_less();
        self.room.notify_waiters();
    }
}

/// An idempotent producer. Cheap to share: `&self`, any thread.
pub struct Writer {
    // In front of the producer, so that it is dropped here and not on the reminder's thread.
    _reminder: Reminder,
    producer: Arc<ThreadedProducer<PlainContext>>,
}

impl Writer {
    /// A producer with a thread of its own. Brokers need not be there yet.
    ///
    /// # Errors
    /// librdkafka refuses the settings.
    pub fn open(config: &KafkaConfig) -> Result<Writer, WriteError> {
        let failed = |message: String| WriteError { index: 0, class: WriteClass::Fatal, message };
        let context = PlainContext { room: Notify::new(), lost: Lost::default() };
        let producer: ThreadedProducer<PlainContext> =
            config.producer().create_with_context(context).map_err(|e| failed(e.to_string()))?;
        let producer = Arc::new(producer);
        let reminder = reminder(&producer, config, |context| &context.lost);
        Ok(Writer { _reminder: reminder.map_err(|e| failed(e.to_string()))?, producer })
    }

    /// Writes records in order; resolves when all are acked by all in-sync replicas. Waits where the producer's queue
    /// is full. Dropping the future leaves what was sent already on its way. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// See [`WriteError`]. A record is given up after 2 min without an answer (`message.timeout.ms`).
    pub async fn send_all(&self, records: &[OutRecord]) -> Result<(), WriteError> {
        let mut start = 0;
        loop {
            let Some((index, code)) = self.send_batch(&records[start..]).await else { return Ok(()) };
            let index = start + index;
            // Records share a produce request, and a request that is too large fails all of them: alone it shows.
            if code == RDKafkaErrorCode::MessageSizeTooLarge
                && records.len() - start > 1
                && self.send_batch(&records[index..=index]).await.is_none()
            {
                start = index + 1;
                continue;
            }
            let message = match self.producer.client().fatal_error() {
                Some((_, reason)) => reason,
                None => format!("topic `{}`: {code}", records[index].topic),
            };
            return Err(WriteError { index, class: class_of(code), message });
        }
    }

    /// Sends records and waits for all reports; the first failure.
    async fn send_batch(&self, records: &[OutRecord]) -> Option<(usize, RDKafkaErrorCode)> {
        let batch =
            Arc::new(Batch { left: AtomicUsize::new(1), failed: Mutex::default(), done: Notify::new() });
        for (index, record) in records.iter().enumerate() {
            batch.left.fetch_add(1, Ordering::AcqRel);
            if let Err(code) = self.enqueue(record, Ticket { batch: Arc::clone(&batch), index }).await {
                batch.fail(index, code);
                batch.one_less();
                // What stands behind it must not overtake it.
                break;
            }
        }
        batch.one_less();
        batch.done.notified().await;
        batch.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn enqueue(&self, record: &OutRecord, ticket: Ticket) -> Result<(), RDKafkaErrorCode> {
        let mut ticket = Box::new(ticket);
        loop {
            // Listening starts before the try, so that no report between the two is missed.
            let room = self.producer.client().context().room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            let code = match self.producer.send(base_record(record, ticket)) {
                Ok(()) => return Ok(()),
                Err((error, back)) => {
                    ticket = back.delivery_opaque;
                    code_of(&error)
                }
            };
            if code != RDKafkaErrorCode::QueueFull {
                return Err(code);
            }
            // librdkafka counts a record until after its report, so the last report may come too early.
            drop(tokio::time::timeout(ROOM_AGAIN, room).await);
        }
    }
}
