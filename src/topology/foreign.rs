//! Foreign-key joins over topics: the two tables are in different partitions, so the join becomes two halves, one
//! beside each table, with an internal topic in each direction (`operators/join/foreign_key_apart.rs`).
//!
//! Called by the builder after repartition topics were added. Both topics are repartition topics like any other:
//! created, given as many partitions as the topics that they are read with, written in checkpoints' transactions, and
//! purged.

use super::builder::problem;
use super::repartition::{add, reading_topics, uses_topic};
use super::{Input, Node, NodeKind};
use crate::model::Problem;
use crate::sinks::SinkConfig;
use crate::sources::SourceConfig;

/// Cuts every foreign-key join that reads topics in two.
///
/// # Errors
/// A name or topic that the cut needs is taken.
pub(super) fn insert(topology: &str, nodes: &mut Vec<Node>) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    let reading_topics = reading_topics(nodes);
    for n in 0..nodes.len() {
        if !reading_topics[n] {
            continue;
        }
        let &[left, right] = nodes[n].inputs.as_slice() else { continue };
        let NodeKind::Operator(config) = &nodes[n].kind else { continue };
        let Some(half) = config.other_half(&nodes[n].plan) else { continue };
        nodes[n].plan.apart = true;
        let half = NodeKind::Operator(Box::new(half));
        let name = nodes[n].name.clone();
        let there =
            topic(topology, &name, "subscriptions", Input { node: n, port: 1 }, n, nodes, &mut problems);
        let inputs = vec![Input { node: there, port: 0 }, right];
        let half = add(nodes, &format!("{name}-right"), half, inputs, n, &mut problems);
        nodes[half].lookups = vec![right.node];
        let back = topic(topology, &name, "answers", Input { node: half, port: 0 }, n, nodes, &mut problems);
        nodes[n].inputs = vec![left, Input { node: back, port: 0 }];
        nodes[n].lookups = vec![left.node];
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// A topic that carries what `from` sends; returns the node that reads it.
fn topic(
    topology: &str,
    join: &str,
    what: &str,
    from: Input,
    owner: usize,
    nodes: &mut Vec<Node>,
    problems: &mut Vec<Problem>,
) -> usize {
    let topic = format!("{topology}-{join}-{what}-repartition");
    if let Some(taken) = nodes.iter().find(|node| uses_topic(node, &topic)) {
        let message = format!("the topic `{topic}` is the topology's own, between the halves of `{join}`");
        let help = "give the topic another name".to_owned();
        problems.push(problem("graph::repartition", &taken.name, "kafka.topic", &message, Some(help)));
    }
    let sink = NodeKind::Sink(Box::new(SinkConfig::repartition(topic.clone())));
    add(nodes, &format!("{join}-{what}-repartition"), sink, vec![from], owner, problems);
    let source = NodeKind::Source(SourceConfig::repartition(topic));
    add(nodes, &format!("{join}-{what}-repartitioned"), source, Vec::new(), owner, problems)
}
