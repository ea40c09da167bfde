//! What a worker needs from the rest of the process, and what it asks of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::kafka::PartitionReader;
use crate::model::Millis;
use crate::operators::Blocked;
use crate::runtime::calls::permit::CallGate;
use crate::runtime::calls::{self, CallDriver};
use crate::runtime::delivery::SinkDriver;
use crate::runtime::inbox::{Handle, Inbox};
use crate::runtime::input::TaskReader;
use crate::runtime::input::horizon::{Horizons, Upstream};
use crate::runtime::task::{TaskError, TaskId};
use crate::sinks::KafkaLane;
use crate::topology::Topology;

/// Where the answer to a call belongs.
pub struct Ticket {
    /// The task.
    pub handle: Handle,
    /// Its node.
    pub node: usize,
    /// Its worker.
    pub inbox: Inbox,
    /// Whether the call may still be sent.
    pub gate: CallGate,
}

impl calls::Ticket for Ticket {
    fn begin(&self) -> bool {
        self.gate.begin()
    }
}

/// What a task's gates hold back, each with its node in the topology.
pub type AtGates = Vec<(usize, Blocked)>;

/// The call driver of one node.
pub type Calls = CallDriver<Ticket>;

/// Hears of a task that has stopped at a record.
pub type Stopped = dyn Fn(TaskId, &TaskError) + Send;

/// What a worker needs from the rest of the process.
pub struct Outside {
    /// Sink drivers by node.
    pub sinks: BTreeMap<usize, SinkDriver>,
    /// Call drivers by node.
    pub calls: BTreeMap<usize, Calls>,
    /// Starts restoring a task; the result comes through the inbox.
    pub restore: Box<dyn Fn(Order) + Send>,
    /// Sinks whose records are part of the checkpoint's transaction.
    pub transactional: BTreeMap<usize, KafkaLane>,
    /// The changelog topic of each sub-topology that has one.
    pub changelogs: Vec<Option<Arc<str>>>,
    /// Time between checkpoints.
    pub checkpoint: Duration,
    /// How long a task waits for one of several inputs after its end was reached.
    pub idle: Millis,
    /// How far the wall clock stays behind for nodes that refuse late records.
    pub delay: Millis,
    /// The inputs of sub-topologies that are repartition topics, with the topics' names.
    pub repartitions: BTreeMap<(usize, usize), Arc<str>>,
    /// What is known about those.
    pub horizons: Arc<Horizons>,
    /// Reported when a task fails, which ends everything.
    pub failed: Box<dyn Fn(TaskId, String) + Send>,
    /// Told what a task's gates hold back, whenever that changes.
    pub blocked: Box<dyn Fn(TaskId, AtGates) + Send>,
    /// Reported when a task stops at a record: the others go on.
    pub stopped: Box<Stopped>,
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
    /// It has stopped at a record that it cannot process.
    Stopped,
}

impl TaskStatus {
    /// Every one.
    pub const ALL: [TaskStatus; 4] =
        [TaskStatus::Restoring, TaskStatus::Running, TaskStatus::Ended, TaskStatus::Stopped];

    /// What `/ready`, the metrics and people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TaskStatus::Restoring => "restoring",
            TaskStatus::Running => "running",
            TaskStatus::Ended => "ended",
            TaskStatus::Stopped => "stopped",
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
    /// Cancelled when the result is not wanted any more: then the state must not stay open.
    pub unwanted: CancellationToken,
    /// Permits of earlier assignments of the task: its calls may be made again only after calls under these have ended.
    pub gates: Vec<CallGate>,
    /// How far the wall clock stays behind in the task.
    pub delay: Millis,
}
