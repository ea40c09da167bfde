//! The trait that a user's operator implements, and everything that it may see and do.

use std::ops::ControlFlow;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::node::{Timers, store_prefix};
use super::schedule::Punctuator;
use crate::model::{Reason, Record, Timestamp};
use crate::operators::{Cx, OperatorError};
use crate::state::{StateError, Store, Visit, after_prefix};

/// The work of one node of one task. It is called by one thread, never awaits and never reads a clock. Its fields hold
/// only what can be made again: a restart makes a new processor, and what must be remembered belongs in its stores.
///
/// [`OperatorError::Reject`] is about one record: the topology's `errors` decide what becomes of it.
/// [`OperatorError::Fatal`] stops the task. Changes made before an error stay.
pub trait Processor: Send {
    /// What is called periodically. Asked once, at the start. A schedule continues over restarts; one whose interval or
    /// clock has changed starts anew, and one that is no longer listed is forgotten.
    fn punctuators(&self) -> Vec<Punctuator> {
        Vec::new()
    }

    /// A record came in, through the input `cx.input()` (the order of `from`).
    ///
    /// # Errors
    /// See the trait.
    fn process(&mut self, record: Record, cx: &mut ProcessorCx<'_, '_>) -> Result<(), OperatorError>;

    /// The punctuator of that name is due at `at` on its clock. After a gap of several intervals there is one call.
    ///
    /// # Errors
    /// See the trait.
    fn punctuate(
        &mut self,
        name: &'static str,
        at: Timestamp,
        cx: &mut ProcessorCx<'_, '_>,
    ) -> Result<(), OperatorError> {
        let _ = (name, at, cx);
        Ok(())
    }

    /// The timer of that key, set for `at`, is due: the node's clock has reached it. It is removed before the call,
    /// which may set it again.
    ///
    /// # Errors
    /// See the trait.
    fn timer(
        &mut self,
        key: &[u8],
        at: Timestamp,
        cx: &mut ProcessorCx<'_, '_>,
    ) -> Result<(), OperatorError> {
        let _ = (key, at, cx);
        Ok(())
    }

    /// Whether timers and stream-time punctuations that a record makes due are called before that record. Default
    /// false: after it, as in Kafka Streams.
    fn time_first(&self) -> bool {
        false
    }
}

/// Everything a [`Processor`] may see or do.
pub struct ProcessorCx<'a, 'b> {
    pub(super) cx: &'a mut Cx<'b>,
    pub(super) timers: &'a mut Timers,
}

impl ProcessorCx<'_, '_> {
    /// The wall clock. A result that depends on it differs when input is read again.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.cx.now
    }

    /// The node's clock, which only goes forward and is part of the checkpoint. `Timestamp::MIN` before the first
    /// record.
    #[must_use]
    pub fn stream_time(&self) -> Timestamp {
        self.cx.clock
    }

    /// Through which input the record came: the order of `from`.
    #[must_use]
    pub fn input(&self) -> u16 {
        self.cx.input
    }

    /// The node's store of that name, created empty when it is first used. The name is its identity.
    pub fn store(&mut self, name: &str) -> NamedStore<'_> {
        NamedStore { prefix: store_prefix(name), store: self.cx.store(0) }
    }

    /// Calls [`Processor::timer`] with this key when the node's clock has reached `at`. It replaces the key's earlier
    /// timer. A timer that is due already is called when the current call is over.
    ///
    /// # Errors
    /// State cannot be read.
    pub fn set_timer(&mut self, key: &[u8], at: Timestamp) -> Result<(), StateError> {
        self.timers.set(key, at, self.cx.store(0))
    }

    /// Removes a key's timer, if there is one.
    ///
    /// # Errors
    /// State cannot be read.
    pub fn cancel_timer(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.timers.cancel(key, self.cx.store(0))
    }

    /// Sends a record to every node below, where its timestamp counts as event time. Records made by a punctuation or a
    /// timer usually carry its time.
    pub fn forward(&mut self, record: Record) {
        self.cx.forward(record);
    }

    /// Sends a record through one of [`super::CustomOperator::ports`], by position.
    pub fn forward_to(&mut self, port: u16, record: Record) {
        self.cx.forward_to(port, record);
    }

    /// Counts a record dropped by a rule. For a record that is wrong, return [`OperatorError::Reject`].
    pub fn drop(&mut self, reason: Reason) {
        self.cx.drop(reason);
    }
}

/// A sorted map of bytes to bytes, part of the checkpoint. Values are the user's own: begin them with the number of
/// their format, or use the JSON methods.
pub struct NamedStore<'a> {
    prefix: Vec<u8>,
    store: &'a mut Store,
}

impl NamedStore<'_> {
    fn full(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// State cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.store.get(&self.full(key))
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        let full = self.full(key);
        self.store.put(&full, value.into());
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &[u8]) {
        let full = self.full(key);
        self.store.delete(&full);
    }

    /// Visits `from <= key < to` in key order; `to` of `None` is the end of the store.
    ///
    /// # Errors
    /// State cannot be read.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StateError> {
        let end = to.map_or_else(|| after_prefix(&self.prefix), |to| self.full(to));
        let skip = self.prefix.len();
        self.store.scan(&self.full(from), Some(&end), &mut |key, value| visit(&key[skip..], value))
    }

    /// Every key with its value, in key order: for small stores.
    ///
    /// # Errors
    /// State cannot be read.
    pub fn all(&self) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        let mut all = Vec::new();
        self.scan(b"", None, &mut |key, value| {
            all.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }

    /// The value of a key, read from JSON.
    ///
    /// # Errors
    /// State cannot be read, or the value does not fit this type: it was written by another version.
    pub fn get_json<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StateError> {
        let Some(bytes) = self.get(key)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| StateError(format!("a value in a store: {e}")))
    }

    /// Sets a key to a value written as JSON.
    ///
    /// # Errors
    /// The value cannot be JSON (a map whose keys are no strings).
    pub fn put_json<T: Serialize>(&mut self, key: &[u8], value: &T) -> Result<(), StateError> {
        let json = serde_json::to_vec(value).map_err(|e| StateError(format!("a value for a store: {e}")))?;
        self.put(key, json);
        Ok(())
    }
}
