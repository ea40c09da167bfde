//! The topologies that are tried, and how an event is found again in what they make of it.

use std::sync::LazyLock;

use slackwater::model::{Expr, Json, Millis, Record, Template, Value};
use slackwater::operators::debounce::{HEADER_COUNT, KeepConfig, Row as DebounceRow, pending_headers};
use slackwater::operators::enrich::{EnrichConfig, HttpConfig, pending_record};
use slackwater::operators::{DebounceConfig, FilterConfig, MapConfig, MergeConfig, NodeConfig};
use slackwater::runtime::TaskId;
use slackwater::sinks::columns::Columns;
use slackwater::sinks::{KafkaSinkConfig, SinkConfig, SpannerConfig};
use slackwater::sources::{KafkaSource, SourceConfig};
use slackwater::state::decode_record;
use slackwater::topology::{
    Changelog, DeadLetter, Errors, Guarantee, NodeKind, Settings, Topology, TopologyBuilder,
};
use slackwater::yaml::{Mode, load};

/// The header that names an event.
pub const EVENT: &str = "e";

/// Which events a record stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The one in its header.
    Each,
    /// The one in its header and those of its key before it, as many as the count says.
    Last,
    /// Those listed in its value.
    Items,
    /// None: its results are compared with those of a task that reads the same records in one go.
    Replay,
}

pub struct Shape {
    pub name: &'static str,
    pub topology: Topology,
    pub identity: Identity,
    /// Input topics.
    pub topics: usize,
    /// A changelog, or offsets alone.
    pub stateful: bool,
    /// State without a changelog: it is lost with its task, and made again by reading again. At least once.
    pub forgets: bool,
    /// Nodes whose rows go into the checkpoint's transaction.
    pub transactional: Vec<usize>,
    /// The filter lets every event pass but each fourth.
    pub filters: bool,
}

impl Shape {
    pub fn task(&self, partition: i32) -> TaskId {
        TaskId { sub: 0, partition }
    }

    pub fn is_filtered(&self, event: usize) -> bool {
        self.filters && event.is_multiple_of(4)
    }

    /// Does every key have one order? Not when it comes in over several topics.
    pub fn is_ordered(&self) -> bool {
        self.topics == 1
    }

    /// Are checkpoints transactions?
    pub fn transacts(&self) -> bool {
        self.stateful || !self.transactional.is_empty()
    }

    pub fn replays(&self) -> bool {
        self.identity == Identity::Replay
    }

    pub fn is_dead_letter(&self, node: usize) -> bool {
        self.topology.dead_letter() == Some(node)
    }

    pub fn is_table(&self, node: usize) -> bool {
        self.topology.is_table_sink(node)
    }

    /// What a record stands for: one event, a count of events of its key up to that one, or a list.
    pub fn named(&self, record: &Record) -> Named {
        if self.identity == Identity::Items {
            let items = record.value.bytes().map(|b| numbers(&b)).unwrap_or_default();
            if !items.is_empty() {
                return Named::Items(items);
            }
        }
        let header = |name: &str| number(record.headers.get(name).map_or(&[][..], |v| v));
        Named::Last { event: header(EVENT), count: header(HEADER_COUNT).max(1) }
    }

    /// What a row of state stands for; `None` for rows that hold no events.
    pub fn named_in_row(&self, key: &[u8], value: &[u8]) -> Result<Option<Named>, String> {
        let store = key.split(|b| *b == 0).next().unwrap_or_default();
        let Some(node) = std::str::from_utf8(store).ok().and_then(|name| self.topology.node(name)) else {
            return if key.first() == Some(&0) { Ok(None) } else { Err("a row of no node".into()) };
        };
        let record = match &self.topology.nodes[node].kind {
            NodeKind::Operator(config) => match &**config {
                NodeConfig::Debounce(_) => {
                    let row = DebounceRow::decode(value).map_err(|e| e.to_string())?;
                    let headers = pending_headers(&row).map_err(|e| e.to_string())?;
                    let headers = headers.with(HEADER_COUNT, row.count.to_string());
                    let value = row.value.map_or(Value::Null, |v| Value::Bytes(v.to_vec().into()));
                    Record { headers, value, ..Record::default() }
                }
                NodeConfig::Enrich(_) => pending_record(value).map_err(|e| e.to_string())?,
                other => return Err(format!("a row of a {}", other.kind_name())),
            },
            NodeKind::Sink(_) => decode_record(value).map_err(|e| e.to_string())?,
            NodeKind::Source(_) => return Err("a row of a source".into()),
        };
        Ok(Some(self.named(&record)))
    }
}

#[derive(Clone, Debug)]
pub enum Named {
    Last { event: usize, count: usize },
    Items(Vec<usize>),
}

fn number(text: &[u8]) -> usize {
    text.iter().take_while(|b| b.is_ascii_digit()).fold(0, |n, b| n * 10 + usize::from(b - b'0'))
}

/// Every `"n":NUMBER` in a text.
fn numbers(text: &[u8]) -> Vec<usize> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(4).position(|w| w == b"\"n\":") {
        rest = &rest[at + 4..];
        if rest.first().is_some_and(u8::is_ascii_digit) {
            out.push(number(rest));
        }
    }
    out
}

fn source(topic: &str) -> SourceConfig {
    SourceConfig::Kafka(KafkaSource { topic: Some(topic.into()), ..KafkaSource::default() })
}

fn table() -> SinkConfig {
    let columns = [("Id", "key"), ("Value", ".")];
    let columns = Columns::new(columns.map(|(name, text)| (name, Expr::new(text, None))));
    SinkConfig::Spanner(SpannerConfig::new("d", "T", columns))
}

fn kafka(topic: &str) -> SinkConfig {
    SinkConfig::Kafka(KafkaSinkConfig::new(topic))
}

fn enrich() -> NodeConfig {
    let url = Template::new("http://api/{{ key }}", None).expect("a template");
    let mut http = HttpConfig::get(url.clone());
    http.get = None;
    http.post = Some(url);
    http.body = Some(Expr::native("the last n", |scope| {
        let json = scope.value.json()?;
        Ok(json.get("n").cloned().unwrap_or(Json::Null))
    }));
    let mut config = EnrichConfig::new(http, ".account".parse().expect("a path"));
    config.calls_in_flight_max = 4.try_into().expect("not zero");
    config.calls_pending_max = 12.try_into().expect("not zero");
    NodeConfig::Enrich(config)
}

fn debounce(keep: KeepConfig) -> DebounceConfig {
    let max_items = (keep == KeepConfig::All).then(|| 5.try_into().expect("not zero"));
    DebounceConfig {
        max_wait: Some(Millis::secs(90)),
        keep,
        max_items,
        ..DebounceConfig::quiet(Millis::secs(30))
    }
}

fn settings() -> Settings {
    let errors = Errors { dead_letter: Some(DeadLetter { topic: "dlq".into() }), on_failure: None };
    Settings { errors, ..Settings::default() }
}

fn builder(name: &str) -> TopologyBuilder {
    TopologyBuilder::new(name).settings(settings())
}

fn exactly_once(name: &str) -> TopologyBuilder {
    TopologyBuilder::new(name).settings(Settings { guarantee: Guarantee::ExactlyOnce, ..settings() })
}

fn without_changelog(name: &str) -> TopologyBuilder {
    let mut settings = settings();
    settings.state.changelog = Changelog::Off;
    TopologyBuilder::new(name).settings(settings)
}

fn shape(name: &'static str, identity: Identity, builder: TopologyBuilder) -> Shape {
    of(name, identity, builder.build().expect("a sound graph"))
}

/// On the time of the records alone: then what comes out depends on them, and on nothing else.
fn replayed(name: &'static str, nodes: &str) -> Shape {
    let text = format!(
        "name: t\ntime: {{ clock: stream }}\nerrors: {{ dead_letter: {{ topic: dlq }} }}\n\
         sources: {{ in: {{ kafka: {{ topic: in }} }} }}\n{nodes}"
    );
    let loaded = load(name, &text, Mode::Lenient, &|_| None);
    let topology = loaded.unwrap_or_else(|report| panic!("{}", report.render(false))).topology;
    let shape = of(name, Identity::Replay, topology);
    assert_eq!(shape.topics, 1, "two topics have no order");
    shape
}

fn of(name: &'static str, identity: Identity, topology: Topology) -> Shape {
    assert_eq!(topology.subs.len(), 1, "one task a partition");
    Shape {
        name,
        identity,
        topics: topology.subs[0].topics.len(),
        stateful: topology.subs[0].stateful && topology.settings.state.changelog == Changelog::On,
        forgets: topology.subs[0].stateful && topology.settings.state.changelog == Changelog::Off,
        transactional: transactional(&topology),
        filters: topology.node("filtered").is_some(),
        topology,
    }
}

/// As the engine has it: with `exactly_once`, Kafka sinks, the dead letter among them.
fn transactional(topology: &Topology) -> Vec<usize> {
    if topology.settings.guarantee != Guarantee::ExactlyOnce {
        return Vec::new();
    }
    let kafka = |n: &usize| matches!(&topology.nodes[*n].kind, NodeKind::Sink(s) if s.topic().is_some());
    (0..topology.nodes.len()).filter(kafka).collect()
}

fn not_each_fourth() -> NodeConfig {
    NodeConfig::Filter(FilterConfig(Expr::native("not each fourth", |scope| {
        let event = scope.headers.get(EVENT).map_or(0, |v| number(v));
        Ok(Json::Bool(!event.is_multiple_of(4)))
    })))
}

/// All of them. A new operator that keeps state gets one here.
pub static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| {
    vec![
        // account-sync: gather, call, write.
        shape(
            "account-sync",
            Identity::Last,
            builder("account-sync")
                .source("in", source("in"))
                .operator("settled", ["in"], NodeConfig::Debounce(debounce(KeepConfig::Last)))
                .operator("account", ["settled"], enrich())
                .sink("accounts", ["account"], table()),
        ),
        // blog: announced only once it is stored.
        shape(
            "outbox",
            Identity::Each,
            builder("outbox").source("in", source("in")).sink("posts", ["in"], table()).sink(
                "announced",
                ["posts"],
                kafka("announced"),
            ),
        ),
        // No state: offsets are all there is.
        shape(
            "stateless",
            Identity::Each,
            builder("stateless")
                .source("in", source("in"))
                .operator("filtered", ["in"], not_each_fourth())
                .operator("same", ["filtered"], NodeConfig::Map(MapConfig(Expr::new(".", None))))
                .sink("rows", ["same"], table()),
        ),
        // Counts every event: nothing may be in two results.
        shape(
            "counts",
            Identity::Items,
            builder("counts")
                .source("in", source("in"))
                .operator("gathered", ["in"], NodeConfig::Debounce(debounce(KeepConfig::All)))
                .sink("lists", ["gathered"], kafka("lists")),
        ),
        // Everything behind everything, out of two topics.
        shape(
            "chain",
            Identity::Items,
            builder("chain")
                .source("left", source("left"))
                .source("right", source("right"))
                .operator("both", ["left", "right"], NodeConfig::Merge(MergeConfig {}))
                .operator(
                    "gathered",
                    ["both"],
                    NodeConfig::Debounce(DebounceConfig {
                        quiet: None,
                        settle: Some(Millis::secs(20)),
                        max_wait: None,
                        ..debounce(KeepConfig::All)
                    }),
                )
                .operator(
                    "wrapped",
                    ["gathered"],
                    NodeConfig::Map(MapConfig(Expr::native("{ items: . }", |scope| {
                        let json = scope.value.json()?;
                        Ok(serde_json::json!({ "items": *json }))
                    }))),
                )
                .operator("account", ["wrapped"], enrich())
                .sink("stored", ["account"], table())
                .sink("announced", ["stored"], kafka("announced")),
        ),
        // Records in the transaction that commits the offsets, without state and with it.
        shape(
            "exact copy",
            Identity::Each,
            exactly_once("exact-copy")
                .source("in", source("in"))
                .operator("filtered", ["in"], not_each_fourth())
                .sink("out", ["filtered"], kafka("out")),
        ),
        shape(
            "exact lists",
            Identity::Items,
            exactly_once("exact-lists")
                .source("in", source("in"))
                .operator("gathered", ["in"], NodeConfig::Debounce(debounce(KeepConfig::All)))
                .sink("lists", ["gathered"], kafka("lists")),
        ),
        // Nothing is kept but how far everything has had its effect.
        shape(
            "without changelog",
            Identity::Last,
            without_changelog("without-changelog")
                .source("in", source("in"))
                .operator("settled", ["in"], NodeConfig::Debounce(debounce(KeepConfig::Last)))
                .operator("account", ["settled"], enrich())
                .sink("accounts", ["account"], table()),
        ),
        replayed(
            "windows",
            "operators:
  tumbling: { from: in, aggregate: { window: { tumbling: 10s, grace: 5s }, count: {} } }
  closed: { from: tumbling, suppress: { until: window_closes } }
  sliding: { from: in, aggregate: { window: { sliding: 8s, grace: 20s }, sum: .n } }
  session: { from: in, aggregate: { window: { session: 3s, grace: 10s }, emit: final, collect: { of: .n, max: 4 } } }
  timed: { from: in, suppress: { until: 4s } }
sinks:
  out: { from: [closed, sliding, session, timed], kafka: { topic: out } }
",
        ),
        replayed(
            "tables and joins",
            "operators:
  even: { from: in, filter: 'mod(int!(.n), 2) == 0' }
  odd: { from: in, filter: 'mod(int!(.n), 2) == 1' }
  last-even: { from: even, table: {} }
  last-odd: { from: odd, table: { versions: 60s } }
  pairs: { from: even, join: { with: odd, type: outer, within: { before: 10s, after: 10s }, grace: 2s } }
  both: { from: last-even, join: { with: last-odd, type: outer } }
  late: { from: even, join: { with: last-odd, type: left, grace: 5s } }
  once: { from: in, dedupe: { within: 5s } }
  total: { from: in, aggregate: { sum: .n } }
sinks:
  out: { from: [pairs, both, late, once, total], kafka: { topic: out } }
",
        ),
    ]
});
