//! What other consumer groups have committed: asked for while everything runs, for the nodes that wait for it.
//!
//! One loop per process, shared by every gate. Each group is asked once for all partitions that this instance owns, and
//! what changed is told to their tasks ([`Message::Commits`]). While a record waits, questions are as far apart as the gate
//! says, and the first comes at once; while none does, [`IDLE`]. An answer that is older than the truth only holds records
//! back for longer, so a failure changes nothing but what is shown.
//!
//! Rules: a committed offset is the next one that the group will read. One beyond the end of its partition is of a topic
//! that was made anew (or a cluster that was restored) and counts as none; so the end is looked up after the commit.
//! Offsets inside an open transaction are not shown, and what was known before holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{EngineHandle, Shared};
use crate::kafka::{Admin, GroupOffset, TopicPartition};
use crate::model::{Clock, SystemClock};
use crate::operators::{Blocked, Commits};
use crate::runtime::inbox::{Inbox, Message};
use crate::runtime::task::TaskId;
use crate::topology::{NodeKind, Topology};

/// Time between two questions while no record waits.
const IDLE: Duration = Duration::from_secs(2);

/// What waits at gates, and what is known of the groups that are waited for.
#[derive(Default)]
pub(super) struct Gates {
    /// Written by the workers, read by the loop and the admin server; for moments.
    waiting: Mutex<BTreeMap<TaskId, Vec<(usize, Blocked)>>>,
    /// Written by the loop, read by the admin server.
    known: Mutex<BTreeMap<(Arc<str>, TopicPartition), Seen>>,
    /// Groups that could not be asked the last time, and why; as `known`.
    failed: Mutex<BTreeMap<Arc<str>, String>>,
    /// Something began to wait.
    began: Notify,
}

/// What was seen of a group on a partition when it was asked last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// What it has committed.
    known: Known,
    /// The end of the partition.
    end: i64,
}

/// What is known of a group on a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// It has not committed there, or there is no such group.
    Nothing,
    /// Its next offset.
    Next(i64),
    /// Its next offset is beyond the end of the partition.
    Beyond(i64),
}

impl std::fmt::Display for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Known::Nothing => write!(f, "has committed nothing there"),
            Known::Next(next) => write!(f, "has committed {next}"),
            Known::Beyond(next) => {
                write!(
                    f,
                    "has committed {next}, beyond the partition's end: of a topic that was made anew, so it does not count"
                )
            }
        }
    }
}

/// A record that waits at a gate, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiting {
    /// The task.
    task: TaskId,
    /// The gate, by its node.
    node: usize,
    /// The record, and since when nothing has passed.
    blocked: Blocked,
}

impl Gates {
    /// What a task's gates hold back now.
    pub(super) fn report(&self, id: TaskId, blocked: Vec<(usize, Blocked)>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let any = !blocked.is_empty();
        match any {
            true => waiting.insert(id, blocked),
            false => waiting.remove(&id),
        };
        if any {
            self.began.notify_one();
        }
    }

    /// Everything that waits, by task.
    #[must_use]
    fn waiting(&self) -> Vec<Waiting> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |(task, all): (&TaskId, &Vec<(usize, Blocked)>)| {
            let task = *task;
            all.iter()
                .map(move |(node, blocked)| Waiting { task, node: *node, blocked: blocked.clone() })
                .collect()
        };
        waiting.iter().flat_map(|entry| -> Vec<Waiting> { of(entry) }).collect()
    }

    /// What is known of a group on a partition, for people.
    fn describe(&self, group: &Arc<str>, partition: &TopicPartition) -> String {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).get(group).cloned();
        let seen = self.seen(group, partition).map(|seen| seen.known.to_string());
        match (seen, failed) {
            (Some(seen), None) => seen,
            (Some(seen), Some(error)) => format!("{seen}, and cannot be asked now: {error}"),
            (None, Some(error)) => format!("cannot be asked: {error}"),
            (None, None) => "was not asked yet".to_owned(),
        }
    }

    /// Keeps how a group was asked. The log tells when that changes.
    fn asked(&self, group: &Arc<str>, error: Option<String>) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &error {
            Some(error) => failed.insert(Arc::clone(group), error.clone()),
            None => failed.remove(group),
        };
        match (before, error) {
            (None, Some(error)) => tracing::warn!(
                group = &**group,
                error,
                "cannot ask what the group has committed: what waits for it goes on waiting; trying again"
            ),
            (Some(_), None) => {
                tracing::info!(group = &**group, "what the group has committed is known again")
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    /// What is known of a group on a partition; `None` before the first answer.
    #[must_use]
    fn seen(&self, group: &Arc<str>, partition: &TopicPartition) -> Option<Seen> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(Arc::clone(group), partition.clone())).cloned()
    }
}

/// A record that waits at a gate, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtGate {
    /// The gate.
    pub node: String,
    /// The record's topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// For how long nothing of the partition has passed.
    pub waited: Duration,
    /// The groups that have not committed past it, each with what is known of it.
    pub waits_for: BTreeMap<String, String>,
}

impl AtGate {
    /// As `/ready` shows it.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "node": self.node, "topic": self.topic, "partition": self.partition, "offset": self.offset,
            "waits_for": self.waits_for, "seconds": self.waited.as_secs(),
        })
    }
}

impl EngineHandle {
    /// What waits at gates now. Such an instance is ready: it is no fault of its own.
    #[must_use]
    pub fn at_gates(&self) -> Vec<AtGate> {
        let topology = self.topology();
        let show = |Waiting { task, node, blocked }: Waiting| {
            let inputs = topology.inputs(task.sub);
            let topic = inputs.get(usize::from(blocked.topic)).map_or("", |input| &input.name);
            let commits = match &topology.nodes[node].kind {
                NodeKind::Operator(config) => config.watches().and_then(|w| w.topic).unwrap_or(topic),
                NodeKind::Source(_) | NodeKind::Sink(_) => topic,
            };
            let partition = TopicPartition::new(commits, task.partition);
            let state =
                |group: &Arc<str>| ((**group).to_owned(), self.shared.gates.describe(group, &partition));
            AtGate {
                node: topology.nodes[node].name.clone(),
                topic: topic.to_owned(),
                partition: task.partition,
                offset: blocked.offset,
                waited: SystemClock.now().since(blocked.since).duration(),
                waits_for: blocked.groups.iter().map(state).collect(),
            }
        };
        self.shared.gates.waiting().into_iter().map(show).collect()
    }
}

/// A group that a gate waits for.
struct Watched {
    /// The gate.
    node: usize,
    group: Arc<str>,
    /// The sub-topology that it stands in.
    sub: usize,
    /// Where the group commits, as the gate's source names it or the gate itself.
    topic: Arc<str>,
}

/// The loop.
pub(super) struct Watch {
    admin: Arc<Admin>,
    shared: Arc<Shared>,
    inboxes: Vec<Inbox>,
    watched: Vec<Watched>,
    poll: Duration,
    /// What the tasks were told.
    told: BTreeMap<(TaskId, Arc<str>, Arc<str>), i64>,
    /// Partitions of which a metric stands.
    shown: Vec<(usize, Arc<str>, i32)>,
    asked: Instant,
}

/// What the topology's gates wait for; `None` where it has none.
pub(super) fn watch(
    topology: &Topology,
    admin: Arc<Admin>,
    shared: Arc<Shared>,
    inboxes: Vec<Inbox>,
) -> Option<Watch> {
    let mut watched = Vec::new();
    let mut poll = IDLE;
    for (sub, part) in topology.subs.iter().enumerate() {
        for &node in &part.nodes {
            let NodeKind::Operator(config) = &topology.nodes[node].kind else { continue };
            let Some(watches) = config.watches() else { continue };
            poll = poll.min(watches.poll.duration());
            let sources =
                topology.nodes[node].inputs.iter().filter_map(|i| match &topology.nodes[i.node].kind {
                    NodeKind::Source(source) => Some(source.topics()),
                    NodeKind::Operator(_) | NodeKind::Sink(_) => None,
                });
            let read: Vec<Arc<str>> = sources.flatten().map(Arc::from).collect();
            let topics = watches.topic.map_or(read, |topic| vec![topic.into()]);
            for group in watches.groups {
                let group: Arc<str> = group.as_str().into();
                let of = |topic: &Arc<str>| Watched {
                    node,
                    group: Arc::clone(&group),
                    sub,
                    topic: Arc::clone(topic),
                };
                watched.extend(topics.iter().map(of));
            }
        }
    }
    (!watched.is_empty()).then(|| Watch {
        admin,
        shared,
        inboxes,
        watched,
        poll,
        told: BTreeMap::new(),
        shown: Vec::new(),
        asked: Instant::now(),
    })
}

impl Watch {
    /// Runs until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        loop {
            let waits = !shared.gates.waiting().is_empty();
            let pause = if waits { self.poll } else { IDLE };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause.saturating_sub(self.asked.elapsed())) => {}
                () = shared.gates.began.notified(), if !waits => {
                    tokio::time::sleep(self.poll.saturating_sub(self.asked.elapsed())).await;
                }
            }
            let call = tokio::task::spawn_blocking(move || {
                self.ask();
                self
            });
            tokio::select! {
                () = stop.cancelled() => return,
                answered = call => match answered {
                    Ok(back) => self = back,
                    Err(error) => {
                        tracing::error!(%error, "the commits of other groups are not asked for any more: gates stay closed");
                        return;
                    }
                },
            }
        }
    }

    fn ask(&mut self) {
        let since = self.asked.elapsed();
        self.asked = Instant::now();
        let tasks: Vec<TaskId> = self.shared.status().tasks.into_keys().collect();
        let waiting = self.shared.gates.waiting();
        let mut groups: Vec<Arc<str>> = self.watched.iter().map(|w| Arc::clone(&w.group)).collect();
        groups.sort();
        groups.dedup();
        for group in &groups {
            let mut partitions = Vec::new();
            for w in self.watched.iter().filter(|w| w.group == *group) {
                let of = |id: &TaskId| TopicPartition::new(Arc::clone(&w.topic), id.partition);
                partitions.extend(tasks.iter().filter(|id| id.sub == w.sub).map(of));
            }
            partitions.sort();
            partitions.dedup();
            if partitions.is_empty() {
                continue;
            }
            let error = self.look(group, &partitions).err().map(|e| e.to_string());
            self.shared.metrics.gate_polled(group, error.is_none());
            self.shared.gates.asked(group, error);
        }
        self.tell(&tasks, &waiting);
        self.show(&tasks, &waiting, since);
    }

    /// Asks for one group, and keeps the answers.
    fn look(&self, group: &Arc<str>, partitions: &[TopicPartition]) -> Result<(), crate::kafka::AdminError> {
        let committed = self.admin.committed(group, partitions)?;
        let ends = self.admin.end_offsets(partitions)?;
        let mut known = self.shared.gates.known.lock().unwrap_or_else(PoisonError::into_inner);
        for ((partition, offset), end) in partitions.iter().zip(committed).zip(ends) {
            let now = match offset {
                GroupOffset::Pending => continue,
                GroupOffset::None => Known::Nothing,
                GroupOffset::At(next) if next > end => Known::Beyond(next),
                GroupOffset::At(next) => Known::Next(next),
            };
            known.insert((Arc::clone(group), partition.clone()), Seen { known: now, end });
        }
        Ok(())
    }

    /// Tells the tasks what changed, and those that wait what is known: one that was restored has forgotten it.
    fn tell(&mut self, tasks: &[TaskId], waiting: &[Waiting]) {
        self.told.retain(|(id, _, _), _| tasks.contains(id));
        for w in &self.watched {
            for id in tasks.iter().filter(|id| id.sub == w.sub) {
                let partition = TopicPartition::new(Arc::clone(&w.topic), id.partition);
                let Some(seen) = self.shared.gates.seen(&w.group, &partition) else { continue };
                let next = if let Known::Next(next) = seen.known { next } else { -1 };
                let waits = waiting.iter().any(|x| x.task == *id && x.blocked.groups.contains(&w.group));
                let key = (*id, Arc::clone(&w.group), Arc::clone(&w.topic));
                if self.told.insert(key, next) == Some(next) && !waits {
                    continue;
                }
                let commits = Commits { group: Arc::clone(&w.group), topic: Arc::clone(&w.topic), next };
                // The workers that do not have the task pass over it.
                for inbox in &self.inboxes {
                    inbox.send(Message::Commits { id: *id, commits: commits.clone() });
                }
            }
        }
    }

    fn show(&mut self, tasks: &[TaskId], waiting: &[Waiting], since: Duration) {
        let mut shown = Vec::new();
        for w in &self.watched {
            let blocked = waiting.iter().any(|x| x.node == w.node && x.blocked.groups.contains(&w.group));
            self.shared.metrics.gate_blocked(w.node, &w.group, blocked, since);
            for id in tasks.iter().filter(|id| id.sub == w.sub) {
                let partition = TopicPartition::new(Arc::clone(&w.topic), id.partition);
                if let Some(Seen { known, end }) = self.shared.gates.seen(&w.group, &partition) {
                    let next = if let Known::Next(next) = known { next } else { 0 };
                    self.shared.metrics.gate_lag(w.node, &w.group, id.partition, end - next);
                }
                shown.push((w.node, Arc::clone(&w.group), id.partition));
            }
        }
        for gone in self.shown.iter().filter(|s| !shown.contains(s)) {
            self.shared.metrics.gate_gone(gone.0, &gone.1, gone.2);
        }
        self.shown = shown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_cannot_be_asked_is_told_from_one_that_has_committed_nothing() {
        let gates = Gates::default();
        let (group, partition): (Arc<str>, _) = ("b".into(), TopicPartition::new("in", 0));
        let describe = || gates.describe(&group, &partition);
        assert_eq!(describe(), "was not asked yet");
        gates.asked(&group, Some("not authorized".into()));
        assert_eq!(describe(), "cannot be asked: not authorized");
        gates.asked(&group, None);
        let seen = Seen { known: Known::Next(7), end: 9 };
        gates.known.lock().expect("a lock").insert((Arc::clone(&group), partition.clone()), seen);
        assert_eq!(describe(), "has committed 7");
        gates.asked(&group, Some("no answer in time".into()));
        assert_eq!(describe(), "has committed 7, and cannot be asked now: no answer in time");
    }
}
