//! The operator as a task drives it.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::model::Expr;
use crate::operators::{Effects, Emit, OperatorSettings, Tally};
use crate::state::{Backend, MemoryBackend, Store};

/// The node of one task, as the task drives it.
struct Node {
    config: DebounceConfig,
    op: Debounce,
    stores: Vec<Store>,
    backend: Arc<MemoryBackend>,
    clock: Timestamp,
    tally: Tally,
}

impl Node {
    fn new(config: serde_json::Value) -> Node {
        let config: DebounceConfig = serde_json::from_value(config).unwrap();
        assert_eq!(config.check(), []);
        let backend = Arc::new(MemoryBackend::default());
        let stores = vec![Store::new("settled", Arc::clone(&backend) as Arc<dyn Backend>)];
        let op = Debounce::new(&config);
        Node { config, op, stores, backend, clock: Timestamp::MIN, tally: Tally::default() }
    }

    fn call<T>(&mut self, f: impl FnOnce(&mut Debounce, &mut Cx<'_>) -> T) -> (T, Vec<Record>) {
        let mut effects = Effects::default();
        let mut cx =
            Cx::new(self.clock, self.clock, 0, &mut self.stores, &[0], &mut effects, &mut self.tally);
        let result = f(&mut self.op, &mut cx);
        let records = effects.emits.into_iter().map(|e| match e {
            Emit::Record { record, stream, .. } => {
                assert_eq!(record.ts, stream);
                record
            }
            Emit::Watermark(_) => panic!("no watermark of its own"),
        });
        (result, records.collect())
    }

    /// Moves the clock and fires what is due, as the task does before a record and with a watermark.
    fn at(&mut self, ms: i64) -> Vec<Record> {
        self.clock = self.clock.max(Timestamp(ms));
        let mut out = Vec::new();
        while self.op.deadline().is_some_and(|at| at <= self.clock) {
            let (result, records) = self.call(|op, cx| op.on_time(cx));
            result.unwrap();
            out.extend(records);
        }
        out
    }

    /// One record, its own timestamp moving the clock.
    fn record(&mut self, record: Record) -> Result<Vec<Record>, Reason> {
        let mut out = self.at(record.ts.0);
        match self.call(|op, cx| op.on_record(record, cx)) {
            (Ok(()), records) => out.extend(records),
            (Err(OperatorError::Reject(reject)), _) => return Err(reject.reason),
            (Err(OperatorError::Fatal(e)), _) => panic!("{e}"),
        }
        Ok(out)
    }

    fn send(&mut self, key: &str, value: Json, ts: i64) -> Vec<Record> {
        self.record(Record::new(key.to_owned(), Value::from(value), Timestamp(ts))).unwrap()
    }

    fn checkpoint(&mut self) -> usize {
        self.call(|op, cx| {
            op.seal(cx);
            cx.store(PENDING).begin_seal();
            while !op.seal_more(cx, 1).unwrap() {}
        });
        let mut rows = Vec::new();
        self.stores[0].end_seal_rows(&mut rows);
        self.backend.write(&rows).unwrap();
        self.stores[0].applied();
        rows.len()
    }

    fn restart(&mut self) {
        self.op = Debounce::new(&self.config);
        self.call(|op, cx| op.open(cx)).0.unwrap();
    }
}

fn show(records: &[Record]) -> Vec<(i64, String, Json)> {
    records
        .iter()
        .map(|r| (r.ts.0, String::from_utf8_lossy(r.key.as_ref().unwrap()).into_owned(), r.value.show()))
        .collect()
}

fn fired(ts: i64, key: &str, value: Json) -> (i64, String, Json) {
    (ts, key.to_owned(), value)
}

fn header(record: &Record, name: &str) -> String {
    String::from_utf8_lossy(record.headers.get(name).unwrap()).into_owned()
}

#[test]
fn a_key_fires_once_when_it_has_been_quiet() {
    let mut node = Node::new(json!({ "quiet": "30s" }));
    node.send("a", json!(1), 0);
    node.send("a", json!(2), 20_000);
    assert_eq!(show(&node.at(49_999)), []);
    let out = node.at(70_000);
    assert_eq!(show(&out), [fired(50_000, "a", json!(2))]);
    assert_eq!(header(&out[0], HEADER_COUNT), "2");
    assert_eq!(header(&out[0], HEADER_FIRST), "0");
    assert_eq!(header(&out[0], HEADER_LAST), "20000");
    assert_eq!(
        (node.tally.counted(&COLLAPSED), node.tally.counted(&FIRED_QUIET), node.tally.records_out),
        (1, 1, 1)
    );
    assert_eq!(node.op.load().keys, 0);
    assert_eq!(node.op.deadline(), None);
}

#[test]
fn max_wait_bounds_a_key_that_never_goes_quiet() {
    let mut node = Node::new(json!({ "quiet": "30s", "max_wait": "60s" }));
    let mut out = Vec::new();
    for n in 0..13 {
        out.extend(node.send("a", json!(n), n * 10_000));
    }
    // The event at 60 s comes after the firing at 60 s: it begins the next entry.
    assert_eq!(show(&out), [fired(60_000, "a", json!(5)), fired(120_000, "a", json!(11))]);
    assert_eq!(node.tally.counted(&FIRED_MAX_WAIT), 2);
}

#[test]
fn what_fired_at_max_wait_fires_again_when_its_key_is_quiet() {
    let config = json!({ "quiet": "30s", "max_wait": "60s", "trailing": true });
    // A checkpoint or a restart in between changes nothing, nor does how far the clock moves at a time.
    for (restarts, step) in [(false, 1_000), (true, 1_000), (false, 500_000)] {
        let mut node = Node::new(config.clone());
        let mut out = Vec::new();
        for n in 0..6 {
            out.extend(node.send("busy", json!(n), n * 11_000));
        }
        node.send("calm", json!(1), 55_500);
        for at in (56_000..=500_000).step_by(step).chain([500_000]) {
            out.extend(node.at(at));
            if restarts {
                node.checkpoint();
                node.restart();
            }
        }
        let expected = [
            fired(60_000, "busy", json!(5)),
            fired(85_000, "busy", json!(5)),
            fired(85_500, "calm", json!(1)),
        ];
        assert_eq!(show(&out), expected, "{restarts} {step}");
        let counts: Vec<_> = out.iter().map(|r| header(r, HEADER_COUNT)).collect();
        assert_eq!(counts, ["6", "0", "1"]);
        assert_eq!(node.op.load().keys, 0);
        node.checkpoint();
        node.restart();
        assert_eq!(node.op.load().keys, 0, "nothing is left on disk");
    }
}

#[test]
fn an_event_after_max_wait_begins_anew_and_nothing_fires_twice() {
    for keep in ["last", "first"] {
        let mut node =
            Node::new(json!({ "quiet": "30s", "max_wait": "60s", "trailing": true, "keep": keep }));
        node.op.track_origins();
        let send = |node: &mut Node, n: i64, at: i64| {
            let mut record = Record::new("a", Value::from(json!(n)), Timestamp(at));
            record.origin.offset = n;
            node.record(record).unwrap()
        };
        for n in 0..3 {
            send(&mut node, n, n * 20_000);
        }
        let mut out = node.at(60_000);
        assert_eq!(node.op.oldest(0), Some(0), "it is to fire again: its events may not be committed");
        out.extend(send(&mut node, 3, 65_000));
        assert_eq!(node.op.oldest(0), Some(3));
        out.extend(node.at(500_000));
        let first = if keep == "last" { 2 } else { 0 };
        assert_eq!(show(&out), [fired(60_000, "a", json!(first)), fired(95_000, "a", json!(3))]);
        assert_eq!(header(&out[1], HEADER_COUNT), "1");
        assert_eq!(header(&out[1], HEADER_FIRST), "65000");
        assert_eq!(node.op.oldest(0), None);
        assert_eq!(node.tally.counted(&COLLAPSED), 2);
    }
}

#[test]
fn without_a_changelog_no_rows_are_copied_for_nobody() {
    let config = json!({ "quiet": "30s", "max_wait": "60s", "trailing": true });
    for (origins, rows) in [(false, [3, 1, 3]), (true, [0, 0, 0])] {
        let mut node = Node::new(config.clone());
        if origins {
            node.op.track_origins();
        }
        for key in ["a", "b", "c"] {
            node.send(key, json!(key), 0);
        }
        let first = node.checkpoint();
        assert_eq!(show(&node.send("a", json!("again"), 20_000)), []);
        let second = node.checkpoint();
        // What is in memory fires as usual.
        let mut out = node.at(29_999);
        out.extend(node.at(100_000));
        let expected = [(30_000, "b", "b"), (30_000, "c", "c"), (50_000, "a", "again")];
        assert_eq!(show(&out), expected.map(|(ts, key, value)| fired(ts, key, json!(value))));
        assert_eq!([first, second, node.checkpoint()], rows);
        assert_eq!((node.op.load().keys, node.op.oldest(0)), (0, None));
    }
}

#[test]
fn settle_fires_at_a_fixed_time() {
    let mut node = Node::new(json!({ "settle": "30s" }));
    for n in 0..4 {
        assert_eq!(show(&node.send("a", json!(n), n * 9_000)), []);
    }
    assert_eq!(show(&node.send("a", json!(9), 30_000)), [fired(30_000, "a", json!(3))]);
}

#[test]
fn late_events_count_from_the_clock_and_are_collapsed() {
    let mut node = Node::new(json!({ "quiet": "30s" }));
    node.send("other", json!(0), 1_000_000);
    node.send("a", json!(1), 5);
    node.send("a", json!(2), 3);
    let out = node.at(1_030_000);
    assert_eq!(show(&out), [fired(1_030_000, "a", json!(2)), fired(1_030_000, "other", json!(0))]);
    assert_eq!((header(&out[0], HEADER_FIRST), header(&out[0], HEADER_LAST)), ("5".into(), "3".into()));
}

#[test]
fn a_jump_over_hours_fires_by_deadline_then_key() {
    for start in [0, 1_700_000_000_000] {
        let mut node = Node::new(json!({ "quiet": "30s" }));
        for (key, at) in [("c", 7), ("b", 7), ("d", 8), ("a", 6)] {
            node.send(key, json!(null), start + at);
        }
        node.checkpoint();
        node.restart();
        node.send("0", json!(null), start + 9);
        let keys: Vec<_> = show(&node.at(start + 90_000_000)).into_iter().map(|(_, key, _)| key).collect();
        assert_eq!(keys, ["b", "c", "a", "d", "0"], "a came late: it counts from 8");
    }
}

#[test]
fn what_is_kept_is_as_configured() {
    let all = |config: Json, values: &[Json]| {
        let mut node = Node::new(config);
        for (n, value) in (0..).zip(values) {
            node.send("a", value.clone(), n);
            // A checkpoint or a restart in between changes nothing.
            node.checkpoint();
            node.restart();
        }
        let out = node.at(1_000_000);
        assert_eq!(out.len(), 1);
        (out[0].value.show(), out[0].value.is_null())
    };
    let values = [json!({"n": 1}), json!(null), json!("x")];
    assert_eq!(all(json!({"quiet": "1s", "keep": "last"}), &values), (json!("x"), false));
    assert_eq!(all(json!({"quiet": "1s", "keep": "last"}), &values[..2]), (json!(null), true), "a tombstone");
    assert_eq!(all(json!({"quiet": "1s", "keep": "first"}), &values), (json!({"n": 1}), false));
    assert_eq!(all(json!({"quiet": "1s", "keep": "all"}), &values), (json!([{"n": 1}, null, "x"]), false));
    assert_eq!(all(json!({"quiet": "1s", "keep": "all"}), &values[1..2]), (json!([null]), false));
}

#[test]
fn a_merge_sees_the_value_so_far_and_the_event() {
    let mut node = Node::new(json!({ "quiet": "1s" }));
    node.op.keep = KeepConfig::Merge(Expr::native("acc + .", |scope| {
        let acc = scope.vars.iter().find(|(name, _)| *name == "acc").and_then(|(_, acc)| acc.as_i64());
        let own = scope.value.json()?.as_i64();
        match (acc, own) {
            (Some(acc), Some(own)) => Ok(Json::from(acc + own)),
            _ => Err(EvalError::Failed("no number".into())),
        }
    }));
    for n in 1..=4 {
        node.send("a", json!(n), n);
    }
    let bad = Record::new("a", Value::from(json!("x")), Timestamp(5));
    assert_eq!(node.record(bad), Err(Reason::Expression));
    assert_eq!(show(&node.at(2_000)), [fired(1_004, "a", json!(10))], "a refused event does not count");
}

#[test]
fn records_that_cannot_be_folded_are_refused() {
    let mut node = Node::new(json!({ "quiet": "1s", "keep": "all", "max_items": 2 }));
    let record = |key: Option<&'static str>, value: &'static str| Record {
        key: key.map(Bytes::from),
        value: Value::Bytes(Bytes::from(value)),
        ..Record::default()
    };
    assert_eq!(node.record(record(None, "1")), Err(Reason::NullKey));
    assert_eq!(node.record(record(Some("a"), "{")), Err(Reason::NotJson));
    assert_eq!(node.record(record(Some("a"), "1 2")), Err(Reason::NotJson));
    for n in 0..2 {
        assert_eq!(node.record(record(Some("a"), " [1] \n")), Ok(vec![]), "{n}");
    }
    assert_eq!(node.record(record(Some("a"), "3")), Err(Reason::Full));
    assert_eq!(node.record(record(Some("b"), "3")), Ok(vec![]));
    let out = node.at(1_000);
    assert_eq!(show(&out), [fired(1_000, "a", json!([[1], [1]])), fired(1_000, "b", json!([3]))]);
    // An empty key is a key.
    assert_eq!(node.record(record(Some(""), "1")), Ok(vec![]));
}

#[test]
fn the_kept_records_headers_go_on_and_ours_are_replaced() {
    let mut node = Node::new(json!({ "quiet": "1s" }));
    let headers =
        vec![(HEADER_COUNT.to_owned(), Bytes::from("99")), ("traceparent".to_owned(), Bytes::from("00-1"))];
    let mut record = Record::new("a", Value::Null, Timestamp(0));
    record.headers = Headers::new(headers);
    node.record(record).unwrap();
    node.checkpoint();
    node.restart();
    let out = node.at(1_000);
    let names: Vec<_> = out[0].headers.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["traceparent", HEADER_COUNT, HEADER_FIRST, HEADER_LAST]);
    assert_eq!(header(&out[0], HEADER_COUNT), "1");
}

#[test]
fn a_checkpoint_holds_what_changed_and_nothing_that_came_and_went() {
    let mut node = Node::new(json!({ "quiet": "1s" }));
    node.send("a", json!(1), 0);
    node.send("b", json!(1), 500);
    assert_eq!(node.checkpoint(), 2);
    assert_eq!(node.checkpoint(), 0);
    node.send("c", json!(1), 600);
    node.at(1_500);
    assert_eq!(node.checkpoint(), 3, "two tombstones, one row");
    node.send("d", json!(1), 1_600);
    node.at(5_000);
    assert_eq!(node.checkpoint(), 1, "c's tombstone; d was never written");
    node.restart();
    assert_eq!(node.op.load().keys, 0);
}

#[test]
fn many_entries_due_at_once_fire_in_bounded_calls() {
    let mut node = Node::new(json!({ "quiet": "1s" }));
    for n in 0..3_000 {
        node.send(&format!("{n:05}"), json!(n), 0);
    }
    node.clock = Timestamp(1_000);
    let (result, records) = node.call(|op, cx| op.on_time(cx));
    result.unwrap();
    assert_eq!(records.len(), FIRE_MAX);
    let rest = node.at(1_000);
    assert_eq!(rest.len(), 3_000 - FIRE_MAX);
    assert_eq!(rest[0].value.show(), json!(FIRE_MAX));
}

#[test]
fn damaged_state_stops_the_task() {
    let mut node = Node::new(json!({ "quiet": "1s" }));
    node.stores[0].put(b"a", Bytes::from("x"));
    let mut rows = Vec::new();
    node.stores[0].seal(&mut rows);
    node.backend.write(&rows).unwrap();
    node.stores[0].applied();
    let (result, _) = node.call(|op, cx| op.open(cx));
    assert!(result.unwrap_err().0.contains("key \"a\""));
}
