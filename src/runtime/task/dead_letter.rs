//! What a dead letter holds: the record as it came into the node that refused it, and in headers what happened. Written
//! by a task, read by whatever looks at the topic or sends its records again.

use crate::model::secret::masked;
use crate::model::{Headers, Reason, Record};
use crate::operators::Reject;

/// The headers, all text. Part of what users read: a name never changes.
mod header {
    pub(super) const ERROR: &str = "slackwater-error";
    pub(super) const REASON: &str = "slackwater-reason";
    pub(super) const NODE: &str = "slackwater-node";
    pub(super) const ATTEMPTS: &str = "slackwater-attempts";
    pub(super) const TOPIC: &str = "slackwater-topic";
    pub(super) const PARTITION: &str = "slackwater-partition";
    pub(super) const OFFSET: &str = "slackwater-offset";

    pub(super) const ALL: [&str; 7] = [ERROR, REASON, NODE, ATTEMPTS, TOPIC, PARTITION, OFFSET];
}

/// A record that a node could not process.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The class of what happened.
    pub reason: Reason,
    /// What exactly.
    pub error: String,
    /// The declared node that refused it.
    pub node: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The record of a topic that it is, or comes from; `None` for one that a timer made.
    pub from: Option<ReadFrom>,
    /// The record as it came into the node: key, value, timestamp and headers.
    pub record: Record,
}

/// Where a record was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFrom {
    /// The topic; of lines the source's name.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
}

impl DeadLetter {
    /// The dead letter of a record that `node` refused. `topics`: the task's, in the order in which records count them.
    pub(super) fn new(reject: Reject, node: &str, topics: &[impl AsRef<str>]) -> DeadLetter {
        let Reject { reason, detail: error, record, attempts } = reject;
        let origin = record.origin;
        let topic = topics.get(usize::from(origin.topic)).filter(|_| origin.offset >= 0);
        let from = topic.map(|topic| ReadFrom {
            topic: topic.as_ref().to_owned(),
            partition: origin.partition,
            offset: origin.offset,
        });
        DeadLetter { reason, error, node: node.to_owned(), attempts, from, record }
    }

    /// The record that is written to the dead-letter topic.
    #[must_use]
    pub fn write(self) -> Record {
        let mut headers = without_ours(&self.record.headers)
            // It may quote an expression, or what an API said.
            .with(header::ERROR, masked(&self.error).into_owned())
            .with(header::REASON, self.reason.name())
            .with(header::NODE, self.node)
            .with(header::ATTEMPTS, self.attempts.to_string());
        if let Some(ReadFrom { topic, partition, offset }) = self.from {
            headers = headers
                .with(header::TOPIC, topic)
                .with(header::PARTITION, partition.to_string())
                .with(header::OFFSET, offset.to_string());
        }
        Record { headers, ..self.record }
    }

    /// The dead letter that a record of the dead-letter topic is; `None` if it is none. The origin and the
    /// window of its record are not written, so they are those of a record that was made.
    #[must_use]
    pub fn read(record: &Record) -> Option<DeadLetter> {
        let text = |name: &str| std::str::from_utf8(record.headers.get(name)?).ok();
        let place = || {
            Some(ReadFrom {
                topic: text(header::TOPIC)?.to_owned(),
                partition: text(header::PARTITION)?.parse().ok()?,
                offset: text(header::OFFSET)?.parse().ok()?,
            })
        };
        Some(DeadLetter {
            reason: Reason::named(text(header::REASON)?)?,
            error: text(header::ERROR)?.to_owned(),
            node: text(header::NODE)?.to_owned(),
            attempts: text(header::ATTEMPTS)?.parse().ok()?,
            from: place(),
            record: Record {
                key: record.key.clone(),
                value: record.value.clone(),
                ts: record.ts,
                headers: without_ours(&record.headers),
                ..Record::default()
            },
        })
    }
}

/// A record that was a dead letter before has the headers of its first death.
fn without_ours(headers: &Headers) -> Headers {
    header::ALL.iter().fold(headers.clone(), |headers, name| headers.without(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Message, Origin, Payload, SinkRow, Timestamp, Value};
    use crate::sinks::message_of;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..8).prop_map(Bytes::from)
    }

    fn record() -> impl Strategy<Value = Record> {
        let headers = proptest::collection::vec(("[a-z-]{0,6}", bytes()), 0..4);
        let value = proptest::option::of(bytes()).prop_map(|v| v.map_or(Value::Null, Value::Bytes));
        (proptest::option::of(bytes()), value, any::<i64>(), headers).prop_map(|(key, value, ts, headers)| {
            Record { key, value, ts: Timestamp(ts), headers: Headers::new(headers), ..Record::default() }
        })
    }

    fn letter() -> impl Strategy<Value = DeadLetter> {
        let from = (any::<String>(), any::<i32>(), any::<i64>())
            .prop_map(|(topic, partition, offset)| ReadFrom { topic, partition, offset });
        let reason = proptest::sample::select(Reason::ALL.to_vec());
        let what = (reason, any::<String>(), any::<String>(), any::<u32>());
        (what, proptest::option::of(from), record()).prop_map(
            |((reason, error, node, attempts), from, record)| DeadLetter {
                reason,
                error,
                node,
                attempts,
                from,
                record,
            },
        )
    }

    /// What a reader of the topic gets of a record.
    fn over_the_topic(record: &Record) -> Record {
        let row = SinkRow { reply_to: None, record: record.clone(), payload: Payload::Record };
        let Message { key, value, headers } = message_of(&row);
        Record {
            key,
            value: value.map_or(Value::Null, Value::Bytes),
            headers,
            ts: record.ts,
            ..Record::default()
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(letter in letter()) {
            let written = letter.clone().write();
            prop_assert_eq!(DeadLetter::read(&over_the_topic(&written)), Some(letter));
        }

        #[test]
        fn a_record_that_dies_again_tells_of_its_last_death(first in letter(), second in letter()) {
            let again = DeadLetter { record: first.write(), ..second.clone() }.write();
            let read = DeadLetter::read(&again).expect("is a dead letter");
            prop_assert_eq!(&read.from, &second.from, "not of where the first was read");
            let DeadLetter { reason, error, node, attempts, .. } = read;
            prop_assert_eq!((reason, error, node, attempts), (second.reason, second.error, second.node, second.attempts));
        }

        #[test]
        fn other_records_are_none(record in record()) {
            prop_assert_eq!(DeadLetter::read(&record), None);
        }
    }

    /// Never edit: users' programs read these headers.
    #[test]
    fn the_headers_are_these() {
        let origin = Origin { topic: 1, partition: 3, offset: 42 };
        let record = Record { origin, ..Record::new("k", Value::Bytes("{".into()), Timestamp(7)) };
        let reject =
            Reject { reason: Reason::NotJson, detail: "no JSON".into(), record: record.clone(), attempts: 2 };
        let written = DeadLetter::new(reject, "orders", &["other", "in"]).write();
        let headers: Vec<(&str, &[u8])> = written
            .headers
            .iter()
            .map(|(name, value)| (name, value.map_or(&b""[..], |value| &value[..])))
            .collect();
        let want: [(&str, &[u8]); 7] = [
            ("slackwater-error", b"no JSON"),
            ("slackwater-reason", b"not_json"),
            ("slackwater-node", b"orders"),
            ("slackwater-attempts", b"2"),
            ("slackwater-topic", b"in"),
            ("slackwater-partition", b"3"),
            ("slackwater-offset", b"42"),
        ];
        assert_eq!(headers, want);
        assert_eq!((&written.key, &written.value, written.ts), (&record.key, &record.value, record.ts));
    }
}
