//! Routes the group's events to the workers, and keeps each limiter's share in step with the tasks that are ours.
//!
//! Called by the group reader, on the poller's thread, one event at a time. Invariants: a task belongs to one worker for
//! as long as the engine runs; a share goes down before anybody else's may go up; `Revoked` is answered when every
//! worker has let go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::Plan;
use super::{EngineError, Shared};
use crate::kafka::{ErrorKind, GroupEvent, PartitionReader};
use crate::operators::RateScope;
use crate::runtime::inbox::{Inbox, Message};
use crate::runtime::limiter::Limiter;
use crate::runtime::task::TaskId;
use crate::topology::{NodeKind, Topology};

/// Routes the group's events to the workers. Runs on the poller's thread.
pub(super) struct Router {
    pub(super) plan: Arc<Plan>,
    pub(super) inboxes: Vec<Inbox>,
    pub(super) shared: Arc<Shared>,
    /// Tasks that are ours. Only the poller touches it; the mutex makes the closure shareable.
    pub(super) shares: Mutex<BTreeSet<TaskId>>,
    pub(super) limiters: Vec<(Arc<Limiter>, usize)>,
}

impl Router {
    fn inbox(&self, id: TaskId) -> &Inbox {
        let n = self.inboxes.len();
        let at = usize::try_from(id.partition).unwrap_or(0).wrapping_add(id.sub) % n;
        &self.inboxes[at]
    }

    #[expect(clippy::cast_precision_loss, reason = "partition counts are small")]
    fn share(&self) {
        let ours = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        for (limiter, sub) in &self.limiters {
            let all = self
                .plan
                .places
                .iter()
                .filter(|(_, (s, _))| s == sub)
                .filter_map(|(topic, _)| self.plan.counts.get(topic))
                .max()
                .copied()
                .unwrap_or(1);
            let mine = ours.iter().filter(|id| id.sub == *sub).count();
            limiter.set_share(mine as f64 / f64::from(all.max(1)));
        }
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
                    // At once, not when the worker hears of it: in between the instance would look ready.
                    let mut status = self.shared.status_mut();
                    status.joined = true;
                    status.tasks.extend(tasks.keys().map(|id| (*id, "restoring")));
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
                    // Out of the group, until it is joined again.
                    self.shared.status_mut().joined = false;
                }
                let mut waits = Vec::new();
                for inbox_at in 0..self.inboxes.len() {
                    let here: Vec<TaskId> = ids
                        .iter()
                        .filter(|id| std::ptr::eq(self.inbox(**id), &raw const self.inboxes[inbox_at]))
                        .copied()
                        .collect();
                    if !here.is_empty() {
                        let (send, receive) = sync_channel(1);
                        self.inboxes[inbox_at].send(Message::Revoke { ids: here, lost, done: send });
                        waits.push(receive);
                    }
                }
                // Their calls stop with them: lower the share before anybody else may raise theirs.
                self.shares.lock().unwrap_or_else(PoisonError::into_inner).retain(|id| !ids.contains(id));
                self.share();
                std::thread::spawn(move || {
                    for wait in waits {
                        // Disconnected: the worker is gone, and so are its tasks.
                        wait.recv().unwrap_or_default();
                    }
                    done.send(()).unwrap_or_default();
                });
            }
            GroupEvent::Idle => self.shared.status_mut().joined = true,
            GroupEvent::Waiting(what) => {
                tracing::warn!(what, "partitions wait");
                self.shared.status_mut().joined = false;
            }
            GroupEvent::Error(error) => match error.kind {
                ErrorKind::Fatal => self.shared.fail(EngineError::Failed(format!("Kafka: {error}"))),
                _ => tracing::warn!(kind = ?error.kind, %error, "Kafka"),
            },
            GroupEvent::Closed => {}
        }
    }
}

/// Limiters that are shared by partitions, with the sub-topology whose partitions count.
pub(super) fn cluster_limiters(
    topology: &Topology,
    limiters: &BTreeMap<String, Arc<Limiter>>,
) -> Vec<(Arc<Limiter>, usize)> {
    let mut out = Vec::new();
    for (name, limiter) in limiters {
        let shared = topology.settings.rate_limits.get(name).is_some_and(|l| l.scope == RateScope::Cluster);
        let user = topology
            .nodes
            .iter()
            .position(|n| matches!(&n.kind, NodeKind::Operator(c) if c.rate_limit() == Some(name.as_str())));
        let sub = user.and_then(|n| topology.subs.iter().position(|s| s.nodes.contains(&n)));
        match (shared, sub) {
            // Lines and made-up records have no partitions: nobody to share with.
            (true, Some(sub)) if topology.subs[sub].topics.is_empty() => limiter.set_share(1.0),
            (true, Some(sub)) => out.push((Arc::clone(limiter), sub)),
            _ => {}
        }
    }
    out
}
