//! `merge`: reads several nodes as one.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Cx, Operator, OperatorError};
use crate::model::Record;

/// No settings: `merge: {}`.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeConfig {}

/// See the module.
pub struct Merge;

impl Operator for Merge {
    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        cx.forward(record);
        Ok(())
    }
}
