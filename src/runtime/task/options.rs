//! What a task must know about its surroundings when it opens.
//!
//! An opening task already makes calls and rows, so everything that decides about rows must be known before.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Globals;
use crate::formats::Formats;
use crate::model::Millis;

/// The default is a task whose rows are never part of a transaction.
#[derive(Clone)]
pub struct TaskOptions {
    /// What is known of schemas. Default: those that the topology names, unconnected.
    pub formats: Option<Arc<Formats>>,
    /// The rows of the topology's global tables.
    pub globals: Globals,
    /// How far the wall clock stays behind for nodes that refuse late records.
    pub delay: Millis,
    /// The Kafka sinks, by node, whose rows become part of the sealed epoch ([`super::Sealed::outputs`]) instead of
    /// deliveries: for exactly-once delivery they are written in the transaction that commits the epoch. Each with the
    /// largest message of its topic, in bytes: a larger row would fail that transaction every time, so it is refused
    /// before.
    pub transactional: BTreeMap<usize, usize>,
    /// How many rows an operator copies in one step of a seal before it lets records through again.
    pub seal_rows: usize,
}

impl Default for TaskOptions {
    fn default() -> TaskOptions {
        TaskOptions {
            formats: None,
            globals: Globals::new(),
            delay: Millis::ZERO,
            transactional: BTreeMap::new(),
            // This takes some milliseconds.
            seal_rows: 2048,
        }
    }
}
