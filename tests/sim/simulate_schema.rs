//! Typed sources and failing expressions as a user meets them: a YAML file and `simulate`. Whatever fails is an error of
//! its record, in the dead letter with its reason; nothing is passed on as null.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use slackwater::testing::simulate;
use slackwater::yaml::{Mode, load};

const ERRORS: &str = "errors: { dead_letter: { topic: t.dlq } }";

/// Runs values through the source `in` (topic `in`); what came out, `to value` by line.
fn run(nodes: &str, values: &[Json]) -> Vec<(String, Json)> {
    let text = format!("name: t\n{nodes}\n{ERRORS}\n");
    // Beside the fixtures, so that files with schemas are found.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/registry/t.yaml");
    let loaded = match load(&file.display().to_string(), &text, Mode::Lenient, &|_| None) {
        Ok(loaded) => loaded,
        Err(report) => panic!("{}", report.render(false)),
    };
    let lines: String = values
        .iter()
        .enumerate()
        .map(|(n, value)| format!("{}\n", json!({ "topic": "in", "key": "k", "value": value, "ts": n })))
        .collect();
    let mut out = Vec::new();
    simulate(Arc::new(loaded.topology), lines.as_bytes(), &mut out, 1).expect("runs");
    let text = String::from_utf8(out).expect("text");
    text.lines()
        .map(|line| {
            let line: Json = serde_json::from_str(line).expect("JSON");
            (line["to"].as_str().unwrap_or("?").to_owned(), line["value"].clone())
        })
        .collect()
}

const SINKS: &str = "sinks: { out: { from: n, file: { path: /dev/null } } }";

/// The bad value goes to the dead letter as it came, the good one through.
#[track_caller]
fn fails(operators: &str, good: Json, bad: Json) {
    let nodes = format!("sources:\n  in: {{ kafka: {{ topic: in }} }}\n{operators}\n{SINKS}");
    let out = run(&nodes, &[bad.clone(), good]);
    let dead: Vec<&Json> = out.iter().filter(|(to, _)| to == "t.dlq").map(|(_, value)| value).collect();
    assert_eq!(dead, [&bad], "{operators}: {out:?}");
    assert!(out.iter().any(|(to, _)| to == "out"), "{operators}: {out:?}");
    assert!(!out.iter().any(|(to, value)| to == "out" && value.is_null()), "{operators}: {out:?}");
}

#[test]
fn a_failing_expression_is_an_error_of_its_record_in_every_node() {
    let (good, bad) = (json!({"a": 5, "l": [1]}), json!({"a": "x", "l": [1]}));
    let check = |operators: &str| fails(operators, good.clone(), bad.clone());
    check("operators: { n: { from: in, filter: .a > 1 } }");
    check("operators: { n: { from: in, map: '{ \"b\": .a - 1 }' } }");
    check("operators: { n: { from: in, key_by: .a - 1 } }");
    check(
        "operators: { b: { from: in, branch: { x: .a > 1, y: true } }, n: { from: [b.x, b.y], merge: {} } }",
    );
    check("operators: { n: { from: in, aggregate: { sum: .a } } }");
    check("operators: { n: { from: in, aggregate: { max: .a - 1 } } }");
    check(
        "operators: { n: { from: in, aggregate: { reduce: '{ \"a\": acc.a + .a - 0 }', by: 'to_string!(.a - 0)' } } }",
    );
    check("operators: { n: { from: in, aggregate: { fold: { init: 0, step: acc + .a * 2 - 0 } } } }");
    check("operators: { n: { from: in, dedupe: { by: .a - 1, within: 1m } } }");
    check("operators: { n: { from: in, join: { with: s, within: { before: 0s, after: 0s }, value: left.a - 1 } } }\n".trim_end()
        .replace("operators: {", "operators: { s: { from: in, filter: .a == 5 || .a == \"x\" },")
        .as_str());
    fails("operators: { n: { from: in, flat_map: .l } }", json!({"l": [1]}), json!({"l": 1}));
    fails("operators: { n: { from: in, filter: .ok } }", json!({"ok": true}), json!({"ok": 1}));
}

#[test]
fn a_failing_expression_of_a_sink_or_a_source_is_an_error_of_its_record() {
    let source = "sources:\n  in: { kafka: { topic: in } }";
    let sink = format!("{source}\nsinks: {{ out: {{ from: in, kafka: {{ topic: o, value: .a - 1 }} }} }}");
    let out = run(&sink, &[json!({"a": "x"}), json!({"a": 5})]);
    assert_eq!(out, [("t.dlq".into(), json!({"a": "x"})), ("o".into(), json!(4))]);
    let timed = "sources:\n  in: { kafka: { topic: in, timestamp: .at } }\nsinks: { out: { from: in, kafka: { topic: o } } }";
    let out = run(timed, &[json!({"at": "soon"}), json!({"at": 5})]);
    assert_eq!(out, [("t.dlq".into(), json!({"at": "soon"})), ("o".into(), json!({"at": 5}))]);
}

#[test]
fn a_record_that_does_not_fit_its_schema_is_refused_as_it_comes_in() {
    let nodes = "sources:\n  in: { kafka: { topic: in }, schema: { id: integer, note: string? } }\n\
                 operators: { n: { from: in, map: '{ \"next\": .id + 1 }' } }\n\
                 sinks: { out: { from: n, kafka: { topic: o } } }";
    let out = run(
        nodes,
        &[
            json!({"id": "x"}),
            json!({"note": "a"}),
            json!({"id": 1, "note": null, "more": [1]}),
            json!({"id": 1, "note": 5}),
        ],
    );
    let dead = |json: Json| ("t.dlq".to_owned(), json);
    assert_eq!(
        out,
        [
            dead(json!({"id": "x"})),
            dead(json!({"note": "a"})),
            ("o".into(), json!({"next": 2})),
            dead(json!({"id": 1, "note": 5})),
        ]
    );
}

#[test]
fn a_tombstone_fits_every_schema_and_fails_where_a_number_is_needed() {
    let nodes = "sources:\n  in: { kafka: { topic: in }, schema: { id: integer } }\n\
                 operators: { n: { from: in, filter: .id > 1 } }\n\
                 sinks: { all: { from: in, kafka: { topic: o } }, out: { from: n, kafka: { topic: p } } }";
    let out = run(nodes, &[Json::Null, json!({"id": 5})]);
    assert!(
        out.contains(&("o".into(), Json::Null)) && out.contains(&("p".into(), json!({"id": 5}))),
        "{out:?}"
    );
    assert!(!out.contains(&("p".into(), Json::Null)), "{out:?}");
}

#[test]
fn a_writer_schema_beside_the_file_is_held_to_without_a_registry() {
    let nodes = |schema: &str| {
        format!(
            "schema_registry: {{ url: http://localhost:1 }}\nsources:\n  in: {{ kafka: {{ topic: in, format: avro }} }}\n\
             sinks: {{ out: {{ from: in, kafka: {{ topic: o, {schema} }} }} }}"
        )
    };
    let good = json!({"id": 1, "amount": "2.50", "day": "2024-01-02", "at": "2024-01-02T03:04:05Z"});
    let bad = json!({"id": 1, "amount": "2.505", "day": "2024-01-02", "at": "2024-01-02T03:04:05Z"});
    let avro = nodes("format: avro, writer_schema: { file: paid.avsc }");
    assert_eq!(run(&avro, &[good.clone(), bad.clone()]), [("o".into(), good.clone()), ("t.dlq".into(), bad)]);
    let proto = nodes("format: protobuf, writer_schema: { file: total.proto, message: Total }");
    let (good, bad) = (json!({"orders": 1}), json!({"orders": "many"}));
    assert_eq!(run(&proto, &[good.clone(), bad.clone()]), [("o".into(), good), ("t.dlq".into(), bad)]);
    let long = nodes("key_format: long, format: double");
    assert_eq!(run(&long, &[json!(1.5)]), [("t.dlq".into(), json!(1.5))], "the key `k` is no long");
}
