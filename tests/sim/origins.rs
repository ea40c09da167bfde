//! `origin` in expressions: the place of the record that was read, where it is known, and where it is refused.

use std::sync::Arc;

use serde_json::json;
use slackwater::model::{Call, CallRequest, Millis, Record, Timestamp};
use slackwater::testing::{Answer, Output, TopologyTestDriver, run_test};
use slackwater::yaml::{Loaded, Mode, load};

fn loaded(text: &str) -> Loaded {
    load("t.yaml", text, Mode::Lenient, &|_| None).unwrap_or_else(|report| panic!("{report}"))
}

/// Runs the tests of a file.
#[track_caller]
fn passes(text: &str) {
    let loaded = loaded(text);
    let topology = Arc::new(loaded.topology);
    assert!(!loaded.tests.is_empty());
    for test in &loaded.tests {
        if let Err(failure) = run_test(&topology, test) {
            panic!("{}: {}", test.name, failure.message);
        }
    }
}

const ASKS: &str = r#"
name: asks
kafka: { brokers: "localhost:1" }
sources:
  orders: { kafka: { topic: orders } }
  refunds: { kafka: { topics: [refunds, returns] } }
operators:
  real: { from: orders, filter: origin.offset != 1 }
  all: { from: [real, refunds], merge: {} }
  asked: { from: all, enrich: { http: { get: "http://h/x?at={{ origin.topic }}/{{ origin.partition }}/{{ origin.offset }}" }, into: .answer } }
  split: { from: asked, branch: { first: origin.offset == 0, rest: "true" } }
  keyed: { from: split.rest, key_by: origin.topic }
  placed: { from: keyed, map: '{ "at": origin }' }
sinks:
  out: { from: placed, kafka: { topic: out, value: '{ "at": .at, "text": origin.topic + "/" + to_string(origin.offset) }' } }
  firsts: { from: split.first, kafka: { topic: firsts, value: origin } }
tests:
  - name: a record keeps its place through what handles it alone
    steps:
      - send: { to: orders, key: a, value: { n: 1 } }
      - send: { to: orders, key: a, value: { n: 2 } }
      - send: { to: orders, key: a, value: { n: 3 } }
      - send: { to: returns, key: a, value: { n: 1 } }
      - send: { to: refunds, key: a, value: { n: 1 } }
      - send: { to: returns, key: a, value: { n: 2 } }
      - expect:
          firsts:
            - { topic: orders, partition: 0, offset: 0 }
            - { topic: returns, partition: 0, offset: 0 }
            - { topic: refunds, partition: 0, offset: 0 }
          out:
            - { key: orders, value: { at: { topic: orders, partition: 0, offset: 2 }, text: orders/2 } }
            - { key: returns, value: { at: { topic: returns, partition: 0, offset: 1 }, text: returns/1 } }
"#;

#[test]
fn a_record_has_the_place_where_it_was_read() {
    passes(ASKS);
}

#[test]
fn a_call_that_is_made_again_after_a_crash_asks_for_the_same_place() {
    let topology = Arc::new(loaded(ASKS).topology);
    let mut driver = TopologyTestDriver::new(topology).expect("it starts");
    let urls = |driver: &mut TopologyTestDriver| -> Vec<String> {
        let url = |output| match output {
            Output::Called { call: Call { request: CallRequest::Http(http), .. }, .. } => Some(http.url),
            Output::Record { .. } | Output::Dropped { .. } => None,
        };
        driver.take_output().into_iter().filter_map(url).collect()
    };
    let never = Answer { latency: Millis::secs(3600), ..Answer::default() };
    driver.on_call("asked", never, 1).expect("it calls");
    let record = |n: i64| Record::new("a", json!({ "n": n }).into(), Timestamp(n));
    driver.send("refunds", record(1)).expect("is read");
    driver.send("returns", record(2)).expect("is read");
    let first = urls(&mut driver);
    driver.restart().expect("it starts again");
    assert_eq!(first, ["http://h/x?at=refunds/0/0"], "a key's calls are made in order");
    assert_eq!(urls(&mut driver), ["http://h/x?at=refunds/0/0", "http://h/x?at=returns/0/0"]);
}

#[test]
fn a_program_may_have_a_name_of_its_own_for_it() {
    passes(
        r#"
name: own
kafka: { brokers: "localhost:1" }
sources: { in: { kafka: { topic: in } } }
operators:
  counts: { from: in, aggregate: { count: {} } }
  named: { from: counts, map: "origin = . + 1\norigin" }
sinks: { out: { from: named, kafka: { topic: out } } }
tests:
  - name: it is a variable like any other
    steps:
      - send: { to: in, key: a, value: 1 }
      - expect: { out: [ 2 ] }
"#,
    );
}

/// The nodes behind the source, and a part of what is said.
#[track_caller]
fn refused(operators: &str, last: &str, part: &str) {
    let text = format!(
        "name: t
kafka: {{ brokers: \"localhost:1\" }}
sources:
  in: {{ kafka: {{ topic: in }} }}
  table: {{ kafka: {{ topic: rows }}, table: {{}} }}
  made: {{ generate: {{}} }}
operators:
{operators}
sinks: {{ out: {{ from: {last}, blackhole: {{}} }} }}
"
    );
    let report =
        load("t.yaml", &text, Mode::Lenient, &|_| None).map(drop).expect_err("is refused").to_string();
    assert!(report.contains("`origin` is not known here") && report.contains(part), "{report}");
    assert!(report.contains("reads `origin`"), "it has its place: {report}");
}

#[test]
fn it_is_refused_behind_what_makes_records_of_its_own() {
    let asks = "  asks: { from: counts, map: origin.offset }";
    refused(
        &format!("  counts: {{ from: in, aggregate: {{ count: {{}} }} }}\n{asks}"),
        "asks",
        "`counts` (aggregate)",
    );
    refused(
        "  quiet: { from: in, debounce: { quiet: 1s } }\n  counts: { from: quiet, filter: origin.offset > 1 }",
        "counts",
        "`quiet` (debounce)",
    );
    refused(
        "  both: { from: in, join: { with: table, value: '{ \"l\": left, \"at\": origin }' } }",
        "both",
        "`both` (join)",
    );
    refused("  asks: { from: made, map: origin.offset }", "asks", "`made` reads no Kafka topic");
    // Behind the repartition topic the place is another one.
    refused(
        "  keyed: { from: in, key_by: .k }\n  once: { from: keyed, dedupe: { within: 1h } }\n  asks: { from: once, map: origin.offset }",
        "asks",
        "repartition",
    );
}
