//! Tables, joins and dedupe as a user writes them: a YAML file and `simulate`, on stream time alone.

use std::sync::Arc;

use serde_json::Value as Json;
use slackwater::spec::{Mode, load};
use slackwater::testing::simulate;

/// The file's nodes under a common head.
fn file(nodes: &str) -> String {
    format!("name: t\ntime: {{ clock: stream }}\n{nodes}\n")
}

/// Runs lines `topic key value ts` (`-` is null; `restart` restarts) and compares with lines `step to key value ts` or
/// `step dropped reason`. A restart after every line must not be seen.
fn check(nodes: &str, input: &str, want: &str) {
    let text = file(nodes);
    let none = |_: &str| None;
    let loaded = match load("t.yaml", &text, Mode::Required, &none) {
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
    match load("t.yaml", &file(nodes), Mode::Required, &none) {
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
