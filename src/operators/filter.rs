//! `filter`: lets a record pass where the condition is true.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Cx, Operator, OperatorError};
use crate::model::{Expr, Record, Scope};

/// The condition: an expression that gives true or false.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct FilterConfig(pub Expr);

/// See the module.
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
