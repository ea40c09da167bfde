//! `dedupe`: lets the first record of an id pass and drops the others that come within a time of it.
//!
//! A record is a duplicate when its timestamp is at most `within` away, on either side, from that of the first record
//! of its id. An entry is forgotten when the node's clock has gone more than `within` past it: a record that comes later
//! than that passes as a first one.
//!
//! The store holds one row per id that passed, grouped by segments of length `within`: `[segment][id] ->
//! [version][timestamp]`. A look-up reads three segments at most, and what has expired is deleted segment by segment,
//! in bounded steps, without an index.
//!
//! Equal ids must be in the same task. Where `by` is not the key, the topology puts a [`ById`](super::inserted::by_id)
//! in front, which makes the id the key on the way here.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;

use super::inserted::by_id;
use super::key_by::check_key;
use super::settings::Exprs;
use super::shared::describe::Described;
use super::shared::expiry::Expiring;
use super::{ByIdConfig, Cx, NodeConfig, NodePlan, Operator, OperatorError, OperatorSettings, Query, Timing};
use crate::model::{Expr, Millis, Problem, Reason, Record, Scope, Timestamp, key_text};
use crate::state::codec::{ordered_i64, read_ordered_i64};
use crate::state::{StateError, after_prefix};

/// Lets the first record of an id pass and drops the others that come within a time of it.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DedupeConfig {
    /// What makes two records the same: an expression. Default: the key. Records come together by their ids, through a
    /// topic of the topology's own where the id is not the key; they keep their keys.
    #[serde(default)]
    pub by: Option<Expr>,
    /// How far a duplicate's timestamp may be from the first one's, on either side; exactly so far is a duplicate.
    /// Required. An id is forgotten when the node's clock is more than this past its first record. So a record that comes
    /// so late itself is never remembered: it passes, and so do all others of its id that come as late.
    pub within: Millis,
}

impl OperatorSettings for DedupeConfig {
    fn build(&self, plan: &NodePlan) -> Box<dyn Operator> {
        Box::new(Dedupe::new(self, carries_key(plan)))
    }
    fn keeps_origin(&self) -> bool {
        true
    }
    fn state_kind(&self, kind: &'static str, _: &NodePlan) -> Option<&'static str> {
        Some(kind)
    }
    /// It gives the record its own key back.
    fn changes_key(&self, plan: &NodePlan) -> bool {
        carries_key(plan)
    }
    fn restores_key(&self, plan: &NodePlan) -> bool {
        carries_key(plan)
    }
    fn needs_key_together(&self) -> bool {
        true
    }
    fn timing(&self, _: &NodePlan) -> Timing {
        Timing { refuses_late: true, ..Timing::default() }
    }
    fn regroups_mut(&mut self) -> Option<&mut Expr> {
        self.by.as_mut()
    }
    fn regroup(&self, by: Expr, _: &NodePlan) -> (NodeConfig, &'static str) {
        (NodeConfig::ById(ByIdConfig(by)), "id")
    }
    fn keeps_values(&self) -> bool {
        true
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        self.by.iter_mut().map(|e| (e, &[] as &[&str])).collect()
    }
    fn check(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.by.iter().flat_map(|by| check_key("by", by)).collect();
        if self.within <= Millis::ZERO {
            let help = "write how long an id is remembered, for example `within: 10m`";
            problems.push(Problem::setting("within", "no time at all", help));
        }
        problems
    }
    /// When the first record of an id was.
    fn describe(&self, key: &[u8], value: &[u8], _: &NodePlan) -> Option<Described> {
        Some(Described::of_key(key.get(8..)?, decode(value).ok()?.into()))
    }
    fn label(&self, kind: &'static str) -> String {
        format!("{kind} {}", self.within)
    }
}

/// Is the record's key its id, and its own key in a header?
fn carries_key(plan: &NodePlan) -> bool {
    plan.grouped_by.is_some()
}

/// The only store: ids that passed.
const SEEN: usize = 0;
/// The rows, which expire by segment.
const BY_SEGMENT: Expiring<'_> = Expiring { from: b"", to: None, time_of: segment_of };
/// Format of a row.
const VERSION: u8 = 1;
/// Rows deleted by one call of `on_time`.
const PURGE_MAX: usize = 1024;

/// The operator.
pub struct Dedupe {
    by: Option<Expr>,
    within: i64,
    carried: bool,
    /// The first segment that may have rows; `None` if there are no rows.
    oldest: Option<i64>,
}

impl Dedupe {
    /// The operator with nothing seen. `carried`: the record's key is its id, and its own key is in a header.
    #[must_use]
    pub fn new(config: &DedupeConfig, carried: bool) -> Dedupe {
        Dedupe { by: config.by.clone(), within: config.within.0.max(1), carried, oldest: None }
    }

    fn id(&self, record: &Record) -> Result<Option<Bytes>, crate::model::EvalError> {
        match &self.by {
            None => Ok(record.key.clone()),
            Some(by) => by.eval(&Scope::of(record)).map(|id| key_text(&id)),
        }
    }

    fn segment(&self, ts: i64) -> i64 {
        ts.div_euclid(self.within)
    }

    /// The clock at which every entry of a segment has expired.
    fn expiry(&self, segment: i64) -> Timestamp {
        Timestamp(segment.saturating_add(2).saturating_mul(self.within))
    }

    /// Whether an entry is still remembered.
    fn lives(&self, ts: i64, clock: Timestamp) -> bool {
        clock.0 <= ts.saturating_add(self.within)
    }
}

fn row_key(segment: i64, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + id.len());
    key.extend_from_slice(&ordered_i64(segment));
    key.extend_from_slice(id);
    key
}

fn segment_of(row_key: &[u8]) -> Result<i64, StateError> {
    let segment = row_key.first_chunk::<8>().ok_or_else(|| StateError("dedupe: a key is cut off".into()))?;
    Ok(read_ordered_i64(*segment))
}

fn encode(ts: i64) -> Bytes {
    let mut row = Vec::with_capacity(9);
    row.push(VERSION);
    row.extend_from_slice(&ts.to_be_bytes());
    Bytes::from(row)
}

fn decode(row: &[u8]) -> Result<i64, StateError> {
    match <[u8; 9]>::try_from(row) {
        Ok([VERSION, ts @ ..]) => Ok(i64::from_be_bytes(ts)),
        _ => Err(StateError("dedupe: a row is damaged or of another version".into())),
    }
}

impl Operator for Dedupe {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        self.oldest = BY_SEGMENT.first(cx.store(SEEN))?;
        Ok(())
    }

    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let id = self.id(&record);
        if self.carried {
            by_id::restore(&mut record);
        }
        let id = match id {
            Ok(Some(id)) => id,
            Ok(None) => return Err(OperatorError::reject(record, Reason::NullKey, "dedupe needs an id")),
            Err(e) => return Err(OperatorError::expression(record, &e)),
        };
        let ts = record.ts.0;
        let own = self.segment(ts);
        let last = self.segment(ts.saturating_add(self.within));
        let mut own_is_new = true;
        for segment in self.segment(ts.saturating_sub(self.within))..=last {
            // This segment has no rows: they have expired, or none was ever written.
            if self.oldest.is_none_or(|oldest| segment < oldest) || self.expiry(segment) <= cx.clock {
                continue;
            }
            let Some(row) = cx.store(SEEN).get(&row_key(segment, &id))? else { continue };
            let first = decode(&row)?;
            if self.lives(first, cx.clock) && first.abs_diff(ts) <= self.within.unsigned_abs() {
                cx.drop(Reason::Duplicate);
                return Ok(());
            }
            own_is_new &= segment != own;
        }
        // An entry that is already past its time would be forgotten at once.
        if self.lives(ts, cx.clock) {
            let key = row_key(own, &id);
            if own_is_new {
                cx.store(SEEN).put_new(&key, encode(ts));
            } else {
                cx.store(SEEN).put(&key, encode(ts));
            }
            self.oldest = Some(self.oldest.map_or(own, |oldest| oldest.min(own)));
        }
        cx.forward(record);
        Ok(())
    }

    fn deadline(&self) -> Option<Timestamp> {
        self.oldest.map(|segment| self.expiry(segment))
    }

    fn on_time(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let clock = cx.clock;
        let (expired, left) =
            BY_SEGMENT.expired(cx.store(SEEN), PURGE_MAX, |segment| self.expiry(segment) <= clock)?;
        for key in expired {
            cx.store(SEEN).delete(&key);
        }
        self.oldest = left;
        Ok(())
    }

    /// The rows of an id; those that have expired stay until they are deleted.
    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        let mut next = self.oldest;
        while let Some(segment) = next {
            query.get(&row_key(segment, query.key()))?;
            let later = query.first_key(&after_prefix(&ordered_i64(segment)), None)?;
            next = later.map(|key| segment_of(&key)).transpose()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{Harness, Out, out};
    use super::*;
    use crate::model::Value;

    fn node(config: serde_json::Value) -> Harness {
        let config: DedupeConfig = serde_json::from_value(config).expect("settings");
        assert_eq!(config.check(), []);
        Harness::new(move || Box::new(Dedupe::new(&config, false)))
    }

    fn record(key: &str, ts: i64) -> Record {
        Record::new(key.to_owned(), Value::from(json!({ "id": key, "ts": ts })), Timestamp(ts))
    }

    /// Sends (key, ts) one by one; the answer is P for passed, D for a duplicate. A checkpoint or a restart in between
    /// changes nothing.
    fn check(records: &[(&str, i64)], want: &str) {
        for restarts in [false, true] {
            let mut node = node(json!({ "within": "10ms" }));
            let mut got = String::new();
            for (key, ts) in records {
                let seen = node.record(0, record(key, *ts));
                got.push(match seen.as_slice() {
                    [Out::Record { .. }] => 'P',
                    [Out::Dropped(Reason::Duplicate)] => 'D',
                    other => panic!("{other:?}"),
                });
                if restarts {
                    node.checkpoint();
                    node.restart();
                }
            }
            assert_eq!(got, want, "{records:?}, restarts: {restarts}");
        }
    }

    #[test]
    fn exactly_within_is_a_duplicate_one_more_is_not() {
        check(&[("a", 100), ("a", 110)], "PD");
        check(&[("a", 100), ("a", 111)], "PP");
        check(&[("a", 100), ("a", 90)], "PD");
        check(&[("a", 100), ("a", 89)], "PP");
        check(&[("a", 0), ("a", 0), ("b", 0)], "PDP");
    }

    #[test]
    fn the_first_one_counts_not_the_last() {
        check(&[("a", 100), ("a", 106), ("a", 111), ("a", 121), ("a", 122)], "PDPDP");
        check(&[("a", 100), ("a", 95), ("a", 89)], "PDP");
    }

    #[test]
    fn an_entry_is_forgotten_when_the_clock_is_past_it() {
        check(&[("a", 100), ("b", 110), ("a", 100)], "PPD");
        check(&[("a", 100), ("b", 111), ("a", 100)], "PPP");
        // What passes when it is already past its time is not remembered.
        check(&[("b", 111), ("a", 100), ("a", 100), ("a", 101), ("a", 101)], "PPPPD");
    }

    #[test]
    fn an_older_first_does_not_hide_a_newer_one() {
        check(&[("a", 105), ("a", 94), ("a", 105), ("a", 115)], "PPDD");
        check(&[("a", 100), ("a", 111), ("a", 109), ("a", 121)], "PPDD");
    }

    #[test]
    fn ids_are_what_the_expression_gives() {
        let mut config: DedupeConfig = serde_json::from_value(json!({ "within": "10ms" })).expect("settings");
        config.by = Some(Expr::new(".id", None));
        let mut node = Harness::new(move || Box::new(Dedupe::new(&config, false)));
        let of = |key: &str, value: serde_json::Value| {
            Record::new(key.to_owned(), Value::from(value), Timestamp(5))
        };
        assert_eq!(node.record(0, of("k", json!({ "id": 1 }))), [out("k", json!({ "id": 1 }), 5)]);
        assert_eq!(node.record(0, of("l", json!({ "id": 1 }))), [Out::Dropped(Reason::Duplicate)]);
        assert_eq!(node.record(0, of("k", json!({ "id": null }))), [Out::Rejected(Reason::NullKey)]);
        assert_eq!(node.record(0, of("k", json!({}))), [Out::Rejected(Reason::NullKey)]);
        let bytes = Record::new("k", Value::Bytes(Bytes::from("{")), Timestamp(5));
        assert_eq!(node.record(0, bytes), [Out::Rejected(Reason::NotJson)]);
        let tombstone = Record::new("k", Value::Null, Timestamp(5));
        assert_eq!(node.record(0, tombstone), [Out::Rejected(Reason::NullKey)]);
    }

    #[test]
    fn a_record_without_a_key_is_refused_and_a_tombstone_is_a_record() {
        let mut node = node(json!({ "within": "10ms" }));
        assert_eq!(node.record(0, Record::default()), [Out::Rejected(Reason::NullKey)]);
        let tombstone = || Record::new("", Value::Null, Timestamp(5));
        assert_eq!(node.record(0, tombstone()), [out("", json!(null), 5)]);
        assert_eq!(node.record(0, tombstone()), [Out::Dropped(Reason::Duplicate)]);
    }

    #[test]
    fn what_has_expired_is_deleted() {
        let mut node = node(json!({ "within": "10ms" }));
        for n in 0..3_000 {
            node.record(0, record(&n.to_string(), n / 200));
        }
        assert_eq!(node.checkpoint(), 3_000);
        node.restart();
        assert_eq!(node.deadline(), Some(Timestamp(20)), "segment 0 ends at 9: gone at 20");
        node.watermark(20);
        assert_eq!(
            (node.checkpoint(), node.deadline()),
            (PURGE_MAX, Some(Timestamp(20))),
            "in bounded steps"
        );
        node.watermark(21);
        assert_eq!(node.checkpoint(), 2_000 - PURGE_MAX);
        assert_eq!(node.deadline(), Some(Timestamp(30)));
        node.watermark(1_000);
        assert_eq!((node.checkpoint(), node.deadline()), (1_000, None));
        assert_eq!(node.record(0, record("0", 0)).len(), 1);
        node.record(0, record("x", 1_001));
        node.watermark(2_000);
        assert_eq!(node.checkpoint(), 0, "came and went");
    }

    #[test]
    fn all_rows_of_an_id_are_found_and_no_others() {
        let mut node = node(json!({ "within": "10ms" }));
        for (id, ts) in [("a", 100), ("b", 100), ("ab", 105), ("a", 111), ("b", 115)] {
            node.record(0, record(id, ts));
        }
        let firsts = |node: &Harness, id: &str| -> Vec<i64> {
            node.query(id).iter().map(|(_, row)| decode(row).expect("a row")).collect()
        };
        for _ in 0..2 {
            let found = ["a", "b", "ab", "", "abc"].map(|id| firsts(&node, id));
            assert_eq!(found, [vec![100, 111], vec![100, 115], vec![105], vec![], vec![]]);
            node.checkpoint();
            node.restart();
        }
    }

    #[test]
    fn damaged_rows_stop_the_task() {
        assert_eq!(decode(&encode(-5)).expect("decodes"), -5);
        for bad in [&b""[..], &[2, 0, 0, 0, 0, 0, 0, 0, 0], &[1, 0, 0, 0, 0, 0, 0, 0], &[1; 10]] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
        assert!(segment_of(b"1234567").is_err());
    }

    #[test]
    fn no_time_is_refused() {
        let config: DedupeConfig = serde_json::from_value(json!({ "within": "0s" })).expect("settings");
        assert_eq!(config.check()[0].field, "within");
    }
}
