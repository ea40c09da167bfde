//! A source for tests only. This file (with its `mod` line) and one line in the list of kinds are all that a new kind
//! needs.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{OpenError, Reader, SourceSettings};
use crate::model::{Origin, Record, Timestamp, Value};

/// Records that are all alike.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ToySource {
    /// How many records.
    pub count: i64,
}

impl SourceSettings for ToySource {
    fn label(&self) -> String {
        format!("of {}", self.count)
    }

    fn open(&self, _: Timestamp) -> Result<Option<Box<dyn Reader>>, OpenError> {
        if self.count < 0 {
            return Err(OpenError { field: "count", message: "less than nothing".into() });
        }
        Ok(Some(Box::new(Toy { next: 0, count: self.count })))
    }
}

struct Toy {
    next: i64,
    count: i64,
}

impl Reader for Toy {
    fn poll(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> Result<usize, String> {
        let before = out.len();
        while self.next < self.count && out.len() - before < max {
            out.push(Record {
                value: Value::Bytes("{\"toy\":true}".into()),
                ts: now,
                origin: Origin { topic: 0, partition: 0, offset: self.next },
                ..Record::default()
            });
            self.next += 1;
        }
        Ok(out.len() - before)
    }

    fn caught_up(&self) -> bool {
        self.ended()
    }

    fn ended(&self) -> bool {
        self.next == self.count
    }
}
