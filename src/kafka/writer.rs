//! Writing: plain and idempotent ([`Writer`]), and in transactions ([`TxnWriter`]).
//!
//! Both keep the order of a key's records: idempotent producers do, and a batch that failed is to be sent again from
//! its first failed record on. Keys are partitioned as Java's default partitioner does (murmur2).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use super::config::KafkaConfig;
use super::reader::{GroupMetadata, offset_list};
use super::remind::{Lost, Reminder};
use super::{TopicPartition, ffi, log};
use crate::model::{Headers, Timestamp};

/// How long to wait for room in a full queue, at most, before trying again.
const ROOM_AGAIN: Duration = Duration::from_millis(10);

/// A record to write.
#[derive(Clone, Debug, PartialEq)]
pub struct OutRecord {
    /// Topic; it must exist.
    pub topic: Arc<str>,
    /// Partition; `None`: by the key's hash, a null key at random.
    pub partition: Option<i32>,
    /// Key.
    pub key: Option<Bytes>,
    /// Value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers.
    pub headers: Headers,
    /// Record timestamp; `None`: now. Kafka's clients cannot send 0, which also becomes now.
    pub ts: Option<Timestamp>,
}

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

fn base_record<O: rdkafka::IntoOpaque>(record: &OutRecord, opaque: O) -> BaseRecord<'_, [u8], [u8], O> {
    let mut base = BaseRecord::with_opaque_to(&record.topic, opaque);
    base.partition = record.partition;
    base.key = record.key.as_deref();
    base.payload = record.value.as_deref();
    base.timestamp = record.ts.map(|ts| ts.0.max(0));
    if !record.headers.is_empty() {
        let mut headers = OwnedHeaders::new();
        for (key, value) in record.headers.iter() {
            headers = headers.insert(Header { key, value: Some(value.as_ref()) });
        }
        base.headers = Some(headers);
    }
    base
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

/// Reminds a producer of its cluster for as long as it is there: nobody polls it.
fn reminder<C: ProducerContext + 'static>(
    producer: &Arc<ThreadedProducer<C>>,
    config: &KafkaConfig,
    lost: fn(&C) -> &Lost,
) -> std::io::Result<Reminder> {
    let (weak, brokers) = (Arc::downgrade(producer), config.brokers.clone());
    Reminder::start(move |series| {
        if let Some(producer) = weak.upgrade() {
            series.remind(lost(producer.client().context()), producer.client(), &brokers);
        }
    })
}

fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)
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

/// Why a transaction did not go through.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TxnError {
    /// Not yet: call the same with the same arguments again.
    #[error("not yet: {0}")]
    Retriable(String),
    /// This transaction is lost: call [`TxnWriter::abort`], rewind to the last commit, go on.
    #[error("must be aborted: {0}")]
    Abort(String),
    /// A record is larger than the client or its topic allows (`max.message.bytes`): like [`TxnError::Abort`], but the
    /// same transaction will fail again.
    #[error("too large: {0}")]
    TooLarge(String),
    /// Another producer took the transactional id, or this transaction was open for longer than
    /// `transaction_timeout`: rewind and go on with a new [`TxnWriter`]. If that is fenced again at once, somebody
    /// else really has the id.
    #[error("fenced: {0}")]
    Fenced(String),
    /// This writer is unusable.
    #[error("fatal: {0}")]
    Fatal(String),
}

impl TxnError {
    fn new(error: &KafkaError) -> TxnError {
        use RDKafkaErrorCode as E;
        let message = error.to_string();
        match error.rdkafka_error_code() {
            Some(
                E::Fenced | E::ProducerFenced | E::InvalidProducerEpoch | E::TransactionCoordinatorFenced,
            ) => {
                return TxnError::Fenced(message);
            }
            Some(E::MessageSizeTooLarge | E::MessageBatchTooLarge) => return TxnError::TooLarge(message),
            // Of a delivery: the transaction lost a record, the client is well.
            _ if !matches!(error, KafkaError::Transaction(_)) => return TxnError::Abort(message),
            _ => {}
        }
        match error {
            KafkaError::Transaction(e) if e.is_fatal() => TxnError::Fatal(message),
            KafkaError::Transaction(e) if e.txn_requires_abort() => TxnError::Abort(message),
            KafkaError::Transaction(e) if e.is_retriable() => TxnError::Retriable(message),
            _ => TxnError::Fatal(message),
        }
    }
}

/// What a transaction left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Per partition written to, the offset behind the last record: where a changelog's reader goes on. Sorted.
    pub ends: Vec<(TopicPartition, i64)>,
}

/// What the delivery reports of the open transaction said.
#[derive(Default)]
struct Reports {
    /// Topic, partition, offset behind the last record; where the last report went, and the others behind it.
    ends: Vec<(Arc<str>, i32, i64)>,
    failed: Option<KafkaError>,
}

struct TxnContext {
    lost: Lost,
    /// Written by the producer's thread, read by the worker.
    reports: Mutex<Reports>,
}

impl TxnContext {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for TxnContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.lost.note(&error);
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for TxnContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut reports = self.reports();
        match result {
            Ok(message) => {
                let (topic, partition, next) = (message.topic(), message.partition(), message.offset() + 1);
                // Reports come in runs of one partition, and there is one for every row.
                let ends = &mut reports.ends;
                match ends.iter().position(|(t, p, _)| *p == partition && **t == *topic) {
                    Some(at) => {
                        ends[at].2 = next.max(ends[at].2);
                        ends.swap(0, at);
                    }
                    None => {
                        ends.push((topic.into(), partition, next));
                        let last = ends.len() - 1;
                        ends.swap(0, last);
                    }
                }
            }
            Err((error, _)) => {
                reports.failed.get_or_insert_with(|| error.clone());
            }
        }
    }
}

/// How far the open transaction is: a commit that must be called again goes on where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Idle,
    Open,
    OffsetsSent,
    Committing,
}

/// A transactional producer for one worker. All calls block; one thread at a time.
pub struct TxnWriter {
    _reminder: Reminder,
    producer: Arc<ThreadedProducer<TxnContext>>,
    phase: Phase,
}

impl TxnWriter {
    /// Opens a producer and takes the transactional id: an open transaction of its last owner is aborted, and that
    /// owner is fenced. 60 ms, 1 s where there was an open transaction.
    ///
    /// # Errors
    /// Not done within `timeout` ([`TxnError::Retriable`]), or the settings or the broker refuse.
    pub fn open(
        config: &KafkaConfig,
        transactional_id: &str,
        timeout: Duration,
    ) -> Result<TxnWriter, TxnError> {
        let deadline = Instant::now() + timeout;
        let producer: ThreadedProducer<TxnContext> = config
            .txn_producer(transactional_id)
            .create_with_context(TxnContext { lost: Lost::default(), reports: Mutex::default() })
            .map_err(|e| TxnError::Fatal(e.to_string()))?;
        let producer = Arc::new(producer);
        let reminder = reminder(&producer, config, |context| &context.lost);
        let reminder = reminder.map_err(|e| TxnError::Fatal(e.to_string()))?;
        until(deadline, |left| producer.init_transactions(left))?;
        Ok(TxnWriter { _reminder: reminder, producer, phase: Phase::Idle })
    }

    /// Begins a transaction. It should not stay open for long: see `transaction_timeout`.
    ///
    /// # Errors
    /// One is open, or the producer is fenced.
    pub fn begin(&mut self) -> Result<(), TxnError> {
        if self.phase != Phase::Idle {
            return Err(TxnError::Fatal("a transaction is open already".to_owned()));
        }
        *self.producer.client().context().reports() = Reports::default();
        self.producer.begin_transaction().map_err(|e| self.error(&e))?;
        self.phase = Phase::Open;
        Ok(())
    }

    /// Is a transaction open?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// Queues a record of the open transaction. Failed deliveries show in [`TxnWriter::commit`]. Waits where the
    /// producer's queue is full.
    ///
    /// # Errors
    /// The record was not queued: too large ([`TxnError::Abort`]), fenced, or no room within 60 s (`Retriable`).
    pub fn send(&mut self, record: &OutRecord) -> Result<(), TxnError> {
        if self.phase != Phase::Open {
            return Err(TxnError::Fatal("no transaction is open for records".to_owned()));
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let error = match self.producer.send(base_record(record, ())) {
                Ok(()) => return Ok(()),
                Err((error, _)) => error,
            };
            if code_of(&error) != RDKafkaErrorCode::QueueFull {
                return Err(self.error(&error));
            }
            if Instant::now() > deadline {
                return Err(TxnError::Retriable(error.to_string()));
            }
            // Sends what is queued at once, whatever the linger.
            ffi::flush(self.producer.client(), Duration::from_millis(10));
        }
    }

    /// Waits until every record so far is acked, to keep the commit short. A failure of one of them also shows in
    /// [`TxnWriter::commit`].
    ///
    /// # Errors
    /// Not done within `timeout` ([`TxnError::Retriable`]), or a record was not delivered.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), TxnError> {
        if !ffi::flush(self.producer.client(), timeout) {
            return Err(TxnError::Retriable("records are still on their way".to_owned()));
        }
        // A flush is content with failed deliveries: only their reports tell.
        let failed = self.producer.client().context().reports().failed.clone();
        failed.map_or(Ok(()), |error| Err(self.error(&error)))
    }

    /// Flushes, then adds the group's next offsets (may be empty) to the open transaction. Only offsets of partitions
    /// that are ours: the broker does not check that. [`TxnWriter::commit`] does it where it was not done.
    ///
    /// # Errors
    /// See [`TxnError`].
    pub fn add_offsets(
        &mut self,
        offsets: &[(TopicPartition, i64)],
        group: Option<&GroupMetadata>,
        timeout: Duration,
    ) -> Result<(), TxnError> {
        let deadline = Instant::now() + timeout;
        match self.phase {
            Phase::Idle => return Err(TxnError::Fatal("no transaction is open".to_owned())),
            Phase::Open => {}
            Phase::OffsetsSent | Phase::Committing => return Ok(()),
        }
        // First, or adding the offsets waits 100 ms for the first records' partitions.
        self.flush(timeout)?;
        match group {
            _ if offsets.is_empty() => {}
            None => return Err(TxnError::Abort("the group's reader is closed".to_owned())),
            Some(group) => {
                let list = offset_list(offsets).map_err(|e| TxnError::Abort(e.to_string()))?;
                until(deadline, |left| self.producer.send_offsets_to_transaction(&list, &group.0, left))
                    .map_err(|e| self.fatal_or(e))?;
            }
        }
        self.phase = Phase::OffsetsSent;
        Ok(())
    }

    /// May the open transaction be committed already, or still become so, whatever was reported? True from the moment
    /// when the broker was asked to commit it, until it answers.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.phase == Phase::Committing
    }

    /// Does what [`TxnWriter::add_offsets`] does, unless it was done, and commits. After [`TxnError::Retriable`] call it
    /// again with the same arguments.
    ///
    /// # Errors
    /// See [`TxnError`].
    pub fn commit(
        &mut self,
        offsets: &[(TopicPartition, i64)],
        group: Option<&GroupMetadata>,
        timeout: Duration,
    ) -> Result<Committed, TxnError> {
        let deadline = Instant::now() + timeout;
        self.add_offsets(offsets, group, timeout)?;
        self.phase = Phase::Committing;
        until(deadline, |left| self.producer.commit_transaction(left)).map_err(|e| self.fatal_or(e))?;
        self.phase = Phase::Idle;
        let reports = std::mem::take(&mut *self.producer.client().context().reports());
        let end = |(topic, partition, next)| (TopicPartition::new(topic, partition), next);
        let mut ends: Vec<_> = reports.ends.into_iter().map(end).collect();
        ends.sort();
        Ok(Committed { ends })
    }

    /// Aborts the open transaction, if there is one. What it wrote is invisible to `read_committed`.
    ///
    /// # Errors
    /// Not done within `timeout` ([`TxnError::Retriable`]), or the producer is fenced.
    pub fn abort(&mut self, timeout: Duration) -> Result<(), TxnError> {
        if self.phase == Phase::Idle {
            return Ok(());
        }
        until(Instant::now() + timeout, |left| self.producer.abort_transaction(left))
            .map_err(|e| self.fatal_or(e))?;
        self.phase = Phase::Idle;
        Ok(())
    }

    /// What the client itself says about its end counts more than what one call says.
    fn fatal_or(&self, error: TxnError) -> TxnError {
        use RDKafkaErrorCode as E;
        match self.producer.client().fatal_error() {
            Some((E::Fenced | E::ProducerFenced | E::InvalidProducerEpoch, reason)) => {
                TxnError::Fenced(reason)
            }
            Some((_, reason)) => TxnError::Fatal(reason),
            None => error,
        }
    }

    fn error(&self, error: &KafkaError) -> TxnError {
        self.fatal_or(TxnError::new(error))
    }
}

impl Drop for TxnWriter {
    /// An open transaction hides what others write behind it until it times out: abort it, briefly.
    fn drop(&mut self) {
        if self.phase != Phase::Idle && self.producer.client().fatal_error().is_none() {
            match self.producer.abort_transaction(Duration::from_secs(1)) {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "an open transaction was left to its timeout"),
            }
        }
    }
}

/// Repeats a call of the transaction API while it may be repeated and there is time.
fn until(
    deadline: Instant,
    mut call: impl FnMut(Duration) -> Result<(), KafkaError>,
) -> Result<(), TxnError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let Err(error) = call(left) else { return Ok(()) };
        let error = match error {
            // The wrapper's flush in front of a commit.
            KafkaError::Flush(_) => TxnError::Retriable(error.to_string()),
            error => TxnError::new(&error),
        };
        match error {
            TxnError::Retriable(_) if Instant::now() < deadline => {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            error => return Err(error),
        }
    }
}
