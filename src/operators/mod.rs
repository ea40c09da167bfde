//! Floor 2: operators. The contract between a node and its task, the registry of kinds, one file per operator.
//!
//! An operator is a plain state machine. One task owns it, on one thread; it never awaits, never reads a clock, and
//! does everything through [`Cx`]. What it must remember is in its stores, or in memory and handed over in
//! [`Operator::seal`]; either way it is part of the checkpoint.
//!
//! Time: every node has a clock (`cx.clock`) that only goes forward. Stream time moves it: each record carries some,
//! and watermarks carry it where no record comes. When a timer is due ([`Operator::deadline`] <= clock), the task calls
//! [`Operator::on_time`]: after the record that moved the clock, or before it where [`Timing::time_first`] says so,
//! and always before a watermark goes on to the nodes below.

pub mod aggregate;
mod branch;
mod contract;
pub mod custom;
pub mod debounce;
mod dedupe;
pub mod enrich;
mod filter;
mod gate;
#[cfg(test)]
mod harness;
mod inserted;
mod join;
mod key_by;
mod map;
mod merge;
mod metric;
mod peek;
mod plan;
mod query;
mod registry;
mod settings;
pub(crate) mod shared;
pub mod suppress;
pub(crate) mod table;
mod timing;
#[cfg(test)]
mod toy;

pub use aggregate::AggregateConfig;
pub use branch::BranchConfig;
pub use contract::{
    Admits, Blocked, Commits, Cx, Effects, Emit, Load, Operator, OperatorError, Reject, Stores, Tally,
};
pub use custom::{CustomOperator, Processor, ProcessorCx, Punctuator};
pub use debounce::DebounceConfig;
pub use dedupe::DedupeConfig;
pub use enrich::{Calls, EnrichConfig};
pub use filter::FilterConfig;
pub use gate::{GateConfig, OnTimeout};
pub use inserted::{ByIdConfig, RegroupConfig};
pub use join::{JoinConfig, JoinType, RightHalfConfig, Within};
pub use key_by::KeyByConfig;
pub use map::{FlatMapConfig, MapConfig};
pub use merge::MergeConfig;
pub use metric::{Count, Gauge, OwnMetrics};
pub use peek::PeekConfig;
pub use plan::{NodePlan, ReadNode, Reads, Windowed, WindowsAbove};
pub use query::{Answer, Query};
pub use registry::{NodeConfig, OwnOperator};
pub use settings::{Exprs, OperatorSettings, Sends, Watches, Windows};
pub use shared::{RateLimitConfig, RateScope, RetryConfig, WindowConfig};
pub use suppress::SuppressConfig;
pub use table::TableConfig;
pub use timing::{MovedBy, Timing};
