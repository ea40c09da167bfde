//! Routes the group's events to the workers, and sets the share of each limiter to match the tasks of this instance.
//!
//! Called by the group reader, on the poller's thread, one event at a time. Invariants: a task belongs to one worker
//! while the engine runs; this instance's share goes down before that of another may go up; `Revoked` is answered when
//! every worker has let go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::Plan;
use super::{EngineError, Shared};
use crate::kafka::{ErrorKind, GroupEvent, PartitionReader};
use crate::runtime::calls::shares::Shares;
use crate::runtime::inbox::{Inbox, Message};
use crate::runtime::task::TaskId;
use crate::runtime::worker::TaskStatus;

/// Who says which partitions of ours cannot be read yet.
const LOOKUP: &str = "partitions";

/// Routes the group's events to the workers. Runs on the poller's thread.
pub(super) struct Router {
    pub(super) plan: Arc<Plan>,
    pub(super) inboxes: Vec<Inbox>,
    pub(super) shared: Arc<Shared>,
    /// The tasks of this instance. Only the poller uses it; the mutex makes the closure shareable.
    pub(super) shares: Mutex<BTreeSet<TaskId>>,
    pub(super) limits: Shares,
}

impl Router {
    fn inbox(&self, id: TaskId) -> &Inbox {
        &self.inboxes[Plan::worker_of(id, self.inboxes.len())]
    }

    fn share(&self) {
        self.limits.set(&self.shares.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn event(&self, event: GroupEvent) {
        match event {
            GroupEvent::Assigned { partitions, .. } => {
                let mut tasks: BTreeMap<TaskId, Vec<(usize, PartitionReader)>> = BTreeMap::new();
                for (partition, reader) in partitions {
                    if let Some((id, at)) = self.plan.task(&partition) {
                        tasks.entry(id).or_default().push((at, reader));
                    }
                }
                tracing::info!(tasks = tasks.len(), "partitions assigned");
                {
                    // At once, and not when the worker gets the message: in between, the instance would look ready.
                    let mut status = self.shared.status_mut();
                    status.joined = true;
                    status.missing.remove(LOOKUP);
                    status.tasks.extend(tasks.keys().map(|id| (*id, TaskStatus::Restoring)));
                }
                self.shares.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks.keys().copied());
                self.share();
                for (id, readers) in tasks {
                    self.inbox(id).send(Message::Assign { id, readers });
                }
            }
            GroupEvent::Revoked { partitions, lost, done } => {
                let ids: BTreeSet<TaskId> =
                    partitions.iter().filter_map(|p| Some(self.plan.task(p)?.0)).collect();
                tracing::info!(tasks = ids.len(), lost, "partitions revoked");
                if lost {
                    // It is out of the group until it joins again.
                    let mut status = self.shared.status_mut();
                    status.joined = false;
                    status.missing.remove(LOOKUP);
                }
                let mut waits = Vec::new();
                for (worker, inbox) in self.inboxes.iter().enumerate() {
                    let here = |id: &&TaskId| Plan::worker_of(**id, self.inboxes.len()) == worker;
                    let here: Vec<TaskId> = ids.iter().filter(here).copied().collect();
                    if !here.is_empty() {
                        let (send, receive) = sync_channel(1);
                        inbox.send(Message::Revoke { ids: here, lost, done: send });
                        waits.push(receive);
                    }
                }
                // Their calls stop with them, so the share goes down before that of another instance may go up.
                self.shares.lock().unwrap_or_else(PoisonError::into_inner).retain(|id| !ids.contains(id));
                self.share();
                std::thread::spawn(move || {
                    for wait in waits {
                        // Disconnected: the worker has ended, and so have its tasks.
                        wait.recv().unwrap_or_default();
                    }
                    done.send(()).unwrap_or_default();
                });
            }
            GroupEvent::Idle => {
                let mut status = self.shared.status_mut();
                status.joined = true;
                status.missing.remove(LOOKUP);
            }
            GroupEvent::Waiting(what) => {
                tracing::warn!(what, "partitions wait");
                let mut status = self.shared.status_mut();
                status.joined = false;
                status.missing.insert(LOOKUP, what);
            }
            GroupEvent::Error(error) => match error.kind {
                ErrorKind::Fatal => self.shared.fail(EngineError::Failed(format!("Kafka: {error}"))),
                _ => tracing::warn!(kind = ?error.kind, %error, "Kafka"),
            },
            GroupEvent::Closed => {}
        }
    }
}
