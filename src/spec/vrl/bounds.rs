//! What an expression may not ask for, however it is written: text, lists and numbers without end.
//!
//! VRL makes as much out of a number as the number says. Here the arguments that say how much are checked: `rewrite` puts
//! a check around each of them (`argument`), which refuses a literal when the file is loaded and anything else as an error
//! of its record.

use ::vrl::compiler::function::{ArgumentList, Compiled, Example, FunctionCompileContext};
use ::vrl::compiler::value::kind;
use ::vrl::compiler::{
    Context, Expression, Function, FunctionExpression, Parameter, Resolved, TypeDef, TypeState,
};
use ::vrl::path::OwnedSegment;
use ::vrl::value::Value;

use super::refused::Refused;

/// Bytes of text that `*` may make: what Kafka takes as a record by default.
pub(super) const TEXT_MAX: usize = 1024 * 1024;
/// The greatest index that may be set in a list, from either end: all before it are made too.
pub(super) const INDEX_MAX: i64 = 65_535;
/// Decimal places of `format_number`: what its decimals hold.
const SCALE_MAX: i64 = 28;
/// Bytes that `decode_lz4` may take for its result.
const BUFFER_MAX: i64 = 16 * 1024 * 1024;
/// No decimal of `format_number` is greater.
const DECIMAL_MAX: f64 = 7.922_816_251_426_433e28;

/// A function, the position and name of an argument of it, and the check of that.
const ARGUMENTS: [(&str, usize, &str, &str); 6] = [
    ("abs", 0, "value", "$magnitude"),
    ("decode_lz4", 1, "buf_size", "$buffer"),
    ("format_int", 0, "value", "$magnitude"),
    ("format_number", 0, "value", "$decimal"),
    ("format_number", 1, "scale", "$scale"),
    ("set", 1, "path", "$path"),
];

/// The check of an argument of this function, given at this position or with this name.
pub(super) fn argument(function: &str, position: usize, name: Option<&str>) -> Option<&'static str> {
    let given = |n: usize, known: &str| name.map_or(n == position, |name| name == known);
    ARGUMENTS.iter().find(|(f, n, known, _)| *f == function && given(*n, known)).map(|(.., check)| *check)
}

/// Would this repetition give too much text?
pub(super) fn repeated(left: &Value, right: &Value) -> Result<(), String> {
    let (text, times) = match (left, right) {
        (Value::Integer(times), Value::Bytes(text)) | (Value::Bytes(text), Value::Integer(times)) => {
            (text.len(), *times)
        }
        (Value::Integer(times), Value::String(text)) | (Value::String(text), Value::Integer(times)) => {
            (text.as_bytes().len(), *times)
        }
        _ => return Ok(()),
    };
    let times = usize::try_from(times).unwrap_or(0);
    match text.checked_mul(times) {
        Some(bytes) if bytes <= TEXT_MAX => Ok(()),
        _ => Err(format!("{times} times a text of {text} bytes is more than {TEXT_MAX} bytes")),
    }
}

/// The first index of a path to be set that is too great.
pub(super) fn far_index<'s>(path: impl IntoIterator<Item = &'s OwnedSegment>) -> Option<String> {
    path.into_iter().find_map(|segment| match segment {
        OwnedSegment::Index(n) => index(i64::try_from(*n).unwrap_or(i64::MAX)).err(),
        OwnedSegment::Field(_) => None,
    })
}

fn index(n: i64) -> Result<(), String> {
    if n.unsigned_abs() <= INDEX_MAX.unsigned_abs() {
        return Ok(());
    }
    Err(format!("the index {n} is further than {INDEX_MAX} from the list's end"))
}

/// What a check says of a value; a value of another type is the function's own business.
fn check(name: &str, value: &Value) -> Result<(), String> {
    let within = |n: i64, max: i64, what: &str| {
        if (0..=max).contains(&n) { Ok(()) } else { Err(format!("{n} {what}: 0 to {max} are possible")) }
    };
    match (name, value) {
        ("$scale", Value::Integer(n)) => within(*n, SCALE_MAX, "decimal places"),
        ("$buffer", Value::Integer(n)) => within(*n, BUFFER_MAX, "bytes of buffer"),
        ("$magnitude", Value::Integer(i64::MIN)) => Err(format!("{} has no positive integer", i64::MIN)),
        ("$decimal", Value::Float(n)) if n.abs() >= DECIMAL_MAX => {
            Err(format!("{n} has more than 28 digits"))
        }
        ("$path", Value::Array(steps)) => steps.iter().try_for_each(|step| match step {
            Value::Integer(n) => index(*n),
            _ => Ok(()),
        }),
        _ => Ok(()),
    }
}

/// The checks, for the closed list.
pub(super) fn functions() -> Vec<Box<dyn Function>> {
    let mut names: Vec<&'static str> = ARGUMENTS.iter().map(|(.., check)| *check).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| Box::new(Bound(name)) as Box<dyn Function>).collect()
}

#[derive(Debug)]
struct Bound(&'static str);

impl Function for Bound {
    fn identifier(&self) -> &'static str {
        self.0
    }
    fn usage(&self) -> &'static str {
        "its argument, where it is not too great"
    }
    fn category(&self) -> &'static str {
        "Number"
    }
    fn return_kind(&self) -> u16 {
        kind::ANY
    }
    fn examples(&self) -> &'static [Example] {
        &[]
    }
    fn parameters(&self) -> &'static [Parameter] {
        const PARAMETERS: &[Parameter] = &[Parameter::required("value", kind::ANY, "any value")];
        PARAMETERS
    }
    fn compile(
        &self,
        state: &TypeState,
        cx: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        let value = arguments.required("value");
        let constant = value.resolve_constant(state);
        if let Some(Err(message)) = constant.as_ref().map(|value| check(self.0, value)) {
            let help = "write a smaller number, such as `format_number(.a, 2)` or `set(., [\"a\", 0], 1)`"
                .to_owned();
            return Err(Box::new(Refused { message, label: "too much".into(), help, span: cx.span() }));
        }
        Ok(BoundCall { name: self.0, value, constant }.as_expr())
    }
}

#[derive(Clone, Debug)]
struct BoundCall {
    name: &'static str,
    value: Box<dyn Expression>,
    constant: Option<Value>,
}

impl FunctionExpression for BoundCall {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        let value = self.value.resolve(cx)?;
        check(self.name, &value)?;
        Ok(value)
    }
    fn type_def(&self, state: &TypeState) -> TypeDef {
        self.value.type_def(state).fallible()
    }
    fn as_value(&self) -> Option<Value> {
        self.constant.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::VrlCompiler;
    use crate::model::{Json, Record, Scope, Timestamp, Value};

    /// The result for `{ "n": n, "s": "ab", "f": f }`, or what is said when the expression is compiled or run.
    fn run(text: &str, n: i64, f: f64) -> (bool, Result<Json, String>) {
        let record = Record::new("k", Value::from(json!({ "n": n, "s": "ab", "f": f })), Timestamp(0));
        match VrlCompiler::new("").compile(text, None, &[]) {
            Ok(function) => (true, function.eval(&Scope::of(&record)).map_err(|e| e.0)),
            Err(problem) => (false, Err(format!("{} {}", problem.message, problem.help.unwrap_or_default()))),
        }
    }

    #[test]
    fn no_record_asks_for_too_much() {
        let far = 99_999_999_999;
        let refused = |text: &str, n: i64, f: f64, part: &str| {
            let (compiled, result) = run(text, n, f);
            let error = result.expect_err(text);
            assert!(compiled && error.contains(part) && !error.contains('$'), "{text}: {error}");
        };
        refused("abs(.n)", i64::MIN, 0.0, "no positive integer");
        refused("format_int(.n, 2)", i64::MIN, 0.0, "no positive integer");
        refused("format_number(.f, 2)", 0, 1.7e308, "more than 28 digits");
        refused("format_number(.f)", 0, 1e30, "more than 28 digits");
        refused("format_number(.f)", 0, -1e30, "more than 28 digits");
        refused("format_number(1.5, .n)", i64::MAX, 0.0, "decimal places: 0 to 28");
        refused("format_number(1.5, scale: .n)", i64::MIN, 0.0, "decimal places: 0 to 28");
        refused("\"x\" * .n", i64::MAX, 0.0, "more than 1048576 bytes");
        refused(".s * .n", 600_000, 0.0, "600000 times a text of 2 bytes");
        refused(".n * .s", far, 0.0, "more than 1048576 bytes");
        refused("set(., [\"a\", .n], 1)", far, 0.0, "the index 99999999999 is further than 65535");
        refused("set(value: ., path: [.n], data: 1)", i64::MIN, 0.0, "further than 65535");
        refused("decode_lz4(.s, .n)", far, 0.0, "bytes of buffer");
    }

    #[test]
    fn a_literal_that_asks_for_too_much_is_a_problem_of_the_file() {
        let refused = |text: &str, part: &str| {
            let (compiled, result) = run(text, 1, 1.0);
            let error = result.expect_err(text);
            assert!(!compiled && error.contains(part) && !error.contains('$'), "{text}: {error}");
        };
        refused("format_number(.f, 29)", "29 decimal places");
        refused("format_number(99999999999999999999999999999999.0)", "28 digits");
        refused("\"x\" * 9223372036854775807", "more than 1048576 bytes");
        refused("set(., [\"a\", 99999999999], 1)", "the index 99999999999");
        refused(".q[99999999999] = 1", "the index 99999999999");
        refused(".q[99999999999].a |= { \"b\": 1 }", "the index 99999999999");
        refused("x = []\nx[99999999] = 1", "the index 99999999");
        refused("a, .b[99999999] = to_int(.n)", "the index 99999999");
    }

    #[test]
    fn what_is_within_the_bounds_is_as_before() {
        let check = |text: &str, expected: Json| assert_eq!(run(text, -3, 2.5).1, Ok(expected), "{text}");
        check("abs(.n)", json!(3));
        check("abs(.f)", json!(2.5));
        check("format_int(.n, 2)", json!("-11"));
        check("format_number(.f, 3, grouping_separator: \",\")", json!("2.500"));
        check("format_number(value: 1234.5, scale: 0)", json!("1234"));
        check(".s * 3", json!("ababab"));
        check("3 * .s", json!("ababab"));
        check(".s * .n", json!(""));
        check(".n * .f", json!(-7.5));
        check(".n * 2", json!(-6));
        check("\"-\" * 3 + \">\"", json!("--->"));
        check("5 / (2 * 3 - 1)", json!(1.0));
        check("set({}, [\"a\", 2], 1)", json!({"a": [null, null, 1]}));
        check(".q[2] = 1\n.q", json!([null, null, 1]));
        check("\"x\" * .f ?? \"none\"", json!("none"));
        check("x, err = .s * 9000000000\nx", Json::Null);
    }
}
