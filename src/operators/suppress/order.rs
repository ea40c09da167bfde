//! The order in which held rows are sent: by time, then key, then window.
//!
//! Rows of one time are sorted only when their time comes. A window that closes has as many rows as keys, and keeping
//! them in a set, sorted or not, would cost more than holding them.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::state;

/// End and start of a window.
pub(super) type Bounds = Option<(i64, i64)>;

/// Identifies a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Spot {
    pub(super) key: Bytes,
    pub(super) window: Bounds,
}

enum Rows {
    Waiting(Waiting),
    /// Sorted, the next one last.
    Leaving(Vec<Spot>),
}

/// Rows in order of arrival.
#[derive(Default)]
struct Waiting {
    rows: Vec<Spot>,
    /// How many times each row was removed since it was added: as many of its entries in `rows` are void.
    removed: HashMap<Spot, usize, ahash::RandomState>,
    removals: usize,
}

/// With fewer removals than this, void entries are not cleaned up.
const REMOVALS: usize = 8;

impl Waiting {
    fn remove(&mut self, spot: &Spot) {
        *self.removed.entry(spot.clone()).or_default() += 1;
        self.removals += 1;
        if self.removals > REMOVALS && self.removals > self.rows.len() / 2 {
            self.settle();
        }
    }

    /// Drops the void entries.
    fn settle(&mut self) {
        let mut removed = std::mem::take(&mut self.removed);
        self.removals = 0;
        if removed.is_empty() {
            return;
        }
        self.rows.retain(|spot| match removed.get_mut(spot) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        });
    }
}

/// The rows of one time; at least one.
struct Group {
    rows: Rows,
    /// The earliest start of a window (or time, without windows) of any row that was ever in the group.
    earliest: i64,
}

/// The order of all held rows.
#[derive(Default)]
pub(super) struct Order {
    groups: BTreeMap<i64, Group>,
    len: usize,
}

impl Group {
    fn is_empty(&self) -> bool {
        match &self.rows {
            Rows::Waiting(waiting) => waiting.rows.len() == waiting.removals,
            Rows::Leaving(rows) => rows.is_empty(),
        }
    }

    /// Its rows, sorted.
    fn leaving(&mut self) -> &mut Vec<Spot> {
        if let Rows::Waiting(waiting) = &mut self.rows {
            waiting.settle();
            let mut rows: Vec<Option<Spot>> =
                std::mem::take(&mut waiting.rows).into_iter().map(Some).collect();
            let order = state::order(rows.len(), |n| rows[n].as_ref().map_or(&[], |spot| &spot.key));
            let mut sorted: Vec<Spot> =
                order.into_iter().rev().filter_map(|n| rows[n as usize].take()).collect();
            // The windows of a key arrive nearly sorted, which the stable sort profits from.
            sorted.sort_by(|a, b| b.cmp(a));
            self.rows = Rows::Leaving(sorted);
        }
        match &mut self.rows {
            Rows::Leaving(rows) => rows,
            Rows::Waiting(_) => unreachable!("it has just been sorted"),
        }
    }
}

impl Order {
    /// Rows held.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The windows of which a row of this key may be held. Walks all rows.
    pub(super) fn windows_of(&self, key: &[u8]) -> Vec<Bounds> {
        let rows = self.groups.values().flat_map(|group| match &group.rows {
            Rows::Waiting(waiting) => &waiting.rows,
            Rows::Leaving(rows) => rows,
        });
        let mut windows: Vec<Bounds> =
            rows.filter(|spot| *spot.key == *key).map(|spot| spot.window).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }

    /// Adds a row that is not present.
    pub(super) fn insert(&mut self, time: i64, spot: Spot) {
        let start = spot.window.map_or(time, |(_, start)| start.min(time));
        let group = self
            .groups
            .entry(time)
            .or_insert_with(|| Group { rows: Rows::Waiting(Waiting::default()), earliest: start });
        group.earliest = group.earliest.min(start);
        self.len += 1;
        match &mut group.rows {
            Rows::Waiting(waiting) => waiting.rows.push(spot),
            Rows::Leaving(rows) => {
                let at = rows.partition_point(|other| *other > spot);
                rows.insert(at, spot);
            }
        }
    }

    /// Removes a row that is present.
    pub(super) fn remove(&mut self, time: i64, spot: &Spot) {
        let Some(group) = self.groups.get_mut(&time) else { return };
        match &mut group.rows {
            Rows::Waiting(waiting) => waiting.remove(spot),
            Rows::Leaving(rows) => {
                let at = rows.binary_search_by(|other| spot.cmp(other));
                rows.remove(at.expect("the row is there"));
            }
        }
        self.len -= 1;
        if group.is_empty() {
            self.groups.remove(&time);
        }
    }

    /// Removes and returns the first row.
    pub(super) fn pop(&mut self) -> Option<Spot> {
        let mut first = self.groups.first_entry()?;
        let spot = first.get_mut().leaving().pop();
        if first.get().is_empty() {
            first.remove();
        }
        self.len -= usize::from(spot.is_some());
        spot
    }

    /// At most `max` rows of the first time, in the order in which they will leave.
    pub(super) fn next(&mut self, max: usize) -> impl Iterator<Item = &Spot> {
        let first = self.groups.first_entry().map(|first| first.into_mut().leaving());
        first.into_iter().flat_map(|rows| rows.iter().rev()).take(max)
    }

    /// The first row's time.
    pub(super) fn first_time(&self) -> Option<i64> {
        self.groups.first_key_value().map(|(time, _)| *time)
    }

    /// A time that no window of the first rows starts before.
    pub(super) fn earliest(&self) -> Option<i64> {
        self.groups.first_key_value().map(|(_, group)| group.earliest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As one sorted set of everything.
        #[test]
        fn rows_leave_by_time_then_key_then_window(
            steps in prop::collection::vec((0..6u8, 0..4i64, 0..5u8, prop::option::of(0..3i64)), 0..600),
        ) {
            let (mut order, mut model) = (Order::default(), BTreeSet::new());
            for (what, time, key, start) in steps {
                let spot = Spot { key: Bytes::from(vec![b'k'; key.into()]), window: start.map(|start| (time, start)) };
                let place = (time, spot.clone());
                match what {
                    0 | 1 if model.insert(place.clone()) => order.insert(time, spot),
                    2 if model.remove(&place) => order.remove(time, &spot),
                    3 => {
                        let first = model.pop_first();
                        prop_assert_eq!(order.pop(), first.map(|(_, spot)| spot));
                    }
                    4 => {
                        let first = model.first().map(|(time, _)| *time);
                        let want: Vec<&Spot> =
                            model.iter().filter(|(t, _)| Some(*t) == first).map(|(_, spot)| spot).take(3).collect();
                        prop_assert_eq!(order.next(3).collect::<Vec<_>>(), want);
                    }
                    _ => {}
                }
                prop_assert_eq!(order.len(), model.len());
                prop_assert_eq!(order.first_time(), model.first().map(|(time, _)| *time));
                let first = model.iter().filter(|(time, _)| Some(*time) == order.first_time());
                let start = first.map(|(time, spot)| spot.window.map_or(*time, |(_, start)| start.min(*time))).min();
                prop_assert!(order.earliest() <= start, "{:?} {start:?}", order.earliest());
            }
        }
    }
}
