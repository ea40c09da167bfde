//! Protobuf: schemas, and messages as JSON. The one home of `prost_reflect` and `protox_parse`.
//!
//! JSON is Protobuf's own JSON mapping (well-known types: timestamps and durations as text, wrappers as their value,
//! `Struct` as an object) with two differences that fit records better: fields keep the names of the `.proto` file, and
//! 64-bit integers are numbers. Fields with their default value are written out. Unknown fields of a JSON value are
//! refused; unknown fields of a message are left out.

use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, Kind, SerializeOptions};

/// A message's type.
pub(super) use prost_reflect::MessageDescriptor;

use crate::model::Json;
use crate::model::number::{double, float, read_json, whole};

/// The file name given to a schema that came as text.
const MAIN: &str = "schema.proto";
/// The path of the files that every Protobuf compiler brings along.
const WELL_KNOWN: &str = "google/protobuf/";

/// A `.proto` file with what it imports.
pub struct ProtoSchema {
    file: prost_reflect::FileDescriptor,
}

impl ProtoSchema {
    /// Compiles a file together with those that it imports (given by the names it imports them under, in any order).
    /// Google's well-known files are included.
    ///
    /// # Errors
    /// The text is not Protobuf, or it imports a file that is not given.
    pub fn parse(text: &str, references: &[(String, String)]) -> Result<ProtoSchema, String> {
        let mut pool = DescriptorPool::global();
        let mut open: Vec<&(String, String)> = Vec::new();
        add(MAIN, text, references, &mut pool, &mut open)?;
        let file = pool.get_file_by_name(MAIN).ok_or("the schema has no file")?;
        if file.messages().len() == 0 {
            return Err("the schema has no message".into());
        }
        Ok(ProtoSchema { file })
    }

    /// The message at an index path: `[1, 0]` is the first message inside the second one.
    ///
    /// # Errors
    /// There is no such message.
    pub fn message_at(&self, path: &[usize]) -> Result<MessageDescriptor, String> {
        let missing = || format!("the schema has no message at index {path:?}");
        let (first, rest) = path.split_first().ok_or_else(missing)?;
        let mut message = self.file.messages().nth(*first).ok_or_else(missing)?;
        for at in rest {
            let child = children(&message).nth(*at).ok_or_else(missing)?;
            message = child;
        }
        Ok(message)
    }

    /// The message with that name (full, or without the package), or the first one; and its index path.
    ///
    /// # Errors
    /// There is no such message.
    pub fn message_named(&self, name: Option<&str>) -> Result<(MessageDescriptor, Vec<usize>), String> {
        let mut all: Vec<(MessageDescriptor, Vec<usize>)> = Vec::new();
        for (n, message) in self.file.messages().enumerate() {
            collect(message, vec![n], &mut all);
        }
        let package = self.file.package_name();
        let fits = |message: &MessageDescriptor, name: &str| {
            let full = message.full_name();
            full == name || full.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')) == Some(name)
        };
        let names: Vec<String> = all.iter().map(|(m, _)| m.full_name().to_owned()).collect();
        let found = match name {
            Some(name) => all.into_iter().find(|(message, _)| fits(message, name)),
            None => all.into_iter().next(),
        };
        found.ok_or_else(|| {
            format!("the schema has no message `{}`, but {}", name.unwrap_or_default(), names.join(", "))
        })
    }
}

/// Adds a file after everything that it imports.
fn add<'a>(
    name: &str,
    text: &str,
    references: &'a [(String, String)],
    pool: &mut DescriptorPool,
    open: &mut Vec<&'a (String, String)>,
) -> Result<(), String> {
    let file = protox_parse::parse(name, text).map_err(|e| describe(&e))?;
    for import in &file.dependency {
        if import.starts_with(WELL_KNOWN) || pool.get_file_by_name(import).is_some() {
            continue;
        }
        let Some(reference) = references.iter().find(|(name, _)| name == import) else {
            return Err(format!("`{import}` is imported, and the schema does not come with it"));
        };
        if open.iter().any(|other| std::ptr::eq(*other, reference)) {
            return Err(format!("`{import}` imports itself"));
        }
        open.push(reference);
        add(import, &reference.1, references, pool, open)?;
        open.pop();
    }
    pool.add_file_descriptor_proto(file).map_err(|e| e.to_string())
}

/// The parser's error with its causes.
fn describe(error: &protox_parse::ParseError) -> String {
    use std::error::Error as _;
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        out = format!("{out}: {inner}");
        cause = inner.source();
    }
    out
}

/// The nested messages of a message, counted as Confluent's Java serializer counts them: without those that stand for
/// the entries of a map.
fn children(message: &MessageDescriptor) -> impl Iterator<Item = MessageDescriptor> {
    message.child_messages().filter(|child| !child.is_map_entry())
}

fn collect(message: MessageDescriptor, path: Vec<usize>, all: &mut Vec<(MessageDescriptor, Vec<usize>)>) {
    let children: Vec<MessageDescriptor> = children(&message).collect();
    all.push((message, path.clone()));
    for (n, child) in children.into_iter().enumerate() {
        let path = path.iter().copied().chain([n]).collect();
        collect(child, path, all);
    }
}

/// Decodes a message to JSON.
///
/// # Errors
/// The bytes are not such a message, or it has a value that JSON cannot express.
pub(super) fn decode(message: &MessageDescriptor, bytes: &[u8]) -> Result<Json, String> {
    let decoded = DynamicMessage::decode(message.clone(), bytes)
        .map_err(|e| format!("no Protobuf message {}: {e}", message.full_name()))?;
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(false)
        .use_proto_field_name(true)
        .skip_default_fields(false);
    // As text first: there a float is its shortest decimal, as the mapping wants it, and as a value the double that it is.
    let mut text = Vec::new();
    decoded
        .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)
        .map_err(|e| e.to_string())?;
    let mut json = read_json(&text).map_err(|e| e.0)?;
    sort_maps(message, &mut json);
    Ok(json)
}

/// Sorts the fields that stand for maps, which have no order: the JSON should be the same each time.
fn sort_maps(message: &MessageDescriptor, json: &mut Json) {
    let Json::Object(fields) = json else { return };
    for (name, json) in fields {
        let Some(field) = message.get_field_by_name(name) else { continue };
        let Kind::Message(inner) = field.kind() else { continue };
        match json {
            Json::Object(entries) if inner.is_map_entry() => {
                entries.sort_keys();
                if let Kind::Message(of) = inner.map_entry_value_field().kind() {
                    entries.values_mut().for_each(|json| sort_maps(&of, json));
                }
            }
            Json::Array(items) => items.iter_mut().for_each(|json| sort_maps(&inner, json)),
            json => sort_maps(&inner, json),
        }
    }
}

/// Whether there is a number whose nearest float is the greatest one, and which is beyond that: its shortest decimal
/// (3.4028235e38) is, and the library would refuse it.
fn has_greatest(json: &Json) -> bool {
    match json {
        Json::Number(n) => n.as_f64().is_some_and(|n| n.abs() > f64::from(f32::MAX)) && float(json).is_some(),
        Json::Array(items) => items.iter().any(has_greatest),
        Json::Object(fields) => fields.values().any(has_greatest),
        Json::Null | Json::Bool(_) | Json::String(_) => false,
    }
}

/// Makes such numbers in fields of floats exactly the greatest float.
fn lower(message: &MessageDescriptor, json: &mut Json) {
    fn one(kind: &Kind, json: &mut Json) {
        match (kind, json) {
            (Kind::Float, json @ Json::Number(_)) => {
                if let Some(float) = float(json) {
                    *json = Json::from(f64::from(float));
                }
            }
            (kind, Json::Array(items)) => items.iter_mut().for_each(|json| one(kind, json)),
            (Kind::Message(of), json) => lower(of, json),
            _ => {}
        }
    }
    if message.full_name() == "google.protobuf.FloatValue" {
        return one(&Kind::Float, json);
    }
    let Json::Object(fields) = json else { return };
    for (name, json) in fields {
        let field = message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name));
        match (field.map(|field| field.kind()), json) {
            (Some(Kind::Message(entry)), Json::Object(entries)) if entry.is_map_entry() => {
                let kind = entry.map_entry_value_field().kind();
                entries.values_mut().for_each(|json| one(&kind, json));
            }
            (Some(kind), json) => one(&kind, json),
            (None, _) => {}
        }
    }
}

/// Refuses numbers that the library would round, or take for the nearest one that fits: beyond a whole number's bits,
/// beyond the greatest float, whole numbers that no double is.
fn check_numbers(message: &MessageDescriptor, json: &Json) -> Result<(), String> {
    match (message.full_name(), json) {
        ("google.protobuf.Value" | "google.protobuf.Struct" | "google.protobuf.ListValue", json) => {
            check_number(&Kind::Double, json)
        }
        // The wrappers: their JSON is their value's.
        (name, json) if name.starts_with("google.protobuf.") && !json.is_object() => {
            message.get_field_by_name("value").map_or(Ok(()), |field| check_number(&field.kind(), json))
        }
        (_, Json::Object(fields)) => fields.iter().try_for_each(|(name, json)| {
            let field = message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name));
            let Some(field) = field else { return Ok(()) };
            let kind = match field.kind() {
                Kind::Message(entry) if entry.is_map_entry() => entry.map_entry_value_field().kind(),
                kind => kind,
            };
            let inner: Vec<&Json> = match json {
                Json::Array(items) if field.is_list() => items.iter().collect(),
                Json::Object(entries) if field.is_map() => entries.values().collect(),
                json => vec![json],
            };
            let check = |json: &&Json| match &kind {
                Kind::Message(of) => check_numbers(of, json),
                kind => check_number(kind, json),
            };
            inner.iter().try_for_each(check).map_err(|e| format!("`{name}`: {e}"))
        }),
        _ => Ok(()),
    }
}

fn check_number(kind: &Kind, json: &Json) -> Result<(), String> {
    let named = |text: &str| matches!(text, "Infinity" | "-Infinity" | "NaN");
    let fits = match (kind, json) {
        // Numbers of `Value` and `Struct`, wherever they stand.
        (Kind::Double, Json::Array(items)) => {
            return items.iter().try_for_each(|json| check_number(kind, json));
        }
        (Kind::Double, Json::Object(fields)) => {
            return fields.values().try_for_each(|json| check_number(kind, json));
        }
        (Kind::Double, Json::Number(_)) => double(json).is_some(),
        (Kind::Float, Json::Number(_)) => float(json).is_some(),
        (Kind::Float, Json::String(text)) => named(text) || text.parse().map_or(true, f32::is_finite),
        (Kind::Double, Json::String(text)) => named(text) || text.parse().map_or(true, f64::is_finite),
        (Kind::Uint64 | Kind::Fixed64, Json::Number(n)) => n.is_u64() || whole(json).is_some(),
        (Kind::Int64 | Kind::Sint64 | Kind::Sfixed64, Json::Number(_)) => whole(json).is_some(),
        _ => true,
    };
    if fits { Ok(()) } else { Err(format!("{json} does not fit, and is not rounded")) }
}

/// Encodes a JSON value as a message, appending to `out`.
///
/// # Errors
/// The value does not fit.
pub(super) fn encode(message: &MessageDescriptor, json: &Json, out: &mut Vec<u8>) -> Result<(), String> {
    use prost_reflect::prost::Message as _;
    check_numbers(message, json)?;
    let own;
    let json = if has_greatest(json) {
        let mut lowered = json.clone();
        lower(message, &mut lowered);
        own = lowered;
        &own
    } else {
        json
    };
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let value = DynamicMessage::deserialize_with_options(message.clone(), json, &options)
        .map_err(|e| format!("no message {}: {e}", message.full_name()))?;
    value.encode(out).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = r#"
        syntax = "proto3";
        package shop;
        import "google/protobuf/timestamp.proto";
        import "google/protobuf/wrappers.proto";
        import "common/money.proto";
        message Ping { string id = 1; }
        message Order {
          int64 id = 1;
          string customer_name = 2;
          google.protobuf.Timestamp at = 3;
          repeated Line lines = 4;
          map<string, int32> tags = 5;
          Status status = 6;
          google.protobuf.StringValue note = 7;
          common.Money price = 8;
          bytes raw = 9;
          oneof how { string card = 10; bool cash = 11; }
          message Line { string sku = 1; uint64 n = 2; }
        }
        enum Status { UNKNOWN = 0; PAID = 1; }
    "#;

    fn schema() -> ProtoSchema {
        let money = "syntax = \"proto3\"; package common; message Money { int64 cents = 1; }";
        ProtoSchema::parse(TEXT, &[("common/money.proto".into(), money.into())]).expect("is Protobuf")
    }

    #[test]
    fn a_message_is_its_json() {
        let (order, path) = schema().message_named(Some("shop.Order")).expect("is there");
        assert_eq!(path, [1]);
        let json = json!({
            "id": 9_007_199_254_740_993_i64, "customer_name": "Ann", "at": "2024-01-02T03:04:05.500Z",
            "lines": [{"sku": "a", "n": 2}], "tags": {"x": 1}, "status": "PAID", "note": "n", "price": {"cents": 5},
            "raw": "AP8=", "cash": true
        });
        let mut bytes = Vec::new();
        encode(&order, &json, &mut bytes).expect("fits");
        assert_eq!(decode(&order, &bytes), Ok(json));
        let plain = decode(&order, &[8, 1]).expect("is a message");
        assert_eq!(
            (&plain["id"], &plain["customer_name"], &plain["lines"]),
            (&json!(1), &json!(""), &json!([]))
        );
        assert_eq!(plain["status"], json!("UNKNOWN"));
        assert!(plain.get("cash").is_none() && plain.get("card").is_none());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (order, _) = schema().message_named(Some("Order")).expect("is there");
        let refused = |json: Json, part: &str| {
            let error = encode(&order, &json, &mut Vec::new()).expect_err("does not fit");
            assert!(error.contains(part), "{error}");
        };
        refused(json!({"id": "x"}), "id");
        refused(json!({"nope": 1}), "nope");
        refused(json!({"status": "LOST"}), "LOST");
        refused(json!([1]), "message shop.Order");
        assert!(decode(&order, &[8]).is_err_and(|e| e.contains("shop.Order")));
    }

    const NUMBERS: &str = r#"
        syntax = "proto3";
        import "google/protobuf/wrappers.proto";
        import "google/protobuf/struct.proto";
        message N {
          float f = 1; double d = 2; int64 i = 3; uint64 u = 4; int32 s = 5; repeated float fs = 6; map<string, float> m = 7;
          google.protobuf.FloatValue fw = 8; google.protobuf.Int64Value iw = 9; google.protobuf.Struct any = 10;
          map<string, N> inner = 11;
        }
    "#;

    #[test]
    fn a_number_is_what_was_written() {
        let schema = ProtoSchema::parse(NUMBERS, &[]).expect("is Protobuf");
        let (message, _) = schema.message_named(None).expect("is there");
        let round = |json: Json| {
            let mut bytes = Vec::new();
            encode(&message, &json, &mut bytes).unwrap_or_else(|e| panic!("{json}: {e}"));
            let decoded = decode(&message, &bytes).expect("is a message");
            for (name, value) in json.as_object().expect("an object") {
                if name != "inner" {
                    assert_eq!(&decoded[name], value, "{name}");
                }
            }
            decoded
        };
        let decoded = round(json!({
            "f": 0.1, "d": 0.1, "i": i64::MIN, "u": u64::MAX, "s": -5, "fs": [0.1, 3.4028235e38], "m": {"b": 0.2, "a": 1e-7},
            "fw": 0.3, "iw": 7, "any": {"x": [1.5, 5e-324]}, "inner": {"k": {"f": 0.7}}
        }));
        assert_eq!(decoded["m"].to_string(), r#"{"a":1e-7,"b":0.2}"#, "in order");
        assert_eq!(decoded["inner"]["k"]["f"], json!(0.7));
        round(json!({"i": 5, "u": 5, "d": 5.0, "f": 16_777_216.0}));
        let refused = |json: Json| {
            let result = encode(&message, &json, &mut Vec::new());
            assert!(result.is_err(), "{json}");
        };
        for whole in [json!(9.223_372_036_854_776e18), json!(1e30), json!(-1e30), json!(1.5), json!(u64::MAX)]
        {
            refused(json!({ "i": whole }));
            refused(json!({ "iw": whole }));
        }
        for whole in [json!(1.8446744073709552e19), json!(-1), json!(1e30)] {
            refused(json!({ "u": whole }));
        }
        refused(json!({"s": 2147483648_i64}));
        for float in [json!(1e39), json!("1e39"), json!(16_777_217)] {
            refused(json!({ "f": float }));
            refused(json!({ "fs": [float] }));
            refused(json!({ "m": {"a": float} }));
            refused(json!({ "inner": {"a": {"f": float}} }));
        }
        refused(json!({"d": 9_007_199_254_740_993_i64}));
        refused(json!({"d": "1e400"}));
        refused(json!({"any": {"x": 9_007_199_254_740_993_i64}}));
        round(json!({"f": "Infinity", "d": "NaN"}));
    }

    #[test]
    fn messages_are_found_by_index_and_by_name() {
        let schema = schema();
        let at = |path: &[usize]| schema.message_at(path).map(|m| m.full_name().to_owned());
        assert_eq!(at(&[0]), Ok("shop.Ping".into()));
        assert_eq!(at(&[1, 0]), Ok("shop.Order.Line".into()));
        assert!(at(&[7]).is_err() && at(&[]).is_err());
        assert_eq!(schema.message_named(Some("Order.Line")).map(|(_, path)| path), Ok(vec![1, 0]));
        assert_eq!(schema.message_named(None).map(|(_, path)| path), Ok(vec![0]));
        assert!(schema.message_named(Some("Nope")).is_err_and(|e| e.contains("but shop.Ping, shop.Order")));
    }

    #[test]
    fn a_wrong_schema_says_why() {
        let wrong = |text: &str, part: &str| match ProtoSchema::parse(text, &[]) {
            Ok(_) => panic!("{text} is a schema"),
            Err(error) => assert!(error.contains(part), "{error}"),
        };
        wrong("syntax = \"proto3\"; message A { strin x = 1; }", "strin");
        wrong("message {", "expected");
        wrong("syntax = \"proto3\"; import \"a.proto\"; message A {}", "`a.proto` is imported");
        wrong("syntax = \"proto3\"; enum E { A = 0; }", "no message");
    }
}
