//! The kinds of sinks: one variant each. A new sink is a file and a line in every `match` here; the compiler lists them.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::blackhole::{Blackhole, BlackholeConfig};
use super::columns::{Column, Columns};
use super::file::{FileConfig, LineSink, StdoutConfig};
use super::kafka::KafkaSinkConfig;
use super::kafka_lane::KafkaLane;
use super::memory::TableSink;
use super::spanner::{Spanner, SpannerConfig, SpannerLane};
use super::{Answers, Batch, Sink, SinkError};
use crate::kafka::{Writer, topic_problem};
use crate::model::{Cell, Payload, Problem, SinkRow};
use crate::model::{EvalError, Expr, Json, Millis, Record, Scope, Timestamp, Value};

/// A sink's settings; its kind is the key that holds them in YAML.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkConfig {
    /// Rows of a Cloud Spanner table.
    Spanner(SpannerConfig),
    /// Messages of a Kafka topic.
    Kafka(KafkaSinkConfig),
    /// Lines on standard output.
    Stdout(StdoutConfig),
    /// Lines in a file.
    File(FileConfig),
    /// Nothing.
    Blackhole(BlackholeConfig),
}

impl SinkConfig {
    /// The kind, as in YAML.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self {
            SinkConfig::Spanner(_) => "spanner",
            SinkConfig::Kafka(_) => "kafka",
            SinkConfig::Stdout(_) => "stdout",
            SinkConfig::File(_) => "file",
            SinkConfig::Blackhole(_) => "blackhole",
        }
    }

    /// All kinds, as written in YAML.
    pub const KINDS: &'static [&'static str] = &["spanner", "kafka", "stdout", "file", "blackhole"];

    /// The Kafka topic that it writes.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        match self {
            SinkConfig::Kafka(c) => Some(&c.topic),
            _ => None,
        }
    }

    /// The columns of a table sink.
    #[must_use]
    pub fn columns(&self) -> Option<&Columns> {
        match self {
            SinkConfig::Spanner(c) => Some(&c.columns),
            _ => None,
        }
    }

    /// What a graph shows.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            SinkConfig::Spanner(c) => format!("spanner {}", c.table),
            SinkConfig::Kafka(c) => format!("kafka {}", c.topic),
            SinkConfig::File(c) => format!("file {}", c.path.display()),
            SinkConfig::Stdout(_) | SinkConfig::Blackhole(_) => self.kind_name().to_owned(),
        }
    }

    /// All expressions inside, to be compiled.
    pub fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            SinkConfig::Spanner(c) => c.columns.exprs_mut().collect(),
            SinkConfig::Kafka(c) => {
                c.key.iter_mut().chain(c.value.iter_mut()).chain(c.headers.values_mut()).collect()
            }
            SinkConfig::Stdout(_) | SinkConfig::File(_) | SinkConfig::Blackhole(_) => Vec::new(),
        }
    }

    /// The files with schemas that it names.
    pub fn files_mut(&mut self) -> Vec<&mut std::path::PathBuf> {
        match self {
            SinkConfig::Kafka(c) => {
                let schemas = c.writer_schema.iter_mut().chain(c.key_writer_schema.iter_mut());
                schemas.filter_map(|schema| schema.file.as_mut()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What is wrong with the settings themselves: field, message, help. What only a server knows is found when the
    /// sink connects.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = match self {
            SinkConfig::Spanner(c) => c.check(),
            SinkConfig::Kafka(c) => topic_problem(&c.topic)
                .map(|(message, help)| Problem::setting("topic", message, help))
                .into_iter()
                .collect(),
            SinkConfig::File(c) if c.path.as_os_str().is_empty() => {
                vec![Problem::setting("path", "the file has no name", "write `path: records.jsonl`")]
            }
            _ => Vec::new(),
        };
        if let SinkConfig::Kafka(c) = self
            && c.headers.contains_key("")
        {
            let help = "write `headers: { name: EXPRESSION }`";
            problems.push(Problem::setting("headers", "a header has no name", help));
        }
        let reads = |(_, column): &(String, Column)| {
            let text = match column {
                Column::Expr(e) => e.text(),
                Column::CommitTimestamp => "",
            };
            text.contains(['.', '%']) || text.contains("key") || text.contains("timestamp")
        };
        if let Some(columns) = self.columns().filter(|c| !c.0.is_empty())
            && !columns.0.iter().any(reads)
        {
            let message =
                "the sink has no key: no column comes from the record, so every record is the same row";
            let help = "give the primary key's column the record's key: `Id: key`";
            problems.push(Problem::setting("columns", message, help));
        }
        if self.batch().max_rows == 0 {
            let help = "write a number from 1 on; the default is 500";
            problems.push(Problem::setting("batch.max_rows", "a batch of no rows writes nothing", help));
        }
        for Problem { field, .. } in &mut problems {
            *field = format!("{}.{field}", self.kind_name());
        }
        problems
    }

    /// What is written of a record. Called inside the task: pure.
    ///
    /// # Errors
    /// An expression fails.
    pub fn payload(&self, record: &Record) -> Result<Payload, EvalError> {
        match self {
            SinkConfig::Spanner(c) => c.columns.eval(&Scope::of(record)).map(Payload::Columns),
            SinkConfig::Kafka(c) => c.payload(record),
            SinkConfig::Stdout(_) | SinkConfig::File(_) | SinkConfig::Blackhole(_) => Ok(Payload::Record),
        }
    }

    /// How rows are gathered.
    #[must_use]
    pub fn batch(&self) -> Batch {
        match self {
            SinkConfig::Spanner(c) => c.batch.clone(),
            SinkConfig::Kafka(c) => c.batch.clone(),
            SinkConfig::File(c) => c.batch.clone(),
            // Nothing is won by waiting.
            SinkConfig::Stdout(_) | SinkConfig::Blackhole(_) => {
                Batch { linger: Millis::ZERO, ..Batch::default() }
            }
        }
    }

    /// Key and value of a row for people and for `simulate`. A table row is an object of its columns, with `commit`
    /// where the database would put the time of the write.
    #[must_use]
    pub fn show(&self, row: &SinkRow, commit: Timestamp) -> (Json, Json) {
        let key = Scope::of(&row.record).key_json();
        match (self, &row.payload) {
            (SinkConfig::Spanner(c), Payload::Columns(cells)) => {
                let cells = cells.iter().map(|cell| match cell {
                    Cell::Json(json) => json.clone(),
                    Cell::CommitTimestamp => Json::String(commit.rfc3339()),
                });
                let names = c.columns.0.iter().map(|(name, _)| name.clone());
                (key, Json::Object(names.zip(cells).collect()))
            }
            (SinkConfig::Kafka(c), payload) => {
                let (key, value, _) = c.message(&row.record, payload);
                let key = key.map_or(Json::Null, |k| Json::from(String::from_utf8_lossy(&k)));
                (key, value.map_or(Json::Null, |v| Value::Bytes(v).show()))
            }
            _ => (key, row.record.value.show()),
        }
    }
}

/// The columns that probably are a table's primary key, where no database can be asked: those that are the record's
/// key, else the first.
#[must_use]
pub(super) fn likely_key(columns: &Columns) -> Vec<String> {
    let is_key = |column: &Column| matches!(column, Column::Expr(expr) if expr.is_key());
    let keys: Vec<String> =
        columns.0.iter().filter(|(_, column)| is_key(column)).map(|(name, _)| name.clone()).collect();
    if keys.is_empty() { columns.0.iter().take(1).map(|(name, _)| name.clone()).collect() } else { keys }
}

/// A connected sink: makes lanes. Cheap to clone.
#[derive(Clone)]
pub enum SinkConnection {
    /// A Spanner table.
    Spanner(Spanner),
    /// A table in memory that stands for one.
    Table(TableSink),
    /// Standard output or a file.
    Lines(LineSink),
    /// Nothing.
    Blackhole(Blackhole),
    /// A Kafka topic.
    Kafka(KafkaLane),
}

impl SinkConnection {
    /// Connects a sink. `env` reads an environment variable; `kafka` is the process's producer, where there is one.
    ///
    /// # Errors
    /// `Retry`: the server cannot be reached. `Config`: it does not fit the topology.
    pub async fn connect(
        config: &SinkConfig,
        env: &(dyn Fn(&str) -> Option<String> + Sync),
        kafka: Option<&Arc<Writer>>,
    ) -> Result<SinkConnection, SinkError> {
        match config {
            SinkConfig::Spanner(c) => Box::pin(Spanner::connect(c, env)).await.map(SinkConnection::Spanner),
            SinkConfig::Kafka(c) => match kafka {
                Some(writer) => Ok(SinkConnection::Kafka(KafkaLane::new(Arc::clone(writer), c))),
                None => Err(SinkError::Config {
                    message: "a kafka sink needs the topology's `kafka: { brokers: ... }`".into(),
                    column: None,
                }),
            },
            SinkConfig::Stdout(_) => Ok(SinkConnection::Lines(LineSink::stdout())),
            SinkConfig::File(c) => LineSink::file(&c.path).await.map(SinkConnection::Lines),
            SinkConfig::Blackhole(_) => Ok(SinkConnection::Blackhole(Blackhole::default())),
        }
    }

    /// A lane, for one lane of the driver.
    #[must_use]
    pub fn lane(&self) -> SinkLane {
        match self {
            SinkConnection::Spanner(s) => SinkLane::Spanner(s.lane()),
            SinkConnection::Table(s) => SinkLane::Table(s.clone()),
            SinkConnection::Lines(s) => SinkLane::Lines(s.clone()),
            SinkConnection::Blackhole(s) => SinkLane::Blackhole(s.clone()),
            SinkConnection::Kafka(s) => SinkLane::Kafka(s.clone()),
        }
    }

    /// Batches that may be in flight.
    #[must_use]
    pub fn lanes(&self) -> usize {
        match self {
            SinkConnection::Spanner(s) => s.lanes(),
            SinkConnection::Kafka(_) => 4,
            SinkConnection::Table(_) | SinkConnection::Lines(_) | SinkConnection::Blackhole(_) => 1,
        }
    }
}

/// One lane of any sink.
pub enum SinkLane {
    /// A Spanner table.
    Spanner(SpannerLane),
    /// A table in memory.
    Table(TableSink),
    /// Standard output or a file.
    Lines(LineSink),
    /// Nothing.
    Blackhole(Blackhole),
    /// A Kafka topic.
    Kafka(KafkaLane),
}

impl Sink for SinkLane {
    async fn deliver(&mut self, batch: &[SinkRow], out: &mut Answers) -> Result<(), SinkError> {
        match self {
            SinkLane::Spanner(s) => s.deliver(batch, out).await,
            SinkLane::Table(s) => s.deliver(batch, out).await,
            SinkLane::Lines(s) => s.deliver(batch, out).await,
            SinkLane::Blackhole(s) => s.deliver(batch, out).await,
            SinkLane::Kafka(s) => s.deliver(batch, out).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spanner() -> SinkConfig {
        let columns = [("Id", "key"), ("State", ".account"), ("At", "commit_timestamp()")];
        let columns = Columns::new(columns.map(|(name, text)| (name, Expr::new(text, None))));
        SinkConfig::Spanner(SpannerConfig::new("projects/p/instances/i/databases/d", "Accounts", columns))
    }

    #[test]
    fn a_table_row_shows_as_its_columns() {
        let sink = spanner();
        let record = Record::new("a", Value::from(json!({"account": {"n": 1}})), Timestamp(7));
        let payload = sink.payload(&record).unwrap();
        let row = SinkRow { reply_to: None, record, payload };
        let expected = json!({"Id": "a", "State": {"n": 1}, "At": "1970-01-01T00:00:01.5Z"});
        assert_eq!(sink.show(&row, Timestamp(1500)), (json!("a"), expected));
        assert_eq!(sink.label(), "spanner Accounts");
    }

    #[test]
    fn settings_that_cannot_work_are_named_all_at_once() {
        let mut sink = spanner();
        assert_eq!(sink.check(), []);
        let SinkConfig::Spanner(config) = &mut sink else { panic!("is spanner") };
        (config.max_in_flight, config.max_cells, config.batch.max_rows) = (0, 0, 0);
        config.columns.0.clear();
        let fields: Vec<_> = sink.check().into_iter().map(|p| p.field).collect();
        assert_eq!(
            fields,
            ["columns", "max_in_flight", "max_cells", "batch.max_rows"].map(|f| format!("spanner.{f}"))
        );
    }

    #[test]
    fn settings_are_read_by_kind() {
        let read = |json: Json| serde_json::from_value::<SinkConfig>(json);
        // As `yaml/` hands them over: start, end, text.
        let key = json!([0, 3, "key"]);
        let columns = json!({"Id": key});
        let database = "projects/p/instances/i/databases/d";
        let full = json!({"spanner": {"database": database, "table": "T", "columns": columns, "operation": "replace",
                          "credentials": {"file": "/k.json"}, "batch": {"max_rows": 7}}});
        let SinkConfig::Spanner(config) = read(full).unwrap() else { panic!("is spanner") };
        assert_eq!((config.batch.max_rows, config.max_in_flight, config.max_cells), (7, 4, 20_000));
        assert!(
            read(json!({"spanner": {"database": "d", "table": "T", "columns": columns, "tabel": 1}}))
                .is_err()
        );
        let mut kafka = read(json!({"kafka": {"topic": "t", "headers": {"h": key}, "value": key}})).unwrap();
        assert_eq!((kafka.exprs_mut().len(), kafka.label().as_str()), (2, "kafka t"));
        for (json, label) in [
            (json!({"stdout": {}}), "stdout"),
            (json!({"file": {"path": "/tmp/x"}}), "file /tmp/x"),
            (json!({"blackhole": {}}), "blackhole"),
        ] {
            let sink = read(json).unwrap();
            assert_eq!(sink.label(), label);
            assert!(SinkConfig::KINDS.contains(&sink.kind_name()) && sink.check().is_empty());
        }
    }
}
