//! Everything around the engine of `dev`: the embedded broker and its topics, the API, tables in memory, the topology
//! with its times divided. Plays one run on it from start to end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::run::Run;
use super::{DevError, DevOptions, failed};
use crate::dev::{
    Accounts, Api, Feed, FeedOptions, View, Watch, api, calls_elsewhere, count, divide_times, feed,
    stand_in_caches, stand_in_tables, tables,
};
use crate::gateway::{AdminServer, Gateway};
use crate::kafka::{KafkaConfig, MockBroker, TopicPartition, Writer};
use crate::model::{Millis, Shape};
use crate::runtime::{Engine, EngineError, EngineHandle, EngineOptions, Override};
use crate::sinks::{Connected, TableSink};
use crate::topology::{Made, Node, NodeKind, Topology};
use crate::yaml::{Loaded, Mode, Registry, load_with};

/// How long a change takes to settle in the API, before `--speed`.
const SETTLE: Duration = Duration::from_secs(20);
/// Every run has the same feed and the same faults.
const SEED: u64 = 1;
/// Worker threads, at most: the partitions of a source.
const WORKERS_MAX: usize = 4;

/// Everything around the engine.
pub(super) struct Stage {
    loaded: Loaded,
    pub(super) topology: Arc<Topology>,
    /// Lives as long as the run.
    _broker: MockBroker,
    kafka: KafkaConfig,
    /// Shared with the feed, the API, the watch and the proof, which lock it for moments.
    pub(super) accounts: Arc<Mutex<Accounts>>,
    pub(super) api: Api,
    pub(super) tables: BTreeMap<usize, TableSink>,
    /// Ends the stand-ins' servers and the admin server.
    pub(super) servers: CancellationToken,
    /// What is printed at the start, in the order of the output.
    said: Vec<(&'static str, String)>,
}

impl Stage {
    pub(super) async fn set(registry: &Registry, args: &DevOptions, view: &View) -> Result<Stage, DevError> {
        let settle = Millis::from(SETTLE.div_f64(args.speed));
        let accounts = Arc::new(Mutex::new(Accounts::new(settle)));
        let servers = CancellationToken::new();
        let api = Api::start(Arc::clone(&accounts), SEED, servers.clone()).await.map_err(failed)?;
        let broker = MockBroker::start().map_err(failed)?;
        let kafka = broker.config();
        // Whatever the file says of a server, or leaves to a variable, is replaced below: nothing of it is connected to.
        let variable = |name: &str| std::env::var(name).ok();
        let loaded =
            load_with(registry, &args.file, &args.text, Mode::Lenient, &variable).map_err(DevError::File)?;
        let mut topology = loaded.topology.clone();
        if topology.settings.kafka.is_some() {
            topology.settings.kafka = Some(kafka.clone());
        }
        let real = calls_elsewhere(&mut topology, &api.base());
        if !real.is_empty() {
            return Err(DevError::Failed(format!(
                "`{}` takes the host that it calls from the record, and `dev` calls nothing outside this process: \
                 begin its URL with a host or a variable, `${{API}}/...`",
                real.join("`, `")
            )));
        }
        let times = divide_times(&mut topology, args.speed);
        let topics = make_topics(&broker, &topology)?;
        let tables = stand_in_tables(&topology);
        let mut said = vec![
            (
                "broker",
                format!(
                    "{}, librdkafka's mock inside this process: it keeps about 5 MiB of each",
                    broker.brokers()
                ),
            ),
            (
                "",
                "partition, compacts nothing and has no real transactions, so there is no changelog here"
                    .into(),
            ),
            ("", "and offsets are committed by the consumer alone".into()),
            ("topics", join_or(&topics, "none")),
        ];
        if calls(&topology) {
            let (from, to) = (api::LATENCY_MS.start(), api::LATENCY_MS.end());
            said.push((
                "API",
                format!(
                    "{}, {from} to {to} ms, 1 % 429, 1 % 503; a change settles after {settle}",
                    api.base()
                ),
            ));
        }
        said.push(("speed", format!("{} times: {}", args.speed, join_or(&times, "no time to divide"))));
        let names: BTreeMap<String, TableSink> =
            tables.iter().map(|(n, table)| (topology.nodes[*n].name.clone(), table.clone())).collect();
        if !names.is_empty() {
            let links: Vec<String> = names.keys().cloned().collect();
            let address = tables::start(names, servers.clone()).await.map_err(failed)?;
            let links: Vec<String> = links.iter().map(|name| format!("http://{address}/{name}")).collect();
            said.push(("rows", format!("a table in memory in place of the database: {}", links.join(", "))));
        }
        view.say(&format!("{}: nothing outside this process is used", topology.name));
        let topology = Arc::new(topology);
        Ok(Stage { loaded, topology, _broker: broker, kafka, accounts, api, tables, servers, said })
    }

    /// Runs the engine from start to end, and proves the result.
    pub(super) async fn play(
        &self,
        args: &DevOptions,
        view: &View,
        state_dir: &Path,
        began: Instant,
        stop: &CancellationToken,
    ) -> Result<(), DevError> {
        let exit = |e: EngineError| DevError::Engine(Box::new((self.loaded.clone(), e)));
        let handle = EngineHandle::new(&self.topology).map_err(exit)?;
        let admin = AdminServer::start(&args.admin, vec![handle.clone()], self.servers.clone());
        let admin = admin.await.map_err(failed)?;
        let caches = stand_in_caches(&self.topology, &self.tables);
        let gateway = Gateway::start_with(&handle, Some(&caches)).await.map_err(failed)?;
        let feed = self.feed(args)?;
        for (what, text) in &self.said {
            view.say(&format!("  {what:<8}{text}"));
        }
        if let Some((_, options)) = &feed {
            view.say(&format!("  {:<8}{}", "feed", said_of(options, args.duration)));
        }
        view.say(&format!("  {:<8}http://{}/ (metrics, ready, graph)", "admin", admin.address));
        if let Some(gateway) = &gateway {
            view.say(&format!("  {:<8}http://{}: the endpoints", "HTTP", gateway.address));
        }
        view.say("Ctrl-C ends the feed; then everything settles and is proved. A second one ends at once.\n");
        let options = EngineOptions {
            state_dir: state_dir.to_owned(),
            workers: std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX),
            instance_id: None,
            advertise: None,
            stop_deadline: Duration::from_secs(30),
        };
        let stand_ins = Override {
            sinks: self.tables.iter().map(|(n, t)| (*n, Arc::new(t.clone()) as Arc<dyn Connected>)).collect(),
            plain_commits: true,
        };
        let engine = match Engine::start(&handle, options, stand_ins, stop).await {
            Ok(engine) => engine,
            Err(EngineError::Stopped) => return Ok(()),
            Err(e) => return Err(exit(e)),
        };
        let watch = self.watch(&handle)?;
        let mut run = Run {
            stage: self,
            view,
            engine: &handle,
            duration: args.duration.duration(),
            feeding_since: Instant::now(),
            began,
            settling: false,
            said_saved: false,
        };
        let written = feed.as_ref().map(|(feed, _)| feed.written());
        // If something has failed, all of these end at once, and `Engine::stop` reports it.
        Box::pin(run.feed(&engine, feed.map(|(feed, _)| feed), stop)).await;
        if let Some(gateway) = gateway {
            gateway.drain().await;
        }
        let left = match self.goes_on() {
            true => None,
            false => Box::pin(run.settle(&watch, stop)).await,
        };
        engine.stop().await.map_err(exit)?;
        view.end();
        let proved = self.prove(view, left.as_ref());
        let dead_letters = watch.dead_letters().await.map_err(failed)?;
        self.summary(view, written.as_deref(), &run.snapshot(), dead_letters, proved);
        if proved { Ok(()) } else { Err(DevError::NotProved) }
    }

    fn feed(&self, args: &DevOptions) -> Result<Option<(Feed, FeedOptions)>, DevError> {
        // What the topology writes itself comes from there.
        let own = self.topology.nodes.iter().filter_map(|node| match &node.kind {
            NodeKind::Sink(sink) => sink.topic(),
            NodeKind::Source(_) | NodeKind::Operator(_) => None,
        });
        let own: BTreeSet<&str> = own.collect();
        let topics = self.topology.external_topics();
        let topics: Vec<_> = topics.into_iter().filter(|topic| !own.contains(topic.as_str())).collect();
        if topics.is_empty() {
            return Ok(None);
        }
        let options = FeedOptions {
            topics: topics.iter().map(|t| t.as_str().into()).collect(),
            shapes: topics.iter().map(|topic| self.shape_of(topic)).collect(),
            accounts: usize::try_from(args.accounts).unwrap_or(usize::MAX),
            per_second: f64::from(args.events_per_second),
            speed: args.speed,
            seed: SEED,
        };
        let writer = Writer::open(&self.kafka).map_err(failed)?;
        Ok(Some((Feed::new(options.clone(), writer, Arc::clone(&self.accounts)), options)))
    }

    /// What the values of a topic are, where the source that reads it says so.
    fn shape_of(&self, topic: &str) -> Option<Shape> {
        let reads =
            |node: &&Node| matches!(&node.kind, NodeKind::Source(source) if source.topics().contains(&topic));
        let source = self.topology.nodes.iter().find(reads)?;
        self.topology.schemas.get(&source.name).cloned()
    }

    fn watch(&self, engine: &EngineHandle) -> Result<Watch, DevError> {
        let topics = self.topology.source_topics();
        let inputs = topics
            .iter()
            .flat_map(|t| (0..feed::PARTITIONS).map(|p| TopicPartition::new(t.as_str(), p)))
            .collect();
        Watch::new(
            &self.kafka,
            &self.topology.name,
            inputs,
            self.topology.dead_letter_topic().map(|topic| TopicPartition::new(topic, 0)),
            engine.clone(),
            calls(&self.topology).then(|| Arc::clone(&self.accounts)),
        )
        .map_err(failed)
    }

    /// Whether it has sources of its own, which `dev` cannot stop.
    fn goes_on(&self) -> bool {
        let own = |n: &Node| matches!(&n.kind, NodeKind::Source(source) if source.topics().is_empty());
        self.topology.nodes.iter().any(own)
    }

    /// Calls a second that the topology allows itself.
    pub(super) fn limit(&self) -> Option<f64> {
        let settings = &self.topology.settings;
        self.topology.nodes.iter().find_map(|node| match &node.kind {
            NodeKind::Operator(config) => {
                Some(settings.rate_limits.get(config.calls()?.rate_limit?)?.limit.per_second)
            }
            NodeKind::Source(_) | NodeKind::Sink(_) => None,
        })
    }
}

fn said_of(options: &FeedOptions, duration: Millis) -> String {
    let minutes = options.lasts().as_secs() / 60;
    format!(
        "{} accounts, about {} events a second for {duration}; ends at {} MiB in a partition (about {} here)",
        count(options.accounts as u64),
        options.per_second,
        feed::PARTITION_BYTES_MAX >> 20,
        if minutes > 0 { format!("{minutes} min") } else { format!("{} s", options.lasts().as_secs()) },
    )
}

fn join_or(parts: &[String], none: &str) -> String {
    if parts.is_empty() { none.to_owned() } else { parts.join(", ") }
}

/// Whether it calls an API.
pub(super) fn calls(topology: &Topology) -> bool {
    topology.nodes.iter().any(|n| matches!(&n.kind, NodeKind::Operator(c) if c.calls().is_some()))
}

/// Makes every topic that the topology names; returns their names.
fn make_topics(broker: &MockBroker, topology: &Topology) -> Result<Vec<String>, DevError> {
    let mut topics: Vec<(String, i32)> = Vec::new();
    let sinks = topology.nodes.iter().filter_map(|n| match &n.kind {
        NodeKind::Sink(sink) => {
            let partitions = if n.made == Made::DeadLetter { 1 } else { feed::PARTITIONS };
            Some((sink.topic()?.to_owned(), partitions))
        }
        NodeKind::Source(_) | NodeKind::Operator(_) => None,
    });
    let sources = topology.source_topics().into_iter().chain(topology.global_topics());
    for (topic, partitions) in sources.map(|t| (t, feed::PARTITIONS)).chain(sinks) {
        if !topics.iter().any(|(t, _)| *t == topic) {
            topics.push((topic, partitions));
        }
    }
    for (topic, partitions) in &topics {
        broker.create_topic(topic, *partitions).map_err(failed)?;
    }
    Ok(topics.into_iter().map(|(topic, n)| format!("{topic} ({n})")).collect())
}
