//! Makes a record's id its key, on the way to a `dedupe` with `by`: records with equal ids have to come to the same
//! task. The topology puts this node in front of the dedupe.
//!
//! The record's own key travels in a header; the dedupe gives it back ([`restore`]), so the record leaves the dedupe as
//! it came.

use super::super::settings::Exprs;
use super::super::{Cx, NodePlan, Operator, OperatorError, OperatorSettings};
use crate::model::{Expr, KEY_HEADER, Reason, Record, Scope, key_text};

/// The expression of a record's id.
#[derive(Clone, Debug)]
pub struct ByIdConfig(pub Expr);

/// The operator.
pub struct ById {
    id: Expr,
}

impl ById {
    /// A node that makes the result of this expression the key.
    #[must_use]
    pub fn new(config: &ByIdConfig) -> ById {
        ById { id: config.0.clone() }
    }
}

impl Operator for ById {
    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let id = match self.id.eval(&Scope::of(&record)) {
            Ok(id) => key_text(&id),
            Err(e) => return Err(OperatorError::expression(record, &e)),
        };
        if id.is_none() {
            return Err(OperatorError::reject(record, Reason::NullKey, "dedupe needs an id"));
        }
        // A record without a key carries none, even if it had such a header from elsewhere.
        record.headers = match record.key.take() {
            Some(key) => record.headers.with(KEY_HEADER, key),
            None => record.headers.without(KEY_HEADER),
        };
        record.key = id;
        cx.forward(record);
        Ok(())
    }
}

/// Gives a record back the key that it had before [`ById`].
pub(in crate::operators) fn restore(record: &mut Record) {
    record.key = record.headers.get(KEY_HEADER).cloned();
    record.headers = record.headers.without(KEY_HEADER);
}

impl OperatorSettings for ByIdConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(ById::new(self))
    }
    fn changes_key(&self, _: &NodePlan) -> bool {
        true
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        vec![(&mut self.0, &[])]
    }
    fn label(&self, _kind: &'static str) -> String {
        format!("by id {}", self.0.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Headers, Timestamp, Value};
    use crate::operators::{Effects, Emit, Tally};
    use serde_json::json;

    fn run(record: Record) -> Result<Record, (Reason, Box<Record>)> {
        let mut op = ById::new(&ByIdConfig(Expr::new(".id", None)));
        let (mut effects, mut tally) = (Effects::default(), Tally::default());
        let at = Timestamp(5);
        let result = op.on_record(record, &mut Cx::new(at, at, 0, &mut [], &[], &mut effects, &mut tally));
        match (result, effects.emits.pop()) {
            (Ok(()), Some(Emit::Record { record, .. })) => Ok(record),
            (Err(OperatorError::Reject(reject)), None) => Err((reject.reason, Box::new(reject.record))),
            (result, emit) => panic!("{result:?} {emit:?}"),
        }
    }

    #[test]
    fn the_own_key_goes_along_and_comes_back() {
        for key in [Some("own"), Some(""), None] {
            let record = Record {
                key: key.map(Into::into),
                headers: Headers::default().with("h", "v"),
                ..Record::new("", Value::from(json!({ "id": 7 })), Timestamp(5))
            };
            let stale = Record { headers: record.headers.with(KEY_HEADER, "stale"), ..record.clone() };
            for came in [record.clone(), stale] {
                let mut out = run(came).expect("has an id");
                assert_eq!(out.key.as_deref(), Some(&b"7"[..]));
                restore(&mut out);
                assert_eq!(out, record);
            }
        }
    }

    #[test]
    fn a_record_without_an_id_is_refused_as_it_came() {
        for value in [json!({}), json!({ "id": null }), json!(null)] {
            let record = Record::new("k", Value::from(value), Timestamp(5));
            assert_eq!(run(record.clone()), Err((Reason::NullKey, Box::new(record))));
        }
        let bytes = Record::new("k", Value::Bytes("{".into()), Timestamp(5));
        assert_eq!(run(bytes.clone()), Err((Reason::NotJson, Box::new(bytes))));
    }
}
