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
        assert!(found.contains(part), "{part:?} is not in {found:?} of {operators}");
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
        &["there is no `.m`", "known here: `n`"],
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
    let all: Vec<&str> = report.problems().iter().filter_map(|p| p.help.as_deref()).collect();
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

#[test]
fn what_an_aggregate_reads_has_its_types() {
    let aggregate =
        |settings: &str| format!("operators: {{ n: {{ from: orders, aggregate: {{ {settings} }} }} }}");
    let bad = |settings: &str, parts: &[&str]| wrong(&aggregate(settings), parts);
    bad("fields: { a: sum(.status) }", &["a sum has to be integer or float, and `.status` is string"]);
    bad("fields: { a: avg(.user) }", &["an average has to be"]);
    bad("fields: { a: max(.user) }", &["a greatest value has to be integer or float or string"]);
    bad("fields: { a: \"top(.tags, 3)\" }", &["a greatest value has to be"]);
    bad("min: .tags", &["a least value has to be"]);
    bad("top: { of: .tags, n: 1 }", &["a greatest value has to be"]);
    bad("fold: { init: 0, step: acc + .zz }", &["there is no `.zz`", "`schema`"]);
    bad("fold: { init: 0, step: acc + .id, subtract: acc - .zz }", &["there is no `.zz`"]);
    bad("reduce: acc.zz + .zz", &["there is no `.zz`"]);
    bad("reduce: '.id'\n, subtract: '{ \"a\": .zz }'", &["there is no `.zz`"]);
    let good = |settings: &str| fine(&aggregate(settings));
    good("fields: { a: sum(.amount), b: min(.at), c: max(.note), d: last(.user), e: count() }");
    fine(
        "operators: { rows: { from: orders, table: {} }, n: { from: rows, aggregate: { by: .user, fold: { init: 0, step: acc + .id, subtract: acc - .id } } } }",
    );
    good("reduce: '{ \"id\": acc.anything, \"n\": .amount }'");
    good("reduce: 'acc.x + .x', window: { session: 1m }");
    good("fold: { init: 0, step: acc + .id, merge: left.a + right.b }, window: { session: 1m }");
}

#[test]
fn both_sides_of_a_join_have_their_types() {
    let join = |settings: &str| {
        format!(
            "  users: {{ kafka: {{ topic: users }}, table: {{}}, schema: {{ name: string, age: integer }} }}\n\
             operators: {{ n: {{ from: orders, join: {{ with: users, {settings} }} }} }}"
        )
    };
    let bad = |settings: &str, parts: &[&str]| wrong(&join(settings), parts);
    bad("value: left.zz", &["there is no `left.zz`", "[left.zz]"]);
    bad("value: right.zz", &["there is no `right.zz`", "`name`"]);
    bad("value: right.name.first", &["`right.name` is string: it has no field `first`"]);
    bad("value: .zz", &["there is no `.zz`"]);
    bad("type: left, value: right.nam", &["did you mean `name`?"]);
    bad("value: left.id + left.tags", &["never works between integer and array"]);
    bad("value: '{ \"same\": left.id == right.name }'", &["`==` is never true between integer and string"]);
    let good = |settings: &str| fine(&join(settings));
    good("value: '{ \"n\": right.name, \"i\": left.id, \"s\": .status }'");
    good("type: left, value: 'if right == null { left.id } else { right.age }'");
    good("value: left.id + right.age");
}

#[test]
fn a_comparison_that_is_never_true_is_refused() {
    let bad = |text: &str, part: &str| {
        wrong(
            &format!("operators: {{ n: {{ from: orders, filter: '{text}' }} }}"),
            &[part, "compare numbers"],
        );
    };
    bad(".id == \"a\"", "`==` is never true between integer and string");
    bad(".amount > 1 || .status == 5", "`==` is never true between string and integer");
    bad(".status != true", "`!=` is always true between string and boolean");
    bad("!(.tags == .id)", "between array and integer");
    let good = |text: &str| fine(&format!("operators: {{ n: {{ from: orders, filter: '{text}' }} }}"));
    good(".id == 1.0");
    good(".id == null || .note == null");
    good(".note == \"a\" && .amount == .id");
    good(".more.x == 1");
    good("to_int(.status) == 1 && timestamp != 5 && key == \"k\"");
    fine("operators: { n: { from: plain, filter: '.id == \"a\" && .id == 1' } }");
}

#[test]
fn a_key_that_never_comes_is_refused() {
    for key in ["return null", "abort", "if .id == 1 { abort } else { null }", "null"] {
        let text = format!("operators: {{ n: {{ from: plain, key_by: '{key}' }} }}");
        wrong(&text, &["yields nothing for a key", "write what the key is made of"]);
    }
    fine("operators: { n: { from: plain, key_by: 'if .a == 1 { return .b }; return .c' } }");
    fine("operators: { n: { from: orders, filter: 'return .id == 1' } }");
}
