//! `key_by`: gives records another key, from an expression. Value, timestamp, headers and window stay.
//!
//! Records of one new key come from many partitions. This node only sets the key; where a node below needs all records
//! of a key together, the topology writes them to a repartition topic first (`topology/repartition.rs`). A result of
//! null means no key, as in Kafka Streams; nodes below that need a key drop such a record and count it as `null_key`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::settings::Exprs;
use super::{Cx, NodePlan, Operator, OperatorError, OperatorSettings};
use crate::model::{Expr, Problem, Record, Scope, key_text};

/// The expression of the new key: text is taken as it is, anything else as JSON. A record for which it gives null goes on
/// without a key; what needs a key below drops it, or refuses it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct KeyByConfig(pub Expr);

/// An expression that can never give a key. For every operator that takes a key from one.
#[must_use]
pub(super) fn check_key(field: &str, key: &Expr) -> Vec<Problem> {
    if !key.is_always_null() {
        return Vec::new();
    }
    let help = "write what the key is made of, for example `.customer`, or `{ \"a\": .a, \"b\": .b }`";
    vec![Problem::setting(field, "an expression that yields nothing for a key", help)]
}

/// The operator.
pub struct KeyBy {
    key: Expr,
}

impl KeyBy {
    /// A node with that key.
    #[must_use]
    pub fn new(config: &KeyByConfig) -> KeyBy {
        KeyBy { key: config.0.clone() }
    }
}

impl Operator for KeyBy {
    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let key = match self.key.eval(&Scope::of(&record)) {
            Ok(json) => key_text(&json),
            Err(e) => return Err(OperatorError::expression(record, &e)),
        };
        record.key = key;
        cx.forward(record);
        Ok(())
    }
}

impl OperatorSettings for KeyByConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(KeyBy::new(self))
    }
    fn keeps_origin(&self) -> bool {
        true
    }
    fn key_expr(&self) -> Option<String> {
        Some(self.0.text().to_owned())
    }
    fn changes_key(&self, _: &NodePlan) -> bool {
        true
    }
    fn keeps_values(&self) -> bool {
        true
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        vec![(&mut self.0, &[])]
    }
    fn check(&self) -> Vec<Problem> {
        check_key("", &self.0)
    }
    fn label(&self, kind: &'static str) -> String {
        format!("{kind} {}", self.0.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Headers, Origin, Reason, Timestamp, Value, Window};
    use crate::operators::{Effects, Emit, Tally};
    use serde_json::json;

    fn run(key: &str, record: Record) -> Result<Record, (Reason, String)> {
        let mut op = KeyBy::new(&KeyByConfig(Expr::new(key, None)));
        let (mut effects, mut tally) = (Effects::default(), Tally::default());
        let at = Timestamp(5);
        let result = op.on_record(record, &mut Cx::new(at, at, 0, &mut [], &[], &mut effects, &mut tally));
        match (result, effects.emits.pop()) {
            (Ok(()), Some(Emit::Record { record, port: 0, stream })) => {
                assert_eq!(stream, record.ts);
                Ok(record)
            }
            (Err(OperatorError::Reject(reject)), None) => Err((reject.reason, reject.detail)),
            (result, emit) => panic!("{result:?} {emit:?}"),
        }
    }

    #[test]
    fn only_the_key_changes() {
        let record = Record {
            window: Some(Window { start: Timestamp(0), end: Timestamp(10) }),
            headers: Headers::default().with("h", "v"),
            origin: Origin { topic: 1, partition: 2, offset: 3 },
            ..Record::new(
                "old",
                Value::from(json!({"s": "x y", "n": 7, "o": {"b": 1, "a": 2}, "e": ""})),
                Timestamp(5),
            )
        };
        for (expr, key) in [
            (".s", "x y"),
            (".n", "7"),
            (".o", r#"{"a":2,"b":1}"#),
            (".e", ""),
            ("key", "old"),
            ("timestamp", "5"),
            ("true", "true"),
        ] {
            assert_eq!(
                run(expr, record.clone()),
                Ok(Record { key: Some(key.into()), ..record.clone() }),
                "{expr}"
            );
        }
    }

    #[test]
    fn a_record_without_the_new_key_has_none() {
        let record = Record::new("k", Value::from(json!({"n": null})), Timestamp(5));
        for expr in [".n", ".missing"] {
            let none = Record { key: None, ..record.clone() };
            assert_eq!(run(expr, record.clone()), Ok(none), "{expr}");
        }
        let tombstone = Record { value: Value::Null, ..record.clone() };
        assert_eq!(run(".n", tombstone.clone()), Ok(Record { key: None, ..tombstone }));
        let no_key = Record { key: None, ..record.clone() };
        assert_eq!(run("key", no_key.clone()), Ok(no_key));
        let no_json = Record { value: Value::Bytes("{".into()), ..record };
        assert_eq!(run(".n", no_json).map_err(|(reason, _)| reason), Err(Reason::NotJson));
    }

    #[test]
    fn what_can_never_give_a_key_is_refused_at_load() {
        let check = |text: &str| KeyByConfig(Expr::new(text, None)).check().len();
        assert_eq!((check("null"), check(" null "), check(".a"), check("key"), check("7")), (1, 1, 0, 0, 0));
    }
}
