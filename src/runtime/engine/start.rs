//! A start: its steps in order, and what they have in common. Every step that waits for a server ends when the engine is told
//! to stop.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::globals::read_globals;
use super::handle::Asked;
use super::layout::Keeper;
use super::plan::Plan;
use super::sinks::{Transactional, connect, connect_schemas, message_limits, transactional_lanes};
use super::topics::{make_topics, open_admin, wait_topics};
use super::workers::{Workers, limiters};
use super::{Engine, EngineError, EngineHandle, EngineOptions, Override, Shared, commits, grown, written};
use crate::formats::Formats;
use crate::kafka::{Admin, KafkaConfig, WriteError, Writer};
use crate::runtime::globals::reader::GlobalReaders;
use crate::state::{DirError, RocksEnv, StateDir};
use crate::topology::Topology;

/// What the steps have in common.
pub(super) struct Start<'a> {
    pub(super) topology: Arc<Topology>,
    /// What is known of schemas.
    pub(super) formats: Arc<Formats>,
    pub(super) options: EngineOptions,
    pub(super) stand_ins: Override,
    pub(super) shared: Arc<Shared>,
    /// Cancelled when it is told to stop.
    pub(super) stop: &'a CancellationToken,
    /// This instance's own settings, where there is a cluster.
    pub(super) kafka: Option<KafkaConfig>,
    pub(super) writer: Option<Arc<Writer>>,
    pub(super) env: RocksEnv,
    pub(super) lock: StateDir,
    pub(super) lanes: TaskTracker,
    pub(super) lanes_stop: CancellationToken,
    pub(super) calls_stop: CancellationToken,
}

/// The topics, and what follows from them, where there is a group.
type Found = Option<(Arc<Admin>, Plan)>;

impl<'a> Start<'a> {
    /// Takes the state directory and opens the clients that need no answer of a server.
    pub(super) fn new(
        handle: &EngineHandle,
        options: EngineOptions,
        stand_ins: Override,
        stop: &'a CancellationToken,
    ) -> Result<Start<'a>, EngineError> {
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
        let kafka = topology.settings.kafka.clone().map(|mut k| {
            k.group_instance_id.clone_from(&options.instance_id);
            k.advertised.clone_from(&options.advertise);
            k
        });
        let writer = kafka.as_ref().map(Writer::open).transpose();
        let wrong =
            |e: WriteError| EngineError::Config { node: None, field: "kafka".into(), message: e.message };
        let writer = writer.map_err(wrong)?.map(Arc::new);
        let cache = topology.settings.state.cache.bytes();
        let formats = match stand_ins.plain_commits {
            true => Formats::unconnected(&topology.named_schemas),
            false => Formats::live(&topology.named_schemas),
        };
        Ok(Start {
            topology,
            formats: Arc::new(formats),
            options,
            stand_ins,
            shared,
            stop,
            kafka,
            writer,
            env: RocksEnv::new(cache, cache),
            lock,
            lanes: TaskTracker::new(),
            lanes_stop: CancellationToken::new(),
            calls_stop: CancellationToken::new(),
        })
    }

    /// All steps.
    pub(super) async fn run(self) -> Result<Engine, EngineError> {
        let Start { topology, formats, shared, stop, .. } = &self;
        if formats.is_live() {
            connect_schemas(formats, shared, stop).await?;
        }
        shared.metrics.watch_schemas(formats);
        let limiters = limiters(topology, shared);
        let sinks = connect(&self, &limiters).await?;
        let found = self.topics().await?;
        let transactional = self.transactional(&found).await?;
        let admin = found.as_ref().map(|(admin, _)| admin);
        let written = match &self.kafka {
            Some(config) if !self.stand_ins.plain_commits => {
                written::find(topology, config, admin, shared, stop).await?
            }
            _ => None,
        };
        let globals = match &found {
            Some((admin, plan)) => read_globals(&self, admin, plan).await?,
            None => GlobalReaders::default(),
        };
        if let Some(watch) = written {
            self.lanes.spawn(watch.run(Arc::clone(shared), self.lanes_stop.clone()));
        }
        let grown = found.as_ref().and_then(|(admin, plan)| grown::Watch::new(admin, topology, plan));
        if let Some(watch) = grown.filter(|_| !self.stand_ins.plain_commits) {
            self.lanes.spawn(watch.run(Arc::clone(shared), self.lanes_stop.clone()));
        }
        let (admin, plan) = found.map_or_else(|| (None, Plan::local(topology)), |(a, p)| (Some(a), p));
        let Start {
            topology, formats, options, shared, kafka, env, lock, lanes, lanes_stop, calls_stop, ..
        } = self;
        let mut engine = Engine {
            inboxes: Vec::new(),
            threads: Vec::new(),
            reader: None,
            lanes,
            lanes_stop,
            calls_stop,
            globals,
            _lock: lock,
            formats,
            topology,
            options,
            shared,
        };
        if let Some(admin) = &admin {
            engine.purge(admin, &plan);
        }
        let plan = Arc::new(plan);
        let gates = kafka.clone().filter(|_| admin.is_some() && engine.topology.has_gates());
        let workers = Workers { kafka, admin, plan: Arc::clone(&plan), sinks, limiters, transactional, env };
        engine.start_workers(&workers)?;
        let (inboxes, globals) = (engine.inboxes.clone(), engine.globals.rows.clone());
        *engine.shared.asked() = Some(Asked { inboxes, plan, globals });
        if let Some(config) = gates {
            // A client of its own: a broker that does not answer it holds up nothing else.
            let admin = open_admin(&config).await?;
            let (shared, inboxes) = (Arc::clone(&engine.shared), engine.inboxes.clone());
            if let Some(watch) = commits::watch(&engine.topology, admin, shared, inboxes) {
                engine.lanes.spawn(watch.run(engine.lanes_stop.clone()));
            }
        }
        Ok(engine)
    }

    /// Looks the topics up, compares what an earlier run kept with the topology, and makes the topology's own topics.
    async fn topics(&self) -> Result<Found, EngineError> {
        let Start { topology, shared, stop, .. } = self;
        let (plain, topics) = (self.stand_ins.plain_commits, topology.external_topics());
        let keeper = Keeper {
            topology: Arc::clone(topology),
            config: self.kafka.clone().filter(|_| !topics.is_empty()),
            dir: self.options.state_dir.clone(),
            env: self.env.clone(),
        };
        // Topics without Kafka were refused before.
        let Some(config) = keeper.config.as_ref() else {
            if !plain {
                let examined = keeper.examine(None, &BTreeMap::new(), shared, stop).await?;
                keeper.settle_local(&examined, &self.lock)?;
            }
            return Ok(None);
        };
        let admin = open_admin(config).await?;
        let counts = wait_topics(&admin, &topics, shared, stop).await?;
        let plan = Plan::new(topology, topology.partition_counts(&counts)?, plain);
        match &self.writer {
            Some(writer) if !plain => {
                let examined = keeper.examine(Some(&admin), &plan.counts, shared, stop).await?;
                keeper.settle_local(&examined, &self.lock)?;
                keeper.settle(examined, (&admin, &plan), writer, shared, stop).await?;
            }
            _ => make_topics(&admin, topology, &plan, shared, stop, true).await?,
        }
        Ok(Some((admin, plan)))
    }

    /// The sinks whose records are part of the checkpoints' transactions.
    async fn transactional(&self, found: &Found) -> Result<Transactional, EngineError> {
        let (Some((admin, plan)), Some(writer)) = (found, &self.writer) else { return Ok(BTreeMap::new()) };
        let lanes = match plan.transactions {
            true => transactional_lanes(&self.topology, writer),
            false => BTreeMap::new(),
        };
        message_limits(admin, lanes, &self.shared, self.stop).await
    }
}
