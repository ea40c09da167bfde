//! What a user's operator implements, and everything that it may see or do.

use std::ops::ControlFlow;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::node::{Timers, store_prefix};
use super::schedule::Punctuator;
use crate::model::{Reason, Record, Timestamp};
use crate::operators::{Cx, OperatorError};
use crate::state::{StateError, Store, Visit, after_prefix};

/// The work of one node of one task. Called by one thread; never awaits, never reads a clock, and keeps in its fields
/// only what it can make again: a restart makes a new one, and what is to be remembered is in its stores.
///
/// An error of the form [`OperatorError::Reject`] is one record's: the topology's `errors` say what becomes of it.
/// [`OperatorError::Fatal`] stops the task. What was changed before an error stays.
pub trait Processor: Send {
    /// What is to be called again and again. Asked once, at the start. A schedule goes on over restarts; one whose
    /// interval or clock is another than before begins anew, one that is not named any more is forgotten.
    fn punctuators(&self) -> Vec<Punctuator> {
        Vec::new()
    }

    /// A record came in, through the input `cx.input()` (the order of `from`).
    ///
    /// # Errors
    /// See the trait.
    fn process(&mut self, record: Record, cx: &mut ProcessorCx<'_, '_>) -> Result<(), OperatorError>;

    /// The punctuator of that name is due. `at` is the time on its clock: a gap of several intervals is one call.
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

    /// The timer of that key, set for `at`, is due: the node's clock has reached it. It is gone before the call and
    /// may be set again.
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

    /// Are timers and stream-time punctuations that a record's timestamp makes due called before that record? As in
    /// Kafka Streams they are called after it, unless said otherwise.
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
    /// The wall clock. A result that depends on it is another one after a replay.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.cx.now
    }

    /// The node's clock: it only goes forward, and is part of the checkpoint. `Timestamp::MIN` before the first record.
    #[must_use]
    pub fn stream_time(&self) -> Timestamp {
        self.cx.clock
    }

    /// Through which input the record came: the order of `from`.
    #[must_use]
    pub fn input(&self) -> u16 {
        self.cx.input
    }

    /// A store of the node: names are identity. It is there at once, and empty.
    pub fn store(&mut self, name: &str) -> NamedStore<'_> {
        NamedStore { prefix: store_prefix(name), store: self.cx.store(0) }
    }

    /// Calls [`Processor::timer`] with this key when the node's clock has reached `at`; a timer of the key that was
    /// set before is replaced. One that is due already is called when this call is over.
    ///
    /// # Errors
    /// State cannot be read.
    pub fn set_timer(&mut self, key: &[u8], at: Timestamp) -> Result<(), StateError> {
        self.timers.set(key, at, self.cx.store(0))
    }

    /// Takes a timer back; nothing happens where there is none.
    ///
    /// # Errors
    /// State cannot be read.
    pub fn cancel_timer(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.timers.cancel(key, self.cx.store(0))
    }

    /// Sends a record to every node below. Its timestamp is what they go by; records made by a punctuation or a timer
    /// usually have its time.
    pub fn forward(&mut self, record: Record) {
        self.cx.forward(record);
    }

    /// Sends a record through one of [`super::CustomOperator::ports`], by its position there.
    pub fn forward_to(&mut self, port: u16, record: Record) {
        self.cx.forward_to(port, record);
    }

    /// Counts something dropped by rule; for what is wrong with a record return a [`OperatorError::Reject`].
    pub fn drop(&mut self, reason: Reason) {
        self.cx.drop(reason);
    }
}

/// A sorted map of bytes, in the checkpoint with everything else. What its values look like is the user's: begin them
/// with a number of the format, or use the JSON calls.
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
    /// State cannot be read, or the value is no such JSON: state of another version.
    pub fn get_json<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StateError> {
        let Some(bytes) = self.get(key)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| StateError(format!("a value in a store: {e}")))
    }

    /// Sets a key to a value written as JSON.
    ///
    /// # Errors
    /// The value cannot be JSON (a map whose keys are no text).
    pub fn put_json<T: Serialize>(&mut self, key: &[u8], value: &T) -> Result<(), StateError> {
        let json = serde_json::to_vec(value).map_err(|e| StateError(format!("a value for a store: {e}")))?;
        self.put(key, json);
        Ok(())
    }
}
