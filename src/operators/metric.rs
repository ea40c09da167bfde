//! Metrics of one kind of node, declared in its file, with the help text of the scrape.
//!
//! Names are without the prefix `slackwater_`. The metrics that every node has (records, drops, state) are in
//! `runtime/metrics.rs`.

/// A number that only grows, by node.
#[derive(Debug, PartialEq, Eq)]
pub struct Count {
    /// As in the scrape: `debounce_fired_total`.
    pub name: &'static str,
    /// For people.
    pub help: &'static str,
    /// The label that distinguishes counts of the same name, and its value.
    pub label: Option<(&'static str, &'static str)>,
}

/// A number that goes up and down, by node and partition.
#[derive(Debug, PartialEq, Eq)]
pub struct Gauge {
    /// As in the scrape: `calls_pending`.
    pub name: &'static str,
    /// For people.
    pub help: &'static str,
}

/// The metrics of a kind; most have none of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnMetrics {
    /// What its nodes count with [`super::Tally::add`].
    pub counts: &'static [&'static Count],
    /// What its nodes show in [`super::Operator::gauges`].
    pub gauges: &'static [&'static Gauge],
}
