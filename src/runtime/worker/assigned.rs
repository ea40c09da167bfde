//! One task of one assignment, from its restore to its release: the rules of what may be done with it, and when.
//!
//! The worker calls this, and does the reading, waiting and writing; so does the crash model, with a broker in memory.
//! The rules exist once, here:
//!
//! - an answer for another assignment of the same partition is ignored: every answer carries its [`Handle`];
//! - only one epoch at a time is between its seal and the moment its rows are in the backend; a large one is copied in
//!   pieces, with input in between, and is committed when it is complete;
//! - a task that is leaving takes no input; it is released after an epoch that was sealed since has been applied;
//! - after a checkpoint that was not committed, the task and its readers go back to the last one that was.

use std::sync::Arc;

use crate::model::Timestamp;
use crate::runtime::inbox::Handle;
use crate::runtime::task::{Input, Sealed, Step, Task, TaskError};
use crate::state::Backend;

enum Phase {
    Restoring,
    Running(Box<Running>),
}

struct Running {
    task: Task,
    backend: Arc<dyn Backend>,
    sealed: Option<Sealed>,
    committing: bool,
}

/// The state of a task after a checkpoint that was not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewound {
    /// The answer was for another assignment.
    Stale,
    /// The task was leaving: drop it; its next owner continues from the last checkpoint.
    Gone,
    /// It waits for its restore, under a new handle.
    Restoring,
}

/// A task that is assigned to this instance, and how far it is with commits.
pub struct Assigned {
    handle: Handle,
    phase: Phase,
    /// It takes no more input, is committed once more, and is then released.
    leaving: bool,
    /// Whether its last epoch was sealed.
    last: bool,
    /// Whether its readers are ahead of the checkpoint that it is restored to.
    ahead: bool,
}

impl Assigned {
    /// A task that waits for its restore. `ahead`: its readers have read already.
    #[must_use]
    pub fn new(handle: Handle, ahead: bool) -> Assigned {
        Assigned { handle, phase: Phase::Restoring, leaving: false, last: false, ahead }
    }

    /// The handle whose answers count.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Whether it is leaving.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// The task, once it is restored.
    #[must_use]
    pub fn task(&self) -> Option<&Task> {
        match &self.phase {
            Phase::Restoring => None,
            Phase::Running(running) => Some(&running.task),
        }
    }

    /// The task, once it is restored.
    pub fn task_mut(&mut self) -> Option<&mut Task> {
        match &mut self.phase {
            Phase::Restoring => None,
            Phase::Running(running) => Some(&mut running.task),
        }
    }

    /// Whether records may be read for it now.
    #[must_use]
    pub fn takes_input(&self) -> bool {
        !self.leaving && self.task().is_some_and(Task::wants_input)
    }

    /// The restore is done. True if the readers must go back to where the task starts.
    #[must_use]
    pub fn restored(&mut self, task: Task, backend: Arc<dyn Backend>) -> bool {
        self.phase = Phase::Running(Box::new(Running { task, backend, sealed: None, committing: false }));
        std::mem::take(&mut self.ahead)
    }

    /// Feeds an answer from outside; one for another assignment is ignored.
    ///
    /// # Errors
    /// The task must stop.
    pub fn answer(
        &mut self,
        handle: Handle,
        input: Input,
        now: Timestamp,
        step: &mut Step,
    ) -> Result<(), TaskError> {
        match &mut self.phase {
            Phase::Running(running) if self.handle == handle => running.task.step(input, now, step),
            Phase::Running(_) | Phase::Restoring => Ok(()),
        }
    }

    /// Whether an epoch is between its seal and the backend: then no other can be sealed.
    #[must_use]
    pub fn is_checkpointing(&self) -> bool {
        match &self.phase {
            Phase::Restoring => false,
            Phase::Running(running) => running.sealed.is_some() || running.committing,
        }
    }

    /// Whether a sealed epoch is still incomplete: [`Assigned::seal`] continues with it.
    #[must_use]
    pub fn is_copying(&self) -> bool {
        self.task().is_some_and(Task::is_copying)
    }

    /// Seals the open epoch, if it is time (`due`, or it leaves) and the one before is done; or continues with the
    /// epoch that is still incomplete. True if there was something to do.
    ///
    /// # Errors
    /// The task must stop.
    pub fn seal(&mut self, due: bool, now: Timestamp) -> Result<bool, TaskError> {
        if let Phase::Running(running) = &mut self.phase
            && running.task.is_copying()
        {
            let Running { task, sealed, .. } = &mut **running;
            if let Some(sealed) = sealed {
                task.seal_more(sealed, now)?;
            }
            return Ok(true);
        }
        if self.is_checkpointing() || !(due || self.leaving && !self.last) {
            return Ok(false);
        }
        let Phase::Running(running) = &mut self.phase else { return Ok(false) };
        running.sealed = running.task.seal_begin(now)?;
        self.last = self.leaving;
        Ok(running.sealed.is_some())
    }

    /// The sealed epoch, once all its deliveries are durable, to be committed. [`Assigned::put_back`],
    /// [`Assigned::applied`] or [`Assigned::rewind`] must follow.
    pub fn take_settled(&mut self) -> Option<(Sealed, Arc<dyn Backend>)> {
        let Phase::Running(running) = &mut self.phase else { return None };
        if running.committing || !running.task.is_settled() {
            return None;
        }
        let mut sealed = running.sealed.take()?;
        sealed.outputs.append(&mut running.task.take_late_outputs());
        running.committing = true;
        Some((sealed, Arc::clone(&running.backend)))
    }

    /// Takes back an epoch from [`Assigned::take_settled`] that could not be committed yet.
    pub fn put_back(&mut self, sealed: Sealed) {
        if let Phase::Running(running) = &mut self.phase {
            running.sealed = Some(sealed);
            running.committing = false;
        }
    }

    /// The epoch is committed and its rows are in the backend. True if it was this assignment's.
    pub fn applied(&mut self, handle: Handle) -> bool {
        match &mut self.phase {
            Phase::Running(running) if self.handle == handle => {
                running.committing = false;
                running.task.applied();
                true
            }
            Phase::Running(_) | Phase::Restoring => false,
        }
    }

    /// It takes no more input, and leaves once it is committed.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether it may be dropped: it leaves, and nothing is in progress that would be done again elsewhere.
    #[must_use]
    pub fn may_go(&self) -> bool {
        self.leaving
            && match &self.phase {
                Phase::Restoring => true,
                Phase::Running(running) => {
                    self.last
                        && running.sealed.is_none()
                        && !running.committing
                        && running.task.outstanding() == 0
                }
            }
    }

    /// The checkpoint under `handle` was not committed: back to the last one, under a new handle.
    pub fn rewind(&mut self, handle: Handle, next: Handle) -> Rewound {
        if self.handle != handle {
            return Rewound::Stale;
        }
        if self.leaving {
            return Rewound::Gone;
        }
        *self = Assigned::new(next, true);
        Rewound::Restoring
    }
}
