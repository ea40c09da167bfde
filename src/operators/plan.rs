//! What the topology finds out about an operator's place in the graph; none of it can be written in a file.
//!
//! The topology notes only facts ([`NodePlan`]). What follows from them for a kind is answered by its settings, which
//! get the plan with each question that depends on it.

use super::TableConfig;
use crate::model::Millis;

/// The facts. The default is a node of which nothing is known yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePlan {
    /// All nodes in its `from` are tables.
    pub over_tables: bool,
    /// Of a node that names another one in `with`: the tables among both sides, left (`from`) and right (`with`).
    pub sides: Option<[Option<TableConfig>; 2]>,
    /// A node that reads it asks for the changes of tables.
    pub sends_changes: bool,
    /// The two sides are in different partitions: this node is one half, [`super::OperatorSettings::other_half`] the
    /// other.
    pub apart: bool,
    /// The expression by which records are grouped in front of it ([`super::OperatorSettings::regroups_mut`]): they come
    /// with its result as their key.
    pub grouped_by: Option<String>,
    /// State is made again by reading the input again, never from rows (`state: { changelog: off }`): a node need not write
    /// any, and says which input it still needs ([`super::Operator::oldest`]).
    pub replayed: bool,
    /// How long after a window's end its results may still change, by the widest of the windows above.
    pub grace: Option<Millis>,
}

/// A node that another one reads.
#[derive(Clone, Copy, Debug)]
pub struct ReadNode<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its settings as a table, if it is one.
    pub table: Option<&'a TableConfig>,
    /// Whether its records have windows.
    pub windowed: Windowed,
}

/// The nodes that a node reads, as far as they were found.
#[derive(Clone, Debug)]
pub struct Reads<'a> {
    /// Those in `from`.
    pub from: Vec<ReadNode<'a>>,
    /// The one in `with`.
    pub with: Option<ReadNode<'a>>,
}

/// The windows that come to a node, from the nearest nodes above that have windows of their own or take them away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowsAbove {
    /// How long after a window's end its results may still change; of several the longest. `None`: no windows come.
    pub grace: Option<Millis>,
    /// Records without a window come too.
    pub unwindowed: bool,
}

/// The records that a node may send, as far as the graph tells. While nothing is known, neither is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windowed {
    with: bool,
    without: bool,
}

impl Windowed {
    /// Records with a window.
    pub const WITH: Windowed = Windowed { with: true, without: false };
    /// Records without one.
    pub const WITHOUT: Windowed = Windowed { with: false, without: true };
    /// Some have one, or it is not known.
    pub const UNKNOWN: Windowed = Windowed { with: true, without: true };

    /// What comes out of either.
    #[must_use]
    pub fn or(self, other: Windowed) -> Windowed {
        Windowed { with: self.with || other.with, without: self.without || other.without }
    }

    /// Every record has a window.
    #[must_use]
    pub fn always(self) -> bool {
        self == Windowed::WITH
    }

    /// No record has a window.
    #[must_use]
    pub fn never(self) -> bool {
        self == Windowed::WITHOUT
    }
}
