//! An operator for tests only. This file and its line in the list of kinds are all that a new kind needs.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Cx, NodePlan, Operator, OperatorError, OperatorSettings};
use crate::model::{Problem, Record};

/// Lets every n-th record pass.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToyConfig {
    /// The n.
    every: u32,
}

impl OperatorSettings for ToyConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(Toy { every: self.every, seen: 0 })
    }
    fn keeps_values(&self) -> bool {
        true
    }
    fn check(&self) -> Vec<Problem> {
        let none = self.every == 0;
        none.then(|| Problem::setting("every", "no record at all", "write 1 or more")).into_iter().collect()
    }
    fn label(&self, kind: &'static str) -> String {
        format!("{kind} {}", self.every)
    }
}

struct Toy {
    every: u32,
    seen: u32,
}

impl Operator for Toy {
    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        self.seen = (self.seen + 1) % self.every;
        if self.seen == 0 {
            cx.forward(record);
        }
        Ok(())
    }
}
