//! The commit thread of a worker: sealed epochs whose deliveries are durable become durable themselves.
//!
//! With a changelog: one Kafka transaction holds the epochs' rows and the source offsets, then each task's rows go to its
//! backend in one write. Without one (no state, or no Kafka) the backend is written first and the offsets after it. The
//! worker goes on processing meanwhile; it hears of the result through its inbox.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::inbox::{Handle, Inbox, Message};
use super::metrics::CheckpointMetrics;
use super::task::Sealed;
use crate::kafka::{GroupHandle, OutRecord, TopicPartition, TxnError, TxnWriter};
use crate::model::Headers;
use crate::state::{Backend, changelog};

/// How long one commit may take before it counts as failed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

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
}

/// How commits are made.
pub enum CommitMode {
    /// Rows and offsets in one transaction. Opens the producer (again, after it was fenced).
    Transaction(Box<dyn FnMut() -> Result<TxnWriter, String> + Send>),
    /// Offsets alone, by the consumer.
    Offsets,
    /// Nothing in Kafka.
    Local,
}

/// The worker's side.
pub struct Committer {
    jobs: Option<SyncSender<Vec<Part>>>,
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
        // A task has one checkpoint under way, so this is never full but with thousands of tasks.
        let (send, receive) = sync_channel(1024);
        let mut run = Run { mode, writer: None, group, inbox, metrics };
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || run.all(&receive))?;
        Ok(Committer { jobs: Some(send), thread: Some(thread) })
    }

    /// Hands a checkpoint over; gives it back when the thread is busy with others.
    ///
    /// # Errors
    /// The parts, to be tried again later.
    pub fn submit(&self, parts: Vec<Part>) -> Result<(), Vec<Part>> {
        match &self.jobs {
            Some(jobs) => jobs.try_send(parts).map_err(|e| match e {
                std::sync::mpsc::TrySendError::Full(parts)
                | std::sync::mpsc::TrySendError::Disconnected(parts) => parts,
            }),
            None => Err(parts),
        }
    }

    /// Ends the thread after what it has.
    pub fn join(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
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
    fn all(&mut self, jobs: &Receiver<Vec<Part>>) {
        while let Ok(parts) = jobs.recv() {
            let started = Instant::now();
            let handles: Vec<Handle> = parts.iter().map(|p| p.handle).collect();
            let mut parts = parts;
            parts.iter_mut().for_each(|p| p.sealed.finish());
            match self.commit(parts) {
                Ok(()) => {
                    self.metrics.done(started.elapsed());
                    self.inbox.send(Message::Committed(handles));
                }
                Err(message) => {
                    self.metrics.failed();
                    tracing::warn!(message, "checkpoint not committed; its tasks go back to the last one");
                    self.inbox.send(Message::Rewind(handles));
                }
            }
        }
    }

    fn commit(&mut self, parts: Vec<Part>) -> Result<(), String> {
        let mut offsets: Vec<(TopicPartition, i64)> = Vec::new();
        for part in &parts {
            let partition = part.handle.id.partition;
            offsets.extend(
                part.offsets.iter().map(|(t, next)| (TopicPartition::new(Arc::clone(t), partition), *next)),
            );
        }
        match &mut self.mode {
            CommitMode::Local => {
                for part in &parts {
                    part.backend.write(&part.sealed.rows).map_err(|e| e.to_string())?;
                }
                Ok(())
            }
            CommitMode::Offsets => {
                for part in &parts {
                    part.backend.write(&part.sealed.rows).map_err(|e| e.to_string())?;
                }
                match (&self.group, offsets.is_empty()) {
                    (Some(group), false) => group.commit(&offsets).map_err(|e| e.to_string()),
                    _ => Ok(()),
                }
            }
            CommitMode::Transaction(open) => {
                let group = self.group.as_ref().ok_or("no consumer group")?;
                let writer = match &mut self.writer {
                    Some(writer) => writer,
                    None => self.writer.insert(open()?),
                };
                match transact(writer, group, &parts, &offsets) {
                    Ok(ends) => {
                        for part in &parts {
                            apply(part, &ends)?;
                        }
                        Ok(())
                    }
                    Err(error) => {
                        // The next owner of the state reads it back: what this transaction became must be settled
                        // first, by an abort, or by a new producer of the same id, which ends whatever was open.
                        let aborted = !matches!(error, TxnError::Fenced(_) | TxnError::Fatal(_))
                            && writer.abort(COMMIT_TIMEOUT).is_ok();
                        if !aborted {
                            self.writer = None;
                            self.writer = Some(open()?);
                        }
                        Err(error.to_string())
                    }
                }
            }
        }
    }
}

fn transact(
    writer: &mut TxnWriter,
    group: &GroupHandle,
    parts: &[Part],
    offsets: &[(TopicPartition, i64)],
) -> Result<Vec<(TopicPartition, i64)>, TxnError> {
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
    let metadata =
        group.group_metadata().ok_or_else(|| TxnError::Abort("this instance is not in the group".into()))?;
    writer.commit(offsets, Some(&metadata), COMMIT_TIMEOUT).map(|c| c.ends)
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
