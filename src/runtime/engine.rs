//! The engine: starts everything a topology needs, routes the group's events to the workers, and stops it all in order.
//!
//! Order of a start: sinks are connected (a table that does not fit ends it here), topics are looked up (and waited
//! for), internal topics are made, global tables are read, workers start, then the group is joined. Order of a stop: workers take no more
//! input, finish and commit, then the group is left, then the sinks' lanes end.

mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle as TokioHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::calls::{CallCounters, CallDriver, CallParts};
use super::checkpoint::{CommitMode, Committer};
use super::deliver::{Fatal, SinkDriver};
use super::global_reader::{GlobalReaders, Reading};
use super::held::Gate;
use super::http::HttpCaller;
use super::inbox::{Inbox, Message, inbox};
use super::limiter::Limiter;
use super::metrics::Metrics;
use super::purge::{Purge, purge_every};
use super::read::TaskReader;
use super::restore::Restorer;
use super::shares::Shares;
use super::task::{DEAD_LETTER, TaskId};
use super::worker::{Calls, Outside, TaskStatus, Ticket, Worker};
use crate::formats::WriterError;
use crate::kafka::{
    Admin, Assignment, ErrorKind, GroupEvent, GroupOptions, GroupReader, KafkaConfig, MESSAGE_BYTES_MAX,
    PartitionReader, TopicPartition, TopicSpec, TxnWriter, Writer,
};
use crate::model::{Clock, SystemClock};
use crate::operators::{NodeConfig, Reply};
use crate::sinks::{Batch, KafkaLane, KafkaSinkConfig, SinkConfig, SinkConnection, SinkError};
use crate::state::{DirError, RocksEnv, StateDir};
use crate::topology::{Changelog, Guarantee, NodeKind, Topology};

pub use written::MissingTopics;

/// Between tries of a server that does not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// What of a stop's time is kept for leaving the group and ending the sinks' lanes.
const LEAVING: Duration = Duration::from_secs(4);

/// What differs from one instance to the next.
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
    pub sinks: BTreeMap<usize, SinkConnection>,
    /// Commit offsets by the consumer, without changelog: the broker has no transactions.
    pub plain_commits: bool,
}

/// Why a topology does not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file does not fit what is there: exit code 78.
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
    /// It failed while running: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Stopped by a signal before it ran.
    #[error("stopped")]
    Stopped,
}

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
    pub tasks: BTreeMap<TaskId, &'static str>,
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
            && self.tasks.values().all(|s| matches!(*s, "running" | "ended"))
    }
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

/// What the threads share: each field says who else holds it.
pub struct Shared {
    /// The worker threads, the poller, the admin server; for moments.
    status: Mutex<Status>,
    /// First error of any thread; ends the process.
    failure: Mutex<Option<EngineError>>,
    /// Cancelled when `failure` is set.
    failed: CancellationToken,
    /// Cancelled when every source has ended and everything is done.
    ended: CancellationToken,
    /// All metrics.
    pub metrics: Metrics,
}

impl Shared {
    fn status_mut(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status_mut().clone()
    }

    /// Has something failed, so that nothing goes on? [`Engine::stop`] says what.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.is_cancelled()
    }

    fn fail(&self, error: EngineError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            *failure = Some(error);
        }
        self.failed.cancel();
    }

    fn wait_for(&self, what: &str) {
        let mut status = self.status_mut();
        if status.waiting != [what] {
            tracing::warn!(what, "waiting");
            status.waiting = vec![what.to_owned()];
        }
    }

    /// Something that was there is missing now; `None`: no more.
    fn miss(&self, what: Option<String>) {
        let mut status = self.status_mut();
        if status.missing != what {
            match &what {
                Some(what) => tracing::warn!(what, "waiting"),
                None => tracing::info!("what was missing is there again"),
            }
            status.missing = what;
        }
    }

    fn go_on(&self) {
        self.status_mut().waiting.clear();
    }
}

impl Engine {
    /// What `/ready`, `/metrics` and the live view read.
    ///
    /// # Errors
    /// The metrics cannot be made.
    pub fn shared(topology: &Topology) -> Result<Arc<Shared>, EngineError> {
        let metrics = Metrics::new(topology).map_err(|e| EngineError::Failed(format!("metrics: {e}")))?;
        Ok(Arc::new(Shared {
            status: Mutex::default(),
            failure: Mutex::default(),
            failed: CancellationToken::new(),
            ended: CancellationToken::new(),
            metrics,
        }))
    }

    /// Starts a topology. Waits for servers that do not answer, until `stop`.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn start(
        topology: Arc<Topology>,
        options: EngineOptions,
        stand_ins: Override,
        shared: Arc<Shared>,
        stop: &CancellationToken,
    ) -> Result<Engine, EngineError> {
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
        let plan = match (&kafka, topics.is_empty()) {
            (Some(config), false) => {
                let admin = open_admin(config).await?;
                let counts = wait_topics(&admin, &topics, &shared, stop).await?;
                let counts = topology.partition_counts(&counts)?;
                let plan = Plan::new(&topology, counts, stand_ins.plain_commits);
                make_topics(&admin, &topology, &plan, &shared, stop, stand_ins.plain_commits).await?;
                let writer = writer.as_ref().filter(|_| plan.transactions);
                let lanes = writer.map_or_else(BTreeMap::new, |w| transactional_lanes(&topology, w));
                transactional = message_limits(&admin, lanes, &shared, stop).await?;
                Some((admin, plan))
            }
            // Topics without Kafka were refused above.
            (None, false) | (_, true) => None,
        };
        let written = match &kafka {
            Some(config) if !stand_ins.plain_commits => {
                let admin = plan.as_ref().map(|(admin, _)| admin);
                written::find(&topology, config, admin, &shared, stop).await?
            }
            _ => None,
        };
        let cache = topology.settings.state.cache.bytes();
        let env = RocksEnv::new(cache, cache);
        let globals = match (&kafka, &plan) {
            (Some(config), Some((admin, plan))) => {
                let failed = {
                    let shared = Arc::clone(&shared);
                    Arc::new(move |message| shared.fail(EngineError::Failed(message)))
                };
                let reading = Reading {
                    topology: &topology,
                    kafka: config,
                    admin,
                    count: &|topic| plan.counts.get(topic).copied().unwrap_or(0),
                    dir: &options.state_dir,
                    env: &env,
                    metrics: &shared.metrics,
                    failed,
                };
                read_globals(&reading, &shared, stop).await?
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
        if let Some(watch) = written {
            engine.lanes.spawn(watch.run(Arc::clone(&engine.shared), engine.lanes_stop.clone()));
        }
        engine.start_workers(kafka, plan, sinks, limiters, transactional, env)?;
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

    fn start_workers(
        &mut self,
        kafka: Option<KafkaConfig>,
        plan: Option<(Arc<Admin>, Plan)>,
        sinks: BTreeMap<usize, SinkDriver>,
        limiters: BTreeMap<String, Arc<Limiter>>,
        transactional: Transactional,
        env: RocksEnv,
    ) -> Result<(), EngineError> {
        let topology = Arc::clone(&self.topology);
        let tokio = TokioHandle::current();
        let workers = self.options.workers.max(1);
        let mails: Vec<_> = (0..workers).map(|_| inbox()).collect();
        self.inboxes = mails.iter().map(|(inbox, _)| inbox.clone()).collect();
        let (admin, plan) = plan.map_or((None, Plan::local(&topology)), |(a, p)| (Some(a), p));
        let plan = Arc::new(plan);
        // Not the topics of global tables, which no group reads.
        if let (Some(config), false) = (&kafka, plan.topics.is_empty()) {
            let router = Router {
                plan: Arc::clone(&plan),
                inboxes: self.inboxes.clone(),
                shared: Arc::clone(&self.shared),
                shares: Mutex::default(),
                limits: Shares::new(&topology, &limiters, &plan.counts),
            };
            let names: Vec<&str> = plan.topics.iter().map(|t| &**t).collect();
            let mut options = GroupOptions::new(topology.name.clone(), &names);
            if topology.subs.iter().any(|s| s.topics.len() > 1) {
                // A task reads partition p of several topics: they must come together.
                options.assignment = Assignment::Range;
            }
            let reader = GroupReader::open(config, &options, move |event| router.event(event))
                .map_err(|e| EngineError::Failed(e.to_string()))?;
            self.reader = Some(reader);
        }
        let restorer = Restorer::new(
            Arc::clone(&topology),
            kafka.clone(),
            admin,
            Arc::clone(&plan.changelogs),
            transactional.iter().map(|(node, (_, bytes_max))| (*node, *bytes_max)).collect(),
            self.globals.rows.clone(),
            self.options.state_dir.clone(),
            env,
            self.shared.metrics.clone(),
            tokio.clone(),
        );
        let gates = gates(&topology);
        if !gates.is_empty() {
            self.resolve_schemas(&topology);
        }
        let instance = self.options.instance_id.clone().unwrap_or_else(random_id);
        for (n, (inbox, mail)) in mails.into_iter().enumerate() {
            let mode = match (&kafka, plan.topics.is_empty()) {
                (Some(config), false) if plan.transactions => {
                    // Unique per instance and worker; whoever has the id ends what another left open.
                    let id = format!("{}-{instance}-{n}", topology.name);
                    let (config, failed) = (config.clone(), self.shared.failed.clone());
                    CommitMode::Transaction(Box::new(move || open_writer(&config, &id, &failed)))
                }
                (Some(_), false) => CommitMode::Offsets,
                _ => CommitMode::Local,
            };
            let committer = Committer::start(
                &format!("commit-{n}"),
                mode,
                self.reader.as_ref().map(GroupReader::handle),
                inbox.clone(),
                self.shared.metrics.checkpoints(),
            )
            .map_err(|e| EngineError::Failed(e.to_string()))?;
            let outside = Outside {
                sinks: sinks.clone(),
                calls: self.calls(&tokio, &limiters)?,
                restore: restorer.handle(),
                transactional: transactional.iter().map(|(n, (lane, _))| (*n, lane.clone())).collect(),
                changelogs: plan.changelogs.to_vec(),
                gates: gates.clone(),
                checkpoint: topology.settings.state.checkpoint.duration(),
                idle: topology.settings.time.idle,
                failed: {
                    let shared = Arc::clone(&self.shared);
                    let topology = Arc::clone(&topology);
                    Box::new(move |id, message| {
                        let name = &topology.subs[id.sub].name;
                        let message = format!("task {name}-{}: {message}", id.partition);
                        shared.fail(EngineError::Failed(message));
                    })
                },
                status: {
                    let shared = Arc::clone(&self.shared);
                    // Where a group reads topics there is always more to come.
                    let ends = plan.topics.is_empty();
                    Box::new(move |id, status| set_status(&shared, id, status, ends))
                },
            };
            let mut worker = Worker::new(mail, inbox, outside, committer, self.shared.metrics.worker());
            if n == 0 {
                self.add_local_sources(&mut worker)?;
            }
            let thread = std::thread::Builder::new()
                .name(format!("worker-{n}"))
                .spawn(move || worker.run())
                .map_err(|e| EngineError::Failed(e.to_string()))?;
            self.threads.push(thread);
        }
        if self.reader.is_none() {
            // Their own sources' tasks are known by now: not ready before they run.
            self.shared.status_mut().joined = true;
        }
        Ok(())
    }

    /// Sources that are no topics: one task each, partition 0, on the first worker.
    fn add_local_sources(&self, worker: &mut Worker) -> Result<(), EngineError> {
        for (sub, part) in self.topology.subs.iter().enumerate() {
            let mut readers = Vec::new();
            // A sub-topology reads topics or lines, never both: so they count as in `Topology::inputs`.
            for (input, &n) in part.lines.iter().enumerate() {
                let NodeKind::Source(source) = &self.topology.nodes[n].kind else { continue };
                let opened =
                    TaskReader::open(source, SystemClock.now()).map_err(|e| EngineError::Config {
                        node: Some(self.topology.nodes[n].name.clone()),
                        field: "file.path".into(),
                        message: format!("cannot read {}: {e}", source.label()),
                    })?;
                readers.extend(opened.map(|r| (input, r)));
            }
            if !readers.is_empty() {
                worker.add(TaskId { sub, partition: 0 }, readers);
            }
        }
        Ok(())
    }

    fn calls(
        &self,
        tokio: &TokioHandle,
        limiters: &BTreeMap<String, Arc<Limiter>>,
    ) -> Result<BTreeMap<usize, Calls>, EngineError> {
        let mut out = BTreeMap::new();
        for (n, node) in self.topology.nodes.iter().enumerate() {
            let NodeKind::Operator(config) = &node.kind else { continue };
            let NodeConfig::Enrich(enrich) = &**config else { continue };
            let counters = Arc::new(CallCounters::default());
            self.shared.metrics.watch_calls(&node.name, Arc::clone(&counters));
            let in_flight_max = enrich.calls_in_flight_max.get();
            let caller = HttpCaller::new(&enrich.http, in_flight_max, Arc::new(SystemClock))
                .map_err(|e| EngineError::Failed(e.to_string()))?;
            let parts = CallParts {
                node: node.name.clone(),
                limiter: enrich.rate_limit.as_ref().and_then(|l| limiters.get(l)).map(Arc::clone),
                caller,
                in_flight_max,
                counters,
                cancel: self.calls_stop.clone(),
            };
            let reply = |ticket: Ticket, call: u64, reply: Reply| {
                let Ticket { handle, node, inbox, gate } = ticket;
                // The answer is in the inbox before the gate is seen idle.
                inbox.send(Message::Reply { handle, node, call, reply });
                gate.end();
            };
            out.insert(n, CallDriver::spawn(tokio, parts, reply));
        }
        Ok(out)
    }

    /// Waits until `stop`, or until something fails. A source that has ended (a file, a count) ends nothing: what its
    /// records began may still be waiting.
    pub async fn run(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.shared.failed.cancelled() => {}
            () = self.shared.ended.cancelled() => tracing::info!("every source has ended and everything is done"),
        }
    }

    /// Stops in order: input, tasks, group, lanes. Names what still runs, every 5 s. What has not finished when the
    /// deadline is near is dropped, so that the group is left in time.
    ///
    /// # Errors
    /// What had failed, if anything.
    pub async fn stop(mut self) -> Result<(), EngineError> {
        self.shared.status_mut().stopping = true;
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
            // Nothing may settle any more; the checkpoint that was is the truth.
            let ids: Vec<TaskId> = self.shared.status().tasks.keys().copied().collect();
            for inbox in &self.inboxes {
                let (done, _) = sync_channel(1);
                inbox.send(Message::Revoke { ids: ids.clone(), lost: true, done });
            }
        }
        self.calls_stop.cancel();
        if let Some(reader) = self.reader.take() {
            // Leaving blocks while the broker is told; nothing is left to commit.
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
        // After the tasks, which read their rows.
        let globals = std::mem::take(&mut self.globals);
        if !tokio::task::spawn_blocking(move || globals.join()).await.unwrap_or(false) {
            return Err(EngineError::Failed("a global table's thread panicked".into()));
        }
        let failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }

    /// The tasks that are still there, for the log.
    fn left(&self) -> String {
        let names: Vec<String> = self.shared.status().tasks.keys().map(|id| self.task_name(*id)).collect();
        names.join(", ")
    }

    fn task_name(&self, id: TaskId) -> String {
        format!("{}-{}", self.topology.subs[id.sub].name, id.partition)
    }
}

/// `ends`: it is over when every task has ended.
fn set_status(shared: &Shared, id: TaskId, status: TaskStatus, ends: bool) {
    let mut now = shared.status_mut();
    match status {
        TaskStatus::Restoring => now.tasks.insert(id, "restoring"),
        TaskStatus::Running => now.tasks.insert(id, "running"),
        TaskStatus::Ended => now.tasks.insert(id, "ended"),
        TaskStatus::Gone => now.tasks.remove(&id),
    };
    if ends && !now.tasks.is_empty() && now.tasks.values().all(|s| *s == "ended") {
        shared.ended.cancel();
    }
    for state in ["restoring", "running"] {
        shared.metrics.set_tasks(state, now.tasks.values().filter(|s| **s == state).count());
    }
}

fn random_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

async fn pause(stop: &CancellationToken, shared: &Shared) -> Result<(), EngineError> {
    tokio::select! {
        () = stop.cancelled() => Err(EngineError::Stopped),
        () = shared.failed.cancelled() => Err(EngineError::Stopped),
        () = tokio::time::sleep(AGAIN) => Ok(()),
    }
}

/// Finds the registry's ids of the schemas that sinks write with; waits while it is away.
async fn connect_schemas(
    topology: &Topology,
    shared: &Arc<Shared>,
    stop: &CancellationToken,
) -> Result<(), EngineError> {
    loop {
        match topology.formats.connect_writers().await {
            Ok(()) => {
                shared.go_on();
                return Ok(());
            }
            Err(WriterError::Away(message)) => {
                shared.wait_for(&message);
                pause(stop, shared).await?;
            }
            Err(WriterError::Config { node, field, message }) => {
                return Err(EngineError::Config { node: Some(node), field, message });
            }
        }
    }
}

/// What the records of each topic need before a task may have them.
fn gates(topology: &Topology) -> BTreeMap<(usize, usize), Gate> {
    let subs = topology.subs.iter().enumerate();
    let all = subs.flat_map(|(sub, part)| (0..part.topics.len()).map(move |topic| (sub, topic)));
    all.filter_map(|at| Some((at, Gate::of(topology, at.0, at.1)?))).collect()
}

async fn connect(
    topology: &Topology,
    stand_ins: &Override,
    writer: Option<&Arc<Writer>>,
    shared: &Arc<Shared>,
    tracker: &TaskTracker,
    lanes_stop: &CancellationToken,
    stop: &CancellationToken,
) -> Result<BTreeMap<usize, SinkDriver>, EngineError> {
    let names: Arc<Vec<String>> = Arc::new(topology.nodes.iter().map(|n| n.name.clone()).collect());
    let fatal: Fatal = {
        let (shared, names) = (Arc::clone(shared), Arc::clone(&names));
        Arc::new(move |node, error| {
            let name = names.get(node).map_or("dead_letter", String::as_str);
            shared.fail(EngineError::Failed(format!("sink {name}: {error}")));
        })
    };
    let mut out = BTreeMap::new();
    for (n, node) in topology.nodes.iter().enumerate() {
        let NodeKind::Sink(config) = &node.kind else { continue };
        let connection = match stand_ins.sinks.get(&n) {
            Some(connection) => connection.clone(),
            None => loop {
                let env = |name: &str| std::env::var(name).ok();
                match unless_stopped(stop, SinkConnection::connect(config, &env, writer)).await? {
                    Ok(connection) => break connection,
                    Err(SinkError::Config { message, column }) => {
                        let kind = config.kind_name();
                        let field = column.map_or_else(|| kind.to_owned(), |c| format!("{kind}.columns.{c}"));
                        return Err(EngineError::Config { node: Some(node.name.clone()), field, message });
                    }
                    Err(SinkError::Retry { message, .. } | SinkError::Refused { message }) => {
                        shared.wait_for(&format!("sink {}: {message}", node.name));
                        pause(stop, shared).await?;
                    }
                }
            },
        };
        let lanes = (0..connection.lanes().max(1)).map(|_| connection.lane()).collect();
        let metrics = shared.metrics.sink(&node.name);
        out.insert(n, SinkDriver::start(n, lanes, &config.batch(), &metrics, &fatal, tracker, lanes_stop));
    }
    if let (Some(dead_letter), Some(writer)) = (&topology.settings.errors.dead_letter, writer) {
        let config = KafkaSinkConfig::new(dead_letter.topic.clone());
        let lane = SinkConnection::Kafka(crate::sinks::KafkaLane::new(Arc::clone(writer), &config)).lane();
        let metrics = shared.metrics.sink("dead_letter");
        let driver = SinkDriver::start(
            DEAD_LETTER,
            vec![lane],
            &Batch::default(),
            &metrics,
            &fatal,
            tracker,
            lanes_stop,
        );
        out.insert(DEAD_LETTER, driver);
    }
    shared.go_on();
    Ok(out)
}

/// Sinks whose records are part of the checkpoint's transaction, each with the largest message that its topic takes, in
/// bytes.
type Transactional = BTreeMap<usize, (KafkaLane, usize)>;

/// Looks up how large a message of each lane may be. A topic that does not exist yet is taken for one of ours.
async fn message_limits(
    admin: &Arc<Admin>,
    lanes: BTreeMap<usize, KafkaLane>,
    shared: &Shared,
    stop: &CancellationToken,
) -> Result<Transactional, EngineError> {
    let topics: Vec<String> = lanes.values().map(|lane| lane.topic().to_owned()).collect();
    loop {
        let (asked, names) = (Arc::clone(admin), topics.clone());
        let look = blocking(move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            asked.message_bytes_max(&names)
        });
        match unless_stopped(stop, look).await? {
            Ok(found) => {
                shared.go_on();
                let limits = found.into_iter().map(|found| found.unwrap_or(MESSAGE_BYTES_MAX as usize));
                return Ok(lanes.into_iter().zip(limits).map(|((n, lane), max)| (n, (lane, max))).collect());
            }
            Err(message) => {
                shared.wait_for(&message);
                pause(stop, shared).await?;
            }
        }
    }
}

/// How rows become records of the checkpoint's transaction: those of repartition topics always, since state is exactly
/// once below them too; with `exactly_once` those of every Kafka sink and the dead letter.
fn transactional_lanes(topology: &Topology, writer: &Arc<Writer>) -> BTreeMap<usize, KafkaLane> {
    let all = topology.settings.guarantee == Guarantee::ExactlyOnce;
    let lane = |config: &KafkaSinkConfig| KafkaLane::new(Arc::clone(writer), config);
    let sinks = topology.nodes.iter().enumerate().filter_map(|(n, node)| match &node.kind {
        NodeKind::Sink(sink) => match &**sink {
            SinkConfig::Kafka(config) if all || config.internal => Some((n, lane(config))),
            _ => None,
        },
        NodeKind::Source(_) | NodeKind::Operator(_) => None,
    });
    let dead_letter = topology.settings.errors.dead_letter.iter().filter(|_| all);
    let dead_letter = dead_letter.map(|d| (DEAD_LETTER, lane(&KafkaSinkConfig::new(d.topic.clone()))));
    sinks.chain(dead_letter).collect()
}

fn limiters(topology: &Topology, shared: &Shared) -> BTreeMap<String, Arc<Limiter>> {
    topology
        .settings
        .rate_limits
        .iter()
        .map(|(name, config)| {
            let limiter = Arc::new(Limiter::new(config));
            if topology.source_topics().is_empty() {
                // Nobody to share with.
                limiter.set_share(1.0);
            }
            shared.metrics.watch_limiter(name, Arc::clone(&limiter));
            (name.clone(), limiter)
        })
        .collect()
}

async fn open_admin(config: &KafkaConfig) -> Result<Arc<Admin>, EngineError> {
    let config = config.clone();
    blocking(move || Admin::open(&config, Duration::from_secs(5)))
        .await
        .map(Arc::new)
        .map_err(|e| EngineError::Failed(e.to_string()))
}

async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    f: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// Waits for an answer, but not when told to stop.
async fn unless_stopped<T>(
    stop: &CancellationToken,
    answer: impl Future<Output = T>,
) -> Result<T, EngineError> {
    tokio::select! {
        () = stop.cancelled() => Err(EngineError::Stopped),
        answer = answer => Ok(answer),
    }
}

/// Partition counts of the source topics; waits for topics that do not exist and brokers that do not answer.
async fn wait_topics(
    admin: &Arc<Admin>,
    topics: &[String],
    shared: &Shared,
    stop: &CancellationToken,
) -> Result<BTreeMap<String, i32>, EngineError> {
    loop {
        let (asked, names) = (Arc::clone(admin), topics.to_vec());
        let look = blocking(move || asked.topics(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        let found = unless_stopped(stop, look).await?;
        match found {
            Ok(found) => {
                let missing: Vec<&str> =
                    found.iter().filter(|(_, n)| n.is_none()).map(|(name, _)| name.as_str()).collect();
                if missing.is_empty() {
                    shared.go_on();
                    return Ok(found.into_iter().filter_map(|(name, n)| Some((name, n?))).collect());
                }
                let what = format!(
                    "the topic `{}` does not exist: create it, or correct its name under `sources`",
                    missing.join("`, `")
                );
                shared.wait_for(&what);
            }
            Err(message) => shared.wait_for(&message),
        }
        pause(stop, shared).await?;
    }
}

/// Opens the global tables and waits until they have been read.
async fn read_globals(
    reading: &Reading<'_>,
    shared: &Shared,
    stop: &CancellationToken,
) -> Result<GlobalReaders, EngineError> {
    let mut readers = GlobalReaders::start(reading).map_err(EngineError::Failed)?;
    for (name, read) in std::mem::take(&mut readers.pending) {
        // Nothing to warn of.
        shared.status_mut().waiting = vec![format!("the global table {name} is being read")];
        match unless_stopped(stop, read).await? {
            Ok(Ok(())) => {}
            Ok(Err(message)) => return Err(EngineError::Failed(message)),
            Err(_) => {
                return Err(EngineError::Failed(format!("the thread of the global table {name} ended")));
            }
        }
    }
    shared.go_on();
    Ok(readers)
}

/// What was found out about the topics, and what follows for the tasks.
struct Plan {
    /// The group's topics, in the order in which records count them.
    topics: Vec<Arc<str>>,
    /// Partitions by topic.
    counts: BTreeMap<String, i32>,
    /// Sub-topology and index in it, by topic.
    places: BTreeMap<String, (usize, usize)>,
    /// Changelog by sub-topology.
    changelogs: Arc<Vec<Option<Arc<str>>>>,
    transactions: bool,
}

impl Plan {
    fn local(topology: &Topology) -> Plan {
        Plan {
            topics: Vec::new(),
            counts: BTreeMap::new(),
            places: BTreeMap::new(),
            changelogs: Arc::new(vec![None; topology.subs.len()]),
            transactions: false,
        }
    }

    fn new(topology: &Topology, counts: BTreeMap<String, i32>, plain: bool) -> Plan {
        let on = topology.settings.state.changelog == Changelog::On && !plain;
        let mut places = BTreeMap::new();
        let mut changelogs = Vec::new();
        for (sub, part) in topology.subs.iter().enumerate() {
            for (at, topic) in part.topics.iter().enumerate() {
                places.insert(topic.clone(), (sub, at));
            }
            changelogs.push(topology.changelog(sub).filter(|_| on).map(|name| name.as_str().into()));
        }
        let topics: Vec<Arc<str>> = topology.source_topics().iter().map(|t| t.as_str().into()).collect();
        Plan {
            // Nothing but global tables: there is no group whose offsets a transaction could have.
            transactions: !plain
                && !topics.is_empty()
                && (changelogs.iter().any(Option::is_some)
                    || topology.settings.guarantee == Guarantee::ExactlyOnce),
            topics,
            counts,
            places,
            changelogs: Arc::new(changelogs),
        }
    }

    fn task(&self, partition: &TopicPartition) -> Option<(TaskId, usize)> {
        let (sub, at) = self.places.get(&*partition.topic)?;
        Some((TaskId { sub: *sub, partition: partition.partition }, *at))
    }
}

/// Makes changelogs, repartition topics and the dead-letter topic where they are missing, and waits until the broker
/// shows them. A changelog or repartition topic of another size is an error.
async fn make_topics(
    admin: &Arc<Admin>,
    topology: &Topology,
    plan: &Plan,
    shared: &Shared,
    stop: &CancellationToken,
    plain: bool,
) -> Result<(), EngineError> {
    let mut specs: Vec<(TopicSpec, String)> = Vec::new();
    for (sub, changelog) in plan.changelogs.iter().enumerate() {
        let (Some(name), Some(source)) = (changelog, topology.subs[sub].topics.first()) else { continue };
        let partitions = plan.counts.get(source).copied().unwrap_or(1);
        // Tombstones stay for a day, or a store that is behind would keep what was deleted: see `restore.rs`.
        let spec = TopicSpec::new(&**name, partitions)
            .with("cleanup.policy", "compact")
            .with("delete.retention.ms", "86400000")
            .with("max.message.bytes", MESSAGE_BYTES_MAX.to_string());
        let wrong = format!(
            "the topic `{source}` has {partitions}: state belongs to a partition, so they must be equal. Start under a \
             new name, or remove the state with `slackwater reset`"
        );
        specs.push((spec, wrong));
    }
    for repartition in topology.repartitions() {
        let partitions = plan.counts.get(&repartition.topic).copied().unwrap_or(1);
        // Consumed records are deleted, nothing else is; the records' own time is kept whatever the broker's default.
        let spec = TopicSpec::new(repartition.topic, partitions)
            .with("cleanup.policy", "delete")
            .with("retention.ms", "-1")
            .with("retention.bytes", "-1")
            .with("segment.bytes", "52428800")
            .with("max.message.bytes", MESSAGE_BYTES_MAX.to_string())
            .with("message.timestamp.type", "CreateTime");
        let wrong = format!(
            "the topics beside or above it have {partitions}: they must be equal. Stop every instance and remove the \
             topology's topics with `slackwater reset`"
        );
        specs.push((spec, wrong));
    }
    if let (Some(dead_letter), false) = (&topology.settings.errors.dead_letter, plain) {
        // It takes whatever we could read, and headers that say why.
        let spec = TopicSpec::new(dead_letter.topic.clone(), 1);
        specs.push((spec.with("max.message.bytes", MESSAGE_BYTES_MAX.to_string()), String::new()));
    }
    for (spec, _) in &mut specs {
        spec.replication = topology.settings.state.replication.unwrap_or(-1);
    }
    loop {
        let asked = Arc::clone(admin);
        let wanted: Vec<TopicSpec> = specs.iter().map(|(spec, _)| spec.clone()).collect();
        let make = blocking(move || {
            let names: Vec<&str> = wanted.iter().map(|s| s.name.as_str()).collect();
            let found = asked.topics(&names)?;
            let missing: Vec<TopicSpec> = wanted
                .iter()
                .filter(|s| found.iter().any(|(name, n)| *name == s.name && n.is_none()))
                .cloned()
                .collect();
            asked.create_topics(&missing).map(|()| found)
        });
        let found = unless_stopped(stop, make).await?;
        match found {
            Ok(found) => {
                for ((spec, wrong), (_, have)) in specs.iter().zip(&found) {
                    if let Some(have) = have
                        && *have != spec.partitions
                        && !wrong.is_empty()
                    {
                        return Err(EngineError::Failed(format!(
                            "the topic `{}` has {have} partitions and {wrong}",
                            spec.name
                        )));
                    }
                }
                shared.go_on();
                if found.iter().all(|(_, have)| have.is_some()) {
                    return Ok(());
                }
                // Just made: the group is joined when all brokers know them.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(message) => {
                shared.wait_for(&message);
                pause(stop, shared).await?;
            }
        }
    }
}

fn open_writer(config: &KafkaConfig, id: &str, failed: &CancellationToken) -> Result<TxnWriter, String> {
    loop {
        match TxnWriter::open(config, id, Duration::from_secs(30)) {
            Ok(writer) => return Ok(writer),
            Err(e) if failed.is_cancelled() => return Err(e.to_string()),
            Err(crate::kafka::TxnError::Retriable(message)) => tracing::warn!(message, "no transactions yet"),
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// Routes the group's events to the workers. Runs on the poller's thread.
struct Router {
    plan: Arc<Plan>,
    inboxes: Vec<Inbox>,
    shared: Arc<Shared>,
    /// Tasks that are ours. Only the poller touches it; the mutex makes the closure shareable.
    shares: Mutex<BTreeSet<TaskId>>,
    limits: Shares,
}

impl Router {
    fn inbox(&self, id: TaskId) -> &Inbox {
        let n = self.inboxes.len();
        let at = usize::try_from(id.partition).unwrap_or(0).wrapping_add(id.sub) % n;
        &self.inboxes[at]
    }

    fn share(&self) {
        self.limits.set(&self.shares.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn event(&self, event: GroupEvent) {
        match event {
            GroupEvent::Assigned { partitions, .. } => {
                let mut tasks: BTreeMap<TaskId, Vec<(usize, PartitionReader)>> = BTreeMap::new();
                for (partition, reader) in partitions {
                    if let Some((id, at)) = self.plan.task(&partition) {
                        tasks.entry(id).or_default().push((at, reader));
                    }
                }
                tracing::info!(tasks = tasks.len(), "partitions assigned");
                {
                    // At once, not when the worker hears of it: in between the instance would look ready.
                    let mut status = self.shared.status_mut();
                    status.joined = true;
                    status.tasks.extend(tasks.keys().map(|id| (*id, "restoring")));
                }
                self.shares.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks.keys().copied());
                self.share();
                for (id, readers) in tasks {
                    self.inbox(id).send(Message::Assign { id, readers });
                }
            }
            GroupEvent::Revoked { partitions, lost, done } => {
                let ids: BTreeSet<TaskId> =
                    partitions.iter().filter_map(|p| Some(self.plan.task(p)?.0)).collect();
                tracing::info!(tasks = ids.len(), lost, "partitions revoked");
                if lost {
                    // Out of the group, until it is joined again.
                    self.shared.status_mut().joined = false;
                }
                let mut waits = Vec::new();
                for inbox_at in 0..self.inboxes.len() {
                    let here: Vec<TaskId> = ids
                        .iter()
                        .filter(|id| std::ptr::eq(self.inbox(**id), &raw const self.inboxes[inbox_at]))
                        .copied()
                        .collect();
                    if !here.is_empty() {
                        let (send, receive) = sync_channel(1);
                        self.inboxes[inbox_at].send(Message::Revoke { ids: here, lost, done: send });
                        waits.push(receive);
                    }
                }
                // Their calls stop with them: lower the share before anybody else may raise theirs.
                self.shares.lock().unwrap_or_else(PoisonError::into_inner).retain(|id| !ids.contains(id));
                self.share();
                std::thread::spawn(move || {
                    for wait in waits {
                        // Disconnected: the worker is gone, and so are its tasks.
                        wait.recv().unwrap_or_default();
                    }
                    done.send(()).unwrap_or_default();
                });
            }
            GroupEvent::Idle => self.shared.status_mut().joined = true,
            GroupEvent::Waiting(what) => {
                tracing::warn!(what, "partitions wait");
                self.shared.status_mut().joined = false;
            }
            GroupEvent::Error(error) => match error.kind {
                ErrorKind::Fatal => self.shared.fail(EngineError::Failed(format!("Kafka: {error}"))),
                _ => tracing::warn!(kind = ?error.kind, %error, "Kafka"),
            },
            GroupEvent::Closed => {}
        }
    }
}
