//! Comparing in expressions, by the rule that holds everywhere (`model/canonical.rs`): numbers by their value and
//! exactly, objects and arrays by what is in them.
//!
//! VRL compares a whole number with a double as two doubles, so that 9007199254740993 is equal to 9007199254740992.0, and
//! tells 1 from 1.0 inside of objects and arrays, in `includes` and in `unique`. Those two functions are made anew here.

use std::cmp::Ordering;
use std::collections::HashSet;

use ::vrl::compiler::value::VrlValueConvert;
use ::vrl::compiler::{
    Context, Expression, Function, FunctionExpression, Parameter, Resolved, TypeDef, TypeState,
};
use ::vrl::value::Value;
use ::vrl::value::kind::Collection;

use super::compiled::{DEPTH_MAX, json};
use super::own::Own;
use crate::model::canonical;
use crate::model::number::Num;

fn number(value: &Value) -> Option<Num> {
    match value {
        Value::Integer(n) => Some(Num::Whole((*n).into())),
        Value::Float(n) => Some(Num::of_double(n.into_inner())),
        _ => None,
    }
}

/// Two numbers in order of their values; `None` where one of the values is no number.
pub(super) fn order(a: &Value, b: &Value) -> Option<Ordering> {
    if let (Value::Integer(a), Value::Integer(b)) = (a, b) {
        return Some(a.cmp(b));
    }
    Some(number(a)?.compare(number(b)?))
}

/// Whether two values are the same.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((n, a), (m, b))| n == m && same(a, b))
        }
        (a, b) => order(a, b).map_or_else(|| a == b, Ordering::is_eq),
    }
}

/// The functions of VRL's that are made anew here, instead of its own.
pub(super) fn replaced(name: &str, parameters: &'static [Parameter]) -> Option<Box<dyn Function>> {
    match name {
        "includes" => Some(Own::boxed("includes", parameters, |_, _, all| {
            let [value, item] = ["value", "item"].map(|name| all.required(name));
            Ok(Includes { value, item }.as_expr())
        })),
        "unique" => {
            Some(Own::boxed("unique", parameters, |_, _, all| Ok(Unique(all.required("value")).as_expr())))
        }
        _ => None,
    }
}

#[derive(Clone, Debug)]
struct Includes {
    value: Box<dyn Expression>,
    item: Box<dyn Expression>,
}

impl FunctionExpression for Includes {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        let list = self.value.resolve(cx)?.try_array()?;
        let item = self.item.resolve(cx)?;
        Ok(list.iter().any(|one| same(one, &item)).into())
    }
    fn type_def(&self, _: &TypeState) -> TypeDef {
        TypeDef::boolean().infallible()
    }
}

#[derive(Clone, Debug)]
struct Unique(Box<dyn Expression>);

impl FunctionExpression for Unique {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        let mut seen = HashSet::new();
        let mut list = self.0.resolve(cx)?.try_array()?;
        let mut failed = None;
        list.retain(|item| match json(item.clone(), DEPTH_MAX) {
            Ok(json) => seen.insert(canonical(&json)),
            Err(e) => {
                failed.get_or_insert(e.to_string());
                true
            }
        });
        failed.map_or_else(|| Ok(list.into()), |e| Err(e.into()))
    }
    fn type_def(&self, _: &TypeState) -> TypeDef {
        TypeDef::array(Collection::any())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::VrlCompiler;
    use crate::model::{Json, Record, Scope, Timestamp, Value};

    fn check(text: &str, value: Json, want: Json) {
        let (function, _) = VrlCompiler::new("")
            .compile_typed(text, None, &[], &super::super::Kind::any())
            .unwrap_or_else(|e| panic!("{text}: {e:?}"));
        let record = Record::new("k", Value::from(value.clone()), Timestamp(0));
        assert_eq!(function.eval(&Scope::of(&record)), Ok(want), "{text} of {value}");
    }

    #[test]
    fn values_are_equal_by_what_they_are() {
        let ab = |a: Json, b: Json| json!({ "a": a, "b": b });
        for (a, b, equal) in [
            (json!(100), json!(100.0), true),
            (json!(10_000_000_000_000_000_i64), json!(1e16), true),
            (json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992.0), false),
            (json!(0), json!(-0.0), true),
            (json!({"x": 1, "y": [2.0]}), json!({"y": [2], "x": 1.0}), true),
            (json!([1]), json!([1, 1]), false),
            (json!("1"), json!(1), false),
            (json!(null), json!("null"), false),
            (json!(null), json!(null), true),
        ] {
            check(".a == .b", ab(a.clone(), b.clone()), json!(equal));
            check(".a != .b", ab(a.clone(), b.clone()), json!(!equal));
            check("includes!([\"z\", .a], .b)", ab(a.clone(), b.clone()), json!(equal));
            let both = if equal { json!([a]) } else { json!([a, b]) };
            check("unique!([.a, .b])", ab(a.clone(), b), both);
        }
        check("if .a == 1.0 { \"one\" } else { \"other\" }", json!({"a": 1}), json!("one"));
        check("{ \"a\": 1 } == { \"a\": 1.0 }", json!({}), json!(true));
        check("1 == 1.0 && 1 != 2", json!({}), json!(true));
    }

    #[test]
    fn numbers_are_ordered_by_what_they_are() {
        let near = json!({"a": 9_007_199_254_740_993_i64, "b": 9_007_199_254_740_992.0});
        for (text, want) in [(".a > .b", true), (".a >= .b", true), (".a < .b", false), (".a <= .b", false)] {
            check(text, near.clone(), json!(want));
        }
        check(".a > 9007199254740992.0", near.clone(), json!(true));
        check(".a < \"b\"", json!({"a": "a"}), json!(true));
    }

    #[test]
    fn a_conversion_that_would_saturate_fails() {
        let fails = |text: &str, value: Json, part: &str| {
            let function =
                VrlCompiler::new("").compile(text, None, &[]).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            let record = Record::new("k", Value::from(value), Timestamp(0));
            let error = function.eval(&Scope::of(&record)).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        for n in [json!(1e30), json!(-1e30), json!(9_223_372_036_854_775_808.0)] {
            fails("to_int!(.n)", json!({ "n": n }), "no whole number of 64 bits");
        }
        check("to_int!(.n)", json!({"n": 5.9}), json!(5));
        check("to_int(5.0)", json!({}), json!(5));
        fails("parse_json!(.t)", json!({"t": "{\"id\": 18446744073709551616}"}), "18446744073709551616");
        fails("parse_json!(.t)", json!({"t": "18446744073709551615"}), "18446744073709551615");
        check(
            "parse_json!(.t)",
            json!({"t": "[1.5, 9007199254740993, \"99999999999999999999\"]"}),
            json!([1.5, 9_007_199_254_740_993_i64, "99999999999999999999"]),
        );
        fails("round(float!(.n), precision: int!(.p))", json!({"n": 1.5, "p": -400}), "decimal places");
        fails(
            "{ \"id\": .id, \"n\": int!(.n) + 1 }",
            json!({"id": u64::MAX, "n": 1}),
            "18446744073709551615",
        );
        fails(".n = int!(.n) + 1\n.", json!({"id": u64::MAX, "n": 1}), "18446744073709551615");
        let bytes = |text: &str, value: &str| {
            let function = VrlCompiler::new("").compile(text, None, &[]).expect(text);
            let record = Record::new("k", Value::Bytes(value.to_owned().into()), Timestamp(0));
            function.eval(&Scope::of(&record)).map_err(|e| e.to_string())
        };
        for great in ["18446744073709551616", "-9223372036854775809", "123456789012345678901234567890"] {
            let value = format!("{{\"id\": {great}, \"n\": 1}}");
            for text in ["{ \"id\": .id, \"n\": int!(.n) + 1 }", "{ \"id\": .id, \"n\": .n }", "."] {
                let error = if text == "." {
                    Value::Bytes(value.clone().into()).json().map(drop).map_err(|e| e.to_string())
                } else {
                    bytes(text, &value).map(drop)
                };
                assert!(error.expect_err(text).contains(great), "{text}");
            }
            assert_eq!(bytes("int!(.n) + 1", &value), Ok(json!(2)), "what is not read is not looked at");
        }
    }
}
