//! Which sub-topologies use a named rate limit, and which of them cannot share one with `scope: cluster`.

use super::builder::problem;
use super::{Node, NodeKind, Settings, SubTopology, Topology};
use crate::model::Problem;
use crate::operators::RateScope;

impl Topology {
    /// The sub-topologies with a node that uses a named limit, in their order.
    #[must_use]
    pub fn limit_users(&self, limit: &str) -> Vec<usize> {
        let uses = |sub: &SubTopology| user(&self.nodes, sub, limit).is_some();
        (0..self.subs.len()).filter(|sub| uses(&self.subs[*sub])).collect()
    }
}

/// The first node of a sub-topology that uses a limit.
fn user<'a>(nodes: &'a [Node], sub: &SubTopology, limit: &str) -> Option<&'a Node> {
    let uses = |node: &&Node| of(&node.kind).is_some_and(|(name, _)| name == limit);
    sub.nodes.iter().map(|n| &nodes[*n]).find(uses)
}

/// The limit that a node names, and its kind.
pub(super) fn of(kind: &NodeKind) -> Option<(&str, &str)> {
    match kind {
        NodeKind::Operator(config) => Some((config.calls()?.rate_limit?, config.kind_name())),
        NodeKind::Sink(config) => Some((config.rate_limit()?, config.kind_name())),
        NodeKind::Source(_) => None,
    }
}

/// Refuses a limit with `scope: cluster` that is used below both topics and sources without partitions. Shares go by
/// partitions, so an instance could not know how many others run the other sources.
///
/// # Errors
/// One problem for each such limit, at a node below a source without partitions.
pub(super) fn check(settings: &Settings, nodes: &[Node], subs: &[SubTopology]) -> Result<(), Vec<Problem>> {
    let cluster = settings.rate_limits.iter().filter(|(_, config)| config.scope == RateScope::Cluster);
    let mut problems = Vec::new();
    for (limit, _) in cluster {
        let below = |lines: bool| {
            subs.iter()
                .filter(move |sub| sub.topics.is_empty() == lines)
                .find_map(|sub| user(nodes, sub, limit))
        };
        let (Some(node), Some(other)) = (below(true), below(false)) else { continue };
        let Some((_, kind)) = of(&node.kind) else { continue };
        problems.push(problem(
            "graph::rate_limit",
            &node.name,
            &format!("{kind}.rate_limit"),
            &format!(
                "`{limit}` has `scope: cluster`: each instance uses the part that its partitions are of all, as `{}` \
                 does, and the sources above `{}` have no partitions",
                other.name, node.name
            ),
            Some("give it a limit of its own, so that both together stay below what the API takes".into()),
        ));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
