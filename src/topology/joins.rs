//! Which node reads what in the graph: the tables and streams that reach each operator, the other node that a join
//! names, and which node looks up whose rows.

use std::collections::BTreeSet;

use super::builder::problem;
use super::{Input, Node, NodeKind, windowed};
use crate::model::Problem;
use crate::operators::{NodePlan, ReadNode, Reads};

/// Gives each operator what it reads, and asks whether that is possible. The right side of a join whose records trigger
/// results becomes the join's second input; tables in which a join looks up rows are noted in `lookups`. `withs`: the
/// right side of each join, if it was found. `order`: the nodes, each behind those that it reads. `certain`: the nodes of
/// which it is known what they read.
pub(super) fn settle(
    nodes: &mut [Node],
    withs: &[Option<Input>],
    order: &[usize],
    certain: &[bool],
    problems: &mut Vec<Problem>,
) {
    let windows = windowed::of_nodes(nodes, withs, order);
    for n in (0..nodes.len()).filter(|n| certain[*n]) {
        let node = &nodes[n];
        let NodeKind::Operator(config) = &node.kind else { continue };
        let read = |input: &Input| {
            let node = &nodes[input.node];
            ReadNode { name: &node.name, table: node.table.as_ref(), windowed: windows[input.node] }
        };
        let reads = Reads { from: node.inputs.iter().map(read).collect(), with: withs[n].as_ref().map(read) };
        let found = config.check_reads(&reads);
        if !found.is_empty() {
            problems.extend(found.into_iter().map(|p| p.of(&node.name)));
            continue;
        }
        let over_tables = !reads.from.is_empty() && reads.from.iter().all(|read| read.table.is_some());
        // A side that was not found has been reported.
        let both = reads.from.first().zip(reads.with.as_ref());
        let sides = both.map(|(left, right)| [left.table.copied(), right.table.copied()]);
        let plan = NodePlan { over_tables, sides, ..NodePlan::default() };
        let triggers = config.with_triggers(&plan);
        let node = &mut nodes[n];
        if let (Some(left), Some(right), Some(tables)) = (node.inputs.first().copied(), withs[n], sides) {
            if triggers {
                node.inputs.push(right);
            }
            for (input, table) in [left, right].into_iter().zip(tables) {
                if table.is_some() {
                    node.lookups.push(input.node);
                }
            }
        }
        node.plan = plan;
    }
    let asks = |node: &&Node| matches!(&node.kind, NodeKind::Operator(c) if c.takes_changes(&node.plan));
    let asked = nodes.iter().filter(asks).flat_map(|node| &node.inputs).map(|input| input.node);
    for n in asked.collect::<BTreeSet<usize>>() {
        nodes[n].plan.sends_changes = true;
    }
    for node in nodes.iter() {
        let global = |i: &&Input| nodes[i.node].table.is_some_and(|table| table.global);
        if let Some(input) = node.inputs.iter().find(global) {
            let name = &nodes[input.node].name;
            problems.push(problem(
                "graph::global",
                &node.name,
                "from",
                &format!("`{name}` is a global table: every instance has all of it, so it cannot be read as a stream"),
                Some(format!("only look it up: `join: {{ with: {name}, on: ... }}`")),
            ));
        }
    }
}
