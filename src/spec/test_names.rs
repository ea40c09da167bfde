//! The names in the `tests:` of a file: what is sent to, what is expected of, what calls.
//!
//! Called when the topology is sound, so that what `check` takes is not refused by `test` for a name.

use std::collections::BTreeSet;
use std::ops::Range;

use super::problem::{Problem, did_you_mean};
use super::tree::{Kind, Node};
use crate::topology::{NodeKind, Topology};

/// What may be expected of a node, beside a list of records.
pub const COUNTS: &[&str] = &["calls", "records", "dropped"];

/// What a test may expect something of: nodes, the topics of Kafka sinks, the dead-letter topic.
#[must_use]
pub fn expectable(topology: &Topology) -> BTreeSet<&str> {
    let declared = || topology.nodes.iter().filter(|n| n.made_for.is_none());
    let sinks = declared().filter_map(|n| match &n.kind {
        NodeKind::Sink(s) => s.topic(),
        _ => None,
    });
    declared()
        .map(|n| n.name.as_str())
        .chain(sinks)
        .chain(topology.settings.errors.dead_letter.iter().map(|d| d.topic.as_str()))
        .collect()
}

/// Sources, and the topics that they read.
fn sendable(topology: &Topology) -> BTreeSet<&str> {
    let declared = topology.nodes.iter().filter(|n| n.made_for.is_none());
    let sources = declared.filter_map(|n| match &n.kind {
        NodeKind::Source(source) => Some((n.name.as_str(), source.topics())),
        _ => None,
    });
    sources.flat_map(|(name, topics)| std::iter::once(name).chain(topics)).collect()
}

/// Nodes that call an API.
fn calling(topology: &Topology) -> BTreeSet<&str> {
    let calls = |kind: &NodeKind| matches!(kind, NodeKind::Operator(c) if c.makes_calls());
    topology.nodes.iter().filter(|n| calls(&n.kind)).map(|n| n.name.as_str()).collect()
}

/// Reports every name in the tests that is not there.
pub(super) fn check(root: &Node, topology: &Topology, problems: &mut Vec<Problem>) {
    let (sendable, calling, expectable) = (sendable(topology), calling(topology), expectable(topology));
    let unknown = |what: &str, name: &str, at: &Range<usize>, known: &BTreeSet<&str>| {
        let known: Vec<&str> = known.iter().copied().collect();
        let help = if known.is_empty() { "the topology has none".into() } else { did_you_mean(name, &known) };
        Problem::new("test-name", format!("there is no {what} `{name}`")).at(at.clone(), "here").help(help)
    };
    let steps = list(root.get("tests")).iter().flat_map(|test| list(test.get("steps")));
    for step in steps {
        if let Some(to @ Node { kind: Kind::Text(name), .. }) =
            step.get("send").and_then(|send| send.get("to"))
            && !sendable.contains(name.as_str())
        {
            problems.push(unknown("source, or topic that one reads,", name, &to.span, &sendable));
        }
        for (key, _) in step.get("on_call").map_or(&[][..], Node::entries) {
            if !calling.contains(key.name.as_str()) {
                problems.push(unknown("node with calls", &key.name, &key.span, &calling));
            }
        }
        for (key, what) in step.get("expect").map_or(&[][..], Node::entries) {
            if !expectable.contains(key.name.as_str()) {
                problems.push(unknown("node or topic", &key.name, &key.span, &expectable));
            }
            expectation(&key.name, what, problems);
        }
    }
}

/// A list of records, or a map of counts.
fn expectation(name: &str, what: &Node, problems: &mut Vec<Problem>) {
    match &what.kind {
        Kind::List(_) => {}
        Kind::Map(entries) => {
            for (key, _) in entries.iter().filter(|(key, _)| !COUNTS.contains(&key.name.as_str())) {
                problems.push(
                    Problem::new("test-name", format!("`{}` of `{name}` cannot be expected", key.name))
                        .at(key.span.clone(), "here")
                        .help(did_you_mean(&key.name, COUNTS)),
                );
            }
        }
        _ => problems.push(
            Problem::new("test-name", format!("of `{name}` a list of records is expected, or a map of counts"))
                .at(what.span.clone(), "here")
                .help("write `[ { key: a, value: 1 } ]`, `{ calls: 1 }`, `{ records: 2 }` or `{ dropped: { late: 1 } }`"),
        ),
    }
}

fn list(node: Option<&Node>) -> &[Node] {
    match node {
        Some(Node { kind: Kind::List(items), .. }) => items,
        _ => &[],
    }
}
