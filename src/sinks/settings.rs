//! What the settings of a sink answer, and what a connected sink gives its driver.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Answers, Batch, KafkaSinkConfig, Sink, SinkError, Table};
use crate::kafka::Writer;
use crate::model::{EvalError, Expr, Json, Payload, Problem, Record, Scope, SinkRow, Timestamp};

/// What connecting may read from its surroundings.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Reads an environment variable.
    pub env: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// The process's Kafka producer, where the topology has one.
    pub kafka: Option<&'a Arc<Writer>>,
}

/// What the settings of a sink answer. Everything but its words for people, and connecting, has an answer that is right
/// for most.
pub trait SinkSettings: fmt::Debug + Send + Sync {
    /// For graphs, what it writes to: the topic, the table, the path. Empty: its kind says it all.
    fn label(&self) -> String;

    /// Connects. Called before anything is read, and by `check --connect`.
    ///
    /// # Errors
    /// `Retry`: the server cannot be reached. `Config`: it does not fit the topology.
    fn connect<'a>(
        &'a self,
        around: Surroundings<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>>;

    /// What is wrong with its own settings. Fields count from the kind's key: `path`, not `file.path`.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The messages that it writes to a Kafka topic, where it does. They are written in the topic's formats, and with
    /// `guarantee: exactly_once` in the checkpoint's transaction.
    fn kafka(&self) -> Option<&KafkaSinkConfig> {
        None
    }

    /// The Kafka topic that it writes.
    fn topic(&self) -> Option<&str> {
        self.kafka().map(|kafka| kafka.topic.as_str())
    }

    /// The table that it writes, where it is one of rows and columns. A table in memory can stand for it then.
    fn table(&self) -> Option<Table<'_>> {
        None
    }

    /// All expressions inside, to be compiled.
    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        Vec::new()
    }

    /// The files with schemas that it names.
    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }

    /// What is written of a record. Called inside the task: pure.
    ///
    /// # Errors
    /// An expression fails.
    fn payload(&self, record: &Record) -> Result<Payload, EvalError> {
        match self.table() {
            Some(table) => table.columns.eval(&Scope::of(record)).map(Payload::Columns),
            None => Ok(Payload::Record),
        }
    }

    /// How rows are gathered.
    fn batch(&self) -> Batch {
        Batch::default()
    }

    /// Key and value of a row for people and for `simulate`. A table row is an object of its columns, with `commit`
    /// where the database would put the time of the write.
    fn show(&self, row: &SinkRow, commit: Timestamp) -> (Json, Json) {
        let value = match (self.table(), &row.payload) {
            (Some(table), Payload::Columns(cells)) => table.show(cells, commit),
            _ => row.record.value.show(),
        };
        (Scope::of(&row.record).key_json(), value)
    }
}

/// A connected sink: makes lanes.
pub trait Connected: Send + Sync {
    /// A lane, for one lane of the driver.
    fn lane(&self) -> Box<dyn Lane>;

    /// Batches that may be in flight.
    fn lanes(&self) -> usize {
        1
    }
}

/// One lane of any sink: a [`Sink`] whose kind the driver need not know. Its future is boxed, once per batch.
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
