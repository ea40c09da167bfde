//! How to reach a Kafka cluster, and the librdkafka settings of each kind of client.
//!
//! The settings follow measurements, not defaults: prefetch is bounded (it is per partition), end of partition is
//! reported (it says "caught up"), offsets are committed by hand only, keys are partitioned as Java does.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use schemars::JsonSchema;
use serde::Deserialize;

use super::member::client_id;
use crate::model::{Millis, Problem};

/// Largest record that a client sends, in bytes, so that a key of 1 MB with its value fits. The topic's own limit
/// (`max.message.bytes`, 1 MiB by default) still applies.
pub const MESSAGE_BYTES_MAX: u32 = 8 * 1024 * 1024;

/// A Kafka cluster.
#[derive(Clone, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Bootstrap servers: `host:port`, several separated by commas.
    pub brokers: String,
    /// A member of the group that is silent for so long has lost its partitions. Default 10s. Brokers refuse less than
    /// 6s unless their `group.min.session.timeout.ms` is lower.
    #[serde(default = "session_timeout")]
    pub session_timeout: Millis,
    /// The broker aborts a transaction that is open for so long, so it also bounds how long a crashed instance's open
    /// transaction hides what others wrote behind it. Default 15s; longer than any checkpoint takes.
    #[serde(default = "transaction_timeout")]
    pub transaction_timeout: Millis,
    /// `plaintext` (default), `ssl`, `sasl_plaintext` or `sasl_ssl`. TLS needs a binary built with feature `ssl`.
    #[serde(default)]
    pub security_protocol: Option<SecurityProtocol>,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`. Default: none.
    #[serde(default)]
    pub sasl_mechanism: Option<String>,
    /// SASL user. Default: none.
    #[serde(default)]
    pub sasl_username: Option<String>,
    /// SASL password; write it as `${KAFKA_PASSWORD}`. Default: none.
    #[serde(default)]
    pub sasl_password: Option<String>,
    /// File with the certificate authority's certificate, PEM. Default: the system's.
    #[serde(default)]
    pub ssl_ca: Option<String>,
    /// Any other librdkafka property, name to text. They win over the settings made here. Default: none.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// Static membership: the name of this instance in the group. Set at run time (`--instance-id`), not in YAML.
    #[serde(skip)]
    pub group_instance_id: Option<String>,
    /// Where the other members of the group find this instance: `host:port` of its admin server, which rides in the
    /// member's `client.id`. Set at run time (`--advertise`), not in YAML.
    #[serde(skip)]
    pub advertised: Option<String>,
}

/// The longest `session.timeout.ms` that librdkafka accepts.
const SESSION_MAX: Millis = Millis::secs(3600);

/// Whether the text is `host`, `host:port` or `PROTOCOL://host:port`, as librdkafka reads them; an IPv6 address is in
/// brackets.
fn is_broker(text: &str) -> bool {
    let address = match text.split_once("://") {
        Some((protocol, rest)) if protocol.chars().all(|c| c.is_ascii_uppercase() || c == '_') => rest,
        Some(_) => return false,
        None => text,
    };
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (address, None),
    };
    let no_host = |c: char| c.is_whitespace() || matches!(c, '/' | '@' | '#' | '?');
    !host.is_empty()
        && !host.contains(no_host)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn session_timeout() -> Millis {
    Millis::secs(10)
}

fn transaction_timeout() -> Millis {
    Millis::secs(15)
}

/// How connections are protected.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SecurityProtocol {
    /// Nothing.
    Plaintext,
    /// TLS.
    Ssl,
    /// SASL without TLS.
    SaslPlaintext,
    /// SASL over TLS.
    SaslSsl,
}

/// Where a partition without a committed offset starts.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OffsetReset {
    /// At the oldest record that is still there (default).
    #[default]
    Earliest,
    /// At the end: only records from now on.
    Latest,
}

/// How the group spreads partitions over its members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assignment {
    /// `cooperative-sticky`: partitions that stay never stop.
    #[default]
    CooperativeSticky,
    /// `range`: the same partition numbers of all topics go to one member (co-partitioning). Eager: every rebalance
    /// revokes all, then assigns.
    Range,
}

impl KafkaConfig {
    /// A cluster without security and with every default.
    #[must_use]
    pub fn new(brokers: impl Into<String>) -> KafkaConfig {
        KafkaConfig {
            brokers: brokers.into(),
            session_timeout: session_timeout(),
            transaction_timeout: transaction_timeout(),
            security_protocol: None,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            ssl_ca: None,
            properties: BTreeMap::new(),
            group_instance_id: None,
            advertised: None,
        }
    }

    /// What is wrong, with fields counted from the cluster. A `${VAR}` is accepted: its value is filled in only where
    /// something is connected. What librdkafka refuses is found by [`KafkaConfig::refused`].
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let unknown = self.brokers.contains("${");
        if let Some(part) = self.brokers.split(',').map(str::trim).find(|part| !unknown && !is_broker(part)) {
            let help = "write `brokers: \"host:9092\"`, several separated by commas";
            problems.push(Problem::setting("brokers", format!("`{part}` is no address of a broker"), help));
        }
        if !(Millis(1)..=SESSION_MAX).contains(&self.session_timeout) {
            let help = "write a time from 1ms to 1h; most brokers take 6s to 30m";
            problems.push(Problem::setting(
                "session_timeout",
                format!("librdkafka takes no {}", self.session_timeout),
                help,
            ));
        }
        if !(Millis::secs(1)..=Millis(i64::from(i32::MAX))).contains(&self.transaction_timeout) {
            let help = "write a time from 1s on; most brokers take up to 15m";
            let message = format!("librdkafka takes no {}", self.transaction_timeout);
            problems.push(Problem::setting("transaction_timeout", message, help));
        }
        // What the user sets in `properties` is for librdkafka to check.
        let own = |prefix: &str| self.properties.keys().any(|name| name.starts_with(prefix));
        let protocol = self.security_protocol;
        let sasl = matches!(protocol, Some(SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl));
        let tls = matches!(protocol, Some(SecurityProtocol::Ssl | SecurityProtocol::SaslSsl));
        let set = [
            ("sasl_mechanism", &self.sasl_mechanism),
            ("sasl_username", &self.sasl_username),
            ("sasl_password", &self.sasl_password),
        ];
        if let Some((field, _)) = set.iter().find(|(_, value)| value.is_some())
            && !sasl
            && !own("security.")
        {
            let help = "add `security_protocol: sasl_ssl` (or `sasl_plaintext`), or remove it";
            problems.push(Problem::setting(*field, "nothing asks for SASL", help));
        }
        if sasl && self.sasl_mechanism.is_none() && !own("sasl.") {
            let help = "add `sasl_mechanism: SCRAM-SHA-512`, or `SCRAM-SHA-256` or `PLAIN`";
            problems.push(Problem::setting("security_protocol", "SASL needs a mechanism", help));
        }
        if let Some(other) = self.sasl_mechanism.as_deref()
            && !["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&other)
            && !other.contains("${")
        {
            let help = "write `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`";
            problems.push(Problem::setting(
                "sasl_mechanism",
                format!("`{other}` is no mechanism that there is here"),
                help,
            ));
        }
        if self.ssl_ca.is_some() && !tls && !own("security.") {
            let help = "add `security_protocol: ssl` (or `sasl_ssl`), or remove it";
            problems.push(Problem::setting("ssl_ca", "nothing asks for TLS", help));
        }
        problems
    }

    /// Settings of every client. Clients never create topics by accident, even where the broker would.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "slackwater")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            .set("log.connection.close", "false")
            .set("allow.auto.create.topics", "false");
        if let Some(protocol) = self.security_protocol {
            let name = match protocol {
                SecurityProtocol::Plaintext => "plaintext",
                SecurityProtocol::Ssl => "ssl",
                SecurityProtocol::SaslPlaintext => "sasl_plaintext",
                SecurityProtocol::SaslSsl => "sasl_ssl",
            };
            config.set("security.protocol", name);
        }
        let optional = [
            ("sasl.mechanism", &self.sasl_mechanism),
            ("sasl.username", &self.sasl_username),
            ("sasl.password", &self.sasl_password),
            ("ssl.ca.location", &self.ssl_ca),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                config.set(name, value);
            }
        }
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// Whether the user's properties ask brokers to create topics on the first write. Our own settings do not.
    #[must_use]
    pub fn makes_topics(&self) -> bool {
        self.properties.get("allow.auto.create.topics").is_some_and(|value| value == "true")
    }

    fn with_properties(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    /// A member of a group. `fetch.wait.max.ms` also bounds how late an end of partition is reported.
    pub(super) fn consumer(&self, group: &str, assignment: Assignment, reset: OffsetReset) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set(
                "auto.offset.reset",
                match reset {
                    OffsetReset::Earliest => "earliest",
                    OffsetReset::Latest => "latest",
                },
            )
            .set("fetch.wait.max.ms", "100")
            .set("queued.min.messages", "2000")
            .set("queued.max.messages.kbytes", "2048")
            .set("fetch.queue.backoff.ms", "20")
            .set("topic.metadata.refresh.interval.ms", "5000");
        // The new group protocol keeps these on the broker and refuses them here.
        if self.properties.get("group.protocol").is_none_or(|p| p != "consumer") {
            let session = self.session_timeout.0.max(1);
            config
                .set("session.timeout.ms", session.to_string())
                .set("heartbeat.interval.ms", (session / 10).clamp(100, 3000).to_string())
                .set(
                    "partition.assignment.strategy",
                    match assignment {
                        Assignment::CooperativeSticky => "cooperative-sticky",
                        Assignment::Range => "range",
                    },
                );
        }
        if let Some(id) = &self.group_instance_id {
            config.set("group.instance.id", id);
        }
        let mut config = self.with_properties(config);
        if let Some(address) = &self.advertised {
            // The user's own name stays in front.
            let id = client_id(config.get("client.id").unwrap_or_default(), address);
            config.set("client.id", id);
        }
        config
    }

    /// Without `with_properties`, so that callers can add to it first.
    fn base_producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            // How long a topic that does not exist is looked for before that is an error; the default is 30 s.
            .set("topic.metadata.propagation.max.ms", "5000");
        config
    }

    /// The plain idempotent producer.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.base_producer();
        config.set("message.timeout.ms", "120000");
        self.with_properties(config)
    }

    /// A producer for callers that wait: messages go at once, and one that was not sent within `timeout` never is. A produce
    /// request is small, so that a message that is too large is refused alone.
    pub(super) fn messenger(&self, timeout: Duration) -> ClientConfig {
        let mut config = self.with_properties(self.base_producer());
        config
            .set("message.timeout.ms", timeout.as_millis().max(1).to_string())
            .set("linger.ms", "0")
            .set("batch.size", "131072")
            .set("queue.buffering.max.messages", "20000");
        config
    }

    /// A transactional producer.
    pub(super) fn txn_producer(&self, transactional_id: &str) -> ClientConfig {
        let timeout = self.transaction_timeout.0.max(1).to_string();
        let mut config = self.base_producer();
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", &timeout)
            .set("message.timeout.ms", &timeout)
            // librdkafka 2.12.1 looks for a group's coordinator again after an error only when a connection comes or goes
            // (rd_kafka_coord_req_fsm), so adding offsets to a transaction may wait for ever, whatever its timeout. Nothing
            // is sent meanwhile: a connection that is closed for that ends the wait.
            .set("connections.max.idle.ms", "12000");
        self.with_properties(config)
    }

    /// Reads one partition of a changelog by absolute offset: never joins, never commits. The big prefetch is worth
    /// twice the rate. An offset that is gone is an error, not a jump.
    pub(super) fn restore(&self, group: &str) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "100")
            .set("queued.min.messages", "100000")
            .set("queued.max.messages.kbytes", "65536")
            // How soon a full prefetch queue is checked again; the default of 1 s makes a restore 5 times slower.
            .set("fetch.queue.backoff.ms", "5");
        self.with_properties(config)
    }

    /// Reads whole topics for ever: as [`KafkaConfig::restore`], with less memory for records not taken yet.
    pub(super) fn follow(&self, group: &str) -> ClientConfig {
        let mut config = self.restore(group);
        config.set("queued.max.messages.kbytes", "16384");
        self.with_properties(config)
    }

    /// A client that consumes nothing: on a consuming one, requests for offsets and metadata wait for its idle fetch.
    pub(super) fn admin_consumer(&self) -> ClientConfig {
        let mut config = self.client();
        // A group that is never used. Without one, librdkafka 2.12.1 follows a null pointer when a broker answers a
        // request for another group's offsets with `NOT_COORDINATOR` (rd_kafka_handle_OffsetFetch).
        config.set("group.id", "slackwater-admin").set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed");
        self.with_properties(config)
    }

    /// For the admin calls.
    pub(super) fn admin(&self) -> ClientConfig {
        self.with_properties(self.client())
    }
}

/// Leaves out passwords, and properties, which may contain one.
impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: BTreeMap<&str, &str> = self
            .properties
            .iter()
            .map(|(name, value)| {
                let secret =
                    ["password", "secret", "key", "token", "config"].iter().any(|s| name.contains(s));
                (name.as_str(), if secret { "***" } else { value.as_str() })
            })
            .collect();
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("session_timeout", &self.session_timeout)
            .field("transaction_timeout", &self.transaction_timeout)
            .field("security_protocol", &self.security_protocol)
            .field("sasl_mechanism", &self.sasl_mechanism)
            .field("sasl_username", &self.sasl_username)
            .field("sasl_password", &self.sasl_password.as_ref().map(|_| "***"))
            .field("ssl_ca", &self.ssl_ca)
            .field("properties", &properties)
            .field("group_instance_id", &self.group_instance_id)
            .field("advertised", &self.advertised)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_win_over_our_settings() {
        let mut config = KafkaConfig::new("b:1");
        config.properties.insert("fetch.wait.max.ms".into(), "10".into());
        let client = config.consumer("g", Assignment::Range, OffsetReset::Latest);
        assert_eq!(client.get("fetch.wait.max.ms"), Some("10"));
        assert_eq!(client.get("auto.offset.reset"), Some("latest"));
        assert_eq!(client.get("partition.assignment.strategy"), Some("range"));
    }

    #[test]
    fn an_advertised_address_rides_behind_the_name_of_the_client() {
        let mut config = KafkaConfig::new("b:1");
        let id = |config: &KafkaConfig| {
            let client = config.consumer("g", Assignment::default(), OffsetReset::default());
            client.get("client.id").map(str::to_owned)
        };
        assert_eq!(id(&config).as_deref(), Some("slackwater"));
        config.advertised = Some("host:9464".into());
        assert_eq!(id(&config).as_deref(), Some("slackwater@host:9464"));
        config.properties.insert("client.id".into(), "mine".into());
        assert_eq!(id(&config).as_deref(), Some("mine@host:9464"));
        assert_eq!(config.producer().get("client.id"), Some("mine"));
    }

    #[test]
    fn the_consumer_protocol_gets_no_classic_settings() {
        let mut config = KafkaConfig::new("b:1");
        config.properties.insert("group.protocol".into(), "consumer".into());
        let client = config.consumer("g", Assignment::default(), OffsetReset::default());
        assert_eq!(client.get("session.timeout.ms"), None);
        assert_eq!(client.get("partition.assignment.strategy"), None);
    }

    #[test]
    fn debug_shows_no_password() {
        let mut config = KafkaConfig::new("b:1");
        config.sasl_password = Some("hunter2".into());
        config.properties.insert("ssl.key.password".into(), "hunter2".into());
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
