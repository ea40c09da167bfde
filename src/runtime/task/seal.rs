//! The end of an epoch: sealing it, copying the rows that operators still hold in memory, and releasing it once it is
//! applied.
//!
//! Called between two inputs. Invariant: one sealed epoch at a time.

use bytes::Bytes;

use super::{FORMAT, Sealed, Step, Task, TaskError};
use crate::model::Timestamp;
use crate::operators::{Cx, Operator, OperatorError};
use crate::state::{META_CLOCKS, META_FORMAT, META_POSITIONS, META_SHAPE, Spent, StateError, Store, codec};

impl Task {
    /// [`Task::seal_late`] and [`Sealed::finish`] in one.
    ///
    /// # Errors
    /// As [`Task::seal_late`].
    pub fn seal(&mut self, now: Timestamp) -> Result<Option<Sealed>, TaskError> {
        let mut sealed = self.seal_late(now)?;
        sealed.iter_mut().for_each(Sealed::finish);
        Ok(sealed)
    }

    /// [`Task::seal_begin`], and [`Task::seal_more`] until the epoch is complete.
    ///
    /// # Errors
    /// As [`Task::seal_begin`].
    pub fn seal_late(&mut self, now: Timestamp) -> Result<Option<Sealed>, TaskError> {
        let mut sealed = self.seal_begin(now)?;
        if let Some(sealed) = &mut sealed {
            self.copy(sealed, usize::MAX, now)?;
        }
        Ok(sealed)
    }

    /// Ends the open epoch, unless nothing happened in it or another one is still sealed. It fixes which rows operators
    /// in memory have changed, but copies only the first of them; [`Task::seal_more`] copies the rest while records
    /// come. The epoch may be committed when [`Task::is_settled`].
    ///
    /// # Errors
    /// State that cannot be encoded.
    pub fn seal_begin(&mut self, now: Timestamp) -> Result<Option<Sealed>, TaskError> {
        if self.sealed.is_some() {
            return Ok(None);
        }
        self.each_op(now, |op, cx| {
            op.seal(cx);
            Ok(true)
        })?;
        self.stores.iter_mut().for_each(Store::begin_seal);
        let rows_max = self.seal_rows;
        self.copying = !self.each_op(now, |op, cx| op.seal_more(cx, rows_max))?;
        let clean = !self.copying && !self.stores.iter().any(Store::has_sealed);
        if clean && !self.moved && self.outstanding == 0 && self.outputs.is_empty() && !self.may_advance() {
            return Ok(None);
        }
        let (mut rows, mut late) = (Vec::new(), Vec::new());
        if !self.copying {
            self.stores.iter_mut().for_each(|store| store.end_seal(&mut late));
        }
        let clocks = self.clocks();
        if clocks != self.clocks_saved {
            rows.push((Bytes::from_static(META_CLOCKS), Some(codec::encode(1, &clocks)?)));
            self.clocks_saved = clocks;
        }
        if !self.format_saved {
            rows.push((Bytes::from_static(META_FORMAT), Some(codec::encode(1, &FORMAT)?)));
            self.format_saved = true;
        }
        rows.push((Bytes::from_static(META_SHAPE), Some(Bytes::from(self.shape.clone()))));
        let held: Vec<Option<i64>> = (0..self.positions.len()).map(|t| self.committable(t)).collect();
        let positions: Vec<(usize, i64)> =
            held.iter().enumerate().filter_map(|(t, p)| Some((t, (*p)?))).collect();
        let named: Vec<(String, i64)> =
            positions.iter().map(|(t, p)| (self.topics[*t].to_string(), *p)).collect();
        rows.push((Bytes::from_static(META_POSITIONS), Some(codec::encode(1, &named)?)));
        let epoch = self.epoch;
        self.epoch += 1;
        self.sealed = Some((epoch, self.outstanding));
        self.sealed_positions = held;
        self.outstanding = 0;
        self.moved = false;
        let outputs = std::mem::take(&mut self.outputs);
        Ok(Some(Sealed { epoch, rows, late, outputs, positions }))
    }

    /// Copies more rows into the sealed epoch, as they were when it was sealed. True when it is complete.
    ///
    /// # Errors
    /// An operator failed.
    pub fn seal_more(&mut self, sealed: &mut Sealed, now: Timestamp) -> Result<bool, TaskError> {
        let rows_max = self.seal_rows;
        self.copy(sealed, rows_max, now)?;
        Ok(!self.copying)
    }

    fn copy(&mut self, sealed: &mut Sealed, rows_max: usize, now: Timestamp) -> Result<(), TaskError> {
        if self.copying {
            self.copying = !self.each_op(now, |op, cx| op.seal_more(cx, rows_max))?;
            if !self.copying {
                self.stores.iter_mut().for_each(|store| store.end_seal(&mut sealed.late));
            }
        }
        Ok(())
    }

    /// Whether the sealed epoch is still incomplete.
    #[must_use]
    pub fn is_copying(&self) -> bool {
        self.copying
    }

    /// Calls `f` for every operator; true if all of them are done.
    fn each_op(
        &mut self,
        now: Timestamp,
        call: impl Fn(&mut dyn Operator, &mut Cx<'_>) -> Result<bool, StateError>,
    ) -> Result<bool, TaskError> {
        let mut discard = Step::default();
        let mut all = true;
        for n in 0..self.nodes.len() {
            let call = |op: &mut dyn Operator, cx: &mut Cx<'_>| {
                all &= call(op, cx).map_err(OperatorError::Fatal)?;
                Ok(())
            };
            self.with_op(n, 0, now, call, &mut discard)?;
        }
        Ok(all)
    }

    /// Whether the sealed epoch is complete and every delivery of it durable. True if none is sealed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.copying && self.sealed.is_none_or(|(_, n)| n == 0)
    }

    /// The sealed epoch is committed and its rows are in the backend.
    pub fn applied(&mut self) {
        debug_assert!(self.is_settled(), "an epoch is applied after it settled");
        self.sealed = None;
        self.committed.clone_from(&self.sealed_positions);
        self.spent = self.stores.iter_mut().filter_map(Store::applied).collect();
    }

    /// What the last applied epoch left in memory, to be dropped by a thread that has time.
    pub fn take_spent(&mut self) -> Vec<Spent> {
        std::mem::take(&mut self.spent)
    }
}
