//! The sink of a repartition topic, which the topology itself puts in and reads again: never in a file.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Batch, Connected, SinkConfig, SinkError, SinkSettings, Surroundings, kafka_lane};
use crate::model::{CHANGE_HEADER, EvalError, Message, Millis, Payload, Record, WINDOW_HEADER};

/// Writes a repartition topic. Everything in a record travels: its window and what it changed in a table are in headers.
#[derive(Clone, Debug)]
pub struct RepartitionSink {
    topic: String,
}

impl SinkConfig {
    /// The sink that writes a repartition topic.
    #[must_use]
    pub fn repartition(topic: impl Into<String>) -> SinkConfig {
        SinkConfig::Repartition(RepartitionSink { topic: topic.into() })
    }
}

impl SinkSettings for RepartitionSink {
    fn label(&self) -> String {
        self.topic.clone()
    }

    fn connect<'a>(
        &'a self,
        around: Surroundings<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        Box::pin(async move { kafka_lane::connect(around, &self.topic) })
    }

    fn topic(&self) -> Option<&str> {
        Some(&self.topic)
    }

    fn payload(&self, record: &Record) -> Result<Payload, EvalError> {
        // A stale one, of a record that was read from such a topic, goes.
        let headers = match record.window {
            Some(window) => record.headers.with(WINDOW_HEADER, window.to_bytes()),
            None => record.headers.without(WINDOW_HEADER),
        };
        let headers = match &record.change {
            Some(change) => headers.with(CHANGE_HEADER, change.to_bytes()),
            None => headers.without(CHANGE_HEADER),
        };
        Ok(Payload::Message(Message { key: record.key.clone(), value: record.value.bytes(), headers }))
    }

    /// The tasks below wait for the records, so none is held back to fill a batch.
    fn batch(&self) -> Batch {
        Batch { linger: Millis::ZERO, ..Batch::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Change, Headers, Timestamp, Value, Window};

    fn headers(record: &Record) -> Headers {
        match SinkConfig::repartition("t").payload(record) {
            Ok(Payload::Message(message)) => message.headers,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_window_travels() {
        let plain = Record::new("a", Value::Null, Timestamp(5));
        let window = Window { start: Timestamp(-1), end: Timestamp(10) };
        let headers_of = headers(&Record { window: Some(window), ..plain.clone() });
        assert_eq!(headers_of.get(WINDOW_HEADER).and_then(|b| Window::from_bytes(b)), Some(window));
        assert_eq!(headers(&Record { headers: headers_of, ..plain }), Headers::default(), "a stale one goes");
        assert_eq!([b"".as_slice(), &[0; 15], &[0; 17]].map(Window::from_bytes), [None; 3]);
    }

    #[test]
    fn what_changed_travels() {
        let plain = Record::new("a", Value::Null, Timestamp(5));
        let change = Change { old: Value::Bytes("1".into()), latest: true };
        let headers_of = headers(&Record { change: Some(Box::new(change.clone())), ..plain.clone() });
        assert_eq!(headers_of.get(CHANGE_HEADER).and_then(Change::from_bytes), Some(change));
        assert_eq!(headers(&Record { headers: headers_of, ..plain }), Headers::default(), "a stale one goes");
    }
}
