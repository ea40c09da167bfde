//! Limits on what an expression may ask for: no text, list or number may grow without end.
//!
//! VRL allocates as much as a number in a program says. Here the arguments that determine a size are checked: `rewrite`
//! wraps each of them in a check (`argument`), which refuses a literal when the file is loaded, and any other value as
//! an error of its record.

use std::io::Read;

use ::vrl::compiler::function::{ArgumentList, Compiled};
use ::vrl::compiler::value::kind;
use ::vrl::compiler::{
    Context, Expression, Function, FunctionExpression, Parameter, Resolved, TypeDef, TypeState,
};
use ::vrl::diagnostic::Span;
use ::vrl::path::OwnedSegment;
use ::vrl::value::Value;

use super::own::Own;
use super::refused::Refused;
use crate::model::number::{Num, Parsed, check_whole};

/// Largest text that `*` may make, in bytes: Kafka's default limit for a record.
pub(super) const TEXT_MAX: usize = 1024 * 1024;
/// The greatest index that may be set in a list, from either end: setting it creates all elements before it.
pub(super) const INDEX_MAX: i64 = 65_535;
/// Decimal places of `format_number`: as many as its decimals can hold.
const SCALE_MAX: i64 = 28;
/// Largest text that a function, `+` or a decompressor may make, in bytes.
pub(super) const RESULT_MAX: usize = 16 * 1024 * 1024;
/// The same limit, as the number that `decode_lz4` takes.
const BUFFER_MAX: i64 = 16 * 1024 * 1024;
/// The largest weight of a list or object that a function may make, or that is kept in a loop. The weight is the bytes
/// of text plus [`NODE_WEIGHT`] for each value.
const WEIGHT_MAX: usize = 64 * 1024 * 1024;
const NODE_WEIGHT: usize = 32;
/// Decimal places that a double can be rounded to, before or behind the point.
const PLACES_MAX: u64 = 300;
/// Largest separator of `join` and replacement of `sieve`, in bytes.
const SHORT_MAX: usize = 1024;
/// The largest decimal that `format_number` can hold.
const DECIMAL_MAX: f64 = 7.922_816_251_426_433e28;

/// A function, the position and name of one argument, and the check for that argument.
const ARGUMENTS: [(&str, usize, &str, &str); 19] = [
    ("abs", 0, "value", "$magnitude"),
    ("ceil", 1, "precision", "$places"),
    ("decode_gzip", 0, "value", "$gzip"),
    ("decode_lz4", 0, "value", "$lz4"),
    ("decode_lz4", 1, "buf_size", "$buffer"),
    ("decode_snappy", 0, "value", "$snappy"),
    ("decode_zlib", 0, "value", "$zlib"),
    ("decode_zstd", 0, "value", "$zstd"),
    ("floor", 1, "precision", "$places"),
    ("format_int", 0, "value", "$magnitude"),
    ("format_number", 0, "value", "$decimal"),
    ("format_number", 1, "scale", "$scale"),
    ("join", 1, "separator", "$short"),
    ("parse_json", 0, "value", "$exact"),
    ("round", 1, "precision", "$places"),
    ("set", 1, "path", "$path"),
    ("sieve", 2, "replace_single", "$short"),
    ("sieve", 3, "replace_repeated", "$short"),
    ("to_int", 0, "value", "$whole"),
];

/// The check for an argument of this function, given at this position or by this name.
pub(super) fn argument(function: &str, position: usize, name: Option<&str>) -> Option<&'static str> {
    let given = |n: usize, known: &str| name.map_or(n == position, |name| name == known);
    ARGUMENTS.iter().find(|(f, n, known, _)| *f == function && given(*n, known)).map(|(.., check)| *check)
}

/// Checks that a repetition does not make too much text.
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

/// The first index in a path that is too great to be set; says so.
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

/// Checks that a value is not larger than one record may ask for. It runs on what each function returns and on what is
/// kept in a loop, so a value that keeps doubling is stopped at most one doubling too late.
pub(super) fn fits(value: &Value) -> Result<(), String> {
    match value {
        Value::Bytes(text) => short_enough(text.len(), RESULT_MAX),
        Value::String(text) => short_enough(text.as_bytes().len(), RESULT_MAX),
        Value::Array(_) | Value::Object(_) => {
            let mut left = WEIGHT_MAX;
            if weigh(value, &mut left) {
                Ok(())
            } else {
                Err(format!("a list or object that weighs more than {WEIGHT_MAX} bytes"))
            }
        }
        _ => Ok(()),
    }
}

fn short_enough(bytes: usize, max: usize) -> Result<(), String> {
    if bytes <= max { Ok(()) } else { Err(format!("a text of {bytes} bytes is more than {max}")) }
}

/// Takes the value's weight from `left`; false if that is not enough. It goes no deeper than `left` allows.
fn weigh(value: &Value, left: &mut usize) -> bool {
    let text = match value {
        Value::Bytes(text) => text.len(),
        Value::String(text) => text.as_bytes().len(),
        _ => 0,
    };
    match left.checked_sub(NODE_WEIGHT.saturating_add(text)) {
        Some(rest) => *left = rest,
        None => return false,
    }
    match value {
        Value::Array(items) => items.iter().all(|item| weigh(item, left)),
        Value::Object(fields) => fields.iter().all(|(name, item)| {
            *left = left.saturating_sub(name.as_str().len());
            weigh(item, left)
        }),
        _ => true,
    }
}

/// The bytes of a text; none for any other value.
fn bytes_of(value: &Value) -> &[u8] {
    match value {
        Value::Bytes(text) => text,
        Value::String(text) => text.as_bytes(),
        _ => &[],
    }
}

/// Checks that the two texts together are not too large.
pub(super) fn added(left: &Value, right: &Value) -> Result<(), String> {
    short_enough(bytes_of(left).len().saturating_add(bytes_of(right).len()), RESULT_MAX)
}

/// Checks that decompressing does not give too much. Input that cannot be decompressed is left to the function to
/// refuse.
fn unpacked(name: &str, packed: &[u8]) -> Result<(), String> {
    let most = RESULT_MAX as u64 + 1;
    let count =
        |reader: &mut dyn Read| std::io::copy(&mut reader.take(most), &mut std::io::sink()).unwrap_or(0);
    let bytes = match name {
        "$gzip" => count(&mut flate2::read::MultiGzDecoder::new(packed)),
        "$zlib" => count(&mut flate2::read::ZlibDecoder::new(packed)),
        "$zstd" => zstd::Decoder::new(packed).map_or(0, |mut reader| count(&mut reader)),
        // Snappy data begins with the decompressed length.
        "$snappy" => snap::raw::decompress_len(packed).map_or(0, |length| length as u64),
        _ if packed.starts_with(&LZ4_FRAME) => count(&mut lz4_flex::frame::FrameDecoder::new(packed)),
        // An LZ4 block decompresses to at most 255 times its length.
        _ => packed.len() as u64 * 255,
    };
    if bytes < most { Ok(()) } else { Err(format!("unpacked it is more than {RESULT_MAX} bytes")) }
}

/// The magic number at the start of an LZ4 frame.
const LZ4_FRAME: [u8; 4] = [0x04, 0x22, 0x4D, 0x18];

/// Runs a check on a value. A value of the wrong type is left to the function to refuse.
fn check(name: &str, value: &Value) -> Result<(), String> {
    let within = |n: i64, max: i64, what: &str| {
        if (0..=max).contains(&n) { Ok(()) } else { Err(format!("{n} {what}: 0 to {max} are possible")) }
    };
    match (name, value) {
        ("$short", value) => short_enough(bytes_of(value).len(), SHORT_MAX),
        ("$gzip" | "$lz4" | "$snappy" | "$zlib" | "$zstd", packed) => unpacked(name, bytes_of(packed)),
        ("$scale", Value::Integer(n)) => within(*n, SCALE_MAX, "decimal places"),
        ("$buffer", Value::Integer(n)) => within(*n, BUFFER_MAX, "bytes of buffer"),
        ("$magnitude", Value::Integer(i64::MIN)) => Err(format!("{} has no positive integer", i64::MIN)),
        ("$decimal", Value::Float(n)) if n.abs() >= DECIMAL_MAX => {
            Err(format!("{n} has more than 28 digits"))
        }
        // VRL makes the nearest whole number of a double that is none, and a double of a whole number that it has not.
        ("$whole", Value::Float(n)) if Num::of_double(n.trunc()).whole().is_none() => {
            Err(format!("{n} is no whole number of 64 bits with its sign"))
        }
        ("$exact", text) => {
            let text = std::str::from_utf8(bytes_of(text)).unwrap_or_default();
            check_whole(text, Value::GREATEST).map_err(|e| e.0)
        }
        ("$places", Value::Integer(n)) if n.unsigned_abs() > PLACES_MAX => {
            Err(format!("{n} decimal places: {PLACES_MAX} are possible"))
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
    const PARAMETERS: &[Parameter] = &[Parameter::required("value", kind::ANY, "any value")];
    let mut names: Vec<&'static str> = ARGUMENTS.iter().map(|(.., check)| *check).collect();
    names.sort_unstable();
    names.dedup();
    let one = |name: &'static str| {
        Own::boxed(name, PARAMETERS, move |state, span, all| bound(name, state, span, all))
    };
    names.into_iter().map(one).collect()
}

fn bound(name: &'static str, state: &TypeState, span: Span, arguments: &ArgumentList) -> Compiled {
    let value = arguments.required("value");
    let constant = value.resolve_constant(state);
    if let Some(Err(message)) = constant.as_ref().map(|value| check(name, value)) {
        let help =
            "write a smaller number, such as `format_number(.a, 2)` or `set(., [\"a\", 0], 1)`".to_owned();
        return Err(Box::new(Refused { message, label: "too much".into(), help, span }));
    }
    Ok(BoundCall { name, value, constant }.as_expr())
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
    use std::io::{Read, Write};

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use serde_json::json;

    use super::super::VrlCompiler;
    use super::RESULT_MAX;
    use crate::model::{Json, Record, Scope, Timestamp, Value};

    /// The result for `{ "n": n, "s": "ab", "f": f }`, or the error, and whether it came when compiling.
    fn run(text: &str, n: i64, f: f64) -> (bool, Result<Json, String>) {
        let record = Record::new("k", Value::from(json!({ "n": n, "s": "ab", "f": f })), Timestamp(0));
        match VrlCompiler::new("").compile(text, None, &[]) {
            Ok(function) => (true, function.eval(&Scope::of(&record)).map_err(|e| e.to_string())),
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
    fn no_record_makes_text_without_end() {
        let letters = |n: usize| "a".repeat(n);
        let with = |text: &str, value: Json| {
            let record = Record::new("k", Value::from(value), Timestamp(0));
            let function = VrlCompiler::new("").compile(text, None, &[]);
            function
                .unwrap_or_else(|p| panic!("{text}: {p:?}"))
                .eval(&Scope::of(&record))
                .map_err(|e| e.to_string())
        };
        let loops = json!({ "l": vec![0; 60], "s": letters(1000), "o": { "a": letters(100) } });
        let refused = |text: &str, value: &Json, part: &str| {
            let error = with(text, value.clone()).expect_err(text);
            assert!(error.contains(part) && !error.contains('$'), "{text}: {error}");
        };
        // What keeps doubling in a loop.
        for body in [
            "s = s + s",
            "s = s * 2",
            "s = replace(s, \"a\", \"aa\")",
            "s = join([s, s])",
            "s = encode_base16(s)",
        ] {
            let text = format!("s = string!(.s)\nfor_each(array!(.l)) -> |_i, _v| {{ {body} }}\ns");
            refused(&text, &loops, " bytes");
        }
        for body in ["x = [x, x]", "x = append(array!(x), array!(x))", ". = {\"l\": ., \"r\": .}"] {
            let text = format!("x = array!(.l)\nfor_each(array!(.l)) -> |_i, _v| {{ {body} }}\n1");
            refused(&text, &loops, "weighs more");
        }
        // What is large in one step.
        let long = json!({ "s": letters(100_000), "w": letters(5_000) });
        refused("replace(.s, \"a\", .w)", &long, "with its replacements");
        refused("replace(.s, r'a', .w)", &long, "with its replacements");
        refused("replace(.s, r'(?P<all>.+)', \"$all\" * 200)", &long, "with its replacements");
        refused("join([.s, .s, .s], .w)", &long, "a text of 5000 bytes is more than 1024");
        refused("sieve(string!(.s), r'b', .w)", &long, "a text of 5000 bytes is more than 1024");
        // What decompresses to something large.
        for kind in ["gzip", "zlib", "zstd", "snappy", "lz4"] {
            let unpack = format!("length(decode_{kind}(decode_base64(string!(.))))");
            assert_eq!(with(&unpack, packed(kind, 900_000)), Ok(json!(900_000)), "{kind}");
            refused(&unpack, &packed(kind, RESULT_MAX + 1), "unpacked it is more than 16777216 bytes");
        }
        let block = json!(BASE64.encode(lz4_flex::compress_prepend_size(b"aaaa")));
        let prepended = "decode_lz4(decode_base64(string!(.)), prepended_size: true)";
        assert_eq!(with(prepended, block), Ok(json!("aaaa")));
    }

    /// This many letters, compressed, as base64.
    fn packed(kind: &str, letters: usize) -> Json {
        let text = vec![b'a'; letters];
        let level = flate2::Compression::fast();
        let mut out = Vec::new();
        let packed = match kind {
            "gzip" => flate2::read::GzEncoder::new(&*text, level).read_to_end(&mut out),
            "zlib" => flate2::read::ZlibEncoder::new(&*text, level).read_to_end(&mut out),
            "zstd" => zstd::stream::copy_encode(&*text, &mut out, 1).map(|()| 0),
            "snappy" => {
                out = snap::raw::Encoder::new().compress_vec(&text).unwrap();
                Ok(0)
            }
            _ => {
                let mut frame = lz4_flex::frame::FrameEncoder::new(&mut out);
                frame.write_all(&text).unwrap();
                frame.finish().unwrap();
                Ok(0)
            }
        };
        packed.unwrap();
        json!(BASE64.encode(out))
    }

    #[test]
    fn a_whole_number_never_becomes_another_one() {
        let most = i64::MAX;
        let refused = |text: &str, n: i64| {
            let error = run(text, n, 0.0).1.expect_err(text);
            assert!(error.contains("no whole number of 64 bits") && !error.contains('$'), "{text}: {error}");
        };
        refused(".n + 1", most);
        refused("1 + .n", most);
        refused(".n - 1", i64::MIN);
        refused(".n * 2", most);
        refused("9223372036854775807 + 1", 0);
        refused("int!(.n) + 1", most);
        assert_eq!(run(".n + 1 ?? 0", most, 0.0).1, Ok(json!(0)));
        assert_eq!(run(".n - 1", -most, 0.0).1, Ok(json!(i64::MIN)));
        assert_eq!(run(".n + 0.5", most, 0.0).1, Ok(json!(9.223_372_036_854_776e18)));
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
