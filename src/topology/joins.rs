//! Joins in the graph: what stands on each side, and who reads whose rows.

use super::builder::problem;
use super::windowed::{self, Windowed};
use super::{Input, Node, NodeKind};
use crate::model::Problem;
use crate::operators::{JoinKind, JoinPlan, NodeConfig};

/// Plans every join. A right side whose records trigger becomes the join's second input; the tables that a join looks
/// rows up in are noted in `lookups`. `withs`: the right side of each join, where it was found.
pub(super) fn settle(nodes: &mut [Node], withs: &[Option<Input>], problems: &mut Vec<Problem>) {
    let windows = windowed::of_nodes(nodes, withs);
    for n in 0..nodes.len() {
        let NodeKind::Operator(config) = &nodes[n].kind else { continue };
        let NodeConfig::Join(join) = &**config else { continue };
        // What was not found has been reported.
        let (&[left], Some(right)) = (nodes[n].inputs.as_slice(), withs[n]) else { continue };
        let side = |input: Input| (nodes[input.node].name.as_str(), nodes[input.node].table.as_ref());
        let plan = match JoinPlan::new(join, side(left), side(right)) {
            Ok(plan) => plan,
            Err(found) => {
                let name = &nodes[n].name;
                problems.extend(found.into_iter().map(|p| Problem { code: "graph::join", ..p.of(name) }));
                continue;
            }
        };
        let (sides, names) = ([left, right].map(|i| windows[i.node]), [side(left).0, side(right).0]);
        if let Some((message, help)) = never_meet(plan.kind, sides, names) {
            let name = &nodes[n].name;
            problems.push(problem("graph::join", name, "join.with", &message, Some(help)));
            continue;
        }
        let node = &mut nodes[n];
        if plan.right_triggers() {
            node.inputs.push(right);
        }
        for (input, view) in [(left, plan.left), (right, plan.right)] {
            if view.is_some() {
                node.lookups.push(input.node);
            }
        }
        if let NodeKind::Operator(config) = &mut node.kind
            && let NodeConfig::Join(join) = &mut **config
        {
            join.plan = Some(plan);
        }
    }
    for n in 0..nodes.len() {
        let asks = |node: &Node| matches!(&node.kind, NodeKind::Operator(c) if c.takes_changes());
        let asked = nodes.iter().any(|node| asks(node) && node.inputs.iter().any(|i| i.node == n));
        if let NodeKind::Operator(config) = &mut nodes[n].kind
            && let NodeConfig::Join(join) = &mut **config
            && let Some(plan) = &mut join.plan
        {
            plan.sends_changes = asked;
        }
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

/// Rows and pairs are found by key and window: why two sides can never meet, and what to write instead.
fn never_meet(kind: JoinKind, sides: [Windowed; 2], names: [&str; 2]) -> Option<(String, String)> {
    let [left, right] = sides;
    let (windowed, plain) = match kind {
        // A windowed record finds the row of its plain key, too; a global table is read from a topic, which has no windows.
        JoinKind::StreamTable if right.always() && left.never() => (names[1], names[0]),
        JoinKind::StreamTable | JoinKind::StreamGlobal => return None,
        // A foreign key is a key alone, whatever the left side has.
        JoinKind::ForeignKey if right.always() => (names[1], names[0]),
        JoinKind::ForeignKey => return None,
        JoinKind::StreamStream | JoinKind::TableTable if right.always() && left.never() => {
            (names[1], names[0])
        }
        JoinKind::StreamStream | JoinKind::TableTable if left.always() && right.never() => {
            (names[0], names[1])
        }
        JoinKind::StreamStream | JoinKind::TableTable => return None,
    };
    let message = if kind == JoinKind::ForeignKey {
        format!(
            "the rows of `{windowed}` have a key and a window, and `on` gives a key alone: they never meet"
        )
    } else {
        format!(
            "each record of `{windowed}` has a key and a window, those of `{plain}` have no window: they never meet"
        )
    };
    let help = format!(
        "keep the newest window's result of each key: put `aggregate: {{ last: . }}` behind the windows of `{windowed}`; or \
         give both sides the same windows"
    );
    Some((message, help))
}
