//! Sub-topologies: the part of a topology that one task runs.

use std::collections::{BTreeMap, BTreeSet};

use super::builder::problem;
use super::{Made, Node, NodeKind, Topology};
use crate::model::Problem;

/// A set of nodes that are connected without a topic between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubTopology {
    /// Named after its first source: a name, not a position, since it names the changelog.
    pub name: String,
    /// Indices of its nodes, in declared order.
    pub nodes: Vec<usize>,
    /// Kafka topics that its sources read.
    pub topics: Vec<String>,
    /// Its sources that read no topic (lines, made-up records), in declared order.
    pub lines: Vec<usize>,
    /// Whether any of its nodes keeps state.
    pub stateful: bool,
}

/// Cuts a graph into connected sets, in the order of their first nodes. Nodes that no task has alone are in none.
pub(super) fn cut(nodes: &[Node]) -> Vec<SubTopology> {
    let mut sets = Sets((0..nodes.len()).collect());
    for (n, node) in nodes.iter().enumerate() {
        // A node that looks up rows in a table runs with it.
        let read = node.inputs.iter().map(|i| i.node).chain(node.lookups.iter().copied());
        for other in read.filter(|other| !nodes[*other].is_global()) {
            sets.join(n, other);
        }
    }
    // Sources of one topic run together, since a partition of a topic belongs to one task.
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (n, node) in nodes.iter().enumerate().filter(|(_, node)| !node.is_global()) {
        if let NodeKind::Source(source) = &node.kind {
            for topic in source.topics() {
                let other = *first.entry(topic).or_insert(n);
                sets.join(n, other);
            }
        }
    }
    let group: Vec<usize> = (0..nodes.len()).map(|n| sets.of(n)).collect();
    let read_from: BTreeSet<usize> = nodes.iter().flat_map(|n| &n.inputs).map(|i| i.node).collect();
    let mut at: BTreeMap<usize, usize> = BTreeMap::new();
    let mut subs: Vec<SubTopology> = Vec::new();
    for (n, g) in group.iter().enumerate().filter(|(n, _)| nodes[*n].is_of_a_task()) {
        let at = match at.get(g) {
            Some(at) => *at,
            None => {
                // Every node is below a source. Without one, in a graph with faults, the first node gives the name.
                let source = (n..nodes.len())
                    .find(|s| group[*s] == *g && matches!(nodes[*s].kind, NodeKind::Source(_)));
                let sub = SubTopology {
                    name: nodes[source.unwrap_or(n)].name.clone(),
                    nodes: Vec::new(),
                    topics: Vec::new(),
                    lines: Vec::new(),
                    stateful: false,
                };
                subs.push(sub);
                at.insert(*g, subs.len() - 1);
                subs.len() - 1
            }
        };
        let sub = &mut subs[at];
        sub.nodes.push(n);
        sub.stateful |= nodes[n].table.is_some();
        match &nodes[n].kind {
            NodeKind::Source(source) => {
                if source.topics().is_empty() {
                    sub.lines.push(n);
                }
                for topic in source.topics() {
                    if !sub.topics.iter().any(|t| t == topic) {
                        sub.topics.push(topic.to_owned());
                    }
                }
            }
            NodeKind::Operator(config) => sub.stateful |= config.is_stateful(&nodes[n].plan),
            NodeKind::Sink(_) => {
                sub.stateful |= read_from.contains(&n);
            }
        }
    }
    subs
}

/// Sets of numbers that grow together. Each is named after its smallest number.
struct Sets(Vec<usize>);

impl Sets {
    /// The name of the number's set.
    fn of(&mut self, n: usize) -> usize {
        let mut at = n;
        while self.0[at] != at {
            // Half of the way is shorter the next time.
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.0[a.max(b)] = a.min(b);
    }
}

/// Refuses sub-topologies that read both Kafka topics and sources without partitions: a topic has a task for each
/// partition, so no task could have the other source.
///
/// # Errors
/// One problem for each source of lines, at the node where it meets a topic.
pub(super) fn check_lines(nodes: &[Node], subs: &[SubTopology]) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    for sub in subs.iter().filter(|sub| !sub.topics.is_empty()) {
        for &line in &sub.lines {
            let is_below = below(nodes, |n| n == line);
            let reads_a_topic =
                below(nodes, |n| matches!(&nodes[n].kind, NodeKind::Source(s) if !s.topics().is_empty()));
            // The set is connected, so they meet somewhere.
            let meets = sub.nodes.iter().find(|n| is_below[**n] && reads_a_topic[**n]).unwrap_or(&line);
            let meets = match nodes[*meets].made {
                Made::For(owner) => &nodes[owner],
                Made::Declared | Made::DeadLetter => &nodes[*meets],
            };
            let name = &nodes[line].name;
            let field = match &meets.kind {
                NodeKind::Operator(config) => config.meeting_field(),
                NodeKind::Source(_) | NodeKind::Sink(_) => "from".to_owned(),
            };
            let topics: Vec<String> = sub.topics.iter().map(|topic| format!("`{topic}`")).collect();
            problems.push(problem(
                "graph::lines",
                &meets.name,
                &field,
                &format!(
                    "the records of `{name}` come together here with those of Kafka topics ({}): there is a task for each \
                     of their partitions, and `{name}` has none",
                    topics.join(", ")
                ),
                Some(format!(
                    "write what `{name}` reads to a topic, and read that; or read everything here from files"
                )),
            ));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// For each node, whether it is one of these or reads one, directly or not.
fn below(nodes: &[Node], start: impl Fn(usize) -> bool) -> Vec<bool> {
    let mut found: Vec<bool> = (0..nodes.len()).map(start).collect();
    loop {
        let mut moved = false;
        for (n, node) in nodes.iter().enumerate().filter(|(_, node)| !node.is_global()) {
            let mut read = node.inputs.iter().map(|i| i.node).chain(node.lookups.iter().copied());
            if !found[n] && read.any(|above| found[above] && !nodes[above].is_global()) {
                found[n] = true;
                moved = true;
            }
        }
        if !moved {
            return found;
        }
    }
}

/// One input of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskInput {
    /// The topic, or the node's name of a source that is not a topic.
    pub name: String,
    /// The sources that read it, in declared order.
    pub sources: Vec<usize>,
}

impl Topology {
    /// The inputs of a sub-topology's tasks, by the index that tasks use: its topics, or its other sources.
    #[must_use]
    pub fn inputs(&self, sub: usize) -> Vec<TaskInput> {
        let part = &self.subs[sub];
        let reads = |n: usize, topic: &str| matches!(&self.nodes[n].kind, NodeKind::Source(s) if s.topics().contains(&topic));
        let topics = part.topics.iter().map(|topic| TaskInput {
            name: topic.clone(),
            sources: part.nodes.iter().copied().filter(|n| reads(*n, topic)).collect(),
        });
        let lines =
            part.lines.iter().map(|n| TaskInput { name: self.nodes[*n].name.clone(), sources: vec![*n] });
        topics.chain(lines).collect()
    }
}
