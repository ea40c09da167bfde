//! Global tables: each instance reads their topics whole; its tasks only look rows up.

pub(super) mod reader;
mod table;

pub use table::{GlobalTable, query_global};
