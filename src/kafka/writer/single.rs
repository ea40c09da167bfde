//! Writing for a caller that waits for it: one message at a time, at once, with an answer in a few seconds that says whether
//! the message is in the topic, never will be, or may be.
//!
//! Used by the endpoints, where a client that was told "not sent" will ask again: so a message that could not be sent in
//! time is given up by the producer itself, and what the client is told follows from the delivery report alone.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::oneshot;

use super::{OutRecord, base_record, code_of, reminder};
use crate::kafka::config::KafkaConfig;
use crate::kafka::ffi::{self, Persisted};
use crate::kafka::log;
use crate::kafka::remind::{Lost, Reminder};

/// How much longer than the producer's own limit a report is waited for; librdkafka looks for late messages once a second.
const LATE: Duration = Duration::from_secs(3);

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// All in-sync replicas have it.
    Written {
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
    /// It is not in the topic, and never will be.
    Never(NotSent),
    /// It may be in the topic, or not; for people, why.
    Unknown(String),
}

/// Why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// It is larger than the client or the broker takes.
    #[error("the message is too large: {0}")]
    TooLarge(String),
    /// Too many messages wait for the broker.
    #[error("too many messages wait for the broker")]
    Full,
    /// The topic does not exist.
    #[error("the topic does not exist: {0}")]
    UnknownTopic(String),
    /// Anything else: above all, no broker answered in time.
    #[error("{0}")]
    Other(String),
}

/// Reports a delivery to the caller that waits for it.
struct OneContext {
    lost: Lost,
}

impl ClientContext for OneContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.lost.note(&error);
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for OneContext {
    type DeliveryOpaque = Box<oneshot::Sender<Delivery>>;

    fn delivery(&self, result: &DeliveryResult<'_>, caller: Box<oneshot::Sender<Delivery>>) {
        let delivery = match result {
            Ok(message) => Delivery::Written { partition: message.partition(), offset: message.offset() },
            Err((error, message)) => {
                let code = code_of(error);
                match ffi::persisted(message) {
                    Persisted::No => Delivery::Never(not_sent(code)),
                    Persisted::Maybe => Delivery::Unknown(code.to_string()),
                }
            }
        };
        // Without a caller there is nothing to report: its client has gone.
        drop(caller.send(delivery));
    }
}

fn not_sent(code: RDKafkaErrorCode) -> NotSent {
    use RDKafkaErrorCode as E;
    let text = code.to_string();
    match code {
        E::MessageSizeTooLarge | E::MessageBatchTooLarge | E::InvalidMessageSize => NotSent::TooLarge(text),
        E::QueueFull => NotSent::Full,
        E::UnknownTopic | E::UnknownTopicOrPartition | E::UnknownPartition | E::InvalidTopic => {
            NotSent::UnknownTopic(text)
        }
        _ => NotSent::Other(text),
    }
}

/// A producer and its reminder.
struct Live {
    // Declared before the producer, so that the producer is dropped on this thread and not on the reminder's.
    _reminder: Reminder,
    producer: Arc<ThreadedProducer<OneContext>>,
}

/// An idempotent producer for callers that wait. Cheap to share: `&self`, any thread.
pub struct Messenger {
    config: KafkaConfig,
    timeout: Duration,
    /// Replaced when librdkafka has given the producer up for good. Read by every caller, for moments.
    live: RwLock<Arc<Live>>,
}

impl Messenger {
    /// A producer with a thread of its own, that gives a message up after `timeout`. Brokers need not be there yet.
    ///
    /// # Errors
    /// librdkafka refuses the settings; for people.
    pub fn open(config: &KafkaConfig, timeout: Duration) -> Result<Messenger, String> {
        let live = RwLock::new(Arc::new(open(config, timeout)?));
        Ok(Messenger { config: config.clone(), timeout, live })
    }

    /// Sends a message; resolves with what became of it, a few seconds after the timeout at the latest. Dropping the future
    /// does not recall the message.
    pub async fn send(&self, record: &OutRecord) -> Delivery {
        let live = Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner));
        let (report, reported) = oneshot::channel();
        if let Err((error, _)) = live.producer.send(base_record(record, Box::new(report))) {
            let code = code_of(&error);
            if code == RDKafkaErrorCode::Fatal {
                self.replace(&live);
            }
            return Delivery::Never(not_sent(code));
        }
        let delivery = match tokio::time::timeout(self.timeout + LATE, reported).await {
            Ok(Ok(delivery)) => delivery,
            Ok(Err(_)) => Delivery::Unknown("the producer has ended".into()),
            Err(_) => Delivery::Unknown("no report of the delivery".into()),
        };
        if !matches!(delivery, Delivery::Written { .. }) && live.producer.client().fatal_error().is_some() {
            self.replace(&live);
        }
        delivery
    }

    /// Opens another producer in place of one that librdkafka has given up, unless that was done already.
    fn replace(&self, dead: &Arc<Live>) {
        let mut now = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&now, dead) {
            return;
        }
        let why = dead.producer.client().fatal_error().map(|(_, why)| why).unwrap_or_default();
        match open(&self.config, self.timeout) {
            Ok(live) => {
                tracing::warn!(
                    why,
                    "the endpoints' producer has failed for good: another one takes its place"
                );
                *now = Arc::new(live);
            }
            Err(error) => tracing::error!(why, error, "the endpoints' producer has failed for good"),
        }
    }
}

fn open(config: &KafkaConfig, timeout: Duration) -> Result<Live, String> {
    let context = OneContext { lost: Lost::default() };
    let producer: ThreadedProducer<OneContext> =
        config.messenger(timeout).create_with_context(context).map_err(|e| e.to_string())?;
    let producer = Arc::new(producer);
    let reminder = reminder(&producer, config, |context| &context.lost);
    Ok(Live { _reminder: reminder.map_err(|e| e.to_string())?, producer })
}
