//! Settings of a named rate limit. The limiter itself is `runtime/calls/limiter.rs`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Rate;

/// A limit on how many calls may start, shared by every node that names it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitConfig {
    /// Most calls that may start in any window of one second (`1500/s`); for less than one a second (`10/m`), calls
    /// are spaced evenly. No default.
    pub limit: Rate,
    /// Who shares the limit. Default `instance`.
    #[serde(default)]
    pub scope: RateScope,
}

/// Who shares a rate limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateScope {
    /// Every instance has the whole limit to itself.
    #[default]
    Instance,
    /// All instances together: each may use the share that its partitions are of all partitions.
    Cluster,
}
