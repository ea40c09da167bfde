//! `filter`: lets a record pass where the condition is true.

use schemars::JsonSchema;
use serde::Deserialize;

use super::settings::Exprs;
use super::{Cx, NodePlan, Operator, OperatorError, OperatorSettings};
use crate::expressions::{Kind, Typing};
use crate::model::{Expr, Problem, Record, Scope, Types};

/// The condition: an expression that gives true or false.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct FilterConfig(pub Expr);

impl OperatorSettings for FilterConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(Filter::new(self))
    }
    fn keeps_origin(&self) -> bool {
        true
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        vec![(&mut self.0, &[])]
    }
    fn compile(&mut self, typing: &mut Typing<'_>) -> Kind {
        compile_condition(&mut self.0, typing);
        typing.value.clone()
    }
    fn check(&self) -> Vec<Problem> {
        check_condition("", &self.0)
    }
    fn label(&self, kind: &'static str) -> String {
        format!("{kind} {}", self.0.text())
    }
}

/// A condition that can never be true or false. For every operator that has one.
#[must_use]
pub(super) fn check_condition(field: &str, condition: &Expr) -> Vec<Problem> {
    let yields = condition.yields();
    if yields.may_be(Types::BOOLEAN) {
        return Vec::new();
    }
    let message = format!("a condition is true or false, and this is always {}", yields.in_words());
    vec![Problem::setting(field, message, "compare it with something, for example `.amount > 10`")]
}

/// Compiles a condition, which has to be true or false.
pub(super) fn compile_condition(condition: &mut Expr, typing: &mut Typing<'_>) {
    typing.compile(condition, &[]);
    typing.demand(condition, Types::BOOLEAN, "a condition");
}

/// The operator.
pub struct Filter {
    condition: Expr,
}

impl Filter {
    /// A filter with that condition.
    #[must_use]
    pub fn new(config: &FilterConfig) -> Filter {
        Filter { condition: config.0.clone() }
    }
}

impl Operator for Filter {
    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        match self.condition.test(&Scope::of(&record)) {
            Ok(true) => cx.forward(record),
            Ok(false) => {}
            Err(e) => return Err(OperatorError::expression(record, &e)),
        }
        Ok(())
    }
}
