//! Windows from YAML to JSON lines: whole topologies through `simulate`, the production task on virtual time.

use std::sync::Arc;

use serde_json::{Value, json};
use slackwater::testing::simulate;
use slackwater::yaml::{Mode, load};

fn topology(time: &str, operators: &str, last: &str) -> String {
    format!(
        "name: t\nkafka: {{ brokers: none }}\ntime: {{ clock: {time} }}\nsources:\n  in: {{ kafka: {{ topic: in }} }}\n\
         operators:\n{operators}\nsinks:\n  out: {{ from: {last}, blackhole: {{}} }}\n"
    )
}

/// Input lines and output lines, each output without `to`.
fn check(time: &str, operators: &str, last: &str, input: &[Value], want: &[Value]) {
    let yaml = topology(time, operators, last);
    let loaded = load("t.yaml", &yaml, Mode::Lenient, &|_| None).unwrap_or_else(|e| panic!("{yaml}\n{e:?}"));
    let topology = Arc::new(loaded.topology);
    let lines: String = input.iter().map(|line| format!("{line}\n")).collect();
    // A restart reads again what came after the last checkpoint.
    let restarts = input.iter().any(|line| line.get("restart").is_some());
    for every in [1, 3].into_iter().filter(|every| *every == 1 || !restarts) {
        let mut out = Vec::new();
        simulate(Arc::clone(&topology), lines.as_bytes(), &mut out, every).expect("simulates");
        let got: Vec<Value> = String::from_utf8(out)
            .expect("is text")
            .lines()
            .map(|line| {
                let mut line: Value = serde_json::from_str(line).expect("is JSON");
                line.as_object_mut().expect("is an object").remove("to");
                line
            })
            .collect();
        assert_eq!(got, want, "{operators}");
    }
}

fn send(key: &str, value: Value, ts: i64) -> Value {
    json!({ "topic": "in", "key": key, "value": value, "ts": ts })
}

fn result(step: u64, key: &str, window: [i64; 2], value: Value, ts: i64) -> Value {
    json!({ "step": step, "key": key, "value": value, "ts": ts, "window": window })
}

#[test]
fn a_jump_of_time_does_not_lose_the_final_result() {
    check(
        "stream",
        "  n: { from: in, aggregate: { window: { tumbling: 10ms, grace: 5ms }, emit: final, count: {} } }",
        "n",
        &[send("a", json!(1), 10), send("a", json!(1), 31), send("a", json!(1), 29), send("a", json!(1), 45)],
        &[
            result(1, "a", [10, 20], json!(1), 10),
            result(3, "a", [20, 30], json!(1), 29),
            result(3, "a", [30, 40], json!(1), 31),
        ],
    );
}

#[test]
fn what_is_dropped_for_its_missing_key_or_value_moves_no_clock() {
    let keyless = |ts: i64| json!({ "topic": "in", "key": null, "value": 1, "ts": ts });
    check(
        "stream",
        "  n: { from: in, aggregate: { window: { tumbling: 10ms }, count: {} } }",
        "n",
        &[keyless(31), send("a", json!(1), 10), send("b", json!(null), 31), send("a", json!(1), 10)],
        &[
            json!({ "step": 0, "dropped": "null_key" }),
            result(1, "a", [10, 20], json!(1), 10),
            // Without a value it is counted, and moves the clock.
            result(2, "b", [30, 40], json!(1), 31),
            json!({ "step": 3, "dropped": "late" }),
        ],
    );
    check(
        "stream",
        "  n: { from: in, aggregate: { window: { sliding: 5ms }, count: {} } }",
        "n",
        &[send("a", json!(null), 31), keyless(31), send("a", json!(1), 10)],
        &[
            json!({ "step": 0, "dropped": "null_value" }),
            json!({ "step": 1, "dropped": "null_key" }),
            result(2, "a", [5, 10], json!(1), 10),
        ],
    );
}

#[test]
fn a_sliding_window_of_a_late_record_has_the_records_before_it_too() {
    // Kafka Streams with an in-memory store of the default retention gives 1 for [14,15]: it has forgotten [13,14].
    check(
        "stream",
        "  n: { from: in, aggregate: { window: { sliding: 1ms }, count: {} } }",
        "n",
        &[send("a", json!(1), 14), send("b", json!(1), 15), send("a", json!(1), 15)],
        &[
            result(0, "a", [13, 14], json!(1), 14),
            result(1, "b", [14, 15], json!(1), 15),
            result(2, "a", [15, 16], json!(1), 15),
            result(2, "a", [14, 15], json!(2), 15),
        ],
    );
}

#[test]
fn several_results_of_each_hopping_window() {
    check(
        "stream",
        "  n:\n    from: in\n    aggregate:\n      by: .user\n      window: { hopping: 10ms, every: 5ms }\n      \
         fields: { orders: count(), total: sum(.amount * 2), newest: last(.status), large: \"top(.amount, 2)\" }",
        "n",
        &[
            send("x", json!({ "user": "u", "amount": 3, "status": "new" }), 4),
            send("y", json!({ "user": "u", "amount": 5, "status": "paid" }), 7),
            send("y", json!({ "user": "u", "amount": 1 }), 11),
            send("y", json!({ "user": "u", "amount": 1 }), 6),
        ],
        &[
            result(0, "u", [0, 10], json!({ "orders": 1, "total": 6, "newest": "new", "large": [3] }), 4),
            result(
                1,
                "u",
                [0, 10],
                json!({ "orders": 2, "total": 16, "newest": "paid", "large": [5, 3] }),
                7,
            ),
            result(1, "u", [5, 15], json!({ "orders": 1, "total": 10, "newest": "paid", "large": [5] }), 7),
            result(
                2,
                "u",
                [5, 15],
                json!({ "orders": 2, "total": 12, "newest": "paid", "large": [5, 1] }),
                11,
            ),
            result(2, "u", [10, 20], json!({ "orders": 1, "total": 2, "newest": null, "large": [1] }), 11),
            json!({ "step": 3, "dropped": "late" }),
            result(
                3,
                "u",
                [5, 15],
                json!({ "orders": 3, "total": 14, "newest": "paid", "large": [5, 1] }),
                11,
            ),
        ],
    );
}

#[test]
fn sessions_merge_by_an_expression_and_survive_a_restart() {
    check(
        "stream",
        "  n:\n    from: in\n    aggregate:\n      window: { session: 10ms, grace: 20ms }\n      \
         fold: { init: [], step: 'push(array!(acc), .v)', merge: 'append(array!(left), array!(right))' }",
        "n",
        &[
            send("a", json!({ "v": 1 }), 0),
            send("a", json!({ "v": 2 }), 15),
            json!({ "restart": true }),
            send("a", json!({ "v": 3 }), 8),
        ],
        &[
            result(0, "a", [0, 0], json!([1]), 0),
            result(1, "a", [15, 15], json!([2]), 15),
            result(3, "a", [0, 0], Value::Null, 0),
            result(3, "a", [15, 15], Value::Null, 15),
            result(3, "a", [0, 15], json!([1, 2, 3]), 15),
        ],
    );
}

#[test]
fn suppress_takes_its_grace_from_the_windows_above() {
    check(
        "stream",
        "  n: { from: in, aggregate: { window: { session: 10ms, grace: 5ms }, reduce: 'int!(acc) + int!(.)' } }\n  \
         big: { from: n, filter: '. == null || int!(.) > 0' }\n  \
         once: { from: big, suppress: { until: window_closes } }",
        "once",
        &[send("a", json!(1), 0), send("a", json!(2), 6), send("b", json!(1), 20), send("b", json!(1), 21)],
        // 6 + 10 + 5: the clock is that of the updates.
        &[result(3, "a", [0, 6], json!(3), 6)],
    );
}

#[test]
fn suppress_for_a_time_sends_the_newest() {
    check(
        "stream",
        "  n: { from: in, aggregate: { count: {} } }\n  \
         calm: { from: n, suppress: { until: 10ms, max_records: 1 } }",
        "calm",
        &[
            send("a", json!(1), 0),
            send("a", json!(1), 5),
            send("a", json!(1), 10),
            send("b", json!(1), 11),
            send("c", json!(1), 12),
        ],
        &[
            json!({ "step": 2, "key": "a", "value": 3, "ts": 10 }),
            json!({ "step": 4, "key": "b", "value": 1, "ts": 11 }),
        ],
    );
}

#[test]
fn the_wall_clock_closes_windows_on_an_idle_topic() {
    check(
        "hybrid",
        "  n: { from: in, aggregate: { window: { tumbling: 10s, grace: 5s }, emit: final, count: {} } }\n  \
         m: { from: n, aggregate: { window: { tumbling: 20s }, emit: final, sum: . } }",
        "m",
        &[
            send("a", json!(1), 1000),
            send("a", json!(1), 12_000),
            json!({ "advance_ms": 12_999 }),
            json!({ "advance_ms": 1 }),
        ],
        // [0,20) of the second waits for [10,20) of the first, which is closed at 25 s.
        &[result(3, "a", [0, 20_000], json!(2), 12_000)],
    );
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let refused = |operators: &str, parts: &[&str]| {
        let yaml = topology("stream", operators, "n");
        let report = load("t.yaml", &yaml, Mode::Lenient, &|_| None).expect_err(operators);
        let text = format!("{report:?}");
        for part in parts {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    };
    refused("  n: { from: in, aggregate: { emit: final, count: {} } }", &["no final result"]);
    refused(
        "  n: { from: in, aggregate: { window: { grace: 5s }, count: {} } }",
        &["grace without a window"],
    );
    refused(
        "  n: { from: in, aggregate: { window: { tumbling: 0s }, count: {} } }",
        &["longer than nothing"],
    );
    refused("  n: { from: in, aggregate: { window: { tumbling: 1m } } }", &["nothing says what to compute"]);
    refused("  n: { from: in, aggregate: { count: {}, sum: .a } }", &["one aggregation"]);
    refused("  n: { from: in, aggregate: { fields: { a: median(.x) } } }", &["no aggregation `median`"]);
    refused("  n: { from: in, aggregate: { fields: { a: sum(upcas(.x)) } } }", &["upcas", "upcase"]);
    refused("  n: { from: in, aggregate: { sum: upcas(.x) } }", &["upcas"]);
    refused("  n: { from: in, suppress: { until: window_closes } }", &["has none"]);
    let plain =
        "  m: { from: in, aggregate: { count: {} } }\n  n: { from: m, suppress: { until: window_closes } }";
    refused(plain, &["has none"]);
    refused("  n: { from: in, suppress: { until: soon } }", &["window_closes", "30s"]);
}
