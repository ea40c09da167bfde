//! Numbers, equality and null through whole topologies (`docs/formats.md`): a value comes out as what went in, by every
//! way there is.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use slackwater::testing::simulate;
use slackwater::topology::Topology;
use slackwater::yaml::{Mode, load};

fn topology(text: &str) -> Topology {
    let loaded = load("t.yaml", text, Mode::Lenient, &|_| None);
    loaded.unwrap_or_else(|report| panic!("{}", report.render(false))).topology
}

/// The lines that come out of `simulate`, a checkpoint after each that goes in.
fn lines(yaml: &str, input: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    let result = simulate(Arc::new(topology(yaml)), input.join("\n").as_bytes(), &mut out, 1);
    let text = String::from_utf8(out).expect("is text");
    result.unwrap_or_else(|e| panic!("{e}\n{text}"));
    text.lines().map(str::to_owned).collect()
}

/// What comes out: `to key value`, or the reason of a drop.
fn run(yaml: &str, input: &[String]) -> Vec<String> {
    let show = |line: String| {
        let json: Json = serde_json::from_str(&line).expect("is JSON");
        match json.get("dropped") {
            Some(reason) => format!("dropped {}", reason.as_str().expect("text")),
            None => {
                // The value as it is written, whatever it is.
                let value = line.split_once("\"value\":").expect("a value").1;
                let value = value.rsplit_once(",\"ts\":").expect("a time").0;
                format!(
                    "{} {} {value}",
                    json["to"].as_str().expect("a topic"),
                    json["key"].as_str().unwrap_or("-")
                )
            }
        }
    };
    let calls = |line: &String| line.contains("\"call\":");
    lines(yaml, input).into_iter().filter(|line| !calls(line)).map(show).collect()
}

fn record(value: &str, ts: i64) -> String {
    format!(r#"{{"topic": "in", "key": "k", "value": {value}, "ts": {ts}}}"#)
}

const WAYS: &str = r#"
name: t
kafka: { brokers: "localhost:9092" }
sources:
  in: { kafka: { topic: in } }
operators:
  copied: { from: in, map: '{ "n": .n }' }
  computed: { from: in, map: '{ "n": .n, "is": .n == .n }' }
  last: { from: in, aggregate: { last: .n } }
  least: { from: in, aggregate: { fields: { n: max(.n), c: 'collect(.n, 1)' } } }
  folded: { from: in, aggregate: { fold: { init: null, step: .n } } }
  waits: { from: in, debounce: { quiet: 1s, keep: all } }
  merged: { from: in, debounce: { quiet: 1s, keep: { merge: . } } }
  by-one: { from: in, key_by: '"one"' }
  far: { from: by-one, aggregate: { last: .n } }
  rows: { from: in, table: {} }
  both: { from: in, join: { with: rows, value: '{ "l": left.n, "r": right.n }' } }
  joined: { from: in, join: { with: rows, value: '{ "r": right.n, "s": left.n == right.n }' } }
sinks:
  plain: { from: in, kafka: { topic: plain } }
  valued: { from: in, kafka: { topic: valued, value: .n } }
  copied-out: { from: copied, kafka: { topic: copied } }
  computed-out: { from: computed, kafka: { topic: computed } }
  last-out: { from: last, kafka: { topic: last } }
  least-out: { from: least, kafka: { topic: least } }
  folded-out: { from: folded, kafka: { topic: folded } }
  waits-out: { from: waits, kafka: { topic: waits } }
  merged-out: { from: merged, kafka: { topic: merged } }
  far-out: { from: far, kafka: { topic: far } }
  both-out: { from: both, kafka: { topic: both } }
  joined-out: { from: joined, kafka: { topic: joined } }
"#;

/// Sends one number by every way, with a restart before the last results.
fn by_every_way(n: &str) {
    let value = format!("{{\"n\":{n}}}");
    let restart = || json!({"restart": true}).to_string();
    // Again after a restart: what an aggregate remembers is read from disk.
    let input =
        [record(&value, 1000), restart(), record("{}", 1001), json!({"advance_ms": 5000}).to_string()];
    let out = run(WAYS, &input);
    let expect = |line: String| assert!(out.contains(&line), "{line} is not in\n{}", out.join("\n"));
    expect(format!("plain k {value}"));
    expect(format!("valued k {n}"));
    expect(format!("copied k {value}"));
    expect(format!("computed k {{\"is\":true,\"n\":{n}}}"));
    expect(format!("last k {n}"));
    expect(format!("least k {{\"n\":{n},\"c\":[{n}]}}"));
    expect(format!("folded k {n}"));
    expect(format!("waits k [{value},{{}}]"));
    expect(format!("far one {n}"));
    expect(format!("both k {{\"l\":{n},\"r\":{n}}}"));
    expect(format!("joined k {{\"r\":{n},\"s\":true}}"));
    assert_eq!(out.iter().filter(|line| **line == format!("last k {n}")).count(), 2, "and from disk");
    assert!(!out.iter().any(|line| line.starts_with("dropped") || line.starts_with("t.dlq")), "{out:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_double_comes_out_as_it_went_in(bits in any::<u64>()) {
        let n = f64::from_bits(bits);
        prop_assume!(n.is_finite());
        by_every_way(&json!(n).to_string());
    }

    #[test]
    fn every_whole_number_comes_out_as_it_went_in(n in any::<i64>()) {
        by_every_way(&n.to_string());
    }
}

#[test]
fn numbers_at_the_edges_come_out_as_they_went_in() {
    for n in
        ["0", "-0.0", "1.0", "0.1", "100.0", "1e+16", "5e-324", "1.7976931348623157e+308", "9007199254740993"]
    {
        by_every_way(n);
    }
    by_every_way(&i64::MIN.to_string());
    by_every_way(&i64::MAX.to_string());
    by_every_way(&json!(1.0 / 11.0).to_string());
}

#[test]
fn a_whole_number_of_more_bits_is_kept_or_refused() {
    const YAML: &str = r#"
name: t
kafka: { brokers: "localhost:9092" }
sources:
  in: { kafka: { topic: in } }
operators:
  kept: { from: in, filter: .n > 0 }
  computed: { from: kept, map: '{ "id": .id, "m": .n + 1 }' }
sinks:
  kept-out: { from: kept, kafka: { topic: kept, key: .n } }
  copied-out: { from: kept, kafka: { topic: copied, value: .id } }
  computed-out: { from: computed, kafka: { topic: computed } }
errors: { dead_letter: { topic: dlq } }
"#;
    let check = |id: &str, want: &[&str]| {
        let out = run(YAML, &[record(&format!("{{\"id\": {id}, \"n\": 1}}"), 1)]);
        assert_eq!(out, want, "{id}");
    };
    let value = |id: &str| format!("{{\"id\":{id},\"n\":1}}");
    let (u64_max, beyond) = ("18446744073709551615", "18446744073709551616");
    // VRL's whole numbers have a sign: copied, and refused where it computes.
    check(
        u64_max,
        &[
            &format!("dlq k {}", value(u64_max)),
            &format!("kept 1 {}", value(u64_max)),
            &format!("copied k {u64_max}"),
        ],
    );
    for n in [beyond, "-9223372036854775809", "123456789012345678901234567890"] {
        let (dead, kept) = (format!("dlq k {}", value(n)), format!("kept 1 {}", value(n)));
        check(n, &[&dead, &kept, &dead]);
    }
}

#[test]
fn what_is_the_same_is_one_key_one_group_and_one_member() {
    const YAML: &str = r#"
name: t
kafka: { brokers: "localhost:9092" }
sources:
  in: { kafka: { topic: in } }
  right: { kafka: { topic: right }, table: {} }
operators:
  grouped: { from: in, aggregate: { by: .x, count: {} } }
  distinct: { from: in, aggregate: { distinct: .x } }
  once: { from: in, dedupe: { by: .x, within: 1h } }
  keyed: { from: in, key_by: .x }
  joined: { from: keyed, join: { with: right, value: right.name } }
sinks:
  grouped-out: { from: grouped, kafka: { topic: grouped } }
  distinct-out: { from: distinct, kafka: { topic: distinct } }
  once-out: { from: once, kafka: { topic: once } }
  joined-out: { from: joined, kafka: { topic: joined } }
  sink-key: { from: in, kafka: { topic: sink-key, key: .x, value: '"v"' } }
"#;
    let check = |forms: &[&str], key: &str| {
        let mut input = vec![
            json!({"topic": "right", "key": serde_json::from_str::<Json>(forms[0]).expect("JSON"), "value": {"name": "r"}, "ts": 1})
                .to_string(),
        ];
        input.extend((2..).zip(forms).map(|(ts, form)| record(&format!("{{\"x\": {form}}}"), ts)));
        let out = run(YAML, &input);
        let of = |topic: &str| -> Vec<String> {
            let lines = out.iter().filter_map(|line| line.strip_prefix(topic)?.strip_prefix(' '));
            lines.map(str::to_owned).collect()
        };
        let counts: Vec<String> = (1..=forms.len()).map(|n| format!("{key} {n}")).collect();
        assert_eq!(of("grouped"), counts, "{forms:?}");
        assert_eq!(of("distinct"), vec!["k 1"; forms.len()], "{forms:?}");
        assert_eq!(of("once").len(), 1, "{forms:?}");
        assert_eq!(of("joined"), vec![format!("{key} \"r\""); forms.len()], "{forms:?}");
        assert_eq!(of("sink-key"), vec![format!("{key} \"v\""); forms.len()], "{forms:?}");
    };
    check(&["100", "100.0", "1e2"], "100");
    check(&["1e16", "10000000000000000"], "10000000000000000");
    check(&["0", "-0.0"], "0");
    check(&[r#"{"a": 1, "b": [2]}"#, r#"{"b": [2.0], "a": 1.0}"#], r#"{"a":1,"b":[2]}"#);
    check(&["\"1.0\"", "\"1.0\""], "1.0");
}

#[test]
fn a_row_of_a_table_is_taken_back_from_the_group_it_was_in() {
    const YAML: &str = r#"
name: t
kafka: { brokers: "localhost:9092" }
sources:
  in: { kafka: { topic: in }, table: {} }
operators:
  grouped: { from: in, aggregate: { by: .a / .b, count: {} } }
sinks:
  out: { from: grouped, kafka: { topic: out } }
"#;
    let restart = json!({"restart": true}).to_string();
    let input = [record(r#"{"a": 1, "b": 11}"#, 1), restart, record(r#"{"a": 5, "b": 1}"#, 2)];
    assert_eq!(run(YAML, &input), ["out 0.09090909090909091 1", "out 0.09090909090909091 0", "out 5 1"]);
}

#[test]
fn null_is_a_tombstone_on_every_way_and_an_empty_answer_deletes_nothing() {
    const YAML: &str = r#"
name: t
kafka: { brokers: "localhost:9092" }
sources:
  in: { kafka: { topic: in } }
operators:
  same: { from: in, map: . }
  rows: { from: in, table: {} }
  counted: { from: rows, aggregate: { count: {} } }
  asked: { from: in, filter: . != null }
  answered: { from: asked, enrich: { http: { get: "http://h/{{ key }}" }, into: . } }
  noted: { from: asked, enrich: { http: { get: "http://n/{{ key }}" }, into: .answer } }
sinks:
  plain: { from: in, kafka: { topic: plain } }
  same-out: { from: same, kafka: { topic: same } }
  counted-out: { from: counted, kafka: { topic: counted } }
  answered-out: { from: answered, kafka: { topic: answered } }
  noted-out: { from: noted, kafka: { topic: noted } }
errors: { dead_letter: { topic: dlq } }
"#;
    let input = [
        json!({"on_call": "answered", "status": 204, "body": null, "times": 1}).to_string(),
        json!({"on_call": "noted", "status": 204, "body": null, "times": 1}).to_string(),
        record("{\"n\":1}", 1),
        record("null", 2),
        json!({"advance_ms": 1000}).to_string(),
    ];
    let out = run(YAML, &input);
    for line in [
        "plain k null",
        "same k null",
        "counted k 1",
        "counted k 0",
        "dlq k {\"n\":1}",
        "noted k {\"n\":1,\"answer\":null}",
    ] {
        assert!(out.iter().any(|have| have == line), "{line} is not in {out:#?}");
    }
    assert!(!out.iter().any(|line| line.starts_with("answered")), "{out:#?}");
}
