//! Restores a task: opens its local rows, reads the gap to the end of its changelog, then opens the task.
//!
//! Runs on the blocking threads of tokio, a few at a time; the worker goes on with its other tasks meanwhile. What has to
//! wait (for an answer, for an open transaction, for an earlier owner) gives its thread to the next one, keeps its store,
//! and is tried again: a question without an answer stops no other partition.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle as TokioHandle;
use tokio::sync::Semaphore;

use super::failpoint;
use crate::kafka::{Admin, GroupOffset, KafkaConfig, RestoreError, TopicPartition, restore};
use crate::model::{Clock, SystemClock, Timestamp};
use crate::runtime::inbox::{Message, Restored, Unrestored};
use crate::runtime::metrics::Metrics;
use crate::runtime::task::{Step, Task, TaskError, TaskId, TaskOptions, applied_positions};
use crate::runtime::worker::Order;
use crate::state::{Backend, MemoryBackend, RocksBackend, RocksEnv, Row, StateDir, StateError, changelog};
use crate::topology::{Changelog, Topology};

/// Tasks restored at a time.
const AT_ONCE: usize = 4;
/// Local rows older than this are not brought up to date but read anew: half of the changelogs' `delete.retention.ms`.
pub(in crate::runtime) const OUTDATED_MS: i64 = 12 * 3_600_000;
/// How long to wait for a store that no task of this process has but that refuses to open: its last owner is closing
/// it.
const CLOSING: Duration = Duration::from_secs(10);
/// How long to wait before logging what is waited for, and between two such lines.
const SAY: Duration = Duration::from_secs(10);
/// How long an answer that says "not yet" is asked for again before others have their turn.
const ASK: Duration = Duration::from_millis(200);
/// Before another try: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// What a restore has come to, from one try to the next.
struct Begun {
    started: Instant,
    said: Instant,
    pause: Duration,
    /// The task's store, once it is open.
    store: Option<Arc<RocksBackend>>,
    /// Since when the store does not open although no task of this process has it.
    refuses: Option<Instant>,
    /// Local rows are recent enough to be caught up.
    recent: bool,
    rows: u64,
}

impl Begun {
    fn new() -> Begun {
        let (now, pause) = (Instant::now(), PAUSE.0);
        Begun { started: now, said: now, pause, store: None, refuses: None, recent: false, rows: 0 }
    }
}

/// Why a try ended.
enum Halt {
    /// To be tried again: what it waits for.
    Later(String),
    /// For good.
    Ended(Unrestored),
}

impl From<String> for Halt {
    fn from(message: String) -> Halt {
        Halt::Ended(message.into())
    }
}

/// What restoring needs. Shared by the workers.
#[derive(Clone)]
pub struct Restorer(Arc<Parts>);

/// What it is given at a start.
pub(in crate::runtime) struct Given {
    pub topology: Arc<Topology>,
    pub kafka: Option<KafkaConfig>,
    pub admin: Option<Arc<Admin>>,
    /// Changelog of each sub-topology, where there is one.
    pub changelogs: Arc<Vec<Option<Arc<str>>>>,
    /// What every task is told; how far the wall clock stays behind comes with the order.
    pub options: TaskOptions,
    /// The state directory.
    pub dir: PathBuf,
    pub env: RocksEnv,
    pub metrics: Metrics,
    pub tokio: TokioHandle,
}

struct Parts {
    given: Given,
    /// Sees offsets beyond open transactions.
    ends: Option<Arc<Admin>>,
    room: Arc<Semaphore>,
    /// The stores that tasks of this process have or had. Locked by restores, for moments.
    stores: Mutex<BTreeMap<TaskId, Weak<RocksBackend>>>,
}

impl Restorer {
    pub(in crate::runtime) fn new(given: Given) -> Restorer {
        let ends = given.kafka.as_ref().filter(|_| given.admin.is_some());
        let ends = ends
            .and_then(|config| Admin::open_uncommitted(config, Duration::from_secs(5)).ok().map(Arc::new));
        let room = Arc::new(Semaphore::new(AT_ONCE));
        Restorer(Arc::new(Parts { given, ends, room, stores: Mutex::default() }))
    }

    /// For a worker: a function that starts a restore; the result comes as a message.
    pub(in crate::runtime) fn handle(&self) -> Box<dyn Fn(Order) + Send> {
        let this = Arc::clone(&self.0);
        Box::new(move |order| {
            let parts = Arc::clone(&this);
            let tokio = parts.given.tokio.clone();
            let runner = tokio.clone();
            let span = tracing::Span::current();
            tokio.spawn(async move {
                let (handle, inbox, name) = (order.handle, order.inbox.clone(), order.name.clone());
                let (mut order, mut begun) = (order, Begun::new());
                let result = loop {
                    // The semaphore is never closed.
                    let room = Arc::clone(&parts.room).acquire_owned().await;
                    let parts = Arc::clone(&parts);
                    let span = span.clone();
                    let one_try = runner.spawn_blocking(move || {
                        let result = span.in_scope(|| parts.restore(&order, &mut begun));
                        (result, order, begun)
                    });
                    let tried = one_try.await;
                    drop(room);
                    let what = match tried {
                        Ok((Ok(restored), ..)) => break Ok(restored),
                        Ok((Err(Halt::Ended(e)), ..)) => break Err(e),
                        Ok((Err(Halt::Later(what)), back, so_far)) => {
                            (order, begun) = (back, so_far);
                            what
                        }
                        Err(e) => break Err(Unrestored::Failed(format!("restore panicked: {e}"))),
                    };
                    if begun.said.elapsed() > SAY {
                        begun.said = Instant::now();
                        tracing::warn!(task = name, what, "the restore waits");
                    }
                    tokio::select! {
                        () = order.unwanted.cancelled() => break Err(Unrestored::Failed(UNWANTED.to_owned())),
                        () = tokio::time::sleep(begun.pause) => {}
                    }
                    begun.pause = (begun.pause * 2).min(PAUSE.1);
                };
                inbox.send(Message::Restored { handle, result: Box::new(result) });
            });
        })
    }
}

/// Why a restore ends whose assignment is over.
const UNWANTED: &str = "the assignment is over";

impl Parts {
    /// One try.
    fn restore(&self, order: &Order, begun: &mut Begun) -> Result<Restored, Halt> {
        let id = order.handle.id;
        let sub = &self.given.topology.subs[id.sub];
        let dir = StateDir::task(&self.given.dir, &sub.name, id.partition);
        let (backend, offsets): (Arc<dyn Backend>, _) =
            if self.given.topology.settings.state.changelog == Changelog::Off {
                // State is what reading again from the low watermark makes of it: with old rows, records would be
                // counted twice.
                (Arc::new(MemoryBackend::default()), self.offsets(order, &sub.topics)?)
            } else {
                let mut store = self.open(order, begun, &dir)?;
                let offsets = match &self.given.changelogs[id.sub] {
                    Some(topic) => {
                        let changelog = TopicPartition::new(Arc::clone(topic), id.partition);
                        if !begun.recent && self.is_outdated(order, &store, &changelog)? {
                            drop(store);
                            begun.store = None;
                            std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
                            store = self.open(order, begun, &dir)?;
                        }
                        begun.recent = true;
                        self.agree(order, &store, &changelog, &sub.topics, &mut begun.rows)?
                    }
                    None => self.offsets(order, &sub.topics)?,
                };
                (store, offsets)
            };
        let firsts = self.firsts(order, &sub.topics, &offsets)?;
        // No more of them begin.
        if order.gates.iter().any(|gate| !gate.is_idle()) {
            return Err(Halt::Later("calls of an earlier assignment are still under way".to_owned()));
        }
        let mut step = Step::default();
        let options = TaskOptions { delay: order.delay, ..self.given.options.clone() };
        let task = Task::open(&self.given.topology, id, &backend, &options, SystemClock.now(), &mut step);
        let task = task.map_err(|e| match e {
            TaskError::Rejected { .. } => Halt::Ended(Unrestored::Stopped(e)),
            TaskError::State(e) => Halt::from(e.to_string()),
        })?;
        let ms = u64::try_from(begun.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(task = order.name, rows = begun.rows, ms, "restored");
        Ok(Restored { task, backend, step, offsets, firsts })
    }

    /// Are local rows so far behind that tombstones may be missing from the gap? Compaction drops one when it is older than
    /// the changelog's `delete.retention.ms`, and the row that it deleted would stay for ever.
    fn is_outdated(
        &self,
        order: &Order,
        store: &RocksBackend,
        changelog: &TopicPartition,
    ) -> Result<bool, Halt> {
        let Some(admin) = &self.given.admin else { return Ok(false) };
        let from = changelog::position(store).map_err(|e| e.to_string())?;
        if from == 0 {
            return Ok(false);
        }
        let since = Timestamp(SystemClock.now().0 - OUTDATED_MS);
        let fresh = order.ask(|| admin.offsets_since(std::slice::from_ref(changelog), since))?;
        let fresh = match fresh.first().copied().flatten() {
            Some(offset) => offset,
            // All records are older.
            None => {
                let ends = self.ends.as_deref().unwrap_or(admin);
                let end = order.ask(|| ends.end_offsets(std::slice::from_ref(changelog)))?;
                end.first().copied().unwrap_or(0)
            }
        };
        let outdated = misses_old_rows(from, fresh);
        if outdated {
            tracing::info!(%changelog, from, fresh, "local state is too old to be caught up; it is made anew");
        }
        Ok(outdated)
    }

    /// Opens the task's store. While an earlier assignment in this process has it, say in a commit that waits for a
    /// broker, it is waited for.
    fn open(&self, order: &Order, begun: &mut Begun, dir: &Path) -> Result<Arc<RocksBackend>, Halt> {
        if let Some(store) = &begun.store {
            return Ok(Arc::clone(store));
        }
        crate::state::make_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let ours = || self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if ours().get(&order.handle.id).is_some_and(|store| store.strong_count() > 0) {
            begun.refuses = None;
            return Err(Halt::Later("an earlier assignment in this process still has the store".to_owned()));
        }
        match RocksBackend::open(dir, &self.given.env) {
            Ok(store) => {
                let store = Arc::new(store);
                ours().insert(order.handle.id, Arc::downgrade(&store));
                begun.store = Some(Arc::clone(&store));
                Ok(store)
            }
            Err(e) if begun.refuses.get_or_insert_with(Instant::now).elapsed() > CLOSING => {
                Err(Halt::from(e.to_string()))
            }
            Err(e) => Err(Halt::Later(e.to_string())),
        }
    }

    /// Brings local rows up to the end of the changelog and finds the offsets that belong to them.
    ///
    /// One transaction made both, but its markers reach the partitions one after the other. So the offsets are asked when
    /// no transaction has them, then rows are read up to the high watermark, which waits for what is still open there;
    /// offsets that are the same after that as before belong to these rows.
    fn agree(
        &self,
        order: &Order,
        backend: &Arc<RocksBackend>,
        partition: &TopicPartition,
        topics: &[String],
        rows: &mut u64,
    ) -> Result<Vec<(usize, i64)>, Halt> {
        let mut offsets = self.offsets(order, topics)?;
        loop {
            self.catch_up(order, backend, partition, rows)?;
            let again = self.offsets(order, topics)?;
            if again == offsets {
                break;
            }
            offsets = again;
        }
        let reached = applied_positions(&**backend).map_err(|e| e.to_string())?;
        let at = |topic: usize| reached.iter().find(|(t, _)| *t == topics[topic]).map(|(_, next)| *next);
        for (topic, next) in &offsets {
            let state = at(*topic);
            if state.is_some_and(|state| state != *next) || state.is_none() && reached.is_empty() && *next > 0
            {
                let topic = &topics[*topic];
                tracing::warn!(
                    %partition, topic, committed = next, state,
                    "the group's offset differs from that of the state: it was moved from outside; continuing there"
                );
            }
        }
        // Where the group has no offset (any more), state knows how far it is.
        let missing = (0..topics.len()).filter(|t| offsets.iter().all(|(topic, _)| topic != t));
        let known: Vec<(usize, i64)> = missing.filter_map(|t| Some((t, at(t)?))).collect();
        Ok([offsets, known].concat())
    }

    /// Brings local rows up to the end of the changelog.
    fn catch_up(
        &self,
        order: &Order,
        backend: &Arc<RocksBackend>,
        partition: &TopicPartition,
        total: &mut u64,
    ) -> Result<(), Halt> {
        let (Some(admin), Some(kafka)) = (&self.given.admin, &self.given.kafka) else { return Ok(()) };
        let id = order.handle.id;
        let from = changelog::position(&**backend).map_err(|e| e.to_string())?;
        let group = format!("{}-restore", self.given.topology.name);
        // The high watermark, not the last stable offset: markers are written after a commit is answered, and what an
        // earlier owner has committed must be read. A reader below it waits for transactions that are still open.
        let ends = self.ends.as_deref().unwrap_or(admin);
        let one = std::slice::from_ref(partition);
        let end = order.ask(|| ends.end_offsets(one))?.first().copied().unwrap_or(0);
        let first = order.ask(|| admin.start_offsets(one))?.first().copied().unwrap_or(0);
        let mut failure: Option<StateError> = None;
        let mut logged = Instant::now();
        let mut on_rows = |rows: &[Row], next: i64, progress: crate::kafka::Progress| {
            self.given.metrics.restoring(id, progress.end - next);
            if logged.elapsed() > Duration::from_secs(2) {
                logged = Instant::now();
                tracing::info!(%partition, next, end = progress.end, "restoring");
            }
            if order.unwanted.is_cancelled() {
                return ControlFlow::Break(());
            }
            match changelog::batch(rows, next).and_then(|rows| backend.write(&rows)) {
                Ok(()) => {
                    failpoint::hit(failpoint::RESTORING);
                    *total += rows.len() as u64;
                    ControlFlow::Continue(())
                }
                Err(e) => {
                    failure = Some(e);
                    ControlFlow::Break(())
                }
            }
        };
        let result = restore(kafka, &group, partition, from.max(first), end, &mut on_rows);
        self.given.metrics.restoring(id, 0);
        match (result, failure) {
            (_, Some(e)) => Err(e.to_string().into()),
            (Err(e @ RestoreError::Ahead { .. }), None) => Err(Halt::from(format!(
                "{e}: the changelog was made anew, or the state directory is another topology's. Remove the local state \
                 with `slackwater reset --local`"
            ))),
            (Err(e @ RestoreError::Stalled { .. }), None) => Err(Halt::Later(e.to_string())),
            (Err(e), None) => Err(e.to_string().into()),
            (Ok(next), None) => {
                let written = changelog::batch(&[], next).and_then(|rows| backend.write(&rows));
                written.map_err(|e| e.to_string().into())
            }
        }
    }

    /// Where the group has committed to, by index of the topic, once no transaction holds an offset of the partition.
    fn offsets(&self, order: &Order, topics: &[String]) -> Result<Vec<(usize, i64)>, Halt> {
        let Some(admin) = &self.given.admin else { return Ok(Vec::new()) };
        let partition = order.handle.id.partition;
        let asked: Vec<TopicPartition> =
            topics.iter().map(|t| TopicPartition::new(t.as_str(), partition)).collect();
        let found = order.ask(|| {
            let found = admin.committed(&self.given.topology.name, &asked).map_err(|e| e.to_string())?;
            let pending = found.contains(&GroupOffset::Pending);
            if pending { Err("a transaction is open".to_owned()) } else { Ok(found) }
        })?;
        let known = found.into_iter().enumerate().filter_map(|(topic, offset)| match offset {
            GroupOffset::At(next) => Some((topic, next)),
            GroupOffset::None | GroupOffset::Pending => None,
        });
        Ok(known.collect())
    }

    /// Where reading starts without a committed offset.
    fn firsts(
        &self,
        order: &Order,
        topics: &[String],
        known: &[(usize, i64)],
    ) -> Result<Vec<(usize, i64)>, Halt> {
        let Some(admin) = &self.given.admin else { return Ok(Vec::new()) };
        let (at, asked): (Vec<usize>, Vec<TopicPartition>) = topics
            .iter()
            .enumerate()
            .filter(|(t, _)| known.iter().all(|(topic, _)| topic != t))
            .map(|(t, name)| (t, TopicPartition::new(name.as_str(), order.handle.id.partition)))
            .unzip();
        let found = order.ask(|| admin.start_offsets(&asked))?;
        Ok(at.into_iter().zip(found).collect())
    }
}

/// Whether there may be rows between the local position and the first row that is young enough. The position that a
/// checkpoint leaves is just before its transaction's marker, so a gap of one offset is that marker and no row; without
/// this rule a partition that was idle for half a day would be rebuilt at its next start. Any other transaction takes
/// at least two offsets.
fn misses_old_rows(from: i64, fresh: i64) -> bool {
    fresh - from > 1
}

impl Order {
    /// Asks until there is an answer, for a moment; then it is left for later, and others have their turn.
    fn ask<T, E: std::fmt::Display>(&self, mut f: impl FnMut() -> Result<T, E>) -> Result<T, Halt> {
        let began = Instant::now();
        loop {
            let error = match f() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            tracing::debug!(%error, "again");
            if self.unwanted.is_cancelled() {
                return Err(Halt::from(UNWANTED.to_owned()));
            }
            if began.elapsed() > ASK {
                return Err(Halt::Later(error.to_string()));
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gap_with_rows_makes_local_state_outdated() {
        // Ahead of the changelog, which is reported elsewhere; at its end; just before its own marker.
        for (from, fresh) in [(9, 3), (7, 7), (7, 8)] {
            assert!(!misses_old_rows(from, fresh), "{from} {fresh}");
        }
        for (from, fresh) in [(7, 9), (1, 1000)] {
            assert!(misses_old_rows(from, fresh), "{from} {fresh}");
        }
    }
}
