//! Types from a source's `schema` to the sinks, on whole files.

use super::env::Mode;
use super::file::load;
use crate::model::Types;
use crate::topology::NodeKind;

const HEAD: &str = r#"name: t
kafka: { brokers: localhost }
sources:
  orders:
    kafka: { topic: orders }
    schema: { id: integer, amount: number, status: string, note: string?, at: timestamp, tags: [string], "user?": { name: string }, more: { "*": integer } }
  plain: { kafka: { topic: plain } }
"#;

const TAIL: &str = "sinks: { out: { from: n, blackhole: {} } }\n";

/// Loads operators (and sinks, else one that reads `n`) and gives all problems as text.
fn problems(operators: &str) -> String {
    let tail = if operators.contains("sinks:") { "" } else { TAIL };
    let text = format!("{HEAD}{operators}\n{tail}");
    match load("t.yaml", &text, Mode::Lenient, &|_| None) {
        Ok(_) => String::new(),
        Err(report) => report
            .problems()
            .iter()
            .map(|p| {
                let at = p.span.clone().and_then(|span| text.get(span)).unwrap_or("?");
                format!("{} [{at}] {}\n", p.message, p.help.clone().unwrap_or_default())
            })
            .collect(),
    }
}

#[track_caller]
fn fine(operators: &str) {
    assert_eq!(problems(operators), "", "{operators}");
}

#[track_caller]
fn wrong(operators: &str, parts: &[&str]) {
    let found = problems(operators);
    for part in parts {
        assert!(found.contains(part), "{part:?} is not in {found:?}");
    }
}

#[test]
fn expressions_that_fit_the_schema_compile() {
    fine("operators: { n: { from: orders, filter: '.amount > 5 && .status == \"PAID\"' } }");
    fine("operators: { n: { from: orders, filter: 'upcase(.note) == \"X\"' } }");
    fine("operators: { n: { from: orders, filter: '.user.name == \"x\"' } }");
    fine("operators: { n: { from: orders, filter: '.more.anything > 1' } }");
    fine("operators: { n: { from: orders, flat_map: .tags } }");
    fine("operators: { n: { from: orders, map: '.new = .id + 1; .new' } }");
    fine(
        "operators: { n: { from: orders, branch: { a: .amount > 1, b: true } } }\nsinks: { out: { from: n.a, blackhole: {} } }",
    );
    fine("operators: { n: { from: orders, aggregate: { sum: .amount } } }");
}

#[test]
fn types_that_never_fit_are_found_and_framed() {
    wrong(
        "operators: { n: { from: orders, filter: .status > 5 } }",
        &["`>` never works between string and integer", "[.status > 5]"],
    );
    wrong(
        "operators: { n: { from: orders, map: '{ \"x\": .status - 1 }' } }",
        &["`-` never works", "[.status - 1]"],
    );
    wrong(
        "operators: { n: { from: orders, map: upcase(.id) } }",
        &["[.id]", "expects the exact type string"],
    );
    wrong(
        "operators: { n: { from: orders, filter: .status } }",
        &["a condition has to be boolean, and `.status` is string", "[.status]"],
    );
    wrong(
        "operators: { n: { from: orders, branch: { a: .id } } }\nsinks: { out: { from: n.a, blackhole: {} } }",
        &["a condition has to be boolean"],
    );
    wrong(
        "operators: { n: { from: orders, flat_map: .id } }",
        &["the list of a `flat_map` has to be array, and `.id` is integer"],
    );
    wrong(
        "operators: { n: { from: orders, aggregate: { sum: .status } } }",
        &["a sum has to be integer or float, and `.status` is string"],
    );
}

#[test]
fn fields_that_are_not_there_are_found() {
    wrong(
        "operators: { n: { from: orders, filter: .amonut > 5 } }",
        &["there is no `.amonut`", "[.amonut]", "did you mean `amount`?"],
    );
    wrong("operators: { n: { from: orders, key_by: .custmer } }", &["there is no `.custmer`", "\"*\": any"]);
    wrong(
        "operators: { n: { from: orders, map: .user.nam } }",
        &["there is no `.user.nam`", "did you mean `name`?"],
    );
    wrong("operators: { n: { from: orders, key_by: .id.x } }", &["`.id` is integer: it has no field `x`"]);
    wrong("operators: { n: { from: orders, dedupe: { by: .nope, within: 1m } } }", &["there is no `.nope`"]);
    wrong(
        "operators: { n: { from: orders, enrich: { http: { get: 'http://h/{{ .nope }}' }, into: .x } } }",
        &["there is no `.nope`"],
    );
}

#[test]
fn types_go_through_nodes() {
    let below = |first: &str, second: &str| {
        format!("operators: {{ m: {{ from: orders, {first} }}, n: {{ from: m, {second} }} }}")
    };
    wrong(
        &below("map: '{ \"total\": .amount * 2 }'", "filter: .amount > 1"),
        &["there is no `.amount`", "known here: `total`"],
    );
    fine(&below("map: '{ \"total\": .amount * 2 }'", "filter: .total > 1"));
    wrong(&below("map: '{ \"total\": .id }'", "filter: .total > \"x\""), &["`>` never works"]);
    wrong(&below("flat_map: .tags", "filter: . > 5"), &["`>` never works between string and integer"]);
    wrong(&below("debounce: { quiet: 1s }", "filter: .status > 5"), &["`>` never works"]);
    wrong(&below("aggregate: { count: {} }", "filter: . == 1 && .x"), &["is integer: it has no field `x`"]);
    wrong(
        &below("aggregate: { fields: { n: count() } }", "filter: .m > 1"),
        &["there is no `.m`", "did you mean `n`?"],
    );
    fine(&below(
        "enrich: { http: { get: 'http://h' }, into: .account }",
        "filter: .account.anything == 1 && .id > 1",
    ));
    wrong(
        &below("enrich: { http: { get: 'http://h' }, into: .account }", "filter: .acount == 1"),
        &["there is no `.acount`"],
    );
    // A merge is of both: with values of any type, anything goes.
    fine("operators: { m: { from: [orders, plain], merge: {} }, n: { from: m, filter: .anything > 1 } }");
    // Order in the file does not matter.
    wrong(
        "operators: { n: { from: m, filter: .nope }, m: { from: orders, filter: .id > 1 } }",
        &["there is no `.nope`"],
    );
}

#[test]
fn without_a_schema_nothing_changes() {
    fine("operators: { n: { from: plain, filter: .status } }");
    fine("operators: { m: { from: plain, map: '{ \"a\": 1 }' }, n: { from: m, filter: .b > 1 } }");
}

#[test]
fn a_wrong_schema_is_a_problem_of_the_file() {
    let text = HEAD.replace("id: integer", "id: interger");
    let report =
        load("t.yaml", &format!("{text}{}", TAIL.replace("from: n", "from: orders")), Mode::Lenient, &|_| {
            None
        });
    let report = report.expect_err("is wrong");
    let all: Vec<&str> = report.problems().iter().map(|p| p.message.as_str()).collect();
    assert!(all.iter().any(|m| m.contains("did you mean `integer`?")), "{all:?}");
}

#[test]
fn columns_know_what_they_will_get() {
    let text = format!(
        "{HEAD}sinks:\n  out:\n    from: orders\n    spanner: {{ database: projects/p/instances/i/databases/d, table: T, columns: {{ Id: key, At: .at, N: .amount, Note: .note }} }}\n"
    );
    let loaded = load("t.yaml", &text, Mode::Lenient, &|_| None).expect("is sound");
    let out = loaded.topology.node("out").expect("is there");
    let NodeKind::Sink(sink) = &loaded.topology.nodes[out].kind else { panic!("is a sink") };
    let types: Vec<Types> = sink.clone().exprs_mut().into_iter().map(|expr| expr.types()).collect();
    let text = Types::STRING;
    assert_eq!(types, [text.or(Types::NULL), text, Types::INTEGER.or(Types::FLOAT), text.or(Types::NULL)]);
}
