//! `enrich`: one API call per record, its answer set into the record.
//!
//! A record becomes a *pending call*, with a sequence number and a row, so that after a crash the call is made again.
//! Calls of different keys run in parallel up to a bound; calls of one key run in order, one at a time. A record
//! without a key waits for no other. Retries wait on the wall clock and occupy no slot. A record leaves with its answer
//! or is refused: none passes without.
//!
//! Records leave in the order of their answers; `operators/shared/pending.rs` explains how stream time is held for
//! those still pending.
//!
//! HTTP and the meaning of its answers are in `clients/`, rate limits and the circuit breaker in `runtime/calls/`.

mod config;
mod row;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;

pub use config::{Calls, ConfigError, EnrichConfig, HttpConfig};
pub use row::describe_row;

use super::shared::pending::{Arrival, Pending};
use super::{Count, Cx, Gauge, Load, Operator, OperatorError, OwnMetrics, Query, Reject};
use crate::model::{
    Call, CallRequest, HttpRequest, Json, Millis, Reason, Record, Reply, Scope, Timestamp, Value,
};
use crate::state::StateError;

/// Attempts that were not a call's first.
pub static RETRIES: Count = Count { name: "call_retries_total", help: "Calls made again.", label: None };
/// Calls not yet answered, queued ones included.
pub static CALLS_PENDING: Gauge = Gauge { name: "calls_pending", help: "Calls waiting or sent." };
const METRICS: OwnMetrics = OwnMetrics { counts: &[&RETRIES], gauges: &[&CALLS_PENDING] };

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Behind another call of its key.
    Queued,
    /// Waits for a free slot.
    Ready,
    /// Handed to the driver.
    InFlight,
    /// Waits for its next attempt.
    Waiting,
}

/// What is known of a pending call besides its record.
struct Progress {
    /// Ready to send, or why it cannot be: settings that changed under a pending call may not fit its record.
    request: Result<HttpRequest, Refusal>,
    attempt: u32,
    stage: Stage,
}

#[derive(Clone)]
struct Refusal {
    reason: Reason,
    detail: String,
}

/// The operator. One store: pending calls.
pub struct Enrich {
    config: EnrichConfig,
    pending: Pending<Progress>,
    /// Per key, its pending calls in order: all but the first are `Queued`.
    lanes: HashMap<Bytes, VecDeque<u64>>,
    ready: BTreeSet<u64>,
    waiting: BTreeSet<(Timestamp, u64)>,
    unsendable: Vec<u64>,
    in_flight: usize,
}

impl Enrich {
    /// The operator for these settings, with nothing pending.
    ///
    /// # Errors
    /// The settings contradict each other: see [`HttpConfig::checked`].
    pub fn new(config: EnrichConfig) -> Result<Enrich, ConfigError> {
        config.http.checked()?;
        Ok(Enrich {
            pending: Pending::new(row::FORMAT, config.calls_pending_max.get()),
            config,
            lanes: HashMap::new(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            unsendable: Vec::new(),
            in_flight: 0,
        })
    }

    /// The request for a record that can take the answer.
    fn prepare(&self, record: &Record) -> Result<HttpRequest, Refusal> {
        let not_json = |detail: String| Refusal { reason: Reason::NotJson, detail };
        let path = &self.config.into;
        let value = if path.steps().is_empty() || record.value.is_null() {
            record.value.clone()
        } else {
            let json = record.value.json().map_err(|e| not_json(e.to_string()))?;
            if !path.fits(&json) {
                let into = path.text();
                return Err(not_json(format!("`{into}` cannot be set: the value there is no JSON object")));
            }
            Value::Json(json)
        };
        let scope = Scope { value: &value, ..Scope::of(record) };
        self.config.http.request(&scope).map_err(|e| Refusal { reason: e.reason(), detail: e.to_string() })
    }

    /// Queues a call behind those of its key; what is kept of it in memory.
    fn admit(&mut self, seq: u64, key: Option<&Bytes>, request: Result<HttpRequest, Refusal>) -> Progress {
        let mut stage = Stage::Ready;
        if let Some(key) = key {
            let lane = self.lanes.entry(key.clone()).or_default();
            if !lane.is_empty() {
                stage = Stage::Queued;
            }
            lane.push_back(seq);
        }
        if stage == Stage::Ready {
            self.ready.insert(seq);
        }
        if request.is_err() {
            self.unsendable.push(seq);
        }
        Progress { request, attempt: 0, stage }
    }

    /// Starts calls while slots are free, oldest first.
    fn pump(&mut self, cx: &mut Cx<'_>) {
        while self.in_flight < self.config.calls_in_flight_max.get() {
            let Some(seq) = self.ready.pop_first() else { return };
            let Some(held) = self.pending.get_mut(seq) else { continue };
            let Ok(request) = &held.state.request else { continue };
            held.state.attempt += 1;
            held.state.stage = Stage::InFlight;
            self.in_flight += 1;
            if held.state.attempt > 1 {
                cx.tally.add(&RETRIES, 1);
            }
            cx.call(Call {
                id: seq,
                attempt: held.state.attempt,
                key: held.arrival.record.key.clone(),
                request: CallRequest::Http(request.clone()),
            });
        }
    }

    /// Ends a call, whatever its outcome: forgets it, and lets the next call of its key go. The arrival, and how often
    /// the call was made.
    fn finish(&mut self, seq: u64, cx: &mut Cx<'_>) -> Option<(Arrival, u32)> {
        let done = self.pending.remove(seq, cx)?;
        self.ready.remove(&seq);
        if let Some(key) = &done.arrival.record.key
            && let Some(lane) = self.lanes.get_mut(key)
        {
            if lane.front() == Some(&seq) {
                lane.pop_front();
            } else {
                lane.retain(|s| *s != seq);
            }
            match lane.front() {
                None => {
                    self.lanes.remove(key);
                }
                Some(front) => {
                    if let Some(next) = self.pending.get_mut(*front)
                        && next.state.stage == Stage::Queued
                    {
                        next.state.stage = Stage::Ready;
                        self.ready.insert(*front);
                    }
                }
            }
        }
        Some((done.arrival, done.state.attempt))
    }

    fn reject(&mut self, seq: u64, refusal: Refusal, cx: &mut Cx<'_>) {
        if let Some((arrival, attempts)) = self.finish(seq, cx) {
            let Refusal { reason, detail } = refusal;
            cx.reject(Reject { reason, detail, record: arrival.record, attempts });
        }
    }

    /// Waits for the next attempt, or gives up.
    fn retry(&mut self, seq: u64, detail: String, after: Option<Millis>, cx: &mut Cx<'_>) {
        let Some(held) = self.pending.get_mut(seq) else { return };
        let attempt = held.state.attempt;
        if self.config.retry.is_last(attempt) {
            let detail = format!("gave up after attempt {attempt}: {detail}");
            return self.reject(seq, Refusal { reason: Reason::Exhausted, detail }, cx);
        }
        let own = seq.to_be_bytes();
        let key = held.arrival.record.key.as_deref().unwrap_or(&own);
        let at = cx.now.plus(self.config.retry.delay(key, attempt, after));
        held.state.stage = Stage::Waiting;
        self.waiting.insert((at, seq));
    }

    fn answer(&mut self, seq: u64, answer: Json, cx: &mut Cx<'_>) {
        let Some((arrival, attempts)) = self.finish(seq, cx) else { return };
        let Arrival { record, clock, .. } = arrival;
        if self.config.into.steps().is_empty() && answer.is_null() {
            let detail = "the answer has no value, and `into: .` would make a tombstone of the record".into();
            cx.reject(Reject { reason: Reason::NullValue, detail, record, attempts });
            return;
        }
        match self.config.into.set(&record.value, answer) {
            Ok(value) => self.pending.forward(clock, Record { value, ..record }, cx),
            Err(detail) => cx.reject(Reject { reason: Reason::NotJson, detail, record, attempts }),
        }
    }
}

impl Operator for Enrich {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        for (seq, arrival) in self.pending.rescan(cx)? {
            let request = self.prepare(&arrival.record);
            let progress = self.admit(seq, arrival.record.key.as_ref(), request);
            self.pending.resume(seq, arrival, progress);
        }
        self.pump(cx);
        Ok(())
    }

    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let arrival = self.pending.arrive(record, cx);
        let request = match self.prepare(&arrival.record) {
            Ok(request) => request,
            Err(refusal) => {
                return Err(OperatorError::reject(arrival.record, refusal.reason, refusal.detail));
            }
        };
        let seq = self.pending.next_id();
        let progress = self.admit(seq, arrival.record.key.as_ref(), Ok(request));
        self.pending.hold(arrival, progress, cx)?;
        self.pump(cx);
        Ok(())
    }

    fn wall_deadline(&self) -> Option<Timestamp> {
        if !self.unsendable.is_empty() {
            return Some(Timestamp::MIN);
        }
        self.waiting.first().map(|(at, _)| *at)
    }

    fn on_wall(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        for seq in std::mem::take(&mut self.unsendable) {
            if let Some(Err(refusal)) = self.pending.get(seq).map(|p| &p.state.request) {
                let refusal = refusal.clone();
                self.reject(seq, refusal, cx);
            }
        }
        while let Some((at, seq)) = self.waiting.first().copied()
            && at <= cx.now
        {
            self.waiting.pop_first();
            if let Some(held) = self.pending.get_mut(seq) {
                held.state.stage = Stage::Ready;
                self.ready.insert(seq);
            }
        }
        self.pending.catch_up(cx);
        self.pump(cx);
        Ok(())
    }

    fn on_reply(&mut self, call: u64, reply: Reply, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        // A late answer: its call was made again by another run of this task, or is over.
        if self.pending.get(call).is_none_or(|p| p.state.stage != Stage::InFlight) {
            return Ok(());
        }
        self.in_flight -= 1;
        match reply {
            Reply::Answer(json) => self.answer(call, json, cx),
            // Only sinks answer this way; the row they return counts as the answer.
            Reply::Delivered(row) => self.answer(call, row.unwrap_or(Json::Null), cx),
            Reply::Again { message, after } => self.retry(call, message, after, cx),
            Reply::Refused { message } => {
                self.reject(call, Refusal { reason: Reason::Refused, detail: message }, cx);
            }
        }
        self.pending.catch_up(cx);
        self.pump(cx);
        Ok(())
    }

    fn on_watermark(&mut self, cx: &mut Cx<'_>) {
        self.pending.on_watermark(cx);
    }

    fn oldest(&self, topic: u16) -> Option<i64> {
        self.pending.oldest_offset(topic)
    }

    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        self.pending.query(query)
    }

    fn load(&self) -> Load {
        Load {
            keys: self.lanes.len(),
            bytes: self.pending.bytes(),
            calls: self.pending.len(),
            full: self.pending.is_full(),
        }
    }

    fn gauges(&self, show: &mut dyn FnMut(&'static Gauge, usize)) {
        show(&CALLS_PENDING, self.pending.len());
    }
}

/// The record in a row of pending calls, as it came into the node.
///
/// # Errors
/// The bytes are no such row.
pub fn pending_record(row: &[u8]) -> Result<Record, StateError> {
    row::decode(row).map(|arrival| arrival.record)
}
