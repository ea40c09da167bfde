//! Types from a source's `schema` down to the sinks: every expression is compiled for the values that reach its node.
//!
//! Called by `file` with all nodes of a topology. A node below sources without a `schema` sees values of any type, and
//! nothing about its expressions changes. What a node does to types is conservative: where it is not known, anything.

use std::collections::BTreeMap;

use crate::expressions::{Kind, VrlCompiler, compile_scoped, compile_typed, element, with_field};
use crate::model::{Expr, Problem, Types};
use crate::operators::aggregate::FieldFunction;
use crate::operators::debounce::KeepConfig;
use crate::operators::shared::window::WindowKind;
use crate::operators::{AggregateConfig, JoinType, NodeConfig};
use crate::sinks::SinkConfig;

/// A node that reads others, before it goes to the builder.
pub enum Draft {
    /// An operator.
    Operator(NodeConfig),
    /// A sink.
    Sink(SinkConfig),
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
        // In a circle, which is a problem of the graph, nobody is first.
        let at = left.iter().position(|n| !waits(n)).unwrap_or(0);
        let (name, from, draft) = &mut nodes[left.remove(at)];
        let of = |name: &str| kinds.get(base(name)).cloned().unwrap_or_else(Kind::any);
        let value = from.iter().map(|from| of(from)).reduce(|a, b| a.union(b)).unwrap_or_else(Kind::any);
        let kind = match draft {
            Draft::Operator(config) => {
                let right = config.with().map_or_else(Kind::any, of);
                operator(config, &value, &right, compiler, problems)
            }
            Draft::Sink(config) => {
                for expr in config.exprs_mut() {
                    compile_typed(expr, compiler, &[], &value, problems);
                }
                value
            }
        };
        kinds.insert(name.clone(), kind);
    }
}

/// The node of `node.output`.
fn base(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Compiles an operator's expressions; the kind of the values that it sends on.
fn operator(
    config: &mut NodeConfig,
    value: &Kind,
    right: &Kind,
    compiler: &VrlCompiler,
    problems: &mut Vec<Problem>,
) -> Kind {
    let known = !value.is_any();
    let kind = match config {
        NodeConfig::Filter(c) => {
            compile_typed(&mut c.0, compiler, &[], value, problems);
            if known {
                demand(&c.0, Types::BOOLEAN, "a condition", problems);
            }
            value.clone()
        }
        NodeConfig::Branch(c) => {
            for (_, expr) in &mut c.0 {
                compile_typed(expr, compiler, &[], value, problems);
                if known {
                    demand(expr, Types::BOOLEAN, "a condition", problems);
                }
            }
            value.clone()
        }
        NodeConfig::Map(c) => compile_typed(&mut c.0, compiler, &[], value, problems),
        NodeConfig::FlatMap(c) => {
            let list = compile_typed(&mut c.0, compiler, &[], value, problems);
            if known {
                demand(&c.0, Types::ARRAY, "the list of a `flat_map`", problems);
            }
            element(&list)
        }
        NodeConfig::Enrich(c) => {
            for expr in c.exprs_mut() {
                compile_typed(expr, compiler, &[], value, problems);
            }
            with_field(value, c.into.steps(), Kind::any())
        }
        NodeConfig::Aggregate(c) => return aggregate(c, value, compiler, problems),
        NodeConfig::Debounce(c) => {
            let keeps = matches!(c.keep, KeepConfig::Last | KeepConfig::First);
            for (expr, vars) in c.exprs_mut() {
                compile_typed(expr, compiler, vars, value, problems);
            }
            if keeps { value.clone() } else { Kind::any() }
        }
        NodeConfig::Join(join) => {
            let side = |kind: &Kind, alone: bool| if alone { kind.clone().or_null() } else { kind.clone() };
            let left = side(value, join.kind == JoinType::Outer);
            let sides = [("left", left.clone()), ("right", side(right, join.kind != JoinType::Inner))];
            for (expr, vars) in config.exprs_mut() {
                let vars: Vec<_> = sides.iter().filter(|(name, _)| vars.contains(name)).cloned().collect();
                let value = if vars.is_empty() { value } else { &left };
                compile_scoped(expr, compiler, &vars, value, problems);
            }
            Kind::any()
        }
        other => {
            let passes = other.keeps_values();
            for (expr, vars) in other.exprs_mut() {
                let value = if passes { value.clone() } else { Kind::any() };
                compile_typed(expr, compiler, vars, &value, problems);
            }
            if passes { value.clone() } else { Kind::any() }
        }
    };
    // Below values of any type nothing changes: also not where a `map` says what it makes of them.
    if known { kind } else { Kind::any() }
}

/// An aggregate's results.
fn aggregate(
    config: &mut AggregateConfig,
    value: &Kind,
    compiler: &VrlCompiler,
    problems: &mut Vec<Problem>,
) -> Kind {
    // Where sessions are merged, `.` is a result too.
    let merges =
        config.window.and_then(|w| w.kind()).is_some_and(|kind| matches!(kind, WindowKind::Session { .. }))
            && config.reduce.is_some();
    for (expr, vars) in config.exprs_mut() {
        let of_record = vars.is_empty() || *vars == ["acc"] && !merges;
        let value = if of_record { value.clone() } else { Kind::any() };
        compile_typed(expr, compiler, vars, &value, problems);
    }
    if value.is_any() {
        return Kind::any();
    }
    let number = Types::INTEGER.or(Types::FLOAT);
    let ordered = number.or(Types::STRING);
    let mut demands = vec![
        ("a sum", config.sum.as_ref(), number),
        ("an average", config.avg.as_ref(), number),
        ("a least value", config.min.as_ref(), ordered),
        ("a greatest value", config.max.as_ref(), ordered),
        ("a greatest value", config.top.as_ref().map(|top| &top.of), ordered),
    ];
    demands.extend(config.fields.iter().flat_map(|fields| &fields.0).filter_map(|(_, field)| {
        let (what, types) = match field.function {
            FieldFunction::Sum => ("a sum", number),
            FieldFunction::Avg => ("an average", number),
            FieldFunction::Min => ("a least value", ordered),
            FieldFunction::Max | FieldFunction::Top => ("a greatest value", ordered),
            _ => return None,
        };
        Some((what, field.of.as_ref(), types))
    }));
    for (what, expr, types) in demands {
        if let Some(expr) = expr {
            demand(expr, types, what, problems);
        }
    }
    if config.count.is_some() {
        return Kind::integer();
    }
    let Some(fields) = &config.fields else { return Kind::any() };
    let kind = |function: FieldFunction| match function {
        FieldFunction::Count => Kind::integer(),
        _ => Kind::any(),
    };
    let known = fields.0.iter().map(|(name, field)| (name.as_str().into(), kind(field.function))).collect();
    crate::expressions::object(known)
}

/// A problem where an expression can never give one of these types.
pub(super) fn demand(expr: &Expr, types: Types, what: &str, problems: &mut Vec<Problem>) {
    let found = expr.types();
    if found == Types::NEVER || found.may_be(types) {
        return;
    }
    let message = format!("{what} has to be {types}, and `{}` is {found}", expr.text());
    let problem = Problem::new("expression", message)
        .help("write an expression that fits, or correct the type in the source's `schema`");
    problems.push(match expr.span() {
        Some(span) => problem.at(span, format!("always {found}")),
        None => problem,
    });
}
