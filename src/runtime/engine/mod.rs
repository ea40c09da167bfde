//! The engine: starts everything that a topology needs, routes the group's events to the workers, and stops everything
//! in order.
//!
//! Called by `cli`. Order of a start: sinks are connected (a table that does not fit ends it here), topics are looked
//! up (and waited for), internal topics are created, global tables are read, the group is joined, workers start (their
//! inboxes exist before). Order of a stop: workers take no more input, finish and commit, then the group is left, then
//! the sinks' lanes end.

mod globals;
mod grown;
mod handle;
mod layout;
mod plan;
mod purge;
mod router;
mod sinks;
mod status;
mod topics;
mod wait;
mod workers;
mod written;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::globals::read_globals;
use self::handle::Asked;
pub use self::handle::{AskError, EngineHandle, Found, Owner, Taps};
use self::layout::Keeper;
use self::plan::Plan;
use self::purge::{Purge, purge_every};
use self::sinks::{connect, connect_schemas, message_limits, transactional_lanes};
use self::status::Shared;
pub use self::status::Status;
use self::topics::{make_topics, open_admin, wait_topics};
use self::workers::limiters;
pub use self::written::MissingTopics;
use super::globals::reader::GlobalReaders;
use super::inbox::{Inbox, Message};
use super::task::TaskId;
use crate::kafka::{Admin, GroupReader, Writer};
use crate::model::Problem;
use crate::operators::Commits;
use crate::sinks::Connected;
use crate::state::{DirError, RocksEnv, StateDir};
use crate::topology::Topology;

/// The part of a stop's time that is kept for leaving the group and ending the sinks' lanes.
const LEAVING: Duration = Duration::from_secs(4);

/// The settings of one instance.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where state lives.
    pub state_dir: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// Static membership.
    pub instance_id: Option<String>,
    /// How long a stop may take.
    pub stop_deadline: Duration,
}

/// Stand-ins for `dev`: sinks by node, and commits without transactions.
#[derive(Clone, Default)]
pub struct Override {
    /// Connections used in place of the configured ones.
    pub sinks: BTreeMap<usize, Arc<dyn Connected>>,
    /// Commit offsets by the consumer, without changelog: the broker has no transactions.
    pub plain_commits: bool,
}

/// Why a topology does not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file does not fit the servers: exit code 78.
    #[error("{message}")]
    Config {
        /// Node it is about.
        node: Option<String>,
        /// Field of the node.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// Topics that are read together have different numbers of partitions: exit code 78.
    #[error(transparent)]
    Uneven(#[from] crate::topology::Uneven),
    /// Sinks write topics that do not exist: exit code 78.
    #[error(transparent)]
    Missing(#[from] MissingTopics),
    /// What an earlier run kept does not fit the topology: exit code 78.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unfit(Vec<Problem>),
    /// It failed while running: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Stopped by a signal before it ran.
    #[error("stopped")]
    Stopped,
}

/// A running topology.
pub struct Engine {
    topology: Arc<Topology>,
    options: EngineOptions,
    shared: Arc<Shared>,
    inboxes: Vec<Inbox>,
    threads: Vec<std::thread::JoinHandle<()>>,
    reader: Option<GroupReader>,
    lanes: TaskTracker,
    lanes_stop: CancellationToken,
    calls_stop: CancellationToken,
    globals: GlobalReaders,
    _lock: StateDir,
}

impl Engine {
    /// Starts the topology of a handle. Waits for servers that do not answer, until `stop`.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn start(
        handle: &EngineHandle,
        options: EngineOptions,
        stand_ins: Override,
        stop: &CancellationToken,
    ) -> Result<Engine, EngineError> {
        let (topology, shared) = (Arc::clone(handle.topology()), Arc::clone(&handle.shared));
        if let Some(problem) = topology.missing_kafka().into_iter().next() {
            // A dead letter without a writer would never be acknowledged.
            let help = problem.help.unwrap_or_default();
            return Err(EngineError::Config {
                node: problem.node,
                field: problem.field,
                message: format!("{}: {help}", problem.message),
            });
        }
        let lock = StateDir::lock(&options.state_dir).map_err(|e| match e {
            DirError::InUse(_) => EngineError::Failed(format!("{e}: give this one its own with --state-dir")),
            DirError::Io { .. } => EngineError::Failed(e.to_string()),
        })?;
        let lanes = TaskTracker::new();
        let lanes_stop = CancellationToken::new();
        let calls_stop = CancellationToken::new();
        let kafka = topology.settings.kafka.clone().map(|mut k| {
            k.group_instance_id.clone_from(&options.instance_id);
            k
        });
        let writer = match &kafka {
            Some(config) => {
                Some(Arc::new(Writer::open(config).map_err(|e| EngineError::Failed(e.to_string()))?))
            }
            None => None,
        };
        if !stand_ins.plain_commits {
            topology.formats.go_live();
            connect_schemas(&topology, &shared, stop).await?;
        }
        shared.metrics.watch_schemas(&topology.formats);
        let sinks =
            connect(&topology, &stand_ins, writer.as_ref(), &shared, &lanes, &lanes_stop, stop).await?;
        let limiters = limiters(&topology, &shared);
        let topics = topology.external_topics();
        let mut transactional = BTreeMap::new();
        let cache = topology.settings.state.cache.bytes();
        let env = RocksEnv::new(cache, cache);
        let keeper = Keeper {
            topology: Arc::clone(&topology),
            config: kafka.clone().filter(|_| !topics.is_empty()),
            dir: options.state_dir.clone(),
            env: env.clone(),
        };
        let plan = match (&kafka, topics.is_empty()) {
            (Some(config), false) => {
                let admin = open_admin(config).await?;
                let counts = wait_topics(&admin, &topics, &shared, stop).await?;
                let counts = topology.partition_counts(&counts)?;
                let plan = Plan::new(&topology, counts, stand_ins.plain_commits);
                match &writer {
                    Some(writer) if !stand_ins.plain_commits => {
                        let examined = keeper.examine(Some(&admin), &plan.counts, &shared, stop).await?;
                        keeper.settle_local(&examined, &lock)?;
                        keeper.settle(examined, (&admin, &plan), writer, &shared, stop).await?;
                    }
                    _ => make_topics(&admin, &topology, &plan, &shared, stop, true).await?,
                }
                let writer = writer.as_ref().filter(|_| plan.transactions);
                let lanes = writer.map_or_else(BTreeMap::new, |w| transactional_lanes(&topology, w));
                transactional = message_limits(&admin, lanes, &shared, stop).await?;
                Some((admin, plan))
            }
            // Topics without Kafka were refused above.
            (None, false) | (_, true) => {
                if !stand_ins.plain_commits {
                    let examined = keeper.examine(None, &BTreeMap::new(), &shared, stop).await?;
                    keeper.settle_local(&examined, &lock)?;
                }
                None
            }
        };
        let written = match &kafka {
            Some(config) if !stand_ins.plain_commits => {
                let admin = plan.as_ref().map(|(admin, _)| admin);
                written::find(&topology, config, admin, &shared, stop).await?
            }
            _ => None,
        };
        let globals = match (&kafka, &plan) {
            (Some(config), Some((admin, plan))) => {
                let dir = &options.state_dir;
                read_globals(&topology, config, (admin, plan), dir, &env, &shared, stop).await?
            }
            _ => GlobalReaders::default(),
        };
        let mut engine = Engine {
            inboxes: Vec::new(),
            threads: Vec::new(),
            reader: None,
            lanes,
            lanes_stop,
            calls_stop,
            globals,
            _lock: lock,
            topology,
            options,
            shared,
        };
        if let Some((admin, plan)) = &plan {
            engine.purge(admin, plan);
        }
        let grown = plan.as_ref().and_then(|(admin, plan)| grown::Watch::new(admin, &engine.topology, plan));
        if let Some(watch) = grown.filter(|_| !stand_ins.plain_commits) {
            engine.lanes.spawn(watch.run(Arc::clone(&engine.shared), engine.lanes_stop.clone()));
        }
        if let Some(watch) = written {
            engine.lanes.spawn(watch.run(Arc::clone(&engine.shared), engine.lanes_stop.clone()));
        }
        let plan = engine.start_workers(kafka, plan, sinks, limiters, transactional, env)?;
        let (inboxes, globals) = (engine.inboxes.clone(), engine.globals.rows.clone());
        *engine.shared.asked() = Some(Asked { inboxes, plan, globals });
        Ok(engine)
    }

    /// Starts deleting what has been read of the repartition topics.
    fn purge(&self, admin: &Arc<Admin>, plan: &Plan) {
        let topics: Vec<(usize, Arc<str>)> = self
            .topology
            .repartitions()
            .into_iter()
            .filter_map(|r| Some((plan.places.get(&r.topic)?.0, Arc::from(r.topic))))
            .collect();
        if topics.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let purge = Purge {
            admin: Arc::clone(admin),
            group: self.topology.name.clone(),
            topics,
            ours: Box::new(move || shared.status().tasks.into_keys().collect()),
            every: purge_every(self.topology.settings.state.checkpoint.duration()),
        };
        self.lanes.spawn(purge.run(self.lanes_stop.clone()));
    }

    /// Starts looking up the schemas of ids.
    fn resolve_schemas(&self, topology: &Topology) {
        let (formats, shared) = (Arc::clone(&topology.formats), Arc::clone(&self.shared));
        let stop = self.lanes_stop.clone();
        self.lanes.spawn(async move {
            let waiting = |what: Option<&str>| match what {
                Some(what) => shared.wait_for(what),
                None => shared.go_on(),
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = formats.resolve(waiting) => {}
            }
        });
    }

    /// Tells a task how far another consumer group has come on its partition. To be repeated after the next commit: a
    /// task that is not here, or is being restored, misses it.
    pub fn committed_elsewhere(&self, id: TaskId, commits: &Commits) {
        // Workers that do not have the task ignore it.
        for inbox in &self.inboxes {
            inbox.send(Message::Commits { id, commits: commits.clone() });
        }
    }

    /// Waits until `stop`, or until something fails. The end of a source (a file, a count) does not end it: its records
    /// may still have effects to come.
    pub async fn run(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.shared.failed.cancelled() => {}
            () = self.shared.ended.cancelled() => tracing::info!("every source has ended and everything is done"),
        }
    }

    /// Stops in order: input, tasks, group, lanes. Logs every 5 s which tasks still run. Whatever has not finished when
    /// the deadline is near is dropped, so that the group is left in time.
    ///
    /// # Errors
    /// The failure that ended it, if there was one.
    pub async fn stop(mut self) -> Result<(), EngineError> {
        self.shared.status_mut().stopping = true;
        // It holds the global tables, which close here.
        self.shared.asked().take();
        tracing::info!("stopping: no more input; finishing what is under way");
        let began = tokio::time::Instant::now();
        let leaving = LEAVING.min(self.options.stop_deadline / 4);
        let deadline = began + self.options.stop_deadline - leaving;
        let failed = self.shared.failed.is_cancelled();
        let mut dones = Vec::new();
        if !failed {
            for inbox in &self.inboxes {
                let (send, receive) = sync_channel(1);
                inbox.send(Message::Drain(send));
                dones.push(receive);
            }
        }
        let mut said = began;
        while !dones.is_empty() {
            dones.retain(|done| matches!(done.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)));
            if tokio::time::Instant::now() > deadline {
                tracing::warn!(
                    tasks = self.left(),
                    "stopped before these tasks had committed; they will go on from their last checkpoint"
                );
                break;
            }
            if said.elapsed() > Duration::from_secs(5) {
                said = tokio::time::Instant::now();
                tracing::info!(tasks = self.left(), "still running");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let drained = !failed && dones.is_empty();
        if !drained {
            // No more epochs are committed; the last checkpoint counts.
            let ids: Vec<TaskId> = self.shared.status().tasks.keys().copied().collect();
            for inbox in &self.inboxes {
                let (done, _) = sync_channel(1);
                inbox.send(Message::Revoke { ids: ids.clone(), lost: true, done });
            }
        }
        self.calls_stop.cancel();
        if let Some(reader) = self.reader.take() {
            // Leaving blocks until the broker knows; there is nothing left to commit.
            let closed = tokio::task::spawn_blocking(move || reader.close());
            drop(tokio::time::timeout(leaving, closed).await);
        }
        self.lanes_stop.cancel();
        self.lanes.close();
        drop(tokio::time::timeout(leaving / 2, self.lanes.wait()).await);
        if drained {
            for thread in self.threads.drain(..) {
                if thread.join().is_err() {
                    return Err(EngineError::Failed("a worker thread panicked".into()));
                }
            }
        }
        // After the tasks, which read its rows.
        let globals = std::mem::take(&mut self.globals);
        if !tokio::task::spawn_blocking(move || globals.join()).await.unwrap_or(false) {
            return Err(EngineError::Failed("a global table's thread panicked".into()));
        }
        let failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }

    /// The tasks that still run, for the log.
    fn left(&self) -> String {
        let names: Vec<String> =
            self.shared.status().tasks.keys().map(|id| id.name(&self.topology)).collect();
        names.join(", ")
    }
}
