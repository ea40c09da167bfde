//! Windows in a graph, as far as the graph alone says it: which records are windows' results, and how long those of the
//! windows above a node may still change.
//!
//! Called for joins, whose sides never meet where the records of one all have a window and those of the other none, and
//! for nodes that wait for windows to close.

use super::{Input, Node, NodeKind};
use crate::model::Problem;
use crate::operators::{Windowed, Windows, WindowsAbove};

/// For each node, which records it may send. `withs`: the right side of each join, if it was found. `order`: the nodes,
/// each behind those that it reads.
pub(super) fn of_nodes(nodes: &[Node], withs: &[Option<Input>], order: &[usize]) -> Vec<Windowed> {
    let mut all = vec![Windowed::default(); nodes.len()];
    loop {
        let mut moved = false;
        // Once, and in a circle again.
        for &n in order {
            let next = of_node(nodes, withs, n, &all);
            moved |= next != all[n];
            all[n] = next;
        }
        if !moved {
            return all;
        }
    }
}

fn of_node(nodes: &[Node], withs: &[Option<Input>], n: usize, all: &[Windowed]) -> Windowed {
    let node = &nodes[n];
    let inputs = node.inputs.iter().fold(Windowed::default(), |sum, input| sum.or(all[input.node]));
    let config = match &node.kind {
        NodeKind::Source(_) => return Windowed::WITHOUT,
        NodeKind::Sink(_) => return inputs,
        NodeKind::Operator(config) => &**config,
    };
    match config.windows() {
        Windows::Always { .. } => Windowed::WITH,
        Windows::Never => Windowed::WITHOUT,
        Windows::Unknown => Windowed::UNKNOWN,
        Windows::AsRead if config.with().is_some() => {
            let is_table = |input: &Input| nodes[input.node].table.is_some();
            let looked_up = withs[n].as_ref().is_some_and(is_table) && !node.inputs.iter().any(is_table);
            let right = withs[n].filter(|_| !looked_up).map(|right| all[right.node]);
            inputs.or(right.unwrap_or_default())
        }
        Windows::AsRead => inputs,
    }
}

/// Tells each operator how long the windows above it still change after their ends. `order`: the nodes, each behind those
/// that it reads. `known`: those of which everything above is known.
pub(super) fn settle_grace(nodes: &mut [Node], order: &[usize], known: &[bool], problems: &mut Vec<Problem>) {
    let mut all = vec![WindowsAbove::default(); nodes.len()];
    for &n in order {
        let mut above = WindowsAbove::default();
        for input in &nodes[n].inputs {
            let windows = match &nodes[input.node].kind {
                NodeKind::Source(_) => Windows::Never,
                NodeKind::Operator(config) => config.windows(),
                NodeKind::Sink(_) => Windows::AsRead,
            };
            let further = &all[input.node];
            match windows {
                Windows::Always { grace } => above.grace = above.grace.max(Some(grace)),
                Windows::Never => above.unwindowed = true,
                Windows::AsRead | Windows::Unknown => {
                    above.grace = above.grace.max(further.grace);
                    above.unwindowed |= further.unwindowed;
                }
            }
        }
        let node = &mut nodes[n];
        if let (true, NodeKind::Operator(config)) = (known[n], &node.kind) {
            problems.extend(config.check_windows(&above).into_iter().map(|p| p.of(&node.name)));
            node.plan.grace = above.grace;
        }
        all[n] = above;
    }
}
