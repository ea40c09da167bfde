//! An aggregate over a table: one row per group, of the table's rows as they are now.
//!
//! A change of a row takes its old value out of the result, then adds the new one, and sends the result once. If the
//! two belong to different groups, each group gets its half (`operators/inserted/regroup.rs`). The rules are those of
//! Kafka Streams' KTableAggregate and KTableReduce: a group that has lost its last row keeps its result (a count of 0);
//! the result's timestamp is the highest of all rows added or taken out, so it never goes back; taking a row out of a
//! group without a result sends a tombstone. Only functions that can take values back are allowed.
//!
//! A value that was never added (an expression failed on it, and the record was refused) is not taken out later. If
//! `step` or `subtract` fails, the record is refused, but the other half of the change still counts.
//!
//! Sums of whole numbers are exact while they fit 64 bits; a float that is taken back leaves its rounding behind.

use std::sync::Arc;

use super::Grouping;
use super::accumulator::{Acc, Number, PART_BYTES_MAX, Part, Row, size};
use super::config::AggregateConfig;
use super::fields::FieldFunction;
use super::functions::{Function, Plan, Unfit, full, too_large};
use super::rows::{Fail, Incoming, Rows};
use super::unwindowed::Plain;
use crate::model::{Change, EvalError, Expr, Json, Problem, Reason, Record, Scope, Value};
use crate::operators::{Cx, OperatorError};
use crate::state::StateError;

/// An aggregate over the rows of a table.
pub(super) struct OverTable {
    /// Where the rows are.
    pub(super) plain: Plain,
}

impl OverTable {
    pub(super) fn new() -> OverTable {
        OverTable { plain: Plain::new() }
    }
}

impl Grouping for OverTable {
    fn rows(&self) -> &Rows {
        self.plain.rows()
    }

    fn rows_mut(&mut self) -> &mut Rows {
        self.plain.rows_mut()
    }

    fn row_keys(&self, key: &[u8]) -> Vec<Vec<u8>> {
        self.plain.row_keys(key)
    }

    fn warm(&self, records: &[Record]) {
        self.plain.warm(records);
    }

    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        self.plain.open(cx)
    }

    fn on_record(&mut self, incoming: Incoming<'_>, cx: &mut Cx<'_>) -> Result<(), Fail> {
        self.plain.on_record(incoming, cx)
    }

    fn take(
        &mut self,
        plan: &Plan,
        mut record: Record,
        _: &mut Vec<Json>,
        cx: &mut Cx<'_>,
    ) -> Result<(), OperatorError> {
        let change = record.change.take().map_or_else(Change::first, |change| *change);
        if !change.latest {
            cx.drop(Reason::Late);
            return Ok(());
        }
        let Some(key) = record.key.clone() else {
            cx.drop(Reason::NullKey);
            return Ok(());
        };
        let mut before = Record { value: change.old, ..record.clone() };
        let mut failed: Option<Unfit> = None;
        let taken_out = inputs(plan, &mut before).unwrap_or_default();
        let put_in = inputs(plan, &mut record).unwrap_or_else(|e| {
            failed = Some(e);
            None
        });
        if taken_out.is_some() || put_in.is_some() {
            let rows = &mut self.plain.rows;
            let id = rows.find(cx.store(0), &key)?;
            let old = id.map(|id| rows.cells.value(id).clone());
            let (was_there, ts) =
                (old.is_some(), old.as_ref().map_or(record.ts.0, |row| row.ts.max(record.ts.0)));
            let mut acc = old.map(|row| row.acc);
            if let (Some(inputs), Some(now)) = (&taken_out, &mut acc)
                && let Err(e) = plan.subtract(now, &before, inputs)
            {
                failed.get_or_insert(e);
            }
            acc = acc.filter(|acc| !acc.is_nothing());
            if let Some(inputs) = &put_in {
                let mut now = acc.clone().unwrap_or_else(|| plan.init());
                match plan.step(Some(&now), &record, inputs) {
                    Ok(step) => {
                        // No function over a table has a bound, so no value is left out.
                        plan.apply(&mut now, inputs, step);
                        acc = Some(now);
                    }
                    Err(e) => {
                        failed.get_or_insert(e);
                    }
                }
            }
            acc = acc.filter(|acc| !acc.is_nothing());
            let value = acc.as_ref().map_or(Value::Null, |acc| plan.result(acc));
            match (id, acc) {
                (Some(id), Some(acc)) => *rows.cells.value_mut(id) = Row { ts, acc },
                (Some(id), None) => {
                    rows.cells.remove(cx.store(0), id);
                }
                (None, Some(acc)) => {
                    rows.cells.insert(&key, Row { ts, acc });
                }
                (None, None) => {}
            }
            if was_there || taken_out.is_some() || failed.is_none() {
                let incoming = Incoming { plan, key: &key, record: &record, inputs: &[] };
                cx.forward(incoming.result(value, ts, None));
            }
        }
        failed.map_or(Ok(()), |e| Err(e.reject(record)))
    }
}

/// One value for each function; `None` if there is no row.
fn inputs(plan: &Plan, record: &mut Record) -> Result<Option<Vec<Json>>, Unfit> {
    if record.value.is_null() {
        return Ok(None);
    }
    plan.parse(record);
    let mut inputs = Vec::new();
    plan.inputs(record, &mut inputs).map(|()| Some(inputs))
}

impl Function {
    /// The result after taking a row out, if an expression makes it.
    fn unstep(&self, part: &Part, before: &Record) -> Result<Option<Json>, EvalError> {
        let (subtract, acc) = match (self, part) {
            (
                Function::Reduce(_, Some(subtract)) | Function::Fold { subtract: Some(subtract), .. },
                Part::Value(Some(acc)),
            ) => (subtract, acc),
            _ => return Ok(None),
        };
        subtract.eval(&Scope::of(before).with(&[("acc", acc)])).map(Some)
    }

    /// Takes one value out.
    fn remove(&self, part: &mut Part, input: &Json) {
        match (self, part) {
            (Function::Count, Part::Count(n)) => *n -= 1,
            _ if input.is_null() => {}
            (_, Part::Sum(sum)) => *sum = sum.minus(Number::of(input).unwrap_or(Number::Whole(0))),
            (_, Part::Mean { sum, count }) => {
                *sum = sum.minus(Number::of(input).unwrap_or(Number::Whole(0)));
                *count -= 1;
            }
            // The topology's check refuses these functions over a table.
            _ => {}
        }
    }
}

impl Plan {
    /// Takes a row's old value out; on an error nothing has changed.
    fn subtract(&self, acc: &mut Acc, before: &Record, inputs: &[Json]) -> Result<(), Unfit> {
        if let ([function], [part]) = (self.functions.as_slice(), acc.parts_mut())
            && let Some(json) = function.unstep(part, before)?
        {
            if size(&json) > PART_BYTES_MAX {
                return Err(full());
            }
            *part = Part::Value((!json.is_null()).then(|| Arc::new(json)));
            return Ok(());
        }
        for (part, input) in acc.parts().iter().zip(inputs) {
            if let (Part::Sum(sum) | Part::Mean { sum, .. }, Some(less)) = (part, Number::of(input))
                && !sum.fits_without(less)
            {
                return Err(too_large());
            }
        }
        for ((part, input), function) in acc.parts_mut().iter_mut().zip(inputs).zip(&self.functions) {
            function.remove(part, input);
        }
        Ok(())
    }
}

/// What to write instead of a function that cannot take values back.
const INSTEAD: &str = "over a table there are `count`, `sum`, `avg`, `reduce` with `subtract` and `fold` with `subtract`; or \
                       aggregate its changes as records, read through a node such as `filter: \"true\"`";

impl AggregateConfig {
    /// What cannot be used over a table: field, message, help.
    #[must_use]
    pub fn check_over_table(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        let mut problem = |field: &str, message: String, help: &str| {
            problems.push(Problem { code: "graph::aggregate", ..Problem::setting(field, message, help) });
        };
        if self.window.is_some() {
            problem(
                "window",
                "a table's rows are not events, so they have no windows".into(),
                "remove `window`; or aggregate the table's changes as records, read through a node such as `filter: \"true\"`",
            );
        }
        for name in self.chosen() {
            if ["min", "max", "first", "last", "collect", "top", "distinct", "approx_distinct"]
                .contains(&name)
            {
                problem(name, format!("`{name}` cannot take a row back"), INSTEAD);
            }
        }
        for (name, field) in self.fields.iter().flat_map(|fields| &fields.0) {
            let takes_back =
                matches!(field.function, FieldFunction::Count | FieldFunction::Sum | FieldFunction::Avg);
            if !takes_back {
                let message = format!("`{}` cannot take a row back", field.function.name());
                problem(&format!("fields.{name}"), message, INSTEAD);
            }
        }
        if self.reduce.is_some() && self.subtract.is_none() {
            problem(
                "reduce",
                "over a table it needs a `subtract`".into(),
                "add `subtract: EXPRESSION` beside `reduce`, which gives the result without the old row from `acc` and `.`",
            );
        }
        if self.fold.as_ref().is_some_and(|fold| fold.subtract.is_none()) {
            problem(
                "fold",
                "over a table it needs a `subtract`".into(),
                "add `subtract: EXPRESSION`, which gives the result without the old row from `acc` and `.`",
            );
        }
        let fields = self
            .fields
            .iter()
            .flat_map(|fields| &fields.0)
            .filter_map(|(name, field)| field.of.as_ref().map(|of| (format!("fields.{name}"), of)));
        let own = [("by", &self.by), ("sum", &self.sum), ("avg", &self.avg)];
        let own = own.into_iter().filter_map(|(name, expr)| Some((name.to_owned(), expr.as_ref()?)));
        for (field, expr) in own.chain(fields) {
            if let Some(name) = around(expr) {
                problem(
                    &field,
                    format!("it reads `{name}`, and of a row that is taken back only the value is known"),
                    "write an expression over the row's value and `key`",
                );
            }
        }
        problems
    }
}

/// The first name that an expression reads besides the row's value and key.
fn around(expr: &Expr) -> Option<&'static str> {
    let mut quote: Option<char> = None;
    let (mut word, mut is_field, mut escaped) = (String::new(), false, false);
    let mut last = ' ';
    // A last character that ends the last word.
    for c in expr.text().chars().chain([' ']) {
        if let Some(end) = quote {
            if c == end && !escaped {
                quote = None;
            }
            escaped = c == '\\' && !escaped;
            last = c;
            continue;
        }
        if c.is_alphanumeric() || c == '_' {
            if word.is_empty() {
                is_field = last == '.';
            }
            word.push(c);
        } else {
            let name = ["timestamp", "headers"].into_iter().find(|name| *name == word);
            if name.is_some() && !is_field && c != '(' && c != '!' {
                return name;
            }
            word.clear();
            if c == '"' || c == '\'' {
                quote = Some(c);
            }
        }
        last = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::rig;
    use super::super::tests::rig::Rig;
    use super::super::{AggregateConfig, build};
    use super::*;
    use crate::model::Timestamp;
    use crate::operators::OperatorSettings;

    fn config(json: Json) -> AggregateConfig {
        rig::config(json).unwrap()
    }

    fn over(json: Json) -> Rig {
        let config = config(json);
        assert_eq!((config.check(), config.check_over_table()), (vec![], vec![]));
        Rig::new(move || build(&config, true))
    }

    fn change(group: &str, old: Json, new: Json, ts: i64) -> Record {
        let change = Change { old: Value::from(old), latest: true };
        Record {
            change: Some(Box::new(change)),
            ..Record::new(group.to_owned(), Value::from(new), Timestamp(ts))
        }
    }

    /// Changes of group `g`: old, new, timestamp; and the result that each sends.
    fn check(settings: Json, rows: &[(Json, Json, i64, Json, i64)]) {
        let mut n = over(settings.clone());
        for (step, (old, new, ts, want, want_ts)) in rows.iter().enumerate() {
            let out = n.record(change("g", old.clone(), new.clone(), *ts)).unwrap();
            let got: Vec<_> = rig::show(&out).into_iter().map(|(_, _, value, ts)| (value, ts)).collect();
            assert_eq!(got, [(want.clone(), *want_ts)], "{settings} step {step}");
            if step % 2 == 0 {
                n.restart();
            }
        }
    }

    #[test]
    fn rows_are_taken_back_before_new_ones_come_in() {
        let none = || Json::Null;
        let v = |n: i64| json!({ "v": n });
        check(
            json!({ "count": {} }),
            &[
                (none(), v(1), 10, json!(1), 10),
                (none(), v(2), 5, json!(2), 10),
                (v(1), v(3), 7, json!(2), 10),
                (v(3), none(), 20, json!(1), 20),
                (v(2), none(), 11, json!(0), 20),
                (none(), v(9), 12, json!(1), 20),
            ],
        );
        check(
            json!({ "sum": ".v" }),
            &[
                (none(), v(1), 1, json!(1), 1),
                (none(), json!({ "v": null }), 2, json!(1), 2),
                (json!({ "v": null }), v(4), 3, json!(5), 3),
                (v(1), v(2), 4, json!(6), 4),
                (v(4), none(), 5, json!(2), 5),
                (v(2), json!({ "v": 0.5 }), 6, json!(0.5), 6),
            ],
        );
        check(
            json!({ "fields": { "n": "count()", "s": "sum(.v)", "m": "avg(.v)" } }),
            &[
                (none(), v(1), 1, json!({ "n": 1, "s": 1, "m": 1.0 }), 1),
                (none(), v(4), 1, json!({ "n": 2, "s": 5, "m": 2.5 }), 1),
                (v(1), none(), 1, json!({ "n": 1, "s": 4, "m": 4.0 }), 1),
                (v(4), none(), 1, json!({ "n": 0, "s": 0, "m": null }), 1),
            ],
        );
    }

    /// Operators as Rust functions: VRL is on a floor above.
    fn arithmetic(config: &mut AggregateConfig) {
        for (expr, _) in config.exprs_mut() {
            let sign = match expr.text() {
                "plus" => 1,
                "minus" => -1,
                _ => continue,
            };
            *expr = Expr::native(expr.text().to_owned(), move |scope| {
                let number = |json: &Json| json.as_i64().ok_or_else(|| EvalError::Failed(format!("{json}")));
                let value = scope.value.json()?;
                let acc = scope.vars.iter().find(|(name, _)| *name == "acc").expect("acc").1;
                let sum = number(acc)? + sign * number(&value)?;
                Ok(if sum == 0 { Json::Null } else { json!(sum) })
            });
        }
    }

    #[test]
    fn expressions_subtract_and_null_is_no_row() {
        for settings in [
            json!({ "reduce": "plus", "subtract": "minus" }),
            json!({ "fold": { "init": 0, "step": "plus", "subtract": "minus" } }),
        ] {
            let mut config = config(settings.clone());
            arithmetic(&mut config);
            let mut n = Rig::new(move || build(&config, true));
            let mut step = |old: Json, new: Json| {
                let out = n.record(change("g", old, new, 1));
                out.map(|out| rig::show(&out).into_iter().map(|(_, _, value, _)| value).collect::<Vec<_>>())
            };
            let none = || Json::Null;
            assert_eq!(step(none(), json!(3)), Ok(vec![json!(3)]), "{settings}");
            assert_eq!(step(none(), json!(4)), Ok(vec![json!(7)]));
            assert_eq!(step(json!(3), json!(5)), Ok(vec![json!(9)]));
            assert_eq!(step(json!(4), none()), Ok(vec![json!(5)]));
            assert_eq!(step(json!(5), none()), Ok(vec![none()]), "a tombstone");
            assert_eq!(step(json!(5), none()), Ok(vec![none()]), "no row, and still one is taken out");
            assert_eq!(step(none(), none()), Ok(vec![]));
            assert_eq!(step(json!(5), json!(6)), Ok(vec![json!(6)]));
            assert_eq!(n.rows(), 1);
        }
    }

    #[test]
    fn a_value_that_was_refused_is_not_taken_back() {
        let mut n = over(json!({ "sum": ".v" }));
        let (good, bad) = (json!({ "v": 3 }), json!({ "v": "x" }));
        assert_eq!(n.record(change("g", Json::Null, good.clone(), 1)).map(|out| out.len()), Ok(1));
        let refused = n.record(change("g", good.clone(), bad.clone(), 2));
        assert_eq!(refused.map_err(|(reason, _)| reason), Err(Reason::Expression));
        let out = n.record(change("g", bad, good, 3)).unwrap();
        assert_eq!(rig::show(&out)[0].2, json!(3), "3 went out with the refused row, and came in again");
        let late = Record {
            change: Some(Box::new(Change { old: Value::Null, latest: false })),
            ..change("g", Json::Null, json!({ "v": 1 }), 0)
        };
        assert_eq!(n.record(late).map(|out| out.len()), Ok(0));
        assert_eq!(n.dropped(), [Reason::Late]);
    }

    #[test]
    fn what_cannot_be_taken_back_is_named() {
        let check = |settings: Json, want: &[&str]| {
            let config = config(settings);
            let got: Vec<_> = config.check_over_table().into_iter().map(|p| p.field).collect();
            assert_eq!(got, want, "{config:?}");
        };
        check(json!({ "count": {}, "by": ".a" }), &[]);
        check(json!({ "count": {}, "window": { "tumbling": "1m" } }), &["window"]);
        for name in ["min", "max", "first", "last", "distinct", "approx_distinct"] {
            check(json!({ name: ".a" }), &[name]);
        }
        check(json!({ "collect": { "of": ".a" } }), &["collect"]);
        check(json!({ "top": { "of": ".a", "n": 1 } }), &["top"]);
        check(json!({ "reduce": ".a" }), &["reduce"]);
        check(json!({ "fold": { "init": 0, "step": ".a" } }), &["fold"]);
        check(json!({ "fields": { "a": "max(.a)", "b": "sum(timestamp)" } }), &["fields.a", "fields.b"]);
        check(json!({ "sum": "timestamp", "by": "headers.a" }), &["by", "sum"]);
        check(json!({ "sum": ".timestamp", "by": "\"timestamp\"" }), &[]);
        check(json!({ "sum": "to_int(timestamp!(.a)) + .headers.timestamp" }), &[]);
        check(json!({ "sum": "1 + timestamp" }), &["sum"]);
    }
}
