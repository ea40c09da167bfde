//! Nodes that wait for what other consumer groups have committed: where they may stand, and whom they may wait for.
//!
//! A gate compares offsets, so it stands where records still have those of the topic that the groups read: directly behind
//! a source that reads Kafka.
//!
//! Topologies that are given together are looked at together: a circle of gates would never pass a record.

use std::collections::VecDeque;

use super::builder::problem;
use super::{Node, NodeKind, Settings, Topology};
use crate::model::Problem;

pub(super) fn check(name: &str, settings: &Settings, nodes: &[Node], problems: &mut Vec<Problem>) {
    for node in nodes {
        let NodeKind::Operator(config) = &node.kind else { continue };
        let Some(watches) = config.watches() else { continue };
        let kind = config.kind_name();
        let mut wrong = |field: &str, message: &str, help: &str| {
            let field = if field == "from" { field.to_owned() } else { format!("{kind}.{field}") };
            problems.push(problem("graph::gate", &node.name, &field, message, Some(help.into())));
        };
        for input in &node.inputs {
            let above = &nodes[input.node];
            let topics = match &above.kind {
                NodeKind::Source(source) => source.topics(),
                NodeKind::Operator(_) | NodeKind::Sink(_) => Vec::new(),
            };
            if topics.is_empty() {
                let message = format!(
                    "`{}` is no source that reads Kafka: its records have no offsets there",
                    above.name
                );
                wrong(
                    "from",
                    &message,
                    "let the gate read the source itself, and the other node read the gate",
                );
            } else if above.is_global() {
                let message =
                    format!("`{}` is a global table, which is read whole before anything runs", above.name);
                wrong("from", &message, "remove `global: true`");
            } else if let (Some(topic), [_, _, ..]) = (watches.topic, topics.as_slice()) {
                let message = format!(
                    "the source reads several topics, whose offsets cannot all be those of `{topic}`"
                );
                wrong("topic", &message, "write a source and a gate for each topic");
            }
        }
        if watches.groups.iter().any(|group| group == name) {
            let message = format!("`{name}` is this topology's own group: it would wait for itself for ever");
            wrong("groups", &message, "name the groups of other consumers");
        }
        if watches.dead_letter && settings.errors.dead_letter.is_none() {
            let help = "add `errors: { dead_letter: { topic: NAME } }`";
            wrong("on_timeout", "nothing says where dead letters go", help);
        }
    }
}

/// Brokers, group, topic: a group reads a topic. A gate waits for one reading and holds back another.
type Reading<'a> = (&'a str, &'a str, &'a str);

/// Where a gate stands, and which reading it waits for.
struct Wait<'a> {
    topology: usize,
    node: &'a str,
    field: String,
    held: Reading<'a>,
    until: Reading<'a>,
}

/// The circles of gates over several topologies, each at a gate of it: the topology's index, and the problem.
///
/// A group holds a topic back until other groups have committed past its records, so it is a circle only if each of them
/// waits on the very topic that the next one commits. Two groups that wait for each other on different topics go on.
#[must_use]
pub fn circles(topologies: &[&Topology]) -> Vec<(usize, Problem)> {
    let waits: Vec<Wait<'_>> =
        topologies.iter().enumerate().flat_map(|(n, topology)| waits_of(n, topology)).collect();
    let mut problems = Vec::new();
    for first in 0..waits.len() {
        let Some(way) = way_back(&waits, first) else { continue };
        // Said once, at the first of its gates.
        if way.iter().any(|wait| *wait < first) {
            continue;
        }
        let wait = &waits[first];
        let (_, group, topic) = wait.held;
        let ring: Vec<String> = way.iter().map(|n| format!("`{}`", waits[*n].held.1)).collect();
        let message = format!(
            "gates wait for each other in a circle, so no record of `{topic}` would ever pass: {} -> `{group}`",
            ring.join(" -> "),
        );
        let help = "let one of these groups read the topic without a gate".to_owned();
        problems.push((wait.topology, problem("graph::gate", wait.node, &wait.field, &message, Some(help))));
    }
    problems
}

/// What the gates of a topology wait for, in declared order.
fn waits_of(n: usize, topology: &Topology) -> Vec<Wait<'_>> {
    let brokers = topology.settings.kafka.as_ref().map_or("", |kafka| kafka.brokers.as_str());
    let mut waits = Vec::new();
    for node in &topology.nodes {
        let NodeKind::Operator(config) = &node.kind else { continue };
        let Some(watches) = config.watches() else { continue };
        for input in &node.inputs {
            let NodeKind::Source(source) = &topology.nodes[input.node].kind else { continue };
            for topic in source.topics() {
                waits.extend(watches.groups.iter().map(|group| Wait {
                    topology: n,
                    node: &node.name,
                    field: format!("{}.groups", config.kind_name()),
                    held: (brokers, &topology.name, topic),
                    until: (brokers, group, watches.topic.unwrap_or(topic)),
                }));
            }
        }
    }
    waits
}

/// The shortest way from what a gate waits for back to what it holds: the gates on it, `first` first.
fn way_back(waits: &[Wait<'_>], first: usize) -> Option<Vec<usize>> {
    let mut ways = VecDeque::from([vec![first]]);
    let mut seen = vec![false; waits.len()];
    while let Some(way) = ways.pop_front() {
        let last = &waits[*way.last()?];
        if last.until == waits[first].held {
            return Some(way);
        }
        for (n, _) in waits.iter().enumerate().filter(|(_, wait)| wait.held == last.until) {
            if !std::mem::replace(&mut seen[n], true) {
                ways.push_back(way.iter().copied().chain([n]).collect());
            }
        }
    }
    None
}

impl Topology {
    /// Does any node wait for what other consumer groups have committed?
    #[must_use]
    pub fn has_gates(&self) -> bool {
        let waits = |node: &Node| match &node.kind {
            NodeKind::Operator(config) => config.watches().is_some(),
            NodeKind::Source(_) | NodeKind::Sink(_) => false,
        };
        self.nodes.iter().any(waits)
    }
}
