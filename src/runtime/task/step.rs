//! What goes into a task and what comes out: names, inputs, effects, a sealed epoch.

use super::Tapped;
use crate::model::{Call, Reason, Record, Reply, SinkRow, Timestamp};
use crate::operators::Commits;
use crate::state::{Late, Row, StateError};
use crate::topology::Topology;

/// Which task: sub-topology and partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Index of the sub-topology.
    pub sub: usize,
    /// Kafka partition.
    pub partition: i32,
}

/// Why a task stopped.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// State failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A record could not be processed and the policy is `stop`.
    #[error("node {node}: {reason}: {detail}{}", .place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default())]
    Rejected {
        /// Node name.
        node: String,
        /// Reason label.
        reason: &'static str,
        /// Why exactly.
        detail: String,
        /// Where the record was read, if it was.
        place: Option<Place>,
    },
}

/// Where a record was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// Its index in the task.
    pub input: usize,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "topic {}, partition {}, offset {}", self.topic, self.partition, self.offset)
    }
}

/// What may happen to a task.
#[derive(Debug)]
pub enum Input {
    /// Records of one topic, in offset order. `topic` is an index into
    /// [`Topology::inputs`](crate::topology::Topology::inputs).
    Records {
        /// Index of the topic.
        topic: usize,
        /// The records; `origin` says where they were read.
        records: Vec<Record>,
    },
    /// A call was answered.
    Reply {
        /// Node that called.
        node: usize,
        /// Its call.
        call: u64,
        /// The answer.
        reply: Reply,
    },
    /// Another consumer group has committed offsets on this task's partition.
    Commits(Commits),
    /// `rows` deliveries of an epoch are durable.
    Acked {
        /// The epoch they were made in.
        epoch: u64,
        /// How many.
        rows: u32,
    },
    /// A sink refused a row for good.
    Refused {
        /// The epoch it was made in.
        epoch: u64,
        /// The sink's node.
        node: usize,
        /// The record of the row.
        record: Record,
        /// The sink's reason.
        message: String,
    },
    /// Time has passed.
    Clock {
        /// The wall clock time up to which the task's inputs are complete; the nodes' clocks advance with it that far.
        /// Records still in flight to the topics are not counted. `None` if an input is not caught up: then only
        /// records advance the clocks.
        until: Option<Timestamp>,
    },
}

/// A row for a sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The sink's node.
    pub node: usize,
    /// The epoch that waits for its acknowledgement. A row with `reply_to` is answered by [`Input::Reply`] instead, and
    /// no epoch waits for it.
    pub epoch: u64,
    /// What to write.
    pub row: SinkRow,
}

/// What a task wants done.
#[derive(Debug, Default)]
pub struct Step {
    /// Rows for sinks, in order.
    pub deliveries: Vec<Delivery>,
    /// Calls to make, with their node.
    pub calls: Vec<(usize, Call)>,
    /// What was dropped, in order, with its node.
    pub drops: Vec<(usize, Reason)>,
    /// What those see who look at a node ([`super::Task::tap`]): nothing to do, so it counts for nothing.
    pub taps: Vec<Tapped>,
}

impl TaskId {
    /// What people call the task: `orders-3`.
    #[must_use]
    pub fn name(self, topology: &Topology) -> String {
        format!("{}-{}", topology.subs[self.sub].name, self.partition)
    }
}

impl Step {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty() && self.calls.is_empty() && self.drops.is_empty()
    }
}

/// A finished epoch: what one checkpoint makes durable.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its number.
    pub epoch: u64,
    /// Changed rows, sorted by key once [`Sealed::finish`] was called.
    pub rows: Vec<Row>,
    /// Rows that are not encoded yet.
    pub late: Vec<Late>,
    /// Records of Kafka sinks that are written in the checkpoint's transaction: node and row.
    pub outputs: Vec<(usize, SinkRow)>,
    /// Next offset to read, by index of the topic; only topics from which something was read.
    pub positions: Vec<(usize, i64)>,
}

impl Sealed {
    /// Encodes and sorts all rows. This is the slow part of a checkpoint, so the commit thread calls it.
    pub fn finish(&mut self) {
        for late in self.late.drain(..) {
            late.append_to(&mut self.rows);
        }
        // A stable sort is fast on runs that are sorted already, which these are.
        self.rows.sort_by(|a, b| a.0.cmp(&b.0));
    }
}
