//! What the threads of an engine share: how the topology is, and why it ends.
//!
//! Written by the worker threads (a task's state), the poller's thread (the group), the threads of global tables and
//! the drivers (a failure), and by what a start waits for; read by the admin server, the live view of `dev` and the
//! engine itself. Invariants: locks are held for moments only; of several failures the first is kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::EngineError;
use super::handle::Asked;
use crate::runtime::metrics::Metrics;
use crate::runtime::task::TaskId;
use crate::runtime::worker::TaskStatus;

/// What `/ready` and the logs say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What is being waited for, if anything; empty once the group was joined.
    pub waiting: Vec<String>,
    /// What went missing while everything ran.
    pub missing: Option<String>,
    /// A stop has begun.
    pub stopping: bool,
    /// Tasks by state.
    pub tasks: BTreeMap<TaskId, TaskStatus>,
    /// An assignment has come (it may be empty), or none is needed.
    pub joined: bool,
}

impl Status {
    /// What it waits for, in words.
    #[must_use]
    pub fn reasons(&self) -> Vec<&str> {
        let stopping = self.stopping.then_some("nothing: it is stopping");
        self.waiting.iter().chain(&self.missing).map(String::as_str).chain(stopping).collect()
    }

    /// Everything assigned runs?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.joined
            && self.waiting.is_empty()
            && self.missing.is_none()
            && !self.stopping
            && self.tasks.values().all(|s| *s != TaskStatus::Restoring)
    }
}

/// What the threads share: each field says who else holds it.
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
    /// All metrics.
    pub(super) metrics: Metrics,
}

impl Shared {
    /// Nothing runs yet, nothing has failed.
    pub(super) fn new(metrics: Metrics) -> Shared {
        Shared {
            status: Mutex::default(),
            failure: Mutex::default(),
            failed: CancellationToken::new(),
            ended: CancellationToken::new(),
            asked: Mutex::default(),
            metrics,
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

    /// Something that was there is missing now; `None`: no more.
    pub(super) fn miss(&self, what: Option<String>) {
        let mut status = self.status_mut();
        if status.missing != what {
            match &what {
                Some(what) => tracing::warn!(what, "waiting"),
                None => tracing::info!("what was missing is there again"),
            }
            status.missing = what;
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
        Some(status) => now.tasks.insert(id, status),
        None => now.tasks.remove(&id),
    };
    if ends && !now.tasks.is_empty() && now.tasks.values().all(|s| *s == TaskStatus::Ended) {
        shared.ended.cancel();
    }
    // Those that have ended are in no metric.
    for state in [TaskStatus::Restoring, TaskStatus::Running] {
        shared.metrics.set_tasks(state.name(), now.tasks.values().filter(|s| **s == state).count());
    }
}
