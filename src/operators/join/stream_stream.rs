//! Two streams: every pair of records with the same key whose timestamps are in the window, exactly once.
//!
//! A pair is in the window when `left - before <= right <= left + after`. Its result has the later timestamp of the two
//! and is sent when the second record comes; several partners in order of time. T is the node's clock (its stream
//! time): the highest timestamp of both sides.
//!
//! In a left or outer join, a record without a partner is sent alone, with its own timestamp, when T has passed its
//! window and grace: a left one at `T > left + after + grace`, a right one at `T > right + before + grace`. These
//! results come before those of the record that advanced T; by timestamp, right before left, by key. A record whose
//! window (without grace) has passed already when it comes, and that finds no partner, is sent alone at once.
//!
//! Records are retained for late partners until their own side has advanced by more than `before + after + grace`, and
//! at least as long as T admits a partner. But a record that was sent alone takes no partner any more (in Kafka Streams
//! it does): a record that finds only such partners is late, and dropped.
//!
//! Records without a value are dropped, but they advance their side's time. So are those without a key, except that one
//! of an outer side is sent alone at once.

use std::ops::ControlFlow;

use super::config::{JoinConfig, JoinType, Within};
use super::result::{Around, Maker, refuse};
use super::window_rows::{self as rows, Counters, Kept, Place, Waiting};
use super::{OWN, Side};
use crate::model::{EvalError, Reason, Record, Timestamp, Value};
use crate::operators::table::row_id;
use crate::operators::{Cx, Operator, OperatorError, Query};
use crate::state::StateError;

/// Unmatched records sent alone by one call of `on_time`.
const LEAVE_MAX: usize = 1024;
/// Expired records deleted with each record.
const PURGE_MAX: usize = 32;

/// The join of two streams.
pub(super) struct StreamStream {
    kind: JoinType,
    before: i64,
    after: i64,
    grace: i64,
    /// `before + after + grace`.
    kept_for: i64,
    maker: Maker,
    counters: Counters,
    /// Whether `counters` has changed since it was stored.
    dirty: bool,
    /// By side, the first segment that has records; `None` if there is none.
    oldest: [Option<i64>; 2],
    /// By side, a time that no waiting record is older than; `None` if none waits.
    waiting: [Option<i64>; 2],
}

impl StreamStream {
    pub(super) fn new(config: &JoinConfig) -> StreamStream {
        let Within { before, after } = config.within.expect("planned with a window");
        let grace = config.grace.unwrap_or_default();
        StreamStream {
            kind: config.kind,
            before: before.0,
            after: after.0,
            grace: grace.0,
            kept_for: before.0.saturating_add(after.0).saturating_add(grace.0),
            maker: Maker::new(config),
            counters: Counters { newest: [i64::MIN; 2], next: 0 },
            dirty: false,
            oldest: [None; 2],
            waiting: [None; 2],
        }
    }

    /// Whether records of this side are sent alone if they find no partner.
    fn is_outer(&self, side: Side) -> bool {
        match side {
            Side::Left => self.kind != JoinType::Inner,
            Side::Right => self.kind == JoinType::Outer,
        }
    }

    /// How much later than a record of this side its partner may be.
    fn span(&self, side: Side) -> i64 {
        match side {
            Side::Left => self.after,
            Side::Right => self.before,
        }
    }

    /// The last clock at which a record of this side still waits for a partner.
    fn close(&self, side: Side, ts: i64) -> i64 {
        ts.saturating_add(self.span(side)).saturating_add(self.grace)
    }

    fn segment(&self, ts: i64) -> i64 {
        ts.div_euclid(self.kept_for.max(1))
    }

    /// Whether a record of this side may still find a partner.
    fn is_kept(&self, side: Side, ts: i64, clock: Timestamp) -> bool {
        let newest = self.counters.newest[side.at()];
        ts > newest.saturating_sub(self.kept_for) || clock.0 <= self.close(side, ts)
    }

    /// The partners of a record that may still be joined, and whether there were others that may not.
    fn partners(&self, place: &Place, cx: &mut Cx<'_>) -> Result<(Vec<(i64, Kept)>, bool), StateError> {
        let other = place.side.other();
        let from = place.ts.saturating_sub(self.span(other));
        let to = place.ts.saturating_add(self.span(place.side));
        let mut found = Vec::new();
        if let Some(oldest) = self.oldest[other.at()] {
            for segment in self.segment(from).max(oldest)..=self.segment(to) {
                rows::find(cx.store(OWN), other, segment, &place.id, (from, to), &mut found)?;
            }
        }
        found.retain(|(ts, _)| self.is_kept(other, *ts, cx.clock));
        let all = found.len();
        found.retain(|(_, kept)| !kept.gone);
        let missed = all > found.len();
        Ok((found, missed))
    }

    fn send(
        &self,
        record: Record,
        side: Side,
        partner: &Value,
        cx: &mut Cx<'_>,
    ) -> Result<(), Box<(Record, EvalError)>> {
        let (left, right) = match side {
            Side::Left => (&record.value, partner),
            Side::Right => (partner, &record.value),
        };
        let around = Around::of(&record);
        match self.maker.make(&around, left, right) {
            Ok(value) => {
                cx.forward(Record { value, ..record });
                Ok(())
            }
            Err(e) => Err(Box::new((record, e))),
        }
    }

    /// Sends a record on alone.
    fn send_alone(&self, record: Record, side: Side, cx: &mut Cx<'_>) {
        if let Err(failed) = self.send(record, side, &Value::Null, cx) {
            let (record, e) = *failed;
            refuse(record, &e, cx);
        }
    }

    /// Keeps a record for partners to come.
    fn keep(&mut self, place: &Place, kept: &Kept, cx: &mut Cx<'_>) -> Result<(), StateError> {
        rows::put(cx.store(OWN), place, kept)?;
        let oldest = &mut self.oldest[place.side.at()];
        *oldest = Some(oldest.map_or(place.segment, |o| o.min(place.segment)));
        self.counters.next += 1;
        self.dirty = true;
        Ok(())
    }

    /// Deletes some expired records of a side.
    fn purge(&mut self, side: Side, cx: &mut Cx<'_>) -> Result<(), StateError> {
        // Retained one millisecond longer than needed.
        let keep = self.segment(self.counters.newest[side.at()].saturating_sub(self.kept_for));
        let oldest = &mut self.oldest[side.at()];
        if oldest.is_some_and(|oldest| oldest < keep) {
            *oldest = rows::purge(cx.store(OWN), side, keep, PURGE_MAX)?;
        }
        Ok(())
    }

    fn leave(&self, waiting: &Waiting, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let Waiting { side, id, ts, numbers } = waiting;
        rows::stop_waiting(cx.store(OWN), *side, *ts, id)?;
        for number in numbers {
            let place =
                Place { side: *side, segment: self.segment(*ts), id: id.clone(), ts: *ts, number: *number };
            let Some(kept) = rows::get(cx.store(OWN), &place)? else { continue };
            rows::replace(cx.store(OWN), &place, &Kept::gone())?;
            self.send_alone(kept.into_record(id, *ts), *side, cx);
        }
        Ok(())
    }
}

impl Operator for StreamStream {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let store = cx.store(OWN);
        if let Some(counters) = rows::counters(store)? {
            self.counters = counters;
        }
        self.oldest = [rows::first_segment(store, Side::Left)?, rows::first_segment(store, Side::Right)?];
        rows::each_waiting(store, &mut |first| {
            self.waiting = [Some(first.ts); 2];
            ControlFlow::Break(())
        })
    }

    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let side = Side::of(cx.input);
        let outer = self.is_outer(side);
        let ts = record.ts.0;
        let newest = &mut self.counters.newest[side.at()];
        if record.key.is_some() && ts.min(cx.clock.0) > *newest {
            *newest = ts.min(cx.clock.0);
            self.dirty = true;
        }
        let Some(key) = record.key.clone().filter(|_| !record.value.is_null()) else {
            match (&record.key, outer) {
                (None, true) if !record.value.is_null() => self.send_alone(record, side, cx),
                (None, false) => cx.drop(Reason::NullKey),
                _ => cx.drop(Reason::NullValue),
            }
            return Ok(());
        };
        // Only what can be parsed is retained; parsed once for all partners.
        let json = match record.value.json() {
            Ok(json) => json,
            Err(e) => return Err(OperatorError::expression(record, &e.into())),
        };
        let mut kept = Kept::of(&record);
        let written = std::mem::replace(&mut record.value, Value::Json(json));
        let id = row_id(&key, record.window);
        let place = Place { side, segment: self.segment(ts), id, ts, number: self.counters.next };
        let (partners, missed) = self.partners(&place, cx)?;
        let mut failed = None;
        let mut last = None;
        for (at, partner) in &partners {
            let partner = partner.value();
            let pair = Record { ts: Timestamp(ts.max(*at)), ..record.clone() };
            if let Err(refused) = self.send(pair, side, &partner, cx) {
                failed.get_or_insert(refused.1);
            }
            if self.is_outer(side.other()) && last != Some(*at) {
                rows::stop_waiting(cx.store(OWN), side.other(), *at, &place.id)?;
                last = Some(*at);
            }
        }
        let alone = partners.is_empty() && !missed;
        let at_once = alone && outer && ts.saturating_add(self.span(side)) < cx.clock.0;
        let stays = self.is_kept(side, ts, cx.clock);
        if partners.is_empty() && !at_once && (missed || !stays) {
            cx.drop(Reason::Late);
        }
        if stays {
            if at_once {
                kept = Kept::gone();
            }
            self.keep(&place, &kept, cx)?;
            if alone && outer && !at_once {
                rows::wait(cx.store(OWN), &place)?;
                let first = &mut self.waiting[side.at()];
                *first = Some(first.map_or(ts, |first| first.min(ts)));
            }
        }
        self.purge(side, cx)?;
        match failed {
            Some(e) => refuse(Record { value: written, ..record }, &e, cx),
            None if at_once => self.send_alone(record, side, cx),
            None => {}
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Timestamp> {
        let due =
            |side: Side| self.waiting[side.at()].map(|ts| Timestamp(self.close(side, ts).saturating_add(1)));
        due(Side::Left).into_iter().chain(due(Side::Right)).min()
    }

    fn on_time(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let clock = cx.clock.0;
        let mut due: Vec<Waiting> = Vec::new();
        let mut first: [Option<i64>; 2] = [None; 2];
        rows::each_waiting(cx.store(OWN), &mut |one| {
            if due.len() == LEAVE_MAX {
                first = first.map(|ts| ts.or(Some(one.ts)));
                return ControlFlow::Break(());
            }
            let ts = one.ts;
            if self.close(one.side, ts) < clock {
                due.push(one);
                return ControlFlow::Continue(());
            }
            first[one.side.at()].get_or_insert(ts);
            let none_due_after = [Side::Left, Side::Right].iter().all(|side| self.close(*side, ts) >= clock);
            if none_due_after {
                first = first.map(|first| first.or(Some(ts)));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        self.waiting = first;
        for waiting in &due {
            self.leave(waiting, cx)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, cx: &mut Cx<'_>) {
        // Waiting records will be sent with their own timestamps, so the watermark below must not pass them.
        let oldest = self.waiting.iter().flatten().min().map_or(cx.clock, |ts| Timestamp(*ts));
        cx.watermark(cx.clock.min(oldest));
    }

    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        for side in [Side::Left, Side::Right] {
            rows::query(query, side, self.oldest[side.at()])?;
        }
        Ok(())
    }

    fn seal(&mut self, cx: &mut Cx<'_>) {
        if self.dirty {
            rows::put_counters(cx.store(OWN), &self.counters);
            self.dirty = false;
        }
    }
}
