//! The messages to a worker thread: one queue, in order.
//!
//! The queue has no bound of its own: every message answers something that the worker started (a delivery, a call, a
//! commit), or is an assignment or a question, and those are bounded where they start.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::task::{Step, Tapped, Task, TaskError, TaskId};
use crate::kafka::PartitionReader;
use crate::model::{Record, Reply};
use crate::operators::{Answer, Commits};
use crate::state::{Backend, StateError};

/// A task of one assignment. Answers for an earlier generation of the same task are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// The task.
    pub id: TaskId,
    /// The assignment, counted up by the worker.
    pub generation: u64,
}

/// A message to a worker.
pub enum Message {
    /// Partitions of a task were assigned, by index of the topic.
    Assign {
        /// The task.
        id: TaskId,
        /// Its readers.
        readers: Vec<(usize, PartitionReader)>,
    },
    /// Partitions are revoked. `done` is answered when their tasks are committed and dropped (at once if `lost`).
    Revoke {
        /// The tasks.
        ids: Vec<TaskId>,
        /// Already lost: drop without committing.
        lost: bool,
        /// Answered once.
        done: SyncSender<()>,
    },
    /// A task was restored.
    Restored {
        /// Which.
        handle: Handle,
        /// The task with its first effects, or why it could not be restored.
        result: Box<Result<Restored, Unrestored>>,
    },
    /// A call was answered.
    Reply {
        /// Task.
        handle: Handle,
        /// Node.
        node: usize,
        /// Call.
        call: u64,
        /// Answer.
        reply: Reply,
    },
    /// How far another consumer group has committed a topic, on this task's partition. It is repeated, since a task
    /// that is not running misses it.
    Commits {
        /// The task.
        id: TaskId,
        /// The group's progress.
        commits: Commits,
    },
    /// Asks for the rows of a key.
    Query {
        /// The sub-topology whose tasks are asked.
        sub: usize,
        /// Node.
        node: usize,
        /// Key.
        key: Bytes,
        /// Answered once.
        answer: oneshot::Sender<Vec<TaskAnswer>>,
    },
    /// Asks one task for the rows of a key, as an application does.
    Read {
        /// The task.
        id: TaskId,
        /// Node.
        node: usize,
        /// Key.
        key: Bytes,
        /// A record that has to be in the rows: index of its topic, and its offset.
        at: Option<(usize, i64)>,
        /// Answered once.
        answer: oneshot::Sender<TaskSays>,
    },
    /// Begins a look at the next records of a node.
    Tap(Tap),
    /// Deliveries are durable.
    Acked {
        /// Task.
        handle: Handle,
        /// Epoch.
        epoch: u64,
        /// How many.
        rows: u32,
    },
    /// A sink refused a row.
    Refused {
        /// Task.
        handle: Handle,
        /// Epoch.
        epoch: u64,
        /// Sink node.
        node: usize,
        /// The row's record.
        record: Box<Record>,
        /// The sink's reason.
        message: String,
    },
    /// A checkpoint is committed and applied.
    Committed(Vec<Handle>),
    /// A checkpoint was not committed: these tasks go back to their last one.
    Rewind(Vec<Handle>),
    /// A checkpoint can never be committed, so its tasks must stop.
    Failed {
        /// Its tasks.
        handles: Vec<Handle>,
        /// Why not.
        message: String,
    },
    /// Stop taking input, finish, commit; answered when nothing is left.
    Drain(SyncSender<()>),
}

/// Why a task does not run.
#[derive(Debug)]
pub enum Unrestored {
    /// A record that it has in its state cannot be processed, and the policy is `stop`.
    Stopped(TaskError),
    /// It failed.
    Failed(String),
}

impl From<String> for Unrestored {
    fn from(message: String) -> Unrestored {
        Unrestored::Failed(message)
    }
}

/// What one of a worker's tasks has; `None`: it is being restored.
pub type TaskAnswer = (TaskId, Option<Result<Answer, StateError>>);

/// What a worker says of the rows that one task has under a key.
pub enum TaskSays {
    /// Those of the task, which is restored: the truth as long as the task is this instance's.
    Rows(Result<Answer, StateError>),
    /// The record that has to be in the rows is not yet; the offset that is processed next.
    Behind(i64),
    /// The task is being restored.
    Restoring,
    /// The task is not here.
    NotHere,
}

/// A look at a node: in every task of its sub-topology, including later ones, until its receiver is dropped.
pub struct Tap {
    /// The sub-topology.
    pub sub: usize,
    /// Node.
    pub node: usize,
    /// Tells looks apart.
    pub number: u64,
    /// How many records of each task are shown.
    pub records: usize,
    /// The receiver. A record for which it has no room is not shown.
    pub to: mpsc::Sender<(TaskId, Tapped)>,
}

/// A task that may run.
pub struct Restored {
    /// The task.
    pub task: Task,
    /// Its state.
    pub backend: Arc<dyn Backend>,
    /// Calls and deliveries that were pending.
    pub step: Step,
    /// Next offsets by index of the topic, if the group has committed one or the state knows one.
    pub offsets: Vec<(usize, i64)>,
    /// The first retained offset of the other topics.
    pub firsts: Vec<(usize, i64)>,
}

/// The sending side.
#[derive(Clone)]
pub struct Inbox(Sender<Message>);

impl Inbox {
    /// Sends a message. A worker that has ended ignores it, which is right at shutdown.
    pub fn send(&self, message: Message) {
        drop(self.0.send(message));
    }
}

/// The receiving side.
pub struct Mail(Receiver<Message>);

impl Mail {
    /// The next message, if one is there.
    pub fn try_next(&self) -> Option<Message> {
        self.0.try_recv().ok()
    }

    /// Waits at most `wait` for a message.
    pub fn next(&self, wait: Duration) -> Option<Message> {
        self.0.recv_timeout(wait).ok()
    }
}

/// A new inbox.
#[must_use]
pub fn inbox() -> (Inbox, Mail) {
    let (send, receive) = channel();
    (Inbox(send), Mail(receive))
}
