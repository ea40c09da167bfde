//! Floor 2: sinks. The only async contract, the list of kinds, one file per kind.
//!
//! A new kind is a file that implements [`SinkSettings`] and a line in the list of `registry.rs`.
//!
//! Inside the task, a sink node turns a record into a [`SinkRow`] (pure, `runtime/task/sink.rs`). The driver batches
//! rows per lane (same key, same lane), keeps one batch of a lane in flight, and calls [`Sink::deliver`]. If a batch is
//! refused as a whole, the driver splits it until the bad row is found. If it should be retried, the driver waits and
//! calls again with the rows that have no answer yet. Some of these may have been written: writes are idempotent by
//! key.

mod answers;
mod blackhole;
pub mod columns;
pub mod elasticsearch;
mod file;
pub mod http;
mod kafka;
mod kafka_lane;
mod memory;
pub mod postgres;
pub mod redis;
mod registry;
mod repartition;
mod settings;
mod smtp;
pub mod spanner;
mod table;
#[cfg(test)]
mod toy;

use std::future::Future;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::redis::RedisSinkConfig;
pub use answers::{Answer, Answers};
pub use blackhole::BlackholeConfig;
pub use columns::Column;
pub use elasticsearch::ElasticsearchConfig;
pub use file::{FileConfig, StdoutConfig, make_files_with};
pub use futures_util::future::BoxFuture;
pub use http::HttpSinkConfig;
pub use kafka::{KafkaSinkConfig, message_of};
pub use kafka_lane::KafkaLane;
pub use memory::TableSink;
pub use postgres::PostgresSinkConfig;
pub use registry::{OwnSink, SinkConfig};
pub use repartition::RepartitionSink;
pub use settings::{Connected, Lane, SinkSettings, Surroundings};
pub use smtp::SmtpSinkConfig;
pub use spanner::SpannerConfig;
pub use table::{Deletes, Operation, Table};

use crate::model::{Millis, SinkRow, Size};

/// Why a batch was not written.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SinkError {
    /// Nothing is known to be wrong with the rows: try the same batch again.
    #[error("{message}")]
    Retry {
        /// What happened.
        message: String,
        /// The server's wish not to be asked before this, if it expressed one.
        after: Option<Duration>,
    },
    /// At least one row of the batch is bad; a batch of one is that row.
    #[error("{message}")]
    Refused {
        /// The server's reason.
        message: String,
    },
    /// Writing cannot succeed until settings or permissions are changed: the topology stops.
    #[error("{message}")]
    Config {
        /// The server's reason.
        message: String,
        /// The column of the topology that it is about.
        column: Option<String>,
    },
}

/// Writes rows. Owned by one lane of one node's driver, and called for one batch at a time.
pub trait Sink: Send {
    /// Writes all rows durably, in order, or reports why not. `out` takes answers to single rows. A row with an answer
    /// is not handed in again, so a sink answers no row while an older row of its key has none and may have to be
    /// written after it. Rows without an answer share the result: `Ok` means written; on an error any of them may have
    /// been written.
    ///
    /// # Errors
    /// See [`SinkError`].
    fn deliver(
        &mut self,
        batch: &[SinkRow],
        out: &mut Answers,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;
}

/// How rows are gathered into batches. The first bound that is reached sends the batch.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Rows, at most. Default 500.
    #[serde(default = "Batch::default_rows")]
    pub max_rows: usize,
    /// Bytes of keys and values, about, at most. Default 1MiB.
    #[serde(default = "Batch::default_bytes")]
    pub max_bytes: Size,
    /// How long the first row may wait for others. Default 20ms.
    #[serde(default = "Batch::default_linger")]
    pub linger: Millis,
}

impl Batch {
    fn default_rows() -> usize {
        500
    }
    fn default_bytes() -> Size {
        Size(1 << 20)
    }
    fn default_linger() -> Millis {
        Millis(20)
    }
}

impl Default for Batch {
    fn default() -> Self {
        Batch { max_rows: 500, max_bytes: Self::default_bytes(), linger: Self::default_linger() }
    }
}
