//! Floor 3: the topology. What the YAML is compiled into and what the Rust DSL builds; every check of the graph exists
//! once, here.
//!
//! A [`Topology`] is a list of nodes in declared order, each with its inputs, cut into sub-topologies: sets of nodes
//! that are connected without a topic between them. A task is one sub-topology on one partition.

mod builder;
mod checks;
mod dead_letter;
mod describe;
mod draft;
mod endpoints;
mod explain;
mod foreign;
mod formats;
mod gates;
mod joins;
mod layout;
mod limits;
mod names;
mod origins;
mod reads;
mod repartition;
mod settings;
mod sub;
mod windowed;
mod written;

pub use builder::TopologyBuilder;
pub(crate) use draft::Draft;
pub use explain::{
    EndpointExplanation, Explanation, NodeExplanation, RepartitionExplanation, SubExplanation,
};
pub use gates::circles;
pub use layout::{ChangelogMove, Home, Kept, LAYOUT_FORMAT, Layout, Moves};
pub use reads::Readable;
pub use repartition::{Repartition, Uneven};
pub use settings::{Changelog, ClockMode, DeadLetter, Errors, Guarantee, OnFailure, State, Time};
pub use sub::{SubTopology, TaskInput};
pub use written::WrittenTopic;

use std::collections::BTreeMap;

use crate::clients::Connections;
use crate::endpoints::{EndpointConfig, ServeConfig};
use crate::formats::{NamedSchemas, RegistryConfig};
use crate::model::{Problem, Shape};
use crate::operators::{NodeConfig, NodePlan, RateLimitConfig, TableConfig};
use crate::sinks::SinkConfig;
use crate::sources::SourceConfig;

/// Everything in a topology that is no node.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How to reach Kafka; `None` in a topology without Kafka.
    pub kafka: Option<crate::kafka::KafkaConfig>,
    /// How to reach the schema registry; `None` without one.
    pub schema_registry: Option<RegistryConfig>,
    /// Servers that nodes share, by name.
    pub connections: Connections,
    /// What becomes of bad records.
    pub errors: Errors,
    /// Clocks.
    pub time: Time,
    /// State and checkpoints.
    pub state: State,
    /// What Kafka sinks promise.
    pub guarantee: Guarantee,
    /// Where endpoints are served; `None` in a topology without any.
    pub http: Option<ServeConfig>,
    /// Endpoints, by name.
    pub endpoints: BTreeMap<String, EndpointConfig>,
    /// Named rate limits.
    pub rate_limits: BTreeMap<String, RateLimitConfig>,
    /// Nodes that had another name before: the new name, and the old one, whose state moves to it.
    pub renamed: BTreeMap<String, String>,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// Records come from here.
    Source(SourceConfig),
    /// Something happens to them. Boxed: some settings are large.
    Operator(Box<NodeConfig>),
    /// They leave here.
    Sink(Box<SinkConfig>),
}

/// How a node came into the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Its author wrote it.
    Declared,
    /// The topology put it in for that node: see `repartition.rs`.
    For(usize),
    /// The topology put it in for `errors: { dead_letter }`: the one sink that every task delivers to, and that reads no
    /// node. See `dead_letter.rs`.
    DeadLetter,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique in the topology; identity of its state.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// What it reads, in the order of `from`; then, of a join whose right side triggers, `with`.
    pub inputs: Vec<Input>,
    /// Its records make a table: a source with `table`, or that operator.
    pub table: Option<TableConfig>,
    /// Tables whose rows it looks up, in the order of its stores.
    pub lookups: Vec<usize>,
    /// What else is known of an operator's place in the graph.
    pub plan: NodePlan,
    /// How it came into the topology.
    pub made: Made,
}

impl Node {
    /// Is it a global table?
    #[must_use]
    pub fn is_global(&self) -> bool {
        self.table.is_some_and(|table| table.global)
    }

    /// The declared node that it was put in for.
    #[must_use]
    pub fn made_for(&self) -> Option<usize> {
        match self.made {
            Made::For(owner) => Some(owner),
            Made::Declared | Made::DeadLetter => None,
        }
    }

    /// Did the topology's author write it?
    #[must_use]
    pub fn is_declared(&self) -> bool {
        self.made == Made::Declared
    }

    /// Is it part of a sub-topology? Global tables and the dead letter are shared by the tasks of all of them.
    #[must_use]
    pub fn is_of_a_task(&self) -> bool {
        !self.is_global() && self.made != Made::DeadLetter
    }
}

/// One `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// Index of the node it reads.
    pub node: usize,
    /// That node's output port (`branch`), 0 else.
    pub port: u16,
}

/// A checked topology.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Consumer group and prefix of internal topics.
    pub name: String,
    /// Everything that is no node.
    pub settings: Settings,
    /// Nodes in declared order: sources, operators, sinks; then those that the topology put in itself, the dead letter
    /// last.
    pub nodes: Vec<Node>,
    /// Sets of nodes that run together.
    pub subs: Vec<SubTopology>,
    /// What the values of sources have to be, by the source's name.
    pub schemas: BTreeMap<String, Shape>,
    /// The schemas of formats that nodes name.
    pub named_schemas: NamedSchemas,
}

impl Topology {
    /// The sources that are global tables: no task's, read whole by each instance.
    #[must_use]
    pub fn globals(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].is_global()).collect()
    }

    /// The node of that name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|n| n.name == name)
    }

    /// The declared node that node `n` stands for: itself, or the one it was put in for.
    #[must_use]
    pub fn declared(&self, n: usize) -> &Node {
        match self.nodes[n].made {
            Made::For(owner) => &self.nodes[owner],
            Made::Declared | Made::DeadLetter => &self.nodes[n],
        }
    }

    /// Who reads node `n`: port, node and that node's input number, in declared order.
    pub fn readers(&self, n: usize) -> impl Iterator<Item = (u16, usize, u16)> + '_ {
        self.nodes.iter().enumerate().flat_map(move |(reader, node)| {
            node.inputs
                .iter()
                .enumerate()
                .filter(move |(_, input)| input.node == n)
                .map(move |(i, input)| (input.port, reader, u16::try_from(i).unwrap_or(u16::MAX)))
        })
    }

    /// What needs Kafka in a topology that does not say where it is. Not a check of [`TopologyBuilder::build`]: where
    /// nothing is connected (tests, simulations) it does not matter.
    #[must_use]
    pub fn missing_kafka(&self) -> Vec<Problem> {
        missing_kafka(&self.settings, &self.nodes)
    }

    /// What is odd about a topology that runs.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        let writes = |node: &Node| node.is_declared() && matches!(node.kind, NodeKind::Sink(_));
        if self.nodes.iter().any(writes) || !self.settings.endpoints.is_empty() {
            return Vec::new();
        }
        let message = "the topology has no sink: what it makes of its records goes nowhere";
        let help = "add one under `sinks`, for example `out: { from: NODE, stdout: {} }`";
        vec![Problem::new("graph::no_sink", message).field("sinks").help(help).warning()]
    }

    /// Do tasks read records that name their schemas by id? Global tables, which are no task's, look up their own.
    #[must_use]
    pub fn reads_schemas(&self) -> bool {
        let sources = self.nodes.iter().filter(|n| !n.is_global()).filter_map(|n| match &n.kind {
            NodeKind::Source(source) => Some(source),
            NodeKind::Operator(_) | NodeKind::Sink(_) => None,
        });
        sources.into_iter().any(|s| s.format().has_schema() || s.key_format().has_schema())
    }

    /// Does node `n` write rows, which show without key and time?
    #[must_use]
    pub fn is_table_sink(&self, n: usize) -> bool {
        matches!(self.nodes.get(n).map(|n| &n.kind), Some(NodeKind::Sink(s)) if s.shows_rows())
    }

    /// The changelog of a sub-topology, if it keeps state: whether there is one is [`State::changelog`]'s.
    #[must_use]
    pub fn changelog(&self, sub: usize) -> Option<String> {
        let part = &self.subs[sub];
        (part.stateful && !part.topics.is_empty()).then(|| format!("{}-{}-changelog", self.name, part.name))
    }

    /// The topics that the topology makes for its own use: changelogs and repartition topics. Whether there are changelogs
    /// is [`State::changelog`]'s.
    #[must_use]
    pub fn internal_topics(&self) -> Vec<String> {
        let changelogs = (0..self.subs.len()).filter_map(|sub| self.changelog(sub));
        changelogs.chain(self.repartitions().into_iter().map(|r| r.topic)).collect()
    }

    /// All Kafka topics that the group reads, repartition topics too, without repeats, in declared order. Not those of
    /// global tables: each instance reads them for itself.
    #[must_use]
    pub fn source_topics(&self) -> Vec<String> {
        self.topics_of(|node| !node.is_global())
    }

    /// The topics of global tables, without repeats, in declared order.
    #[must_use]
    pub fn global_topics(&self) -> Vec<String> {
        self.topics_of(Node::is_global)
    }

    fn topics_of(&self, which: impl Fn(&Node) -> bool) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for node in self.nodes.iter().filter(|node| which(node)) {
            if let NodeKind::Source(source) = &node.kind {
                for topic in source.topics() {
                    if !out.iter().any(|t| t == topic) {
                        out.push(topic.to_owned());
                    }
                }
            }
        }
        out
    }
}

/// See [`Topology::missing_kafka`].
fn missing_kafka(settings: &Settings, nodes: &[Node]) -> Vec<Problem> {
    if settings.kafka.is_some() {
        return Vec::new();
    }
    let problem = |node: Option<&str>, field: &str, what: &str| Problem {
        code: "graph::kafka",
        node: node.map(Into::into),
        field: field.into(),
        message: format!("{what} needs Kafka, and the topology does not say where it is"),
        help: Some("add `kafka: { brokers: \"localhost:9092\" }`".into()),
        ..Problem::default()
    };
    let declared = nodes.iter().filter(|n| n.is_declared());
    let nodes = declared.filter_map(|node| match &node.kind {
        NodeKind::Source(s) if s.reads_kafka() => {
            Some(problem(Some(&node.name), s.kind_name(), "a kafka source"))
        }
        NodeKind::Sink(s) if s.topic().is_some() => {
            Some(problem(Some(&node.name), s.kind_name(), "a kafka sink"))
        }
        _ => None,
    });
    let dead_letter = settings.errors.dead_letter.iter();
    let dead_letter = dead_letter.map(|_| problem(None, "errors.dead_letter", "the dead letter"));
    let writes = |(name, endpoint): (&String, &EndpointConfig)| {
        let field = endpoint.written_topics().first()?.1;
        Some(problem(None, &format!("endpoints.{name}.{field}"), "a message"))
    };
    nodes.chain(dead_letter).chain(settings.endpoints.iter().filter_map(writes).take(1)).collect()
}
