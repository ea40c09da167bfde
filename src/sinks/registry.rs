//! The kinds of sinks: the one list from which everything follows that goes by a kind's name.

#[cfg(test)]
use super::toy::ToySink;
use super::{
    BlackholeConfig, Column, ElasticsearchConfig, FileConfig, HttpSinkConfig, KafkaSinkConfig,
    PostgresSinkConfig, RedisSinkConfig, RepartitionSink, SinkSettings, SmtpSinkConfig, SpannerConfig,
    StdoutConfig,
};
use crate::model::Problem;
use crate::model::kinds::{field_of, kinds, placed};

kinds! {
    /// A sink's settings; its kind is the key that holds them in YAML.
    SinkConfig: SinkSettings, OwnSink {
        /// Rows of a Cloud Spanner table.
        "spanner": Spanner(SpannerConfig),
        /// Rows of a PostgreSQL table.
        "postgres": Postgres(PostgresSinkConfig),
        /// Keys of Redis.
        "redis": Redis(RedisSinkConfig),
        /// Documents of Elasticsearch or OpenSearch.
        "elasticsearch": Elasticsearch(ElasticsearchConfig),
        /// Requests to an HTTP API.
        "http": Http(HttpSinkConfig),
        /// Messages of a Kafka topic.
        "kafka": Kafka(KafkaSinkConfig),
        /// Mails.
        "smtp": Smtp(SmtpSinkConfig),
        /// Lines on standard output.
        "stdout": Stdout(StdoutConfig),
        /// Lines in a file.
        "file": File(FileConfig),
        /// Nothing.
        "blackhole": Blackhole(BlackholeConfig),
        /// For the test of this list.
        #[cfg(test)]
        "toy": Toy(ToySink),
    }
    never in a file {
        /// Messages of a repartition topic. Put in by the topology.
        "repartition": Repartition(RepartitionSink),
    }
}

impl SinkConfig {
    /// What a graph shows: the kind, and what it writes to.
    #[must_use]
    pub fn label(&self) -> String {
        let what = (**self).label();
        let gap = if what.is_empty() { "" } else { " " };
        format!("{}{gap}{what}", self.kind_name())
    }

    /// What is wrong with the settings, with field paths that start at the node: `file.path`. What only a server can
    /// know is found when the sink connects.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = (**self).check();
        let reads = |(_, column): &(String, Column)| {
            let text = match column {
                Column::Expr(e) => e.text(),
                Column::CommitTimestamp => "",
            };
            text.contains(['.', '%']) || text.contains("key") || text.contains("timestamp")
        };
        if let Some(table) = self.table().filter(|table| !table.columns.0.is_empty())
            && !table.columns.0.iter().any(reads)
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
        placed(self.kind_name(), problems)
    }

    /// The field of the node that an error of the server is about: a column of the table, or the sink as a whole.
    #[must_use]
    pub fn field_of(&self, column: Option<&str>) -> String {
        let column = column.map(|column| format!("columns.{column}"));
        field_of(self.kind_name(), &column.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Expr, Json, Record, SinkRow, Timestamp, Value};
    use crate::sinks::columns::Columns;
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
