//! `merge`: reads several nodes as one.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Cx, NodePlan, Operator, OperatorError, OperatorSettings};
use crate::model::Record;

/// No settings: `merge: {}`.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeConfig {}

/// The operator: it passes records on as they are.
pub struct Merge;

impl Operator for Merge {
    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        cx.forward(record);
        Ok(())
    }
}

impl OperatorSettings for MergeConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(Merge)
    }
    fn keeps_origin(&self) -> bool {
        true
    }
    fn keeps_values(&self) -> bool {
        true
    }
    fn input_count(&self) -> Option<(std::ops::RangeInclusive<usize>, &'static str)> {
        Some((2..=usize::MAX, "a merge reads at least two: `from: [a, b]`"))
    }
}
