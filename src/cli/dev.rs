//! `dev`: a topology with nothing installed, fed for a while, and a proof at the end.
//!
//! The stand-ins are `testing/dev`; this file puts them around the production engine, in the order in which things
//! happen: start, feed, settle, stop, prove. The first signal ends the feeding, the second everything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::run::{cores, exit, on_signals};
use super::{Exit, FAILED, LogFormat, read_file, start_logs};
use crate::gateway::AdminServer;
use crate::kafka::{KafkaConfig, MockBroker, TopicPartition, Writer};
use crate::model::{Clock, Json, Millis, SystemClock};
use crate::operators::NodeConfig;
use crate::runtime::{Engine, EngineError, EngineOptions, Override, Shared};
use crate::sinks::{SinkConnection, TableSink};
use crate::spec::{Loaded, Mode, Registry, load_with};
use crate::testing::dev::{
    Accounts, Api, Feed, FeedEnd, FeedOptions, Left, Proof, Snapshot, Subject, View, Watch, api,
    calls_elsewhere, count, divide_times, feed, limit_text, longest_wait, stand_in_tables, tables,
};
use crate::topology::{Node, NodeKind, Topology};

/// How long a change takes to settle in the API, before `--speed`.
const SETTLE: Duration = Duration::from_secs(20);
/// How long settling may take beyond the longest time that a key waits.
const SETTLING_MAX: Duration = Duration::from_secs(60);
/// Between two looks while settling.
const LOOK: Duration = Duration::from_millis(500);
/// Rows shown at the end.
const ROWS_SHOWN: usize = 3;
/// Same feed and same faults in every run.
const SEED: u64 = 1;
/// Worker threads, at most: the partitions of a source.
const WORKERS_MAX: usize = 4;

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Topology file.
    topology: PathBuf,
    /// Time runs so many times faster: the times that debounces wait, and the API's settling. 1 is real time.
    #[arg(long, value_name = "TIMES", default_value = "10", value_parser = speed, overrides_with = "speed")]
    speed: f64,
    /// How long to feed events, as in `30s` or `5m`; then everything settles and is proved.
    #[arg(long, value_name = "TIME", default_value = "60s", overrides_with = "duration")]
    duration: Millis,
    /// Events a second, on average.
    #[arg(long, value_name = "N", default_value = "75", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    events_per_second: u32,
    /// Accounts (keys) that the events are about.
    #[arg(long, value_name = "N", default_value = "300", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    accounts: u32,
    /// Where state lives; must be empty, since the broker starts empty too. Default: a directory that is removed.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Address of /metrics, /live, /ready and the web page; port 0 takes a free one and says which.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    admin: String,
    /// One line a second in place of the live view, as where standard output is no terminal.
    #[arg(long)]
    plain: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.1..=1000.0).contains(&speed) => Ok(speed),
        _ => Err("write a number from 0.1 to 1000".into()),
    }
}

pub(super) fn dev(registry: &Registry, args: &DevArgs, format: LogFormat) -> Result<(), Exit> {
    let view = View::new(args.plain);
    let log = view.clone();
    start_logs(format, "warn,librdkafka=error", move || log.log());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("tokio")
        .build()
        .map_err(|e| Exit::failed(e.to_string()))?;
    let result = runtime.block_on(Box::pin(perform(registry, args, &view)));
    view.end();
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn perform(registry: &Registry, args: &DevArgs, view: &View) -> Result<(), Exit> {
    let began = Instant::now();
    let stop = CancellationToken::new();
    on_signals(&stop).map_err(failed)?;
    let state = StateDir::new(args.state_dir.as_deref())?;
    let stage = Stage::set(registry, args, view).await?;
    let ended = Box::pin(stage.play(args, view, &state.path, began, &stop)).await;
    stage.servers.cancel();
    ended
}

fn failed(error: impl std::fmt::Display) -> Exit {
    Exit::failed(error.to_string())
}

/// Everything around the engine.
struct Stage {
    loaded: Loaded,
    topology: Arc<Topology>,
    /// Lives as long as the run.
    _broker: MockBroker,
    kafka: KafkaConfig,
    /// The feed, the API, the watch and the proof, for moments.
    accounts: Arc<Mutex<Accounts>>,
    api: Api,
    tables: BTreeMap<usize, TableSink>,
    /// Ends the stand-ins' servers and the admin server.
    servers: CancellationToken,
    /// What is printed at the start, in the order of the output.
    said: Vec<(&'static str, String)>,
}

impl Stage {
    async fn set(registry: &Registry, args: &DevArgs, view: &View) -> Result<Stage, Exit> {
        let text = read_file(&args.topology)?;
        let settle = Millis::from(SETTLE.div_f64(args.speed));
        let accounts = Arc::new(Mutex::new(Accounts::new(settle)));
        let servers = CancellationToken::new();
        let api = Api::start(Arc::clone(&accounts), SEED, servers.clone()).await.map_err(failed)?;
        let broker = MockBroker::start().map_err(failed)?;
        let kafka = broker.config();
        let variable = |name: &str| match name {
            "KAFKA_BROKERS" => Some(broker.brokers().to_owned()),
            "ACCOUNTS_API" => Some(api.base()),
            "SPANNER_DATABASE" => Some("projects/dev/instances/dev/databases/dev".into()),
            _ => std::env::var(name).ok(),
        };
        let file = args.topology.display().to_string();
        let loaded = load_with(registry, &file, &text, Mode::Lenient, &variable)
            .map_err(|report| Exit::bad_file(&report))?;
        let mut topology = loaded.topology.clone();
        if topology.settings.kafka.is_some() {
            topology.settings.kafka = Some(kafka.clone());
        }
        let real = calls_elsewhere(&mut topology, &api.base());
        if !real.is_empty() {
            return Err(Exit::failed(format!(
                "`{}` takes the host that it calls from the record, and `dev` calls nothing outside this process: \
                 begin its URL with a host or a variable, `${{ACCOUNTS_API}}/...`",
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

    /// Runs the engine from its start to its end, and proves.
    async fn play(
        &self,
        args: &DevArgs,
        view: &View,
        state_dir: &Path,
        began: Instant,
        stop: &CancellationToken,
    ) -> Result<(), Exit> {
        let exit = |e: EngineError| exit(&self.loaded, e);
        let shared = Engine::shared(&self.topology).map_err(exit)?;
        let admin = AdminServer::start(
            &args.admin,
            Arc::clone(&self.topology),
            Arc::clone(&shared),
            self.servers.clone(),
        )
        .await
        .map_err(failed)?;
        let feed = self.feed(args)?;
        for (what, text) in &self.said {
            view.say(&format!("  {what:<8}{text}"));
        }
        if let Some((_, options)) = &feed {
            view.say(&format!("  {:<8}{}", "feed", said_of(options, args.duration)));
        }
        view.say(&format!("  {:<8}http://{}/ (metrics, ready, graph)", "admin", admin.address));
        view.say("Ctrl-C ends the feed; then everything settles and is proved. A second one ends at once.\n");
        let options = EngineOptions {
            state_dir: state_dir.to_owned(),
            workers: cores().min(WORKERS_MAX),
            instance_id: None,
            stop_deadline: Duration::from_secs(30),
        };
        let stand_ins = Override {
            sinks: self.tables.iter().map(|(n, t)| (*n, SinkConnection::Table(t.clone()))).collect(),
            plain_commits: true,
        };
        let topology = Arc::clone(&self.topology);
        let engine = match Engine::start(topology, options, stand_ins, Arc::clone(&shared), stop).await {
            Ok(engine) => engine,
            Err(EngineError::Stopped) => return Ok(()),
            Err(e) => return Err(exit(e)),
        };
        let watch = self.watch(&shared)?;
        let mut run = Run {
            stage: self,
            view,
            shared: &shared,
            duration: args.duration.duration(),
            feeding_since: Instant::now(),
            began,
            settling: false,
            said_saved: false,
        };
        let written = feed.as_ref().map(|(feed, _)| feed.written());
        // Where something has failed all of these end at once, and `Engine::stop` says what it was.
        Box::pin(run.feed(&engine, feed.map(|(feed, _)| feed), stop)).await;
        let left = match self.goes_on() {
            true => None,
            false => Box::pin(run.settle(&watch, stop)).await,
        };
        engine.stop().await.map_err(exit)?;
        view.end();
        let proved = self.prove(view, left.as_ref());
        let dead_letters = watch.dead_letters().await.map_err(failed)?;
        self.summary(view, written.as_deref(), &run.snapshot(), dead_letters, proved);
        if proved { Ok(()) } else { Err(Exit::quiet(FAILED)) }
    }

    fn feed(&self, args: &DevArgs) -> Result<Option<(Feed, FeedOptions)>, Exit> {
        let topics = self.topology.external_topics();
        if topics.is_empty() {
            return Ok(None);
        }
        let options = FeedOptions {
            topics: topics.iter().map(|t| t.as_str().into()).collect(),
            accounts: usize::try_from(args.accounts).unwrap_or(usize::MAX),
            per_second: f64::from(args.events_per_second),
            speed: args.speed,
            seed: SEED,
        };
        let writer = Writer::open(&self.kafka).map_err(failed)?;
        Ok(Some((Feed::new(options.clone(), writer, Arc::clone(&self.accounts)), options)))
    }

    fn watch(&self, shared: &Arc<Shared>) -> Result<Watch, Exit> {
        let topics = self.topology.source_topics();
        let inputs = topics
            .iter()
            .flat_map(|t| (0..feed::PARTITIONS).map(|p| TopicPartition::new(t.as_str(), p)))
            .collect();
        let dead_letter = self.topology.settings.errors.dead_letter.as_ref();
        Watch::new(
            &self.kafka,
            &self.topology.name,
            inputs,
            dead_letter.map(|d| TopicPartition::new(d.topic.as_str(), 0)),
            Arc::clone(shared),
            calls(&self.topology).then(|| Arc::clone(&self.accounts)),
        )
        .map_err(failed)
    }

    /// Has it sources of its own, that nobody here can stop?
    fn goes_on(&self) -> bool {
        let own = |n: &Node| matches!(&n.kind, NodeKind::Source(source) if source.topics().is_empty());
        self.topology.nodes.iter().any(own)
    }

    /// Prints the tables' first rows and whether they are right; `left` is what has not settled, where that was asked.
    fn prove(&self, view: &View, left: Option<&Left>) -> bool {
        for (n, table) in &self.tables {
            let rows = table.rows();
            view.say(&format!("\n{}: {} rows", self.topology.nodes[*n].name, count(rows.len() as u64)));
            if let Some(Json::Object(row)) = rows.first() {
                let names: Vec<&str> = row.keys().map(String::as_str).collect();
                view.say(&format!("  {}", names.join(" | ")));
            }
            for row in rows.iter().take(ROWS_SHOWN) {
                let cells = row.as_object().into_iter().flat_map(|row| row.values());
                let cells: Vec<String> =
                    cells.map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect();
                view.say(&format!("  {}", cells.join(" | ")));
            }
            if rows.len() > ROWS_SHOWN {
                view.say("  ...");
            }
        }
        view.say("");
        let Some(left) = left else {
            view.say("nothing to prove: the events came from the topology's own sources");
            return true;
        };
        if !left.is_nothing() {
            view.say(&format!("NOT PROVED: it did not settle: {left}"));
            return false;
        }
        let subject = Subject::find(&self.topology);
        let Some((subject, table)) = subject.and_then(|s| Some((s.clone(), self.tables.get(&s.sink)?)))
        else {
            view.say("nothing to prove: no column of a table is the answer of `/accounts/{{ key }}`");
            return true;
        };
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let proof = Proof::of(&accounts, table, &subject.column, SystemClock.now());
        if proof.accounts == 0 {
            view.say("nothing to prove: no account was changed");
            return true;
        }
        if proof.holds() {
            let n = count(proof.accounts as u64);
            view.say(&format!("PROVED: all {n} accounts that changed have their settled state in their row"));
            return true;
        }
        let (wrong, all) = (count(proof.wrong as u64), count(proof.accounts as u64));
        view.say(&format!("NOT PROVED: {wrong} of {all} accounts have another row than their settled state"));
        for difference in &proof.differences {
            view.say(&format!("  {difference}"));
        }
        false
    }

    fn summary(
        &self,
        view: &View,
        written: Option<&AtomicU64>,
        end: &Snapshot,
        dead_letters: u64,
        proved: bool,
    ) {
        let events = written.map_or(end.events, |n| n.load(Ordering::Relaxed));
        let line = |what: &str, number: String, more: &str| {
            view.say(format!("  {what:<26}{number:>9}   {more}").trim_end());
        };
        view.say("");
        line("events", count(events), "");
        if calls(&self.topology) {
            let stats = self.api.stats();
            let refused = format!(
                "{} answered 429 and {} 503, and were made again",
                stats.throttled, stats.unavailable
            );
            line(
                "calls made",
                count(stats.calls),
                if stats.throttled + stats.unavailable > 0 { &refused } else { "" },
            );
            let saved = events.saturating_sub(stats.calls);
            let percent = Snapshot { events, waiting: 0, ..*end }.saved_percent().unwrap_or(0);
            line("calls saved", format!("{percent} %"), &format!("{} fewer than events", count(saved)));
            let limit =
                self.limit().map_or_else(|| "no limit".to_owned(), |l| format!("of {}", limit_text(l)));
            line("most calls in one second", count(stats.busiest_second as u64), &limit);
        }
        let rows: u64 = self.tables.values().map(TableSink::written).sum();
        line("rows written", count(rows), "");
        line("dead letters", count(dead_letters), "");
        let early = self.accounts.lock().unwrap_or_else(PoisonError::into_inner).read_early();
        if early > 0 {
            let why = match proved {
                true => "busy accounts, called at `max_wait`, and again when quiet",
                false => "is the debounce's `quiet` longer than what a change takes to settle?",
            };
            line("calls before settled", count(early), why);
        }
    }

    /// Calls a second that the topology allows itself.
    fn limit(&self) -> Option<f64> {
        let settings = &self.topology.settings;
        self.topology.nodes.iter().find_map(|node| match &node.kind {
            NodeKind::Operator(config) => {
                Some(settings.rate_limits.get(config.rate_limit()?)?.limit.per_second)
            }
            NodeKind::Source(_) | NodeKind::Sink(_) => None,
        })
    }
}

/// A run from the first event on.
struct Run<'a> {
    stage: &'a Stage,
    view: &'a View,
    shared: &'a Shared,
    duration: Duration,
    feeding_since: Instant,
    began: Instant,
    settling: bool,
    said_saved: bool,
}

impl Run<'_> {
    /// Feeds until the time is over, a signal comes, the feed has to end, or the engine has.
    async fn feed(&mut self, engine: &Engine, feed: Option<Feed>, stop: &CancellationToken) {
        let never = CancellationToken::new();
        while !(self.shared.status().is_ready() || self.shared.has_failed() || stop.is_cancelled()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.feeding_since = Instant::now();
        let feed_stop = CancellationToken::new();
        let mut feeding: JoinHandle<FeedEnd> = match feed {
            Some(feed) => tokio::spawn(feed.run(feed_stop.clone())),
            None => tokio::spawn(feed_stop.clone().cancelled_owned().map(|()| FeedEnd::Stopped)),
        };
        let end = self.feeding_since + self.duration;
        let mut ticks = tokio::time::interval(self.view.every());
        let ended = loop {
            // All are cancel-safe; biased, so that the end is seen before the next line.
            tokio::select! {
                biased;
                () = stop.cancelled() => break "Ctrl-C",
                () = engine.run(&never) => break "every source has ended",
                ended = &mut feeding => return self.say_end(ended),
                () = tokio::time::sleep_until(end) => break "time is over",
                _ = ticks.tick() => self.show(),
            }
        };
        feed_stop.cancel();
        self.view.say(&match self.shared.has_failed() {
            true => "the topology has failed".to_owned(),
            false => format!("{ended}: no more events; what is on its way settles"),
        });
        drop(feeding.await);
    }

    fn say_end(&self, ended: Result<FeedEnd, tokio::task::JoinError>) {
        let text = match ended {
            Ok(FeedEnd::Full(partition)) => format!(
                "the feed ends: {partition} has {} MiB, and the embedded broker keeps about 5",
                feed::PARTITION_BYTES_MAX >> 20
            ),
            Ok(FeedEnd::Failed(error)) => format!("the feed ends: {error}"),
            Ok(FeedEnd::Stopped) => return,
            Err(e) => format!("the feed ends: {e}"),
        };
        self.view.say(&text);
    }

    /// Waits until nothing is on its way, for a bounded time; what is left then.
    async fn settle(&mut self, watch: &Watch, stop: &CancellationToken) -> Option<Left> {
        self.settling = true;
        let mut told = stop.is_cancelled();
        let began = Instant::now();
        let until = began + longest_wait(&self.stage.topology).duration() + SETTLING_MAX;
        let mut ticks = tokio::time::interval(LOOK);
        let mut settled = false;
        let mut said = began;
        loop {
            tokio::select! {
                () = stop.cancelled(), if !told => {
                    told = true;
                    self.view.say("Ctrl-C: the feed has ended already; a second one ends at once");
                    continue;
                }
                _ = ticks.tick() => {}
            }
            if self.shared.has_failed() {
                return None;
            }
            let left = match watch.look().await {
                Ok(left) => left,
                Err(error) => {
                    tracing::warn!(%error, "cannot look at the broker");
                    Left { uncommitted: 1, ..Left::default() }
                }
            };
            // The engine's counters are a little old: twice in a row.
            if left.is_nothing() && settled {
                self.view.say(&format!(
                    "settled after {:.1} s: no key waits, no call is under way, every event is committed",
                    began.elapsed().as_secs_f64()
                ));
                return Some(left);
            }
            settled = left.is_nothing();
            if Instant::now() > until {
                return Some(left);
            }
            if said.elapsed() >= Duration::from_secs(1) && !settled {
                said = Instant::now();
                self.view.say_plainly(&format!("settling: {left}"));
            }
            self.view.show_block(&self.stage.topology.name, &self.snapshot());
        }
    }

    fn show(&mut self) {
        self.view.show(&self.stage.topology.name, &self.snapshot());
        if !self.said_saved {
            let accounts = self.stage.accounts.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(saved) = accounts.first_saved() {
                self.said_saved = true;
                self.view.say(&format!(
                    "first saved call after {:.1} s: one call for {} events of {}",
                    self.began.elapsed().as_secs_f64(),
                    saved.events,
                    saved.id
                ));
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let topology = &self.stage.topology;
        let metrics = &self.shared.metrics;
        let declared = topology.nodes.iter().filter(|n| n.made_for.is_none());
        let sources = declared.filter(|n| matches!(n.kind, NodeKind::Source(_)));
        let stats = self.stage.api.stats();
        Snapshot {
            elapsed: self.feeding_since.elapsed(),
            duration: self.duration,
            settling: self.settling,
            events: sources.map(|n| metrics.records_in(&n.name)).sum(),
            waiting: metrics.keys_waiting(),
            calls: stats.calls,
            rows: self.stage.tables.values().map(TableSink::written).sum(),
            last_second: stats.last_second,
            limit: self.stage.limit(),
        }
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

fn calls(topology: &Topology) -> bool {
    topology
        .nodes
        .iter()
        .any(|n| matches!(&n.kind, NodeKind::Operator(c) if matches!(**c, NodeConfig::Enrich(_))))
}

/// Makes every topic that the topology names, and says which.
fn make_topics(broker: &MockBroker, topology: &Topology) -> Result<Vec<String>, Exit> {
    let mut topics: Vec<(String, i32)> = Vec::new();
    let sinks = topology.nodes.iter().filter_map(|n| match &n.kind {
        NodeKind::Sink(sink) => sink.topic().map(str::to_owned),
        NodeKind::Source(_) | NodeKind::Operator(_) => None,
    });
    let dead_letter = topology.settings.errors.dead_letter.as_ref().map(|d| (d.topic.clone(), 1));
    let sources = topology.source_topics().into_iter().chain(topology.global_topics());
    let named = sources.chain(sinks).map(|t| (t, feed::PARTITIONS));
    for (topic, partitions) in named.chain(dead_letter) {
        if !topics.iter().any(|(t, _)| *t == topic) {
            topics.push((topic, partitions));
        }
    }
    for (topic, partitions) in &topics {
        broker.create_topic(topic, *partitions).map_err(failed)?;
    }
    Ok(topics.into_iter().map(|(topic, n)| format!("{topic} ({n})")).collect())
}

/// Where the engine keeps its state.
struct StateDir {
    path: PathBuf,
    /// Remove it at the end?
    ours: bool,
}

impl StateDir {
    fn new(given: Option<&Path>) -> Result<StateDir, Exit> {
        let Some(path) = given else {
            let name = format!("slackwater-dev-{}-{:08x}", std::process::id(), rand::random::<u32>());
            return Ok(StateDir { path: std::env::temp_dir().join(name), ours: true });
        };
        let used = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if used {
            return Err(Exit {
                code: 2,
                message: Some(format!(
                    "error: {} is not empty: the embedded broker starts empty, so state of an earlier run does not fit \
                     it. Give an empty directory with --state-dir, or none",
                    path.display()
                )),
            });
        }
        Ok(StateDir { path: path.to_owned(), ours: false })
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = std::fs::remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the state directory");
        }
    }
}
