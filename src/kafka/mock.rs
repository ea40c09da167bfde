//! librdkafka's mock broker inside this process, for `dev` and demonstrations: nothing to install, any client may
//! connect over loopback.
//!
//! Its limits, measured: 5 MiB and 100,000 batches per partition are kept, older records go silently; no compaction;
//! transactions are accepted but isolate nothing, and offsets committed in them are lost, so commit with
//! [`super::GroupHandle::commit`]; each rebalance with a second member takes the session timeout less 1 s; eager
//! rebalances refuse commits; a fetch is not woken by a new record, hence `fetch.wait.max.ms=10` in
//! [`MockBroker::config`].

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::config::KafkaConfig;
use super::{AdminError, ErrorKind, Quiet, ffi};
use crate::model::Millis;

/// A broker that lives as long as this value.
pub struct MockBroker {
    /// The client whose process hosts the mock cluster.
    host: BaseConsumer<Quiet>,
    brokers: String,
}

impl MockBroker {
    /// One broker on a free loopback port.
    ///
    /// # Errors
    /// librdkafka cannot start it.
    pub fn start() -> Result<MockBroker, AdminError> {
        let failed = |message: String| AdminError { kind: ErrorKind::Other, message };
        let host: BaseConsumer<Quiet> = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .create_with_context(Quiet::default())
            .map_err(|e| failed(format!("cannot start the embedded broker: {e}")))?;
        let brokers = ffi::mock_start(host.client())
            .ok_or_else(|| failed("the embedded broker did not start".to_owned()))?;
        Ok(MockBroker { host, brokers })
    }

    /// Bootstrap servers.
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Settings that suit this broker.
    #[must_use]
    pub fn config(&self) -> KafkaConfig {
        let mut config = KafkaConfig::new(&self.brokers);
        config.session_timeout = Millis::secs(3);
        config.properties.insert("fetch.wait.max.ms".to_owned(), "10".to_owned());
        config
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// It exists already, or the name is not valid.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), AdminError> {
        ffi::mock_topic(self.host.client(), name, partitions).map_err(|code| AdminError {
            kind: ErrorKind::Other,
            message: format!("cannot create topic `{name}` in the embedded broker: {code}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::kafka::{
        Admin, GroupEvent, GroupOffset, GroupOptions, GroupReader, OutRecord, TopicPartition, Writer,
    };
    use crate::model::Headers;

    #[test]
    fn what_is_written_is_read_and_committed() {
        let broker = MockBroker::start().unwrap();
        broker.create_topic("t", 2).unwrap();
        assert!(broker.create_topic("t", 2).is_err());
        let config = broker.config();
        let record = |partition: i32| OutRecord {
            topic: "t".into(),
            partition: Some(partition),
            key: Some("k".into()),
            value: None,
            headers: Headers::default(),
            ts: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let writer = Writer::open(&config).unwrap();
        runtime.block_on(writer.send_all(&[record(0), record(1), record(1)])).unwrap();

        let started = Instant::now();
        let (to, events) = sync_channel(16);
        let reader = GroupReader::open(&config, &GroupOptions::new("g", &["t"]), move |e| drop(to.send(e)));
        let reader = reader.unwrap();
        let Ok(GroupEvent::Assigned { mut partitions, .. }) = events.recv_timeout(Duration::from_secs(10))
        else {
            panic!("assigned first")
        };
        assert!(started.elapsed() < Duration::from_secs(2), "no rebalance delay");
        let mut records = Vec::new();
        while !partitions.iter().all(|(_, reader)| reader.caught_up()) {
            assert!(started.elapsed() < Duration::from_secs(20), "the end is reported");
            for (_, reader) in &mut partitions {
                reader.poll_batch(10, &mut records).unwrap();
            }
        }
        assert_eq!(records.len(), 3);
        let p = TopicPartition::new("t", 1);
        reader.handle().commit(&[(p.clone(), 2)]).unwrap();
        let admin = Admin::open(&config, Duration::from_secs(5)).unwrap();
        assert_eq!(admin.committed("g", std::slice::from_ref(&p)).unwrap(), [GroupOffset::At(2)]);
        assert_eq!(admin.end_offsets(&[p]).unwrap(), [2]);
        drop(partitions);
        drop(events);
        reader.close();
    }
}
