//! Questions from outside: the rows of a key, and the next records that a node sends on.
//!
//! A question changes nothing for records: what the task sends, and what is in its checkpoints, is the same with and
//! without it.

use super::{Step, Task};
use crate::model::Record;
use crate::operators::{Answer, Emit, Query, Stores};
use crate::state::StateError;

/// A record as a node sent it on, or as its row went to its sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Tapped {
    /// The number given to [`Task::tap`].
    pub tap: u64,
    /// The output port of a node that has several; 0 else.
    pub port: u16,
    /// The record.
    pub record: Record,
}

/// One look at a node.
pub(super) struct Tap {
    /// Index in the task.
    node: usize,
    number: u64,
    left: usize,
}

impl Task {
    /// The rows that a node (by its index in the topology) has under a key: those of the open epoch, those only in
    /// memory, those on disk. Empty if the node is not this task's or keeps no state.
    ///
    /// # Errors
    /// The state failed.
    pub fn query(&self, node: usize, key: &[u8]) -> Result<Answer, StateError> {
        let Some(node) = self.by_global.get(&node).map(|n| &self.nodes[*n]) else {
            return Ok(Answer::default());
        };
        let mut query = Query::new(key, Stores::new(&self.stores, &node.own));
        node.op.query(&mut query)?;
        Ok(query.into_answer())
    }

    /// Shows that many of the next records that a node (by its index in the topology) sends on or hands to its sink, in
    /// [`Step::taps`] under this number.
    pub fn tap(&mut self, node: usize, number: u64, records: usize) {
        if let Some(node) = self.by_global.get(&node).copied().filter(|_| records > 0) {
            self.taps.push(Tap { node, number, left: records });
        }
    }

    /// Shows no more records under this number.
    pub fn untap(&mut self, number: u64) {
        self.taps.retain(|tap| tap.number != number);
    }

    /// Shows what a node has just sent, if there is a look at it. Called only while there is a look at any node.
    #[cold]
    pub(super) fn show(&mut self, n: usize, step: &mut Step) {
        let Task { taps, effects, .. } = self;
        for tap in taps.iter_mut().filter(|tap| tap.node == n) {
            let sent = effects.emits.iter().filter_map(|emit| match emit {
                Emit::Record { port, record, .. } => Some((*port, record)),
                Emit::Watermark(_) => None,
            });
            let rows = effects.rows.iter().map(|row| (0, &row.record));
            for (port, record) in sent.chain(rows).take(tap.left) {
                tap.left -= 1;
                step.taps.push(Tapped { tap: tap.number, port, record: record.clone() });
            }
        }
        taps.retain(|tap| tap.left > 0);
    }
}
