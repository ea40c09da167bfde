//! What a node is to its clock: known from its settings, before there is a node.

use crate::model::Record;

/// How a node and its clock go together. The default is what most nodes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// It drops or parts with what comes behind its clock. Then the wall clock, which may be ahead of records that are still
    /// under way, stays `time.delay` behind for it.
    pub refuses_late: bool,
    /// Timers due at a record's stream time are called before the record is taken.
    pub time_first: bool,
    /// Which records move its clock.
    pub moved_by: MovedBy,
}

/// Records that move a node's clock: not those that Kafka Streams drops before it looks at their timestamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MovedBy {
    /// Every one.
    #[default]
    All,
    /// Those with a key.
    Keyed,
    /// Those with a key and a value.
    KeyedValues,
}

impl MovedBy {
    /// Is this one of them?
    #[must_use]
    pub fn takes(self, record: &Record) -> bool {
        match self {
            MovedBy::All => true,
            MovedBy::Keyed => record.key.is_some(),
            MovedBy::KeyedValues => record.key.is_some() && !record.value.is_null(),
        }
    }
}
