//! Rows that lie in a store in the order in which they expire: the first of them, and those that have expired.

use std::ops::ControlFlow;

use crate::state::{StateError, Store};

/// The range of a store that has such rows: keys from `from` to before `to` (or the end), in the order of the number that
/// `time_of` reads from each.
#[derive(Clone, Copy)]
pub(in crate::operators) struct Expiring<'a> {
    pub from: &'a [u8],
    pub to: Option<&'a [u8]>,
    pub time_of: fn(&[u8]) -> Result<i64, StateError>,
}

impl Expiring<'_> {
    /// The time of the first row; `None` if there are no rows.
    pub fn first(self, store: &Store) -> Result<Option<i64>, StateError> {
        self.expired(store, 0, |_| false).map(|(_, first)| first)
    }

    /// The keys of the first rows that have expired, at most `max`, and the time of the first row after them.
    pub fn expired(
        self,
        store: &Store,
        max: usize,
        has_expired: impl Fn(i64) -> bool,
    ) -> Result<(Vec<Vec<u8>>, Option<i64>), StateError> {
        let mut expired: Vec<Vec<u8>> = Vec::new();
        let mut next = Ok(None);
        store.scan(self.from, self.to, &mut |key, _| {
            let time = (self.time_of)(key);
            if expired.len() < max && time.as_ref().is_ok_and(|time| has_expired(*time)) {
                expired.push(key.to_vec());
                return ControlFlow::Continue(());
            }
            next = time.map(Some);
            ControlFlow::Break(())
        })?;
        next.map(|next| (expired, next))
    }
}
