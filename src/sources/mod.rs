//! Floor 2: sources. What each kind of source answers about itself, the list of kinds, one file per kind.
//!
//! A new kind is a file that implements [`SourceSettings`] and a line in the list of `registry.rs`. A kind that does
//! not read Kafka opens a [`Reader`]; partitions of topics come from the consumer group, which the runtime joins.

mod file;
mod generate;
mod kafka;
mod lines;
mod registry;
mod stdin;
#[cfg(test)]
mod toy;

use std::fmt;
use std::path::PathBuf;

pub use file::FileSource;
pub use generate::GenerateSource;
pub use kafka::KafkaSource;
pub use registry::{OwnSource, SourceConfig};
pub use stdin::StdinSource;

use crate::formats::{Format, ReaderSchema};
use crate::model::{Expr, Problem, Record, Timestamp, TimestampFormat};

/// The questions to a source's settings. Most kinds answer only the first; the defaults are right for the rest.
pub trait SourceSettings: fmt::Debug + Send + Sync {
    /// For graphs, what it reads: `user-changes` of `kafka user-changes`. Empty if the kind's name is enough.
    fn label(&self) -> String;

    /// What is wrong with its own settings. Field paths start at the kind's key: `path`, not `file.path`.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The expressions inside, to be compiled.
    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        Vec::new()
    }

    /// The format of values.
    fn format(&self) -> Format {
        Format::Json
    }

    /// The format of keys.
    fn key_format(&self) -> Format {
        Format::Bytes
    }

    /// Whether each record is a line of text. Then a format that is no text is refused.
    fn is_text(&self) -> bool {
        false
    }

    /// The expression that takes a record's key from its value, if records have no key of their own.
    fn key(&self) -> Option<&Expr> {
        None
    }

    /// The expression that takes a record's event time from its value, and the format of its result; without it, the
    /// record's own timestamp counts.
    fn timestamp(&self) -> Option<(&Expr, TimestampFormat)> {
        None
    }

    /// The schema with which values are read, whatever they were written with.
    fn reader_schema(&self) -> Option<&ReaderSchema> {
        None
    }

    /// The schema files that it names: paths relative to the topology file.
    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }

    /// Whether it reads Kafka topics: only these have partitions, a consumer group and committed offsets.
    fn reads_kafka(&self) -> bool {
        false
    }

    /// The Kafka topics that it reads; other sources go by the node's name.
    fn topics(&self) -> Vec<&str> {
        Vec::new()
    }

    /// What it reads, if only one source of a process can read that (`standard input`).
    fn reads_alone(&self) -> Option<&'static str> {
        None
    }

    /// Begins to read: a reader for the only task of its sub-topology. `None` for Kafka, whose partitions are assigned
    /// instead.
    ///
    /// # Errors
    /// It cannot be read.
    fn open(&self, now: Timestamp) -> Result<Option<Box<dyn Reader>>, OpenError>;
}

/// Why a source cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OpenError {
    /// The setting, counted from the kind's key (`path`); empty for the source as a whole.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
}

/// An open source that is not a Kafka topic. The worker that has its task polls it between other work.
pub trait Reader: Send {
    /// Appends up to `max` records that have arrived, and returns how many. Never blocks: a source that blocks reads on
    /// a thread of its own. `origin.offset` counts up from 0; the caller fills in the number of the task's input.
    ///
    /// # Errors
    /// It cannot be read now; the next poll may work.
    fn poll(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> Result<usize, String>;

    /// Whether everything that exists has been read. Then the wall clock moves the clocks of the nodes below.
    fn caught_up(&self) -> bool;

    /// Whether it has ended for good. A topology ends when all its sources have.
    fn ended(&self) -> bool;

    /// Why it ended before its end, if it did: the process then ends with an error, after what was read.
    fn failure(&self) -> Option<&str> {
        None
    }

    /// Whether the task's other inputs are processed while this source has no record. Default: once it is caught up. A
    /// live source, whose next record may come at any time, does not keep others waiting.
    fn lets_others_go_on(&self) -> bool {
        self.caught_up()
    }
}
