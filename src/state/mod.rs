//! Floor 1: state. Rows, the stores that operators see, and what lies below them.
//!
//! A task's state is one ordered map of bytes to bytes. Each store of a node is a range of it, behind a prefix that
//! holds the node's name. What a task changes during an epoch lives in the stores' overlays; at a checkpoint the
//! overlay becomes one sorted list of rows, which goes to the changelog and then, in one write, to the [`Backend`].
//! Nothing here knows Kafka: the changelog's rows are the same rows.

mod cells;
pub mod changelog;
mod chunked;
pub mod codec;
mod dir;
mod memory;
mod order;
mod read_cache;
mod record;
mod rocks;
mod run;
mod store;

use std::ops::ControlFlow;

use bytes::Bytes;

pub use cells::{Cell, Cells};
pub use dir::{DirError, StateDir, TaskDir, make_dir, task_dirs};
pub use memory::MemoryBackend;
pub use order::order;
pub use record::{decode_record, encode_record, encode_record_into};
pub use rocks::{RocksBackend, RocksEnv};
pub use run::RunBuilder;
pub use store::{Late, Spent, Store};

/// Visitor of changed rows: key, value; `None` deletes.
pub type VisitChanged<'a> = &'a mut dyn FnMut(&[u8], Option<&[u8]>);

/// Changed rows that an operator with its whole state in memory hands over at a checkpoint: a copy, not yet encoded
/// into [`Row`]s. The commit thread encodes them, so that the worker does not have to.
pub trait LateRows: Send + Sync {
    /// Visits every key (without the store's prefix) once, in key order; a value of `None` deletes.
    fn visit(&mut self, row: VisitChanged<'_>);
    /// Whether there are no rows.
    fn is_empty(&self) -> bool;
    /// A clone, boxed.
    fn boxed(&self) -> Box<dyn LateRows>;
}

/// One row of a task's state: `None` deletes.
pub type Row = (Bytes, Option<Bytes>);

/// State could not be read or written. The task must stop: going on would build on damaged state.
#[derive(Clone, Debug, thiserror::Error)]
#[error("state: {0}")]
pub struct StateError(pub String);

/// Visitor of a scan: key, value; `Break` ends it.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Where a task's applied rows live: memory or RocksDB. Always a prefix of the changelog.
pub trait Backend: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// The storage failed.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError>;

    /// Visits `from <= key < to` in key order.
    ///
    /// # Errors
    /// The storage failed.
    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StateError>;

    /// Writes rows, sorted by key, all or none.
    ///
    /// # Errors
    /// The storage failed; it must not be used again.
    fn write(&self, rows: &[Row]) -> Result<(), StateError>;
}

/// The smallest byte string greater than every string that starts with `prefix`.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0xff; prefix.len() + 16]
}

/// Key of the row that says which format the state has. Prefix 0x00 sorts before every node's rows.
pub const META_FORMAT: &[u8] = b"\0format";
/// Key of the row with the changelog offset that local state has reached (local only, never in the changelog).
pub const META_CHANGELOG: &[u8] = b"\0changelog";
/// Key of the row with the task's node clocks.
pub const META_CLOCKS: &[u8] = b"\0clocks";
/// Key of the row with the shape of the topology that wrote the state.
pub const META_SHAPE: &[u8] = b"\0shape";
/// Key of the row with the input positions of the last applied checkpoint.
pub const META_POSITIONS: &[u8] = b"\0positions";
