//! `join`: joins a node's records with those of another node, by key. What is on each side decides the kind:
//!
//! | left (`from`) | right (`with`) | kind | file |
//! |---|---|---|---|
//! | stream | stream | pairs within a window; `within` is needed | `stream_stream.rs` |
//! | stream | table | each record with the row of its key | `stream_table.rs` |
//! | stream | global table | each record with the row that `on` names | `stream_global.rs` |
//! | table | table | the rows of one key, kept up to date | `table_table.rs` |
//! | table | table, with `on` | each left row with the right row that `on` names | `foreign_key_apart.rs`; without topics `foreign_key.rs` |
//!
//! A table is a node with `table`, everything else is a stream. The topology finds out what is on each side; what they
//! make together is a [`JoinPlan`]. The rules are those of Kafka Streams; if one is not, its file says so.
//!
//! Stores: 0 is the join's own, then those of the tables that it reads, left before right.

mod config;
mod foreign_key;
mod foreign_key_apart;
#[cfg(test)]
mod foreign_key_tests;
mod plan;
mod result;
mod stream_global;
mod stream_stream;
#[cfg(test)]
mod stream_stream_tests;
mod stream_table;
mod table_table;
mod window_rows;

pub use config::{JoinConfig, JoinType, Within};
pub use foreign_key_apart::RightHalfConfig;
use plan::{JoinKind, JoinPlan};

use super::shared::describe::Described;
use super::{NodePlan, Operator};

/// The join's own store.
const OWN: usize = 0;
/// The store of the only table.
const RIGHT_ONLY: usize = 1;
/// Of two tables, the store of the left one.
const LEFT: usize = 1;
/// Of two tables, the store of the right one.
const RIGHT: usize = 2;

/// Which side a record or a row is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Side {
    fn of(input: u16) -> Side {
        if input == 0 { Side::Left } else { Side::Right }
    }

    fn other(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }

    /// Its place in a pair, left first.
    fn at(self) -> usize {
        match self {
            Side::Left => 0,
            Side::Right => 1,
        }
    }
}

/// A row of a join's own store for people; `None` where the bytes are no such row, or the join has no store.
fn describe_row(config: &JoinConfig, node: &NodePlan, key: &[u8], value: &[u8]) -> Option<Described> {
    match JoinPlan::of(config, node)?.kind {
        JoinKind::StreamStream => window_rows::describe_row(key, value),
        JoinKind::StreamTable => stream_table::describe_row(key, value),
        JoinKind::ForeignKey if node.apart => Some(foreign_key_apart::describe_left(key)),
        JoinKind::ForeignKey => foreign_key::describe_subscription(key, value),
        JoinKind::StreamGlobal | JoinKind::TableTable => None,
    }
}

/// A new join without state, of the sides that the topology has found.
fn build(config: &JoinConfig, node: &NodePlan) -> Box<dyn Operator> {
    let plan = &JoinPlan::of(config, node).expect("the topology knows both sides of every join");
    match plan.kind {
        JoinKind::StreamStream => Box::new(stream_stream::StreamStream::new(config)),
        JoinKind::StreamTable => Box::new(stream_table::StreamTable::new(config, plan)),
        JoinKind::StreamGlobal => Box::new(stream_global::StreamGlobal::new(config, plan)),
        JoinKind::TableTable => Box::new(table_table::TableTable::new(config, plan)),
        JoinKind::ForeignKey if node.apart => Box::new(foreign_key_apart::LeftHalf::new(config, plan)),
        JoinKind::ForeignKey => Box::new(foreign_key::ForeignKey::new(config, plan)),
    }
}
