//! Shapes: what a topology declares about the JSON of a source's values, so that types are known before the first
//! record.
//!
//! `schema: { id: integer, name: string?, tags: [string], address: { city: string }, "*": any }`. A value may have more
//! fields than its shape names, but expressions may use those only if the shape says `"*": any`. For an array or object
//! that may be missing, the `?` is behind the name: `address?: { city: string }`. Used by `topology/` (a source's
//! `schema`), `formats/` (from an Avro schema), `expressions/` (types) and `runtime/` (checking records).

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::problem::Refused;
use super::value::Json;
use super::words::meant;

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Anything.
    Any,
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// Text.
    String,
    /// Text that is not empty.
    Text,
    /// Text that is an RFC 3339 time.
    Timestamp,
    /// An array; one shape for all elements.
    Array(Box<Field>),
    /// An object.
    Object {
        /// Its fields, in the order of the file.
        fields: Vec<(String, Field)>,
        /// What other fields are (`"*"`). Without it expressions must not use them.
        rest: Option<Box<Field>>,
    },
}

/// A shape, and whether the value may be null or missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// What it is.
    pub shape: Shape,
    /// `?`: may be null or missing.
    pub optional: bool,
}

/// The names of the simple shapes.
pub const SHAPES: [&str; 9] =
    ["any", "boolean", "integer", "number", "string", "text", "timestamp", "object", "array"];

impl Shape {
    /// The first thing in the value that does not fit: where and what.
    ///
    /// # Errors
    /// For people: ``the field `lines[0].n` is "x", no integer``.
    pub fn check(&self, json: &Json) -> Result<(), String> {
        self.misfit(json).map_or(Ok(()), |(path, what)| {
            let place = if path.is_empty() { "the value".into() } else { format!("the field `{path}`") };
            Err(format!("{place} {what}"))
        })
    }

    /// The first thing in the value that does not fit: the path of the field (empty for the value itself), and what is
    /// wrong with it (`is missing`).
    #[must_use]
    pub fn misfit(&self, json: &Json) -> Option<(String, String)> {
        let mut path = String::new();
        self.find(json, &mut path).map(|what| (path, what))
    }

    /// Describes what is wrong; `path` then says where.
    fn find(&self, json: &Json, path: &mut String) -> Option<String> {
        let fits = match (self, json) {
            (Shape::Any, _)
            | (Shape::Boolean, Json::Bool(_))
            | (Shape::Number, Json::Number(_))
            | (Shape::String, Json::String(_)) => true,
            (Shape::Text, Json::String(text)) => !text.is_empty(),
            (Shape::Integer, Json::Number(n)) => n.is_i64() || n.is_u64(),
            (Shape::Timestamp, Json::String(text)) => {
                time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_ok()
            }
            (Shape::Array(item), Json::Array(items)) => {
                for (n, json) in items.iter().enumerate() {
                    let before = path.len();
                    path.push_str(&format!("[{n}]"));
                    if let Some(what) = item.find(Some(json), path) {
                        return Some(what);
                    }
                    path.truncate(before);
                }
                true
            }
            (Shape::Object { fields, rest }, Json::Object(given)) => {
                let known = fields.iter().map(|(name, field)| (name, field, given.get(name)));
                let others = rest.iter().flat_map(|rest| {
                    let named = |name: &String| fields.iter().any(|(n, _)| n == name);
                    given.iter().filter(move |(n, _)| !named(n)).map(|(n, json)| (n, &**rest, Some(json)))
                });
                for (name, field, json) in known.chain(others) {
                    let before = path.len();
                    path.push_str(if before > 0 { "." } else { "" });
                    path.push_str(name);
                    if let Some(what) = field.find(json, path) {
                        return Some(what);
                    }
                    path.truncate(before);
                }
                true
            }
            _ => false,
        };
        (!fits).then(|| {
            let mut shown = json.to_string();
            if shown.len() > 60 {
                shown = shown.chars().take(60).collect::<String>() + "...";
            }
            format!("is {shown}, no {}", self.noun())
        })
    }

    fn noun(&self) -> &'static str {
        match self {
            Shape::Any => "value",
            Shape::Boolean => "boolean",
            Shape::Integer => "integer",
            Shape::Number => "number",
            Shape::String => "string",
            Shape::Text => "string with anything in it",
            Shape::Timestamp => "RFC 3339 timestamp",
            Shape::Array(_) => "array",
            Shape::Object { .. } => "object",
        }
    }

    fn named(name: &str) -> Option<Shape> {
        let any = || Box::new(Field { shape: Shape::Any, optional: true });
        Some(match name {
            "any" => Shape::Any,
            "boolean" => Shape::Boolean,
            "integer" => Shape::Integer,
            "number" => Shape::Number,
            "string" => Shape::String,
            "text" => Shape::Text,
            "timestamp" => Shape::Timestamp,
            "array" => Shape::Array(any()),
            "object" => Shape::Object { fields: Vec::new(), rest: Some(any()) },
            _ => return None,
        })
    }
}

impl Field {
    fn find(&self, json: Option<&Json>, path: &mut String) -> Option<String> {
        match json {
            None | Some(Json::Null) if self.optional || self.shape == Shape::Any => None,
            None => Some("is missing".into()),
            Some(json) => self.shape.find(json, path),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.shape, if self.optional { "?" } else { "" })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Any => f.write_str("any"),
            Shape::Timestamp => f.write_str("timestamp"),
            Shape::Text => f.write_str("text"),
            Shape::Boolean | Shape::Integer | Shape::Number | Shape::String => f.write_str(self.noun()),
            Shape::Array(item) => write!(f, "[{item}]"),
            Shape::Object { fields, rest } => {
                let rest = rest.iter().map(|field| ("*", &**field));
                let all = fields.iter().map(|(name, field)| (name.as_str(), field)).chain(rest);
                let all: Vec<String> = all.map(|(name, field)| format!("{name}: {field}")).collect();
                write!(f, "{{ {} }}", all.join(", "))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Field;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a type: `string`, `integer?`, `[string]` or `{ field: type }`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Field, E> {
                let (name, optional) = match text.strip_suffix('?') {
                    Some(name) => (name.trim_end(), true),
                    None => (text, false),
                };
                let shape = Shape::named(name).ok_or_else(|| {
                    let help = meant(name, &SHAPES).unwrap_or_else(|| {
                        format!("there are {}; `?` behind one allows null", SHAPES.join(", "))
                    });
                    E::custom(Refused::new(format!("`{text}` is no type"), help))
                })?;
                Ok(Field { shape, optional })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field, A::Error> {
                let item: Option<Field> = seq.next_element()?;
                let more: Option<Field> = seq.next_element()?;
                match (item, more) {
                    (Some(item), None) => Ok(Field { shape: Shape::Array(Box::new(item)), optional: false }),
                    _ => Err(de::Error::custom(Refused::new(
                        "an array has one type of elements",
                        "write `[string]`",
                    ))),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
                let (mut fields, mut rest) = (Vec::new(), None);
                while let Some((name, mut field)) = map.next_entry::<String, Field>()? {
                    if name == "*" {
                        rest = Some(Box::new(field));
                        continue;
                    }
                    let bare = name.strip_suffix('?').unwrap_or(&name).to_owned();
                    field.optional |= bare != name;
                    if bare.is_empty() {
                        return Err(de::Error::custom(Refused::new(
                            "a field has no name",
                            "write `name: string`",
                        )));
                    }
                    if fields.iter().any(|(other, _): &(String, Field)| *other == bare) {
                        let message = format!("`{bare}` stands here twice");
                        let help = format!("write `{bare}?` or `{bare}`, not both");
                        return Err(de::Error::custom(Refused::new(message, help)));
                    }
                    fields.push((bare, field));
                }
                Ok(Field { shape: Shape::Object { fields, rest }, optional: false })
            }
        }
        d.deserialize_any(Fields)
    }
}

impl JsonSchema for Field {
    fn schema_name() -> Cow<'static, str> {
        "Shape".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let of = generator.subschema_for::<Field>();
        let names: Vec<String> =
            SHAPES.iter().flat_map(|name| [(*name).to_owned(), format!("{name}?")]).collect();
        json_schema!({
            "description": "A type: its name (`?` behind it allows null or no field), `[type]`, or an object of types; \
                `\"*\"` stands for all other fields.",
            "anyOf": [
                { "enum": names },
                { "type": "array", "items": of, "minItems": 1, "maxItems": 1 },
                { "type": "object", "additionalProperties": of }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shape(json: Json) -> Shape {
        serde_json::from_value::<Field>(json).expect("is a shape").shape
    }

    fn order() -> Shape {
        shape(
            json!({"id": "integer", "note": "string?", "at": "timestamp", "lines": [{"sku": "string", "price": "number"}],
                     "more": {"*": "boolean"}, "user.name": "any"}),
        )
    }

    fn refused(json: Json, what: &str) {
        assert_eq!(order().check(&json), Err(what.to_owned()));
    }

    #[test]
    fn a_value_that_does_not_fit_is_named_by_its_field() {
        let good = json!({"id": 1, "at": "2024-01-02T03:04:05Z", "lines": [{"sku": "a", "price": 2}], "more": {"x": true},
                          "other": 1});
        assert_eq!(order().check(&good), Ok(()));
        let with = |name: &str, value: Json| {
            let mut json = good.clone();
            json[name] = value;
            json
        };
        refused(with("id", json!("x")), "the field `id` is \"x\", no integer");
        refused(with("id", json!(1.5)), "the field `id` is 1.5, no integer");
        refused(with("id", Json::Null), "the field `id` is null, no integer");
        refused(with("at", json!("today")), "the field `at` is \"today\", no RFC 3339 timestamp");
        refused(with("note", json!(3)), "the field `note` is 3, no string");
        refused(with("lines", json!([{"sku": "a"}])), "the field `lines[0].price` is missing");
        refused(with("lines", json!({})), "the field `lines` is {}, no array");
        refused(with("more", json!({"x": 1})), "the field `more.x` is 1, no boolean");
        refused(json!([]), "the value is [], no object");
        assert_eq!(order().check(&with("note", Json::Null)), Ok(()));
    }

    #[test]
    fn text_is_not_empty() {
        let shape = shape(json!({"title": "text", "note": "text?"}));
        assert_eq!(shape.misfit(&json!({"title": "a"})), None);
        let wrong = |json: Json, field: &str, what: &str| {
            assert_eq!(shape.misfit(&json), Some((field.to_owned(), what.to_owned())));
        };
        wrong(json!({"title": ""}), "title", "is \"\", no string with anything in it");
        wrong(json!({"title": 1}), "title", "is 1, no string with anything in it");
        wrong(json!({"title": "a", "note": ""}), "note", "is \"\", no string with anything in it");
        wrong(json!({}), "title", "is missing");
        assert_eq!(shape.to_string(), "{ title: text, note: text? }");
    }

    #[test]
    fn a_question_mark_behind_a_name_is_for_arrays_and_objects() {
        let shape = shape(json!({"address?": {"city": "string"}}));
        assert_eq!(shape.check(&json!({})), Ok(()));
        assert_eq!(shape.check(&json!({"address": null})), Ok(()));
        assert_eq!(shape.check(&json!({"address": {}})), Err("the field `address.city` is missing".into()));
    }

    #[test]
    fn a_shape_is_written_as_it_is_read() {
        let text = "{ id: integer, note: string?, at: timestamp, lines: [{ sku: string, price: number }], \
                    more: { *: boolean }, user.name: any }";
        assert_eq!(order().to_string(), text);
        let bad = |json: Json, part: &str| {
            let error = serde_json::from_value::<Field>(json).expect_err("is no shape").to_string();
            assert!(error.contains(part), "{error}");
        };
        bad(json!({"id": "interger"}), "did you mean `integer`");
        bad(json!({"id": "uuid"}), "there are any, boolean");
        bad(json!({"tags": []}), "one type of elements");
        bad(json!({"id": 5}), "a type");
    }
}
