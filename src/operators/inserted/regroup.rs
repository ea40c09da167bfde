//! Sends a table's changes to the groups of an aggregate with `by` over that table. The topology puts this node in
//! front of the aggregate.
//!
//! A change takes the row's old value out of the group it was in, and adds the new value to its group. Where both are
//! the same group, one record carries both; otherwise there are two records, the one that takes away first (as Kafka
//! Streams' KTableRepartitionMap does). A row whose group is null belongs to none. The expression sees the row's value,
//! key and window, but no headers.
//!
//! A row whose group cannot be computed is refused and is in no group, so nothing is taken out of one for it later.

use bytes::Bytes;

use super::super::settings::{Exprs, Sends};
use super::super::{Cx, NodePlan, Operator, OperatorError, OperatorSettings};
use crate::model::{Change, EvalError, Expr, Reason, Record, Scope, Value, key_text};

/// The expression of a row's group.
#[derive(Clone, Debug)]
pub struct RegroupConfig(pub Expr);

/// The operator.
pub struct Regroup {
    by: Expr,
}

impl Regroup {
    /// A node that groups by this expression.
    #[must_use]
    pub fn new(config: &RegroupConfig) -> Regroup {
        Regroup { by: config.0.clone() }
    }

    /// The group of a row; `None` if there is no row or it belongs to no group.
    fn group(&self, record: &Record, value: &Value) -> Result<Option<Bytes>, EvalError> {
        if value.is_null() {
            return Ok(None);
        }
        self.by.eval(&Scope { value, ..Scope::of(record) }).map(|key| key_text(&key))
    }
}

impl Operator for Regroup {
    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let change = record.change.take().map_or_else(Change::first, |change| *change);
        if !change.latest {
            cx.drop(Reason::Late);
            return Ok(());
        }
        let from = self.group(&record, &change.old).unwrap_or_default();
        let to = self.group(&record, &record.value);
        if let Ok(Some(group)) = &to
            && from.as_ref() == Some(group)
        {
            cx.forward(Record { key: from, change: Some(Box::new(change)), ..record });
            return Ok(());
        }
        if from.is_some() {
            let headers = record.headers.clone();
            let (ts, window, origin) = (record.ts, record.window, record.origin);
            let change = Some(Box::new(change));
            cx.forward(Record { key: from, value: Value::Null, ts, window, headers, origin, change });
        }
        match to {
            Ok(None) if record.value.is_null() => {}
            Ok(None) => cx.drop(Reason::NullKey),
            Ok(key) => cx.forward(Record { key, change: Some(Box::new(Change::first())), ..record }),
            Err(e) => return Err(OperatorError::expression(record, &e)),
        }
        Ok(())
    }
}

impl OperatorSettings for RegroupConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(Regroup::new(self))
    }
    fn changes_key(&self, _: &NodePlan) -> bool {
        true
    }
    fn takes_changes(&self, _: &NodePlan) -> bool {
        true
    }
    fn sends(&self, _: &NodePlan) -> Sends {
        Sends::Stream
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        vec![(&mut self.0, &[])]
    }
    fn label(&self, _kind: &'static str) -> String {
        format!("group by {}", self.0.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Json, Timestamp};
    use crate::operators::{Effects, Emit, Tally};
    use serde_json::json;

    /// What comes out of a change as `group old -> new`, then what was dropped or refused.
    fn run(old: &Json, new: &Json, latest: bool) -> Vec<String> {
        let mut op = Regroup::new(&RegroupConfig(Expr::native("by", |scope| {
            let json = scope.value.json()?;
            if json["by"] == "bad" { Err(EvalError::Failed("bad".into())) } else { Ok(json["by"].clone()) }
        })));
        let change = Some(Box::new(Change { old: Value::from(old.clone()), latest }));
        let record = Record { change, ..Record::new("row", Value::from(new.clone()), Timestamp(5)) };
        let (mut effects, mut tally) = (Effects::default(), Tally::default());
        let at = Timestamp(0);
        let result = op.on_record(record, &mut Cx::new(at, at, 0, &mut [], &[], &mut effects, &mut tally));
        let show = |emit: Emit| match emit {
            Emit::Record { record, .. } => {
                let change = record.change.expect("a change");
                assert!(change.latest && record.ts == Timestamp(5));
                let key = String::from_utf8_lossy(&record.key.expect("a key")).into_owned();
                format!("{key} {} -> {}", change.old.show()["n"], record.value.show()["n"])
            }
            Emit::Watermark(_) => panic!("no watermark"),
        };
        let mut out: Vec<String> = effects.emits.into_iter().map(show).collect();
        out.extend(effects.drops.into_iter().map(|reason| reason.name().to_owned()));
        if let Err(OperatorError::Reject(reject)) = result {
            out.push(format!("refused {}", reject.record.value.show()["n"]));
        }
        out
    }

    #[test]
    fn both_halves_of_a_change_find_their_groups() {
        let row = |by: &str, n: u32| json!({ "by": by, "n": n });
        let lone = |n: u32| json!({ "n": n });
        let check =
            |old: Json, new: Json, want: &[&str]| assert_eq!(run(&old, &new, true), want, "{old} {new}");
        check(Json::Null, row("a", 1), &["a null -> 1"]);
        check(row("a", 1), row("a", 2), &["a 1 -> 2"]);
        check(row("a", 1), row("b", 2), &["a 1 -> null", "b null -> 2"]);
        check(row("a", 1), Json::Null, &["a 1 -> null"]);
        check(Json::Null, Json::Null, &[]);
        check(row("a", 1), lone(2), &["a 1 -> null", "null_key"]);
        check(lone(1), row("a", 2), &["a null -> 2"]);
        check(lone(1), Json::Null, &[]);
        check(row("a", 1), row("bad", 2), &["a 1 -> null", "refused 2"]);
        check(row("bad", 1), row("a", 2), &["a null -> 2"]);
        assert_eq!(run(&row("a", 1), &row("b", 2), false), ["late"], "the past changed, not the row");
    }
}
