//! Writing in transactions: records and offsets, all or nothing.
//!
//! Used by a worker's commit thread, which owns its [`TxnWriter`]. Invariant: an error tells the caller whether to call
//! again, to abort, or to open a new writer; a commit whose outcome is unknown is reported as in doubt.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;

use super::{OutRecord, base_record, code_of, reminder};
use crate::kafka::config::KafkaConfig;
use crate::kafka::reader::{GroupMetadata, offset_list};
use crate::kafka::remind::{Lost, Reminder};
use crate::kafka::{TopicPartition, ffi, log};

/// Why a transaction did not go through.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TxnError {
    /// Not done yet: make the same call with the same arguments again.
    #[error("not yet: {0}")]
    Retriable(String),
    /// This transaction is lost: call [`TxnWriter::abort`], rewind to the last commit, go on.
    #[error("must be aborted: {0}")]
    Abort(String),
    /// A record is larger than the client or its topic allows (`max.message.bytes`): like [`TxnError::Abort`], but the
    /// same transaction will fail again.
    #[error("too large: {0}")]
    TooLarge(String),
    /// Another producer has taken the transactional id, or this transaction was open for longer than
    /// `transaction_timeout`. Rewind and go on with a new [`TxnWriter`]. If that is fenced at once too, another process
    /// really uses the id.
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
            // A delivery error: the transaction lost a record, but the client still works.
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

/// The result of a committed transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// For each partition written to, the offset after the last record, which is where a changelog's reader continues.
    /// Sorted.
    pub ends: Vec<(TopicPartition, i64)>,
}

/// What the delivery reports of the open transaction have said.
#[derive(Default)]
struct Reports {
    /// Topic, partition, and the offset after the last record; the partition of the latest report comes first.
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
                // There is a report for every row, and they come in runs of one partition, so try the last partition
                // first.
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

/// How far the open transaction has come, so that a repeated commit continues where it was.
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
    /// Opens a producer and takes the transactional id: the broker aborts an open transaction of the former owner and
    /// fences that owner. Takes 60 ms; 1 s if there was an open transaction.
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

    /// Queues a record of the open transaction. Failed deliveries are reported by [`TxnWriter::commit`]. Waits while
    /// the producer's queue is full.
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
            // Sends at once what is queued, without waiting for linger.
            ffi::flush(self.producer.client(), Duration::from_millis(10));
        }
    }

    /// Waits until every record so far is acknowledged, which keeps the commit short. A failed delivery is also
    /// reported by [`TxnWriter::commit`].
    ///
    /// # Errors
    /// Not done within `timeout` ([`TxnError::Retriable`]), or a record was not delivered.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), TxnError> {
        if !ffi::flush(self.producer.client(), timeout) {
            return Err(TxnError::Retriable("records are still on their way".to_owned()));
        }
        // Flushing succeeds even if deliveries failed: only their reports tell.
        let failed = self.producer.client().context().reports().failed.clone();
        failed.map_or(Ok(()), |error| Err(self.error(&error)))
    }

    /// Flushes, then adds the group's next offsets (may be empty) to the open transaction. Pass only partitions that
    /// are ours, since the broker does not check that. [`TxnWriter::commit`] does this if it was not done before.
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
        // Flush first: otherwise adding the offsets waits 100 ms for the first records' partitions.
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

    /// Whether the open transaction may have been committed, or may still be, whatever was reported. True from the
    /// request to commit until the broker's answer.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.phase == Phase::Committing
    }

    /// Does what [`TxnWriter::add_offsets`] does, unless that was done, and commits. After [`TxnError::Retriable`],
    /// call it again with the same arguments.
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

    /// If the client says that it has failed for good, that counts more than the error of one call.
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
    /// An open transaction hides what others write after it until it times out, so try briefly to abort it.
    fn drop(&mut self) {
        if self.phase != Phase::Idle && self.producer.client().fatal_error().is_none() {
            match self.producer.abort_transaction(Duration::from_secs(1)) {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "an open transaction was left to its timeout"),
            }
        }
    }
}

/// Repeats a call of the transaction API while it is retriable and there is time.
fn until(
    deadline: Instant,
    mut call: impl FnMut(Duration) -> Result<(), KafkaError>,
) -> Result<(), TxnError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let Err(error) = call(left) else { return Ok(()) };
        let error = match error {
            // From the flush that the `rdkafka` crate does before a commit.
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
