//! Records that a node holds until an answer comes: the calls of `enrich`, and rows of a sink that is read from.
//!
//! Each has a number and a row in the node's first store, so that after a crash the question is asked again.
//!
//! Stream time: records leave in the order of their answers, not of their arrival, and a record that is still pending
//! must not become late below. So a record that leaves carries at most the clock the node had before its oldest pending
//! record arrived; when that one leaves too, the clocks below move up to the next. Nodes below therefore see no record
//! later, and no timer earlier, than if every answer had come at once.
//!
//! Which questions are asked, in which order and how often, is the holder's business; it keeps that in `T`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::model::{Record, Timestamp};
use crate::operators::{Cx, Query};
use crate::state::StateError;

/// The store of what is pending: number, big-endian -> row.
const STORE: usize = 0;

/// A record as it came into the node, and the node's clock around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// As it came into the node.
    pub record: Record,
    /// The node's clock before the record came.
    pub before: Timestamp,
    /// The node's clock with the record.
    pub clock: Timestamp,
}

/// How an arrival is written. A format that does not write the clocks reads them back as [`Arrival::restored`] does.
#[derive(Clone, Copy)]
pub struct RowFormat {
    /// The row's bytes.
    pub encode: fn(&Arrival) -> Result<Bytes, StateError>,
    /// The arrival in a row, given the node's clock at the start of the task.
    pub decode: fn(&[u8], Timestamp) -> Result<Arrival, StateError>,
}

impl Arrival {
    /// An arrival read from a row that does not hold its clocks. It counts as the oldest possible one, so the clocks
    /// below stay where the checkpoint left them until every such record has left.
    #[must_use]
    pub fn restored(record: Record, clock: Timestamp) -> Arrival {
        Arrival { record, before: Timestamp::MIN, clock }
    }
}

/// A pending record, and what its holder knows of it.
pub struct Held<T> {
    /// The record and its clocks.
    pub arrival: Arrival,
    /// The holder's part.
    pub state: T,
}

/// The records that a node holds, by number in the order they came.
pub struct Pending<T> {
    format: RowFormat,
    full_at: usize,
    held: BTreeMap<u64, Held<T>>,
    bytes: usize,
    next: u64,
    /// The node's clock when it was last read.
    seen: Timestamp,
    /// The highest stream time given to the nodes below since the task began.
    sent: Timestamp,
}

impl<T> Pending<T> {
    /// An empty list; at `full_at` records the node takes no more input.
    #[must_use]
    pub fn new(format: RowFormat, full_at: usize) -> Pending<T> {
        Pending {
            format,
            full_at,
            held: BTreeMap::new(),
            bytes: 0,
            next: 0,
            seen: Timestamp::MIN,
            sent: Timestamp::MIN,
        }
    }

    /// Reads the rows that an earlier run of the task left, in order. The caller gives each to [`Pending::resume`] or
    /// forgets it.
    ///
    /// # Errors
    /// A row cannot be read: the task does not start.
    pub fn rescan(&mut self, cx: &mut Cx<'_>) -> Result<Vec<(u64, Arrival)>, StateError> {
        self.seen = cx.clock;
        let (decode, clock) = (self.format.decode, cx.clock);
        let mut rows = Vec::new();
        cx.store(STORE).scan(b"", None, &mut |key, row| {
            rows.push(number(key).and_then(|id| Ok((id, decode(row, clock)?))));
            if rows.last().is_some_and(Result::is_err) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        let rows = rows.into_iter().collect::<Result<Vec<_>, _>>()?;
        self.next = rows.last().map_or(0, |(id, _)| id + 1);
        Ok(rows)
    }

    /// Takes back a record that [`Pending::rescan`] found.
    pub fn resume(&mut self, id: u64, arrival: Arrival, state: T) {
        self.bytes += arrival.record.size();
        self.held.insert(id, Held { arrival, state });
    }

    /// Notes the clocks around a record that has come in, whether it is held or refused later.
    pub fn arrive(&mut self, record: Record, cx: &Cx<'_>) -> Arrival {
        let before = self.seen;
        self.seen = self.seen.max(cx.clock);
        Arrival { record, before, clock: self.seen }
    }

    /// The number that the next record will have.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.next
    }

    /// Holds a record, under [`Pending::next_id`], and writes its row.
    ///
    /// # Errors
    /// The row cannot be written: the task stops.
    pub fn hold(&mut self, arrival: Arrival, state: T, cx: &mut Cx<'_>) -> Result<u64, StateError> {
        let id = self.next;
        cx.store(STORE).put_new(&id.to_be_bytes(), (self.format.encode)(&arrival)?);
        self.next += 1;
        self.resume(id, arrival, state);
        Ok(id)
    }

    /// Removes a record and its row, whatever its outcome.
    pub fn remove(&mut self, id: u64, cx: &mut Cx<'_>) -> Option<Held<T>> {
        let done = self.held.remove(&id)?;
        self.forget(id, cx);
        self.bytes = self.bytes.saturating_sub(done.arrival.record.size());
        Some(done)
    }

    /// Removes the row of a record that is not in the list.
    pub fn forget(&self, id: u64, cx: &mut Cx<'_>) {
        cx.store(STORE).delete(&id.to_be_bytes());
    }

    /// Sends a record on after its pending one was removed, with as much stream time as those still pending allow.
    pub fn forward(&mut self, clock: Timestamp, record: Record, cx: &mut Cx<'_>) {
        let held = self.oldest_held().map_or(clock, |before| before.min(clock));
        self.sent = self.sent.max(record.ts.min(held));
        cx.forward_held(record, held);
    }

    /// Moves the clocks below as far as the oldest pending record allows. To be called after every removal.
    pub fn catch_up(&mut self, cx: &mut Cx<'_>) {
        let free = self.oldest_held().unwrap_or(cx.clock);
        if free > self.sent {
            self.sent = free;
            cx.watermark(free);
        }
    }

    /// The node's clock moved without a record: passes the time on, or keeps it until the pending records have left.
    pub fn on_watermark(&mut self, cx: &mut Cx<'_>) {
        self.seen = self.seen.max(cx.clock);
        if self.held.is_empty() {
            self.sent = self.sent.max(cx.clock);
            cx.watermark(cx.clock);
        }
    }

    fn oldest_held(&self) -> Option<Timestamp> {
        self.held.first_key_value().map(|(_, oldest)| oldest.arrival.before)
    }

    /// The record under a number.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Held<T>> {
        self.held.get(&id)
    }

    /// As [`Pending::get`], to change the holder's part.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Held<T>> {
        self.held.get_mut(&id)
    }

    /// Adds the rows of the records that are pending under a key. It walks all of them.
    ///
    /// # Errors
    /// A row cannot be encoded.
    pub fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        let of_key = |held: &Held<T>| held.arrival.record.key.as_deref() == Some(query.key());
        let found: Vec<(&u64, &Held<T>)> = self.held.iter().filter(|(_, held)| of_key(held)).collect();
        for (id, held) in found {
            query.push(&id.to_be_bytes(), (self.format.encode)(&held.arrival)?);
        }
        Ok(())
    }

    /// The number of pending records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there are as many as are allowed: the task takes no more input for now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held.len() >= self.full_at
    }

    /// Bytes of the pending records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The lowest offset of a topic among the pending records. It walks all of them, and is asked once per checkpoint.
    #[must_use]
    pub fn oldest_offset(&self, topic: u16) -> Option<i64> {
        let origins = self.held.values().map(|held| held.arrival.record.origin);
        origins.filter(|o| o.topic == topic && o.offset >= 0).map(|o| o.offset).min()
    }
}

fn number(key: &[u8]) -> Result<u64, StateError> {
    let bytes =
        key.try_into().map_err(|_| StateError(format!("a pending record: key of {} bytes", key.len())))?;
    Ok(u64::from_be_bytes(bytes))
}
