//! A lane of the `kafka` sink: writes records to a topic through the process's idempotent producer.

use std::sync::Arc;

use super::{Answers, Connected, Lane, Sink, SinkError, Surroundings, message_of};
use crate::kafka::{OutRecord, Outcome, WriteClass, WriteError, WriteReport, Writer};
use crate::model::{Message, SinkRow};

/// Writes to one topic. Cheap to clone: the producer is shared.
#[derive(Clone)]
pub struct KafkaLane {
    writer: Arc<Writer>,
    topic: Arc<str>,
}

impl KafkaLane {
    /// A lane that writes with `writer`.
    #[must_use]
    pub fn new(writer: Arc<Writer>, topic: &str) -> KafkaLane {
        KafkaLane { writer, topic: topic.into() }
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The message of a row.
    #[must_use]
    pub fn message(&self, row: &SinkRow) -> OutRecord {
        let Message { key, value, headers } = message_of(row);
        OutRecord {
            topic: Arc::clone(&self.topic),
            partition: None,
            key,
            value,
            headers,
            ts: Some(row.record.ts),
        }
    }
}

/// Connects a sink that writes a topic: the process's producer does it.
pub(super) fn connect(around: Surroundings<'_>, topic: &str) -> Result<Arc<dyn Connected>, SinkError> {
    let Some(writer) = around.kafka else {
        let message = "a kafka sink needs the topology's `kafka: { brokers: ... }`".into();
        return Err(SinkError::Config { message, column: None });
    };
    Ok(Arc::new(KafkaLane::new(Arc::clone(writer), topic)))
}

impl Connected for KafkaLane {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(self.clone())
    }

    fn lanes(&self) -> usize {
        4
    }
}

impl Sink for KafkaLane {
    async fn deliver(&mut self, batch: &[SinkRow], out: &mut Answers) -> Result<(), SinkError> {
        let records: Vec<OutRecord> = batch.iter().map(|row| self.message(row)).collect();
        let WriteReport { outcomes, error } = self.writer.send_each(&records).await;
        for (row, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Outcome::Written => out.written(row),
                Outcome::Refused(message) => out.refused(row, message),
                Outcome::Unknown => {}
            }
        }
        let Some(WriteError { class, message, .. }) = error else { return Ok(()) };
        Err(match class {
            WriteClass::Retry => SinkError::Retry { message, after: None },
            WriteClass::Refused => SinkError::Refused { message },
            WriteClass::UnknownTopic => {
                let message = format!("the topic `{}` does not exist (yet): {message}", self.topic);
                SinkError::Retry { message, after: Some(std::time::Duration::from_secs(1)) }
            }
            WriteClass::Fatal => SinkError::Config { message, column: None },
        })
    }
}
