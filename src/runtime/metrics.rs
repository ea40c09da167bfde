//! Metrics: what every process and node has, and what single kinds of nodes have besides
//! ([`crate::operators::OwnMetrics`]). Prometheus conventions, prefix `slackwater_`, base units.
//!
//! Labels: `topology` on everything, `node`, and `partition` for what an assigned partition holds; never a record's key.

mod endpoints;
mod replies;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Counter, CounterVec, Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use self::endpoints::EndpointMetrics;
pub use self::replies::ReplyMetrics;
use super::calls::CallCounters;
use super::calls::limiter::Limiter;
use super::task::{SKEWED, Task, TaskId};
use crate::formats::Formats;
use crate::model::{Clock, SystemClock};
use crate::operators::{Count, Gauge, OwnMetrics, Tally};
use crate::topology::{Node, NodeKind, Topology};

const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// What every name begins with.
const PREFIX: &str = "slackwater";

/// Makes metrics, and notes down their names.
struct Made {
    registry: Registry,
    names: Vec<String>,
}

impl Made {
    fn register<C: Collector + Clone + 'static>(
        &mut self,
        metric: Result<C, prometheus::Error>,
    ) -> Result<C, prometheus::Error> {
        let metric = metric?;
        self.names.extend(metric.desc().iter().map(|d| format!("{PREFIX}_{}", d.fq_name)));
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counts(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn seconds(&mut self, name: &str, help: &str, labels: &[&str]) -> Result<CounterVec, prometheus::Error> {
        self.register(CounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn floats(&mut self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.register(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels))
    }

    /// What the topology's kinds of nodes count, by name; the sources' own among it.
    fn own_counts(
        &mut self,
        topology: &Topology,
    ) -> Result<BTreeMap<&'static str, IntCounterVec>, prometheus::Error> {
        let own = own_metrics(topology).flat_map(|own| own.counts).copied();
        let mut counts = BTreeMap::new();
        for Count { name, help, label } in own.chain([&SKEWED]) {
            if !counts.contains_key(name) {
                let labels: Vec<&str> = ["node"].into_iter().chain(label.map(|(label, _)| label)).collect();
                counts.insert(*name, self.counts(name, help, &labels)?);
            }
        }
        Ok(counts)
    }

    /// What they show, by name.
    fn own_gauges(
        &mut self,
        topology: &Topology,
        labels: &[&str],
    ) -> Result<BTreeMap<&'static str, IntGaugeVec>, prometheus::Error> {
        let mut gauges = BTreeMap::new();
        for Gauge { name, help } in own_metrics(topology).flat_map(|own| own.gauges).copied() {
            if !gauges.contains_key(name) {
                gauges.insert(*name, self.gauges(name, help, labels)?);
            }
        }
        Ok(gauges)
    }
}

fn own_metrics(topology: &Topology) -> impl Iterator<Item = OwnMetrics> + '_ {
    topology.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Operator(config) => Some(config.metrics()),
        NodeKind::Source(_) | NodeKind::Sink(_) => None,
    })
}

/// All metrics of a topology in a process.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Of the nodes, by index.
    nodes: Arc<Vec<String>>,
    /// By node: whether it keeps state.
    stateful: Arc<Vec<bool>>,
    /// Name and topics of each sub-topology, as its tasks name them.
    subs: Arc<Vec<(String, Vec<String>)>>,
    records_in: IntCounterVec,
    records_out: IntCounterVec,
    dropped: IntCounterVec,
    latency: HistogramVec,
    commit_lag: IntGaugeVec,
    checkpoint_duration: Histogram,
    checkpoint_phases: CounterVec,
    checkpoints_failed: IntCounter,
    checkpoint_timestamp: GaugeVec,
    state_keys: IntGaugeVec,
    state_bytes: IntGaugeVec,
    restore_remaining: IntGaugeVec,
    calls: IntCounterVec,
    calls_in_flight: IntGaugeVec,
    call_time: CounterVec,
    breaker_opened: IntCounterVec,
    limiter_wait: CounterVec,
    limiter_used: GaugeVec,
    sink_batches: IntCounterVec,
    sink_rows: IntCounterVec,
    sink_failures: IntCounterVec,
    sink_write: HistogramVec,
    tasks: IntGaugeVec,
    gate_blocked: IntGaugeVec,
    gate_blocked_time: CounterVec,
    gate_lag: IntGaugeVec,
    gate_polls: IntCounterVec,
    schema_lookups: IntCounterVec,
    schemas_waiting: IntGaugeVec,
    endpoints: EndpointMetrics,
    replies: ReplyMetrics,
    /// Those of single kinds of nodes, by name.
    counts: Arc<BTreeMap<&'static str, IntCounterVec>>,
    gauges: Arc<BTreeMap<&'static str, IntGaugeVec>>,
    /// The name of every metric.
    names: Arc<Vec<String>>,
    /// Counters that are read at each scrape: those of call drivers and limiters, by node or limit.
    scraped: Arc<Mutex<Scraped>>,
}

#[derive(Default)]
struct Scraped {
    calls: Vec<(String, Arc<CallCounters>)>,
    limiters: Vec<(String, Arc<Limiter>)>,
    schemas: Option<Arc<Formats>>,
}

impl Metrics {
    /// The metrics of a topology.
    ///
    /// # Errors
    /// Two metrics of one name: a bug.
    pub fn new(topology: &Topology) -> Result<Metrics, prometheus::Error> {
        let labels = [("topology".to_owned(), topology.name.clone())].into_iter().collect();
        let registry = Registry::new_custom(Some(PREFIX.into()), Some(labels))?;
        let mut made = Made { registry, names: Vec::new() };
        let m = &mut made;
        let node: &[&str] = &["node"];
        let part: &[&str] = &["node", "partition"];
        let metrics = Metrics {
            nodes: Arc::new(topology.nodes.iter().map(|n| n.name.clone()).collect()),
            stateful: {
                let keeps =
                    |n: &Node| matches!(&n.kind, NodeKind::Operator(config) if config.is_stateful(&n.plan));
                Arc::new(topology.nodes.iter().map(keeps).collect())
            },
            subs: {
                let names = |sub| topology.inputs(sub).into_iter().map(|input| input.name).collect();
                Arc::new(topology.subs.iter().enumerate().map(|(n, s)| (s.name.clone(), names(n))).collect())
            },
            records_in: m.counts("records_in_total", "Records that came into a node.", node)?,
            records_out: m.counts("records_out_total", "Records that a node sent on or delivered.", node)?,
            dropped: m.counts(
                "records_dropped_total",
                "Records that were not processed, by reason.",
                &["node", "reason"],
            )?,
            latency: m.histograms(
                "end_to_end_latency_seconds",
                "From a record's timestamp to its durable row.",
                node,
            )?,
            commit_lag: m.gauges(
                "commit_lag_records",
                "Records read and not committed yet.",
                &["topic", "partition"],
            )?,
            checkpoint_duration: {
                let opts = HistogramOpts::new("checkpoint_duration_seconds", "Time to commit a checkpoint.");
                m.register(Histogram::with_opts(opts.buckets(SECONDS.to_vec())))?
            },
            checkpoint_phases: m.seconds(
                "checkpoint_phase_seconds_total",
                "Time to commit checkpoints, by phase.",
                &["phase"],
            )?,
            checkpoints_failed: m.register(IntCounter::new(
                "checkpoints_failed_total",
                "Checkpoints that were not committed.",
            ))?,
            checkpoint_timestamp: m.floats(
                "checkpoint_timestamp_seconds",
                "When the task's last checkpoint was committed, Unix time.",
                part,
            )?,
            state_keys: m.gauges("state_keys", "Keys that a node holds in memory.", part)?,
            state_bytes: m.gauges("state_bytes", "Bytes that a node holds in memory.", part)?,
            restore_remaining: m.gauges(
                "restore_remaining_rows",
                "Rows still to be read before tasks run.",
                part,
            )?,
            calls: m.counts("calls_total", "Answers to calls, by status.", &["node", "status"])?,
            calls_in_flight: m.gauges("calls_in_flight", "Calls sent and not answered.", node)?,
            call_time: m.seconds("call_seconds_total", "Time that calls were on the wire.", node)?,
            breaker_opened: m.counts(
                "call_breaker_opened_total",
                "Times that calls were stopped because the API failed.",
                node,
            )?,
            limiter_wait: m.seconds(
                "limiter_wait_seconds_total",
                "Time that calls waited for the limiter.",
                &["limit"],
            )?,
            limiter_used: m.floats(
                "limiter_used_ratio",
                "Calls in the last second, as a part of what this instance may make.",
                &["limit"],
            )?,
            gate_blocked: m.gauges(
                "gate_blocked",
                "1 while a gate holds records back until this group has committed past them.",
                &["node", "group"],
            )?,
            gate_blocked_time: m.seconds(
                "gate_blocked_seconds_total",
                "Time that a gate held records back for this group.",
                &["node", "group"],
            )?,
            gate_lag: m.gauges(
                "gate_lag_records",
                "Records of a partition that a gate's group has not committed yet.",
                &["node", "group", "partition"],
            )?,
            gate_polls: m.counts(
                "gate_polls_total",
                "Questions for what a gate's group has committed, by result.",
                &["group", "result"],
            )?,
            sink_batches: m.counts("sink_batches_total", "Batches written.", node)?,
            sink_rows: m.counts("sink_rows_total", "Rows written.", node)?,
            sink_failures: m.counts("sink_failures_total", "Attempts to write a batch that failed.", node)?,
            sink_write: m.histograms("sink_write_seconds", "Time to write a batch.", node)?,
            tasks: m.gauges("tasks", "Tasks of this instance, by state.", &["state"])?,
            schema_lookups: m.counts(
                "schema_lookups_total",
                "Questions to the schema registry for an id, by result.",
                &["result"],
            )?,
            schemas_waiting: m.gauges(
                "schemas_waiting",
                "Schema ids that are being looked up: the records that need them wait.",
                &[],
            )?,
            endpoints: EndpointMetrics::new(m)?,
            replies: ReplyMetrics::new(m)?,
            counts: Arc::new(m.own_counts(topology)?),
            gauges: Arc::new(m.own_gauges(topology, part)?),
            names: Arc::new(std::mem::take(&mut m.names)),
            scraped: Arc::default(),
            registry: m.registry.clone(),
        };
        // Nothing comes into the dead letter: it has no node above it.
        let dead_letter = topology.dead_letter();
        for (_, name) in metrics.nodes.iter().enumerate().filter(|(n, _)| Some(*n) != dead_letter) {
            metrics.records_in.with_label_values(&[name]);
            metrics.records_out.with_label_values(&[name]);
        }
        Ok(metrics)
    }

    /// The text for Prometheus.
    #[must_use]
    pub fn text(&self) -> String {
        Metrics::text_of([self])
    }

    /// The text for Prometheus of several topologies: each metric once, with the values of all.
    #[must_use]
    pub fn text_of<'a>(all: impl IntoIterator<Item = &'a Metrics>) -> String {
        let mut families: BTreeMap<String, MetricFamily> = BTreeMap::new();
        for metrics in all {
            metrics.scrape();
            for mut family in metrics.registry.gather() {
                match families.entry(family.name().to_owned()) {
                    Entry::Vacant(place) => drop(place.insert(family)),
                    Entry::Occupied(mut place) => place.get_mut().mut_metric().extend(family.take_metric()),
                }
            }
        }
        let mut out = Vec::new();
        match TextEncoder::new().encode(&families.into_values().collect::<Vec<_>>(), &mut out) {
            Ok(()) => String::from_utf8(out).unwrap_or_default(),
            Err(e) => format!("# {e}\n"),
        }
    }

    fn scrape(&self) {
        // Locked by a scrape, for moments.
        let scraped = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        for (node, counters) in &scraped.calls {
            let labels = &[node.as_str()];
            for (status, value) in counters.by_outcome() {
                let counter = self.calls.with_label_values(&[node, status]);
                counter.inc_by(value.saturating_sub(counter.get()));
            }
            let time = self.call_time.with_label_values(labels);
            time.inc_by((counters.call_time().as_secs_f64() - time.get()).max(0.0));
            let opened = self.breaker_opened.with_label_values(labels);
            opened.inc_by(counters.breaker_opened().saturating_sub(opened.get()));
            let in_flight = i64::try_from(counters.in_flight.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
            self.calls_in_flight.with_label_values(labels).set(in_flight);
        }
        if let Some(formats) = &scraped.schemas {
            for (result, value) in formats.counts() {
                let counter = self.schema_lookups.with_label_values(&[result]);
                counter.inc_by(value.saturating_sub(counter.get()));
            }
            let waiting = i64::try_from(formats.waiting()).unwrap_or(i64::MAX);
            self.schemas_waiting.with_label_values::<&str>(&[]).set(waiting);
        }
        for (name, limiter) in &scraped.limiters {
            let labels = &[name.as_str()];
            let stats = limiter.stats();
            let waited = self.limiter_wait.with_label_values(labels);
            waited.inc_by((stats.waited.as_secs_f64() - waited.get()).max(0.0));
            self.limiter_used.with_label_values(labels).set(stats.used_share);
        }
    }

    /// Reads a call driver's counters at each scrape.
    pub fn watch_calls(&self, node: &str, counters: Arc<CallCounters>) {
        let mut scraped = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        scraped.calls.push((node.to_owned(), counters));
    }

    /// Reads the counts of schema look-ups at each scrape, if there is a registry.
    pub fn watch_schemas(&self, formats: &Arc<Formats>) {
        if formats.registry().is_some() {
            self.scraped.lock().unwrap_or_else(PoisonError::into_inner).schemas = Some(Arc::clone(formats));
        }
    }

    /// Reads a limiter's counters at each scrape.
    pub fn watch_limiter(&self, name: &str, limiter: Arc<Limiter>) {
        let mut scraped = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        scraped.limiters.push((name.to_owned(), limiter));
    }

    /// The metrics of a worker.
    #[must_use]
    pub fn worker(&self) -> WorkerMetrics {
        WorkerMetrics { all: self.clone() }
    }

    /// The metrics of a sink's lanes.
    #[must_use]
    pub fn sink(&self, node: &str) -> SinkMetrics {
        SinkMetrics {
            batches: self.sink_batches.with_label_values(&[node]),
            rows: self.sink_rows.with_label_values(&[node]),
            failures: self.sink_failures.with_label_values(&[node]),
            write: self.sink_write.with_label_values(&[node]),
            latency: self.latency.with_label_values(&[node]),
        }
    }

    /// Those of requests that wait for a reply.
    #[must_use]
    pub fn replies(&self) -> &ReplyMetrics {
        &self.replies
    }

    /// The metrics of a commit thread.
    #[must_use]
    pub fn checkpoints(&self) -> CheckpointMetrics {
        CheckpointMetrics {
            duration: self.checkpoint_duration.clone(),
            phases: PHASES.map(|phase| self.checkpoint_phases.with_label_values(&[phase])),
            failed: self.checkpoints_failed.clone(),
        }
    }

    /// Is something held back for a group at a gate, after `since` the last time this was said?
    pub(super) fn gate_blocked(&self, node: usize, group: &str, blocked: bool, since: Duration) {
        let labels = &[self.nodes[node].as_str(), group];
        self.gate_blocked.with_label_values(labels).set(blocked.into());
        let time = self.gate_blocked_time.with_label_values(labels);
        if blocked {
            time.inc_by(since.as_secs_f64());
        }
    }

    /// Records of a partition that a gate's group has not committed.
    pub(super) fn gate_lag(&self, node: usize, group: &str, partition: i32, records: i64) {
        let labels = &[self.nodes[node].as_str(), group, &partition.to_string()];
        self.gate_lag.with_label_values(labels).set(records.max(0));
    }

    /// The partition is not ours any more.
    pub(super) fn gate_gone(&self, node: usize, group: &str, partition: i32) {
        let labels = &[self.nodes[node].as_str(), group, &partition.to_string()];
        // Not there: nothing to forget.
        self.gate_lag.remove_label_values(labels).unwrap_or_default();
    }

    /// A group was asked for its commits.
    pub(super) fn gate_polled(&self, group: &str, answered: bool) {
        let result = if answered { "ok" } else { "error" };
        self.gate_polls.with_label_values(&[group, result]).inc();
    }

    /// Adds what a global table's reader has counted since the last call.
    pub fn global(&self, node: usize, tally: &Tally) {
        let name = self.nodes[node].as_str();
        self.records_in.with_label_values(&[name]).inc_by(tally.records_in);
        for (reason, n) in &tally.dropped {
            self.dropped.with_label_values(&[name, reason.name()]).inc_by(*n);
        }
    }

    /// Sets how many records of a global table's partition are not read yet.
    pub fn global_remaining(&self, node: usize, partition: i32, remaining: i64) {
        let labels = [self.nodes[node].as_str(), &partition.to_string()];
        self.restore_remaining.with_label_values(&labels).set(remaining);
    }

    /// Sets how many rows a task's restore has left.
    pub fn restoring(&self, id: TaskId, remaining: i64) {
        let labels = [self.subs[id.sub].0.as_str(), &id.partition.to_string()];
        self.restore_remaining.with_label_values(&labels).set(remaining);
    }

    /// The name of every metric that a scrape may have.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A gauge of a kind of nodes, all nodes and partitions together; 0 where the topology has none of the kind. Up to a
    /// report old, as every value of a task.
    #[must_use]
    pub fn total(&self, gauge: &Gauge) -> u64 {
        self.gauges.get(gauge.name).map_or(0, sum)
    }

    /// Those of endpoints.
    #[must_use]
    pub fn endpoints(&self) -> &EndpointMetrics {
        &self.endpoints
    }

    /// Records that came into a node.
    #[must_use]
    pub fn records_in(&self, node: &str) -> u64 {
        self.records_in.with_label_values(&[node]).get()
    }

    /// Sets how many tasks are in a state.
    pub fn set_tasks(&self, state: &str, n: usize) {
        self.tasks.with_label_values(&[state]).set(i64::try_from(n).unwrap_or(i64::MAX));
    }
}

/// The sum over all labels.
fn sum(gauges: &IntGaugeVec) -> u64 {
    let families = gauges.collect();
    let values = families.iter().flat_map(MetricFamily::get_metric).map(|m| m.get_gauge().get_value());
    // The library keeps whole numbers as floats; these are far below 2^53.
    Duration::try_from_secs_f64(values.sum()).unwrap_or_default().as_secs()
}

/// The metrics of a worker.
#[derive(Clone)]
pub struct WorkerMetrics {
    all: Metrics,
}

impl WorkerMetrics {
    /// Adds what a task has counted since the last call.
    pub fn report(&self, id: TaskId, task: &mut Task) {
        let m = &self.all;
        let partition = id.partition.to_string();
        for (node, tally) in task.take_tallies() {
            let name = [m.nodes[node].as_str()];
            m.records_in.with_label_values(&name).inc_by(tally.records_in);
            m.records_out.with_label_values(&name).inc_by(tally.records_out);
            for (reason, n) in &tally.dropped {
                m.dropped.with_label_values(&[name[0], reason.name()]).inc_by(*n);
            }
            for (count, n) in &tally.counts {
                let labels: Vec<&str> = name.into_iter().chain(count.label.map(|(_, value)| value)).collect();
                if let Some(counter) = m.counts.get(count.name) {
                    counter.with_label_values(&labels).inc_by(*n);
                }
            }
        }
        for (node, load) in task.loads() {
            let labels = [m.nodes[node].as_str(), partition.as_str()];
            let as_i64 = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            if m.stateful[node] {
                m.state_keys.with_label_values(&labels).set(as_i64(load.keys));
                m.state_bytes.with_label_values(&labels).set(as_i64(load.bytes));
            }
        }
        task.gauges(&mut |node, gauge, n| {
            if let Some(shown) = m.gauges.get(gauge.name) {
                let n = i64::try_from(n).unwrap_or(i64::MAX);
                shown.with_label_values(&[m.nodes[node].as_str(), partition.as_str()]).set(n);
            }
        });
        for (topic, name) in task.topics().iter().enumerate() {
            m.commit_lag.with_label_values(&[&**name, partition.as_str()]).set(task.uncommitted(topic));
        }
    }

    /// A checkpoint of the task was committed.
    pub fn committed(&self, id: TaskId, task: &Task) {
        let partition = id.partition.to_string();
        let labels = [self.all.subs[id.sub].0.as_str(), partition.as_str()];
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of our time fit")]
        let seconds = SystemClock.now().0 as f64 / 1000.0;
        self.all.checkpoint_timestamp.with_label_values(&labels).set(seconds);
        for (topic, name) in task.topics().iter().enumerate() {
            self.all
                .commit_lag
                .with_label_values(&[&**name, partition.as_str()])
                .set(task.uncommitted(topic));
        }
    }

    /// Removes the values of a task's partition, since the task is gone.
    pub fn forget(&self, id: TaskId) {
        let m = &self.all;
        let partition = id.partition.to_string();
        for name in m.nodes.iter() {
            for gauge in [&m.state_keys, &m.state_bytes].into_iter().chain(m.gauges.values()) {
                // A gauge that was never set has nothing to remove.
                drop(gauge.remove_label_values(&[name, &partition]));
            }
        }
        let (name, topics) = &m.subs[id.sub];
        drop(m.checkpoint_timestamp.remove_label_values(&[name, &partition]));
        drop(m.restore_remaining.remove_label_values(&[name, &partition]));
        for topic in topics {
            drop(m.commit_lag.remove_label_values(&[topic, &partition]));
        }
    }
}

/// The metrics of a sink's lanes.
#[derive(Clone)]
pub struct SinkMetrics {
    batches: IntCounter,
    rows: IntCounter,
    failures: IntCounter,
    write: Histogram,
    latency: Histogram,
}

impl SinkMetrics {
    /// Counts an attempt at a batch. Its rows are counted one by one ([`SinkMetrics::row`]), since some may be refused.
    pub fn batch(&self, took: Duration, written: bool) {
        if written {
            self.batches.inc();
            self.write.observe(took.as_secs_f64());
        } else {
            self.failures.inc();
        }
    }

    /// Counts a durable row, with the time since its record's timestamp.
    pub fn row(&self, took: Duration) {
        self.rows.inc();
        self.latency.observe(took.as_secs_f64());
    }
}

/// The phases of a checkpoint, in order.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    /// Rows are encoded and sorted.
    Sort,
    /// Rows are handed to the producer.
    Produce,
    /// All are acknowledged.
    Flush,
    /// The source offsets are added to the transaction.
    Offsets,
    /// The transaction, or the offsets without one.
    Commit,
    /// Rows are written to local state.
    Apply,
}

/// The label of each [`Phase`].
const PHASES: [&str; 6] = ["sort", "produce", "flush", "offsets", "commit", "apply"];

/// The metrics of a commit thread.
#[derive(Clone)]
pub struct CheckpointMetrics {
    duration: Histogram,
    phases: [Counter; PHASES.len()],
    failed: IntCounter,
}

impl CheckpointMetrics {
    /// Counts a committed checkpoint.
    pub fn done(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }

    /// Adds the time of a phase.
    pub fn phase(&self, phase: Phase, took: Duration) {
        self.phases[phase as usize].inc_by(took.as_secs_f64());
    }

    /// Counts a checkpoint that was not committed.
    pub fn failed(&self) {
        self.failed.inc();
    }
}
