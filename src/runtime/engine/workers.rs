//! Starts the worker threads of an engine, with what each of them needs.
//!
//! Called once, at the end of the engine's start. Invariants: every worker has an inbox before the group is joined;
//! tasks of sources that are not topics belong to the first worker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle as TokioHandle;
use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::router::Router;
use super::sinks::Transactional;
use super::status::{set_status, stop_at_record};
use super::{Engine, EngineError, Shared};
use crate::clients::Caller;
use crate::clients::http::HttpCaller;
use crate::kafka::{Admin, Assignment, GroupOptions, GroupReader, KafkaConfig, TxnError, TxnWriter};
use crate::model::{Clock, Reply, SystemClock};
use crate::runtime::calls::limiter::Limiter;
use crate::runtime::calls::shares::Shares;
use crate::runtime::calls::{CallCounters, CallDriver, CallParts};
use crate::runtime::checkpoint::restore::{Given, Restorer};
use crate::runtime::checkpoint::{CommitMode, Committer};
use crate::runtime::delivery::SinkDriver;
use crate::runtime::inbox::{Message, inbox};
use crate::runtime::input::TaskReader;
use crate::runtime::input::horizon::{Horizon, Horizons};
use crate::runtime::task::{TaskId, TaskOptions};
use crate::runtime::worker::{Calls, Outside, Ticket, Worker};
use crate::state::RocksEnv;
use crate::topology::{NodeKind, Topology};

/// What the steps of a start have made for the workers.
pub(super) struct Workers {
    pub(super) kafka: Option<KafkaConfig>,
    pub(super) admin: Option<Arc<Admin>>,
    pub(super) plan: Arc<Plan>,
    pub(super) sinks: BTreeMap<usize, SinkDriver>,
    pub(super) limiters: BTreeMap<String, Arc<Limiter>>,
    pub(super) transactional: Transactional,
    pub(super) env: RocksEnv,
}

/// What only their start makes.
struct Made {
    restorer: Restorer,
    calls: BTreeMap<usize, Calls>,
    horizons: Arc<Horizons>,
    repartitions: BTreeMap<(usize, usize), Arc<str>>,
}

impl Engine {
    /// Joins the group, if there is one, and starts the workers.
    pub(super) fn start_workers(&mut self, given: &Workers) -> Result<(), EngineError> {
        let topology = Arc::clone(&self.topology);
        let plan = &given.plan;
        let mails: Vec<_> = (0..self.options.workers.max(1)).map(|_| inbox()).collect();
        self.inboxes = mails.iter().map(|(inbox, _)| inbox.clone()).collect();
        // Not the topics of global tables, which no group reads.
        if let (Some(config), false) = (&given.kafka, plan.topics.is_empty()) {
            self.reader = Some(self.join_group(config, plan, &given.limiters)?);
        }
        let made = Made {
            restorer: self.restorer(given),
            horizons: self.horizons(given),
            repartitions: topology
                .repartitions()
                .into_iter()
                .filter_map(|r| Some((*plan.places.get(&r.topic)?, Arc::from(r.topic))))
                .collect(),
            calls: self.calls(&TokioHandle::current(), &given.limiters)?,
        };
        if topology.reads_schemas() {
            self.resolve_schemas();
        }
        let instance = self.options.instance_id.clone().unwrap_or_else(random_id);
        for (n, (inbox, mail)) in mails.into_iter().enumerate() {
            let mode = match (&given.kafka, plan.topics.is_empty()) {
                (Some(config), false) if plan.transactions => {
                    // Unique per instance and worker, since taking an id ends the transaction that its last owner left
                    // open.
                    self.transactions(config, format!("{}-{instance}-{n}", topology.name))
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
            let outside = self.outside(given, &made);
            let mut worker = Worker::new(mail, inbox, outside, committer, self.shared.metrics.worker());
            if n == 0 {
                self.add_local_sources(&mut worker)?;
            }
            // Its log lines say, as this one's do, which topology of the process it is.
            let span = tracing::Span::current();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{n}"))
                .spawn(move || span.in_scope(|| worker.run()))
                .map_err(|e| EngineError::Failed(e.to_string()))?;
            self.threads.push(thread);
        }
        if self.reader.is_none() {
            // The tasks of other sources are known by now, so the instance is not ready before they run.
            self.shared.status_mut().joined = true;
        }
        Ok(())
    }

    /// What brings tasks up to date before they run.
    fn restorer(&self, given: &Workers) -> Restorer {
        let transactional = given.transactional.iter();
        Restorer::new(Given {
            topology: Arc::clone(&self.topology),
            kafka: given.kafka.clone(),
            admin: given.admin.clone(),
            changelogs: Arc::clone(&given.plan.changelogs),
            options: TaskOptions {
                formats: Some(Arc::clone(&self.formats)),
                globals: self.globals.rows.clone(),
                transactional: transactional.map(|(node, (_, bytes_max))| (*node, *bytes_max)).collect(),
                ..TaskOptions::default()
            },
            dir: self.options.state_dir.clone(),
            env: given.env.clone(),
            metrics: self.shared.metrics.clone(),
            tokio: TokioHandle::current(),
        })
    }

    /// Starts looking up how far repartition topics are written.
    fn horizons(&self, given: &Workers) -> Arc<Horizons> {
        let horizon = Horizon::new(&self.topology, |topic| given.plan.counts.get(topic).copied());
        let horizons = horizon.seen();
        if let Some(admin) = given.admin.clone().filter(|_| !horizon.is_empty()) {
            let checkpoint = self.topology.settings.state.checkpoint.duration();
            let stop = self.lanes_stop.clone();
            self.lanes.spawn(horizon.run(admin, self.topology.name.clone(), checkpoint, stop));
        }
        horizons
    }

    /// What one worker needs of the rest of the process.
    fn outside(&self, given: &Workers, made: &Made) -> Outside {
        let (topology, plan) = (&self.topology, &given.plan);
        // If a group reads topics, there is always more to come.
        let ends = plan.topics.is_empty();
        Outside {
            sinks: given.sinks.clone(),
            calls: made.calls.clone(),
            restore: made.restorer.handle(),
            transactional: given.transactional.iter().map(|(n, (lane, _))| (*n, lane.clone())).collect(),
            changelogs: plan.changelogs.to_vec(),
            checkpoint: topology.settings.state.checkpoint.duration(),
            idle: topology.settings.time.idle,
            delay: topology.settings.time.delay,
            repartitions: made.repartitions.clone(),
            horizons: Arc::clone(&made.horizons),
            failed: {
                let (shared, topology) = (Arc::clone(&self.shared), Arc::clone(topology));
                Box::new(move |id, message| {
                    let message = format!("task {}: {message}", id.name(&topology));
                    shared.fail(EngineError::Failed(message));
                })
            },
            blocked: {
                let shared = Arc::clone(&self.shared);
                Box::new(move |id, blocked| shared.gates.report(id, blocked))
            },
            stopped: {
                let (shared, topology) = (Arc::clone(&self.shared), Arc::clone(topology));
                Box::new(move |id, error| stop_at_record(&shared, id, &id.name(&topology), error, ends))
            },
            status: {
                let shared = Arc::clone(&self.shared);
                Box::new(move |id, status| set_status(&shared, id, status, ends))
            },
            topology: Arc::clone(topology),
        }
    }

    /// Joins the group; its events go to the workers' inboxes.
    fn join_group(
        &self,
        config: &KafkaConfig,
        plan: &Arc<Plan>,
        limiters: &BTreeMap<String, Arc<Limiter>>,
    ) -> Result<GroupReader, EngineError> {
        let router = Router {
            plan: Arc::clone(plan),
            inboxes: self.inboxes.clone(),
            shared: Arc::clone(&self.shared),
            shares: Mutex::default(),
            limits: Shares::new(&self.topology, limiters, &plan.counts),
        };
        let names: Vec<&str> = plan.topics.iter().map(|t| &**t).collect();
        let mut options = GroupOptions::new(self.topology.name.clone(), &names);
        if self.topology.subs.iter().any(|s| s.topics.len() > 1) {
            // A task reads partition p of several topics, so these must be assigned together.
            options.assignment = Assignment::Range;
        }
        GroupReader::open(config, &options, move |event| router.event(event))
            .map_err(|e| EngineError::Failed(e.to_string()))
    }

    /// Commits in transactions with this id.
    fn transactions(&self, config: &KafkaConfig, id: String) -> CommitMode {
        let (config, failed) = (config.clone(), self.shared.failed.clone());
        CommitMode::Transaction(Box::new(move || open_writer(&config, &id, &failed)))
    }

    /// Sources that are not topics: one task each, partition 0, on the first worker.
    fn add_local_sources(&self, worker: &mut Worker) -> Result<(), EngineError> {
        for (sub, part) in self.topology.subs.iter().enumerate() {
            let mut readers = Vec::new();
            // A sub-topology reads topics or other sources, never both, so their numbers are those of
            // `Topology::inputs`.
            for (input, &n) in part.lines.iter().enumerate() {
                let NodeKind::Source(source) = &self.topology.nodes[n].kind else { continue };
                let opened = source.open(SystemClock.now()).map_err(|(field, message)| {
                    let node = Some(self.topology.nodes[n].name.clone());
                    EngineError::Config { node, field, message }
                })?;
                readers.extend(opened.map(|reader| (input, TaskReader::source(reader, input))));
            }
            if !readers.is_empty() {
                worker.add(TaskId { sub, partition: 0 }, readers);
            }
        }
        Ok(())
    }

    /// The call drivers by node, one each for all workers, and the way back of their answers.
    fn calls(
        &self,
        tokio: &TokioHandle,
        limiters: &BTreeMap<String, Arc<Limiter>>,
    ) -> Result<BTreeMap<usize, Calls>, EngineError> {
        let mut out = BTreeMap::new();
        for (n, node) in self.topology.nodes.iter().enumerate() {
            let NodeKind::Operator(config) = &node.kind else { continue };
            let Some(calls) = config.calls() else { continue };
            let in_flight_max = calls.in_flight_max.get();
            let caller = HttpCaller::new(
                calls.http.connections,
                calls.http.max_body,
                in_flight_max,
                Arc::new(SystemClock),
            )
            .map_err(|e| EngineError::Failed(e.to_string()))?;
            let caller = Caller::Http(caller);
            let counters = Arc::new(CallCounters::new(caller.outcomes()));
            self.shared.metrics.watch_calls(&node.name, Arc::clone(&counters));
            let parts = CallParts {
                node: node.name.clone(),
                limiter: calls.rate_limit.and_then(|l| limiters.get(l)).map(Arc::clone),
                caller,
                in_flight_max,
                counters,
                cancel: self.calls_stop.clone(),
            };
            let reply = |ticket: Ticket, call: u64, reply: Reply| {
                let Ticket { handle, node, inbox, gate } = ticket;
                // The answer is in the inbox before the call counts as ended.
                inbox.send(Message::Reply { handle, node, call, reply });
                gate.end();
            };
            out.insert(n, CallDriver::spawn(tokio, parts, reply));
        }
        Ok(out)
    }
}

/// The limiters by name.
pub(super) fn limiters(topology: &Topology, shared: &Shared) -> BTreeMap<String, Arc<Limiter>> {
    topology
        .settings
        .rate_limits
        .iter()
        .map(|(name, config)| {
            let limiter = Arc::new(Limiter::new(config));
            if topology.source_topics().is_empty() {
                // No other instance has a share of it.
                limiter.set_share(1.0);
            }
            shared.metrics.watch_limiter(name, Arc::clone(&limiter));
            (name.clone(), limiter)
        })
        .collect()
}

/// Tries until it is open, or something else has failed.
fn open_writer(config: &KafkaConfig, id: &str, failed: &CancellationToken) -> Result<TxnWriter, String> {
    loop {
        match TxnWriter::open(config, id, Duration::from_secs(30)) {
            Ok(writer) => return Ok(writer),
            Err(e) if failed.is_cancelled() => return Err(e.to_string()),
            Err(TxnError::Retriable(message)) => tracing::warn!(error = message, "no transactions yet"),
            Err(e) => return Err(e.to_string()),
        }
    }
}

fn random_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}
