//! An aggregate's row in readable form: its result.

use super::AggregateConfig;
use super::accumulator::Row;
use super::functions::Plan;
use super::rows::read_row_key;
use crate::model::{Timestamp, Window};
use crate::operators::shared::describe::Described;
use crate::operators::shared::window::WindowKind;
use crate::state::Cell;

impl AggregateConfig {
    /// The result of a key, or of a key and window, as it would be sent now. `None` where the bytes are no such row.
    #[must_use]
    pub fn describe_row(&self, key: &[u8], value: &[u8]) -> Option<Described> {
        let row = Row::decode(value).ok()?;
        let result = Plan::new(self, false).result(&row.acc).show();
        let Some(kind) = self.window.and_then(|w| w.kind()) else {
            return Some(Described::of_key(key, result).at("ts", row.ts));
        };
        let (start, key) = read_row_key(key).ok()?;
        let end = match kind {
            WindowKind::Time { size: length, .. } | WindowKind::Sliding { difference: length } => {
                start.saturating_add(length)
            }
            // The timestamp of a session's result is its end.
            WindowKind::Session { .. } => row.ts,
        };
        let window = Window { start: Timestamp(start), end: Timestamp(end) };
        Some(Described::of_key(key, result).window(Some(window)).at("ts", row.ts))
    }
}
