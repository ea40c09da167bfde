//! Debounce: one pending entry per key, fired when the key has gone quiet.
//!
//! [`PendingTable`] is the resident state: an index, inline blocks and a lazy timer wheel, about 235 bytes per pending
//! key of 20 + 128 bytes. It is never read from disk while running; a checkpoint copies what changed into a
//! [`DirtyBatch`], which a background thread sorts and writes.
//!
//! Invariants: what fires and in which order depends on the input alone, by (deadline, key bytes), never on hashes,
//! memory or restarts.

mod batch;
mod index;
pub mod row;
mod slab;
mod table;
mod wheel;

pub use batch::DirtyBatch;
pub use row::{Row, RowError};
pub use table::{Fired, Keep, Pending, PendingTable, Reason, Rule, Upserted};
