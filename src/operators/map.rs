//! `map` and `flat_map`: compute new values. Key, timestamp and headers stay.

use schemars::JsonSchema;
use serde::Deserialize;

use super::settings::Exprs;
use super::{Cx, NodePlan, Operator, OperatorError, OperatorSettings};
use crate::expressions::{Kind, Typing, element};
use crate::model::{EvalError, Expr, Json, Problem, Record, Scope, Types, Value};

/// The expression of the new value.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct MapConfig(pub Expr);

/// The expression of a list of new values.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct FlatMapConfig(pub Expr);

impl OperatorSettings for MapConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(Map::new(self))
    }
    fn keeps_origin(&self) -> bool {
        true
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        vec![(&mut self.0, &[])]
    }
    fn compile(&mut self, typing: &mut Typing<'_>) -> Kind {
        typing.compile(&mut self.0, &[])
    }
    fn check(&self) -> Vec<Problem> {
        let nothing = |line: &str| line.trim().is_empty() || line.trim().starts_with('#');
        if !self.0.text().lines().all(nothing) {
            return Vec::new();
        }
        let help = "write the new value, for example `.amount`, or `null` where a tombstone is meant";
        vec![Problem::setting("", "the expression is empty", help)]
    }
}

impl OperatorSettings for FlatMapConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(FlatMap::new(self))
    }
    fn keeps_origin(&self) -> bool {
        true
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        vec![(&mut self.0, &[])]
    }
    fn compile(&mut self, typing: &mut Typing<'_>) -> Kind {
        let list = typing.compile(&mut self.0, &[]);
        typing.demand(&self.0, Types::ARRAY, "the list of a `flat_map`");
        element(&list)
    }
    fn check(&self) -> Vec<Problem> {
        let yields = self.0.yields();
        if yields.may_be(Types::ARRAY) {
            return Vec::new();
        }
        let message = format!("a flat map makes records of a list, and this is always {}", yields.in_words());
        vec![Problem::setting("", message, "write a list, for example `.lines` or `[.a, .b]`, or use `map`")]
    }
}

/// One record out for each record in. A result of `null` is a tombstone.
pub struct Map {
    value: Expr,
}

impl Map {
    /// A map with that expression.
    #[must_use]
    pub fn new(config: &MapConfig) -> Map {
        Map { value: config.0.clone() }
    }
}

impl Operator for Map {
    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        match self.value.eval(&Scope::of(&record)) {
            Ok(json) => record.value = Value::from(json),
            Err(e) => return Err(OperatorError::expression(record, &e)),
        }
        cx.forward(record);
        Ok(())
    }
}

/// One record out for each element of the list; an empty list gives none. Anything but a list is an error of the
/// record.
pub struct FlatMap {
    values: Expr,
}

impl FlatMap {
    /// A flat map with that expression.
    #[must_use]
    pub fn new(config: &FlatMapConfig) -> FlatMap {
        FlatMap { values: config.0.clone() }
    }
}

impl Operator for FlatMap {
    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let items = match self.values.eval(&Scope::of(&record)) {
            Ok(Json::Array(items)) => items,
            Ok(other) => {
                let e = EvalError::Failed(format!("`{}` gave {other}, not a list", self.values.text()));
                return Err(OperatorError::expression(record, &e));
            }
            Err(e) => return Err(OperatorError::expression(record, &e)),
        };
        for item in items {
            cx.forward(Record { value: Value::from(item), ..record.clone() });
        }
        Ok(())
    }
}
