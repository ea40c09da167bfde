//! Tables, joins and dedupe as a user writes them: a YAML file and `simulate`, on stream time alone.

use std::sync::Arc;

use serde_json::Value as Json;
use slackwater::testing::simulate;
use slackwater::yaml::{Mode, load};

/// The file's nodes under a common head.
fn file(nodes: &str) -> String {
    format!("name: t\ntime: {{ clock: stream }}\n{nodes}\n")
}

/// Runs lines `topic key value ts` (`-` is null; `restart` restarts) and compares with lines `step to key value ts` or
/// `step dropped reason`. A restart after every line must not be seen.
fn check(nodes: &str, input: &str, want: &str) {
    let text = file(nodes);
    let none = |_: &str| None;
    let loaded = match load("t.yaml", &text, Mode::Lenient, &none) {
        Ok(loaded) => loaded,
        Err(report) => panic!("{}", report.render(false)),
    };
    let topology = Arc::new(loaded.topology);
    let want: Vec<&str> = want.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    for restarts in [false, true] {
        let mut lines = String::new();
        for line in input.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let parts: Vec<&str> = line.splitn(3, ' ').collect();
            let [topic, key, rest] = parts.as_slice() else { panic!("{line}") };
            let (value, ts) = rest.rsplit_once(' ').expect("value and ts");
            let key_of = |text: &str| if text == "-" { Json::Null } else { Json::from(text) };
            let value = if value == "-" { Json::Null } else { serde_json::from_str(value).expect("JSON") };
            let ts: i64 = ts.parse().expect("a number");
            let record = serde_json::json!({ "topic": topic, "key": key_of(key), "value": value, "ts": ts });
            lines.push_str(&format!("{record}\n"));
            if restarts {
                lines.push_str("{\"restart\": true}\n");
            }
        }
        let mut out = Vec::new();
        simulate(Arc::clone(&topology), lines.as_bytes(), &mut out, 1).expect("runs");
        let got: Vec<String> = String::from_utf8(out)
            .expect("text")
            .lines()
            .map(|line| {
                let line: Json = serde_json::from_str(line).expect("JSON");
                let step = line["step"].as_u64().expect("a step") / if restarts { 2 } else { 1 };
                let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
                if line.get("dropped").is_some() {
                    return format!("{step} dropped {}", text("dropped"));
                }
                let value = if line["value"].is_null() { "-".to_owned() } else { line["value"].to_string() };
                format!("{step} {} {} {value} {}", text("to"), text("key"), line["ts"])
            })
            .collect();
        assert_eq!(got, want, "restarts: {restarts}");
    }
}

/// The problems of a file: message and help.
fn problems(nodes: &str) -> String {
    let none = |_: &str| None;
    match load("t.yaml", &file(nodes), Mode::Lenient, &none) {
        Ok(_) => String::new(),
        Err(report) => report.render(false).split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

const STREAM_AND_TABLE: &str = "
sources:
  orders: { kafka: { topic: orders } }
  customers: { kafka: { topic: customers }, table: {} }
operators:
  both: { from: orders, join: { with: customers } }
  named: { from: orders, join: { with: customers, type: left, value: '{ \"o\": left.n, \"c\": right.name, \"k\": key }' } }
sinks:
  inner: { from: both, blackhole: {} }
  left: { from: named, blackhole: {} }
";

#[test]
fn a_stream_finds_the_row_as_it_is_now() {
    check(
        STREAM_AND_TABLE,
        r#"
        orders a {"n":1} 10
        customers a {"name":"A"} 20
        orders a {"n":2} 5
        customers a {"name":"B"} 3
        orders a {"n":3} 30
        orders b {"n":4} 31
        customers a - 40
        customers b - 40
        orders a {"n":5} 50
        "#,
        r#"
        0 left a {"c":null,"k":"a","o":1} 10
        2 inner a {"left":{"n":2},"right":{"name":"A"}} 5
        2 left a {"c":"A","k":"a","o":2} 5
        4 inner a {"left":{"n":3},"right":{"name":"B"}} 30
        4 left a {"c":"B","k":"a","o":3} 30
        5 left b {"c":null,"k":"b","o":4} 31
        8 left a {"c":null,"k":"a","o":5} 50
        "#,
    );
}

#[test]
fn records_without_key_or_value_are_dropped_or_pass_alone() {
    check(
        STREAM_AND_TABLE,
        r#"
        orders - {"n":1} 10
        orders a - 10
        orders - - 10
        customers - {"name":"A"} 10
        "#,
        r#"
        0 dropped null_key
        0 left - {"c":null,"k":null,"o":1} 10
        1 dropped null_value
        1 dropped null_value
        2 dropped null_key
        2 dropped null_value
        3 dropped null_key
        "#,
    );
}

#[test]
fn a_stream_can_be_made_a_table_and_a_table_read_as_a_stream() {
    check(
        "
sources:
  events: { kafka: { topic: events } }
  orders: { kafka: { topic: orders } }
operators:
  names: { from: events, map: .name }
  customers: { from: names, table: {} }
  both: { from: orders, join: { with: customers } }
sinks:
  out: { from: both, blackhole: {} }
  changes: { from: customers, blackhole: {} }
",
        r#"
        events a {"name":"A"} 10
        orders a {"n":1} 11
        events a {"name":null} 12
        orders a {"n":2} 13
        events - {"name":"X"} 14
        "#,
        r#"
        0 changes a "A" 10
        1 out a {"left":{"n":1},"right":"A"} 11
        2 changes a - 12
        4 dropped null_key
        "#,
    );
}

#[test]
fn what_cannot_be_joined_says_what_to_write() {
    let sources = "
sources:
  orders: { kafka: { topic: orders } }
  clicks: { kafka: { topic: clicks } }
  customers: { kafka: { topic: customers }, table: {} }
  rates: { kafka: { topic: rates }, table: { versions: 1m } }
  world: { kafka: { topic: world }, table: { global: true } }
operators:
  j: ";
    for (join, want) in [
        ("{ from: orders, join: { with: clicks } }", "a join of two streams needs a window"),
        ("{ from: orders, join: { with: custmers } }", "did you mean `customers`?"),
        ("{ from: [orders, clicks], join: { with: customers } }", "a join reads one node"),
        ("{ from: customers, join: { with: orders } }", "turn it round"),
        ("{ from: customers, join: { with: world } }", "cannot be joined with the global table `world`"),
        ("{ from: world, join: { with: customers } }", "it cannot be read as a stream"),
        ("{ from: world, filter: true }", "it cannot be read as a stream"),
        (
            "{ from: orders, join: { with: customers, within: { after: 1m } } }",
            "only a join of two streams has a window",
        ),
        ("{ from: orders, join: { with: clicks, within: { after: 1m }, on: .id } }", "key_by: .id"),
        ("{ from: orders, join: { with: customers, on: .id } }", "table: { global: true }"),
        ("{ from: orders, join: { with: customers, type: outer } }", "no such outer join"),
        ("{ from: orders, join: { with: world, type: outer } }", "no such outer join"),
        ("{ from: customers, join: { with: rates, on: .id, type: outer } }", "no such outer join"),
        ("{ from: orders, join: { with: customers, grace: 1s } }", "keeps no versions"),
        ("{ from: orders, join: { with: rates, grace: 61s } }", "longer than the 1m"),
        ("{ from: customers, join: { with: rates, grace: 1s } }", "remove `grace`"),
        ("{ from: orders, join: { with: world, grace: 1s } }", "remove `grace`"),
        ("{ from: orders, table: { global: true } }", "only a source can be a global table"),
        ("{ from: orders, table: { versions: 0s } }", "no time at all"),
        ("{ from: [orders, clicks], table: {} }", "a table reads one node"),
        ("{ from: orders, join: { with: customers, typ: left } }", "did you mean `type`?"),
        ("{ from: orders, dedupe: { within: 0s } }", "no time at all"),
        ("{ from: orders, dedupe: {} }", "within"),
    ] {
        let got = problems(&format!("{sources}{join}"));
        assert!(got.contains(want), "{join}\n{got}\n{want}");
    }
    let got = problems(&format!("{sources}{{ from: orders, join: {{ with: rates, grace: 60s }} }}"));
    assert_eq!(got, "");
    let got = problems("sources: { s: { kafka: { topic: s }, table: { version: 1h } } }");
    assert!(got.contains("did you mean `versions`?"), "{got}");
    let got = problems("state: { changelog: off }\nsources: { s: { kafka: { topic: s }, table: {} } }");
    assert!(got.contains("a table needs the changelog"), "{got}");
    let got = problems("sources: { s: { kafka: { topic: s }, table: { global: true, versions: 1h } } }");
    assert!(got.contains("a global table has no versions"), "{got}");
    let circle = "
sources: { s: { kafka: { topic: s } } }
operators:
  j: { from: s, join: { with: t } }
  t: { from: j, table: {} }";
    assert!(problems(circle).contains("in a circle"), "{}", problems(circle));
}

#[test]
fn dedupe_keeps_the_first() {
    check(
        "
sources:
  clicks: { kafka: { topic: clicks } }
operators:
  unique: { from: clicks, dedupe: { by: .id, within: 10ms } }
sinks:
  out: { from: unique, blackhole: {} }
",
        r#"
        clicks a {"id":1} 10
        clicks b {"id":1} 20
        clicks b {"id":1} 21
        clicks b {"id":2} 21
        "#,
        r#"
        0 out a {"id":1} 10
        1 dropped duplicate
        2 out b {"id":1} 21
        3 out b {"id":2} 21
        "#,
    );
}

// The outputs of the tests below are those of Kafka Streams' TopologyTestDriver (4.0.0; the foreign keys' of 4.3.1) on the same input.

/// Topics L and R, the tables' settings where they are tables, and the join.
fn sides(left: &str, right: &str, join: &str) -> String {
    format!(
        "
sources:
  l: {{ kafka: {{ topic: L }}{left} }}
  r: {{ kafka: {{ topic: R }}{right} }}
operators:
  j: {{ from: l, join: {{ with: r{join} }} }}
sinks:
  o: {{ from: j, blackhole: {{}} }}
"
    )
}

const TABLE: &str = ", table: {}";
const VERSIONS: &str = ", table: { versions: 50ms }";

#[test]
fn a_versioned_table_is_looked_up_as_of_the_records_time() {
    check(
        &sides("", VERSIONS, ", type: left"),
        r#"
        R a "r1" 10
        R a "r2" 20
        L a "x" 15
        L a "y" 25
        L a "z" 5
        R a "r3" 18
        L a "x" 19
        R a - 30
        L a "w" 31
        "#,
        r#"
        2 o a {"left":"x","right":"r1"} 15
        3 o a {"left":"y","right":"r2"} 25
        4 o a {"left":"z","right":null} 5
        6 o a {"left":"x","right":"r3"} 19
        8 o a {"left":"w","right":null} 31
        "#,
    );
}

#[test]
fn with_grace_a_record_waits_for_late_rows() {
    check(
        &sides("", VERSIONS, ", grace: 10ms"),
        r#"
        R a "r1" 10
        L a "x" 15
        L b "y" 24
        R a "r2" 12
        L b "y" 25
        L a "late" 14
        L a "edge" 15
        "#,
        r#"
        4 o a {"left":"x","right":"r2"} 15
        5 o a {"left":"late","right":"r2"} 14
        6 o a {"left":"edge","right":"r2"} 15
        "#,
    );
}

#[test]
fn a_record_at_the_end_of_all_time_stops_nobody() {
    check(
        &sides("", VERSIONS, ", grace: 10ms"),
        r#"
        R a "r1" 10
        L a "x" 9223372036854775807
        L a "y" 9223372036854775790
        "#,
        r#"
        2 o a {"left":"y","right":"r1"} 9223372036854775790
        "#,
    );
}

#[test]
fn two_tables_are_joined_by_both_sides() {
    check(
        &sides(TABLE, TABLE, ", type: inner"),
        r#"
        R a "r" 5
        L a - 7
        L a "l" 8
        L a - 9
        L a - 10
        R a - 12
        R a - 13
        "#,
        r#"
        1 o a - 7
        2 o a {"left":"l","right":"r"} 8
        3 o a - 9
        4 o a - 10
        "#,
    );
    check(
        &sides(TABLE, TABLE, ", type: left"),
        r#"
        R a "r" 5
        R a - 6
        L a - 7
        L a "l" 8
        L a - 9
        L a - 10
        R a "r" 11
        R a - 12
        L a "l" 3
        R a "r" 2
        L a - 1
        "#,
        r#"
        3 o a {"left":"l","right":null} 8
        4 o a - 9
        8 o a {"left":"l","right":null} 3
        9 o a {"left":"l","right":"r"} 3
        10 o a - 2
        "#,
    );
    check(
        &sides(TABLE, TABLE, ", type: outer"),
        r#"
        L a "l" 8
        R a "r" 12
        L a "m" 3
        L a - 4
        R a - 2
        "#,
        r#"
        0 o a {"left":"l","right":null} 8
        1 o a {"left":"l","right":"r"} 12
        2 o a {"left":"m","right":"r"} 12
        3 o a {"left":null,"right":"r"} 12
        4 o a - 2
        "#,
    );
}

#[test]
fn a_foreign_key_follows_its_row() {
    check(
        &sides(TABLE, TABLE, ", on: .fk"),
        r#"
        R f "r" 5
        L q {"fk":"f"} 8
        L q {"fk":"g"} 9
        L q {"fk":"h"} 10
        L q - 11
        L q - 12
        "#,
        r#"
        1 o q {"left":{"fk":"f"},"right":"r"} 8
        2 o q - 9
        3 o q - 10
        4 o q - 11
        "#,
    );
    // A row whose key has no row: nothing while the key stays; it counts as dropped where it names none.
    check(
        &sides(TABLE, TABLE, ", on: .fk"),
        r#"
        L q {"fk":"f"} 1
        L q {"fk":"f","n":2} 2
        L q {"fk":null} 3
        L q {"fk":null} 4
        "#,
        r#"
        2 dropped null_key
        2 o q - 3
        3 dropped null_key
        "#,
    );
    check(
        &sides(TABLE, TABLE, ", on: .fk, type: left"),
        r#"
        L p {"fk":null} 1
        R f "r1" 30
        L p {"fk":"f"} 2
        L p {"fk":"g"} 3
        L p {"fk":"f"} 4
        R f - 5
        L p - 6
        L p - 7
        "#,
        r#"
        0 o p {"left":{"fk":null},"right":null} 1
        2 o p {"left":{"fk":"f"},"right":"r1"} 30
        3 o p {"left":{"fk":"g"},"right":null} 3
        4 o p {"left":{"fk":"f"},"right":"r1"} 30
        5 o p {"left":{"fk":"f"},"right":null} 5
        6 o p - 6
        "#,
    );
}

#[test]
fn a_global_table_is_looked_up_by_any_key() {
    check(
        &sides("", ", table: { global: true }", ", on: .fk, type: left"),
        r#"
        R f "r" 5
        L - {"fk":"f"} 3
        L p {"fk":"f"} 4
        L p {"fk":"g"} 5
        L p - 6
        "#,
        r#"
        1 o - {"left":{"fk":"f"},"right":"r"} 3
        2 o p {"left":{"fk":"f"},"right":"r"} 4
        3 o p {"left":{"fk":"g"},"right":null} 5
        4 dropped null_value
        "#,
    );
}
