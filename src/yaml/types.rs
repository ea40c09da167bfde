//! Types from a source's `schema` down to the sinks: every expression is compiled for the values that reach its node.
//!
//! Called by `file` with all nodes of a topology. A node below sources without a `schema` sees values of any type, and
//! nothing about its expressions changes. What a node does to types is conservative: where it is not known, anything.

use std::collections::BTreeMap;

use crate::expressions::{Kind, Typing, VrlCompiler, with_field};
use crate::model::Problem;
use crate::operators::NodeConfig;
use crate::sinks::SinkConfig;

/// A node that reads others, before it goes to the builder.
pub enum Draft {
    /// An operator.
    Operator(Box<NodeConfig>),
    /// A sink.
    Sink(Box<SinkConfig>),
}

/// Compiles the expressions of all nodes, each after those that it reads. `kinds`: those of the sources' values.
pub fn compile(
    nodes: &mut [(String, Vec<String>, Draft)],
    mut kinds: BTreeMap<String, Kind>,
    compiler: &VrlCompiler,
    problems: &mut Vec<Problem>,
) {
    let names: Vec<String> = nodes.iter().map(|(name, ..)| name.clone()).collect();
    let mut left: Vec<usize> = (0..nodes.len()).collect();
    while !left.is_empty() {
        let waits = |n: &usize| {
            let (name, from, draft) = &nodes[*n];
            let with = match draft {
                Draft::Operator(config) => config.with(),
                Draft::Sink(_) => None,
            };
            let reads = from.iter().map(String::as_str).chain(with).map(base);
            // A name that is no node, or this one, is a problem of the graph.
            reads.filter(|r| r != name).any(|r| !kinds.contains_key(r) && names.iter().any(|n| n == r))
        };
        // The nodes of a cycle have no order; the cycle is a problem of the graph.
        let at = left.iter().position(|n| !waits(n)).unwrap_or(0);
        let (name, from, draft) = &mut nodes[left.remove(at)];
        let of = |name: &str| kinds.get(base(name)).cloned().unwrap_or_else(Kind::any);
        let value = from.iter().map(|from| of(from)).reduce(|a, b| a.union(b)).unwrap_or_else(Kind::any);
        let mut typing = Typing::new(compiler, value, problems);
        let kind = match draft {
            Draft::Operator(config) => {
                typing.right = config.with().map_or_else(Kind::any, of);
                let kind = config.compile(&mut typing);
                // Below values of any type nothing changes: also not where a `map` says what it makes of them.
                if typing.is_known() { kind } else { Kind::any() }
            }
            Draft::Sink(config) => {
                for expr in config.exprs_mut() {
                    typing.compile(expr, &[]);
                }
                match config.returning() {
                    Some(path) if typing.is_known() => with_field(&typing.value, path.steps(), Kind::any()),
                    _ => typing.value,
                }
            }
        };
        kinds.insert(name.clone(), kind);
    }
}

/// The node of `node.output`.
fn base(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}
