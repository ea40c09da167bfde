//! The commit thread of a worker: makes sealed epochs durable once their deliveries are.
//!
//! With a changelog: one Kafka transaction holds the epochs' rows and the source offsets, then each task's rows go to
//! its backend in one write. Without one (no state, or no Kafka) the backend is written first and the offsets after it.
//! The worker continues meanwhile and gets the result through its inbox.
//!
//! A checkpoint that certainly did not happen (a rebalance changed the group's generation, a broker was away) is
//! repeated unchanged, for the tasks that are still ours. One that may have happened is not repeated: its tasks are
//! restored, which finds out. Tasks whose sources are not Kafka run in this instance only and need no group: they are
//! committed apart, and tried for as long as it takes, since their input cannot be read again.

pub(in crate::runtime) mod failpoint;
pub(super) mod restore;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::inbox::{Handle, Inbox, Message};
use super::metrics::{CheckpointMetrics, Phase};
use super::task::Sealed;
use crate::kafka::{GroupHandle, Lease, OutRecord, TopicPartition, TxnError, TxnWriter};
use crate::model::{Backoff, Headers, Millis};
use crate::state::{Backend, Spent, changelog};

/// How long one commit may take before it counts as failed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a checkpoint that certainly did not happen is tried.
const TRIES: u32 = 10;
/// How long to wait before it is tried again. A group that rebalances takes a few hundred milliseconds.
const BACKOFF: Backoff = Backoff { base: Millis(50), max: Millis(500) };
/// How long to wait for the thread to end. What it may still do belongs to tasks that are gone.
const JOIN: Duration = Duration::from_secs(1);

/// One task's share of a checkpoint.
pub struct Part {
    /// The task.
    pub handle: Handle,
    /// Its sealed epoch.
    pub sealed: Sealed,
    /// Its state.
    pub backend: Arc<dyn Backend>,
    /// Records of Kafka sinks that are part of the transaction.
    pub outputs: Vec<OutRecord>,
    /// Where its rows go; `None` without a changelog.
    pub changelog: Option<Arc<str>>,
    /// Topic and next offset; empty for sources without offsets.
    pub offsets: Vec<(Arc<str>, i64)>,
    /// The assignments of its partitions. Once one is over, nothing of it may be committed.
    pub leases: Vec<Lease>,
}

impl Part {
    fn is_over(&self) -> bool {
        self.leases.iter().any(Lease::is_over)
    }

    /// Whether no other instance can have its task. Then there are no offsets and no changelog.
    fn is_alone(&self) -> bool {
        self.leases.is_empty()
    }
}

/// Why a checkpoint was not committed.
struct Failure {
    message: String,
    /// It would fail every time: its tasks must stop.
    for_good: bool,
    /// It certainly did not happen, and may be repeated unchanged.
    again: bool,
}

impl Failure {
    fn again(message: impl ToString) -> Failure {
        Failure { message: message.to_string(), for_good: false, again: true }
    }

    fn last(message: impl ToString) -> Failure {
        Failure { message: message.to_string(), for_good: false, again: false }
    }
}

/// How commits are made.
pub enum CommitMode {
    /// Rows and offsets in one transaction. The function opens the producer: at first, and after it was fenced or has
    /// failed.
    Transaction(Box<dyn FnMut() -> Result<TxnWriter, String> + Send>),
    /// Offsets alone, by the consumer.
    Offsets,
    /// Nothing in Kafka.
    Local,
}

enum Job {
    Commit(Vec<Part>),
    /// Rows only to be dropped, which takes a while.
    Free(#[expect(dead_code, reason = "dropped with the job")] Vec<Spent>),
}

/// The worker's side.
pub struct Committer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(
        name: &str,
        mode: CommitMode,
        group: Option<GroupHandle>,
        inbox: Inbox,
        metrics: CheckpointMetrics,
    ) -> std::io::Result<Committer> {
        // A task has one checkpoint in progress, so the queue is full only with thousands of tasks.
        let (send, receive) = sync_channel(1024);
        let mut run = Run { mode, writer: None, group, inbox, metrics };
        let span = tracing::Span::current();
        let all = move || span.in_scope(|| run.all(&receive));
        let thread = std::thread::Builder::new().name(name.into()).spawn(all)?;
        Ok(Committer { jobs: Some(send), thread: Some(thread) })
    }

    /// Hands a checkpoint over; gives it back if the thread is busy with others.
    ///
    /// # Errors
    /// The parts, to be tried again later.
    pub fn submit(&self, parts: Vec<Part>) -> Result<(), Vec<Part>> {
        match &self.jobs {
            Some(jobs) => jobs.try_send(Job::Commit(parts)).map_err(|e| match e {
                TrySendError::Full(Job::Commit(parts)) | TrySendError::Disconnected(Job::Commit(parts)) => {
                    parts
                }
                TrySendError::Full(Job::Free(_)) | TrySendError::Disconnected(Job::Free(_)) => Vec::new(),
            }),
            None => Err(parts),
        }
    }

    /// Drops what an applied epoch left in memory, on this thread, or on the caller's if that is busy.
    pub fn free(&self, spent: Vec<Spent>) {
        if let Some(jobs) = self.jobs.as_ref().filter(|_| !spent.is_empty()) {
            drop(jobs.try_send(Job::Free(spent)));
        }
    }

    /// Ends the thread after its current work, if that does not take long.
    pub fn join(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let end = Instant::now() + JOIN;
            while !thread.is_finished() {
                if Instant::now() > end {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(1));
            }
            // A panic there has been reported by the hook and ends the process.
            drop(thread.join());
        }
    }
}

struct Run {
    mode: CommitMode,
    writer: Option<TxnWriter>,
    group: Option<GroupHandle>,
    inbox: Inbox,
    metrics: CheckpointMetrics,
}

impl Run {
    fn all(&mut self, jobs: &Receiver<Job>) {
        // First, since this ends a transaction that an earlier process with this id left open, which restores wait for.
        if let Err(failure) = self.open() {
            tracing::warn!(error = failure.message, "no transactions yet");
        }
        while let Ok(job) = jobs.recv() {
            let Job::Commit(mut parts) = job else { continue };
            let started = Instant::now();
            parts.iter_mut().for_each(|p| p.sealed.finish());
            self.metrics.phase(Phase::Sort, started.elapsed());
            let (alone, shared): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(Part::is_alone);
            for parts in [alone, shared].into_iter().filter(|parts| !parts.is_empty()) {
                self.checkpoint(parts, started);
            }
        }
    }

    fn checkpoint(&mut self, mut parts: Vec<Part>, started: Instant) {
        let alone = parts.iter().all(Part::is_alone);
        for attempt in 1.. {
            let (over, ours): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(Part::is_over);
            parts = ours;
            if !over.is_empty() {
                tracing::info!(tasks = over.len(), "a checkpoint came too late for partitions that are gone");
                self.inbox.send(Message::Rewind(handles(&over)));
            }
            if parts.is_empty() {
                return;
            }
            match self.commit(&parts) {
                Ok(()) => {
                    self.metrics.done(started.elapsed());
                    self.inbox.send(Message::Committed(handles(&parts)));
                    return;
                }
                Err(Failure { message, for_good: true, .. }) => {
                    self.metrics.failed();
                    self.inbox.send(Message::Failed { handles: handles(&parts), message });
                    return;
                }
                Err(Failure { message, again: true, .. }) if attempt < TRIES || alone => {
                    tracing::info!(error = message, attempt, "checkpoint not committed, once more");
                    std::thread::park_timeout(BACKOFF.ceiling(attempt).duration());
                }
                Err(Failure { message, .. }) => {
                    self.metrics.failed();
                    tracing::warn!(
                        error = message,
                        "checkpoint not committed; its tasks go back to the last one"
                    );
                    self.inbox.send(Message::Rewind(handles(&parts)));
                    return;
                }
            }
        }
    }

    fn open(&mut self) -> Result<(), Failure> {
        if let (CommitMode::Transaction(open), None) = (&mut self.mode, &self.writer) {
            self.writer = Some(open().map_err(Failure::last)?);
        }
        Ok(())
    }

    fn commit(&mut self, parts: &[Part]) -> Result<(), Failure> {
        let mut offsets: Vec<(TopicPartition, i64)> = Vec::new();
        for part in parts {
            let partition = part.handle.id.partition;
            offsets.extend(
                part.offsets.iter().map(|(t, next)| (TopicPartition::new(Arc::clone(t), partition), *next)),
            );
        }
        if parts.iter().all(|part| part.is_alone() && part.outputs.is_empty()) {
            return self.write(parts);
        }
        self.open()?;
        match (&self.mode, &mut self.writer) {
            (CommitMode::Transaction(_), Some(writer)) => {
                let group = self.group.as_ref().ok_or_else(|| Failure::last("no consumer group"))?;
                failpoint::hit(failpoint::SETTLED);
                if failpoint::fails(failpoint::FAILED) {
                    return Err(Failure::last("failpoint"));
                }
                match transact(writer, group, parts, &offsets, &self.metrics) {
                    Ok(ends) => {
                        failpoint::hit(failpoint::COMMITTED);
                        if failpoint::fails(failpoint::DOUBTFUL) {
                            return Err(Failure::last("failpoint"));
                        }
                        let applying = Instant::now();
                        for part in parts {
                            apply(part, &ends).map_err(Failure::last)?;
                        }
                        self.metrics.phase(Phase::Apply, applying.elapsed());
                        failpoint::hit(failpoint::APPLIED);
                        Ok(())
                    }
                    Err(error) => self.give_up(&error),
                }
            }
            // `open` has failed before.
            (CommitMode::Transaction(_), None) => Err(Failure::last("no transactions")),
            (CommitMode::Offsets, _) => {
                self.write(parts)?;
                let started = Instant::now();
                let done = match (&self.group, offsets.is_empty()) {
                    (Some(group), false) => group.commit(&offsets).map_err(|e| {
                        let again = e.retriable || e.rebalanced;
                        Failure { message: e.to_string(), for_good: false, again }
                    }),
                    _ => Ok(()),
                };
                self.metrics.phase(Phase::Commit, started.elapsed());
                done
            }
            (CommitMode::Local, _) => self.write(parts),
        }
    }

    fn write(&self, parts: &[Part]) -> Result<(), Failure> {
        let started = Instant::now();
        for part in parts {
            part.backend.write(&part.sealed.rows).map_err(Failure::last)?;
        }
        self.metrics.phase(Phase::Apply, started.elapsed());
        Ok(())
    }

    /// Makes the outcome of a failed transaction certain. The next reader of state and offsets must find both as they
    /// will stay: that takes an abort, or a new producer with the same id, which ends the open transaction.
    fn give_up(&mut self, error: &TxnError) -> Result<(), Failure> {
        let Some(writer) = &mut self.writer else { return Err(Failure::last(error)) };
        let dead = matches!(error, TxnError::Fenced(_) | TxnError::Fatal(_));
        let in_doubt = writer.is_in_doubt();
        if dead || writer.abort(COMMIT_TIMEOUT).is_err() {
            self.writer = None;
            self.open()?;
        }
        if matches!(error, TxnError::TooLarge(_)) {
            let message = format!(
                "a checkpoint's record is larger than its topic takes (max.message.bytes of the changelog or of a sink's \
                 topic; our own bound is 8 MiB): {error}"
            );
            return Err(Failure { message, for_good: true, again: false });
        }
        Err(if in_doubt { Failure::last(error) } else { Failure::again(error) })
    }
}

fn handles(parts: &[Part]) -> Vec<Handle> {
    parts.iter().map(|p| p.handle).collect()
}

fn transact(
    writer: &mut TxnWriter,
    group: &GroupHandle,
    parts: &[Part],
    offsets: &[(TopicPartition, i64)],
    metrics: &CheckpointMetrics,
) -> Result<Vec<(TopicPartition, i64)>, TxnError> {
    let mut began = Instant::now();
    let mut done = |phase| {
        metrics.phase(phase, began.elapsed());
        began = Instant::now();
    };
    writer.begin()?;
    for part in parts {
        for record in &part.outputs {
            writer.send(record)?;
        }
        let Some(topic) = &part.changelog else { continue };
        for (key, value) in &part.sealed.rows {
            writer.send(&OutRecord {
                topic: Arc::clone(topic),
                partition: Some(part.handle.id.partition),
                key: Some(key.clone()),
                value: value.clone(),
                headers: Headers::default(),
                ts: None,
            })?;
        }
    }
    done(Phase::Produce);
    writer.flush(COMMIT_TIMEOUT)?;
    done(Phase::Flush);
    failpoint::hit(failpoint::PRODUCED);
    let metadata = match parts.iter().all(Part::is_alone) {
        true => None,
        false => {
            let member = group.group_metadata();
            Some(member.ok_or_else(|| TxnError::Abort("this instance is not in the group".into()))?)
        }
    };
    // In this order: see [`GroupHandle::group_metadata`].
    if parts.iter().any(Part::is_over) {
        return Err(TxnError::Abort("a partition is gone".into()));
    }
    writer.add_offsets(offsets, metadata.as_ref(), COMMIT_TIMEOUT)?;
    done(Phase::Offsets);
    failpoint::hit(failpoint::OFFSETS);
    let committed = writer.commit(offsets, metadata.as_ref(), COMMIT_TIMEOUT)?;
    done(Phase::Commit);
    Ok(committed.ends)
}

/// Writes a committed epoch's rows and the changelog offset that they reach, in one batch.
fn apply(part: &Part, ends: &[(TopicPartition, i64)]) -> Result<(), String> {
    let partition = part.handle.id.partition;
    let end = part.changelog.as_ref().and_then(|topic| {
        ends.iter().find(|(at, _)| at.topic == *topic && at.partition == partition).map(|(_, next)| *next)
    });
    let written = match end {
        Some(next) => changelog::batch(&part.sealed.rows, next).and_then(|rows| part.backend.write(&rows)),
        None => part.backend.write(&part.sealed.rows),
    };
    written.map_err(|e| e.to_string())
}
