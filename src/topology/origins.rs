//! `origin` in expressions: where it is known, and which topics it counts.
//!
//! It is known directly behind a source that reads Kafka, and on as long as each record comes from one record. Behind what
//! makes records of its own (an aggregate, a debounce, a join, a repartition topic) it is refused: a place that only looks
//! like the record's would be believed.

use std::sync::Arc;

use super::sub::SubTopology;
use super::{Made, Node, NodeKind};
use crate::model::{Expr, Problem};

/// Tells every expression that reads `origin` the topics of its task.
///
/// # Errors
/// One problem for each expression that reads it where it is not known.
pub(super) fn settle(nodes: &mut [Node], subs: &[SubTopology]) -> Result<(), Vec<Problem>> {
    let known = known(nodes);
    let mut problems = Vec::new();
    for n in 0..nodes.len() {
        let sub = subs.iter().find(|sub| sub.nodes.contains(&n));
        let topics: Vec<Arc<str>> =
            sub.map(|sub| sub.topics.iter().map(|topic| topic.as_str().into()).collect()).unwrap_or_default();
        let topics: Arc<[Arc<str>]> = topics.into();
        let why = (!known[n]).then(|| why_not(nodes, &known, n));
        let owner = match nodes[n].made {
            Made::For(owner) => nodes[owner].name.clone(),
            Made::Declared | Made::DeadLetter => nodes[n].name.clone(),
        };
        for expr in exprs(&mut nodes[n].kind).into_iter().filter(|expr| expr.reads_origin()) {
            match &why {
                None => expr.set_topics(Arc::clone(&topics)),
                Some(why) => {
                    let problem = Problem::new("graph::origin", format!("`origin` is not known here: {why}"))
                        .help("read it further up, where records are still those of the topic: `.origin = origin` in a `map`");
                    problems.push(match expr.span() {
                        Some(span) => problem.of(&owner).at(span, "reads `origin`"),
                        None => problem.of(&owner),
                    });
                }
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn exprs(kind: &mut NodeKind) -> Vec<&mut Expr> {
    match kind {
        NodeKind::Source(config) => config.exprs_mut(),
        NodeKind::Operator(config) => config.exprs_mut().into_iter().map(|(expr, _)| expr).collect(),
        NodeKind::Sink(config) => config.exprs_mut(),
    }
}

/// By node: do its expressions, and the records that leave it, have the place of a record that was read?
fn known(nodes: &[Node]) -> Vec<bool> {
    let mut known: Vec<bool> = nodes.iter().map(|node| keeps(node) && node.inputs.is_empty()).collect();
    loop {
        let mut moved = false;
        for (n, node) in nodes.iter().enumerate() {
            if !known[n] && keeps(node) && node.inputs.iter().all(|input| known[input.node]) {
                (known[n], moved) = (true, true);
            }
        }
        if !moved {
            return known;
        }
    }
}

/// Whether a node has the places of the records that come in.
fn keeps(node: &Node) -> bool {
    match &node.kind {
        NodeKind::Source(source) => {
            !source.topics().is_empty() && !node.is_global() && !matches!(node.made, Made::For(_))
        }
        NodeKind::Operator(config) => config.keeps_origin(),
        // A row that is read further holds its record's place.
        NodeKind::Sink(_) => node.made != Made::DeadLetter,
    }
}

/// What makes records of its own, at this node or above it.
fn why_not(nodes: &[Node], known: &[bool], n: usize) -> String {
    let (mut at, mut steps) = (n, 0);
    while keeps(&nodes[at]) && steps < nodes.len() {
        let Some(input) = nodes[at].inputs.iter().find(|input| !known[input.node]) else { break };
        (at, steps) = (input.node, steps + 1);
    }
    let node = &nodes[at];
    match &node.kind {
        NodeKind::Source(_) if matches!(node.made, Made::For(_)) => {
            "the records come through a repartition topic".to_owned()
        }
        NodeKind::Source(_) if node.is_global() => format!("`{}` is a global table", node.name),
        NodeKind::Source(_) => format!("`{}` reads no Kafka topic", node.name),
        NodeKind::Operator(config) => {
            format!("`{}` ({}) makes records of its own", node.name, config.kind_name())
        }
        NodeKind::Sink(_) => format!("`{}` has no records", node.name),
    }
}
