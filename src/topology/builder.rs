//! The Rust DSL, and the only place where a graph is checked. YAML is compiled into calls of this builder.

use std::collections::{BTreeMap, BTreeSet};

use super::checks::{
    check_name, check_promises, check_renamed, check_settings, check_table, check_topics, check_topology,
};
use super::{
    Changelog, Input, Node, NodeKind, Settings, Topology, foreign, formats, gates, joins, limits,
    repartition, sub, windowed,
};
use crate::model::{Problem, Shape, did_you_mean};
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
    nodes: Vec<(String, NodeKind, Vec<String>)>,
    /// Sources that are read as tables, by name.
    tables: BTreeMap<String, TableConfig>,
    /// The types that the values of sources must have, by name.
    schemas: BTreeMap<String, Shape>,
    /// Nodes that could not be read, or not whole: what they give is not known.
    misread: BTreeSet<String>,
    /// What those of them that are not in `nodes` read.
    unread: Vec<(String, Vec<String>)>,
}

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
    pub fn source(mut self, name: impl Into<String>, config: SourceConfig) -> TopologyBuilder {
        self.nodes.push((name.into(), NodeKind::Source(config), Vec::new()));
        self
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
        mut self,
        name: impl Into<String>,
        from: impl IntoIterator<Item = S>,
        config: NodeConfig,
    ) -> TopologyBuilder {
        let from = from.into_iter().map(Into::into).collect();
        self.nodes.push((name.into(), NodeKind::Operator(Box::new(config)), from));
        self
    }

    /// Adds a sink that reads the nodes named in `from`.
    #[must_use]
    pub fn sink<S: Into<String>>(
        mut self,
        name: impl Into<String>,
        from: impl IntoIterator<Item = S>,
        config: SinkConfig,
    ) -> TopologyBuilder {
        let from = from.into_iter().map(Into::into).collect();
        self.nodes.push((name.into(), NodeKind::Sink(Box::new(config)), from));
        self
    }

    /// Notes that a node's settings could not be read whole: its outputs are not known, so a `from` that names it is no
    /// problem of its own.
    #[must_use]
    pub(crate) fn misread(mut self, name: impl Into<String>) -> TopologyBuilder {
        self.misread.insert(name.into());
        self
    }

    /// Notes a node that could not be read at all, as [`TopologyBuilder::misread`] does. The names in its own `from` are
    /// looked up as those of every node are; a topology does not come of it.
    #[must_use]
    pub(crate) fn unread(mut self, name: impl Into<String>, from: Vec<String>) -> TopologyBuilder {
        let name = name.into();
        self.unread.push((name.clone(), from));
        self.misread(name)
    }

    /// Checks the graph.
    ///
    /// # Errors
    /// Every problem found, in the order of the nodes.
    pub fn build(self) -> Result<Topology, Vec<Problem>> {
        let mut problems = Vec::new();
        check_name(&self.name, None, &mut problems);
        for (n, (name, kind, _)) in self.nodes.iter().enumerate() {
            check_name(name, Some(name), &mut problems);
            if self.nodes[..n].iter().any(|(other, _, _)| other == name) {
                let help = "a name is what `from`, topics and state know a node by: give one of them another";
                let message = "another node has this name already";
                problems.push(problem("graph::duplicate", name, "", message, Some(help.into())));
            }
            check_settings(name, kind, &self.settings, &mut problems);
            let table = table_of(name, kind, &self.tables);
            check_table(name, kind, table, &self.settings, &mut problems);
        }
        check_topology(&self.settings, &mut problems);
        check_topics(&self.settings, &self.nodes, &mut problems);
        check_promises(&self.settings, &self.nodes, &mut problems);
        if self.unread.is_empty() {
            check_renamed(&self.settings, &self.nodes, &mut problems);
        }
        let formats = formats::load(&self.settings, &self.nodes, &self.schemas, &mut problems);
        if !self.nodes.iter().any(|(_, kind, _)| matches!(kind, NodeKind::Source(_))) {
            let help = "add one under `sources`, for example `orders: { kafka: { topic: orders } }`";
            problems.push(
                Problem::new("graph::no_source", "the topology has no source").field("sources").help(help),
            );
        }
        let mut inputs: Vec<(Vec<Input>, Option<Input>)> = Vec::new();
        for (name, kind, from) in &self.nodes {
            inputs.push(resolve(name, kind, from, &self.nodes, &self.misread, &mut problems));
        }
        for (name, from) in &self.unread {
            for text in from {
                look_up(text, name, "from", &self.nodes, &self.misread, &mut problems);
            }
        }
        let mut nodes: Vec<Node> = Vec::new();
        let mut withs: Vec<Option<Input>> = Vec::new();
        for ((name, kind, _), (inputs, with)) in self.nodes.into_iter().zip(inputs) {
            let table = table_of(&name, &kind, &self.tables).copied();
            let (lookups, plan) = (Vec::new(), NodePlan::default());
            nodes.push(Node { name, kind, inputs, table, lookups, plan, made_for: None });
            withs.push(with);
        }
        joins::settle(&mut nodes, &withs, &mut problems);
        gates::check(&self.name, &self.settings, &nodes, &mut problems);
        if problems.is_empty() {
            check_cycles(&nodes, &mut problems);
        }
        if problems.is_empty() {
            windowed::settle_grace(&mut nodes, &mut problems);
        }
        if !problems.is_empty() || !self.unread.is_empty() {
            return Err(problems);
        }
        repartition::insert(&self.name, &mut nodes)?;
        foreign::insert(&self.name, &mut nodes)?;
        let subs = sub::cut(&nodes);
        sub::check_lines(&nodes, &subs)?;
        limits::check(&self.settings, &nodes, &subs)?;
        formats::check_keys(&nodes, &subs)?;
        let (name, settings, schemas) = (self.name, self.settings, self.schemas);
        let replayed = settings.state.changelog == Changelog::Off;
        nodes.iter_mut().for_each(|node| node.plan.replayed = replayed);
        Ok(Topology { name, settings, nodes, subs, schemas, formats })
    }
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

/// The nodes that a node reads (`from`), and the one that it joins them with.
fn resolve(
    name: &str,
    kind: &NodeKind,
    from: &[String],
    nodes: &[(String, NodeKind, Vec<String>)],
    misread: &BTreeSet<String>,
    problems: &mut Vec<Problem>,
) -> (Vec<Input>, Option<Input>) {
    if matches!(kind, NodeKind::Source(_)) {
        return (Vec::new(), None);
    }
    if from.is_empty() {
        problems.push(problem(
            "graph::from",
            name,
            "",
            "the node reads nothing",
            Some("add `from: NODE`".into()),
        ));
    }
    if let Some((_, twice)) = from.iter().enumerate().find(|(n, text)| from[..*n].contains(*text)) {
        problems.push(problem(
            "graph::from",
            name,
            "from",
            &format!("it reads `{twice}` twice: each record would come twice"),
            Some("name each node once".into()),
        ));
    }
    let mut found = |text: &str, field: &str| look_up(text, name, field, nodes, misread, problems);
    let inputs: Vec<Input> = from.iter().filter_map(|text| found(text, "from")).collect();
    let NodeKind::Operator(config) = kind else { return (inputs, None) };
    let with = config.with().and_then(|text| found(text, &config.meeting_field()));
    if let Some((count, help)) = config.input_count()
        && inputs.len() == from.len()
        && !count.contains(&inputs.len())
    {
        problems.push(problem("graph::from", name, "from", "wrong number of inputs", Some(help.into())));
    }
    (inputs, with)
}

/// The output that a name in a node's `from` or `with` means. One of a misread node is not known, and that is no problem
/// of this node.
fn look_up(
    text: &str,
    name: &str,
    field: &str,
    nodes: &[(String, NodeKind, Vec<String>)],
    misread: &BTreeSet<String>,
    problems: &mut Vec<Problem>,
) -> Option<Input> {
    match find(text, name, nodes) {
        Ok(input) => Some(input),
        Err((message, help)) => {
            if !misread.contains(text.split('.').next().unwrap_or(text)) {
                problems.push(problem("graph::from", name, field, &message, Some(help)));
            }
            None
        }
    }
}

/// The node, or the node's output, of that name; else message and help.
fn find(
    text: &str,
    reader: &str,
    nodes: &[(String, NodeKind, Vec<String>)],
) -> Result<Input, (String, String)> {
    let whole = nodes.iter().position(|(n, _, _)| n == text);
    let found = match (whole, text.rsplit_once('.')) {
        (Some(node), _) => Some((node, "")),
        (None, Some((node, port))) => nodes.iter().position(|(n, _, _)| n == node).map(|n| (n, port)),
        (None, None) => None,
    };
    let Some((node, port)) = found else {
        let known: Vec<&str> = nodes.iter().map(|(n, _, _)| n.as_str()).filter(|n| *n != reader).collect();
        let help = match known.is_empty() {
            true => "there is nothing else to read from".into(),
            false => did_you_mean(text, &known),
        };
        return Err((format!("there is no node `{text}`"), help));
    };
    let ports = match &nodes[node].1 {
        NodeKind::Operator(config) => config.ports(),
        NodeKind::Source(_) | NodeKind::Sink(_) => Vec::new(),
    };
    let at = match (ports.as_slice(), port) {
        ([], "") => Some(0),
        ([], _) => None,
        (ports, port) => ports.iter().position(|p| p == port),
    };
    if let Some(port) = at.and_then(|p| u16::try_from(p).ok()) {
        return Ok(Input { node, port });
    }
    let base = &nodes[node].0;
    let known: Vec<String> = ports.iter().map(|p| format!("{base}.{p}")).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    if ports.is_empty() {
        Err((format!("`{base}` has no outputs of its own"), format!("write `from: {base}`")))
    } else if text == base {
        let all: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
        Err((format!("`{base}` has several outputs"), format!("name one: {}", all.join(", "))))
    } else {
        Err((format!("`{base}` has no output `{text}`"), did_you_mean(text, &known)))
    }
}

fn check_cycles(nodes: &[Node], problems: &mut Vec<Problem>) {
    let read = |n: usize| {
        let node: &Node = &nodes[n];
        node.inputs.iter().map(|i| i.node).chain(node.lookups.iter().copied())
    };
    // A node is settled when its inputs are; nodes that never get there are in a cycle or below one.
    let mut settled = vec![false; nodes.len()];
    let mut moved = true;
    while moved {
        moved = false;
        for n in 0..nodes.len() {
            if !settled[n] && read(n).all(|i| settled[i]) {
                settled[n] = true;
                moved = true;
            }
        }
    }
    let Some(start) = settled.iter().position(|s| !s) else { return };
    let mut path = vec![start];
    let mut at = start;
    loop {
        let Some(next) = read(at).find(|n| !settled[*n]) else { return };
        if let Some(from) = path.iter().position(|n| *n == next) {
            // The path runs against the direction of records.
            let mut ring = vec![nodes[path[from]].name.as_str()];
            ring.extend(path[from..].iter().rev().map(|n| nodes[*n].name.as_str()));
            problems.push(problem(
                "graph::cycle",
                &nodes[path[from]].name,
                "from",
                &format!("the nodes read each other in a circle: {}", ring.join(" -> ")),
                Some("let one of them read from somewhere else, or put a topic between them".into()),
            ));
            return;
        }
        path.push(next);
        at = next;
    }
}
