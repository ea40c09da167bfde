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
    /// The client that carries the cluster.
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
            .create_with_context(Quiet)
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
    /// It exists already, or the name is none.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), AdminError> {
        ffi::mock_topic(self.host.client(), name, partitions).map_err(|code| AdminError {
            kind: ErrorKind::Other,
            message: format!("cannot create topic `{name}` in the embedded broker: {code}"),
        })
    }
}
