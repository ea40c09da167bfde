//! Writing without transactions: batches, where each record is reported as written, refused or unknown.
//!
//! Used by the lanes of Kafka sinks and for dead letters, from any thread. A record that was written is not sent again,
//! with one exception: if it overtook an older record of its key, it is written once more after that one, because
//! otherwise the older value would be the newest in the topic.

use std::collections::{BTreeMap, HashMap, HashSet};
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

/// How long to wait for a signal that the producer's queue has room, before trying again anyway.
const ROOM_AGAIN: Duration = Duration::from_millis(10);

/// What to do about a record that was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteClass {
    /// Nothing is known to be wrong with the record: send it again.
    Retry,
    /// This record will never be accepted: it is too large, or invalid.
    Refused,
    /// Its topic or partition does not exist.
    UnknownTopic,
    /// Nothing can be written until an operator changes something (permissions, a fatal client error).
    Fatal,
}

/// A batch was not written completely. The records before `index` are written; some after it may be.
///
/// Send again from `index` on, or, if that record was refused, from the next one: all of them and in order, otherwise
/// an older value of a key may end up after a newer one.
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

/// What became of one record of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged by all in-sync replicas.
    Written,
    /// It will never be accepted, and why.
    Refused(String),
    /// Not known, or not sent: send it again, in the order of the batch.
    Unknown,
}

/// What became of the records of a batch, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteReport {
    /// One for each record.
    pub outcomes: Vec<Outcome>,
    /// Why some are [`Outcome::Unknown`]: the first failure.
    pub error: Option<WriteError>,
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

/// A batch whose records are in flight.
struct Batch {
    /// Records whose report is missing, plus 1 while sending.
    left: AtomicUsize,
    /// The failed records and why. Shared by the producer's thread and the sender.
    failed: Mutex<BTreeMap<usize, RDKafkaErrorCode>>,
    done: Notify,
}

impl Batch {
    fn fail(&self, index: usize, code: RDKafkaErrorCode) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(index, code);
    }

    fn one_less(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }
}

/// The result of a batch: the failed records by their position in it, and those that were not sent.
struct Sent {
    failed: BTreeMap<usize, RDKafkaErrorCode>,
    unsent: Vec<usize>,
}

/// Which records of a batch are written, and in which round of sending.
struct Progress<'r> {
    records: &'r [OutRecord],
    states: Vec<State>,
    round: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    /// Written in this round.
    Written(usize),
    Refused(String),
}

impl<'r> Progress<'r> {
    fn new(records: &'r [OutRecord]) -> Progress<'r> {
        Progress { records, states: vec![State::Unknown; records.len()], round: 0 }
    }

    fn written(&mut self, index: usize) {
        self.states[index] = State::Written(self.round);
    }

    fn refused(&mut self, index: usize, why: String) {
        self.states[index] = State::Refused(why);
    }

    /// Finds records that overtook an older one of their key: they are in the topic before it, or it is not written
    /// yet. They must be written again, and count as unknown until then.
    fn overtaken(&mut self) -> Option<Vec<usize>> {
        // The latest round of each key so far; `None`: one of its records is not written.
        let mut latest: HashMap<(&str, &[u8]), Option<usize>> = HashMap::new();
        let mut again = Vec::new();
        for (index, (record, state)) in self.records.iter().zip(&mut self.states).enumerate() {
            // Records without a key have no order.
            let Some(key) = record.key.as_deref() else { continue };
            let place = (&*record.topic, key);
            match state {
                State::Refused(_) => {}
                State::Unknown => drop(latest.insert(place, None)),
                State::Written(round) => match latest.get(&place) {
                    Some(None) => {
                        *state = State::Unknown;
                        again.push(index);
                    }
                    Some(Some(before)) if before > round => {
                        *state = State::Unknown;
                        again.push(index);
                        latest.insert(place, None);
                    }
                    Some(Some(_)) | None => drop(latest.insert(place, Some(*round))),
                },
            }
        }
        Some(again).filter(|again| !again.is_empty())
    }

    fn end(mut self) -> Vec<Outcome> {
        self.overtaken();
        let outcomes = self.states.into_iter().map(|state| match state {
            State::Written(_) => Outcome::Written,
            State::Refused(why) => Outcome::Refused(why),
            State::Unknown => Outcome::Unknown,
        });
        outcomes.collect()
    }
}

/// The position of one record, carried through librdkafka to its report.
struct Ticket {
    batch: Arc<Batch>,
    index: usize,
}

struct PlainContext {
    /// Notified at each report: the producer's queue has room again.
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
    /// Records of several callers share a produce request, which is refused as one. Held for reading while records are sent,
    /// and for writing to find out whether a record is refused for its own sake.
    requests: tokio::sync::RwLock<()>,
    // Declared before the producer, so that the producer is dropped on this thread and not on the reminder's.
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
        let _reminder = reminder.map_err(|e| failed(e.to_string()))?;
        Ok(Writer { requests: tokio::sync::RwLock::default(), _reminder, producer })
    }

    /// Writes records in order; resolves when all are acknowledged by all in-sync replicas. Waits while the producer's
    /// queue is full (back-pressure). Dropping the future does not recall what was already sent. Needs a tokio runtime
    /// with time.
    ///
    /// # Errors
    /// See [`WriteError`]. A record fails after 2 min without an answer (`message.timeout.ms`).
    pub async fn send_all(&self, records: &[OutRecord]) -> Result<(), WriteError> {
        let WriteReport { outcomes, error } = self.send_each(records).await;
        let Some(index) = outcomes.iter().position(|outcome| *outcome != Outcome::Written) else {
            return Ok(());
        };
        let unknown = || WriteError { index, class: WriteClass::Retry, message: "not sent".into() };
        Err(match &outcomes[index] {
            Outcome::Refused(message) => {
                WriteError { index, class: WriteClass::Refused, message: message.clone() }
            }
            Outcome::Written | Outcome::Unknown => {
                error.map_or_else(unknown, |error| WriteError { index, ..error })
            }
        })
    }

    /// Writes records in order, as [`Writer::send_all`] does, and reports the outcome of each. A refused record neither
    /// holds up those after it nor makes its neighbours be written again.
    pub async fn send_each(&self, records: &[OutRecord]) -> WriteReport {
        let mut progress = Progress::new(records);
        // Parts of the batch that are still to be sent; the last one is next.
        let mut parts: Vec<Vec<usize>> = vec![(0..records.len()).collect()];
        let mut error = None;
        // Those whose produce request was refused, though maybe for another record in it.
        let mut suspects = HashSet::new();
        while let Some(part) = parts.pop().or_else(|| progress.overtaken()) {
            let tried = part.len() == 1 && suspects.contains(&part[0]);
            let Sent { failed, unsent } = match tried {
                true => {
                    let _nobody_else = self.requests.write().await;
                    self.send_batch(records, &part).await
                }
                false => {
                    let _others = self.requests.read().await;
                    self.send_batch(records, &part).await
                }
            };
            let reason = |index: usize, code: RDKafkaErrorCode| match self.producer.client().fatal_error() {
                Some((_, reason)) => reason,
                None => format!("topic `{}`: {code}", records[index].topic),
            };
            let hard = failed.iter().find(|(_, code)| class_of(**code) != WriteClass::Refused);
            error = hard.map(|(&at, &code)| WriteError {
                index: part[at],
                class: class_of(code),
                message: reason(part[at], code),
            });
            let sent = part.len() - unsent.len();
            // A record that is too large fails every record in its produce request, also those of other callers. Which one
            // it was shows only when each is sent alone, so halve until it is found.
            let mut doubtful = Vec::new();
            for (at, &index) in part[..sent].iter().enumerate() {
                match failed.get(&at) {
                    None => progress.written(index),
                    Some(&code) if class_of(code) == WriteClass::Refused => {
                        // What librdkafka itself refuses was in no request.
                        match tried || (at + 1 == sent && !unsent.is_empty()) {
                            true => progress.refused(index, reason(index, code)),
                            false => {
                                suspects.insert(index);
                                doubtful.push(index);
                            }
                        }
                    }
                    Some(_) => {}
                }
            }
            if error.is_some() {
                break;
            }
            progress.round += 1;
            parts.extend(Some(unsent).filter(|part| !part.is_empty()));
            let second = doubtful.split_off(doubtful.len().div_ceil(2));
            parts.extend([second, doubtful].into_iter().filter(|part| !part.is_empty()));
        }
        WriteReport { outcomes: progress.end(), error }
    }

    /// Sends this part of the records and waits for all reports.
    async fn send_batch(&self, records: &[OutRecord], part: &[usize]) -> Sent {
        let batch =
            Arc::new(Batch { left: AtomicUsize::new(1), failed: Mutex::default(), done: Notify::new() });
        let mut unsent = Vec::new();
        for (at, &index) in part.iter().enumerate() {
            batch.left.fetch_add(1, Ordering::AcqRel);
            let ticket = Ticket { batch: Arc::clone(&batch), index: at };
            if let Err(code) = self.enqueue(&records[index], ticket).await {
                batch.fail(at, code);
                batch.one_less();
                // Records after this one must not overtake it.
                unsent = part[at + 1..].to_vec();
                break;
            }
        }
        batch.one_less();
        batch.done.notified().await;
        let failed = std::mem::take(&mut *batch.failed.lock().unwrap_or_else(PoisonError::into_inner));
        Sent { failed, unsent }
    }

    async fn enqueue(&self, record: &OutRecord, ticket: Ticket) -> Result<(), RDKafkaErrorCode> {
        let mut ticket = Box::new(ticket);
        loop {
            // Subscribe before trying, so that no report in between is missed.
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
            // librdkafka counts a message until after its report, so the last report may come while the queue is still
            // full.
            drop(tokio::time::timeout(ROOM_AGAIN, room).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records by key, states by round (`-` unknown, `x` refused), and which are written again.
    fn check(keys: &str, states: &str, again: &[usize]) {
        let record = |key: char| OutRecord {
            topic: "t".into(),
            partition: None,
            key: (key != '.').then(|| bytes::Bytes::from(key.to_string())),
            value: None,
            headers: crate::model::Headers::default(),
            ts: None,
        };
        let records: Vec<OutRecord> = keys.chars().map(record).collect();
        let mut progress = Progress::new(&records);
        for (index, state) in states.chars().enumerate() {
            match state {
                '-' => {}
                'x' => progress.refused(index, "too large".into()),
                round => {
                    progress.round = usize::try_from(round.to_digit(10).unwrap()).unwrap();
                    progress.written(index);
                }
            }
        }
        assert_eq!(progress.overtaken().unwrap_or_default(), again, "{keys} {states}");
        assert_eq!(progress.overtaken(), None, "once is enough");
    }

    #[test]
    fn only_what_overtook_an_older_record_of_its_key_is_written_again() {
        check("aaa", "000", &[]);
        check("aba", "0x0", &[]);
        check("aba", "100", &[2]);
        check("abab", "1000", &[2]);
        check("aaa", "010", &[2]);
        check("aaa", "0-0", &[2]);
        check("aab", "-00", &[1]);
        check("...", "1-0", &[]);
    }
}
