//! The engine: starts everything that a topology needs, routes the group's events to the workers, and stops everything
//! in order.
//!
//! Called by `cli`. Order of a start: sinks are connected (a table that does not fit ends it here), topics are looked
//! up (and waited for), internal topics are created, global tables are read, the group is joined, workers start (their
//! inboxes exist before). Order of a stop: workers take no more input, finish and commit, then the group is left, then
//! the sinks' lanes end.

mod commits;
mod globals;
mod grown;
mod handle;
mod layout;
mod plan;
mod purge;
mod reads;
mod router;
mod sinks;
mod start;
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

pub use self::commits::AtGate;
pub use self::handle::{AskError, EngineHandle, Found, Owner, Taps};
use self::plan::Plan;
use self::purge::{Purge, purge_every};
pub use self::reads::{Position, Said, StoreOf, WHOLE};
use self::start::Start;
use self::status::Shared;
pub use self::status::Status;
pub use self::written::MissingTopics;
use super::globals::reader::GlobalReaders;
use super::inbox::{Inbox, Message};
use super::task::TaskId;
use crate::formats::Formats;
use crate::kafka::{Admin, GroupReader};
use crate::model::Problem;
use crate::sinks::Connected;
use crate::state::StateDir;
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
    /// Where the other instances of the group find this one's admin server: `host:port`. `None`: they need not, nothing
    /// is read from it.
    pub advertise: Option<String>,
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
    formats: Arc<Formats>,
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
        Start::new(handle, options, stand_ins, stop)?.run().await
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
    fn resolve_schemas(&self) {
        let (formats, shared) = (Arc::clone(&self.formats), Arc::clone(&self.shared));
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
