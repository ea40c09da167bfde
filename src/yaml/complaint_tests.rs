//! A bad expression is framed at its place in the file.

use crate::expressions::VrlCompiler;

/// A refused expression in a file: the text at its place, parts of its message, label and help.
fn refused(line: &str, text: &str, at: &str, part: &str) {
    let file = format!("größe: 1\n{line}\nlast: 1\n");
    let root = super::tree::parse(&file).expect("is YAML");
    let span = root.get("x").expect("is there").span.clone();
    let Err(problem) = VrlCompiler::new(&file).compile(text, Some(span), &["left"]) else {
        panic!("{text} compiles")
    };
    assert!(problem.help.is_some(), "{problem:?}");
    let all = format!("{} | {} | {}", problem.message, problem.label, problem.help.unwrap_or_default());
    assert!(all.to_lowercase().contains(part), "{part:?} in {all:?}");
    assert!(!all.contains('$'), "{all}");
    assert_eq!(problem.span.map(|s| &file[s]), Some(at), "{all}");
}

#[test]
fn a_bad_expression_is_framed_in_the_file() {
    refused("x: upcas(.name)", "upcas(.name)", "upcas", "did you mean `upcase`");
    refused("x: foo(.name)", "foo(.name)", "foo", "no function has a name like it");
    refused("x: \"upcas(.name)\"", "upcas(.name)", "upcas", "undefined function");
    refused("x: '\"ü\" + upcas(.name)'", "\"ü\" + upcas(.name)", "upcas", "undefined function");
    refused("x: |\n  a = 1\n  b = upcas(.name)\n  b", "a = 1\nb = upcas(.name)\nb\n", "upcas", "undefined");
    refused(
        "x: |\n  if true {\n    upcas(.name)\n  }",
        "if true {\n  upcas(.name)\n}\n",
        "upcas",
        "undefined",
    );
    refused("x: 'a/{{ upcas(key) }}'", "upcas(key)", "upcas", "undefined function");
    refused("x: nam == 1", "nam == 1", "nam", "undefined variable");
    refused("x: .a >", ".a >", "", "");
    refused("x: mod(.a", "mod(.a", "", "in single quotes");
    refused("x: upcase(3)", "upcase(3)", "3", "the exact type integer");
    refused("x: now()", "now()", "now", "the record's time is `timestamp`");
    refused("x: random_int(1, 2)", "random_int(1, 2)", "random_int", "left out");
    refused("x: if 3 { 1 }", "if 3 { 1 }", "3", "boolean");
    refused("x: '!5'", "!5", "!", "boolean");
    refused("x: 1 | .a", "1 | .a", "1", "object");
    refused("x: 'map_values(5) -> |v| { v }'", "map_values(5) -> |v| { v }", "5", "integer");
    refused("x: 1 ?? 2", "1 ?? 2", "1", "can't fail");
    refused("x: .a < .b < .c", ".a < .b < .c", "<", "chained");
    refused("x: upcase(.a, .b, .c)", "upcase(.a, .b, .c)", ".a, .b, .c", "too many");
    refused("x: \"a\\tupcas(1)\"", "a\tupcas(1)", "\"a\\tupcas(1)\"", "");
}
