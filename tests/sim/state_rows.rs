//! The rows of a key, of every kind of node that keeps state: what a running task says is what lies on disk after its next
//! checkpoint, and both are shown in words, not as bytes.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value as Json, json};
use slackwater::model::{Millis, Record, Timestamp, Value};
use slackwater::runtime::inspect::{Found, look};
use slackwater::state::{Backend, MemoryBackend};
use slackwater::testing::TopologyTestDriver;
use slackwater::yaml::{Mode, load};

const TOPOLOGY: &str = r#"
name: t
kafka: { brokers: "none:1" }
errors: { on_failure: skip }
sources:
  in: { kafka: { topic: in } }
  others: { kafka: { topic: others } }
  customers: { kafka: { topic: customers }, table: {} }
  prices: { kafka: { topic: prices }, table: { versions: 1h } }
  world: { kafka: { topic: world }, table: { global: true } }
operators:
  settled: { from: in, debounce: { quiet: 10m, keep: all, max_items: 9 } }
  total: { from: in, aggregate: { sum: .n } }
  both: { from: in, aggregate: { fields: { n: "count()", most: "max(.n)" } } }
  minutes: { from: in, aggregate: { window: { tumbling: 1m, grace: 1h }, count: {} } }
  slides: { from: in, aggregate: { window: { sliding: 1m, grace: 1h }, count: {} } }
  sessions: { from: in, aggregate: { window: { session: 30s, grace: 1h }, count: {} } }
  held: { from: minutes, suppress: { until: window_closes } }
  newest: { from: total, suppress: { until: 10m } }
  once: { from: in, dedupe: { within: 10m } }
  pairs: { from: in, join: { with: others, within: { before: 1m, after: 1m }, grace: 1h, type: left } }
  then: { from: in, join: { with: prices, grace: 30m } }
  rows: { from: in, table: {} }
  named: { from: rows, join: { with: customers, on: '"c"' } }
  where: { from: in, join: { with: world, type: left } }
  called: { from: in, enrich: { http: { get: "http://none:1/{{ key }}" }, into: .answer } }
sinks:
  a: { from: [settled, both, slides, sessions, held, newest, once, pairs, then, named, where, called], blackhole: {} }
"#;

fn driver() -> TopologyTestDriver {
    let loaded =
        load("t.yaml", TOPOLOGY, Mode::Required, &|_| None).map_err(|r| r.render(false)).expect("loads");
    let mut driver = TopologyTestDriver::new(Arc::new(loaded.topology)).expect("starts");
    // The calls stay pending.
    let late = slackwater::testing::Answer { latency: Millis::secs(86_400), ..Default::default() };
    driver.on_call("called", late, 100).expect("calls");
    driver
}

fn send(driver: &mut TopologyTestDriver, topic: &str, key: &str, value: &Json, ts: i64) {
    let value = Value::Bytes(Bytes::from(value.to_string()));
    driver.send(topic, Record::new(key.to_owned(), value, Timestamp(ts))).expect("runs");
}

/// What a task says of a key, as lines.
fn asked(driver: &TopologyTestDriver, node: &str, key: &str) -> Vec<Json> {
    driver.query(node, key.as_bytes()).expect("answers").iter().map(|row| row.json("", node)).collect()
}

/// What lies on disk.
fn on_disk(driver: &TopologyTestDriver) -> Vec<Json> {
    let mut lines = Vec::new();
    for rows in driver.snapshot() {
        let backend = MemoryBackend::default();
        let rows: Vec<_> = rows.into_iter().map(|(key, row)| (key, Some(row))).collect();
        backend.write(&rows).expect("writes");
        look(driver.topology(), &backend, &mut |found| {
            if let Found::Row { store, row, .. } = found {
                lines.push(row.json("", &store));
            }
            ControlFlow::Continue(())
        })
        .expect("is read");
    }
    lines
}

/// The nodes and what each has under `k`.
fn expected() -> Vec<(&'static str, Vec<Json>)> {
    let record = |n: i64, ts: i64, offset: i64| json!({ "key": "k", "value": { "n": n }, "ts": ts, "partition": 0, "offset": offset });
    vec![
        (
            "settled",
            vec![json!({
                "key": "k",
                "value": { "count": 2, "first": 1000, "last": 61_000, "due": 661_000, "value": [{ "n": 1 }, { "n": 5 }] },
            })],
        ),
        ("total", vec![json!({ "key": "k", "ts": 61_000, "value": 6 })]),
        ("both", vec![json!({ "key": "k", "ts": 61_000, "value": { "n": 2, "most": 5 } })]),
        (
            "minutes",
            vec![
                json!({ "key": "k", "window": [0, 60_000], "ts": 1000, "value": 1 }),
                json!({ "key": "k", "window": [60_000, 120_000], "ts": 61_000, "value": 1 }),
            ],
        ),
        (
            "sessions",
            vec![
                json!({ "key": "k", "window": [1000, 1000], "ts": 1000, "value": 1 }),
                json!({ "key": "k", "window": [61_000, 61_000], "ts": 61_000, "value": 1 }),
            ],
        ),
        (
            "newest",
            vec![json!({
                "key": "k", "held": 1000,
                "value": { "key": "k", "value": 6, "ts": 61_000, "partition": 0, "offset": 1 },
            })],
        ),
        ("once", vec![json!({ "key": "k", "value": 1000 })]),
        ("customers", vec![json!({ "key": "k", "ts": 500, "value": { "name": "Kim" } })]),
        (
            "prices",
            vec![
                json!({ "key": "k", "ts": 600, "value": 2 }),
                json!({ "key": "k", "ts": 400, "replaced": true, "value": 1 }),
            ],
        ),
        ("world", vec![json!({ "key": "k", "ts": 300, "value": "Oslo" })]),
        ("rows", vec![json!({ "key": "k", "ts": 61_000, "value": { "n": 5 } })]),
        (
            "then",
            vec![
                json!({ "key": "k", "waits_since": 1000, "value": record(1, 1000, 0) }),
                json!({ "key": "k", "waits_since": 61_000, "value": record(5, 61_000, 1) }),
            ],
        ),
        (
            "called",
            vec![
                json!({ "key": "k", "call": 0, "value": record(1, 1000, 0) }),
                json!({ "key": "k", "call": 1, "value": record(5, 61_000, 1) }),
            ],
        ),
    ]
}

fn with_node((node, rows): (&'static str, Vec<Json>)) -> (&'static str, Vec<Json>) {
    let of = |mut row: Json| {
        row["node"] = node.into();
        row["task"] = "".into();
        row
    };
    (node, rows.into_iter().map(of).collect())
}

fn fill(driver: &mut TopologyTestDriver) {
    send(driver, "world", "k", &json!("Oslo"), 300);
    send(driver, "prices", "k", &json!(1), 400);
    send(driver, "customers", "k", &json!({ "name": "Kim" }), 500);
    send(driver, "prices", "k", &json!(2), 600);
    send(driver, "in", "k", &json!({ "n": 1 }), 1000);
    send(driver, "in", "k", &json!({ "n": 5 }), 61_000);
    // The same, begun alike: not to be mixed up.
    send(driver, "in", "kk", &json!({ "n": 7 }), 61_000);
    send(driver, "others", "k", &json!({ "o": 1 }), 61_500);
}

#[test]
fn a_running_task_says_what_will_be_on_disk() {
    let mut driver = driver();
    fill(&mut driver);
    let nodes: Vec<&str> = driver.topology().nodes.iter().map(|n| n.name.as_str()).collect();
    let nodes: Vec<String> = nodes.into_iter().map(str::to_owned).collect();
    let ask = |driver: &TopologyTestDriver| -> Vec<Vec<Json>> {
        nodes.iter().map(|node| asked(driver, node, "k")).collect()
    };
    let open = ask(&driver);
    for (node, want) in expected().into_iter().map(with_node) {
        let at = nodes.iter().position(|n| n == node).expect("a node");
        assert_eq!(open[at], want, "{node}");
    }
    driver.checkpoint().expect("commits");
    assert_eq!(ask(&driver), open, "after the checkpoint");
    let disk = on_disk(&driver);
    for (node, rows) in nodes.iter().zip(&open).filter(|(node, _)| *node != "world") {
        for row in rows {
            assert!(disk.contains(row), "{node}: {row} is not among {disk:#?}");
        }
    }
    // Whatever state there is, nobody has to read bytes.
    let raw: Vec<&Json> = disk.iter().filter(|row| row.to_string().contains("base64")).collect();
    assert!(raw.is_empty(), "{raw:#?}");
    driver.restart().expect("restores");
    assert_eq!(ask(&driver), open, "after a restart");
}

#[test]
fn joins_say_which_records_wait_for_partners_and_which_rows_name_a_key() {
    let mut driver = driver();
    fill(&mut driver);
    let sides: Vec<(Json, Json)> = asked(&driver, "pairs", "k")
        .into_iter()
        .map(|row| (row["side"].clone(), row["value"]["value"].clone()))
        .collect();
    let [left, right] = [json!("left"), json!("right")];
    assert_eq!(
        sides,
        [(left.clone(), json!({ "n": 1 })), (left, json!({ "n": 5 })), (right, json!({ "o": 1 }))]
    );
    // Which node keeps the subscriptions depends on where the two tables lie.
    let halves = driver.topology().nodes.iter().map(|n| n.name.clone()).collect::<Vec<_>>();
    let named: Vec<Json> = halves.iter().flat_map(|node| asked(&driver, node, "c")).collect();
    let by: Vec<&Json> = named.iter().filter_map(|row| row.get("named_by")).collect();
    assert_eq!(by, [&json!("k"), &json!("kk")], "{named:?}");
}

#[test]
fn a_question_for_what_is_not_there_has_no_rows_and_one_for_no_node_is_an_error() {
    let mut driver = driver();
    fill(&mut driver);
    for node in ["settled", "total", "minutes", "held", "once", "prices", "pairs", "then", "world", "called"]
    {
        assert_eq!(asked(&driver, node, "nobody"), Vec::<Json>::new(), "{node}");
    }
    assert_eq!(asked(&driver, "in", "k"), Vec::<Json>::new(), "it keeps nothing");
    assert!(driver.query("nothing", b"k").is_err());
}

#[test]
fn a_look_at_a_node_shows_its_next_records_and_changes_nothing() {
    let (mut quiet, mut looked_at) = (driver(), driver());
    looked_at.tap("total", 2).expect("a node");
    fill(&mut quiet);
    fill(&mut looked_at);
    let seen: Vec<Json> = looked_at.take_tapped().iter().map(|record| record.value.show()).collect();
    assert_eq!(seen, [json!(1), json!(6)], "two, and no third");
    assert_eq!(quiet.take_output(), looked_at.take_output());
    quiet.checkpoint().expect("commits");
    looked_at.checkpoint().expect("commits");
    assert_eq!(quiet.snapshot(), looked_at.snapshot());

    // A sink: the records of its rows.
    looked_at.tap("a", 100).expect("a node");
    send(&mut looked_at, "in", "z", &json!({ "n": 1 }), 62_000);
    let keys: Vec<_> = looked_at.take_tapped().into_iter().filter_map(|record| record.key).collect();
    assert!(keys.iter().filter(|key| **key == "z").count() >= 3, "{keys:?}");
    assert!(looked_at.tap("nothing", 1).is_err());
}
