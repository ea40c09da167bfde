//! Windows in a graph, as far as the graph alone says it: which records are windows' results, and how long those of the
//! windows above a node may still change.
//!
//! Called for joins, whose sides never meet where the records of one all have a window and those of the other none, and
//! for nodes that wait for windows to close.

use super::{Input, Node, NodeKind};
use crate::model::Problem;
use crate::operators::{Windowed, Windows, WindowsAbove};

/// For each node, which records it may send. `withs`: the right side of each join, if it was found.
pub(super) fn of_nodes(nodes: &[Node], withs: &[Option<Input>]) -> Vec<Windowed> {
    let mut all = vec![Windowed::default(); nodes.len()];
    loop {
        let next: Vec<Windowed> = (0..nodes.len()).map(|n| of_node(nodes, withs, n, &all)).collect();
        if next == all {
            return all;
        }
        all = next;
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

/// Tells each operator how long the windows above it still change after their ends.
pub(super) fn settle_grace(nodes: &mut [Node], problems: &mut Vec<Problem>) {
    for n in 0..nodes.len() {
        let above = above(nodes, n);
        let node = &mut nodes[n];
        let NodeKind::Operator(config) = &node.kind else { continue };
        problems.extend(config.check_windows(&above).into_iter().map(|p| p.of(&node.name)));
        node.plan.grace = above.grace;
    }
}

fn above(nodes: &[Node], n: usize) -> WindowsAbove {
    let mut found = WindowsAbove::default();
    let mut open: Vec<usize> = nodes[n].inputs.iter().map(|i| i.node).collect();
    let mut seen = vec![false; nodes.len()];
    while let Some(at) = open.pop() {
        if std::mem::replace(&mut seen[at], true) {
            continue;
        }
        let windows = match &nodes[at].kind {
            NodeKind::Source(_) => Windows::Never,
            NodeKind::Operator(config) => config.windows(),
            NodeKind::Sink(_) => Windows::AsRead,
        };
        match windows {
            Windows::Always { grace } => found.grace = found.grace.max(Some(grace)),
            Windows::Never => found.unwindowed = true,
            Windows::AsRead | Windows::Unknown => open.extend(nodes[at].inputs.iter().map(|i| i.node)),
        }
    }
    found
}
