//! Programs on one record.

use serde_json::json;

use super::super::VrlCompiler;
use super::*;
use crate::model::{Headers, Record, Timestamp, Window};

fn record() -> Record {
    let value = json!({
        "amount": 1500, "price": 2.5, "name": "ann", "flag": true, "none": null, "big": 9_223_372_036_854_775_807_i64,
        "items": [{"n": 1, "ok": true}, {"n": 2, "ok": false}], "at": "2024-01-02 03:04:05", "o": {"a": 1}
    });
    Record {
        window: Some(Window { start: Timestamp(0), end: Timestamp(5000) }),
        headers: Headers::new([("trace".into(), bytes::Bytes::from("t1"))]),
        ..Record::new("k1", Value::Bytes(value.to_string().into()), Timestamp(7))
    }
}

fn run(text: &str) -> Result<Json, String> {
    let compiler = VrlCompiler::new("");
    let function = compiler.compile(text, None, &["left", "acc", "value"]).map_err(|p| format!("{p:?}"))?;
    let vars = [("left", &json!({"id": 3})), ("acc", &json!(10))];
    function.eval(&Scope::of(&record()).with(&vars)).map_err(|e| e.to_string())
}

fn check(text: &str, expected: Json) {
    assert_eq!(run(text), Ok(expected), "{text}");
}

#[test]
fn names_and_values_are_read() {
    check("upcase(key)", json!("K1"));
    check("key + \"!\"", json!("k1!"));
    check("timestamp + 5", json!(12));
    check("{ \"timestamp\": timestamp, \"a\": .timestamp } # timestamp", json!({"timestamp": 7, "a": null}));
    check("s'timestamp\\' timestamp'", json!("timestamp\\' timestamp"));
    check("to_unix_timestamp(timestamp!(from_unix_timestamp!(timestamp)))", json!(7));
    check("headers.trace", json!("t1"));
    check("window.end - window.start", json!(5000));
    check("left.id", json!(3));
    check("acc + .amount", json!(1510));
    check("value", Json::Null);
    check("map_values({\"x\": 1}) -> |value| { value + 1 }", json!({"x": 2}));
    check(".missing", Json::Null);
    check(".price * 2", json!(5.0));
    check("\"hi {{ key }}\"", json!("hi k1"));
    check("name = .name\n\"hi {{ name }} {{ key }}\"", json!("hi ann k1"));
}

/// What VRL calls fallible compiles; a failure is an error of the record.
#[test]
fn an_expression_that_may_fail_runs() {
    check(".amount > 1000", json!(true));
    check(".amount > 1000 && .price < 3", json!(true));
    check(".flag && .amount >= .price", json!(true));
    check("(.amount + .price) * 2 > 3005.5", json!(false));
    check("{ \"x\": .amount + 1, \"y\": [.price - 0.5] }", json!({"x": 1501, "y": [2.0]}));
    check("upcase(.name)", json!("ANN"));
    check("upcase(.name + \"x\")", json!("ANNX"));
    check("to_int(.amount) + 1", json!(1501));
    check("push(.items, .amount * 2)[2]", json!(3000));
    check("length(.items) > 1", json!(true));
    check("if .flag { .amount / 3 } else { .nope + 1 }", json!(500.0));
    check("if .amount > 3 { \"big\" } else { \"small\" }", json!("big"));
    check("!.flag", json!(false));
    check(". | { \"x\": .amount + 1 } | { \"items\": null }", {
        let mut all = run(".").expect("is an object");
        all["x"] = json!(1501);
        all["items"] = Json::Null;
        all
    });
    check(".o |= { \"b\": 2 }\n.o", json!({"a": 1, "b": 2}));
    check(".x = .amount + 1\n.x", json!(1501));
    check("total = 0\nfor_each(.items) -> |_i, item| { total = total + item.n }\ntotal", json!(3));
    check("map_values(.items[0]) -> |v| { to_string(v) }", json!({"n": "1", "ok": "true"}));
    check("filter(.items) -> |_i, item| { item.ok }", json!([{"n": 1, "ok": true}]));
    check("filter(.items) -> |_i, item| { item.n > 1 }", json!([{"n": 2, "ok": false}]));
    check("map_values(.o) -> |v| { v + 1 }", json!({"a": 2}));
    check("parse_json(\"[1]\")[0]", json!(1));
    check("return .amount + 1", json!(1501));
    check("parse_timestamp(.at, \"%Y-%m-%d %H:%M:%S\")", json!("2024-01-02T03:04:05Z"));
    check(".big > 5", json!(true));
}

#[test]
fn what_the_user_handles_stays_handled() {
    check("to_int(.name) ?? 0", json!(0));
    check(".name + 1 ?? 5", json!(5));
    check("upcase(.none + \"x\") ?? \"y\"", json!("X"));
    check("to_int(.name + \"x\") ?? 3", json!(3));
    check("(.none > 1) ?? false", json!(false));
    check("x, err = to_int(.name)\nif err != null { \"bad\" } else { x }", json!("bad"));
    check("x, err = upcase(.name + \"x\")\nx", json!("ANNX"));
    check("int(.name) ?? to_int(.name) ?? 9", json!(9));
}

fn fails(text: &str, part: &str) {
    let error = run(text).expect_err(text);
    assert!(error.contains(part) && !error.contains('$'), "{error}");
}

#[test]
fn a_failure_is_an_error_of_the_record() {
    fails(".none > 1", "can't compare type null and integer");
    fails(".name - 1", "can't subtract");
    fails("upcase(.amount)", "upcase: expected string, got integer");
    fails("!.name", "expected boolean");
    fails("if .none { 1 }", "expected boolean");
    fails(".none | { \"x\": 1 }", "expected object");
    fails("abort string(.amount)", "string");
    fails("for_each(.name) -> |_k, _v| { 1 }", "object or array");
    fails("filter(.items) -> |_i, item| { item.n }", "expected boolean, got integer");
    fails(".amount / 0", "divide");
    fails("abort", "abort");
    fails("if .flag { abort \"not today\" }", "not today");
    fails("to_float(\"1e308\") * 10", "no JSON number");
}

#[test]
fn a_value_that_is_not_json_fails_only_where_it_is_read() {
    let record = Record::new("k", Value::Bytes("{".into()), Timestamp(0));
    let compiler = VrlCompiler::new("");
    let eval = |text: &str| {
        let function = compiler.compile(text, None, &[]).expect("compiles");
        function.eval(&Scope::of(&record)).map_err(|e| e.to_string())
    };
    assert_eq!(eval("upcase(key)"), Ok(json!("K")));
    assert!(eval("upcase(.a)").expect_err("is no JSON").contains("not JSON"));
    assert!(eval("del(.a)").expect_err("is no JSON").contains("not JSON"));
}

/// As a `fold` whose step is `[acc]` does, record after record.
#[test]
fn a_result_that_could_not_be_read_again_is_an_error_of_its_record() {
    let function = VrlCompiler::new("").compile("[acc]", None, &["acc"]).expect("compiles");
    let mut acc = Json::Null;
    for depth in 1.. {
        let vars = [("acc", &acc)];
        match function.eval(&Scope::of(&record()).with(&vars)) {
            Ok(next) => {
                assert!(
                    serde_json::from_str::<Json>(&next.to_string()).is_ok(),
                    "{depth} levels are readable"
                );
                acc = next;
            }
            Err(error) => {
                assert!(
                    depth == DEPTH_MAX + 1 && error.to_string().contains("nested deeper than 120"),
                    "{depth} {error}"
                );
                break;
            }
        }
    }
}

/// A function that panics, as VRL's own may.
#[derive(Debug)]
struct Panics;

impl ::vrl::compiler::Function for Panics {
    fn identifier(&self) -> &'static str {
        "panics"
    }
    fn usage(&self) -> &'static str {
        ""
    }
    fn category(&self) -> &'static str {
        ""
    }
    fn return_kind(&self) -> u16 {
        ::vrl::compiler::value::kind::ANY
    }
    fn examples(&self) -> &'static [::vrl::compiler::function::Example] {
        &[]
    }
    fn compile(
        &self,
        _: &::vrl::compiler::TypeState,
        _: &mut ::vrl::compiler::function::FunctionCompileContext,
        _: ::vrl::compiler::function::ArgumentList,
    ) -> ::vrl::compiler::function::Compiled {
        use ::vrl::compiler::FunctionExpression as _;
        Ok(PanicsCall.as_expr())
    }
}

#[derive(Clone, Debug)]
struct PanicsCall;

impl ::vrl::compiler::FunctionExpression for PanicsCall {
    fn resolve(&self, _: &mut ::vrl::compiler::Context) -> ::vrl::compiler::Resolved {
        panic!("a bug of VRL")
    }
    fn type_def(&self, _: &::vrl::compiler::TypeState) -> ::vrl::compiler::TypeDef {
        ::vrl::compiler::TypeDef::any()
    }
}

#[test]
fn a_panic_is_an_error_of_its_record_alone() {
    let mut compiler = VrlCompiler::new("");
    compiler.functions.push(Box::new(Panics));
    let function = compiler.compile("x = 1\nif .bad { panics() }\nx", None, &[]).expect("compiles");
    let eval = |bad: bool| {
        let record = Record::new("k", Value::from(json!({ "bad": bad })), Timestamp(0));
        function.eval(&Scope::of(&record)).map_err(|e| e.to_string())
    };
    for _ in 0..3 {
        let error = eval(true).expect_err("panics");
        assert!(error.contains("a bug of VRL") && error.contains("panics()"), "{error}");
        assert_eq!(eval(false), Ok(json!(1)));
    }
}

#[test]
fn a_local_does_not_outlive_its_record() {
    let compiler = VrlCompiler::new("");
    let function = compiler.compile("if .set == true { x = 1 }\nx = x ?? null\nx", None, &[]);
    assert!(function.is_err(), "`x` may be undefined");
    let text = "x = null\nif .set == true { x = 1 }\nx";
    let function = compiler.compile(text, None, &[]).expect("compiles");
    let of = |json| Record::new("k", Value::from(json), Timestamp(0));
    assert_eq!(function.eval(&Scope::of(&of(json!({"set": true})))), Ok(json!(1)));
    assert_eq!(function.eval(&Scope::of(&of(json!({"set": false})))), Ok(Json::Null));
}
