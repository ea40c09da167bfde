//! Rows of state for people, decoded by the settings of the node that has them: one by one, or all of a stopped instance.
//!
//! Called by `slackwater state`, which reads a task's database from front to back, and for what a running instance is
//! asked; nothing is kept and nothing is written.

use std::ops::ControlFlow;

use super::sink::describe_delivery;
use crate::model::Json;
use crate::operators::shared::describe::Described;
use crate::state::{
    Backend, META_CHANGELOG, META_CLOCKS, META_FORMAT, META_POSITIONS, META_SHAPE, StateError, codec,
};
use crate::topology::{NodeKind, Topology};

/// One row of a task's state.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A row of a node's store.
    Row {
        /// The store's name: the node's, for a node of this topology.
        store: String,
        /// Decoded, or as bytes.
        row: Described,
        /// Bytes of key and value.
        bytes: usize,
    },
    /// A row that the task itself keeps.
    Note {
        /// `format`, `positions`, `changelog`, `clocks`, `shape`.
        name: String,
        /// Its content.
        value: Json,
    },
}

/// Visits every row of a task in key order: the task's own rows first.
///
/// # Errors
/// The database cannot be read.
pub fn look(
    topology: &Topology,
    backend: &dyn Backend,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> Result<(), StateError> {
    // No store's name starts with 0xff: names are ASCII.
    backend.scan(b"", &[0xff], &mut |key, value| visit(found(topology, key, value)))
}

fn found(topology: &Topology, key: &[u8], value: &[u8]) -> Found {
    if key.starts_with(b"\0") {
        return note(key, value);
    }
    let (store, rest) = match key.iter().position(|b| *b == 0) {
        Some(at) => (&key[..at], &key[at + 1..]),
        None => (key, &key[..0]),
    };
    let store = String::from_utf8_lossy(store).into_owned();
    let row = match topology.node(&store) {
        Some(node) => describe(topology, node, rest, value),
        None => Described::raw(rest, value),
    };
    Found::Row { store, row, bytes: key.len() + value.len() }
}

/// A row of a node's store: key (without the store's prefix) and value, as they are on disk.
#[must_use]
pub fn describe(topology: &Topology, node: usize, key: &[u8], value: &[u8]) -> Described {
    let node = &topology.nodes[node];
    let row = match &node.kind {
        NodeKind::Operator(config) => config.describe(key, value, &node.plan),
        NodeKind::Sink(_) => describe_delivery(key, value),
        NodeKind::Source(_) => node.table.as_ref().and_then(|table| table.describe_row(key, value)),
    };
    row.unwrap_or_else(|| Described::raw(key, value))
}

fn note(key: &[u8], value: &[u8]) -> Found {
    let pairs = |value: &[u8]| -> Option<Json> {
        let pairs: Vec<(String, i64)> = codec::decode(1, value).ok()?;
        Some(
            pairs
                .into_iter()
                .map(|(name, n)| (name, Json::from(n)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        )
    };
    let shown = match key {
        META_POSITIONS | META_CLOCKS => pairs(value),
        META_CHANGELOG => codec::decode::<i64>(1, value).ok().map(Json::from),
        META_SHAPE => {
            std::str::from_utf8(value).ok().map(|s| s.lines().map(Json::from).collect::<Vec<_>>().into())
        }
        META_FORMAT => codec::decode::<u32>(1, value).ok().map(Json::from),
        _ => None,
    };
    Found::Note {
        name: String::from_utf8_lossy(&key[1..]).into_owned(),
        value: shown.unwrap_or_else(|| crate::operators::shared::describe::bytes(value)),
    }
}
