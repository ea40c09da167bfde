//! The questions to a sink's settings, and what a connected sink gives its driver.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Answers, Batch, KafkaSinkConfig, Sink, SinkError, Table, TableSink};
use crate::clients::{Clients, Pace, Uses};
use crate::kafka::Writer;
use crate::model::{
    Clock, EvalError, Expr, FieldPath, Json, Payload, Problem, Record, Scope, SinkRow, Timestamp,
};

/// What a sink may use to connect.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The topology's name: with the node's, what a sink tells a server of where something comes from.
    pub topology: &'a str,
    /// The node's name.
    pub node: &'a str,
    /// Reads an environment variable.
    pub env: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// The process's Kafka producer, if the topology has one.
    pub kafka: Option<&'a Arc<Writer>>,
    /// The process's clients of the servers that the topology names.
    pub clients: &'a Clients,
    /// The rate limit of that name, where something runs that keeps it.
    pub limit: &'a (dyn Fn(&str) -> Option<Arc<dyn Pace>> + Sync),
}

/// The questions to a sink's settings. Most kinds answer only label and connection; the defaults are right for the
/// rest.
pub trait SinkSettings: fmt::Debug + Send + Sync {
    /// For graphs, what it writes to: the topic, the table, the path. Empty if the kind's name is enough.
    fn label(&self) -> String;

    /// Connects. Called before any record is read, and by `check --connect`.
    ///
    /// # Errors
    /// `Retry`: the server cannot be reached. `Config`: it does not fit the topology.
    fn connect<'a>(
        &'a self,
        around: Surroundings<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>>;

    /// What is wrong with its own settings. Field paths start at the kind's key: `path`, not `file.path`.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The messages that it writes to a Kafka topic which other programs read, where it does. They are written in the
    /// topic's formats, and with `guarantee: exactly_once` in the checkpoint's transaction.
    fn kafka(&self) -> Option<&KafkaSinkConfig> {
        None
    }

    /// The Kafka topic that it writes, if it writes one.
    fn topic(&self) -> Option<&str> {
        self.kafka().map(|kafka| kafka.topic.as_str())
    }

    /// The connection of the topology that it uses. Whether there is one is checked with the graph.
    fn connection(&self) -> Option<Uses<'_>> {
        None
    }

    /// The rate limit of the topology in which every request counts. Whether there is one is checked with the graph.
    fn rate_limit(&self) -> Option<&str> {
        None
    }

    /// The table that it writes, if it writes rows and columns. A table in memory can then stand for it.
    fn table(&self) -> Option<Table<'_>> {
        None
    }

    /// What stands for its server in `dev`: a table in memory. None where there is nothing to stand for.
    fn stand_in(&self, clock: Arc<dyn Clock>) -> Option<TableSink> {
        self.table().map(|table| TableSink::standing_for(table, clock))
    }

    /// Whether what it writes shows in tests as it is, as the row of a table does: not as a record, with key and time.
    fn shows_rows(&self) -> bool {
        self.table().is_some()
    }

    /// Where in the record it puts the row as it is afterwards, for nodes that read from it.
    fn returning(&self) -> Option<&FieldPath> {
        None
    }

    /// The expressions in the settings, to be compiled.
    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        Vec::new()
    }

    /// The schema files that it names.
    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }

    /// What is written for a record. Called inside the task, so it is pure.
    ///
    /// # Errors
    /// An expression fails.
    fn payload(&self, record: &Record) -> Result<Payload, EvalError> {
        match self.table() {
            Some(table) => table.payload(record),
            None => Ok(Payload::Record),
        }
    }

    /// How rows are gathered.
    fn batch(&self) -> Batch {
        Batch::default()
    }

    /// Key and value of a row, as `simulate` shows them. A row of a table is an object of its columns, with `commit`
    /// where the database would put the time of the write.
    fn show(&self, row: &SinkRow, commit: Timestamp) -> (Json, Json) {
        let value = match (self.table(), &row.payload) {
            (Some(table), Payload::Columns(cells)) => table.show(cells, commit),
            (Some(table), Payload::Delete(cells)) => table.show_delete(cells),
            _ => row.record.value.show(),
        };
        (Scope::of(&row.record).key_json(), value)
    }
}

/// A connected sink: makes lanes.
pub trait Connected: Send + Sync {
    /// A lane, for one lane of the driver.
    fn lane(&self) -> Box<dyn Lane>;

    /// Most batches in flight.
    fn lanes(&self) -> usize {
        1
    }

    /// Asks its server something that costs nothing. For `check --connect`: a sink whose server may be away when the topology
    /// starts does not ask it while it connects.
    fn reach(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

/// One lane of any sink: a [`Sink`] of a kind that the driver need not know. Its future is boxed, once per batch.
pub trait Lane: Send {
    /// See [`Sink::deliver`].
    ///
    /// # Errors
    /// See [`SinkError`].
    fn deliver_batch<'a>(
        &'a mut self,
        batch: &'a [SinkRow],
        out: &'a mut Answers,
    ) -> BoxFuture<'a, Result<(), SinkError>>;
}

impl<S: Sink> Lane for S {
    fn deliver_batch<'a>(
        &'a mut self,
        batch: &'a [SinkRow],
        out: &'a mut Answers,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.deliver(batch, out))
    }
}
