//! Time, keys and the stateless operators from YAML to JSON lines: whole topologies through `simulate`, the production
//! task on virtual time.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use slackwater::model::{Record, Timestamp, Value};
use slackwater::runtime::{Input, Step, Task, TaskId, TaskOptions};
use slackwater::state::{Backend, MemoryBackend};
use slackwater::testing::simulate;
use slackwater::topology::Topology;
use slackwater::yaml::{Mode, load};

fn topology(yaml: &str) -> Arc<Topology> {
    let text = format!("name: t\nkafka: {{ brokers: none }}\n{yaml}");
    let loaded = load("t.yaml", &text, Mode::Lenient, &|_| None);
    Arc::new(loaded.unwrap_or_else(|e| panic!("{}", e.render(false))).topology)
}

/// Lines in; out `STEP TO KEY VALUE TS` or `STEP REASON`.
#[track_caller]
fn check(yaml: &str, input: &[Json], want: &[&str]) {
    let lines: String = input.iter().map(|line| format!("{line}\n")).collect();
    let mut out = Vec::new();
    simulate(topology(yaml), lines.as_bytes(), &mut out, 1).expect("simulates");
    let shown = |line: &str| {
        let line: Json = serde_json::from_str(line).expect("is JSON");
        let text = |name: &str| line[name].as_str().map_or_else(|| line[name].to_string(), Into::into);
        match line.get("dropped") {
            Some(_) => format!("{} {}", line["step"], text("dropped")),
            None => {
                format!("{} {} {} {} {}", line["step"], text("to"), text("key"), line["value"], line["ts"])
            }
        }
    };
    let got: Vec<String> = String::from_utf8(out).expect("is text").lines().map(shown).collect();
    assert_eq!(got, want, "{yaml}");
}

fn send(topic: &str, key: impl Into<Json>, value: Json, ts: i64) -> Json {
    json!({ "topic": topic, "key": key.into(), "value": value, "ts": ts })
}

fn restart() -> Json {
    json!({ "restart": true })
}

#[test]
fn a_duplicate_is_known_after_a_restart_and_forgotten_in_time() {
    let yaml = "sources: { in: { kafka: { topic: in } } }\ntime: { clock: stream }\noperators:\n  \
                once: { from: in, dedupe: { by: .id, within: 10ms } }\nsinks: { out: { from: once, blackhole: {} } }\n";
    let id = |id: &str| json!({ "id": id });
    check(
        yaml,
        &[
            send("in", "a", id("x"), 100),
            restart(),
            send("in", "b", id("x"), 110),
            restart(),
            send("in", "b", id("y"), 111),
            restart(),
            // The clock is back as well: an entry that had expired before the restart has expired after it.
            send("in", "b", id("x"), 105),
            restart(),
            send("in", "b", id("y"), 121),
            send("in", "b", id("y"), 122),
        ],
        &[
            "0 out a {\"id\":\"x\"} 100",
            "2 duplicate",
            "4 out b {\"id\":\"y\"} 111",
            "6 out b {\"id\":\"x\"} 105",
            "8 duplicate",
            "9 out b {\"id\":\"y\"} 122",
        ],
    );
}

#[test]
fn a_timestamp_that_is_none_is_an_error_of_its_record() {
    let yaml = "sources: { in: { kafka: { topic: in, timestamp: .at } } }\nsinks: { out: { from: in, blackhole: {} } }\n\
                errors: { on_failure: skip }\n";
    let at = |at: Json| send("in", "k", json!({ "at": at }), 5);
    check(
        yaml,
        &[
            at(json!(7)),
            at(json!(-1)),
            at(json!("soon")),
            at(json!(null)),
            at(json!(1.5)),
            at(json!("9")),
            at(json!("1970-01-01T00:00:00.011Z")),
            send("in", "k", json!(null), 5),
            at(json!(0)),
        ],
        &[
            "0 out k {\"at\":7} 7",
            "1 bad_timestamp",
            "2 bad_timestamp",
            "3 bad_timestamp",
            "4 bad_timestamp",
            "5 out k {\"at\":\"9\"} 9",
            "6 out k {\"at\":\"1970-01-01T00:00:00.011Z\"} 11",
            "7 out k null 5",
            "8 out k {\"at\":0} 0",
        ],
    );
}

#[test]
fn a_tombstone_without_a_time_of_its_own_deletes_its_row() {
    let yaml = "sources:\n  in: { kafka: { topic: in } }\n  \
                rows: { kafka: { topic: rows, timestamp: .at }, table: {} }\noperators:\n  \
                j: { from: in, join: { with: rows, type: left, value: '[left, right.at]' } }\n\
                sinks: { out: { from: j, blackhole: {} } }\n";
    check(
        yaml,
        &[
            send("rows", "k", json!({ "at": 7 }), 5),
            send("in", "k", json!(1), 8),
            send("rows", "k", json!(null), 9),
            send("in", "k", json!(2), 10),
        ],
        &["1 out k [1,7] 8", "3 out k [2,null] 10"],
    );
}

#[test]
fn what_was_read_again_comes_in_the_order_of_its_own_time() {
    let yaml = "sources:\n  orders: { kafka: { topic: orders, timestamp: .at } }\n  \
                prices: { kafka: { topic: prices, timestamp: .at }, table: {} }\noperators:\n  \
                priced: { from: orders, join: { with: prices, value: '[left.at, right.at]' } }\n\
                sinks: { out: { from: priced, blackhole: {} } }\n";
    let at = |topic: &str, at: i64| send(topic, "k", json!({ "at": at }), 5);
    check(
        yaml,
        &[at("prices", 10), at("orders", 15), at("prices", 20), at("orders", 25)],
        &["1 out k [15,10] 15", "3 out k [25,20] 25"],
    );
}

#[test]
fn null_is_no_key_and_the_nodes_below_say_what_becomes_of_it() {
    let yaml = "sources:\n  in: { kafka: { topic: in } }\n  names: { kafka: { topic: names }, table: {} }\noperators:\n  \
                by: { from: in, key_by: .user }\n  count: { from: by, aggregate: { count: {} } }\n  \
                inner: { from: by, join: { with: names } }\n  left: { from: by, join: { with: names, type: left } }\n\
                sinks:\n  plain: { from: by, blackhole: {} }\n  counts: { from: count, blackhole: {} }\n  \
                joined: { from: [inner, left], blackhole: {} }\n";
    check(
        yaml,
        &[
            send("names", "ann", json!("Ann"), 1),
            send("in", "1", json!({ "user": "ann" }), 2),
            send("in", "2", json!({ "user": null }), 3),
        ],
        &[
            "1 plain ann {\"user\":\"ann\"} 2",
            "1 counts ann 1 2",
            "1 joined ann {\"left\":{\"user\":\"ann\"},\"right\":\"Ann\"} 2",
            "1 joined ann {\"left\":{\"user\":\"ann\"},\"right\":\"Ann\"} 2",
            "2 plain null {\"user\":null} 3",
            "2 null_key",
            "2 null_key",
            "2 joined null {\"left\":{\"user\":null},\"right\":null} 3",
        ],
    );
}

#[test]
fn the_first_branch_that_is_true_takes_the_record_and_a_peek_changes_nothing() {
    let yaml = "sources: { in: { kafka: { topic: in } } }\noperators:\n  \
                sized: { from: in, branch: { large: .n > 10, positive: .n > 0, rest: true } }\n  \
                alone: { from: in, branch: { large: .n > 10 } }\n  \
                seen: { from: sized.positive, peek: { level: info, rate: 1/s } }\n  \
                all: { from: [sized.large, seen], merge: {} }\n  lines: { from: all, flat_map: '[.n, \"x\"]' }\nsinks:\n  \
                every: { from: lines, blackhole: {} }\n  rest: { from: sized.rest, blackhole: {} }\n  \
                some: { from: alone.large, blackhole: {} }\n";
    let n = |n: i64, ts: i64| send("in", "k", json!({ "n": n }), ts);
    check(
        yaml,
        &[n(11, 1), n(5, 2), n(0, 3), send("in", "k", json!({ "n": -1 }), 4)],
        &[
            "0 every k 11 1",
            "0 every k \"x\" 1",
            "0 some k {\"n\":11} 1",
            "1 every k 5 2",
            "1 every k \"x\" 2",
            "2 rest k {\"n\":0} 3",
            "3 rest k {\"n\":-1} 4",
        ],
    );
}

/// `simulate` lets nothing come from the future, so this is the task itself: the wall clock stands still.
#[test]
fn a_record_from_the_future_closes_no_windows_however_far_below() {
    for (clock, closes) in [("hybrid", false), ("stream", true)] {
        let topology = topology(&format!(
            "time: {{ clock: {clock} }}\nsources: {{ in: {{ kafka: {{ topic: in }} }} }}\noperators:\n  \
             a: {{ from: in, filter: true }}\n  b: {{ from: a, filter: true }}\n  \
             n: {{ from: b, aggregate: {{ window: {{ tumbling: 1m }}, emit: final, count: {{}} }} }}\n\
             sinks: {{ out: {{ from: n, blackhole: {{}} }} }}\n"
        ));
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
        let (now, mut step) = (Timestamp(1_000_000), Step::default());
        let id = TaskId { sub: 0, partition: 0 };
        let mut task =
            Task::open(&topology, id, &backend, &TaskOptions::default(), now, &mut step).expect("opens");
        for ts in [now.0, now.0 + 3_600_000] {
            let record = Record::new("k", Value::Bytes("1".into()), Timestamp(ts));
            task.step(Input::Records { topic: 0, records: vec![record] }, now, &mut step).expect("takes it");
        }
        assert_eq!(step.deliveries.len(), usize::from(closes), "{clock}");
    }
}
