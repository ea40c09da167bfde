//! Tries a cluster's settings on librdkafka before anything connects, so that what it refuses has its place in the file:
//! properties that it does not know, values that it does not take, protections that it was built without, certificates
//! that it cannot read.

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use rdkafka::types::RDKafkaConfRes;

use super::config::{Assignment, KafkaConfig, OffsetReset};
use crate::model::Problem;

/// Our own settings, and the properties that they become.
const NAMES: [(&str, &str); 6] = [
    ("security.protocol", "security_protocol"),
    ("sasl.mechanism", "sasl_mechanism"),
    ("sasl.username", "sasl_username"),
    ("sasl.password", "sasl_password"),
    ("ssl.ca.location", "ssl_ca"),
    ("transaction.timeout.ms", "transaction_timeout"),
];

impl KafkaConfig {
    /// What librdkafka refuses, with fields counted from the cluster. Makes clients where there is something to try, and
    /// connects none. A `${VAR}` is taken. Asked where something is going to be connected: a program that was built without
    /// TLS can simulate a topology that asks for it.
    #[must_use]
    pub fn refused(&self) -> Vec<Problem> {
        if !self.check().is_empty() {
            // Said already, in words of our own.
            return Vec::new();
        }
        let open = |text: &str| text.contains("${");
        let each = self.properties.iter().filter(|(_, value)| !open(value)).filter_map(|(name, value)| {
            let mut alone = ClientConfig::new();
            alone.set(name, value);
            alone.create_native_config().err().map(|error| self.problem(&error))
        });
        let problems: Vec<Problem> = each.collect();
        let own = [&self.sasl_mechanism, &self.sasl_username, &self.sasl_password, &self.ssl_ca];
        let set: Vec<&String> = own.into_iter().flatten().chain(self.properties.values()).collect();
        if !problems.is_empty()
            || set.is_empty() && self.security_protocol.is_none()
            || set.into_iter().any(|value| open(value))
        {
            return problems;
        }
        let made = make(self.txn_producer("trial"), |config| config.create::<BaseProducer>().map(drop))
            .and_then(|()| {
                let consumer = self.consumer("trial", Assignment::default(), OffsetReset::default());
                make(consumer, |config| config.create::<BaseConsumer>().map(drop))
            });
        made.err().map(|error| self.problem(&error)).into_iter().collect()
    }

    fn problem(&self, error: &KafkaError) -> Problem {
        let (name, text) = match error {
            KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
                let message = format!("librdkafka has no property `{name}`");
                let help = "its CONFIGURATION.md has the names";
                return Problem::setting(self.field(name), message, help);
            }
            KafkaError::ClientConfig(_, text, name, _) => (name.as_str(), text.clone()),
            other => ("", other.to_string()),
        };
        // What only shows when a client is made names its property in the text.
        let named = || {
            let names = self.properties.keys().map(String::as_str).chain(NAMES.map(|(name, _)| name));
            names.filter(|name| text.contains(name)).max_by_key(|name| name.len()).unwrap_or_default()
        };
        let field = self.field(if name.is_empty() { named() } else { name });
        let help = match text.contains("OpenSSL not available") || text.contains("not built with") {
            true => "build slackwater with `--features ssl` or `ssl-vendored`",
            false => "correct it, or remove it; librdkafka's CONFIGURATION.md says what it takes",
        };
        Problem::setting(field, format!("librdkafka takes no such setting: {}", text.trim()), help)
    }

    /// The field where a property of librdkafka is set.
    fn field(&self, name: &str) -> String {
        if self.properties.contains_key(name) {
            return "properties".to_owned();
        }
        NAMES.iter().find(|(property, _)| *property == name).map_or("", |(_, field)| field).to_owned()
    }
}

/// Makes a client that has no server to connect to.
fn make(
    mut config: ClientConfig,
    create: impl FnOnce(&ClientConfig) -> Result<(), KafkaError>,
) -> Result<(), KafkaError> {
    config.remove("bootstrap.servers");
    config.remove("metadata.broker.list");
    create(&config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::SecurityProtocol;

    fn fields(change: impl FnOnce(&mut KafkaConfig)) -> Vec<(String, String)> {
        let mut config = KafkaConfig::new("b:1");
        change(&mut config);
        config.refused().into_iter().map(|p| (p.field, p.message)).collect()
    }

    #[test]
    fn what_librdkafka_refuses_is_found_before_anything_connects() {
        let property = |name: &str, value: &str| {
            let found = fields(|config| drop(config.properties.insert(name.into(), value.into())));
            found.into_iter().map(|(field, message)| format!("{field}: {message}")).collect::<Vec<_>>()
        };
        assert_eq!(property("fetch.wait.max.ms", "10"), [""; 0]);
        assert_eq!(
            property("fetch.wait.ms", "10"),
            ["properties: librdkafka has no property `fetch.wait.ms`"]
        );
        let [wrong] = &property("fetch.wait.max.ms", "soon")[..] else { panic!("is refused") };
        assert!(wrong.starts_with("properties: ") && wrong.contains("fetch.wait.max.ms"), "{wrong}");
        assert_eq!(property("fetch.wait.max.ms", "${WAIT}"), [""; 0]);
        // Each is right, together they are not: it shows when the client is made.
        let [wrong] = &property("max.poll.interval.ms", "1")[..] else { panic!("is refused") };
        assert!(wrong.starts_with("properties: ") && wrong.contains("max.poll.interval.ms"), "{wrong}");
    }

    #[test]
    fn protections_that_this_build_has_not_are_found() {
        let plain = fields(|config| config.security_protocol = Some(SecurityProtocol::Plaintext));
        assert_eq!(plain, []);
        let tls = fields(|config| config.security_protocol = Some(SecurityProtocol::Ssl));
        match cfg!(any(feature = "ssl", feature = "ssl-vendored")) {
            true => assert_eq!(tls, []),
            false => assert_eq!(tls.first().map(|(field, _)| field.as_str()), Some("security_protocol")),
        }
    }
}
