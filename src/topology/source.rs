//! Sources: where records come from.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::formats::{Format, ReaderSchema};
use crate::model::Problem;
use crate::model::{Expr, Rate, Yields};
use crate::sinks::topic_problem;

/// A source's settings; its kind is the key that holds them in YAML.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum SourceConfig {
    /// A Kafka topic, read as a member of the topology's consumer group.
    Kafka(KafkaSource),
    /// Made-up records, for tries and load tests.
    Generate(Generate),
    /// Lines of a file, one record each.
    File(FileSource),
    /// Lines of standard input, one record each.
    Stdin(Lines),
}

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
    /// The record's time in milliseconds, where it is not the Kafka timestamp: an expression such as `.created_at`. A
    /// tombstone for which it gives none keeps its Kafka timestamp.
    pub timestamp: Option<Expr>,
    /// A repartition topic, which the topology itself writes: never in a file.
    #[serde(skip)]
    pub internal: bool,
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
            internal: false,
        }
    }
}

impl KafkaSource {
    /// The source that reads a repartition topic. Its values were checked when they came in.
    #[must_use]
    pub fn internal(topic: impl Into<String>) -> KafkaSource {
        KafkaSource {
            topic: Some(topic.into()),
            format: Format::Bytes,
            internal: true,
            ..KafkaSource::default()
        }
    }
}

/// Made-up records.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// Records a second. Default 10/s.
    #[serde(default = "Generate::default_rate")]
    pub rate: Rate,
    /// Number of different keys, `key-0` and up, in turn. Default 100.
    #[serde(default = "Generate::default_keys")]
    pub keys: u64,
    /// Stop after so many records; without it, never.
    pub count: Option<u64>,
}

impl Generate {
    fn default_rate() -> Rate {
        Rate { per_second: 10.0 }
    }
    fn default_keys() -> u64 {
        100
    }
}

/// Lines of a file.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// Path of the file.
    pub path: String,
    /// The record's key: an expression over the line's JSON. Without it, no key.
    pub key: Option<Expr>,
    /// `json` (default), `string` or `bytes`.
    #[serde(default)]
    pub format: Format,
    /// The record's time in milliseconds; default: when the line was read.
    pub timestamp: Option<Expr>,
}

/// Lines of standard input.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Lines {
    /// The record's key: an expression over the line's JSON. Without it, no key.
    pub key: Option<Expr>,
    /// `json` (default), `string` or `bytes`.
    #[serde(default)]
    pub format: Format,
    /// The record's time in milliseconds; default: when the line was read.
    pub timestamp: Option<Expr>,
}

impl SourceConfig {
    /// The topics that a Kafka source reads; the node's name stands for others.
    #[must_use]
    pub fn topics(&self) -> Vec<&str> {
        match self {
            SourceConfig::Kafka(k) => k
                .topic
                .iter()
                .map(String::as_str)
                .chain(k.topics.iter().flatten().map(String::as_str))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// What values are.
    #[must_use]
    pub fn format(&self) -> Format {
        match self {
            SourceConfig::Kafka(k) => k.format,
            SourceConfig::File(f) => f.format,
            SourceConfig::Stdin(l) => l.format,
            SourceConfig::Generate(_) => Format::Json,
        }
    }

    /// What keys are.
    #[must_use]
    pub fn key_format(&self) -> Format {
        match self {
            SourceConfig::Kafka(k) => k.key_format,
            SourceConfig::File(_) | SourceConfig::Stdin(_) | SourceConfig::Generate(_) => text_keys(),
        }
    }

    /// The timestamp expression.
    #[must_use]
    pub fn timestamp(&self) -> Option<&Expr> {
        match self {
            SourceConfig::Kafka(k) => k.timestamp.as_ref(),
            SourceConfig::File(f) => f.timestamp.as_ref(),
            SourceConfig::Stdin(l) => l.timestamp.as_ref(),
            SourceConfig::Generate(_) => None,
        }
    }

    /// The key expression of line sources.
    #[must_use]
    pub fn key(&self) -> Option<&Expr> {
        match self {
            SourceConfig::File(f) => f.key.as_ref(),
            SourceConfig::Stdin(l) => l.key.as_ref(),
            SourceConfig::Kafka(_) | SourceConfig::Generate(_) => None,
        }
    }

    /// What is wrong with its settings: field, message, help.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let kind = match self {
            SourceConfig::Kafka(_) => "kafka",
            SourceConfig::File(_) => "file",
            SourceConfig::Stdin(_) => "stdin",
            SourceConfig::Generate(_) => "generate",
        };
        let mut problems = Vec::new();
        for name in self.topics() {
            if let Some((message, help)) = topic_problem(name) {
                let several = matches!(self, SourceConfig::Kafka(k) if k.topic.is_none());
                let field = if several { "topics" } else { "topic" };
                problems.push(Problem::setting(format!("kafka.{field}"), message, help));
            }
        }
        let mut topics = self.topics();
        topics.sort_unstable();
        if let Some(twice) = topics.windows(2).find(|two| two[0] == two[1]) {
            let message = format!("`{}` stands here twice", twice[0]);
            problems.push(Problem::setting("kafka.topics", message, "name each topic once"));
        }
        match self {
            SourceConfig::File(f) if f.path.is_empty() => {
                problems.push(Problem::setting(
                    "file.path",
                    "the file has no name",
                    "write `path: records.jsonl`",
                ));
            }
            SourceConfig::Generate(g) if g.keys == 0 => {
                problems.push(Problem::setting(
                    "generate.keys",
                    "records of no keys",
                    "write 1 or more; the default is 100",
                ));
            }
            _ => {}
        }
        if let Some(timestamp) = self.timestamp()
            && !timestamp.yields().may_be(Yields::NUMBER.or(Yields::TEXT))
        {
            let message =
                format!("a timestamp is a number or text, and this is always {}", timestamp.yields());
            let help = "write where it stands, for example `.created_at`: milliseconds, or RFC 3339 text";
            problems.push(Problem::setting(format!("{kind}.timestamp"), message, help));
        }
        if self.key().is_some_and(Expr::is_always_null) {
            let message = "an expression that yields nothing for a key";
            let help = "write what the key is made of, for example `.customer`, or leave it out";
            problems.push(Problem::setting(format!("{kind}.key"), message, help));
        }
        problems
    }

    /// The expressions inside, to be compiled.
    pub fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            SourceConfig::Kafka(k) => k.timestamp.iter_mut().collect(),
            SourceConfig::File(f) => f.key.iter_mut().chain(f.timestamp.iter_mut()).collect(),
            SourceConfig::Stdin(l) => l.key.iter_mut().chain(l.timestamp.iter_mut()).collect(),
            SourceConfig::Generate(_) => Vec::new(),
        }
    }

    /// The schema with which it sees values.
    #[must_use]
    pub fn reader_schema(&self) -> Option<&ReaderSchema> {
        match self {
            SourceConfig::Kafka(k) => k.reader_schema.as_ref(),
            SourceConfig::File(_) | SourceConfig::Stdin(_) | SourceConfig::Generate(_) => None,
        }
    }

    /// The files with schemas that it names.
    pub fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            SourceConfig::Kafka(k) => k.reader_schema.iter_mut().filter_map(|s| s.file.as_mut()).collect(),
            SourceConfig::File(_) | SourceConfig::Stdin(_) | SourceConfig::Generate(_) => Vec::new(),
        }
    }

    /// For graphs: `kafka user-changes`.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            SourceConfig::Kafka(_) => format!("kafka {}", self.topics().join(", ")),
            SourceConfig::Generate(g) => format!("generate {}", g.rate),
            SourceConfig::File(f) => format!("file {}", f.path),
            SourceConfig::Stdin(_) => "stdin".into(),
        }
    }
}
