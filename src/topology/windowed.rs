//! Which records of a graph are windows' results, as far as the graph alone says it.
//!
//! Called for joins: rows and pairs are found by key and window, so a side whose records all have a window and one whose
//! records have none never meet.

use super::{Input, Node, NodeKind};
use crate::operators::Windows;

/// What may come out of a node. Nothing known yet is neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Windowed {
    /// Records with a window.
    with: bool,
    /// Records without one.
    without: bool,
}

impl Windowed {
    const WITH: Windowed = Windowed { with: true, without: false };
    const WITHOUT: Windowed = Windowed { with: false, without: true };
    const UNKNOWN: Windowed = Windowed { with: true, without: true };

    fn or(self, other: Windowed) -> Windowed {
        Windowed { with: self.with || other.with, without: self.without || other.without }
    }

    /// Every record has a window.
    pub(super) fn always(self) -> bool {
        self == Windowed::WITH
    }

    /// No record has a window.
    pub(super) fn never(self) -> bool {
        self == Windowed::WITHOUT
    }
}

/// What may come out of each node. `withs`: the right side of each join, where it was found.
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
        Windows::Always => Windowed::WITH,
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
