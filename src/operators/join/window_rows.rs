//! The rows of a join of two streams, in one store:
//!
//! ```text
//! [side: 0 left, 1 right][segment, 8][id length, 4][id][timestamp, 8][number, 8] -> a record of that side
//! [2][timestamp, 8][side: 0 right, 1 left][id]                                   -> numbers of records without a partner
//! [3]                                                                            -> newest timestamps and next number
//! ```
//!
//! The records of an id lie together in order of time, so a record finds its partners with short scans. A segment is as
//! long as records are retained, so there are two scans at most, and expired records are deleted from the front. The
//! second kind of row is the order in which unmatched records are sent. Numbers are big-endian and keep their order as
//! bytes.

use std::ops::ControlFlow;

use bincode::{Decode, Encode};
use bytes::Bytes;

use super::Side;
use crate::model::{Headers, Json, Record, Timestamp, Value, Window};
use crate::operators::Query;
use crate::operators::shared::describe;
use crate::operators::shared::describe::Described;
use crate::operators::shared::expiry::Expiring;
use crate::operators::table::read_row_id;
use crate::state::codec::{self, ordered_i64, read_ordered_i64};
use crate::state::{StateError, Store, after_prefix};

/// A kept record without null headers.
const VERSION: u8 = 1;
/// A kept record with null headers.
const VERSION_NULLS: u8 = 2;
const WAITING: u8 = 2;
const COUNTERS: u8 = 3;

/// A record that is kept for partners to come. With `Vec<u8>` for a header's value it is the row of version 1.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(super) struct Kept<H = Option<Vec<u8>>> {
    /// It was sent alone: it takes no partner any more, and its value is not kept.
    pub gone: bool,
    value: Vec<u8>,
    window: Option<(i64, i64)>,
    headers: Vec<(String, H)>,
}

impl Kept {
    pub(super) fn of(record: &Record) -> Kept {
        Kept {
            gone: false,
            value: record.value.bytes().unwrap_or_default().to_vec(),
            window: record.window.map(|w| (w.start.0, w.end.0)),
            headers: record.headers.iter().map(|(n, v)| (n.to_owned(), v.map(|v| v.to_vec()))).collect(),
        }
    }

    pub(super) fn gone() -> Kept {
        Kept { gone: true, value: Vec::new(), window: None, headers: Vec::new() }
    }

    /// Its value.
    pub(super) fn value(&self) -> Value {
        Value::Bytes(Bytes::copy_from_slice(&self.value))
    }

    /// The record as it came, without its origin.
    pub(super) fn into_record(self, id: &[u8], ts: i64) -> Record {
        let window = self.window.map(|(start, end)| Window { start: Timestamp(start), end: Timestamp(end) });
        // The window's bounds are the last 16 bytes of the id.
        let key_len = if window.is_some() { id.len().saturating_sub(16) } else { id.len() };
        Record {
            key: Some(Bytes::copy_from_slice(&id[..key_len])),
            value: Value::Bytes(Bytes::from(self.value)),
            ts: Timestamp(ts),
            window,
            headers: Headers::new(self.headers.into_iter().map(|(n, v)| (n, v.map(Bytes::from)))),
            ..Record::default()
        }
    }
}

impl Kept {
    fn encode(&self) -> Result<Bytes, StateError> {
        if self.headers.iter().any(|(_, value)| value.is_none()) {
            return codec::encode(VERSION_NULLS, self);
        }
        let Kept { gone, value, window, headers } = self.clone();
        let headers = headers.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect();
        codec::encode(VERSION, &Kept::<Vec<u8>> { gone, value, window, headers })
    }

    fn decode(row: &[u8]) -> Result<Kept, StateError> {
        if row.first() == Some(&VERSION_NULLS) {
            return codec::decode(VERSION_NULLS, row);
        }
        let Kept { gone, value, window, headers } = codec::decode::<Kept<Vec<u8>>>(VERSION, row)?;
        let headers = headers.into_iter().map(|(name, value)| (name, Some(value))).collect();
        Ok(Kept { gone, value, window, headers })
    }
}

/// Where a kept record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub side: Side,
    pub segment: i64,
    pub id: Bytes,
    pub ts: i64,
    pub number: u64,
}

impl Place {
    fn key(&self) -> Vec<u8> {
        let mut key = prefix(self.side, self.segment, &self.id);
        key.extend_from_slice(&ordered_i64(self.ts));
        key.extend_from_slice(&self.number.to_be_bytes());
        key
    }
}

fn prefix(side: Side, segment: i64, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(13 + id.len() + 16);
    key.extend_from_slice(&segment_prefix(side, segment));
    key.extend_from_slice(&length(id.len()));
    key.extend_from_slice(id);
    key
}

fn segment_prefix(side: Side, segment: i64) -> [u8; 9] {
    let mut key = [side_byte(side); 9];
    key[1..].copy_from_slice(&ordered_i64(segment));
    key
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a record is under 4 GiB").to_be_bytes()
}

fn side_byte(side: Side) -> u8 {
    match side {
        Side::Left => 0,
        Side::Right => 1,
    }
}

fn damaged() -> StateError {
    StateError("a join's row is damaged".into())
}

fn i64_at(key: &[u8], at: usize) -> Result<i64, StateError> {
    key.get(at..).and_then(|rest| rest.first_chunk::<8>()).map(|b| read_ordered_i64(*b)).ok_or_else(damaged)
}

pub(super) fn put(store: &mut Store, place: &Place, kept: &Kept) -> Result<(), StateError> {
    store.put_new(&place.key(), kept.encode()?);
    Ok(())
}

/// Replaces what [`put`] wrote.
pub(super) fn replace(store: &mut Store, place: &Place, kept: &Kept) -> Result<(), StateError> {
    store.put(&place.key(), kept.encode()?);
    Ok(())
}

pub(super) fn get(store: &Store, place: &Place) -> Result<Option<Kept>, StateError> {
    store.get(&place.key())?.map(|row| Kept::decode(&row)).transpose()
}

/// The records of an id and segment with `from <= timestamp <= to`, in order of time, then of arrival.
pub(super) fn find(
    store: &Store,
    side: Side,
    segment: i64,
    id: &[u8],
    (from, to): (i64, i64),
    found: &mut Vec<(i64, Kept)>,
) -> Result<(), StateError> {
    let mut first = prefix(side, segment, id);
    let at = first.len();
    let mut end = first.clone();
    first.extend_from_slice(&ordered_i64(from));
    end.extend_from_slice(&ordered_i64(to.saturating_add(1)));
    let mut failed = None;
    store.scan(&first, Some(&end), &mut |key, row| {
        match i64_at(key, at).and_then(|ts| Ok((ts, Kept::decode(row)?))) {
            Ok(one) => found.push(one),
            Err(e) => {
                failed = Some(e);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(()), Err)
}

/// The rows of a side, which expire by segment.
fn of_side(range: &[u8; 2]) -> Expiring<'_> {
    Expiring { from: &range[..1], to: Some(&range[1..]), time_of: |key| i64_at(key, 1) }
}

/// The first segment of a side that has rows.
pub(super) fn first_segment(store: &Store, side: Side) -> Result<Option<i64>, StateError> {
    of_side(&[side_byte(side), side_byte(side) + 1]).first(store)
}

/// Deletes up to `max` records of a side from segments before `keep`. Returns the first segment left.
pub(super) fn purge(store: &mut Store, side: Side, keep: i64, max: usize) -> Result<Option<i64>, StateError> {
    let range = [side_byte(side), side_byte(side) + 1];
    let (expired, left) = of_side(&range).expired(store, max, |segment| segment < keep)?;
    for key in expired {
        store.delete(&key);
    }
    Ok(left)
}

/// Records without a partner so far: those of one side, id and timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub side: Side,
    pub id: Bytes,
    pub ts: i64,
    pub numbers: Vec<u64>,
}

fn waiting_key(side: Side, ts: i64, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(10 + id.len());
    key.push(WAITING);
    key.extend_from_slice(&ordered_i64(ts));
    // Right before left, as in Kafka Streams.
    key.push(match side {
        Side::Right => 0,
        Side::Left => 1,
    });
    key.extend_from_slice(id);
    key
}

pub(super) fn wait(store: &mut Store, place: &Place) -> Result<(), StateError> {
    let key = waiting_key(place.side, place.ts, &place.id);
    let mut numbers = store.get(&key)?.map_or_else(Vec::new, |row| row.to_vec());
    let first = numbers.is_empty();
    numbers.extend_from_slice(&place.number.to_be_bytes());
    if first {
        store.put_new(&key, Bytes::from(numbers));
    } else {
        store.put(&key, Bytes::from(numbers));
    }
    Ok(())
}

/// Called when a record found a partner or was sent alone.
pub(super) fn stop_waiting(store: &mut Store, side: Side, ts: i64, id: &[u8]) -> Result<(), StateError> {
    let key = waiting_key(side, ts, id);
    if store.get(&key)?.is_some() {
        store.delete(&key);
    }
    Ok(())
}

/// Adds the records of a side and a key, from its first segment on.
pub(super) fn query(query: &mut Query<'_>, side: Side, first: Option<i64>) -> Result<(), StateError> {
    let mut next = first;
    while let Some(segment) = next {
        query.prefix(&prefix(side, segment, query.key()))?;
        // Those with a window: its bounds are the last 16 bytes of the id.
        let (id_len, wanted) = (query.key().len() + 16, query.key());
        let from = [&segment_prefix(side, segment)[..], &length(id_len), wanted].concat();
        let id_at = from.len() - wanted.len();
        let is_of_key = |row: &[u8]| read_row_id(&row[id_at..id_at + id_len]).0 == wanted;
        query.scan(&from, &after_prefix(&from), is_of_key)?;
        let later = after_prefix(&segment_prefix(side, segment));
        let later = query.first_key(&later, Some(&[side_byte(side) + 1]))?;
        next = later.map(|key| i64_at(&key, 1)).transpose()?;
    }
    Ok(())
}

/// A row for people; `None` where the bytes are no such row.
pub(super) fn describe_row(key: &[u8], value: &[u8]) -> Option<Described> {
    let name = |side: Side| match side {
        Side::Left => "left",
        Side::Right => "right",
    };
    match *key.first()? {
        kind @ (0 | 1) => {
            let side = if kind == 0 { Side::Left } else { Side::Right };
            let length = u32::from_be_bytes(*key.get(9..)?.first_chunk::<4>()?);
            let id = key.get(13..)?.get(..usize::try_from(length).ok()?)?;
            let ts = i64_at(key, 13 + id.len()).ok()?;
            let kept: Kept = codec::decode(VERSION, value).ok()?;
            let gone = kept.gone;
            let record = kept.into_record(id, ts);
            let shown = if gone { Json::Null } else { describe::record(&record) };
            let row = Described::of_key(record.key.as_deref().unwrap_or_default(), shown);
            let row = row.window(record.window).at("side", name(side)).at("ts", ts);
            Some(if gone { row.at("sent_alone", true) } else { row })
        }
        WAITING => {
            let Waiting { side, id, ts, numbers } = read_waiting(key, value).ok()?;
            let (key, window) = read_row_id(&id);
            let row = Described::of_key(key, numbers.into()).window(window).at("side", name(side));
            Some(row.at("ts", ts).at("without_partner", true))
        }
        COUNTERS => {
            let Counters { newest, next } = read_counters(value).ok()?;
            let row = Described::of_key(b"", Json::from(next)).at("newest", newest.to_vec());
            Some(row.at("next_number", true))
        }
        _ => None,
    }
}

/// Visits waiting records in order.
pub(super) fn each_waiting(
    store: &Store,
    visit: &mut dyn FnMut(Waiting) -> ControlFlow<()>,
) -> Result<(), StateError> {
    let mut failed = None;
    store.scan(&[WAITING], Some(&[WAITING + 1]), &mut |key, row| match read_waiting(key, row) {
        Ok(one) => visit(one),
        Err(e) => {
            failed = Some(e);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

fn read_waiting(key: &[u8], row: &[u8]) -> Result<Waiting, StateError> {
    let ts = i64_at(key, 1)?;
    let side = match key.get(9) {
        Some(0) => Side::Right,
        Some(1) => Side::Left,
        _ => return Err(damaged()),
    };
    let (numbers, rest) = row.as_chunks::<8>();
    if numbers.is_empty() || !rest.is_empty() {
        return Err(damaged());
    }
    let numbers = numbers.iter().map(|n| u64::from_be_bytes(*n)).collect();
    Ok(Waiting { side, id: Bytes::copy_from_slice(&key[10..]), ts, numbers })
}

/// What the join remembers besides records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    /// Highest timestamp of each side's records, left first.
    pub newest: [i64; 2],
    /// Number of the next record.
    pub next: u64,
}

pub(super) fn counters(store: &Store) -> Result<Option<Counters>, StateError> {
    store.get(&[COUNTERS])?.map(|row| read_counters(&row)).transpose()
}

fn read_counters(row: &[u8]) -> Result<Counters, StateError> {
    let next = row.get(17..).and_then(|rest| <[u8; 8]>::try_from(rest).ok()).ok_or_else(damaged)?;
    if row[0] != VERSION {
        return Err(damaged());
    }
    let newest = [i64_at(row, 1)?, i64_at(row, 9)?];
    Ok(Counters { newest, next: u64::from_be_bytes(next) })
}

pub(super) fn put_counters(store: &mut Store, counters: &Counters) {
    let mut row = vec![VERSION];
    row.extend_from_slice(&ordered_i64(counters.newest[0]));
    row.extend_from_slice(&ordered_i64(counters.newest[1]));
    row.extend_from_slice(&counters.next.to_be_bytes());
    store.put(&[COUNTERS], Bytes::from(row));
}
