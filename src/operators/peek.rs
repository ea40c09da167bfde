//! `peek`: lets every record pass, counts it, and shows it in the log at level DEBUG (`SLACKWATER_LOG=slackwater=debug`).
//!
//! For people who look for what goes through a place of the graph. The log line is the node's only effect beside the
//! record itself: results never depend on it.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Cx, Operator, OperatorError};
use crate::model::Record;

/// No settings: `peek: {}`.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeekConfig {}

/// See the module.
pub struct Peek;

impl Operator for Peek {
    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        if tracing::enabled!(tracing::Level::DEBUG) {
            let key = record.key.as_ref().map(|k| String::from_utf8_lossy(k));
            let window = record.window.map(|w| (w.start.0, w.end.0));
            tracing::debug!(
                key = key.as_deref(),
                value = %record.value.show(),
                ts = record.ts.0,
                ?window,
                partition = record.origin.partition,
                offset = record.origin.offset,
                "peek"
            );
        }
        cx.forward(record);
        Ok(())
    }
}
