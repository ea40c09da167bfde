//! Protobuf: schemas, and messages as JSON. The one home of `prost_reflect` and `protox_parse`.
//!
//! JSON is Protobuf's own JSON mapping (well-known types: timestamps and durations as text, wrappers as their value,
//! `Struct` as an object) with two differences that fit records better: fields keep the names of the `.proto` file, and
//! 64-bit integers are numbers. Fields with their default value are written out. Unknown fields of a JSON value are
//! refused; unknown fields of a message are left out.

use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};

/// A message's type.
pub(super) use prost_reflect::MessageDescriptor;

use crate::model::Json;

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
    decoded.serialize_with_options(serde_json::value::Serializer, &options).map_err(|e| e.to_string())
}

/// Encodes a JSON value as a message, appending to `out`.
///
/// # Errors
/// The value does not fit.
pub(super) fn encode(message: &MessageDescriptor, json: &Json, out: &mut Vec<u8>) -> Result<(), String> {
    use prost_reflect::prost::Message as _;
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
