//! A question from outside: which rows has a node under a key?
//!
//! Answered by the operator that keeps them ([`super::Operator::query`]) with rows as they are on disk, so that what a
//! running instance says and what `slackwater state` finds on disk are described by the same code
//! ([`super::OperatorSettings::describe`]).
//!
//! Bounded, since the task waits meanwhile: both the rows returned and the rows examined have a limit.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::Stores;
use crate::state::{StateError, Store, after_prefix};

/// Rows of one answer.
const ROWS_MAX: usize = 1000;
/// Rows that are looked at where a store is not in order of the keys.
const LOOKED_AT_MAX: usize = 50_000;

/// A question, and the answer so far.
pub struct Query<'a> {
    key: &'a [u8],
    stores: Stores<'a>,
    answer: Answer,
}

/// The rows of a key in the node's own store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Key in the store and row, as they are on disk once the epoch is committed.
    pub rows: Vec<(Bytes, Bytes)>,
    /// Whether there are, or may be, more.
    pub cut: bool,
}

impl<'a> Query<'a> {
    /// The question for the rows of this key.
    #[must_use]
    pub fn new(key: &'a [u8], stores: Stores<'a>) -> Query<'a> {
        Query { key, stores, answer: Answer::default() }
    }

    /// The key that is asked for.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The node's own store.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.stores.get(0)
    }

    /// What was found.
    #[must_use]
    pub fn into_answer(self) -> Answer {
        self.answer
    }

    /// Adds a row.
    pub fn push(&mut self, key: &[u8], row: Bytes) {
        if self.answer.rows.len() < ROWS_MAX {
            self.answer.rows.push((Bytes::copy_from_slice(key), row));
        } else {
            self.answer.cut = true;
        }
    }

    /// Adds the row with this key in the store, if there is one.
    ///
    /// # Errors
    /// The state failed.
    pub fn get(&mut self, key: &[u8]) -> Result<(), StateError> {
        if let Some(row) = self.store().get(key)? {
            self.push(key, row);
        }
        Ok(())
    }

    /// Adds the rows whose keys in the store start with this.
    ///
    /// # Errors
    /// The state failed.
    pub fn prefix(&mut self, prefix: &[u8]) -> Result<(), StateError> {
        self.scan(prefix, &after_prefix(prefix), |_| true)
    }

    /// Adds the rows of a range of the store whose keys there are to be taken.
    ///
    /// # Errors
    /// The state failed.
    pub fn scan(&mut self, from: &[u8], to: &[u8], takes: impl Fn(&[u8]) -> bool) -> Result<(), StateError> {
        let Query { stores, answer, .. } = self;
        let mut looked_at = 0;
        stores.get(0).scan(from, Some(to), &mut |key, row| {
            looked_at += 1;
            if looked_at > LOOKED_AT_MAX || answer.rows.len() >= ROWS_MAX {
                answer.cut = true;
                return ControlFlow::Break(());
            }
            if takes(key) {
                answer.rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(row)));
            }
            ControlFlow::Continue(())
        })
    }

    /// The first key of the store from there on.
    ///
    /// # Errors
    /// The state failed.
    pub fn first_key(&self, from: &[u8], to: Option<&[u8]>) -> Result<Option<Bytes>, StateError> {
        let mut first = None;
        self.store().scan(from, to, &mut |key, _| {
            first = Some(Bytes::copy_from_slice(key));
            ControlFlow::Break(())
        })?;
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::state::{Backend, MemoryBackend};

    #[test]
    fn an_answer_is_bounded_in_rows_given_and_rows_looked_at() {
        let mut store = Store::new("n", Arc::new(MemoryBackend::default()) as Arc<dyn Backend>);
        let key = |kind: &str, n: usize| format!("{kind}{n:06}").into_bytes();
        for n in 0..=LOOKED_AT_MAX {
            store.put(&key("a", n), Bytes::from_static(b"x"));
        }
        let stores = [store];
        let query = || Query::new(b"k", Stores::new(&stores, &[0]));
        let (last, rows_max) = (key("a", LOOKED_AT_MAX), key("a", ROWS_MAX));

        let mut all = query();
        all.prefix(b"a").expect("scans");
        let Answer { rows, cut } = all.into_answer();
        assert_eq!((rows.len(), cut), (ROWS_MAX, true));

        let mut as_many = query();
        as_many.scan(b"a", &rows_max, |_| true).expect("scans");
        as_many.get(&last).expect("reads");
        let Answer { rows, cut } = as_many.into_answer();
        assert_eq!((rows.len(), cut), (ROWS_MAX, true), "the one that was read has no room");

        for (to, found) in [(b"b".to_vec(), (0, true)), (last.clone(), (0, false))] {
            let mut none = query();
            none.scan(b"a", &to, |key| key == last).expect("scans");
            let Answer { rows, cut } = none.into_answer();
            assert_eq!((rows.len(), cut), found, "the last row is behind what is looked at");
        }
        let mut one = query();
        one.scan(b"a", &rows_max, |key| key.ends_with(b"7")).expect("scans");
        let Answer { rows, cut } = one.into_answer();
        assert_eq!((rows.len(), cut), (ROWS_MAX / 10, false));
        assert_eq!(query().first_key(b"a000005", None).expect("scans").as_deref(), Some(&b"a000005"[..]));
    }
}
