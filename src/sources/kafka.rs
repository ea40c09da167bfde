//! `kafka`: a topic, or several read as one, by the topology's consumer group.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{OpenError, Reader, SourceConfig, SourceSettings};
use crate::formats::{Format, ReaderSchema};
use crate::kafka::topic_problem;
use crate::model::{Expr, Problem, Timestamp, TimestampFormat};

/// A Kafka source.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct KafkaSource {
    /// The topic to read. Either this or `topics`.
    pub topic: Option<String>,
    /// Several topics, read as one.
    pub topics: Option<Vec<String>>,
    /// What values are: `json` (default), `bytes` (also `raw`), `string`, `integer`, `long`, `double`, `avro` or
    /// `protobuf`. What is not of the format is refused here.
    #[serde(default)]
    pub format: Format,
    /// What keys are, with the same names. Default: text, taken as it is. All others are text from here on: a long as
    /// its digits, a record as its JSON.
    #[serde(default = "text_keys")]
    pub key_format: Format,
    /// With `format: avro`: the schema to see values with, whatever they were written with. Default: the writer's.
    #[serde(default)]
    pub reader_schema: Option<ReaderSchema>,
    /// The record's time, where it is not the Kafka timestamp: an expression such as `.created_at`. A tombstone for which
    /// it gives none keeps its Kafka timestamp. A record without either is refused.
    pub timestamp: Option<Expr>,
    /// What `timestamp` gives: `auto` (RFC 3339 text or milliseconds; the default), `rfc3339`, `seconds`, `milliseconds`
    /// or `microseconds`.
    #[serde(default)]
    pub timestamp_format: TimestampFormat,
}

/// Keys as they are.
fn text_keys() -> Format {
    Format::Bytes
}

impl Default for KafkaSource {
    fn default() -> Self {
        KafkaSource {
            topic: None,
            topics: None,
            format: Format::Json,
            key_format: text_keys(),
            reader_schema: None,
            timestamp: None,
            timestamp_format: TimestampFormat::default(),
        }
    }
}

impl SourceConfig {
    /// The source that reads a repartition topic. Its values were checked when they came in.
    #[must_use]
    pub fn repartition(topic: impl Into<String>) -> SourceConfig {
        let topic = Some(topic.into());
        SourceConfig::Kafka(KafkaSource { topic, format: Format::Bytes, ..KafkaSource::default() })
    }
}

impl SourceSettings for KafkaSource {
    fn label(&self) -> String {
        self.topics().join(", ")
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let field = if self.topic.is_none() { "topics" } else { "topic" };
        for name in self.topics() {
            if let Some((message, help)) = topic_problem(name) {
                problems.push(Problem::setting(field, message, help));
            }
        }
        let mut topics = self.topics();
        topics.sort_unstable();
        if let Some(twice) = topics.windows(2).find(|two| two[0] == two[1]) {
            let message = format!("`{}` stands here twice", twice[0]);
            problems.push(Problem::setting("topics", message, "name each topic once"));
        }
        if self.topic.is_some() && self.topics.is_some() {
            let both = Problem::new("graph::source", "both `topic` and `topics` are set");
            problems.push(both.help("keep one of them"));
        } else if self.topics().is_empty() {
            let none = Problem::new("graph::source", "no topic");
            problems.push(none.help("write `kafka: { topic: NAME }`"));
        }
        problems
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        self.timestamp.iter_mut().collect()
    }

    fn format(&self) -> Format {
        self.format
    }

    fn key_format(&self) -> Format {
        self.key_format
    }

    fn timestamp(&self) -> Option<(&Expr, TimestampFormat)> {
        self.timestamp.as_ref().map(|expr| (expr, self.timestamp_format))
    }

    fn reader_schema(&self) -> Option<&ReaderSchema> {
        self.reader_schema.as_ref()
    }

    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        self.reader_schema.iter_mut().filter_map(|schema| schema.file.as_mut()).collect()
    }

    fn reads_kafka(&self) -> bool {
        true
    }

    fn topics(&self) -> Vec<&str> {
        self.topic.iter().chain(self.topics.iter().flatten()).map(String::as_str).collect()
    }

    fn open(&self, _: Timestamp) -> Result<Option<Box<dyn Reader>>, OpenError> {
        Ok(None)
    }
}
