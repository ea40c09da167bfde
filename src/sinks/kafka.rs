//! The `kafka` sink's settings, and the messages that they make of records. The producer is in `kafka/`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Batch, Connected, SinkConfig, SinkError, SinkSettings, Surroundings, kafka_lane};
use crate::formats::{Encoder, Format, WriterSchema, json_key};
use crate::kafka::topic_problem;
use crate::model::{
    EvalError, Expr, Headers, Json, Message, Payload, Problem, Record, Scope, SinkRow, Timestamp, Value,
    key_text,
};

/// Writes records to a Kafka topic. A record that is a window's result has the window in the header `window`, as text:
/// `START,END` in milliseconds, as `window.start` and `window.end` are in expressions.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSinkConfig {
    /// The topic.
    pub topic: String,
    /// The message's key. Default: the record's key. `null` is no key; what is no text is written as JSON.
    #[serde(default)]
    pub key: Option<Expr>,
    /// The message's value. Default: the record's value. `null` is a tombstone.
    #[serde(default)]
    pub value: Option<Expr>,
    /// What values are written as: `json` (default), `bytes` (also `raw`), `string`, `integer`, `long`, `double`, `avro`
    /// or `protobuf`.
    #[serde(default)]
    pub format: Format,
    /// What keys are written as, with the same names. Default: text, as it is.
    #[serde(default = "text_keys")]
    pub key_format: Format,
    /// The schema of values, with `format: avro` or `protobuf`. Default: the latest of the topic's subject.
    #[serde(default)]
    pub writer_schema: Option<Box<WriterSchema>>,
    /// The schema of keys, with `key_format: avro` or `protobuf`. Default: the latest of the topic's subject.
    #[serde(default)]
    pub key_writer_schema: Option<Box<WriterSchema>>,
    /// Headers set on the message, beside those of the record and `window`: name: expression. They win. Default none.
    #[serde(default)]
    pub headers: BTreeMap<String, Expr>,
    /// How records are handed to the producer; the producer gathers messages by itself as well.
    #[serde(default)]
    pub batch: Batch,
}

impl SinkConfig {
    /// The sink that writes records to a topic as they are.
    #[must_use]
    pub fn as_they_are(topic: impl Into<String>) -> SinkConfig {
        SinkConfig::Kafka(KafkaSinkConfig::new(topic))
    }
}

/// The header with a record's window, for other programs. (On repartition topics it is in bytes: see `repartition.rs`.)
pub const WINDOW_TEXT: &str = "window";

/// A record's headers on a topic that other programs read.
fn outer_headers(record: &Record) -> Headers {
    match record.window {
        Some(window) => record.headers.with(WINDOW_TEXT, format!("{},{}", window.start.0, window.end.0)),
        None => record.headers.clone(),
    }
}

/// Keys as they are.
fn text_keys() -> Format {
    Format::Bytes
}

impl KafkaSinkConfig {
    /// A sink that writes records as they are.
    #[must_use]
    pub fn new(topic: impl Into<String>) -> KafkaSinkConfig {
        KafkaSinkConfig {
            topic: topic.into(),
            key: None,
            value: None,
            format: Format::Json,
            key_format: text_keys(),
            writer_schema: None,
            key_writer_schema: None,
            headers: BTreeMap::new(),
            batch: Batch::default(),
        }
    }

    /// Whether records are written as they are.
    #[must_use]
    fn is_plain(&self) -> bool {
        self.key.is_none() && self.value.is_none() && self.headers.is_empty()
    }

    /// The payload in the sink's formats. Where nothing is connected it is only checked, and stays as it is.
    ///
    /// # Errors
    /// The key or the value does not fit its format or schema.
    pub fn encoded(
        &self,
        record: &Record,
        payload: Payload,
        encoder: &Encoder,
    ) -> Result<Payload, EvalError> {
        let (key, value) = match &payload {
            Payload::Message(Message { key, value, .. }) => {
                (key.clone(), value.clone().map_or(Value::Null, Value::Bytes))
            }
            Payload::Record | Payload::Columns(_) | Payload::Delete(_) => {
                (record.key.clone(), record.value.clone())
            }
        };
        let (key, value) = (encoder.key(key.as_ref())?, encoder.value(&value)?);
        if !encoder.is_live() {
            return Ok(payload);
        }
        let headers = match payload {
            Payload::Message(message) => message.headers,
            Payload::Record | Payload::Columns(_) | Payload::Delete(_) => outer_headers(record),
        };
        Ok(Payload::Message(Message { key, value, headers }))
    }
}

/// The message of a row: the one place where it is made, for the producer, for a transaction and for tests.
#[must_use]
pub fn message_of(row: &SinkRow) -> Message {
    match &row.payload {
        Payload::Message(message) => message.clone(),
        Payload::Record | Payload::Columns(_) | Payload::Delete(_) => {
            let Record { key, value, .. } = &row.record;
            Message { key: key.clone(), value: value.bytes(), headers: outer_headers(&row.record) }
        }
    }
}

impl SinkSettings for KafkaSinkConfig {
    fn label(&self) -> String {
        self.topic.clone()
    }

    fn connect<'a>(
        &'a self,
        around: Surroundings<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        Box::pin(async move { kafka_lane::connect(around, &self.topic) })
    }

    fn check(&self) -> Vec<Problem> {
        let topic = topic_problem(&self.topic);
        let topic = topic.map(|(message, help)| Problem::setting("topic", message, help));
        let mut problems: Vec<Problem> = topic.into_iter().collect();
        if self.headers.contains_key("") {
            let help = "write `headers: { name: EXPRESSION }`";
            problems.push(Problem::setting("headers", "a header has no name", help));
        }
        problems
    }

    fn kafka(&self) -> Option<&KafkaSinkConfig> {
        Some(self)
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        self.key.iter_mut().chain(self.value.iter_mut()).chain(self.headers.values_mut()).collect()
    }

    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        let schemas = self.writer_schema.iter_mut().chain(self.key_writer_schema.iter_mut());
        schemas.filter_map(|schema| schema.file.as_mut()).collect()
    }

    /// A record that is written as it is becomes its message when it is written. A header whose expression gave `null` is
    /// left out.
    fn payload(&self, record: &Record) -> Result<Payload, EvalError> {
        if self.is_plain() {
            return Ok(Payload::Record);
        }
        let scope = Scope::of(record);
        let key = match &self.key {
            // What is no text, or would be read as something else, is told apart there as in a source.
            Some(expr) if self.key_format == Format::Json => json_key(&expr.eval(&scope)?),
            Some(expr) => key_text(&expr.eval(&scope)?),
            None => record.key.clone(),
        };
        let value = match &self.value {
            Some(expr) => match expr.eval(&scope)? {
                Json::Null => None,
                json => Some(Bytes::from(json.to_string())),
            },
            None => record.value.bytes(),
        };
        let mut headers = outer_headers(record);
        for (name, expr) in &self.headers {
            if let Some(text) = key_text(&expr.eval(&scope)?) {
                headers = headers.with(name, text);
            }
        }
        Ok(Payload::Message(Message { key, value, headers }))
    }

    fn batch(&self) -> Batch {
        self.batch.clone()
    }

    fn show(&self, row: &SinkRow, _: Timestamp) -> (Json, Json) {
        let Message { key, value, .. } = message_of(row);
        let key = key.map_or(Json::Null, |k| Json::from(String::from_utf8_lossy(&k)));
        (key, value.map_or(Json::Null, |v| Value::Bytes(v).show()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Timestamp, Window};
    use serde_json::json;

    fn written(config: &KafkaSinkConfig, record: &Record) -> Message {
        let payload = config.payload(record).expect("a payload");
        message_of(&SinkRow { reply_to: None, record: record.clone(), payload })
    }

    #[test]
    fn others_find_the_window_as_text() {
        let window = Window { start: Timestamp(60_000), end: Timestamp(120_000) };
        let plain = Record {
            headers: Headers::default().with("h", "v"),
            ..Record::new("a", Value::from(json!(2)), Timestamp(5))
        };
        let windowed = Record { window: Some(window), ..plain.clone() };
        let check = |config: &KafkaSinkConfig, record: &Record, want: Option<&str>| {
            let headers = written(config, record).headers;
            assert_eq!(headers.get(WINDOW_TEXT), want.map(|want| Bytes::from(want.to_owned())).as_ref());
            assert_eq!(headers.get("h"), Some(&Bytes::from("v")));
        };
        let mut config = KafkaSinkConfig::new("t");
        check(&config, &windowed, Some("60000,120000"));
        check(&config, &plain, None);
        config.key = Some(Expr::new("key", None));
        check(&config, &windowed, Some("60000,120000"));
        check(&config, &plain, None);
        config.headers.insert(WINDOW_TEXT.into(), Expr::new("timestamp", None));
        check(&config, &windowed, Some("5"));
    }

    #[test]
    fn expressions_change_the_message_and_not_the_record() {
        let record = Record::new("a", Value::from(json!({"id": 7, "x": null})), Timestamp(0));
        let mut config = KafkaSinkConfig::new("out");
        assert_eq!(config.payload(&record), Ok(Payload::Record));
        config.key = Some(Expr::new(".id", None));
        config.value = Some(Expr::new(".x", None));
        config.headers.insert("from".into(), Expr::new("key", None));
        config.headers.insert("none".into(), Expr::new(".x", None));
        let Message { key, value, headers } = written(&config, &record);
        assert_eq!((key, value), (Some(Bytes::from("7")), None));
        assert_eq!(headers, Headers::default().with("from", "a"));
    }
}
