//! Types from a source's `schema` down to the sinks: every expression is compiled for the values that reach its node.
//!
//! Called by `file` with the graph of a topology. A node below sources without a `schema` sees values of any type, and
//! nothing about its expressions changes. What a node does to types is conservative: where it is not known, anything.

use std::collections::BTreeMap;

use crate::expressions::{Kind, Typing, VrlCompiler, kind_of, with_field};
use crate::model::{Problem, Shape, Types};
use crate::topology::{Draft, Node, NodeKind};

/// Compiles the expressions of the endpoints, and of all nodes, each after those that it reads.
pub fn compile(draft: &mut Draft, compiler: &VrlCompiler, problems: &mut Vec<Problem>) {
    draft.endpoints_mut().for_each(|endpoint| endpoint.compile(compiler, problems));
    let shapes: BTreeMap<String, Shape> =
        draft.nodes().iter().filter_map(|node| Some((node.name.clone(), shape(draft, node)?))).collect();
    draft.follow(|node, from, with| {
        let of = |kind: &Option<&Kind>| kind.cloned().unwrap_or_else(Kind::any);
        let value = from.iter().map(of).reduce(|a, b| a.union(b)).unwrap_or_else(Kind::any);
        let mut typing = Typing::new(compiler, value, problems);
        match &mut node.kind {
            NodeKind::Source(config) => {
                typing.value = shapes.get(&node.name).map_or_else(Kind::any, kind_of);
                for expr in config.exprs_mut() {
                    typing.compile(expr, &[]);
                }
                if let Some((expr, _)) = config.timestamp() {
                    typing.demand(expr, Types::INTEGER.or(Types::FLOAT).or(Types::STRING), "a timestamp");
                }
                typing.value
            }
            NodeKind::Operator(config) => {
                typing.right = of(&with.flatten());
                let kind = config.compile(&mut typing);
                // Below values of any type nothing changes: also not where a `map` says what it makes of them.
                if typing.is_known() { kind } else { Kind::any() }
            }
            NodeKind::Sink(config) => {
                for expr in config.exprs_mut() {
                    typing.compile(expr, &[]);
                }
                match config.returning() {
                    Some(path) if typing.is_known() => with_field(&typing.value, path.steps(), Kind::any()),
                    _ => typing.value,
                }
            }
        }
    });
}

/// What is known of the values of a source.
fn shape(draft: &Draft, node: &Node) -> Option<Shape> {
    let NodeKind::Source(config) = &node.kind else { return None };
    let read = || config.reader_schema().and_then(crate::formats::shape_of);
    draft.schema(&node.name).cloned().or_else(read)
}
