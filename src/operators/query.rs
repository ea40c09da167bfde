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
