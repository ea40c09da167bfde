//! What a task has to know of its surroundings when it opens.
//!
//! Operators already make calls and rows while a task opens, so what is decided about rows has to be known before.

use std::collections::BTreeMap;

use super::Globals;
use crate::model::Millis;

/// What a task is told when it opens; the default is a task that no transaction waits for.
#[derive(Clone)]
pub struct TaskOptions {
    /// The rows of the topology's global tables.
    pub globals: Globals,
    /// How far the wall clock stays behind for nodes that refuse what is late.
    pub delay: Millis,
    /// Kafka sinks, by node, whose rows are part of the sealed epoch ([`super::Sealed::outputs`]) instead of deliveries:
    /// for exactly-once delivery, in the transaction that commits the epoch. With the largest message that the sink's
    /// topic takes, in bytes: a transaction with a larger one would fail, and fail again each time it is made, so such a
    /// row is refused before.
    pub transactional: BTreeMap<usize, usize>,
    /// How many rows an operator copies in one step of a seal before it lets records through again.
    pub seal_rows: usize,
}

impl Default for TaskOptions {
    fn default() -> TaskOptions {
        TaskOptions {
            globals: Globals::new(),
            delay: Millis::ZERO,
            transactional: BTreeMap::new(),
            // Some milliseconds.
            seal_rows: 2048,
        }
    }
}
