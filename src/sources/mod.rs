//! Floor 2: sources. What a kind of source says of itself, the list of kinds, one file per kind.
//!
//! A new kind is a file that implements [`SourceSettings`] and a line in the list of `registry.rs`. One that is no Kafka
//! topic opens a [`Reader`] of its own; partitions of topics come from the consumer group, which the runtime joins.

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
use crate::model::{Expr, Problem, Record, Timestamp};

/// What the settings of a source answer. Everything but its words for people has an answer that is right for most.
pub trait SourceSettings: fmt::Debug + Send + Sync {
    /// For graphs, what it is and what it reads: `user-changes` of `kafka user-changes`. Empty: its kind says it all.
    fn label(&self) -> String;

    /// What is wrong with its own settings. Fields count from the kind's key: `path`, not `file.path`.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The expressions inside, to be compiled.
    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        Vec::new()
    }

    /// What values are.
    fn format(&self) -> Format {
        Format::Json
    }

    /// What keys are.
    fn key_format(&self) -> Format {
        Format::Bytes
    }

    /// Is each record a line of text? Then a format that is no text is refused.
    fn is_text(&self) -> bool {
        false
    }

    /// The expression that takes a record's key from its value, where it does not come with one.
    fn key(&self) -> Option<&Expr> {
        None
    }

    /// The expression that takes a record's event time from its value; without it, the time it came with.
    fn timestamp(&self) -> Option<&Expr> {
        None
    }

    /// The schema with which it sees values, whatever they were written with.
    fn reader_schema(&self) -> Option<&ReaderSchema> {
        None
    }

    /// The files with schemas that it names: paths that are relative to the topology file.
    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }

    /// Does it read Kafka topics? Only those have partitions, a consumer group and offsets that are committed.
    fn reads_kafka(&self) -> bool {
        false
    }

    /// The Kafka topics that it reads; for all other sources the node's name stands in their place.
    fn topics(&self) -> Vec<&str> {
        Vec::new()
    }

    /// What it reads, where only one source of a process can (`standard input`).
    fn reads_alone(&self) -> Option<&'static str> {
        None
    }

    /// Begins to read: one reader, for the only task of its sub-topology. `None` for Kafka, whose partitions are
    /// assigned instead.
    ///
    /// # Errors
    /// It cannot be read.
    fn open(&self, now: Timestamp) -> Result<Option<Box<dyn Reader>>, OpenError>;
}

/// Why a source cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OpenError {
    /// The setting that it is about, counted from the kind's key (`path`); empty for the source as a whole.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
}

/// What an open source gives. Polled by the worker that has its task, between other work.
pub trait Reader: Send {
    /// Appends up to `max` records that are here already, and says how many. Never blocks: what blocks has a thread of its
    /// own. Their `origin.offset` counts up from 0; which input of the task they came by is filled in by the caller.
    ///
    /// # Errors
    /// It cannot be read now; the next poll may work.
    fn poll(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> Result<usize, String>;

    /// Has everything been read that is there? Then the wall clock moves the clocks of the nodes below.
    fn caught_up(&self) -> bool;

    /// Has it ended for good? A topology ends when all its sources have.
    fn ended(&self) -> bool;

    /// While nothing of it is here, are records of the task's other inputs processed? By default once it is caught up;
    /// a live source, of which nobody knows when more comes, does not keep others waiting.
    fn lets_others_go_on(&self) -> bool {
        self.caught_up()
    }
}
