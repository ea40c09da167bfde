//! Sub-topologies: what one task runs.

use super::{Node, NodeKind};

/// A set of nodes that are connected without a topic between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubTopology {
    /// Named after its first source: a name, not a position, since it names the changelog.
    pub name: String,
    /// Indices of its nodes, in declared order.
    pub nodes: Vec<usize>,
    /// Kafka topics that its sources read.
    pub topics: Vec<String>,
    /// Does any node keep state?
    pub stateful: bool,
}

/// Cuts a graph into connected sets, in the order of their first nodes. Global tables are in none: they are no task's.
pub(super) fn cut(nodes: &[Node]) -> Vec<SubTopology> {
    let mut group: Vec<usize> = (0..nodes.len()).collect();
    for (n, node) in nodes.iter().enumerate() {
        // Who looks rows up in a table runs with it.
        let read = node.inputs.iter().map(|i| i.node).chain(node.lookups.iter().copied());
        for other in read.filter(|other| !nodes[*other].is_global()) {
            let (a, b) = (group[n], group[other]);
            let (low, high) = (a.min(b), a.max(b));
            for g in &mut group {
                if *g == high {
                    *g = low;
                }
            }
        }
    }
    // Sources of one topic run together: a partition of a topic is one task's.
    for a in 0..nodes.len() {
        for b in a + 1..nodes.len() {
            if let (NodeKind::Source(x), NodeKind::Source(y)) = (&nodes[a].kind, &nodes[b].kind)
                && !nodes[a].is_global()
                && !nodes[b].is_global()
                && x.topics().iter().any(|t| y.topics().contains(t))
            {
                let (low, high) = (group[a].min(group[b]), group[a].max(group[b]));
                for g in &mut group {
                    if *g == high {
                        *g = low;
                    }
                }
            }
        }
    }
    let mut subs: Vec<(usize, SubTopology)> = Vec::new();
    for (n, g) in group.iter().enumerate().filter(|(n, _)| !nodes[*n].is_global()) {
        let at = match subs.iter().position(|(of, _)| of == g) {
            Some(at) => at,
            None => {
                // Every node is below a source; without one (a graph that is still wrong) the first node names it.
                let source = (n..nodes.len())
                    .find(|s| group[*s] == *g && matches!(nodes[*s].kind, NodeKind::Source(_)));
                let sub = SubTopology {
                    name: nodes[source.unwrap_or(n)].name.clone(),
                    nodes: Vec::new(),
                    topics: Vec::new(),
                    stateful: false,
                };
                subs.push((*g, sub));
                subs.len() - 1
            }
        };
        let sub = &mut subs[at].1;
        sub.nodes.push(n);
        sub.stateful |= nodes[n].table.is_some();
        match &nodes[n].kind {
            NodeKind::Source(source) => {
                for topic in source.topics() {
                    if !sub.topics.iter().any(|t| t == topic) {
                        sub.topics.push(topic.to_owned());
                    }
                }
            }
            NodeKind::Operator(config) => sub.stateful |= config.is_stateful(),
            NodeKind::Sink(_) => {
                let read_from = nodes.iter().any(|r| r.inputs.iter().any(|i| i.node == n));
                sub.stateful |= read_from;
            }
        }
    }
    subs.into_iter().map(|(_, sub)| sub).collect()
}
