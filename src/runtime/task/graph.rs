//! What a task derives from its graph: which nodes records reach, where the wall clock is held back, and which nodes
//! its state depends on.

use super::Node;
use crate::topology::{NodeKind, SubTopology, Topology};

/// Finds the inputs at which the wall clock is held back: those of nodes that refuse late records. Below such a node the
/// clock is held back already, so only the first one on each path counts.
pub(super) fn set_delays(nodes: &mut [Node]) {
    let mut behind: Vec<bool> = nodes.iter().map(|n| n.timing.refuses_late).collect();
    // Nodes are in no particular order, so repeat until nothing changes.
    let mut next: Vec<usize> = (0..nodes.len()).filter(|n| behind[*n]).collect();
    while let Some(n) = next.pop() {
        for &(_, child, _) in &nodes[n].children {
            if !std::mem::replace(&mut behind[child], true) {
                next.push(child);
            }
        }
    }
    let mut delays: Vec<Vec<bool>> =
        nodes.iter().map(|n| vec![n.timing.refuses_late; n.seen.len()]).collect();
    for (node, _) in nodes.iter().zip(&behind).filter(|(_, behind)| **behind) {
        for &(_, child, input) in &node.children {
            delays[child][usize::from(input)] = false;
        }
    }
    nodes.iter_mut().zip(delays).for_each(|(node, delays)| node.delays = delays);
}

/// The nodes that records of these sources reach in the step that reads them: up to nodes that keep records for later.
pub(super) fn reached(topology: &Topology, sub: &SubTopology, nodes: &[Node], from: &[usize]) -> Vec<usize> {
    let mut reached: Vec<usize> = Vec::new();
    let mut next: Vec<usize> = from.to_vec();
    while let Some(n) = next.pop() {
        for &(_, child, _) in &nodes[n].children {
            if reached.contains(&child) {
                continue;
            }
            reached.push(child);
            let node = &topology.nodes[sub.nodes[child]];
            if matches!(&node.kind, NodeKind::Operator(c) if !c.is_stateful(&node.plan)) {
                next.push(child);
            }
        }
    }
    reached
}

/// The stateful nodes, one line each, with their kind: what the state depends on. If a line is missing or different,
/// old state would be orphaned or misread; a new line is a new, empty store.
pub(super) fn shape(topology: &Topology, sub: &SubTopology) -> String {
    let of = |g: &usize| Some(format!("{} = {}", topology.nodes[*g].name, topology.state_form(*g)?));
    let mut lines: Vec<String> = sub.nodes.iter().filter_map(of).collect();
    lines.sort();
    lines.join("\n")
}
