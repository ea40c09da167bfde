//! The `blackhole` sink: takes everything, keeps nothing, counts. For benches, and to see what a topology costs by
//! itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Answers, Sink, SinkError};
use crate::model::SinkRow;

/// Takes records and forgets them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BlackholeConfig {}

/// Counts what it was given; clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Blackhole {
    rows: Arc<AtomicU64>,
}

impl Blackhole {
    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

impl Sink for Blackhole {
    async fn deliver(&mut self, batch: &[SinkRow], _: &mut Answers) -> Result<(), SinkError> {
        self.rows.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
