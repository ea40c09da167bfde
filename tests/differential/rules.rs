//! The expected differences: where Kafka Streams is known to be wrong, or to count otherwise. A closed list; nothing else
//! may differ.

use super::case::Case;
use super::run::Outcome;

/// A named difference.
pub struct Rule {
    pub name: &'static str,
    /// Where it is written that this is so.
    pub source: &'static str,
    /// The largest share of a family's cases that it may touch.
    pub at_most: f64,
    /// Changes what Kafka Streams gave into what is right, or `ours` where nothing can be said; was anything changed?
    pub apply: fn(&Case, &mut Outcome, &mut Outcome) -> bool,
}

/// See the module.
pub const RULES: &[Rule] = &[];
