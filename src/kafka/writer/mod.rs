//! Writing: plain and idempotent ([`Writer`]), in transactions ([`TxnWriter`]), or one message for a caller that waits
//! ([`Messenger`]).
//!
//! Both keep the order of a key's records: the producers are idempotent, and a batch that failed must be sent again
//! from its first failed record on. Keys are partitioned as Java's default partitioner does (murmur2).

mod plain;
mod single;
mod transaction;

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;

pub use self::plain::{Outcome, WriteClass, WriteError, WriteReport, Writer};
pub use self::single::{Delivery, Messenger, NotSent};
pub use self::transaction::{Committed, TxnError, TxnWriter};
use super::config::KafkaConfig;
use super::remind::{Lost, Reminder};
use crate::model::{Headers, Timestamp};

/// A record to write.
#[derive(Clone, Debug, PartialEq)]
pub struct OutRecord {
    /// Topic; it must exist.
    pub topic: Arc<str>,
    /// Partition; `None`: by the key's hash, or at random for a null key.
    pub partition: Option<i32>,
    /// Key.
    pub key: Option<Bytes>,
    /// Value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers.
    pub headers: Headers,
    /// Record timestamp; `None`, or [`Timestamp::NONE`]: now. librdkafka takes 0 for now as well, so 0 is written as 1.
    pub ts: Option<Timestamp>,
}

fn base_record<O: rdkafka::IntoOpaque>(record: &OutRecord, opaque: O) -> BaseRecord<'_, [u8], [u8], O> {
    let mut base = BaseRecord::with_opaque_to(&record.topic, opaque);
    base.partition = record.partition;
    base.key = record.key.as_deref();
    base.payload = record.value.as_deref();
    base.timestamp = record.ts.filter(|ts| ts.0 >= 0).map(|ts| ts.0.max(1));
    if !record.headers.is_empty() {
        let mut headers = OwnedHeaders::new();
        for (key, value) in record.headers.iter() {
            headers = headers.insert(Header { key, value: value.map(|value| &value[..]) });
        }
        base.headers = Some(headers);
    }
    base
}

/// Reminds a producer of its brokers (`remind`), since nothing polls a producer.
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
