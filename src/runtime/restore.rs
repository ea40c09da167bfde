//! Restoring a task: its local rows, the gap to the end of its changelog, then the task itself.
//!
//! Runs on the blocking threads of tokio, a few at a time; the worker goes on with its other tasks meanwhile.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle as TokioHandle;
use tokio::sync::Semaphore;

use super::inbox::{Handle, Inbox, Message, Restored};
use super::metrics::Metrics;
use super::task::{Step, Task, TaskId};
use crate::kafka::{Admin, GroupOffset, KafkaConfig, RestoreError, TopicPartition, restore};
use crate::model::{Clock, SystemClock};
use crate::state::{Backend, MemoryBackend, RocksBackend, RocksEnv, Row, StateError, changelog};
use crate::topology::{Changelog, Topology};

/// Tasks restored at a time.
const AT_ONCE: usize = 4;

/// What restoring needs; shared by the workers.
#[derive(Clone)]
pub struct Restorer(Arc<Parts>);

struct Parts {
    topology: Arc<Topology>,
    kafka: Option<KafkaConfig>,
    admin: Option<Arc<Admin>>,
    changelogs: Arc<Vec<Option<Arc<str>>>>,
    transactional: Vec<usize>,
    dir: PathBuf,
    env: RocksEnv,
    metrics: Metrics,
    tokio: TokioHandle,
    room: Arc<Semaphore>,
}

impl Restorer {
    #[expect(clippy::too_many_arguments, reason = "one call, in the engine's start")]
    pub(super) fn new(
        topology: Arc<Topology>,
        kafka: Option<KafkaConfig>,
        admin: Option<Arc<Admin>>,
        changelogs: Arc<Vec<Option<Arc<str>>>>,
        transactional: Vec<usize>,
        dir: PathBuf,
        env: RocksEnv,
        metrics: Metrics,
        tokio: TokioHandle,
    ) -> Restorer {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        Restorer(Arc::new(Parts {
            topology,
            kafka,
            admin,
            changelogs,
            transactional,
            dir,
            env,
            metrics,
            tokio,
            room,
        }))
    }

    /// For a worker: starts a restore whose result comes as a message.
    pub(super) fn handle(&self) -> Box<dyn Fn(Handle, Inbox) + Send> {
        let this = Arc::clone(&self.0);
        Box::new(move |handle, inbox| {
            let parts = Arc::clone(&this);
            let tokio = parts.tokio.clone();
            let runner = tokio.clone();
            tokio.spawn(async move {
                // The semaphore is never closed.
                let _room = Arc::clone(&parts.room).acquire_owned().await;
                let result = runner
                    .spawn_blocking(move || parts.restore(handle))
                    .await
                    .unwrap_or_else(|e| Err(format!("restore panicked: {e}")));
                inbox.send(Message::Restored { handle, result: Box::new(result) });
            });
        })
    }
}

impl Parts {
    fn restore(&self, handle: Handle) -> Result<Restored, String> {
        let started = Instant::now();
        let id = handle.id;
        let sub = &self.topology.subs[id.sub];
        let dir = self.dir.join(format!("{}-{}", sub.name, id.partition));
        let mut rows = 0;
        let backend: Arc<dyn Backend> = if self.topology.settings.state.changelog == Changelog::Off {
            // State is what the replay from the low watermark makes of it: old rows would be counted twice.
            Arc::new(MemoryBackend::default())
        } else {
            let backend = self.open(&dir)?;
            if let Some(topic) = &self.changelogs[id.sub] {
                rows = self.catch_up(id, &backend, topic)?;
            }
            backend
        };
        let mut step = Step::default();
        let mut task = Task::open(&self.topology, id, &backend, SystemClock.now(), &mut step)
            .map_err(|e| e.to_string())?;
        task.set_transactional(self.transactional.clone());
        let offsets = self.offsets(&sub.topics, id.partition);
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(task = format!("{}-{}", sub.name, id.partition), rows, ms, "restored");
        Ok(Restored { task, backend, step, offsets })
    }

    /// A store whose last owner in this process has not let go yet is tried again.
    fn open(&self, dir: &std::path::Path) -> Result<Arc<RocksBackend>, String> {
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match RocksBackend::open(dir, &self.env) {
                Ok(backend) => return Ok(Arc::new(backend)),
                Err(e) if Instant::now() > deadline => return Err(e.to_string()),
                Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
            }
        }
    }

    /// Brings local rows up to the end of the changelog.
    fn catch_up(&self, id: TaskId, backend: &Arc<RocksBackend>, topic: &Arc<str>) -> Result<u64, String> {
        let (Some(admin), Some(kafka)) = (&self.admin, &self.kafka) else { return Ok(0) };
        let from = changelog::position(&**backend).map_err(|e| e.to_string())?;
        let partition = &TopicPartition::new(Arc::clone(topic), id.partition);
        let group = format!("{}-restore", self.topology.name);
        let end =
            patiently(|| admin.end_offsets(std::slice::from_ref(partition)))?.first().copied().unwrap_or(0);
        let first =
            patiently(|| admin.start_offsets(std::slice::from_ref(partition)))?.first().copied().unwrap_or(0);
        let mut total = 0u64;
        let mut failure: Option<StateError> = None;
        let mut logged = Instant::now();
        let mut on_rows = |rows: &[Row], next: i64, progress: crate::kafka::Progress| {
            self.metrics.restoring(id, progress.end - next);
            if logged.elapsed() > Duration::from_secs(2) {
                logged = Instant::now();
                tracing::info!(%partition, next, end = progress.end, "restoring");
            }
            match changelog::batch(rows, next).and_then(|rows| backend.write(&rows)) {
                Ok(()) => {
                    total += rows.len() as u64;
                    ControlFlow::Continue(())
                }
                Err(e) => {
                    failure = Some(e);
                    ControlFlow::Break(())
                }
            }
        };
        let result = restore(kafka, &group, partition, from.max(first), end, &mut on_rows);
        self.metrics.restoring(id, 0);
        match (result, failure) {
            (_, Some(e)) => Err(e.to_string()),
            (Err(e @ RestoreError::Ahead { .. }), None) => Err(format!(
                "{e}: the changelog was made anew, or the state directory is another topology's. Remove the local state \
                 with `slackwater reset --local`"
            )),
            (Err(e), None) => Err(e.to_string()),
            (Ok(next), None) => {
                changelog::batch(&[], next)
                    .and_then(|rows| backend.write(&rows))
                    .map_err(|e| e.to_string())?;
                Ok(total)
            }
        }
    }

    /// Where the group has committed to, by index of the topic. Asked after the changelog's end was reached: by then no
    /// transaction of an earlier owner is open.
    fn offsets(&self, topics: &[String], partition: i32) -> Vec<(usize, i64)> {
        let Some(admin) = &self.admin else { return Vec::new() };
        let asked: Vec<TopicPartition> =
            topics.iter().map(|t| TopicPartition::new(t.as_str(), partition)).collect();
        let found = patiently(|| {
            let found = admin.committed(&self.topology.name, &asked).map_err(|e| e.to_string())?;
            let pending = found.contains(&GroupOffset::Pending);
            if pending { Err("a transaction is open".to_owned()) } else { Ok(found) }
        });
        let Ok(found) = found else { return Vec::new() };
        // Without a commit reading starts at the first record: a rewind must know where that is.
        let first = if found.contains(&GroupOffset::None) {
            patiently(|| admin.start_offsets(&asked)).unwrap_or_default()
        } else {
            Vec::new()
        };
        found
            .into_iter()
            .enumerate()
            .filter_map(|(topic, offset)| match offset {
                GroupOffset::At(next) => Some((topic, next)),
                GroupOffset::None => Some((topic, *first.get(topic)?)),
                GroupOffset::Pending => None,
            })
            .collect()
    }
}

/// Tries for as long as a broker may be away.
fn patiently<T, E: std::fmt::Display>(mut f: impl FnMut() -> Result<T, E>) -> Result<T, String> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match f() {
            Ok(value) => return Ok(value),
            Err(e) if Instant::now() > deadline => return Err(e.to_string()),
            Err(e) => {
                tracing::debug!(error = %e, "again");
                std::thread::park_timeout(Duration::from_millis(100));
            }
        }
    }
}
