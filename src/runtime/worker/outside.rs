//! What a worker needs of the rest of the process, and what it asks of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::kafka::PartitionReader;
use crate::model::Millis;
use crate::runtime::calls::permit::CallGate;
use crate::runtime::calls::{self, CallDriver};
use crate::runtime::delivery::SinkDriver;
use crate::runtime::inbox::{Handle, Inbox};
use crate::runtime::input::TaskReader;
use crate::runtime::input::horizon::{Horizons, Upstream};
use crate::runtime::task::TaskId;
use crate::sinks::KafkaLane;
use crate::topology::Topology;

/// Where the answer to a call belongs: task, node, worker.
pub struct Ticket {
    /// The task.
    pub handle: Handle,
    /// Its node.
    pub node: usize,
    /// Its worker.
    pub inbox: Inbox,
    /// Whether it may still be sent.
    pub gate: CallGate,
}

impl calls::Ticket for Ticket {
    fn begin(&self) -> bool {
        self.gate.begin()
    }
}

/// Where calls of one node go.
pub type Calls = CallDriver<Ticket>;

/// What a worker needs of the rest of the process.
pub struct Outside {
    /// Sink drivers by node; the dead letter under [`crate::runtime::DEAD_LETTER`].
    pub sinks: BTreeMap<usize, SinkDriver>,
    /// Call drivers by node.
    pub calls: BTreeMap<usize, Calls>,
    /// Starts restoring a task; the answer comes through the inbox.
    pub restore: Box<dyn Fn(Order) + Send>,
    /// Sinks whose records go into the checkpoint's transaction.
    pub transactional: BTreeMap<usize, KafkaLane>,
    /// Changelog topic of each sub-topology, where there is one.
    pub changelogs: Vec<Option<Arc<str>>>,
    /// Time between checkpoints.
    pub checkpoint: Duration,
    /// How long a task with several inputs waits for one whose end was reached.
    pub idle: Millis,
    /// How far the wall clock stays behind for nodes that refuse what is late.
    pub delay: Millis,
    /// Topics of sub-topologies that are repartition topics, with their names.
    pub repartitions: BTreeMap<(usize, usize), Arc<str>>,
    /// What is known of them.
    pub horizons: Arc<Horizons>,
    /// Reported when a task stops for good.
    pub failed: Box<dyn Fn(TaskId, String) + Send>,
    /// Told how a task is; `None`: it is not here any more.
    pub status: Box<dyn Fn(TaskId, Option<TaskStatus>) + Send>,
    /// The topology whose tasks these are.
    pub topology: Arc<Topology>,
}

impl Outside {
    /// What people call a task.
    pub(super) fn name(&self, id: TaskId) -> String {
        id.name(&self.topology)
    }

    /// The partition as an input of its task.
    pub(super) fn input(&self, id: TaskId, topic: usize, reader: PartitionReader) -> TaskReader {
        let upstream = self.repartitions.get(&(id.sub, topic));
        let upstream = upstream.map(|name| Upstream::new(&self.horizons, name, id.partition));
        TaskReader::partition(reader, topic, upstream)
    }
}

/// How a task of this instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    /// State is being read back.
    Restoring,
    /// Running.
    Running,
    /// Its sources have ended and nothing is left to do.
    Ended,
}

impl TaskStatus {
    /// Every one.
    pub const ALL: [TaskStatus; 3] = [TaskStatus::Restoring, TaskStatus::Running, TaskStatus::Ended];

    /// What `/ready`, the metrics and people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TaskStatus::Restoring => "restoring",
            TaskStatus::Running => "running",
            TaskStatus::Ended => "ended",
        }
    }
}

/// A restore to be made.
pub struct Order {
    /// The task, under the handle that it will have.
    pub handle: Handle,
    /// What people call the task.
    pub name: String,
    /// Where the answer goes.
    pub inbox: Inbox,
    /// Cancelled when nobody waits for it any more: then state must not stay open.
    pub unwanted: CancellationToken,
    /// Calls of earlier assignments of the task: it may not make them again before they have ended.
    pub gates: Vec<CallGate>,
    /// How far the wall clock stays behind in the task.
    pub delay: Millis,
}
