//! The engine as seen from outside: its status, the rows of a key, the records that pass a node.
//!
//! Made before the engine, so that the admin server answers while the engine starts. Used from any thread; no task ever
//! waits for the caller. It knows this instance's tasks, and which task has a key, on whichever instance that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::plan::Plan;
use super::{EngineError, Shared, Status};
use crate::clients::Clients;
use crate::kafka::partition_of;
use crate::operators::Answer;
use crate::operators::shared::describe::Described;
use crate::runtime::globals::query_global;
use crate::runtime::inbox::{Inbox, Message, Tap};
use crate::runtime::metrics::Metrics;
use crate::runtime::task::{Globals, Tapped, TaskId, inspect};
use crate::runtime::worker::TaskStatus;
use crate::state::StateError;
use crate::topology::Topology;

/// How long a worker may take to answer. It does so between two turns, which take milliseconds.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// Most records of one look that are waiting for their receiver.
const TAPPED_MAX: usize = 256;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No node has that name.
    #[error("there is no node `{node}`; there are {known}")]
    NoNode {
        /// As asked for.
        node: String,
        /// What there is.
        known: String,
    },
    /// The node keeps no rows.
    #[error("`{0}` keeps no state")]
    NoState(String),
    /// A position in this topic says nothing of the node's rows.
    #[error("`{node}` cannot be read at a record of `{topic}`: {}", known(.positions))]
    NoPosition {
        /// The node.
        node: String,
        /// As asked for.
        topic: String,
        /// The topics of which records can be named.
        positions: Vec<String>,
    },
    /// The engine has not started yet, or has stopped.
    #[error("nothing runs yet, or it has stopped")]
    NotRunning,
    /// A worker did not answer.
    #[error("a worker did not answer within {} s", ANSWER.as_secs())]
    Silent,
    /// The state cannot be read.
    #[error("{0}")]
    State(String),
}

/// Which positions a node can be read at.
fn known(positions: &[String]) -> String {
    match positions {
        [] => {
            "it reads a topic of the topology's own, or comes after a node that holds records back".to_owned()
        }
        topics => format!("it takes in at once those of {}", topics.join(", ")),
    }
}

/// The rows that tasks of this instance have under a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Rows, each with the name of its task.
    pub rows: Vec<(String, Described)>,
    /// Whether there are, or may be, more rows.
    pub cut: bool,
    /// Names of tasks that are being restored: their rows are missing.
    pub restoring: Vec<String>,
}

/// The task that has a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Which task.
    pub id: TaskId,
    /// Its name.
    pub task: String,
    /// Its state; `None` if it is not on this instance.
    pub here: Option<TaskStatus>,
}

/// The way to ask a running engine. Set when it has started, removed when it stops.
pub(super) struct Asked {
    pub(super) inboxes: Vec<Inbox>,
    pub(super) plan: Arc<Plan>,
    pub(super) globals: Globals,
}

/// A handle of an engine.
#[derive(Clone)]
pub struct EngineHandle {
    topology: Arc<Topology>,
    pub(super) shared: Arc<Shared>,
}

impl EngineHandle {
    /// The handle of an engine that is to be started.
    ///
    /// # Errors
    /// The metrics cannot be made.
    pub fn new(topology: &Arc<Topology>) -> Result<EngineHandle, EngineError> {
        let metrics = Metrics::new(topology).map_err(|e| EngineError::Failed(format!("metrics: {e}")))?;
        let clients = Clients::new(&topology.settings.connections);
        Ok(EngineHandle { topology: Arc::clone(topology), shared: Arc::new(Shared::new(metrics, clients)) })
    }

    /// The clients of the servers that the topology's nodes share.
    #[must_use]
    pub fn clients(&self) -> &Clients {
        &self.shared.clients
    }

    /// The topology that it runs.
    #[must_use]
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// A copy of the status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// All metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Whether something has failed, which ends the engine. [`super::Engine::stop`] returns the error.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.failed.is_cancelled()
    }

    /// Something outside the engine is not as it has to be: `/ready` is false and names it; `None`: it is again. `look` is who
    /// says so.
    pub fn lacks(&self, look: &'static str, what: Option<String>) {
        self.shared.miss(look, what);
    }

    /// Ends the process with an error, in order.
    pub fn fail(&self, message: String) {
        self.shared.fail(EngineError::Failed(message));
    }

    /// The rows that a node has under a key, in all tasks of this instance that may have it; of a global table, its
    /// own.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn query(&self, node: &str, key: &[u8]) -> Result<Found, AskError> {
        let n = self.node(node)?;
        if !self.topology.keeps_rows(n) {
            return Err(AskError::NoState(node.to_owned()));
        }
        let mut found = Found { rows: Vec::new(), cut: false, restoring: Vec::new() };
        let Some(sub) = self.sub_of(n) else {
            let rows =
                self.asked(|asked| asked.globals.get(&n).map(Arc::clone))?.ok_or(AskError::NotRunning)?;
            let (topology, key) = (Arc::clone(&self.topology), Bytes::copy_from_slice(key));
            let read = tokio::task::spawn_blocking(move || query_global(&topology, n, &rows, &key));
            let answer = read.await.map_err(|e| AskError::State(e.to_string()))?;
            self.add(&mut found, n, node, answer)?;
            return Ok(found);
        };
        let mut answers = Vec::new();
        for inbox in self.asked(|asked| asked.inboxes.clone())? {
            let (send, receive) = oneshot::channel();
            inbox.send(Message::Query { sub, node: n, key: Bytes::copy_from_slice(key), answer: send });
            answers.push(receive);
        }
        for answer in answers {
            // Without an answer the worker has ended, and so have its tasks.
            let tasks = tokio::time::timeout(ANSWER, answer).await.map_err(|_| AskError::Silent)?;
            for (id, answer) in tasks.unwrap_or_default() {
                let task = id.name(&self.topology);
                match answer {
                    Some(answer) => self.add(&mut found, n, &task, answer)?,
                    None => found.restoring.push(task),
                }
            }
        }
        Ok(found)
    }

    fn add(
        &self,
        found: &mut Found,
        node: usize,
        task: &str,
        answer: Result<Answer, StateError>,
    ) -> Result<(), AskError> {
        let Answer { rows, cut } = answer.map_err(|e| AskError::State(e.to_string()))?;
        found.cut |= cut;
        let described = rows.iter().map(|(key, row)| inspect::describe(&self.topology, node, key, row));
        found.rows.extend(described.map(|row| (task.to_owned(), row)));
        Ok(())
    }

    /// The next records that a node sends on, or hands to its sink, in all tasks of this instance. Records for which
    /// the receiver has no room are not shown.
    ///
    /// # Errors
    /// See [`AskError`].
    pub fn tap(&self, node: &str, records: usize) -> Result<Taps, AskError> {
        // Unique among all looks in the process.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let n = self.node(node)?;
        // No task reads a global table's topics: its records pass no node.
        let sub = self.sub_of(n).ok_or_else(|| AskError::NoState(node.to_owned()))?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (send, receive) = mpsc::channel(records.clamp(1, TAPPED_MAX));
        for inbox in self.asked(|asked| asked.inboxes.clone())? {
            inbox.send(Message::Tap(Tap { sub, node: n, number, records, to: send.clone() }));
        }
        Ok(Taps { topology: Arc::clone(&self.topology), left: records, receive })
    }

    /// The task that has the rows of a key, by the key's partition; `None` if every instance has them (a global table).
    /// Right for keys that were partitioned as Java's clients do it, which includes repartition topics.
    ///
    /// # Errors
    /// See [`AskError`].
    pub fn owner_of(&self, node: &str, key: &[u8]) -> Result<Option<Owner>, AskError> {
        let n = self.node(node)?;
        let Some(sub) = self.sub_of(n) else { return Ok(None) };
        let partitions = self.asked(|asked| asked.plan.partitions(&self.topology, sub))?;
        let id = TaskId { sub, partition: partition_of(key, partitions) };
        let here = self.shared.status().tasks.get(&id).copied();
        Ok(Some(Owner { id, task: id.name(&self.topology), here }))
    }

    pub(super) fn node(&self, node: &str) -> Result<usize, AskError> {
        self.topology.node(node).ok_or_else(|| {
            let known: Vec<&str> = self.topology.nodes.iter().map(|n| n.name.as_str()).collect();
            AskError::NoNode { node: node.to_owned(), known: known.join(", ") }
        })
    }

    /// The sub-topology of a node; a global table is in none.
    fn sub_of(&self, node: usize) -> Option<usize> {
        self.topology.subs.iter().position(|sub| sub.nodes.contains(&node))
    }

    pub(super) fn asked<T>(&self, what: impl FnOnce(&Asked) -> T) -> Result<T, AskError> {
        self.shared.asked().as_ref().map(what).ok_or(AskError::NotRunning)
    }
}

/// A look at a node. It ends when it is dropped.
pub struct Taps {
    topology: Arc<Topology>,
    left: usize,
    receive: mpsc::Receiver<(TaskId, Tapped)>,
}

impl Taps {
    /// The next record, with the name of its task; `None`: no more will come.
    pub async fn next(&mut self) -> Option<(String, Tapped)> {
        self.left = self.left.checked_sub(1)?;
        let (id, tapped) = self.receive.recv().await?;
        Some((id.name(&self.topology), tapped))
    }
}
