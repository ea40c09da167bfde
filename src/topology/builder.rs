//! The Rust DSL, and the only place where a graph is checked. YAML is compiled into calls of this builder.

use std::collections::{BTreeMap, BTreeSet};

use super::checks::{check_limit, check_name, check_promises, check_renamed, check_topics, check_topology};
use super::draft::Draft;
use super::endpoints;
use super::names::{Names, Read};
use super::{Made, Node, NodeKind, Settings, Topology, formats};
use crate::model::{Problem, Shape};
use crate::operators::{NodeConfig, NodePlan, TableConfig};
use crate::sinks::SinkConfig;
use crate::sources::SourceConfig;

/// Builds a [`Topology`] from Rust.
///
/// ```
/// use slackwater::model::{Expr, Millis};
/// use slackwater::operators::{DebounceConfig, FilterConfig, NodeConfig};
/// use slackwater::sinks::{BlackholeConfig, SinkConfig};
/// use slackwater::sources::{KafkaSource, SourceConfig};
/// use slackwater::topology::TopologyBuilder;
///
/// let topology = TopologyBuilder::new("clicks")
///     .source("clicks", SourceConfig::Kafka(KafkaSource { topic: Some("clicks".into()), ..Default::default() }))
///     .operator("real", ["clicks"], NodeConfig::Filter(FilterConfig(Expr::native("not a bot", |scope| {
///         let value = scope.value.json()?;
///         Ok((value["bot"] != true).into())
///     }))))
///     .operator("settled", ["real"], NodeConfig::Debounce(DebounceConfig::quiet(Millis::secs(30))))
///     .sink("out", ["settled"], SinkConfig::Blackhole(BlackholeConfig::default()))
///     .build()
///     .expect("the graph is sound");
/// assert_eq!(topology.subs.len(), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct TopologyBuilder {
    name: String,
    settings: Settings,
    nodes: Vec<Given>,
    /// By node: how many before it have its name, those that could not be read among them.
    nth: Vec<usize>,
    /// Nodes by name.
    counts: BTreeMap<String, usize>,
    /// Sources that are read as tables, by name.
    tables: BTreeMap<String, TableConfig>,
    /// The types that the values of sources must have, by name.
    schemas: BTreeMap<String, Shape>,
    /// Nodes that could not be read, or not whole: what they give is not known.
    misread: BTreeSet<String>,
    /// The same, by number: another node of that name may have been read whole.
    not_whole: BTreeSet<usize>,
    /// What those of them that are not in `nodes` read.
    unread: Vec<(String, Vec<String>)>,
    /// Rate limits that are there, even if they could not be read.
    limits: BTreeSet<String>,
    /// Something that is there was not read.
    has_gaps: bool,
}

/// A node as it was given: name, kind, what it reads.
pub(super) type Given = (String, NodeKind, Vec<String>);

impl TopologyBuilder {
    /// A topology of that name: the consumer group and the prefix of internal topics.
    #[must_use]
    pub fn new(name: impl Into<String>) -> TopologyBuilder {
        TopologyBuilder { name: name.into(), ..TopologyBuilder::default() }
    }

    /// Sets everything that is not a node.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> TopologyBuilder {
        self.settings = settings;
        self
    }

    /// Adds a source.
    #[must_use]
    pub fn source(self, name: impl Into<String>, config: SourceConfig) -> TopologyBuilder {
        self.push(name.into(), NodeKind::Source(config), Vec::new())
    }

    /// Adds a source that is read as a table.
    #[must_use]
    pub fn table(
        mut self,
        name: impl Into<String>,
        config: SourceConfig,
        table: TableConfig,
    ) -> TopologyBuilder {
        let name = name.into();
        self.tables.insert(name.clone(), table);
        self.source(name, config)
    }

    /// Sets the types that the values of a source must have: others are refused when they are read.
    #[must_use]
    pub fn schema(mut self, source: impl Into<String>, shape: Shape) -> TopologyBuilder {
        self.schemas.insert(source.into(), shape);
        self
    }

    /// Adds an operator that reads the nodes named in `from` (`node` or `node.port`).
    #[must_use]
    pub fn operator<S: Into<String>>(
        self,
        name: impl Into<String>,
        from: impl IntoIterator<Item = S>,
        config: NodeConfig,
    ) -> TopologyBuilder {
        let from = from.into_iter().map(Into::into).collect();
        self.push(name.into(), NodeKind::Operator(Box::new(config)), from)
    }

    /// Adds a sink that reads the nodes named in `from`.
    #[must_use]
    pub fn sink<S: Into<String>>(
        self,
        name: impl Into<String>,
        from: impl IntoIterator<Item = S>,
        config: SinkConfig,
    ) -> TopologyBuilder {
        let from = from.into_iter().map(Into::into).collect();
        self.push(name.into(), NodeKind::Sink(Box::new(config)), from)
    }

    fn push(mut self, name: String, kind: NodeKind, from: Vec<String>) -> TopologyBuilder {
        let nth = self.count(&name);
        self.nth.push(nth);
        self.nodes.push((name, kind, from));
        self
    }

    /// How many nodes of that name there are before the next one.
    fn count(&mut self, name: &str) -> usize {
        let count = self.counts.entry(name.to_owned()).or_default();
        *count += 1;
        *count - 1
    }

    /// Notes that the settings of a node, the one that was added last, could not be read whole: its outputs are not known, so a `from` that names it is no
    /// problem of its own.
    #[must_use]
    pub(crate) fn misread(mut self, name: impl Into<String>) -> TopologyBuilder {
        let name = name.into();
        if self.nodes.last().is_some_and(|(last, ..)| *last == name) {
            self.not_whole.insert(self.nodes.len() - 1);
        }
        self.misread.insert(name);
        self
    }

    /// Notes a node that could not be read at all, as [`TopologyBuilder::misread`] does. The names in its own `from` are
    /// looked up as those of every node are; a topology does not come of it.
    #[must_use]
    pub(crate) fn unread(mut self, name: impl Into<String>, from: Vec<String>) -> TopologyBuilder {
        let name = name.into();
        self.count(&name);
        self.unread.push((name.clone(), from));
        self.misread(name)
    }

    /// Notes that some of what belongs to the topology was not read, sources perhaps or all nodes of a section: that there
    /// is none is no problem then.
    #[must_use]
    pub(crate) fn has_gaps(mut self) -> TopologyBuilder {
        self.has_gaps = true;
        self
    }

    /// Notes rate limits that are there, even if they could not be read.
    #[must_use]
    pub(crate) fn limits(mut self, names: impl IntoIterator<Item = String>) -> TopologyBuilder {
        self.limits.extend(names);
        self
    }

    /// Checks the graph.
    ///
    /// # Errors
    /// Every problem found, in the order of the nodes.
    pub fn build(self) -> Result<Topology, Vec<Problem>> {
        self.resolve().finish()
    }

    /// Looks up every name, and checks all that can be checked before the expressions are compiled.
    #[must_use]
    pub(crate) fn resolve(self) -> Draft {
        let mut problems = Vec::new();
        check_name(&self.name, None, &mut problems);
        let names = Names::new(&self.nodes, &self.nth, &self.misread, &mut problems);
        let mut reads = Vec::with_capacity(self.nodes.len());
        for (node, nth) in self.nodes.iter().zip(&self.nth) {
            let ((name, kind, _), before) = (node, problems.len());
            check_name(name, Some(name), &mut problems);
            check_limit(name, kind, &self.settings, &self.limits, &mut problems);
            reads.push(names.read(node, &mut problems));
            of_nth(&mut problems[before..], *nth);
        }
        check_topology(&self.settings, &mut problems);
        endpoints::check(&self.settings, &mut problems);
        check_topics(&self.settings, &self.nodes, &self.misread, &mut problems);
        check_promises(&self.settings, &self.nodes, &mut problems);
        if self.unread.is_empty() {
            check_renamed(&self.settings, &self.nodes, &mut problems);
        }
        let named_schemas = formats::load(&self.settings, &self.nodes, &self.schemas, &mut problems);
        let serves = !self.settings.endpoints.is_empty();
        if !self.has_gaps
            && !serves
            && !self.nodes.iter().any(|(_, kind, _)| matches!(kind, NodeKind::Source(_)))
        {
            let help = "add one under `sources`, for example `orders: { kafka: { topic: orders } }`";
            problems.push(
                Problem::new("graph::no_source", "the topology has no source").field("sources").help(help),
            );
        }
        for (name, from) in &self.unread {
            for text in from {
                names.look_up(text, name, "from", &mut problems);
            }
        }
        let whole = (0..self.nodes.len()).map(|n| !self.not_whole.contains(&n)).collect();
        let nodes = self.nodes.into_iter().zip(&reads).map(|((name, kind, _), read): (Given, &Read)| {
            let table = table_of(&name, &kind, &self.tables).copied();
            let inputs = read.from.iter().copied().flatten().collect();
            let (lookups, plan) = (Vec::new(), NodePlan::default());
            Node { name, kind, inputs, table, lookups, plan, made: Made::Declared }
        });
        Draft {
            nodes: nodes.collect(),
            reads,
            whole,
            nth: self.nth,
            has_gaps: self.has_gaps || !self.unread.is_empty(),
            name: self.name,
            settings: self.settings,
            schemas: self.schemas,
            named_schemas,
            problems,
        }
    }
}

/// The problems are those of the `nth` node of its name.
pub(super) fn of_nth(problems: &mut [Problem], nth: usize) {
    problems.iter_mut().for_each(|problem| problem.nth = nth);
}

pub(super) fn problem(
    code: &'static str,
    node: &str,
    field: &str,
    message: &str,
    help: Option<String>,
) -> Problem {
    Problem { help, ..Problem::new(code, message).of(node).field(field) }
}

fn table_of<'a>(
    name: &str,
    kind: &'a NodeKind,
    tables: &'a BTreeMap<String, TableConfig>,
) -> Option<&'a TableConfig> {
    match kind {
        NodeKind::Source(_) => tables.get(name),
        NodeKind::Operator(config) => config.table(),
        NodeKind::Sink(_) => None,
    }
}
