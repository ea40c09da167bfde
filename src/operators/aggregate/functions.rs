//! What to compute: the functions of an aggregate with their expressions.
//!
//! Called by the four kinds of grouping with one record at a time. What can fail comes first ([`Plan::inputs`],
//! [`Plan::step`], [`Plan::merged`]) and changes nothing; [`Plan::apply`] cannot fail. So a record that is refused
//! leaves no trace in any window.

use std::sync::Arc;

use bytes::Bytes;

use super::accumulator::{Acc, Number, PART_BYTES_MAX, Part, SET_ITEM_BYTES, compare, size};
use super::config::{AggregateConfig, CollectConfig};
use super::fields::{FieldConfig, FieldFunction};
use super::sketch::Sketch;
use crate::model::{EvalError, Expr, Json, Reason, Record, Scope, Value, canonical, key_text};
use crate::operators::OperatorError;

pub(super) enum Function {
    Count,
    Sum(Expr),
    Min(Expr),
    Max(Expr),
    Avg(Expr),
    First(Expr),
    Last(Expr),
    Collect(Expr, usize),
    Top(Expr, usize),
    Distinct(Expr),
    ApproxDistinct(Expr),
    Reduce(Expr, Option<Expr>),
    Fold { init: Arc<Json>, step: Expr, merge: Option<Expr>, subtract: Option<Expr> },
}

impl Function {
    /// The expression that is evaluated once per record.
    fn input(&self) -> Option<&Expr> {
        match self {
            Function::Sum(e)
            | Function::Min(e)
            | Function::Max(e)
            | Function::Avg(e)
            | Function::First(e)
            | Function::Last(e)
            | Function::Collect(e, _)
            | Function::Top(e, _)
            | Function::Distinct(e)
            | Function::ApproxDistinct(e) => Some(e),
            Function::Count | Function::Reduce(..) | Function::Fold { .. } => None,
        }
    }

    fn init(&self) -> Part {
        match self {
            Function::Count => Part::Count(0),
            Function::Sum(_) => Part::Sum(Number::Whole(0)),
            Function::Avg(_) => Part::Mean { sum: Number::Whole(0), count: 0 },
            Function::Collect(..) | Function::Top(..) => Part::list(),
            Function::Distinct(_) => Part::set(),
            Function::ApproxDistinct(_) => Part::Sketch(Box::new(Sketch::new())),
            Function::Fold { init, .. } => Part::Value((!init.is_null()).then(|| Arc::clone(init))),
            Function::Min(_)
            | Function::Max(_)
            | Function::First(_)
            | Function::Last(_)
            | Function::Reduce(..) => Part::Value(None),
        }
    }

    /// Whether this function takes such a value; it always takes `null`.
    fn takes(&self, json: &Json) -> Result<(), &'static str> {
        match self {
            _ if json.is_null() => Ok(()),
            Function::Sum(_) | Function::Avg(_) if !json.is_number() => Err("not a number"),
            Function::Sum(_) | Function::Avg(_) if Number::of(json).is_none() => {
                Err("which does not fit into 64 bits with its sign")
            }
            Function::Min(_) | Function::Max(_) | Function::Top(..)
                if !(json.is_number() || json.is_string()) =>
            {
                Err("neither a number nor a text")
            }
            _ => Ok(()),
        }
    }

    /// The new value of a function whose step is an expression.
    fn step(&self, part: Option<&Part>, record: &Record) -> Result<Option<Json>, EvalError> {
        let scope = Scope::of(record);
        match self {
            Function::Reduce(step, _) => match part {
                Some(Part::Value(Some(acc))) => step.eval(&scope.with(&[("acc", acc)])).map(Some),
                _ => record.value.json().map(|json| Some((*json).clone())).map_err(EvalError::from),
            },
            Function::Fold { init, step, .. } => {
                let acc = match part {
                    Some(Part::Value(Some(acc))) => acc,
                    _ => init,
                };
                step.eval(&scope.with(&[("acc", acc)])).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Adds one value; the number of values left out because the list is full.
    fn add(&self, part: &mut Part, input: &Json, step: Option<Json>) -> u64 {
        if let Some(next) = step {
            *part = Part::Value((!next.is_null()).then(|| Arc::new(next)));
            return 0;
        }
        match (self, part) {
            (Function::Count, Part::Count(n)) => *n += 1,
            _ if input.is_null() => {}
            (_, Part::Sum(sum)) => *sum = sum.plus(Number::of(input).unwrap_or(Number::Whole(0))),
            (_, Part::Mean { sum, count }) => {
                *sum = sum.plus(Number::of(input).unwrap_or(Number::Whole(0)));
                *count += 1;
            }
            (function, Part::Value(value)) => {
                let better = match (function, &value) {
                    (_, None) | (Function::Last(_), _) => true,
                    (Function::Min(_), Some(old)) => compare(input, old).is_lt(),
                    (Function::Max(_), Some(old)) => compare(input, old).is_gt(),
                    _ => false,
                };
                if better {
                    *value = Some(Arc::new(input.clone()));
                }
            }
            (Function::Top(_, n), Part::List { items, bytes }) => {
                let at = items.partition_point(|item| compare(item, input).is_ge());
                if at < *n {
                    *bytes += size(input);
                    items.insert(at, input.clone());
                    if items.len() > *n {
                        *bytes -= items.pop().as_ref().map_or(0, size);
                    }
                }
            }
            (Function::Collect(_, max), Part::List { items, bytes }) => {
                if items.len() >= *max {
                    return 1;
                }
                *bytes += size(input);
                items.push(input.clone());
            }
            (_, Part::Set { items, bytes }) => {
                let text = canonical(input);
                let len = text.len() + SET_ITEM_BYTES;
                if items.insert(text) {
                    *bytes += len;
                }
            }
            (_, Part::Sketch(sketch)) => sketch.add(&canonical(input)),
            (_, Part::Count(_) | Part::List { .. }) => {}
        }
        0
    }

    /// Two parts as one, the left one earlier, and the number of values left out. A left part of `None` is an empty
    /// one.
    fn merged(&self, left: Option<Part>, right: &Part, record: &Record) -> Result<(Part, u64), EvalError> {
        let mut out = 0;
        let json = |value: &Option<Arc<Json>>| value.clone().unwrap_or_else(|| Arc::new(Json::Null));
        let value = |json: Json| Part::Value((!json.is_null()).then(|| Arc::new(json)));
        let nothing = Value::Null;
        let part = match (self, left, right) {
            (Function::Fold { init, merge: Some(merge), .. }, left, Part::Value(right)) => {
                let left = match &left {
                    Some(Part::Value(left)) => json(left),
                    _ => Arc::clone(init),
                };
                let scope = Scope { value: &nothing, window: None, ..Scope::of(record) };
                value(merge.eval(&scope.with(&[("left", &left), ("right", &json(right))]))?)
            }
            (_, None, right) => right.clone(),
            (Function::Reduce(step, _), Some(Part::Value(Some(left))), Part::Value(Some(right))) => {
                let later = Value::Json(Arc::clone(right));
                let scope = Scope { value: &later, window: None, ..Scope::of(record) };
                value(step.eval(&scope.with(&[("acc", &left)]))?)
            }
            (_, Some(Part::Count(a)), Part::Count(b)) => Part::Count(a + b),
            (_, Some(Part::Sum(a)), Part::Sum(b)) => Part::Sum(a.plus(*b)),
            (_, Some(Part::Mean { sum, count }), Part::Mean { sum: more, count: n }) => {
                Part::Mean { sum: sum.plus(*more), count: count + n }
            }
            (_, Some(mut left), Part::Value(Some(right))) => {
                self.add(&mut left, right, None);
                left
            }
            (_, Some(mut left), Part::List { items, .. }) => {
                out = items.iter().map(|item| self.add(&mut left, item, None)).sum();
                left
            }
            (_, Some(Part::Set { mut items, mut bytes }), Part::Set { items: more, .. }) => {
                for item in more {
                    if items.insert(item.clone()) {
                        bytes += item.len() + SET_ITEM_BYTES;
                    }
                }
                Part::Set { items, bytes }
            }
            (_, Some(Part::Sketch(mut left)), Part::Sketch(right)) => {
                left.merge(right);
                Part::Sketch(left)
            }
            (_, Some(left), _) => left,
        };
        Ok((part, out))
    }
}

/// The aggregate functions of a node, and how its result is made of theirs.
pub(super) struct Plan {
    by: Option<Expr>,
    pub(super) functions: Vec<Function>,
    /// Names of the fields; `None` for a single result without a name.
    names: Option<Vec<String>>,
    /// Whether several expressions read the value: then it is parsed once for all of them.
    parse_first: bool,
}

/// Why a record cannot be added.
pub(super) enum Unfit {
    Expression(EvalError),
    Full(String),
}

impl From<EvalError> for Unfit {
    fn from(error: EvalError) -> Self {
        Unfit::Expression(error)
    }
}

impl Unfit {
    pub(super) fn reject(self, record: Record) -> OperatorError {
        match self {
            Unfit::Expression(e) => OperatorError::expression(record, &e),
            Unfit::Full(detail) => OperatorError::reject(record, Reason::Full, detail),
        }
    }
}

impl Plan {
    /// `overlapping`: one record may belong to several windows.
    pub(super) fn new(config: &AggregateConfig, overlapping: bool) -> Plan {
        let (functions, names) = match &config.fields {
            Some(fields) => {
                let (names, functions) = fields.0.iter().map(|(n, f)| (n.clone(), of_field(f))).unzip();
                (functions, Some(names))
            }
            None => (of_config(config).into_iter().collect::<Vec<_>>(), None),
        };
        let reads = |expr: &&Expr| !expr.is_key() && expr.text().trim() != "timestamp";
        let once = functions.iter().filter_map(Function::input).chain(&config.by).filter(reads).count();
        let stepping = functions.iter().any(|f| matches!(f, Function::Reduce(..) | Function::Fold { .. }));
        let parse_first = once + usize::from(stepping) > 1 || (stepping && overlapping);
        Plan { by: config.by.clone(), functions, names, parse_first }
    }

    /// Parses the value, if several expressions read it.
    pub(super) fn parse(&self, record: &mut Record) {
        if self.parse_first
            && matches!(record.value, Value::Bytes(_))
            && let Ok(json) = record.value.json()
        {
            record.value = Value::Json(json);
        }
    }

    /// Whether records are grouped by their own key.
    pub(super) fn groups_by_key(&self) -> bool {
        self.by.as_ref().is_none_or(Expr::is_key)
    }

    /// The key that the record is grouped by; `None` if it has none.
    pub(super) fn key(&self, record: &Record) -> Result<Option<Bytes>, EvalError> {
        match &self.by {
            Some(by) if !by.is_key() => by.eval(&Scope::of(record)).map(|json| key_text(&json)),
            _ => Ok(record.key.clone()),
        }
    }

    /// Evaluates what does not depend on the window: one value for each function.
    pub(super) fn inputs(&self, record: &Record, inputs: &mut Vec<Json>) -> Result<(), Unfit> {
        inputs.clear();
        for function in &self.functions {
            let json = match function.input() {
                Some(expr) => {
                    let json = expr.eval(&Scope::of(record))?;
                    if let Err(what) = function.takes(&json) {
                        return Err(
                            EvalError::Failed(format!("`{}` gave {json}, {what}", expr.text())).into()
                        );
                    }
                    json
                }
                None => Json::Null,
            };
            inputs.push(json);
        }
        Ok(())
    }

    pub(super) fn init(&self) -> Acc {
        match (&self.names, self.functions.as_slice()) {
            (None, [function]) => Acc::One(function.init()),
            (_, functions) => Acc::Many(functions.iter().map(Function::init).collect()),
        }
    }

    /// The new value for `apply` if an expression makes it from the old one; also checks that there is room for it.
    pub(super) fn step(
        &self,
        acc: Option<&Acc>,
        record: &Record,
        inputs: &[Json],
    ) -> Result<Option<Json>, Unfit> {
        if let Some(acc) = acc {
            for (part, input) in acc.parts().iter().zip(inputs) {
                if part.bytes() > 0 && part.bytes() + size(input) > PART_BYTES_MAX {
                    return Err(full());
                }
                if let (Part::Sum(sum) | Part::Mean { sum, .. }, Some(more)) = (part, Number::of(input))
                    && !sum.fits(more)
                {
                    return Err(too_large());
                }
            }
        }
        let [function] = self.functions.as_slice() else { return Ok(None) };
        let step = function.step(acc.and_then(|a| a.parts().first()), record)?;
        match step {
            Some(json) if size(&json) > PART_BYTES_MAX => Err(full()),
            step => Ok(step),
        }
    }

    /// Adds a record; the number of values left out.
    pub(super) fn apply(&self, acc: &mut Acc, inputs: &[Json], step: Option<Json>) -> u64 {
        let mut step = step;
        let parts = acc.parts_mut().iter_mut().zip(inputs).zip(&self.functions);
        parts.map(|((part, input), function)| function.add(part, input, step.take())).sum()
    }

    /// Two sessions' parts as one, and the number of values left out.
    pub(super) fn merged(
        &self,
        left: Option<Acc>,
        right: &Acc,
        record: &Record,
    ) -> Result<(Acc, u64), Unfit> {
        let mut left: Vec<Option<Part>> = match left {
            None => vec![None; self.functions.len()],
            Some(Acc::One(part)) => vec![Some(part)],
            Some(Acc::Many(parts)) => parts.into_iter().map(Some).collect(),
        };
        let mut parts = Vec::with_capacity(left.len());
        let mut out = 0;
        for ((left, right), function) in left.iter_mut().zip(right.parts()).zip(&self.functions) {
            if let Some(Part::Sum(a) | Part::Mean { sum: a, .. }) = left
                && let Part::Sum(b) | Part::Mean { sum: b, .. } = right
                && !a.fits(*b)
            {
                return Err(too_large());
            }
            let (part, n) = function.merged(left.take(), right, record)?;
            let grown = match &part {
                Part::Value(Some(json)) => size(json),
                part => part.bytes(),
            };
            if grown > PART_BYTES_MAX {
                return Err(full());
            }
            out += n;
            parts.push(part);
        }
        let acc = match (&self.names, parts.pop()) {
            (None, Some(part)) => Acc::One(part),
            (_, last) => {
                parts.extend(last);
                Acc::Many(parts)
            }
        };
        Ok((acc, out))
    }

    /// Whether a session merged with an empty one stays as it is. An expression may make something else of it.
    pub(super) fn merges_plainly(&self) -> bool {
        !matches!(self.functions.as_slice(), [Function::Fold { .. }])
    }

    /// The value of a result record.
    pub(super) fn result(&self, acc: &Acc) -> Value {
        if let Some(value) = acc.single() {
            return value;
        }
        let names = self.names.iter().flatten();
        let fields = names.zip(acc.parts()).map(|(name, part)| (name.clone(), part.result()));
        Value::Json(Arc::new(Json::Object(fields.collect())))
    }
}

pub(super) fn full() -> Unfit {
    Unfit::Full(format!("the aggregate would be larger than {} MiB", PART_BYTES_MAX >> 20))
}

pub(super) fn too_large() -> Unfit {
    let what = "the sum would be beyond the greatest number there is: 64 bits with a sign if it is whole, else 1.8e308";
    EvalError::Failed(what.into()).into()
}

fn limit(n: Option<u32>, default: u32) -> usize {
    usize::try_from(n.unwrap_or(default)).unwrap_or(usize::MAX)
}

fn of_config(c: &AggregateConfig) -> Option<Function> {
    let one = |expr: &Option<Expr>, make: fn(Expr) -> Function| expr.clone().map(make);
    c.count
        .map(|_| Function::Count)
        .or_else(|| one(&c.sum, Function::Sum))
        .or_else(|| one(&c.min, Function::Min))
        .or_else(|| one(&c.max, Function::Max))
        .or_else(|| one(&c.avg, Function::Avg))
        .or_else(|| one(&c.first, Function::First))
        .or_else(|| one(&c.last, Function::Last))
        .or_else(|| one(&c.distinct, Function::Distinct))
        .or_else(|| one(&c.approx_distinct, Function::ApproxDistinct))
        .or_else(|| c.reduce.clone().map(|step| Function::Reduce(step, c.subtract.clone())))
        .or_else(|| c.collect.as_ref().map(|c| Function::Collect(c.of.clone(), limit(Some(c.max), 0))))
        .or_else(|| c.top.as_ref().map(|t| Function::Top(t.of.clone(), limit(Some(t.n), 0))))
        .or_else(|| {
            c.fold.as_ref().map(|f| Function::Fold {
                init: Arc::new(f.init.clone()),
                step: f.step.clone(),
                merge: f.merge.clone(),
                subtract: f.subtract.clone(),
            })
        })
}

fn of_field(field: &FieldConfig) -> Function {
    let Some(of) = field.of.clone() else { return Function::Count };
    match field.function {
        FieldFunction::Count => Function::Count,
        FieldFunction::Sum => Function::Sum(of),
        FieldFunction::Min => Function::Min(of),
        FieldFunction::Max => Function::Max(of),
        FieldFunction::Avg => Function::Avg(of),
        FieldFunction::First => Function::First(of),
        FieldFunction::Last => Function::Last(of),
        FieldFunction::Distinct => Function::Distinct(of),
        FieldFunction::ApproxDistinct => Function::ApproxDistinct(of),
        FieldFunction::Collect => Function::Collect(of, limit(field.limit, CollectConfig::default_max())),
        FieldFunction::Top => Function::Top(of, limit(field.limit, 1)),
    }
}
