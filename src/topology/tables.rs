//! Aggregates over tables in the graph: which aggregates read rows, whose changes they add and subtract.

use super::builder::problem;
use super::{Node, NodeKind};
use crate::model::Problem;
use crate::operators::NodeConfig;

/// Tells each aggregate that reads a table. A table is a node with `table`, everything else is a stream.
pub(super) fn settle(nodes: &mut [Node], problems: &mut Vec<Problem>) {
    for n in 0..nodes.len() {
        let (tables, streams): (Vec<usize>, Vec<usize>) =
            nodes[n].inputs.iter().map(|i| i.node).partition(|i| nodes[*i].table.is_some());
        let mixed = streams.first().zip(tables.first());
        let mixed = mixed.map(|(stream, table)| (nodes[*stream].name.clone(), nodes[*table].name.clone()));
        let name = nodes[n].name.clone();
        let NodeKind::Operator(config) = &mut nodes[n].kind else { continue };
        let NodeConfig::Aggregate(aggregate) = &mut **config else { continue };
        if tables.is_empty() {
            let field = match (&aggregate.subtract, &aggregate.fold) {
                (Some(_), _) => "aggregate.subtract",
                (_, Some(fold)) if fold.subtract.is_some() => "aggregate.fold.subtract",
                _ => continue,
            };
            if !streams.is_empty() {
                problems.push(problem(
                    "graph::aggregate",
                    &name,
                    field,
                    "nothing is ever taken back: what it reads is a stream",
                    Some(
                        "remove it; or read a table: a source with `table: {}`, or an operator `table: {}`"
                            .into(),
                    ),
                ));
            }
            continue;
        }
        if let Some((stream, table)) = mixed {
            problems.push(problem(
                "graph::aggregate",
                &name,
                "from",
                &format!("`{table}` is a table and `{stream}` a stream: rows are added and taken back, records only added"),
                Some(format!(
                    "aggregate them apart, or read the table's changes as records through a node such as \
                     `{table}-changes: {{ from: {table}, filter: \"true\" }}`"
                )),
            ));
            continue;
        }
        aggregate.over_table = true;
        aggregate.groups =
            aggregate.by.as_ref().map_or_else(|| "key".to_owned(), |by| by.text().trim().to_owned());
        let found = aggregate.check_over_table().into_iter();
        problems.extend(found.map(|p| Problem { code: "graph::aggregate", ..p.of(&name) }));
    }
}
