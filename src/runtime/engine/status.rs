//! What the threads of an engine share: the state of the topology, and why it ends.
//!
//! Written by the worker threads (a task's state), the poller's thread (the group), the threads of global tables and
//! the drivers (a failure), and by what a start waits for; read by the admin server, the live view of `dev` and the
//! engine itself. Invariants: locks are held for moments only; of several failures the first is kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::EngineError;
use super::commits::Gates;
use super::handle::Asked;
use crate::clients::Clients;
use crate::runtime::metrics::Metrics;
use crate::runtime::task::{TaskError, TaskId};
use crate::runtime::worker::TaskStatus;

/// The state that `/ready` and the logs report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What is being waited for, if anything; empty once the group has been joined.
    pub waiting: Vec<String>,
    /// What is not as it was when everything began to run, by what looks for it.
    pub missing: BTreeMap<&'static str, String>,
    /// Tasks that have stopped at a record, and why.
    pub stopped: BTreeMap<TaskId, String>,
    /// A stop has begun.
    pub stopping: bool,
    /// Tasks by state.
    pub tasks: BTreeMap<TaskId, TaskStatus>,
    /// An assignment (maybe empty) has come, or none is needed.
    pub joined: bool,
}

impl Status {
    /// What it waits for.
    #[must_use]
    pub fn reasons(&self) -> Vec<&str> {
        let stopping = self.stopping.then_some("nothing: it is stopping");
        self.waiting
            .iter()
            .chain(self.missing.values())
            .chain(self.stopped.values())
            .map(String::as_str)
            .chain(stopping)
            .collect()
    }

    /// Whether everything assigned is running.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.joined
            && self.waiting.is_empty()
            && self.missing.is_empty()
            && !self.stopping
            && self.tasks.values().all(|s| matches!(s, TaskStatus::Running | TaskStatus::Ended))
    }
}

/// What the threads share; each field names the threads that use it.
pub(super) struct Shared {
    /// The worker threads, the poller, the admin server; for moments.
    status: Mutex<Status>,
    /// First error of any thread; ends the process.
    pub(super) failure: Mutex<Option<EngineError>>,
    /// Cancelled when `failure` is set.
    pub(super) failed: CancellationToken,
    /// Cancelled when every source has ended and everything is done.
    pub(super) ended: CancellationToken,
    /// The way to ask the engine from outside. Locked by callers, for moments.
    asked: Mutex<Option<Asked>>,
    /// What waits at gates.
    pub(super) gates: Gates,
    /// All metrics.
    pub(super) metrics: Metrics,
    /// The clients of the servers that nodes share: every request to such a server goes through these.
    pub(super) clients: Clients,
}

impl Shared {
    /// The state before anything runs.
    pub(super) fn new(metrics: Metrics, clients: Clients) -> Shared {
        Shared {
            status: Mutex::default(),
            failure: Mutex::default(),
            failed: CancellationToken::new(),
            ended: CancellationToken::new(),
            asked: Mutex::default(),
            gates: Gates::default(),
            metrics,
            clients,
        }
    }

    pub(super) fn status_mut(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> Status {
        self.status_mut().clone()
    }

    pub(super) fn asked(&self) -> MutexGuard<'_, Option<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, error: EngineError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            *failure = Some(error);
        }
        self.failed.cancel();
    }

    pub(super) fn wait_for(&self, what: &str) {
        let mut status = self.status_mut();
        if status.waiting != [what] {
            tracing::warn!(what, "waiting");
            status.waiting = vec![what.to_owned()];
        }
    }

    /// Something is not as it was any more; `None`: it is again. `look` is who says so.
    pub(super) fn miss(&self, look: &'static str, what: Option<String>) {
        let mut status = self.status_mut();
        if status.missing.get(look) == what.as_ref() {
            return;
        }
        match what {
            Some(what) => {
                tracing::warn!(what, "waiting");
                status.missing.insert(look, what);
            }
            None => {
                tracing::info!("{look}: all is there again");
                status.missing.remove(look);
            }
        }
    }

    pub(super) fn go_on(&self) {
        self.status_mut().waiting.clear();
    }
}

/// `None`: the task is not here any more. `ends`: it is over when every task has ended.
pub(super) fn set_status(shared: &Shared, id: TaskId, status: Option<TaskStatus>, ends: bool) {
    let mut now = shared.status_mut();
    match status {
        Some(TaskStatus::Running) if now.stopped.contains_key(&id) => {
            now.tasks.insert(id, TaskStatus::Stopped)
        }
        Some(status) => now.tasks.insert(id, status),
        None => {
            now.stopped.remove(&id);
            now.tasks.remove(&id)
        }
    };
    finish(shared, &now, ends);
}

/// What may be done about a record at which a task has stopped.
const HELP: &str = "mend the node or what makes such records, or let them go with `errors: { on_failure: skip }` or \
                    `errors: { dead_letter: { topic: T } }`, and start again";

/// A task stops at a record that it cannot process; the others go on.
pub(super) fn stop_at_record(shared: &Shared, id: TaskId, task: &str, error: &TaskError, ends: bool) {
    let (topic, partition, offset) = match error {
        TaskError::Rejected { place: Some(at), .. } => {
            (Some(at.topic.as_str()), Some(at.partition), Some(at.offset))
        }
        TaskError::Rejected { place: None, .. } | TaskError::State(_) => (None, None, None),
    };
    tracing::error!(task, topic, partition, offset, %error, help = HELP, "a task has stopped at a record; the others go on");
    let mut now = shared.status_mut();
    now.stopped.insert(id, format!("the task {task} has stopped at a record: {error}: {HELP}"));
    now.tasks.insert(id, TaskStatus::Stopped);
    finish(shared, &now, ends);
}

/// Counts the tasks, and says when nothing is left to be done.
fn finish(shared: &Shared, now: &Status, ends: bool) {
    let over = |s: &TaskStatus| matches!(s, TaskStatus::Ended | TaskStatus::Stopped);
    if ends && !now.tasks.is_empty() && now.tasks.values().all(over) {
        match now.stopped.values().next() {
            // There is no more to come, and no group in which others wait for it.
            Some(why) => shared.fail(EngineError::Failed(why.clone())),
            None => shared.ended.cancel(),
        }
    }
    // Those that have ended are in no metric.
    for state in [TaskStatus::Restoring, TaskStatus::Running, TaskStatus::Stopped] {
        shared.metrics.set_tasks(state.name(), now.tasks.values().filter(|s| **s == state).count());
    }
}
