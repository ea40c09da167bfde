//! A change of the key and what follows, in `simulate` and in the tests of a file: the repartition topics work, and are
//! not shown.

use std::sync::Arc;

use slackwater::testing::{run_test, simulate};
use slackwater::topology::Topology;
use slackwater::yaml::{Mode, load};

fn topology(text: &str) -> Topology {
    let loaded = load("t.yaml", text, Mode::Lenient, &|_| None);
    loaded.unwrap_or_else(|report| panic!("{}", report.render(false))).topology
}

fn refused(text: &str) -> String {
    load("t.yaml", text, Mode::Lenient, &|_| None).expect_err("is refused").render(false)
}

/// What comes out, one line each: `step to key value ts`, or the drop's reason.
#[track_caller]
fn check(yaml: &str, every: u64, input: &[&str], expected: &[&str]) {
    let mut out = Vec::new();
    let result = simulate(Arc::new(topology(yaml)), input.join("\n").as_bytes(), &mut out, every);
    let text = String::from_utf8(out).expect("is text");
    result.unwrap_or_else(|e| panic!("{e}\n{text}"));
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let json: serde_json::Value = serde_json::from_str(line).expect("is JSON");
            match json.get("dropped") {
                Some(reason) => format!("{} dropped {}", json["step"], reason.as_str().expect("text")),
                None => {
                    let text = |name: &str| json[name].as_str().unwrap_or("-").to_owned();
                    format!(
                        "{} {} {} {} {}",
                        json["step"],
                        text("to"),
                        text("key"),
                        json["value"],
                        json["ts"]
                    )
                }
            }
        })
        .collect();
    assert_eq!(lines, expected);
}

const ONE: &str = r#"
name: t
kafka: { brokers: "localhost:9092" }
sources:
  orders: { kafka: { topic: orders } }
operators:
  by-buyer: { from: orders, key_by: .buyer }
  settled: { from: by-buyer, debounce: { quiet: 10s, keep: all } }
sinks:
  out: { from: settled, kafka: { topic: settled } }
"#;

#[test]
fn key_by_then_debounce() {
    check(
        ONE,
        1,
        &[
            r#"{"topic": "orders", "key": "1", "value": {"buyer": "ann", "n": 1}, "ts": 1000}"#,
            r#"{"topic": "orders", "key": "2", "value": {"buyer": "bob", "n": 2}, "ts": 2000}"#,
            r#"{"topic": "orders", "key": "3", "value": {"buyer": "ann", "n": 3}, "ts": 3000}"#,
            r#"{"advance_ms": 8999}"#,
            r#"{"advance_ms": 1}"#,
            r#"{"restart": true}"#,
            r#"{"advance_ms": 1000}"#,
        ],
        &[
            r#"4 settled bob [{"buyer":"bob","n":2}] 12000"#,
            r#"6 settled ann [{"buyer":"ann","n":1},{"buyer":"ann","n":3}] 13000"#,
        ],
    );
}

#[test]
fn what_was_not_in_a_checkpoint_comes_once_after_a_restart() {
    check(
        ONE,
        10,
        &[
            r#"{"topic": "orders", "key": "1", "value": {"buyer": "ann", "n": 1}, "ts": 1000}"#,
            r#"{"restart": true}"#,
            r#"{"advance_ms": 10000}"#,
        ],
        &[r#"2 settled ann [{"buyer":"ann","n":1}] 11000"#],
    );
}

#[test]
fn a_record_without_the_new_key_is_refused_where_one_is_needed() {
    let skip = format!("{ONE}errors: {{ on_failure: skip }}\n");
    check(
        &skip,
        1,
        &[
            r#"{"topic": "orders", "key": "1", "value": {"n": 1}, "ts": 0}"#,
            r#"{"topic": "orders", "key": "1", "value": null, "ts": 0}"#,
            r#"{"topic": "orders", "key": "1", "value": {"buyer": 7}, "ts": 0}"#,
            r#"{"advance_ms": 10000}"#,
        ],
        &["0 dropped null_key", "1 dropped null_key", r#"3 settled 7 [{"buyer":7}] 10000"#],
    );
}

#[test]
fn two_key_changes_and_time_in_between() {
    let yaml = r#"
name: t
kafka: { brokers: "localhost:9092" }
sources:
  orders: { kafka: { topic: orders } }
operators:
  by-shop: { from: orders, key_by: .shop }
  by-buyer: { from: by-shop, key_by: .buyer }
  first: { from: by-buyer, debounce: { quiet: 10s } }
  again: { from: first, key_by: .shop }
  second: { from: again, debounce: { quiet: 10s, keep: all } }
sinks:
  out: { from: [first, second], kafka: { topic: out } }
"#;
    let built = topology(yaml);
    let topics: Vec<String> = built.repartitions().into_iter().map(|r| r.topic).collect();
    assert_eq!(topics, ["t-by-buyer-repartition", "t-again-repartition"], "by-shop needs none");
    check(
        yaml,
        1,
        &[
            r#"{"topic": "orders", "key": "1", "value": {"shop": "x", "buyer": "ann"}, "ts": 1000}"#,
            r#"{"topic": "orders", "key": "2", "value": {"shop": "x", "buyer": "bob"}, "ts": 5000}"#,
            r#"{"advance_ms": 60000}"#,
        ],
        &[
            r#"2 out ann {"shop":"x","buyer":"ann"} 11000"#,
            r#"2 out bob {"shop":"x","buyer":"bob"} 15000"#,
            r#"2 out x [{"shop":"x","buyer":"ann"},{"shop":"x","buyer":"bob"}] 25000"#,
        ],
    );
}

#[test]
fn key_by_alone_makes_no_topic_and_a_sink_of_ones_own_is_still_shown() {
    let yaml = r#"
name: t
kafka: { brokers: "localhost:9092" }
sources:
  orders: { kafka: { topic: orders } }
  again: { kafka: { topic: rekeyed } }
operators:
  by-buyer: { from: orders, key_by: .buyer }
  seen: { from: by-buyer, peek: {} }
sinks:
  rekeyed: { from: seen, kafka: { topic: rekeyed, value: .n } }
  out: { from: again, kafka: { topic: out } }
"#;
    assert_eq!(topology(yaml).repartitions(), []);
    check(
        yaml,
        1,
        &[r#"{"topic": "orders", "key": "1", "value": {"buyer": "ann", "n": 1}, "ts": 5}"#],
        &["0 rekeyed ann 1 5", "0 out ann 1 5"],
    );
}

#[test]
fn internal_topics_cannot_be_written_and_are_no_nodes() {
    let run = |line: &str| {
        let mut out = Vec::new();
        simulate(Arc::new(topology(ONE)), line.as_bytes(), &mut out, 1).expect_err("is refused").to_string()
    };
    for topic in ["t-by-buyer-repartition", "by-buyer-repartitioned"] {
        let error = run(&format!(r#"{{"topic": "{topic}", "key": "a", "value": 1}}"#));
        assert!(
            error.contains("no source reads") && error.ends_with("the topology reads: orders"),
            "{error}"
        );
    }
    let text = format!(
        "{ONE}tests:\n  - name: x\n    steps:\n      - expect: {{ by-buyer-repartition: {{ records: 0 }} }}\n"
    );
    let said = refused(&text);
    assert!(said.contains("there is no node or topic `by-buyer-repartition`"), "{said}");
}

#[test]
fn the_run_test_see_one_topology() {
    let text = format!(
        "{ONE}{}",
        r#"
errors: { dead_letter: { topic: t.dlq } }
tests:
  - name: one record for all orders of a buyer
    steps:
      - send: { to: orders, key: "1", value: { buyer: ann, n: 1 } }
      - send: { to: orders, key: "2", value: { buyer: ann, n: 2 } }
      - send: { to: orders, key: "3", value: { n: 3 } }
      - expect: { t.dlq: [ { key: null, value: { n: 3 }, headers: { slackwater-node: settled, slackwater-reason: null_key } } ] }
      - advance: 5s
      - crash
      - advance: 5s
      - expect: { out: [ { key: ann, value: [ { n: 1 }, { n: 2 } ] } ] }
"#
    );
    let loaded = load("t.yaml", &text, Mode::Lenient, &|_| None).expect("loads");
    let topology = Arc::new(loaded.topology);
    for test in &loaded.tests {
        run_test(&topology, test).unwrap_or_else(|f| panic!("{}: {}", test.name, f.message));
    }
}

#[test]
fn the_graph_shows_what_was_declared() {
    let topology = topology(ONE);
    let mermaid = topology.mermaid();
    assert!(mermaid.contains("n1 -. repartition .-> n2"), "{mermaid}");
    assert!(!mermaid.contains("by-buyer-repartition"), "{mermaid}");
    let dot = topology.dot();
    assert!(dot.contains("n1 -> n2 [style=dotted") && !dot.contains("by-buyer-repartition"), "{dot}");
}

#[test]
fn a_key_that_can_never_be_is_refused_at_load() {
    for expr in ["null", "'x = 1; null'"] {
        let text = refused(&ONE.replace("key_by: .buyer", &format!("key_by: {expr}")));
        assert!(text.contains("an expression that yields nothing for a key"), "{text}");
        assert!(text.contains("t.yaml:7:"), "{text}");
    }
}

/// The record keeps its key, and its headers have no trace of the way.
#[test]
fn a_dedupe_by_an_id_keeps_the_records_key() {
    let yaml = r#"
name: t
kafka: { brokers: "localhost:9092" }
sources:
  clicks: { kafka: { topic: clicks } }
operators:
  unique: { from: clicks, dedupe: { by: .id, within: 1m } }
  per-user: { from: unique, aggregate: { count: {} } }
sinks:
  out: { from: unique, kafka: { topic: unique } }
  counts: { from: per-user, kafka: { topic: counts } }
"#;
    check(
        yaml,
        1,
        &[
            r#"{"topic": "clicks", "key": "ann", "value": {"id": 1}, "ts": 1000}"#,
            r#"{"restart": true}"#,
            r#"{"topic": "clicks", "key": "bob", "value": {"id": 1}, "ts": 2000}"#,
            r#"{"topic": "clicks", "key": "ann", "value": {"id": 2}, "ts": 3000}"#,
            r#"{"topic": "clicks", "value": {"id": 3}, "ts": 3000}"#,
        ],
        &[
            r#"0 unique ann {"id":1} 1000"#,
            "0 counts ann 1 1000",
            "2 dropped duplicate",
            r#"3 unique ann {"id":2} 3000"#,
            "3 counts ann 2 3000",
            r#"4 unique - {"id":3} 3000"#,
            "4 dropped null_key",
        ],
    );
}

/// What several nodes send is grouped by one expression, wherever it comes from.
#[test]
fn an_aggregate_of_two_nodes_groups_both_by_its_expression() {
    let yaml = r#"
name: t
kafka: { brokers: "localhost:9092" }
sources:
  web: { kafka: { topic: web } }
  shop: { kafka: { topic: shop } }
operators:
  per-buyer: { from: [web, shop], aggregate: { by: .buyer, count: {} } }
sinks:
  out: { from: per-buyer, kafka: { topic: counts } }
"#;
    check(
        yaml,
        1,
        &[
            r#"{"topic": "web", "key": "1", "value": {"buyer": "ann"}, "ts": 1}"#,
            r#"{"topic": "shop", "key": "2", "value": {"buyer": "ann"}, "ts": 2}"#,
        ],
        &["0 counts ann 1 1", "1 counts ann 2 2"],
    );
}
